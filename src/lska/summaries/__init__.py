"""What DVC compares between commits: the headline numbers of each run, and the series that its plots draw.

Every number is that of a metric file or of a training's record; `lska summary --write` takes them together. This module
is imported while the Snakefile is parsed, so it imports nothing heavy.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from lska.config import Config
from lska.runs import Run
from lska.tables.specs import TARGETS, load_spec, requirements

COUNTED = "complexity"
"""Task that is counted for seed 0 of a network and holds for all of its seeds."""

Need = tuple[str, Run]
"""A metric file by its task and run."""


def needs(config: Config, counted: Collection[str] | None = None) -> dict[Run, tuple[Need, ...]]:
    """The metric files with the headline numbers of every run that a scale trains or measures, runs as listed.

    Args:
        counted: runs whose operations are counted, because a table or figure shows them; found out where None.
    """
    found: dict[Run, list[Need]] = {run: [("classification", run)] for run in config.runs}
    for job in config.fine_tunings:
        found.setdefault(job.run, []).append((job.task, job.run))
    for item in config.measured:
        for run in config.runs_of(item.task):
            found.setdefault(run, []).append((item.task, run))
    counted = _counted(config) if counted is None else counted
    for run, listed in found.items():
        if str(run.with_seed(0)) in counted:
            listed.append((COUNTED, run.with_seed(0)))
    return {run: tuple(listed) for run, listed in found.items()}


def _counted(config: Config) -> set[str]:
    shown = (need for target in TARGETS for need in requirements(load_spec(target), config))
    return {str(run) for task, run in shown if task == COUNTED}


def inputs(config: Config, counted: Collection[str] | None = None) -> list[str]:
    """The metric files that the summaries of a scale are made of; `counted` as in `needs`.

    The records of trainings are not among them: whoever asks for a record asks for a training, and in a clone without
    weights its time would decide. A training's metric files are younger than its record, and change with it.
    """
    listed = (need for one in needs(config, counted).values() for need in one)
    return [str(config.metric_path(task, run)) for task, run in dict.fromkeys(listed)]


def records(config: Config) -> dict[str, dict[Run, Path]]:
    """The records of the scale's trainings by task and run."""
    found = {"classification": {run: config.training_log(run) for run in config.runs}}
    for job in config.fine_tunings:
        found.setdefault(job.task, {})[job.run] = job.log
    return found


def summary_path(config: Config, run: Run) -> Path:
    """Place of the headline numbers of a run."""
    return config.results / "summary" / f"{run}.json"


def networks_path(config: Config) -> Path:
    """Place of the same numbers as a table with a line for each run."""
    return config.results / "plots" / "networks.csv"


def training_path(config: Config, task: str) -> Path:
    """Place of the records of all trainings for a task, in one table."""
    return config.results / "plots" / f"{task}.csv"


def outputs(config: Config) -> list[str]:
    """All files that `lska summary --write` writes."""
    trainings = (training_path(config, task) for task in records(config))
    runs = (summary_path(config, run) for run in needs(config, ()))
    return [str(path) for path in (*runs, networks_path(config), *trainings)]
