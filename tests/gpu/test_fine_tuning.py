"""Fine-tuning and evaluation on GPUs, by the commands that the rules call; each command is a process of its own.

The backbone is pretrained on the processor beforehand, and this process asks CUDA for the number of devices only.
"""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import tiny_dense
import torch
from tiny_dense import TASKS, UPDATES, DenseProject, records

from lska.models.pretrained import read_weights
from lska.provenance.metric_files import validate
from lska.settings.tasks import FineTuningJob

DEVICES = torch.cuda.device_count()
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(DEVICES < 1, reason="no CUDA device on this machine"),
]
TWO_GPUS = pytest.mark.skipif(DEVICES < 2, reason=f"needs two CUDA devices, found {DEVICES}")
HEADS = ("retinanet", "semantic_fpn")
NAMES = {"retinanet": "box_ap", "semantic_fpn": "miou"}


def changes(scale: str, head: str, gpus: int, precision: str) -> dict[str, Any]:
    """A scale of its own, in which one head is trained and scored on GPUs."""
    kind = TASKS[head].partition("/")[0]
    means = {"gpus": gpus, "overrides": {"precision": precision}}
    return {"scale": scale, kind: {"evaluation": {"gpus": 1}, "heads": {head: means}}}


def call(start: tuple[str, ...], *words: str, settings: dict[str, Any]) -> None:
    """Run `lska *words` in the project with `settings` over its configuration; fails the test where it fails."""
    command = [*start, "-m", "lska", *words, "--config", "config.yaml", "--set", json.dumps(settings)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout}\n{done.stderr[-6000:]}"


def fine_tuned(project: DenseProject, head: str, gpus: int, precision: str) -> FineTuningJob:
    """Fine-tune a head on `gpus` GPUs, started as the rule starts it."""
    settings = changes(f"{precision}-{gpus}", head, gpus, precision)
    job = project.job(head, settings)
    if not job.weights.exists():
        tiny_dense.prepare(job.config)
        one = (sys.executable,)
        several = (*one, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(gpus))
        call(several if gpus > 1 else one, "train", str(job.run), "--task", job.task, settings=settings)
    return job


def losses(job: FineTuningJob) -> list[float]:
    """The loss of every update."""
    return [line["loss"] for line in records(job)]


def sidecar(job: FineTuningJob) -> dict[str, Any]:
    return json.loads(job.weights.with_suffix(".json").read_text())


def check_training(job: FineTuningJob, gpus: int) -> None:
    """Losses and weights are finite, and the sidecar says that they come from `gpus` GPUs."""
    found = losses(job)
    assert len(found) == UPDATES[job.head] and all(map(math.isfinite, found))
    assert all(bool(torch.isfinite(tensor).all()) for tensor in read_weights(job.weights).values())
    about = sidecar(job)
    assert about["processes"] == gpus
    assert about["environment"]["device"].startswith("cuda:0")


@pytest.fixture
def project(dense_project: DenseProject) -> DenseProject:
    return dense_project


@pytest.mark.parametrize("head", HEADS)
def test_bf16_on_one_gpu_trains_as_fp32_on_the_processor_begins(project: DenseProject, head: str) -> None:
    job = fine_tuned(project, head, 1, "bf16")
    check_training(job, 1)
    assert {tensor.dtype for tensor in read_weights(job.weights).values()} <= {torch.float32, torch.int64}
    # The same weights, images and boxes at the first update; half the digits, and another device's random numbers.
    assert losses(job)[0] == pytest.approx(losses(project.trained(head))[0], rel=0.1)


@pytest.mark.parametrize("head", HEADS)
def test_weights_are_scored_on_the_gpu_and_the_metric_file_is_valid(project: DenseProject, head: str) -> None:
    job = fine_tuned(project, head, 1, "bf16")
    settings = changes(job.scale, head, 1, "bf16")
    call((sys.executable,), "evaluate", "dense", str(job.run), "--task", job.task, settings=settings)
    content = json.loads(job.metrics.read_text())
    validate(content, "metrics", str(job.metrics))
    assert content["environment"]["device"].startswith("cuda")
    assert content["weights"]["md5"] == sidecar(job)["md5"] and content["recipe"] == job.digest()
    assert 0 <= content["metrics"][NAMES[head]]["value"] <= 100
    assert job.samples.stat().st_size > 0


@TWO_GPUS
def test_two_gpus_begin_with_the_loss_of_one(project: DenseProject) -> None:
    one, two = (fine_tuned(project, "retinanet", gpus, "fp32") for gpus in (1, 2))
    check_training(two, 2)
    assert one.digest() == two.digest()
    assert [line["learning_rate"] for line in records(two)] == [line["learning_rate"] for line in records(one)]
    # Later losses drift apart: sums over GPUs have another order, and convolutions choose other algorithms.
    assert losses(two)[0] == pytest.approx(losses(one)[0], rel=1e-2)


@TWO_GPUS
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_segmentation_on_two_gpus_normalises_over_both(project: DenseProject, precision: str) -> None:
    job = fine_tuned(project, "semantic_fpn", 2, precision)
    check_training(job, 2)
    # Two micro-batches of two images, whose statistics are taken together.
    assert sidecar(job)["spec"]["normalized_together"] == 4
    settings = changes(job.scale, "semantic_fpn", 2, precision)
    call((sys.executable,), "evaluate", "dense", str(job.run), "--task", job.task, settings=settings)
    assert Path(job.metrics).is_file()
