"""The demo's DAG on a real Slurm: all of its rules at a tiny scale, and the whole demo itself."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from cluster_project import ClusterProject, assert_equal, numbers, tables
from own_slurm import Cluster
from submit_lines import SNAPSHOT
from whole_project import copy_project

pytestmark = pytest.mark.timeout(3600)

WATCHED = ("lska", "warm", "lska", "supervise", "--poll-seconds", "5")


def kind(rule: str) -> str:
    """A rule without the number of its pass."""
    return re.sub(r"_\d+$", "", rule)


def submitted(cluster: Cluster, since: int) -> Iterator[str]:
    """The kinds of rules whose jobs, those after the number `since`, Slurm ran to a good end."""
    for job in cluster.jobs("COMPLETED"):
        if job["comment"].startswith("rule_") and int(job["id"]) > since:
            yield kind(job["comment"].removeprefix("rule_").partition("_wildcards")[0])


def latest(cluster: Cluster) -> int:
    """The number of the last job so far."""
    return max((int(job["id"]) for job in cluster.jobs()), default=0)


def every_kind() -> set[str]:
    """The kinds of rules that the snapshot of submit lines has."""
    return {kind(rule) for rule in re.findall(r"^(\w+)", SNAPSHOT.read_text(encoding="utf-8"), re.MULTILINE)}


def test_every_rule_of_the_demo_gives_on_slurm_what_it_gives_locally(fresh: ClusterProject, local: Path) -> None:
    since = latest(fresh.cluster)
    fresh.finish(fresh.start(*WATCHED, targets=("all_tables",)), 900)
    assert set(submitted(fresh.cluster, since)) == every_kind()
    expected = tables(local, "tiny")
    assert len(expected) == 16
    assert_equal(tables(fresh.root, "tiny"), expected)
    assert_equal(numbers(fresh.root, "tiny"), numbers(local, "tiny"))


@pytest.mark.slow
def test_the_demo_on_slurm_is_that_of_a_local_run(cluster: Cluster, tmp_path: Path) -> None:
    local = copy_project(tmp_path / "local")
    local.snakemake("--", "all")
    remote = ClusterProject(copy_project(tmp_path / "remote").root, cluster, "config/demo.yaml")
    since = latest(cluster)
    remote.finish(remote.start(*WATCHED, targets=("all",)), 2700)
    assert set(submitted(cluster, since)) == every_kind()
    expected = numbers(local.root, "demo")
    assert len(expected) > 250
    assert_equal(numbers(remote.root, "demo"), expected)
    assert_equal(tables(remote.root, "demo"), tables(local.root, "demo"))
