"""The state of a cell: how our value stands to the paper's."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import ROUND_DOWN, ROUND_HALF_UP, Decimal, InvalidOperation
from enum import StrEnum
from statistics import fmean, stdev
from typing import NamedTuple

from lska.provenance.errors import InputError
from lska.tables.specs import ColumnSpec


class State(StrEnum):
    """Every cell has exactly one state."""

    REPRODUCED = "reproduced"
    DEVIATES = "deviates"
    OTHER_DATA = "other data"
    UNKNOWN = "no printed value known"
    NOT_RUN = "not run"
    REFERENCE = "reference"
    CONTROL = "control"
    PARTIAL = "partial"
    NOT_APPLICABLE = "does not apply"


MEANING = {
    State.REPRODUCED: "equal at the printed digits, or within tolerance or noise",
    State.DEVIATES: "measured as the paper did, with another result",
    State.OTHER_DATA: "from other data, a shrunken model or another count; the paper's value is for reference only",
    State.UNKNOWN: "the paper's value was not found",
    State.NOT_RUN: "nothing was trained or measured at this scale",
    State.REFERENCE: "published elsewhere; nothing is measured here",
    State.CONTROL: "fine-tuned in the same way from a random backbone; no entry of the paper",
    State.PARTIAL: "a part of the data set was not there, so that there is no mean over it",
    State.NOT_APPLICABLE: "the row, or what it was measured on, has no such quantity",
}


class Agreement(NamedTuple):
    """How a value stands to the printed one, how they were compared, and whether they are equal only if ours is cut,
    not rounded, to the printed digits."""

    state: State
    note: str
    cut: bool = False


def compare(
    column: ColumnSpec, value: Decimal, printed: str, standard_error: float | None, spread: float | None
) -> Agreement:
    """Compare a number measured as the paper measured it; all are in the column's unit.

    Args:
        printed: the paper's value with its printed digits.
        standard_error: of our mean.
        spread: standard deviation that one run would show; the paper's single run is given it.

    Raises:
        ValueError: `printed` is not a number.
    """
    try:
        paper = Decimal(printed)
    except InvalidOperation as error:
        raise InputError(f"the paper's value {printed!r} in column {column.label!r} is not a number") from error
    place = Decimal(1).scaleb(int(paper.as_tuple().exponent))
    if column.tolerance in ("printed", "printed or cut"):
        rounded = value.quantize(place, ROUND_HALF_UP)
        if rounded == paper:
            return Agreement(State.REPRODUCED, "equal when rounded to the printed digits")
        if column.tolerance == "printed or cut" and value.quantize(place, ROUND_DOWN) == paper:
            return Agreement(State.REPRODUCED, "equal when cut, not rounded, to the printed digits", cut=True)
        return Agreement(State.DEVIATES, f"{rounded} when rounded to the printed digits")
    allowed = column.margin
    if column.tolerance == "noise":
        allowed = max(allowed, 2 * math.hypot(standard_error or 0.0, spread or 0.0))
    allowed += float(place) / 2
    difference = abs(float(value - paper))
    state = State.REPRODUCED if difference <= allowed else State.DEVIATES
    return Agreement(state, f"differs by {difference:.3g}, {allowed:.3g} allowed")


@dataclass(frozen=True)
class Pooled:
    """A value over seeds; None where nothing is known."""

    mean: float
    deviation: float | None
    """Sample standard deviation over seeds; None for one seed."""
    standard_error: float | None
    """Of the mean: sqrt(sampling error^2 + deviation^2 / seeds)."""
    spread: float | None
    """Standard deviation of a single run: sqrt(sampling error^2 + deviation^2)."""


def pool(values: Sequence[float], errors: Sequence[float | None]) -> Pooled:
    """Combine the runs of all seeds, given their values and standard errors.

    All seeds are scored on the same images, so the sampling error of these images does not shrink with the number of
    seeds, while the deviation between seeds does.
    """
    deviation = stdev(values) if len(values) > 1 else None
    known = [error for error in errors if error is not None]
    if deviation is None and not known:
        return Pooled(fmean(values), None, None, None)
    sampling = fmean(error**2 for error in known) if known else 0.0
    between = (deviation or 0.0) ** 2
    error = math.sqrt(sampling + between / len(values))
    return Pooled(fmean(values), deviation, error, math.sqrt(sampling + between))
