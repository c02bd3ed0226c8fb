"""The whole demo, each of its jobs submitted to a real Slurm."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cluster_project import ClusterProject
from own_slurm import Cluster
from whole_project import copy_project

from lska.provenance import load_json

pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.timeout(3600)]


def numbers(root: Path) -> dict[str, Any]:
    """All that is measured but for throughputs, and the weights that it was measured on; all weights by their MD5."""
    metrics = {path: load_json(path) for path in sorted(root.glob("results/demo/metrics/**/*.json"))}
    found: dict[str, Any] = {
        path.relative_to(root).as_posix(): (content["metrics"], content["weights"])
        for path, content in metrics.items()
        if content["task"] != "speed"
    }
    sidecars = sorted(root.glob("checkpoints/demo/**/*.json"))
    return found | {path.relative_to(root).as_posix(): load_json(path)["md5"] for path in sidecars}


def submitted(cluster: Cluster) -> Iterator[str]:
    """The rules of the jobs that Slurm ran to a good end."""
    for job in cluster.jobs("COMPLETED"):
        if job["comment"].startswith("rule_"):
            yield job["comment"].removeprefix("rule_").partition("_wildcards")[0]


def test_the_demo_on_slurm_is_that_of_a_local_run(cluster: Cluster, tmp_path: Path) -> None:
    local = copy_project(tmp_path / "local")
    local.snakemake("--", "all")
    remote = ClusterProject(copy_project(tmp_path / "remote").root, cluster, "config/demo.yaml")
    remote.finish(remote.start("lska", "warm", "lska", "supervise", "--poll-seconds", "5", targets=("all",)), 2700)
    assert {"train", "fine_tune", "classification", "dense", "data", "speed"} <= set(submitted(cluster))
    expected = numbers(local.root)
    assert len(expected) > 250 and numbers(remote.root) == expected
