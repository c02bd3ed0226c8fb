"""Whether the numbers of a metric file follow from what lies behind them, and how many of them do so."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lska.audit.findings import Finding, broken
from lska.models.runs import Run
from lska.settings.scale import Config

if TYPE_CHECKING:
    from lska.evaluate.derived import Derived, Kept

PRECISION = 1e-6
"""Relative; outcomes are kept in 32 bits, and their mean is taken in 64."""

COUNTED = ("complexity", "properties")
"""Start of the tasks whose numbers depend on the code alone."""


@dataclass(frozen=True)
class NumberTally:
    """Numbers of metric files by how much the evidence says of them; by task and field, such as `speed: value`."""

    recomputed: Counter[str] = field(default_factory=Counter)
    bounded: Counter[str] = field(default_factory=Counter)
    """Only a range, or a relation to other numbers, is known."""
    unknown: Counter[str] = field(default_factory=Counter)

    def __add__(self, other: NumberTally) -> NumberTally:
        kinds = zip(vars(self).values(), vars(other).values(), strict=True)
        return NumberTally(*(one + another for one, another in kinds))


def check_numbers(
    path: Path, kept: Kept, counted: Mapping[str, Mapping[str, Any]] | None = None
) -> tuple[list[Finding], NumberTally]:
    """Compare the entries of the metric file `path` with all that follows from `kept`.

    Args:
        counted: the entries as `count_again` gives them; None where nothing was counted.
    """
    from lska.evaluate.derived import Derived, derive

    found = {}
    for name, entry in kept.metrics.items():
        low, high = entry.get("interval", (0, 0))
        if low > high:
            place = f"metrics.{name}.interval"
            found[place] = broken(path, place, f"is {[low, high]}, whose lower end is above the upper one")
    try:
        derived = list(derive(kept))
    except ValueError as error:
        return [*found.values(), broken(path, "metrics", f"cannot be recomputed: {error}")], _tally(kept, ())
    derived += [Derived(name, "the code's counts", {"value": one["value"]}) for name, one in (counted or {}).items()]
    for one in derived:
        for place, text in _contradictions(one, kept.metrics.get(one.metric)):
            found.setdefault(place, broken(path, place, text))
    return list(found.values()), _tally(kept, derived)


def count_again(config: Config, task: str, run: str) -> Mapping[str, Mapping[str, Any]] | None:
    """The entries of a metric file as the code gives them now, which imports torch, and mmdet or mmseg for heads; None
    for tasks that depend on more than the code.

    Raises:
        ValueError: unknown network, head or module.
    """
    start, _, head = task.partition("/")
    if start not in COUNTED:
        return None
    if start == "properties":
        from lska.models.properties import measure_module

        return measure_module(run)
    from lska.evaluate.model_size import counts, dense_counts

    return (dense_counts(head, Run.parse(run)) if head else counts(Run.parse(run)))[0]


def _contradictions(derived: Derived, entry: Mapping[str, Any] | None) -> Iterator[tuple[str, str]]:
    """Places of numbers that are not what follows, and what is wrong with them."""
    from lska.evaluate.derived import fits

    place, source = f"metrics.{derived.metric}", derived.source
    if entry is None:
        yield place, f"is missing, although {source} give it"
        return
    said = {name: "is missing" if value is None else f"is {value!r}" for name, value in entry.items()}
    for name, expected in derived.fields.items():
        if not fits(entry.get(name), expected, PRECISION):
            yield f"{place}.{name}", f"{said.get(name, 'is missing')}, {source} give {expected!r}"
    if derived.bounds is not None:
        low, high = derived.bounds
        slack = PRECISION * max(1.0, abs(low), abs(high))
        if entry["value"] is None or not low - slack <= entry["value"] <= high + slack:
            yield f"{place}.value", f"{said['value']}, {source} lie between {low!r} and {high!r}"


def _tally(kept: Kept, derived: Iterable[Derived]) -> NumberTally:
    from lska.evaluate.derived import FIELDS

    tally, places = NumberTally(), [(metric, name) for metric, entry in kept.metrics.items() for name in entry]
    whole = {(one.metric, name) for one in derived if one.whole for name in one.fields}
    partly = {(one.metric, name) for one in derived for name in (*one.fields, *(("value",) if one.bounds else ()))}
    for place in places:
        if place[1] in FIELDS and kept.metrics[place[0]][place[1]] is not None:
            counts = tally.recomputed if place in whole else tally.bounded if place in partly else tally.unknown
            counts[f"{kept.task}: {place[1]}"] += 1
    return tally
