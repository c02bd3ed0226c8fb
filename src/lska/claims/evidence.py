"""The numbers behind a claim: each quantity over its seeds, with what its error comes from."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lska.claims.listing import runs_of
from lska.claims.predicates import Quantity
from lska.outcomes import Outcomes, outcomes_path, read_outcomes
from lska.runs import Run
from lska.tables.measurements import MetricFolder, measurement_of
from lska.tables.specs import ConfigLike

PAIRED = ("images", "samples")
"""Kinds of outcomes that two networks are compared by, item by item."""

MEDIAN_ERROR = 1.2533 / 1.349
"""Standard error of a median times sqrt(n), in units of the distance of the quartiles, for normal observations."""


class Unavailable(Exception):
    """A quantity that a scale does not have; the text says why."""


@dataclass(frozen=True)
class Group:
    """What makes outcomes comparable item by item: the same task, images, protocol and kind of outcomes."""

    task: str
    data: str
    """Digest of the data set."""
    protocol: str
    kind: str
    """`images`: one value per image, whose mean is the metric; `samples`: one value per bootstrap sample."""
    length: int
    images: int | None = None
    """Number of images behind the outcomes, where the metric files tell it: fewer where a network skipped some, whose
    samples are others."""


@dataclass(frozen=True, eq=False)
class Evidence:
    """A quantity as measured at a scale, in the unit of its metric files.

    `value` is the mean over seeds and `values` has one entry per seed. `outcomes` (length of the group,) are means over
    seeds too. Where there are none, `standard_error` may be known from the metric files alone; both None: unknown.
    """

    quantity: Quantity
    runs: tuple[Run, ...]
    values: tuple[float, ...]
    unit: str
    n: int | None
    standard_error: float | None
    group: Group | None
    outcomes: np.ndarray | None
    data: tuple[str, ...]
    devices: tuple[str, ...]
    files: tuple[Path, ...]

    @property
    def value(self) -> float:
        """Mean over seeds."""
        return math.fsum(self.values) / len(self.values)

    @property
    def binary(self) -> bool:
        """Whether each image is right or wrong (0 or 100), and one seed measured."""
        return self.group is not None and self.group.kind == "images" and bool(np.isin(self.outcomes, (0, 100)).all())


def collect(quantity: Quantity, config: ConfigLike, folder: MetricFolder) -> Evidence:
    """Read the metric files and outcomes of a quantity.

    Raises:
        Unavailable: the scale has no such run, or it was not measured (yet), or the metric has no value.
        ValueError: a file is faulty; names it.
    """
    runs = runs_of(quantity, config)
    if not runs:
        raise Unavailable(f"scale {config.scale} has no {quantity.task} of {quantity.network}")
    contents = [_read(quantity, run, folder) for run in runs]
    files = tuple(folder.path(quantity.task, run) for run in runs)
    entries = [_entry(content, quantity, path) for content, path in zip(contents, files, strict=True)]
    found = [measurement_of(content, quantity.metric, path) for content, path in zip(contents, files, strict=True)]
    group, outcomes = _outcomes(quantity, contents, files)
    counts = [entry["n"] for entry in entries if "n" in entry]
    data = dict.fromkeys(one.data for one in found if one.data is not None)
    return Evidence(
        quantity, runs, tuple(float(one.value) for one in found), found[0].unit,
        counts[0] if counts else None, _own_error(quantity, entries), group, outcomes, tuple(data),
        tuple(dict.fromkeys(str(content["environment"].get("hardware", "unknown")) for content in contents)), files,
    )  # fmt: skip


def _read(quantity: Quantity, run: Run, folder: MetricFolder) -> dict[str, Any]:
    try:
        return folder.read(quantity.task, run)
    except FileNotFoundError as error:
        raise Unavailable(f"{quantity.task} of {run}: not measured yet") from error


def _entry(content: Mapping[str, Any], quantity: Quantity, path: Path) -> dict[str, Any]:
    metrics = content.get("metrics", {})
    if quantity.metric not in metrics:
        known = ", ".join(sorted(metrics))
        raise ValueError(f"{path}: no metric {quantity.metric!r}, which a claim reads; it has {known}")
    if measurement_of(content, quantity.metric, path, nullable=True).value is None:
        raise Unavailable(f"{quantity}: without a value in {path.as_posix()}")
    return metrics[quantity.metric]


def _outcomes(
    quantity: Quantity, contents: list[dict[str, Any]], files: tuple[Path, ...]
) -> tuple[Group | None, np.ndarray | None]:
    """Outcomes averaged over the seeds, where all seeds have them on the same items."""
    found = [_of_run(quantity, content, path) for content, path in zip(contents, files, strict=True)]
    groups = {group for group, _ in found}
    if len(groups) != 1 or None in groups:
        return None, None
    return groups.pop(), np.mean([values for _, values in found], axis=0)


def _of_run(quantity: Quantity, content: Mapping[str, Any], path: Path) -> tuple[Group | None, np.ndarray]:
    """The outcomes of one seed; no group where its metric file has none of the metric."""
    kept = read_outcomes(outcomes_path(path), content["outcomes"]) if content.get("outcomes") else Outcomes()
    for kind in PAIRED:
        values = getattr(kept, kind).get(quantity.metric)
        if values is not None:
            detail, data = content.get("detail", {}), content["data"] or {}
            # `n` of a metric is that of its observations, for dimensions of pairs of images.
            observed = detail.get("images", content["metrics"][quantity.metric].get("n"))
            images = len(values) if kind == "images" else observed
            protocol, digest = str(detail.get("protocol", "")), str(data.get("digest"))
            return Group(quantity.task, digest, protocol, kind, len(values), images), values
    return None, np.empty(0)


def _own_error(quantity: Quantity, entries: list[dict[str, Any]]) -> float | None:
    """Standard error that the metric files give: sampling error, which seeds on the same images do not reduce."""
    if quantity.counted:
        return 0.0
    errors = [_error(quantity, entry) for entry in entries]
    known = [error for error in errors if error is not None]
    return math.sqrt(sum(error**2 for error in known) / len(known)) if len(known) == len(errors) else None


def _error(quantity: Quantity, entry: Mapping[str, Any]) -> float | None:
    if quantity.task == "speed" and "interval" in entry and entry.get("n"):
        low, high = entry["interval"]
        return MEDIAN_ERROR * (high - low) / math.sqrt(entry["n"])
    return entry.get("standard_error")
