"""What DVC compares between commits: the headline numbers of each run, and the series that its plots draw.

Every number is that of a metric file or of a training's record; `lska summary --write` takes them together. This module
is imported while the Snakefile is parsed, so it imports nothing heavy.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from lska.claims.headlines import headlines
from lska.models.runs import Run
from lska.provenance.errors import InputError
from lska.provenance.files import (
    MissingFileError,
    csv_text,
    files_in,
    parse_json,
    quoted,
    read_lines,
    write_json,
    write_text,
)
from lska.settings.scale import Config
from lska.tables.measurements import MetricFolder, measurement_of
from lska.tables.specs import TARGETS, load_spec, requirements

COUNTED = "complexity"
"""Task that is counted for seed 0 of a network and holds for all of its seeds."""

FIELDS = {"step": "update", "epoch": "epoch", "loss": "loss", "learning_rate": "learning_rate"}
"""Fields of every line of a training's record by their columns; throughput is left out, it is a machine's."""

VALIDATED = "validation_"
"""Start of the fields that some of the lines have."""

Need = tuple[str, Run]
"""A metric file by its task and run."""

Numbers = dict[str, float | int]
"""Headline numbers by the names that DVC gives them: task and metric with dots, `robustness.c.mce_15`."""


def summary_needs(config: Config, counted: Collection[str] | None = None) -> dict[Run, tuple[Need, ...]]:
    """The metric files with the headline numbers of every run that a scale trains or measures, runs as listed.

    Args:
        counted: runs whose operations are counted, because a table or figure shows them; found out where None.
    """
    found: dict[Run, list[Need]] = {run: [("classification", run)] for run in config.runs}
    tuned = [(job.task, job.run) for job in config.fine_tunings]
    measured = [(item.task, run) for item in config.measured for run in config.runs_of(item.task)]
    for task, run in (*tuned, *measured):
        found.setdefault(run, []).append((task, run))
    if counted is None:
        shown = (need for target in TARGETS for need in requirements(load_spec(target), config))
        counted = {str(run) for task, run in shown if task == COUNTED}
    for run, listed in found.items():
        if str(run.with_seed(0)) in counted:
            listed.append((COUNTED, run.with_seed(0)))
    return {run: tuple(listed) for run, listed in found.items()}


def summary_inputs(config: Config, counted: Collection[str] | None = None) -> list[str]:
    """The metric files that the summaries of a scale are made of; `counted` as in `summary_needs`.

    The records of trainings are not among them: whoever asks for a record asks for a training, and in a clone without
    weights its time would decide. A training's metric files are younger than its record, and change with it.
    """
    listed = (need for one in summary_needs(config, counted).values() for need in one)
    return [str(config.metric_path(task, run)) for task, run in dict.fromkeys(listed)]


def summary_files(config: Config) -> list[str]:
    """All files that `lska summary --write` writes."""
    runs = (_summary_path(config, run) for run in summary_needs(config, ()))
    plots = (_plot_path(config, name) for name in ("networks", *_records(config)))
    return [str(path) for path in (*runs, *plots)]


def write_summaries(config: Config) -> list[Path]:
    """Write the files of a scale, each atomically, and remove those of runs and tasks that it no longer has.

    Raises:
        FileNotFoundError: a metric file or a training's record is missing; nothing was written.
        ValueError: one of them is faulty; names the file and the field; nothing was written.
    """
    summaries, plots = ({path: made() for path, made in made.items()} for made in summary_contents(config))
    for path, content in summaries.items():
        write_json(path, nested(content))
    for path, text in plots.items():
        write_text(path, text)
    for path in leftovers(config, [*summaries, *plots]):
        path.unlink()
    return [*summaries, *plots]


def leftovers(config: Config, current: Iterable[Path]) -> list[Path]:
    """Files of former runs and tasks, in the folders that hold the `current` ones and nothing else."""
    found = (*files_in(config.results / "summary", "*.json"), *files_in(config.results / "plots", "**/*.csv"))
    return sorted(set(found) - set(current))


def summary_contents(config: Config) -> tuple[dict[Path, Callable[[], Numbers]], dict[Path, Callable[[], str]]]:
    """What each run's file holds, and the text of each plot's table: a line for each run, and for each task the records
    of its trainings, one after the other; `series` is what a plot draws as one line.

    Each is made when it is asked for, by a function that raises FileNotFoundError or ValueError as `MetricFolder.read`,
    or for a missing or faulty record; each metric file is read once.
    """
    folder, listed = MetricFolder(config.scale, config.results), summary_needs(config)

    @functools.cache
    def of(run: Run) -> Numbers:
        return _numbers(folder, listed[run])

    summaries = {_summary_path(config, run): functools.partial(of, run) for run in listed}
    plots: dict[Path, Callable[[], str]] = {
        _plot_path(config, "networks"): lambda: _networks({run: of(run) for run in listed})
    }
    for task, logs in _records(config).items():
        plots[_plot_path(config, task)] = functools.partial(_trainings, logs)
    return summaries, plots


def nested(found: Mapping[str, Any]) -> dict[str, Any]:
    """Numbers with dotted names as mappings in mappings."""
    tree: dict[str, Any] = {}
    for name, value in found.items():
        *above, last = name.split(".")
        functools.reduce(lambda place, part: place.setdefault(part, {}), above, tree)[last] = value
    return tree


def _summary_path(config: Config, run: Run) -> Path:
    return config.results / "summary" / f"{run}.json"


def _plot_path(config: Config, name: str) -> Path:
    """Place of a plot's table, `networks` or the task of trainings."""
    return config.results / "plots" / f"{name}.csv"


def _records(config: Config) -> dict[str, dict[Run, Path]]:
    """The records of the scale's trainings by task and run."""
    found = {"classification": {run: config.training_log(run) for run in config.runs}}
    for job in config.fine_tunings:
        found.setdefault(job.task, {})[job.run] = job.log
    return found


def _numbers(folder: MetricFolder, listed: Iterable[Need]) -> Numbers:
    """The headline numbers in the listed metric files; what a file says is not there (null) is left out."""
    found: Numbers = {}
    for task, run in listed:
        content = folder.read(task, run)
        for metric in headlines(task).values():
            value = measurement_of(content, metric, folder.path(task, run), nullable=True).value
            if value is not None:
                found[f"{task.replace('/', '.')}.{metric}"] = value
    return found


def _networks(found: Mapping[Run, Numbers]) -> str:
    lines = []
    for run in sorted(found, key=lambda run: run.sort_key):
        series = "-".join([run.model, *([] if run.attention is None else [run.attention]), f"s{run.seed}"])
        about = {"series": series, "run": run, "model": run.model, "attention": run.attention}
        lines.append({**about, "kernel": run.kernel, "seed": run.seed, **found[run]})
    names = sorted({name for one in found.values() for name in one})
    return csv_text(["series", "run", "model", "attention", "kernel", "seed", *names], lines)


def _trainings(listed: Mapping[Run, Path]) -> str:
    lines = [line for run, path in listed.items() for line in _training(run, path)]
    validated = sorted({name for line in lines for name in line if name.startswith(VALIDATED)})
    return csv_text(["series", *FIELDS.values(), *validated], lines)


def _training(run: Run, path: Path) -> Iterator[dict[str, Any]]:
    remedy = "restore it with git where it was committed, or delete the weights of this run and train again"
    try:
        lines = read_lines(path)
    except MissingFileError as error:
        raise MissingFileError(f"{path}: the record of a training is missing; {remedy}") from error
    for number, line in lines:
        entry = parse_json(line, f"{path}: line {number}")
        more = {name: value for name, value in entry.items() if name.startswith(VALIDATED)}
        wanted = {name: entry.get(name) for name in (*FIELDS, *(name for name in more if more[name] is not None))}
        # True is an int, and no number.
        problems = [name for name, value in wanted.items() if type(value) not in (int, float)]
        if problems:
            raise InputError(
                f"{path}: line {number}: expected numbers for {', '.join(map(quoted, problems))}; {remedy}"
            )
        yield {"series": run, **{column: entry[name] for name, column in FIELDS.items()}, **more}
