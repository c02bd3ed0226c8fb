"""The state of a cell: how our value stands to the paper's."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import ROUND_DOWN, ROUND_HALF_UP, Decimal, InvalidOperation
from enum import StrEnum
from statistics import fmean, stdev

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


def compare(
    column: ColumnSpec, value: Decimal, printed: str, standard_error: float | None, spread: float | None
) -> tuple[State, str]:
    """State of a number measured as the paper measured it, and a note on how it was compared.

    Args:
        value: ours, in the column's unit.
        printed: the paper's value with its printed digits.
        standard_error: of our mean, in the column's unit.
        spread: standard deviation that one run would show, in the column's unit; the paper's single run is given it.

    Raises:
        ValueError: `printed` is not a number.
    """
    try:
        paper = Decimal(printed)
    except InvalidOperation as error:
        raise ValueError(f"the paper's value {printed!r} in column {column.label!r} is not a number") from error
    if column.tolerance in ("printed", "printed or cut"):
        return _compare_digits(value, paper, cut=column.tolerance == "printed or cut")
    allowed = column.margin
    if column.tolerance == "noise":
        allowed = max(allowed, 2 * math.hypot(standard_error or 0.0, spread or 0.0))
    difference = abs(float(value - paper))
    half_digit = float(_unit_in_last_place(paper)) / 2
    state = State.REPRODUCED if difference <= allowed + half_digit else State.DEVIATES
    return state, f"differs by {difference:.3g}, {allowed + half_digit:.3g} allowed"


def _compare_digits(value: Decimal, paper: Decimal, cut: bool) -> tuple[State, str]:
    place = _unit_in_last_place(paper)
    rounded = value.quantize(place, ROUND_HALF_UP)
    if rounded == paper:
        return State.REPRODUCED, "equal when rounded to the printed digits"
    if cut and value.quantize(place, ROUND_DOWN) == paper:
        return State.REPRODUCED, "equal when cut, not rounded, to the printed digits"
    return State.DEVIATES, f"{rounded} when rounded to the printed digits"


def _unit_in_last_place(paper: Decimal) -> Decimal:
    return Decimal(1).scaleb(int(paper.as_tuple().exponent))


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
