"""The rule that makes what DVC compares: it follows the metric files and asks for no training."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from whole_project import PROJECT, Project

pytestmark = pytest.mark.workflow

RUN = "van_tiny-lska-k23-s0"
SMALL = ("--configfile", "config/small.yaml", "--", "summaries")


@pytest.fixture
def small(project: Project) -> Project:
    """A copy with the results and weights of the small scale that this checkout has."""
    for name in ("results", "checkpoints"):
        source, ignored = PROJECT / name / "small", shutil.ignore_patterns("notebooks", "report")
        shutil.copytree(source, project.root / name / "small", ignore=ignored)
    return project


def test_a_younger_metric_file_has_the_summaries_made_and_nothing_else(small: Project) -> None:
    results = small.root / "results" / "small"
    assert set(small.planned(*SMALL)) <= {"summaries"}
    before = {path: path.read_bytes() for path in results.rglob("*") if path.is_file()}
    (results / "metrics" / "texture_knn" / f"{RUN}.json").touch()
    assert small.planned(*SMALL) == {"summaries": 1}
    small.snakemake(*SMALL)
    assert {path: path.read_bytes() for path in results.rglob("*") if path.is_file()} == before
    assert small.planned(*SMALL) == {}


def test_a_summary_follows_its_metric_file(small: Project) -> None:
    path = small.root / "results" / "small" / "metrics" / "classification" / f"{RUN}.json"
    content = json.loads(path.read_text())
    content["metrics"]["top1"]["value"] = 70.5
    content.pop("seal", None)
    path.write_text(json.dumps(content))
    small.snakemake(*SMALL)
    summary = Path(small.root / "results" / "small" / "summary" / f"{RUN}.json")
    assert json.loads(summary.read_text())["classification"]["top1"] == 70.5
