"""The numbers behind a claim: each quantity over its seeds, with what its error comes from."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lska.claims.listing import claim_runs
from lska.claims.predicates import Quantity
from lska.models.runs import Run
from lska.provenance.errors import InputError
from lska.provenance.outcomes import Outcomes, outcomes_path, read_outcomes
from lska.tables.measurements import Measurement, MetricFolder, measurement_of
from lska.tables.specs import ConfigLike

PAIRED = ("images", "samples")
"""Kinds of outcomes that two networks are compared by, item by item."""

MEDIAN_ERROR = 1.2533 / 1.349
"""Standard error of a median times sqrt(n), in units of the distance of the quartiles, for normal observations."""


class Unavailable(Exception):
    """A quantity that a scale does not have; the text says why."""


@dataclass(frozen=True)
class Pairing:
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

    `value` is the mean over seeds and `values` has one entry per seed. `outcomes` (length of the pairing,) are means
    over seeds too. Where there are none, `standard_error` may be known from the metric files alone; both None: unknown.
    """

    quantity: Quantity
    runs: tuple[Run, ...]
    values: tuple[float, ...]
    unit: str
    n: int | None
    standard_error: float | None
    pairing: Pairing | None
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
        of_images = self.pairing is not None and self.pairing.kind == "images"
        return of_images and bool(np.isin(self.outcomes, (0, 100)).all())


def evidence_of(quantity: Quantity, config: ConfigLike, folder: MetricFolder) -> Evidence:
    """Read the metric files and outcomes of a quantity.

    Raises:
        Unavailable: the scale has no such run, or it was not measured (yet), or the metric has no value.
        ValueError: a file is faulty; names it.
    """
    runs = claim_runs(quantity, config)
    if not runs:
        raise Unavailable(f"scale {config.scale} has no {quantity.task} of {quantity.network}")
    contents = {}
    for run in runs:
        try:
            contents[folder.path(quantity.task, run)] = folder.read(quantity.task, run)
        except FileNotFoundError as error:
            raise Unavailable(f"{quantity.task} of {run}: not measured yet") from error
    found = [_measured(quantity, content, path) for path, content in contents.items()]
    paired = [_outcomes(quantity, content, path) for path, content in contents.items()]
    pairings = {pairing for pairing, _ in paired}
    pairing = pairings.pop() if len(pairings) == 1 else None
    hardware = (str(content["environment"].get("hardware", "unknown")) for content in contents.values())
    return Evidence(
        quantity=quantity,
        runs=runs,
        values=tuple(float(one.value) for one in found),
        unit=found[0].unit,
        n=next((one.n for one in found if one.n is not None), None),
        standard_error=_standard_error(quantity, found),
        pairing=pairing,
        outcomes=None if pairing is None else np.mean([values for _, values in paired], axis=0),
        data=tuple(dict.fromkeys(one.data for one in found if one.data is not None)),
        devices=tuple(dict.fromkeys(hardware)),
        files=tuple(contents),
    )


def _measured(quantity: Quantity, content: Mapping[str, Any], path: Path) -> Measurement:
    metrics = content.get("metrics", {})
    if quantity.metric not in metrics:
        known = ", ".join(sorted(metrics))
        raise InputError(f"{path}: no metric {quantity.metric!r}, which a claim reads; it has {known}")
    found = measurement_of(content, quantity.metric, path, nullable=True)
    if found.value is None:
        raise Unavailable(f"{quantity}: without a value in {path.as_posix()}")
    return found


def _outcomes(quantity: Quantity, content: Mapping[str, Any], path: Path) -> tuple[Pairing | None, np.ndarray]:
    """The outcomes of one seed; no pairing where its metric file has none of the metric."""
    kept = read_outcomes(outcomes_path(path), content["outcomes"]) if content.get("outcomes") else Outcomes()
    for kind in PAIRED:
        values = getattr(kept, kind).get(quantity.metric)
        if values is not None:
            detail, data = content.get("detail", {}), content["data"] or {}
            # `n` of a metric is that of its observations, for dimensions of pairs of images.
            observed = detail.get("images", content["metrics"][quantity.metric].get("n"))
            images = len(values) if kind == "images" else observed
            protocol, digest = str(detail.get("protocol", "")), str(data.get("digest"))
            return Pairing(quantity.task, digest, protocol, kind, len(values), images), values
    return None, np.empty(0)


def _standard_error(quantity: Quantity, found: Sequence[Measurement]) -> float | None:
    """That of the metric files: sampling error, which seeds on the same images do not reduce."""
    if quantity.counted:
        return 0.0
    errors = [one.standard_error for one in found]
    if quantity.task == "speed":
        timed = ((one.interval, one.n) for one in found)
        errors = [
            MEDIAN_ERROR * (interval[1] - interval[0]) / math.sqrt(n) if interval and n else error
            for (interval, n), error in zip(timed, errors, strict=True)
        ]
    return None if None in errors else math.sqrt(sum(error**2 for error in errors) / len(errors))
