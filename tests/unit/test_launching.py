"""How trainings are started, and how long they may take."""

from __future__ import annotations

import pytest

from lska.pipeline.launching import budget_seconds, launcher, node_resources, runtime
from lska.settings.schema import Training


def means(**settings: int) -> Training:
    return Training("recipe.yaml", **settings)


def test_a_training_is_started_by_what_it_needs() -> None:
    assert launcher(means()) == "lska"
    assert launcher(means(gpus=1)) == "lska"
    assert launcher(means(gpus=4)) == "lska gpus 4 lska launch --processes 4 --"
    assert launcher(means(gpus=8, nodes=2, workers=7)) == (
        "srun --overlap --nodes 2 --ntasks 2 --ntasks-per-node 1 --gpus-per-node 4 --cpus-per-task 32 --wait 600 "
        "lska launch --nodes 2 --processes 4 --"
    )
    assert launcher(means(nodes=2, threads=3)) == (
        "srun --overlap --nodes 2 --ntasks 2 --ntasks-per-node 1 --cpus-per-task 3 --wait 600 "
        "lska launch --nodes 2 --processes 1 --"
    )


def test_only_jobs_on_several_nodes_make_their_own_steps() -> None:
    one, several = means(gpus=4, workers=3), means(gpus=8, nodes=2, workers=3)
    assert node_resources(lambda wildcards: one, [one]) == {}
    resources = node_resources({"a": one, "b": several}.get, [one, several])
    assert {name: [of(job) for job in "ab"] for name, of in resources.items()} == {
        "mpi": ["", "srun"],
        "tasks": [1, 2],
        "tasks_per_gpu": [0, 0],
        "cpus_per_task": [16, 16],
        "slurm_extra": ["--ntasks-per-node=1 --gpus-per-node=4", "--ntasks-per-node=1 --gpus-per-node=4"],
    }


def test_cores_are_those_of_all_nodes() -> None:
    assert means(threads=4).cores == 4
    assert means(threads=4, nodes=2).cores == 8
    assert means(threads=4, gpus=8, nodes=2, workers=3).cores == 32


def test_gpus_are_divided_evenly_among_nodes() -> None:
    assert [means(gpus=gpus, nodes=nodes).processes for gpus, nodes in ((0, 1), (1, 1), (8, 2), (0, 3))] == [1, 1, 8, 3]
    with pytest.raises(ValueError, match=r"gpus \(6, on all nodes together\) must be divisible by nodes \(4\)"):
        means(gpus=6, nodes=4)


def test_a_scheduler_is_asked_for_whole_minutes() -> None:
    assert [runtime(hours) for hours in (24, 1.5, 0.02, 1e-9)] == [1440, 90, 1, 1]


def test_of_a_job_five_minutes_or_a_tenth_are_left_to_its_start() -> None:
    assert budget_seconds(None, None) is None
    assert budget_seconds(2.0, None) == 7200
    assert budget_seconds(None, 1440) == 60 * 1435
    assert budget_seconds(None, 10) == 540
    assert budget_seconds(0.1, 10) == 360
    assert budget_seconds(1.0, 10) == 540
