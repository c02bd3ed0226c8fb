"""Where several nodes meet, how trainings are started, and how long they may take."""

from __future__ import annotations

from dataclasses import replace

import pytest

from lska.launching import budget_seconds, launcher, runtime, spread
from lska.rendezvous import Rendezvous, first_host, of_slurm
from lska.sections import Training
from lska.settings.cores import training_threads

STEP = {
    "SLURM_JOB_ID": "4711", "SLURM_JOB_NODELIST": "gpu[03-04]", "SLURM_NNODES": "2", "SLURM_NODEID": "1",
    "SLURM_NTASKS": "2",
}  # fmt: skip


@pytest.mark.parametrize(
    ("nodes", "first"),
    [
        ("gpu1", "gpu1"),
        ("gpu1,gpu2", "gpu1"),
        ("gpu[003-007,9],login", "gpu003"),
        ("gpu[7,9-12]", "gpu7"),
        ("rack[2-3]-node[01-16].cluster.example.org", "rack2-node01.cluster.example.org"),
        ("10.0.0.[5-6]", "10.0.0.5"),
        ("a-1,b[1-2]", "a-1"),
    ],
)
def test_the_first_of_slurms_hosts(nodes: str, first: str) -> None:
    assert first_host(nodes) == first


@pytest.mark.parametrize("nodes", ["", "gpu[1-2", "gpu]1", "gpu[]"])
def test_a_list_that_is_none_is_refused(nodes: str) -> None:
    with pytest.raises(ValueError, match="SLURM_JOB_NODELIST: expected hosts such as"):
        first_host(nodes)


def test_all_nodes_of_a_step_meet_at_the_same_place() -> None:
    meetings = [of_slurm(2, {**STEP, "SLURM_NODEID": str(node)}) for node in range(2)]
    assert [meeting.node for meeting in meetings] == [0, 1]
    assert {replace(meeting, node=0) for meeting in meetings} == {
        Rendezvous(2, 0, "gpu03", 15_000 + 4711, "slurm-4711-0-0")
    }


def test_jobs_beside_one_another_and_requeued_ones_do_not_meet() -> None:
    first = of_slurm(2, STEP)
    other = of_slurm(2, {**STEP, "SLURM_JOB_ID": "4712"})
    assert other.port != first.port
    assert of_slurm(2, {**STEP, "SLURM_RESTART_COUNT": "1"}).name != first.name
    assert of_slurm(2, {**STEP, "SLURM_JOB_ID": str(17_000 * 1000 - 1)}).port == 31_999


def test_the_step_may_have_fewer_nodes_than_its_job() -> None:
    assert of_slurm(2, {**STEP, "SLURM_STEP_NODELIST": "gpu[08-09]"}).host == "gpu08"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"SLURM_NODEID": ""}, "needs SLURM_NODEID, which Slurm sets: start it inside a job by `srun --nodes 2"),
        ({"SLURM_NNODES": "1"}, r"step of 2 nodes with one task each, found 1 node\(s\) .* and 2 task\(s\)"),
        ({"SLURM_NTASKS": "4"}, r"step of 2 nodes with one task each, found 2 node\(s\) .* and 4 task\(s\)"),
        ({"SLURM_JOB_ID": "x"}, "SLURM_JOB_ID: expected a number from Slurm, found 'x'"),
    ],
)
def test_variables_that_do_not_fit_are_named(changes: dict[str, str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        of_slurm(2, {**STEP, **changes})


def test_outside_of_slurm_everything_is_missing() -> None:
    with pytest.raises(ValueError, match="needs SLURM_JOB_ID, SLURM_JOB_NODELIST, SLURM_NNODES, SLURM_NODEID, SLURM_N"):
        of_slurm(2, {})


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
    assert spread(lambda wildcards: one, [one]) == {}
    resources = spread({"a": one, "b": several}.get, [one, several])
    assert {name: [of(job) for job in "ab"] for name, of in resources.items()} == {
        "mpi": ["", "srun"],
        "tasks": [1, 2],
        "tasks_per_gpu": [0, 0],
        "cpus_per_task": [16, 16],
        "slurm_extra": ["--ntasks-per-node=1 --gpus-per-node=4", "--ntasks-per-node=1 --gpus-per-node=4"],
    }


def test_cores_are_those_of_all_nodes() -> None:
    assert training_threads(means(threads=4)) == 4
    assert training_threads(means(threads=4, nodes=2)) == 8
    assert training_threads(means(threads=4, gpus=8, nodes=2, workers=3)) == 32


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
