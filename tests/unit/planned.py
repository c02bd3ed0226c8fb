"""Plans of the project's scales, and jobs as Snakemake's dry run names them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lska.files import read_yaml
from lska.planning.costs import Costs
from lska.planning.dag import Job
from lska.planning.document import Means, knowledge
from lska.planning.estimates import Estimator
from lska.strict import merge
from lska.workflow import Plan


def plan(scale: str, changes: dict[str, Any] | None = None) -> Plan:
    """The plan of a scale in the current folder, with `changes` over its configuration."""
    path = Path("config") / f"{scale}.yaml"
    return Plan(merge(read_yaml(path), changes or {}), [path], {})


def estimator(made: Plan, **means: Any) -> Estimator:
    """Estimates from what lies in the current folder."""
    known, assumed = knowledge(made.config, Means(**means))
    costs = Costs()
    return Estimator(made, known, assumed, lambda network: costs.of(network).macs)


def job(rule: str, *outputs: str, gpus: int = 0, threads: int = 1, **wildcards: str) -> Job:
    """A job of Snakemake; one output where none is named."""
    return Job(0, rule, wildcards, (), outputs or ("out",), threads, gpus, "Missing output files: out")
