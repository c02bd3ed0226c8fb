"""What the jobs of the pipeline ask a scheduler for, how trainings are started, and how long jobs may take.

Imports nothing heavy.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from lska.settings.schema import Evaluation, Speed, Training

LONGEST_MINUTES = 1425
"""Longest wall time that grows with the attempts: below the 24 hours that many clusters allow."""

_STARTUP_SECONDS = 300.0
_STEP_END_SECONDS = 600
"""What the nodes of a training may differ in when they end."""


@dataclass(frozen=True)
class Label:
    """What jobs of one kind ask for beside GPUs and cores, which follow from the configuration."""

    gigabytes: int
    """Memory of a first attempt that has no GPU, or beside what each GPU adds."""
    gigabytes_per_gpu: int = 0
    hours: float = 0.0
    """Wall time of a first attempt, for jobs that do not stop themselves."""
    most: float = 2.0
    """What memory is multiplied with at most; each attempt adds half of a first one's."""


LABELS = {
    "gpu_train": Label(gigabytes=8, gigabytes_per_gpu=24, most=1.5),
    "gpu_eval": Label(gigabytes=16, gigabytes_per_gpu=16, hours=4),
    "cpu_small": Label(gigabytes=8, hours=2, most=4),
}
"""Every rule that runs on a cluster's nodes has one of these."""


def labelled(
    label: str,
    settings: Training | Evaluation | Speed | Callable[[Any], Any] | None = None,
    hours: float | None = None,
    stops_after: float | None = None,
) -> dict[str, Callable[..., int]]:
    """Snakemake's resources of a rule with a label, by name; memory and wall time grow with the attempt.

    Args:
        label: one of `LABELS`.
        settings: the section that says how many GPUs and cores a job has, or what gives it for a job's wildcards;
            None for a job without GPU.
        hours: wall time of a first attempt in place of the label's.
        stops_after: hours after which a job stops itself, to go on in the next attempt; by default `settings.hours`,
            where there is one. Such a job gets the same wall time in every attempt.
    """
    kind = LABELS[label]

    def of(wildcards: Any, name: str, default: Any) -> Any:
        return getattr(settings(wildcards) if callable(settings) else settings, name, default)

    def gpus(wildcards: Any) -> int:
        return of(wildcards, "gpus", 0)

    def nodes(wildcards: Any) -> int:
        return of(wildcards, "nodes", 1)

    def megabytes(wildcards: Any, attempt: int) -> int:
        # Slurm counts memory by node.
        each = kind.gigabytes + gpus(wildcards) // nodes(wildcards) * kind.gigabytes_per_gpu
        return round(1000 * min(1 + (attempt - 1) / 2, kind.most) * each)

    def minutes(wildcards: Any, attempt: int) -> int:
        own, first = stops_after or of(wildcards, "hours", None), round(60 * (hours or kind.hours))
        return min(first * attempt, max(LONGEST_MINUTES, first)) if own is None else runtime(own)

    def cores_per_gpu(wildcards: Any) -> int:
        """Rounded up; 0 where a rule's threads say it: without GPU, and on several nodes (`node_resources`)."""
        if not gpus(wildcards) or nodes(wildcards) > 1:
            return 0
        return -(-of(wildcards, "cores", 0) // gpus(wildcards))

    # Without `nodes`, Slurm may spread the GPUs of a job over several.
    return {"gpu": gpus, "cpus_per_gpu": cores_per_gpu, "mem_mb": megabytes, "runtime": minutes, "nodes": nodes}


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

    def on_each(wildcards: Any) -> str:
        training = of(wildcards)
        gpus = f" --gpus-per-node={training.processes // training.nodes}" if training.gpus else ""
        return f"--ntasks-per-node=1{gpus}"

    return {
        "mpi": lambda wildcards: "srun" if of(wildcards).nodes > 1 else "",
        "tasks": lambda wildcards: of(wildcards).nodes,
        # By default the plugin asks for `tasks` per GPU, and for all of a job's threads per task.
        "tasks_per_gpu": lambda wildcards: 0,
        "cpus_per_task": lambda wildcards: _threads_per_node(of(wildcards)),
        "slurm_extra": on_each,
    }


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
