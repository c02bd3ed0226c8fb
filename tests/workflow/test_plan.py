"""`lska plan` beside Snakemake's own dry run: the same jobs, and a folder that is left as it was."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from lska.provenance.files import write_json
from lska.provenance.metric_files import file_md5

pytestmark = pytest.mark.timeout(900)

RUN = "van_tiny-lska-k23-s0"


def named(jobs: list[dict[str, Any]]) -> Counter[tuple[str, frozenset[str]]]:
    """Rule and outputs of every job."""
    return Counter((job["rule"], frozenset(job["outputs"])) for job in jobs)


def state(root: Path) -> dict[str, tuple[int, int]]:
    """Size and time of everything below a folder, but for Python's own caches and the folders that they are in."""
    return {
        str(path.relative_to(root)): (path.stat().st_size if path.is_file() else 0, path.stat().st_mtime_ns)
        for path in root.rglob("*")
        if "__pycache__" not in path.parts and not (path.is_dir() and path.is_relative_to(root / "src"))
    }


@pytest.mark.parametrize(
    "arguments",
    [
        ["table_04", "--configfile", "config/paper.yaml"],
        ["results/demo/metrics/classification/van_tiny-lska-k7-s0.json", "all_figures", "--config", "config/demo.yaml"],
    ],
)
def test_the_plan_is_the_dry_run(project, arguments: list[str]) -> None:
    document = project.plan(*arguments)
    options = ["--configfile" if argument == "--config" else argument for argument in arguments]
    place = options.index("--configfile")
    assert named(document["jobs"]) == named(project.planned_jobs(*options[place:], "--", *options[:place]))
    ids = {job["id"] for job in document["jobs"]}
    assert all(set(job["needs"]) <= ids for job in document["jobs"])


def test_settings_change_the_plan_as_they_change_the_dry_run(project) -> None:
    changes = {"runs": [{"model": "van_tiny", "attention": "lska", "kernel": 7, "seed": 3}], "robustness": None,
               "shape_texture": None, "texture_knn": None, "receptive_field": None, "detection": None,
               "segmentation": None, "architecture": {}}  # fmt: skip
    (project.root / "changes.yaml").write_text(json.dumps(changes))
    dry_run = project.planned_jobs("--configfile", "config/small.yaml", "changes.yaml", "--", "all")
    document = project.plan("--config", "config/small.yaml", "--set", json.dumps(changes))
    assert named(document["jobs"]) == named(dry_run)
    assert document["rules"]["train"]["jobs"] == 1


def test_planning_leaves_the_folder_as_it_was_also_where_a_pass_is_outdated(project) -> None:
    root = project.root
    weights = root / "checkpoints" / "demo" / f"{RUN}.safetensors"
    weights.parent.mkdir(parents=True)
    weights.write_bytes(b"weights")
    write_json(weights.with_suffix(".json"), {"recipe": "sha256:old", "md5": file_md5(weights), "origin": "trained"})
    for task in ("shape_texture", "robustness/c", "classification"):
        write_json(root / "results" / "demo" / "metrics" / task / f"{RUN}.json", {"weights": {"md5": "y"}})
    before = state(root)
    document = project.plan()
    assert state(root) == before
    # A dry run itself makes Snakemake's own folder, and nothing else.
    assert named(document["jobs"]) == named(project.planned_jobs("--", "all"))
    assert {path for path in state(root).keys() - before.keys() if not path.startswith(".snakemake")} == set()
    # And what Snakemake has written there changes no plan.
    before = state(root)
    assert named(project.plan()["jobs"]) == named(document["jobs"]) and state(root) == before
