"""The site after the whole demo, and Snakemake's own report."""

from __future__ import annotations

import json
import re
import zipfile
from pathlib import Path

import pytest

from lska.tables.specs import TARGETS

pytestmark = [pytest.mark.workflow, pytest.mark.timeout(1800)]


def folder(project) -> Path:
    return project.root / "results" / "demo"


def test_the_demo_ends_with_a_complete_site(demo):
    listed = json.loads((folder(demo) / "report.json").read_text())["files"]
    site = folder(demo) / "report"
    assert {path.relative_to(site).as_posix() for path in site.rglob("*") if path.is_file()} == set(listed)
    pages = {name for name in listed if name.endswith(".html") and "/" not in name}
    assert {f"{name}.html" for name in TARGETS} | {f"notebook_{name}.html" for name in TARGETS} < pages
    for name in pages:
        text = (site / name).read_text()
        assert "Not made yet" not in text and "No verdicts yet" not in text, name
        assert not re.search(r"""(src|href)=["'](https?:)?//(?!arxiv\.org/)""", text), name
        assert str(demo.root) not in text, name
    said = demo.run("lska", "summary").stdout
    assert said.endswith("Report: results/demo/report/index.html\n")


def test_a_removed_site_is_built_again_and_nothing_else_runs(demo):
    site = folder(demo) / "report"
    site.rename(site.with_name("away"))
    try:
        assert demo.planned("report") == {"report": 1}
    finally:
        site.with_name("away").rename(site)
    assert demo.planned("report") == {}


def test_snakemakes_own_report_shows_tables_and_figures_with_captions(demo, tmp_path):
    made = tmp_path / "own.zip"
    demo.snakemake("--report", str(made), "--", "report")
    with zipfile.ZipFile(made) as archive:
        page = archive.read("own/report.html").decode()
        names = {Path(name).name for name in archive.namelist()}
    assert {f"{name}.html" if name.startswith("table") else f"{name}.svg" for name in TARGETS} <= names
    assert "every cell has a state" in page and "Scale and data: demo scale" in page
    assert "Table III" in page and "rebuilt from images to tables" in page
