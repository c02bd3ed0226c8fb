"""The record of the demo's numbers: what it compares, and what it says."""

from __future__ import annotations

from pathlib import Path

import golden
import pytest

from lska.provenance.files import write_json
from lska.provenance.metric_files import project_root

MACHINE = {"hardware": "a", "torch": "2"}


def test_another_run_changes_nothing_that_lasts() -> None:
    once = {"seconds": 1.0, "seal": "a", "metrics": {"top1": {"value": 75.0}}, "attempts": [{"code": 1}]}
    again = {"seconds": 2.0, "seal": "b", "metrics": {"top1": {"value": 75.0}}, "attempts": []}
    assert golden.lasting(once) == golden.lasting(again) == {"metrics": {"top1": {"value": 75.0}}}
    assert golden.lasting([again, 1]) == [{"metrics": {"top1": {"value": 75.0}}}, 1]


def test_the_record_covers_every_kind_of_result() -> None:
    files = golden.read_json(project_root() / golden.RECORD)["files"]
    for kind in (
        "metrics/classification/",
        "metrics/detection/",
        "tables/table_03.md",
        "figures/figure_01.csv",
        "claims/",
    ):
        assert any(f"results/demo/{kind}" in path for path in files)
    assert "checkpoints/demo/van_tiny-lska-k23-s0.json" in files and len(files) > 500


def test_differences_are_named_and_another_processor_compares_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    count, trained = f"{golden.COUNTED}a.json", "results/demo/metrics/classification/a.json"
    write_json(golden.RECORD, {"machine": MACHINE, "files": {count: "1", trained: "2", "gone": "3"}})
    assert golden.check(MACHINE, {count: "1", trained: "2", "gone": "3"}) == 0
    assert golden.check(MACHINE, {count: "1", trained: "4", "more": "5"}) == 1
    said = capsys.readouterr().out
    assert f"missing: gone\nnew: more\ndiffers: {trained}\n3 of 3 files differ. Where that is meant" in said
    assert golden.check({**MACHINE, "hardware": "b"}, {count: "1", trained: "4"}) == 0
    assert golden.check({**MACHINE, "hardware": "b"}, {count: "6"}) == 1
