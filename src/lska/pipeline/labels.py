"""What the jobs of the pipeline ask a scheduler for, by label. Imports nothing heavy."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from lska.pipeline.launching import runtime
from lska.settings.schema import Evaluation, Speed, Training

LONGEST_MINUTES = 1425
"""Longest wall time that grows with the attempts: below the 24 hours that many clusters allow."""

Settings = Training | Evaluation | Speed


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
    settings: Settings | Callable[[Any], Settings] | None = None,
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

    def of(wildcards: Any) -> Settings | None:
        return settings(wildcards) if callable(settings) else settings

    def gpus(wildcards: Any) -> int:
        return getattr(of(wildcards), "gpus", 0)

    def nodes(wildcards: Any) -> int:
        return getattr(of(wildcards), "nodes", 1)

    def minutes(wildcards: Any, attempt: int) -> int:
        own = stops_after or getattr(of(wildcards), "hours", None)
        return _grown(hours or kind.hours, attempt) if own is None else runtime(own)

    return {
        "gpu": gpus,
        "cpus_per_gpu": lambda wildcards: _cores_per_gpu(of(wildcards)),
        # Slurm counts memory by node.
        "mem_mb": lambda wildcards, attempt: _megabytes(kind, gpus(wildcards) // nodes(wildcards), attempt),
        "runtime": minutes,
        # Without it, Slurm may spread the GPUs of a job over nodes.
        "nodes": nodes,
    }


def _cores_per_gpu(settings: Settings | None) -> int:
    """Cores for each GPU, rounded up; 0 where a rule's threads say it: without GPU, and on several nodes.

    There the job asks for the cores of each node (`lska.pipeline.launching`).
    """
    gpus = getattr(settings, "gpus", 0)
    if gpus == 0 or getattr(settings, "nodes", 1) > 1:
        return 0
    return -(-settings.cores // gpus)


def _megabytes(kind: Label, gpus: int, attempt: int) -> int:
    factor = min(1 + (attempt - 1) / 2, kind.most)
    return round(1000 * factor * (kind.gigabytes + gpus * kind.gigabytes_per_gpu))


def _grown(hours: float, attempt: int) -> int:
    """Minutes of a job that was measured by nobody: as much again with every attempt, up to the longest."""
    return min(round(60 * hours * attempt), max(LONGEST_MINUTES, round(60 * hours)))
