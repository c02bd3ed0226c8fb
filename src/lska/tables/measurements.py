"""Reading one metric out of a metric file, with every fault of the file named."""

from __future__ import annotations

import math
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lska.models.runs import Run
from lska.provenance.errors import InputError
from lska.provenance.files import MissingFileError, quoted, read_json
from lska.provenance.metric_files import METRIC_SCHEMA, device_text, metric_path, seal_problem

AGAIN = "run its rule again"


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
    path: Path


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
        """Read the metric file of `run` and check what tables rely on (seal, schema, task, run and scale).

        Raises:
            FileNotFoundError: the file is not there; names it and the command that makes it.
            ValueError: it is not JSON, was edited after it was written, or a field is missing or has another value;
                names the file and the field.
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
        expected = {"schema": METRIC_SCHEMA, "task": task, "run": str(run), "scale": self.scale}
        for name, value in expected.items():
            if _field(content, name, path) != value:
                raise _unexpected(path, name, repr(value), content[name])
        for name in ("metrics", "detail", "environment"):
            _mapping(content.get(name, {}), name, path)
        for name in ("missing", "reasons"):
            _mapping(content.get("detail", {}).get(name) or {}, f"detail.{name}", path)
        problem = seal_problem(content) if self.seals else None
        if problem is not None:
            raise InputError(f"{path}: {problem}; restore it, or delete it and run its rule again")
        return content

    def measurement(self, task: str, run: Run | str, metric: str, nullable: bool = False) -> Measurement:
        """Read one metric of one run; raises as `read` and `measurement_of`."""
        return measurement_of(self.read(task, run), metric, self.path(task, run), nullable)


def measurement_of(content: dict[str, Any], metric: str, path: Path, nullable: bool = False) -> Measurement:
    """One metric of a metric file's content; `path` is named where it is wrong.

    Args:
        nullable: whether the value may be null.

    Raises:
        ValueError: the metric is missing, or one of its fields is not a finite number.
    """
    name = f"metrics.{metric}"
    entry, value = _field(content, name, path), _field(content, f"{name}.value", path)
    given = {key: entry.get(key) for key in ("n", "standard_error")}
    numbers = {key: None if one is None else _number(one, f"{name}.{key}", path) for key, one in given.items()}
    interval = entry.get("interval") or None
    if interval is not None and (not isinstance(interval, list) or len(interval) != 2):
        raise _unexpected(path, f"{name}.interval", "two numbers", interval)
    return Measurement(
        value=None if value is None and nullable else _number(value, f"{name}.value", path),
        unit=str(_field(content, f"{name}.unit", path)),
        interval=interval and tuple(_number(end, f"{name}.interval", path) for end in interval),
        data=None if _field(content, "data", path) is None else str(_field(content, "data.name", path)),
        device=device_text(_field(content, "environment", path)),
        path=path,
        **numbers,
    )


def _field(content: Any, name: str, path: Path) -> Any:
    """The entry at a dotted `name`."""
    for part in name.split("."):
        if not isinstance(content, dict) or part not in content:
            has = f"has {', '.join(sorted(map(str, content)))}" if isinstance(content, dict) else "is no mapping"
            raise InputError(f"{path}: field {name!r}: {part!r} is missing (its place {has}); {AGAIN}")
        content = content[part]
    return content


def _number(value: Any, name: str, path: Path) -> float | int:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise _unexpected(path, name, "a finite number", value)
    return value


def _mapping(value: Any, name: str, path: Path) -> None:
    if not isinstance(value, dict):
        raise _unexpected(path, name, "a mapping", value)


def _unexpected(path: Path, name: str, expected: str, found: Any) -> ValueError:
    return ValueError(f"{path}: field {name!r}: expected {expected}, found {quoted(found)}; {AGAIN}")
