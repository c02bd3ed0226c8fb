"""Whether the numbers of a metric file follow from what lies behind them, and how many of them do so."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lska.verify.findings import Finding, Level, Tally

if TYPE_CHECKING:
    from lska.evaluate.derived import Derived, Kept

PRECISION = 1e-6
"""Relative; outcomes are kept in 32 bits, and their mean is taken in 64."""


def check(path: Path, kept: Kept, again: Mapping[str, Mapping[str, Any]] | None = None) -> tuple[list[Finding], Tally]:
    """Compare the entries of the metric file `path` with all that follows from `kept`.

    Args:
        again: the entries as they were counted again; None where they were not.
    """
    from lska.evaluate.derived import Derived, derive

    found = list(_intervals(path, kept))
    try:
        derived = list(derive(kept))
    except ValueError as error:
        text = f"cannot be recomputed: {error}"
        return [*found, Finding(Level.BROKEN, path, "metrics", text)], _tally(kept, ())
    derived += [Derived(name, "the code's counts", {"value": entry["value"]}) for name, entry in (again or {}).items()]
    for one in derived:
        found += _compared(path, kept.metrics.get(one.metric), one)
    return list({finding.place: finding for finding in reversed(found)}.values())[::-1], _tally(kept, derived)


def _intervals(path: Path, kept: Kept) -> Iterator[Finding]:
    for name, entry in kept.metrics.items():
        low, high = entry.get("interval", (0, 0))
        if low > high:
            text = f"is {entry['interval']}, whose lower end is above the upper one"
            yield Finding(Level.BROKEN, path, f"metrics.{name}.interval", text)


def _compared(path: Path, entry: Mapping[str, Any] | None, derived: Derived) -> Iterator[Finding]:
    from lska.evaluate.derived import fits

    if entry is None:
        text = f"is missing, although {derived.source} give it"
        yield Finding(Level.BROKEN, path, f"metrics.{derived.metric}", text)
        return
    for name, expected in derived.fields.items():
        if not fits(entry.get(name), expected, PRECISION):
            text = f"{_said(entry.get(name))}, {derived.source} give {expected!r}"
            yield Finding(Level.BROKEN, path, f"metrics.{derived.metric}.{name}", text)
    if derived.bounds is not None and not _within(entry["value"], derived.bounds):
        low, high = derived.bounds
        text = f"{_said(entry['value'])}, {derived.source} lie between {low!r} and {high!r}"
        yield Finding(Level.BROKEN, path, f"metrics.{derived.metric}.value", text)


def _said(value: Any) -> str:
    return "is missing" if value is None else f"is {value!r}"


def _within(value: float | None, bounds: tuple[float, float]) -> bool:
    if value is None:
        return False
    slack = PRECISION * max(1.0, *map(abs, bounds))
    return bounds[0] - slack <= value <= bounds[1] + slack


def _tally(kept: Kept, derived: tuple[Derived, ...] | list[Derived]) -> Tally:
    from lska.evaluate.derived import FIELDS

    whole = {(one.metric, name) for one in derived if one.whole for name in one.fields}
    partly = {(one.metric, name) for one in derived if not one.whole for name in one.fields}
    partly |= {(one.metric, "value") for one in derived if one.bounds is not None}
    tally = Tally()
    for metric, entry in kept.metrics.items():
        for name in FIELDS:
            if entry.get(name) is not None:
                place = (metric, name)
                counts = tally.recomputed if place in whole else tally.bounded if place in partly else tally.unknown
                counts[f"{kept.task}: {name}"] += 1
    return tally
