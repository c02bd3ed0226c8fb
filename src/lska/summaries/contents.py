"""The content of the files that DVC compares, and writing them."""

from __future__ import annotations

import csv
import functools
import io
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from lska.config import Config
from lska.files import MissingFileError, files_in, parse_json, quoted, read_lines, write_json, write_text
from lska.headlines import headlines
from lska.runs import Run
from lska.summaries import Need, needs, networks_path, records, summary_path, training_path
from lska.tables.measurements import MetricFolder, measurement_of

Numbers = dict[str, float | int]
"""Headline numbers by the names that DVC gives them: task and metric with dots, `robustness.c.mce_15`."""

FIELDS = {"step": "update", "epoch": "epoch", "loss": "loss", "learning_rate": "learning_rate"}
"""Fields of every line of a training's record by their columns; throughput is left out, it is a machine's."""

VALIDATED = "validation_"
"""Start of the fields that some of the lines have."""


def write(config: Config) -> list[Path]:
    """Write the files of a scale, each atomically, and remove those of runs and tasks that it no longer has.

    Raises:
        FileNotFoundError: a metric file or a training's record is missing; nothing was written.
        ValueError: one of them is faulty; names the file and the field; nothing was written.
    """
    summaries, plots = ({path: made() for path, made in made.items()} for made in by_file(config))
    for path, content in summaries.items():
        write_json(path, nested(content))
    for path, text in plots.items():
        write_text(path, text)
    for path in leftovers(config, [*summaries, *plots]):
        path.unlink()
    return [*summaries, *plots]


def leftovers(config: Config, current: Iterable[Path]) -> list[Path]:
    """Files of former runs and tasks, in the folders that hold the `current` ones and nothing else."""
    kept = set(current)
    found = (*files_in(config.results / "summary", "*.json"), *files_in(config.results / "plots", "**/*.csv"))
    return sorted(path for path in found if path not in kept)


def by_file(config: Config) -> tuple[dict[Path, Callable[[], Numbers]], dict[Path, Callable[[], str]]]:
    """What each run's file holds, and the text of each plot's table; made when it is asked for, by functions that raise
    as `numbers` and `trainings`. Each metric file is read once.
    """
    folder, listed = MetricFolder(config.scale, config.results), needs(config)

    @functools.cache
    def of(run: Run) -> Numbers:
        return numbers(folder, listed[run])

    summaries = {summary_path(config, run): functools.partial(of, run) for run in listed}
    plots: dict[Path, Callable[[], str]] = {networks_path(config): lambda: networks({run: of(run) for run in listed})}
    for task, logs in records(config).items():
        plots[training_path(config, task)] = functools.partial(trainings, logs)
    return summaries, plots


def numbers(folder: MetricFolder, listed: Iterable[Need]) -> Numbers:
    """The headline numbers in the listed metric files; what a file says is not there (null) is left out.

    Raises:
        FileNotFoundError, ValueError: as `lska.tables.measurements.MetricFolder.read`.
    """
    found: Numbers = {}
    for task, run in listed:
        content = folder.read(task, run)
        for metric in headlines(task).values():
            value = measurement_of(content, metric, folder.path(task, run), nullable=True).value
            if value is not None:
                found[f"{task.replace('/', '.')}.{metric}"] = value
    return found


def nested(found: Mapping[str, Any]) -> dict[str, Any]:
    """Numbers with dotted names as mappings in mappings."""
    tree: dict[str, Any] = {}
    for name, value in found.items():
        *above, last = name.split(".")
        place = tree
        for part in above:
            place = place.setdefault(part, {})
        place[last] = value
    return tree


def networks(found: Mapping[Run, Numbers]) -> str:
    """The numbers of all runs, a line for each in the order of tables; `series` is the run without its kernel size."""
    lines = []
    for run in sorted(found, key=lambda run: run.sort_key):
        parts = [run.model, *([] if run.attention is None else [run.attention]), f"s{run.seed}"]
        about = {"series": "-".join(parts), "run": run, "model": run.model, "attention": run.attention}
        lines.append({**about, "kernel": run.kernel, "seed": run.seed, **found[run]})
    names = sorted({name for one in found.values() for name in one})
    return _csv(["series", "run", "model", "attention", "kernel", "seed", *names], lines)


def trainings(listed: Mapping[Run, Path]) -> str:
    """The records of trainings, one after the other; `series` is the run.

    Raises:
        FileNotFoundError: a record is missing.
        ValueError: a line of a record is no JSON, or lacks a field; names it.
    """
    lines = [line for run, path in listed.items() for line in _training(run, path)]
    validated = sorted({name for line in lines for name in line if name.startswith(VALIDATED)})
    return _csv(["series", *FIELDS.values(), *validated], lines)


def _training(run: Run, path: Path) -> Iterator[dict[str, Any]]:
    remedy = "restore it with git where it was committed, or delete the weights of this run and train again"
    try:
        lines = read_lines(path)
    except MissingFileError as error:
        raise FileNotFoundError(f"{path}: the record of a training is missing; {remedy}") from error
    for number, line in lines:
        entry = parse_json(line, f"{path}: line {number}")
        problems = [name for name in FIELDS if not _is_number(entry.get(name))]
        more = {name: value for name, value in entry.items() if name.startswith(VALIDATED)}
        problems += [name for name, value in more.items() if value is not None and not _is_number(value)]
        if problems:
            raise ValueError(
                f"{path}: line {number}: expected numbers for {', '.join(map(quoted, problems))}; {remedy}"
            )
        fields = {column: entry[name] for name, column in FIELDS.items()}
        yield {"series": run, **fields, **more}


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _csv(columns: list[str], lines: Iterable[Mapping[str, Any]]) -> str:
    stream = io.StringIO()
    writer = csv.DictWriter(stream, columns, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return stream.getvalue()
