"""How jobs are started and how long they may take. Imports nothing heavy."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from lska.settings.schema import Training

_STARTUP_SECONDS = 300.0
_STEP_END_SECONDS = 600
"""What the nodes of a training may differ in when they end."""


def launcher(training: Training) -> str:
    """How a training is started: where it has several processes, by a launcher; on several nodes, on each."""
    if training.processes == 1:
        return "lska"
    each = training.processes // training.nodes
    # Where no scheduler gives a job its GPUs, it takes some that no other job has.
    own = f"lska gpus {training.gpus} " if training.gpus else ""
    if training.nodes == 1:
        return f"{own}lska launch --processes {each} --"
    gpus = f" --gpus-per-node {each}" if training.gpus else ""
    # `--overlap`: where the command itself runs in a step, its cores and GPUs are shared.
    step = (
        f"srun --overlap --nodes {training.nodes} --ntasks {training.nodes} --ntasks-per-node 1{gpus} "
        f"--cpus-per-task {_threads_per_node(training)} --wait {_STEP_END_SECONDS}"
    )
    return f"{step} lska launch --nodes {training.nodes} --processes {each} --"


def node_resources(of: Callable[[Any], Training], every: Iterable[Training]) -> dict[str, Callable[[Any], int | str]]:
    """Resources by which Snakemake's Slurm plugin starts trainings on several nodes; none where no job needs them.

    The plugin runs a job in a step of one node and all GPUs, which Slurm refuses where those are on several nodes. Jobs
    that have `mpi` set make their steps themselves, as `launcher` does.

    Args:
        of: the settings of a job, by its wildcards.
        every: those of all jobs of the rule.
    """
    if all(training.nodes == 1 for training in every):
        return {}
    return {
        "mpi": lambda wildcards: "srun" if of(wildcards).nodes > 1 else "",
        "tasks": lambda wildcards: of(wildcards).nodes,
        # By default the plugin asks for `tasks` per GPU, and for all of a job's threads per task.
        "tasks_per_gpu": lambda wildcards: 0,
        "cpus_per_task": lambda wildcards: _threads_per_node(of(wildcards)),
        "slurm_extra": lambda wildcards: _on_each(of(wildcards)),
    }


def _on_each(training: Training) -> str:
    gpus = f" --gpus-per-node={training.processes // training.nodes}" if training.gpus else ""
    return f"--ntasks-per-node=1{gpus}"


def _threads_per_node(training: Training) -> int:
    return -(-training.cores // training.nodes)


def runtime(hours: float) -> int:
    """Minutes that a scheduler is asked for, for a job of at most `hours`."""
    return max(1, int(60 * hours))


def budget_seconds(hours: float | None, job_minutes: float | None) -> float | None:
    """Wall time after which a job stops itself, None for never.

    Args:
        hours: what the caller allows from now on.
        job_minutes: what the scheduler allows the whole job, of which five minutes, or a tenth if that is less, are
            left to starting it: a node's set-up, Snakemake, a container.
    """
    limits = [] if hours is None else [3600 * hours]
    if job_minutes is not None:
        limits.append(60 * job_minutes - min(_STARTUP_SECONDS, 6 * job_minutes))
    return min(limits, default=None)
