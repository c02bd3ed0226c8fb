"""Fine-tuning: interruptions, budget, processes, safe states, what is written in the end."""

from __future__ import annotations

import copy
import json
import signal
from collections.abc import Callable
from typing import Any

import pytest
import tiny_dense
from test_distributed import together
from tiny_dense import UPDATES, DenseProject, outcome, records
from tiny_project import before_update, signal_self

from lska.provenance.metric_files import file_md5
from lska.train.saved_state import state_files

Child = Callable[[Callable[[], Any]], int]
Through = Callable[[str], dict[str, Any]]
HEADS = tuple(UPDATES)
NEVER = {"state_minutes": 1000.0}


@pytest.fixture
def dense(dense_project: DenseProject, logging_as_before: None) -> DenseProject:
    return dense_project


@pytest.fixture(scope="module")
def through(dense_project: DenseProject) -> Callable[[str], dict[str, Any]]:
    """Outcome of the training of a head that runs through, done once."""
    known: dict[str, dict[str, Any]] = {}

    def run(head: str) -> dict[str, Any]:
        if head not in known:
            known[head] = outcome(dense_project.trained(head))
        return copy.deepcopy(known[head])

    return run


def scale(name: str, head: str, **training: Any) -> dict[str, Any]:
    """A scale with folders of its own, and means of one head's training; neither enters the weights."""
    kind = tiny_dense.TASKS[head].partition("/")[0]
    return {"scale": name, kind: {"heads": {head: training}}}


def train(dense: DenseProject, head: str, changes: dict[str, Any]) -> int:
    """Exit code of `lska train` in this process."""
    return dense.command("train", str(dense.base.run), "--task", tiny_dense.TASKS[head], changes=changes)


def interrupted(dense: DenseProject, head: str, changes: dict[str, Any], number: int, signum: int) -> Callable[[], int]:
    """A call of `lska train`, for a forked process, that gets a signal in the middle."""

    def body() -> int:
        before_update(number, signal_self(signum))
        return train(dense, head, changes)

    return body


@pytest.mark.parametrize("head", HEADS)
def test_a_stopped_training_goes_on_to_the_same_weights(
    dense: DenseProject, child: Child, through: Through, head: str
) -> None:
    assert [line["step"] for line in through(head)["records"]] == list(range(1, UPDATES[head] + 1))
    changes = scale("stopped", head, **NEVER)
    job = dense.job(head, changes)
    tiny_dense.prepare(job.config)
    assert child(interrupted(dense, head, changes, 4, signal.SIGTERM)) == 75
    assert [path.name for path in state_files(job.states)] == ["state-00000005.pt"] and not job.weights.exists()
    assert outcome(dense.trained(head, changes)) == through(head)


def test_a_killed_training_with_workers_goes_on_to_the_same_weights(
    dense: DenseProject, child: Child, through: Through
) -> None:
    changes = scale("killed", "retinanet", state_minutes=0.0, workers=2)
    job = dense.job("retinanet", changes)
    tiny_dense.prepare(job.config)
    assert child(interrupted(dense, "retinanet", changes, 5, signal.SIGKILL)) == -signal.SIGKILL
    assert [path.name for path in state_files(job.states)] == ["state-00000004.pt", "state-00000005.pt"]
    assert outcome(dense.trained("retinanet", changes)) == through("retinanet")


def test_two_processes_have_the_loss_curve_of_one(dense: DenseProject, through: Through) -> None:
    alone, changes = through("semantic_fpn")["records"], scale("two", "semantic_fpn")
    job = dense.job("semantic_fpn", changes)
    tiny_dense.prepare(job.config)
    assert together(2, lambda: train(dense, "semantic_fpn", changes)) == [0, 0]
    found = records(job)
    assert [line["loss"] for line in found] == pytest.approx([line["loss"] for line in alone], rel=1e-3)
    assert [line["learning_rate"] for line in found] == [line["learning_rate"] for line in alone]
    assert json.loads(job.weights.with_suffix(".json").read_text())["processes"] == 2


def test_rates_warm_up_and_fall_in_updates_and_epochs(through: Through) -> None:
    # Three updates an epoch: two of warm-up from a tenth, and a tenth after the second epoch.
    detection = [line["learning_rate"] for line in through("retinanet")["records"]]
    assert detection == pytest.approx([1e-4, 5.5e-4, 1e-3, 1e-3, 1e-3, 1e-3, 1e-4, 1e-4, 1e-4])
    segmentation = [line["learning_rate"] for line in through("semantic_fpn")["records"]]
    assert segmentation == pytest.approx([1e-3 * (1 - step / 8) ** 0.9 for step in range(8)])


def test_the_sidecar_names_the_backbone_and_the_control_has_none(dense: DenseProject) -> None:
    job = dense.trained("semantic_fpn")
    sidecar = json.loads(job.weights.with_suffix(".json").read_text())
    assert sidecar["backbone"] == {"md5": file_md5(job.backbone), "run": str(dense.base.run)}
    assert sidecar["md5"] == file_md5(job.weights) and sidecar["recipe"] == job.digest()
    control = dense.trained("semantic_fpn", control=True)
    assert json.loads(control.weights.with_suffix(".json").read_text())["backbone"] is None
    first = [records(each)[0]["loss"] for each in (job, control)]
    assert first[0] != first[1]


def test_a_missing_or_damaged_backbone_stops_before_training(
    dense: DenseProject, child: Child, capfd: pytest.CaptureFixture[str]
) -> None:
    changes = scale("damaged", "retinanet")
    job = dense.job("retinanet", changes)
    tiny_dense.prepare(job.config)
    job.backbone.write_bytes(job.backbone.read_bytes() + b"x")
    assert child(lambda: train(dense, "retinanet", changes)) == 1
    job.backbone.unlink()
    assert child(lambda: train(dense, "retinanet", changes)) == 1
    told = capfd.readouterr().err
    assert "but its sidecar" in told and "lska train van_tiny-lska-k7-s0" in told
    assert not job.states.exists()
