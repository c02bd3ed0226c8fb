"""Where the numbers of a table come from: one metric of a metric file, and the paper's own values."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from lska.models.runs import Run
from lska.provenance.errors import InputError
from lska.provenance.files import FileError, MissingFileError, quoted, read_json, read_table
from lska.provenance.metric_files import METRIC_SCHEMA, device_text, metric_path, seal_problem

PAPER_COLUMNS = ("table", "row", "column", "value", "unit", "source", "detail")
REFERENCE = "reference:"
"""Start of the names of rows that are no entries of the table, but other publications' values."""


class PaperValue(NamedTuple):
    """One value of the paper; `value` keeps the printed digits and is None where no value was found."""

    value: str | None
    unit: str
    source: str
    detail: str


def read_paper(path: Path) -> dict[tuple[str, str], PaperValue]:
    """The values of `paper/<table>.csv` (columns as in paper/README.md) by row and column, in the file's order.

    Raises:
        FileError: the file is missing or damaged, lacks a column, or gives one cell twice.
    """
    values: dict[tuple[str, str], PaperValue] = {}
    for number, line in read_table(path, PAPER_COLUMNS, filled=("table", "row", "column")):
        row, column = key = (line["row"], line["column"])
        if key in values:
            raise FileError(f"{path}: line {number}: row {quoted(row)}, column {quoted(column)} is given twice")
        values[key] = PaperValue(line["value"] or None, line["unit"], line["source"], line["detail"])
    return values


@dataclass(frozen=True)
class Measurement:
    """One metric of one run, as measured (before a column's factor)."""

    value: float | int | None
    """None where the file says that the run has no such quantity."""
    unit: str
    n: int | None
    standard_error: float | None
    interval: tuple[float, float] | None
    data: str | None
    """Name of the data set, None for metrics that need none."""
    device: str


@dataclass(frozen=True)
class MetricFolder:
    """The metric files of a scale, `<results>/metrics/<task>/<run>.json`."""

    scale: str
    results: Path
    seals: bool = True
    """Whether files whose seal is broken are refused; those without one were written before there were any."""

    def path(self, task: str, run: Run | str) -> Path:
        """Place of a metric file."""
        return metric_path(self.results, task, run)

    def read(self, task: str, run: Run | str) -> dict[str, Any]:
        """The content of a metric file; that it is the one of this task, run and scale, and unedited, is checked.

        Raises:
            FileNotFoundError: the file is not there; names the command that makes it.
            ValueError: it is no JSON, was edited after it was written, or is another task's, run's or scale's.
        """
        path = self.path(task, run)
        try:
            content = read_json(path)
        except FileNotFoundError as error:
            command = f"snakemake --cores 1 --configfile config/{self.scale}.yaml -- {shlex.quote(str(path))}"
            raise MissingFileError(
                f"{path}: metric file missing, although the configuration of scale {self.scale!r} asks for it; "
                f"make it with the rule of task {task!r}: {command}"
            ) from error
        for name, value in {"schema": METRIC_SCHEMA, "task": task, "run": str(run), "scale": self.scale}.items():
            if content.get(name) != value:
                found = quoted(content.get(name))
                raise InputError(f"{path}: field {name!r}: expected {value!r}, found {found}; run its rule again")
        problem = seal_problem(content) if self.seals else None
        if problem is not None:
            raise InputError(f"{path}: {problem}; restore it, or delete it and run its rule again")
        return content

    def measurement(self, task: str, run: Run | str, metric: str, nullable: bool = False) -> Measurement:
        """Read one metric of one run; raises as `read` and `measurement_of`."""
        return measurement_of(self.read(task, run), metric, self.path(task, run), nullable)


def measurement_of(content: dict[str, Any], metric: str, path: Path, nullable: bool = False) -> Measurement:
    """One metric of a metric file's content; `path` is named where it is wrong, `nullable` allows a value of null.

    Raises:
        ValueError: the metric is missing, or one of its fields is no number.
    """
    try:
        entry, data = content["metrics"][metric], content["data"]
        value, n, error, interval = (entry.get(name) for name in ("value", "n", "standard_error", "interval"))
        low, high = interval or (None, None)
        numbers = [number for number in (value, n, error, low, high) if number is not None]
        if any(type(number) not in (int, float) for number in numbers) or (value is None and not nullable):
            raise TypeError("no number")
        return Measurement(
            value, str(entry["unit"]), n, error, interval=(low, high) if interval else None,
            data=None if data is None else str(data["name"]), device=device_text(content["environment"]),
        )  # fmt: skip
    except (AttributeError, KeyError, TypeError, ValueError) as fault:
        metrics = content.get("metrics")
        known = metrics if isinstance(metrics, dict) else {}
        found = quoted(known[metric]) if metric in known else f"the metrics {', '.join(sorted(known)) or 'none'}"
        raise InputError(
            f"{path}: field 'metrics.{metric}': expected a number with its unit (and the file's data and environment), "
            f"found {found}; run its rule again"
        ) from fault
