"""A training on two nodes, submitted by the profile: two processes that meet over the loopback device, without GPUs."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import yaml
from cluster_project import RUN, ClusterProject, tiny_scale
from own_slurm import GPU_NODES
from whole_project import copy_project

pytestmark = pytest.mark.timeout(1200)

WEIGHTS = f"checkpoints/tiny/{RUN}.safetensors"
RECORD = f"results/tiny/training/{RUN}.jsonl"


def write_scale(scale: Path, nodes: int) -> None:
    """Write the tiny configuration, but with two micro-batches per update, on so many nodes."""
    settings = yaml.safe_load(tiny_scale(nodes=nodes))
    settings["training"]["overrides"]["micro_batch"] = 16
    scale.write_text(yaml.safe_dump(settings), encoding="utf-8")


def losses(root: Path) -> list[float]:
    """The training loss at each step that is logged."""
    lines = (root / RECORD).read_text(encoding="utf-8").splitlines()
    return [entry["loss"] for line in lines if "loss" in (entry := json.loads(line))]


def test_two_nodes_train_what_one_process_does_and_go_on_after_scancel(fresh: ClusterProject, tmp_path: Path) -> None:
    alone = copy_project(tmp_path / "alone")
    write_scale(alone.root / fresh.scale, nodes=1)
    alone.snakemake("--configfile", fresh.scale, "--", WEIGHTS)

    write_scale(fresh.root / fresh.scale, nodes=2)
    fresh.overlay = tuple(word for word in fresh.overlay if not word.startswith(("--set-resources", "train:")))
    fresh.variables = {"LSKA_SLURM_PARTITION": "gpu", "GLOO_SOCKET_IFNAME": "lo"}
    snakemake = fresh.supervised(WEIGHTS)
    fresh.wait_for_state()
    job = fresh.job()
    assert fresh.cluster.ask("scontrol", "show", "hostnames", job["node"]).split() == list(GPU_NODES)
    fresh.cluster.ask("scancel", job["id"])
    fresh.finish(snakemake)

    said = (fresh.root / "work" / "tiny" / "logs" / "train" / f"{RUN}.log").read_text(encoding="utf-8")
    for number in (1, 2):
        assert re.search(rf"node {number} of 2 meets the others at {re.escape(GPU_NODES[0])}:\d+", said), said
    assert re.search(r"going on after update [1-9]", said), said
    assert losses(fresh.root) == pytest.approx(losses(alone.root), rel=0.02)
