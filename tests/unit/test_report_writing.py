"""A site takes the place of the former one when it is complete, and never before."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from report_helpers import contents, fill, folder_of, put_claims, put_notebook

from lska import files, report
from lska.config import Config
from lska.files import is_temporary
from lska.provenance import file_md5
from lska.report import site as site_module
from lska.runs import Run


def test_a_damaged_metric_file_is_named_and_the_former_site_stays(bare: Config) -> None:
    fill(bare)
    report.build(bare)
    before = contents(folder_of(bare))
    path = bare.metric_path("classification", Run("van_tiny", "lska", 23, 0))
    path.write_text("{")
    with pytest.raises(ValueError, match=re.escape(str(path))):
        report.build(bare)
    assert contents(folder_of(bare)) == before


def test_a_failing_build_leaves_the_former_site_and_nothing_else(
    bare: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    report.build(bare)
    before, listed = contents(bare.results), report.inventory_path(bare.results).read_text()
    put_claims(bare)
    before["claims/claims.json"] = file_md5(bare.results / "claims" / "claims.json")
    monkeypatch.setattr(site_module, "downloads", lambda results: {Path("absent"): "files/absent"})
    with pytest.raises(FileNotFoundError):
        report.build(bare)
    assert contents(bare.results) == before
    assert report.inventory_path(bare.results).read_text() == listed
    assert [path.name for path in bare.results.iterdir() if path.name.startswith(".")] == []


def test_a_killed_build_leaves_the_former_site_and_its_rest_is_cleared_away(
    bare: Config, child: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    report.build(bare)
    before = contents(folder_of(bare))
    put_claims(bare)

    def build_and_die() -> int:
        site_module.shutil.copytree = lambda *arguments: os.kill(os.getpid(), signal.SIGKILL)
        report.build(bare)
        return 0

    assert child(build_and_die) == -signal.SIGKILL
    assert contents(folder_of(bare)) == before
    (left,) = filter(is_temporary, bare.results.iterdir())
    # A process looks for what was left behind once.
    files._sweep.cache_clear()
    report.build(bare)
    assert not left.exists()


def test_what_a_former_site_had_is_gone_from_the_next(bare: Config) -> None:
    put_notebook(bare, "table_03")
    from lska.report.notebooks import render_all

    render_all(bare)
    report.build(bare)
    assert (folder_of(bare) / "notebook_table_03.html").exists()
    report.rendered_notebook(bare.results, "table_03").unlink()
    report.build(bare)
    assert not (folder_of(bare) / "notebook_table_03.html").exists()


def test_snakemake_owns_the_page_to_open_only_until_it_is_there(bare: Config) -> None:
    listed, index = Path("results/demo/report.json"), Path("results/demo/report/index.html")
    assert report.site_outputs(bare.results) == [listed, index]
    report.build(bare)
    assert report.site_outputs(bare.results) == [listed]


def test_the_summary_says_where_the_site_is(bare: Config) -> None:
    from lska.summary import summary

    assert "Report: results/demo/report/index.html  (not made yet: snakemake report)" in summary(bare)
    report.build(bare)
    assert summary(bare).endswith("Report: results/demo/report/index.html\n")
