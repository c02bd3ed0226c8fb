"""List scheduling of planned jobs: known makespans, bounds that hold for every plan, refusals."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lska.planning.schedule import ANY, Schedule, Task, critical_path, schedule, tails, unfit


def test_independent_jobs_share_the_gpus() -> None:
    tasks = [Task(number, 10.0, gpus=1) for number in range(5)]
    assert schedule(tasks, 2).makespan == 30.0
    assert schedule(tasks, 5).makespan == 10.0
    assert critical_path(tasks) == 10.0


def test_an_evaluation_waits_for_its_training() -> None:
    tasks = [Task(0, 10.0, 4), Task(1, 2.0, 1, needs=(0,)), Task(2, 3.0, 1)]
    made = schedule(tasks, 4)
    assert made.starts == {0: 0.0, 1: 10.0, 2: 10.0} and made.makespan == 13.0
    assert tails(tasks) == {0: 12.0, 1: 2.0, 2: 3.0}


def test_the_longest_tail_starts_first() -> None:
    # By length alone, 1 would start first and the chain of 0 and 2 would end at 17.
    tasks = [Task(0, 5.0, 1), Task(1, 7.0, 1), Task(2, 5.0, 1, needs=(0,))]
    assert schedule(tasks, 1).starts[0] == 0.0
    assert schedule(tasks, 2).makespan == 10.0


def test_a_small_job_runs_beside_a_large_one_that_waits() -> None:
    tasks = [Task(0, 10.0, 3), Task(1, 10.0, 4), Task(2, 4.0, 1)]
    made = schedule(tasks, 4)
    assert made.makespan == 20.0 and made.starts[2] == made.starts[0]


def test_cores_limit_jobs_without_a_gpu_and_threads_are_scaled_down() -> None:
    assert schedule([Task(number, 1.0, cores=2) for number in range(3)], cores=4).makespan == 2.0
    assert schedule([Task(0, 1.0, cores=36), Task(1, 1.0, cores=1)], cores=2).makespan == 2.0


def test_nothing_to_do_takes_no_time() -> None:
    assert schedule([], 1) == Schedule({}, 0.0) and critical_path([]) == 0.0


def test_a_job_larger_than_the_machine_is_refused() -> None:
    tasks = [Task(0, 1.0, 8), Task(1, 1.0, 2)]
    assert [task.id for task in unfit(tasks, 4)] == [0]
    with pytest.raises(ValueError, match=r"1 task\(s\) need more than 4 GPUs, up to 8"):
        schedule(tasks, 4)


def test_tasks_that_wait_for_each_other_are_refused() -> None:
    with pytest.raises(ValueError, match=r"wait for each other: \[0, 1\]"):
        schedule([Task(0, 1.0, needs=(1,)), Task(1, 1.0, needs=(0,))])
    with pytest.raises(ValueError, match="task 0 waits for 7"):
        critical_path([Task(0, 1.0, needs=(7,))])


@st.composite
def plans(draw: st.DrawFn) -> list[Task]:
    """Up to a dozen jobs, each of which may need earlier ones."""
    return [
        Task(
            number,
            draw(st.floats(0, 100)),
            draw(st.integers(0, 4)),
            draw(st.integers(1, 8)),
            tuple(draw(st.sets(st.integers(0, number - 1), max_size=3))) if number else (),
        )
        for number in range(draw(st.integers(1, 12)))
    ]


@given(plans(), st.integers(4, 9), st.integers(1, 16))
def test_every_schedule_keeps_its_bounds(tasks: list[Task], gpus: int, cores: int) -> None:
    made = schedule(tasks, gpus, cores)
    used = sum(task.gpus * task.seconds for task in tasks)
    assert set(made.starts) == {task.id for task in tasks}
    assert made.makespan >= critical_path(tasks) - 1e-9
    assert made.makespan >= used / gpus - 1e-9
    assert made.makespan <= sum(task.seconds for task in tasks) + 1e-9
    ends = {task.id: made.starts[task.id] + task.seconds for task in tasks}
    for task in tasks:
        assert all(ends[need] <= made.starts[task.id] + 1e-9 for need in task.needs)


@given(plans(), st.integers(4, 9), st.integers(1, 16))
def test_never_more_gpus_or_cores_are_in_use_than_there_are(tasks: list[Task], gpus: int, cores: int) -> None:
    starts = schedule(tasks, gpus, cores).starts
    for moment in starts.values():
        now = [task for task in tasks if starts[task.id] <= moment < starts[task.id] + task.seconds]
        assert sum(task.gpus for task in now) <= gpus
        assert sum(min(task.cores, cores) for task in now) <= cores


@given(plans())
def test_without_limits_the_longest_chain_is_reached(tasks: list[Task]) -> None:
    assert schedule(tasks, ANY, ANY).makespan == pytest.approx(critical_path(tasks))
