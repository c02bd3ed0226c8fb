"""Plans of the project's scales, and jobs as Snakemake's dry run names them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lska.pipeline.dry_run import SnakemakeJob
from lska.pipeline.estimate import estimate_of
from lska.pipeline.products import Plan
from lska.pipeline.throughput import TimeEstimate, known_throughputs
from lska.provenance.files import read_yaml
from lska.provenance.strict import merge


def plan(scale: str, changes: dict[str, Any] | None = None) -> Plan:
    """The plan of a scale in the current folder, with `changes` over its configuration."""
    path = Path("config") / f"{scale}.yaml"
    return Plan(merge(read_yaml(path), changes or {}), [path], {})


def estimate(made: Plan, asked: SnakemakeJob) -> TimeEstimate | None:
    """How long a job takes by what lies in the current folder."""
    return estimate_of(made, asked, *known_throughputs(made.config))


def job(rule: str, *outputs: str, gpus: int = 0, threads: int = 1, **wildcards: str) -> SnakemakeJob:
    """A job of Snakemake; one output where none is named."""
    return SnakemakeJob(0, rule, wildcards, (), outputs or ("out",), threads, gpus, "Missing output files: out")
