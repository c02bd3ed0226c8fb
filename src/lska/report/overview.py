"""The first page: what was reproduced, how surely, and why."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from lska.report.gather import Results, Target
from lska.report.tables import style
from lska.summary import HEADLINES
from lska.tables.collect import Cell
from lska.tables.states import MEANING, State

COMPARED = (State.REPRODUCED, State.DEVIATES)


@dataclass(frozen=True)
class StateCount:
    """A state, its name for styles, its meaning and the number of cells in it."""

    name: str
    style: str
    meaning: str
    count: int


@dataclass(frozen=True)
class Tally:
    """A table or figure with its cells by state, in the order of `State`; zero where none is."""

    target: Target
    counts: tuple[StateCount, ...]

    @property
    def cells(self) -> int:
        """Number of its cells."""
        return sum(state.count for state in self.counts)


@dataclass(frozen=True)
class Comparison:
    """How many of the values that can be compared with the paper's are reproduced."""

    reproduced: int
    compared: int
    other: int
    """Measured on other data or a shrunken model, and so not comparable."""


@dataclass(frozen=True)
class Headline:
    """A measured network: what, on which data, the value in percent with its error, and the number of images."""

    network: str
    task: str
    metric: str
    value: str
    n: str
    data: str


def tally(target: Target) -> Tally:
    """Count the cells of a target."""
    return Tally(target, count(target.table.cells if target.table is not None else ()))


def count(cells: Iterable[Cell]) -> tuple[StateCount, ...]:
    """Number of cells in each state."""
    found = Counter(cell.state for cell in cells)
    return tuple(StateCount(str(state), style(state), MEANING[state], found[state]) for state in State)


def comparison(results: Results, counted: bool) -> Comparison:
    """Compare the cells of all tables that are `counted` from an architecture, or those that are measured."""
    states = [cell.state for cell, is_counted in _cells(results) if is_counted == counted and cell.paper is not None]
    compared = sum(state in COMPARED for state in states)
    return Comparison(states.count(State.REPRODUCED), compared, states.count(State.OTHER_DATA))


def _cells(results: Results) -> Iterator[tuple[Cell, bool]]:
    """Cells of all tables, and whether each depends on the architecture alone."""
    for target in results.of("table"):
        for row in target.table.rows if target.table is not None else ():
            for column, cell in zip(target.table.spec.columns, row.cells, strict=True):
                yield cell, column.data is None


def headlines(results: Results) -> list[Headline]:
    """Top-1 of every trained network, AP or mIoU of every fine-tuned one."""
    config, rows = results.config, []
    for run in config.runs:
        content = results.metrics.get(config.metric_path("classification", run))
        rows += _headlines(content, str(run), {"top-1": "top1"})
    for job in config.fine_tunings:
        rows += _headlines(results.metrics.get(job.metrics), str(job.run), HEADLINES)
    return rows


def _headlines(content: dict[str, Any] | None, network: str, names: dict[str, str]) -> Iterator[Headline]:
    """The named metrics of a metric file, as far as it has them."""
    for label, name in names.items() if content is not None else ():
        entry = content["metrics"].get(name)
        if entry is not None and entry["value"] is not None:
            error = entry.get("standard_error")
            value = f"{entry['value']:.1f}" + ("" if error is None else f" ± {error:.1f}")
            images = f"{entry['n']:,}" if entry.get("n") else ""
            yield Headline(network, content["task"], label, value, images, (content["data"] or {}).get("name", ""))


def seeds(results: Results) -> int:
    """The largest number of seeds that any network was trained with."""
    networks = Counter(str(run.with_seed(0)) for run in results.config.runs)
    return max(networks.values(), default=0)
