"""The committed tables of the small scale are those that today's code makes of the committed metric files."""

from __future__ import annotations

from pathlib import Path

import pytest

from lska import config
from lska.tables.specs import TABLE_FORMATS, TARGETS, outputs
from lska.tables.table_formats import build_table

PROJECT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("target", TARGETS)
def test_committed_tables_are_current(target: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(PROJECT)
    scale = config.load([Path("config/small.yaml")])
    committed = [path for path in outputs(target, scale.results) if path.suffix in TABLE_FORMATS]
    build_table(target, scale, [tmp_path / path.name for path in committed])
    for path in committed:
        again = f"snakemake --configfile config/small.yaml --cores 2 -- {target}"
        assert path.read_text() == (tmp_path / path.name).read_text(), f"{path} is outdated: {again}"
