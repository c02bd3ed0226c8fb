"""What jobs ask a scheduler for, how trainings are started, and how long they may take."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from lska.pipeline.resources import budget_seconds, labelled, launcher, node_resources, runtime
from lska.settings.schema import Evaluation, Training


def asked(resources: dict, attempt: int = 1) -> dict[str, int]:
    """The values of a job without wildcards."""
    growing, none = ("mem_mb", "runtime"), SimpleNamespace()
    return {name: value(none, attempt) if name in growing else value(none) for name, value in resources.items()}


def means(**settings: int) -> Training:
    return Training("recipe.yaml", **settings)


def test_memory_and_time_follow_from_settings_and_attempt() -> None:
    training = labelled("gpu_train", means(gpus=4, workers=8, hours=23, attempts=10))
    assert asked(training) == {"gpu": 4, "cpus_per_gpu": 9, "mem_mb": 104_000, "runtime": 23 * 60, "nodes": 1}
    assert [asked(training, attempt=3)[name] for name in ("mem_mb", "runtime")] == [156_000, 23 * 60]
    # Of a training on several nodes, memory is counted by node.
    assert asked(labelled("gpu_train", means(gpus=8, nodes=2, workers=8)))["mem_mb"] == 104_000
    attempts = [asked(labelled("gpu_eval", Evaluation(gpus=1, threads=4, workers=6)), n) for n in (1, 2, 3, 9)]
    assert [one["mem_mb"] for one in attempts] == [32_000, 48_000, 64_000, 64_000]
    assert [one["runtime"] for one in attempts] == [240, 480, 720, 1425] and attempts[0]["cpus_per_gpu"] == 6
    assert asked(labelled("cpu_small", hours=30), attempt=2) == {
        "gpu": 0, "cpus_per_gpu": 0, "mem_mb": 12_000, "runtime": 1800, "nodes": 1
    }  # fmt: skip
    resources = labelled("gpu_eval", lambda wildcards: Evaluation(gpus=wildcards.gpus, threads=6))
    assert [resources["gpu"](SimpleNamespace(gpus=n)) for n in (0, 2)] == [0, 2]


def test_a_training_is_started_by_what_it_needs() -> None:
    assert launcher(means()) == launcher(means(gpus=1)) == "lska"
    assert launcher(means(gpus=4)) == "lska gpus 4 lska launch --processes 4 --"
    assert launcher(means(gpus=8, nodes=2, workers=7)) == (
        "srun --overlap --nodes 2 --ntasks 2 --ntasks-per-node 1 --gpus-per-node 4 --cpus-per-task 32 --wait 600 "
        "lska launch --nodes 2 --processes 4 --"
    )
    assert [means(threads=4, nodes=nodes).cores for nodes in (1, 2)] == [4, 8]
    with pytest.raises(ValueError, match=r"gpus \(6, on all nodes together\) must be divisible by nodes \(4\)"):
        means(gpus=6, nodes=4)


def test_only_jobs_on_several_nodes_make_their_own_steps() -> None:
    one, several = means(gpus=4, workers=3), means(gpus=8, nodes=2, workers=3)
    assert node_resources(lambda wildcards: one, [one]) == {}
    resources = node_resources({"a": one, "b": several}.get, [one, several])
    assert {name: [of(job) for job in "ab"] for name, of in resources.items()} == {
        "mpi": ["", "srun"], "tasks": [1, 2], "tasks_per_gpu": [0, 0], "cpus_per_task": [16, 16],
        "slurm_extra": ["--ntasks-per-node=1 --gpus-per-node=4", "--ntasks-per-node=1 --gpus-per-node=4"],
    }  # fmt: skip


def test_of_a_job_five_minutes_or_a_tenth_are_left_to_its_start() -> None:
    assert [runtime(hours) for hours in (24, 1.5, 1e-9)] == [1440, 90, 1]
    limits = ((None, None), (2.0, None), (None, 1440), (None, 10), (0.1, 10))
    assert [budget_seconds(*limit) for limit in limits] == [None, 7200, 60 * 1435, 540, 360]
