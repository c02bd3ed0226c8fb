"""The first page: what was reproduced, how surely, and why."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from lska.claims.headlines import headlines
from lska.finetuning import CONTROL
from lska.report.gather import Results, Target
from lska.report.tables import style
from lska.runs import Run
from lska.tables.cell_states import MEANING, State, pool
from lska.tables.collect import Cell
from lska.tables.specs import display_names

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
    """How many of the values that can be compared with one kind of source are reproduced."""

    reproduced: int
    compared: int


@dataclass(frozen=True)
class Elsewhere:
    """Values measured on other data or a shrunken model, which cannot be compared with the paper's."""

    measured: int
    beside: int
    """Those beside which a value of the paper stands."""


@dataclass(frozen=True)
class Networks:
    """Measured networks: a column per metric with its data, a row per network; empty where nothing was run."""

    columns: tuple[tuple[str, str], ...]
    rows: tuple[tuple[str, tuple[str, ...]], ...]


def tally(target: Target) -> Tally:
    """Count the cells of a target."""
    return Tally(target, count(target.table.cells if target.table is not None else ()))


def count(cells: Iterable[Cell]) -> tuple[StateCount, ...]:
    """Number of cells in each state."""
    found = Counter(cell.state for cell in cells)
    return tuple(StateCount(str(state), style(state), MEANING[state], found[state]) for state in State)


def counted(results: Results) -> dict[str, Comparison]:
    """Compare the cells that follow from an architecture: with what the `paper` prints or states, with counts made on
    the official `code`, and with `others`' papers. Only the first are values of the paper."""
    sources = {"printed": "paper", "derived": "paper", "computed": "code"}
    found: dict[str, list[State]] = {"paper": [], "code": [], "others": []}
    for cell, is_counted in _cells(results):
        if is_counted and cell.state in COMPARED:
            found[sources.get(cell.paper_source or "", "others")].append(cell.state)
    return {source: _comparison(states) for source, states in found.items()}


def measured(results: Results) -> Comparison:
    """Compare the cells that were measured as the paper did."""
    return _comparison([cell.state for cell, is_counted in _cells(results) if not is_counted])


def elsewhere(results: Results) -> Elsewhere:
    """Count the cells that were measured on other data or a shrunken model; controls are no entries of the paper."""
    found = [cell for cell, _ in _cells(results) if cell.other_data and cell.state is not State.CONTROL]
    found = [cell for cell in found if cell.value is not None]
    return Elsewhere(len(found), sum(cell.paper is not None for cell in found))


def _comparison(states: Sequence[State]) -> Comparison:
    return Comparison(states.count(State.REPRODUCED), sum(state in COMPARED for state in states))


def _cells(results: Results) -> Iterator[tuple[Cell, bool]]:
    """Cells of all tables, and whether each depends on the architecture alone."""
    for target in results.of("table"):
        for row in target.table.rows if target.table is not None else ():
            for column, cell in zip(target.table.spec.columns, row.cells, strict=True):
                yield cell, column.data is None


def networks(results: Results) -> Networks:
    """Top-1 of every trained network, AP or mIoU of every fine-tuned one, in percent; over seeds where there are
    several."""
    measured = [("classification", run, "top-1", "top1") for run in results.config.runs]
    tuned = results.config.fine_tunings
    measured += [(job.task, job.run, *name) for job in tuned for name in headlines(job.task).items()]
    found: dict[tuple[str, str], list[tuple[str, dict[str, Any]]]] = {}
    for task, run, label, metric in measured:
        content = results.metrics.get(results.config.metric_path(task, run), {})
        entry = content.get("metrics", {}).get(metric) or {}
        if entry.get("value") is not None:
            row, column = _network(task, run), label if task == "classification" else f"{_head(task)} {label}"
            found.setdefault((row, column), []).append(((content.get("data") or {}).get("name", ""), entry))
    rows = dict.fromkeys(row for row, _ in found)
    columns = {column: ", ".join(dict.fromkeys(name for name, _ in entries)) for (_, column), entries in found.items()}
    cells = tuple((row, tuple(_pooled(found.get((row, column), [])) for column in columns)) for row in rows)
    return Networks(tuple(columns.items()), cells)


def _network(task: str, run: Run) -> str:
    """`VAN-Tiny LSKA k=23`, as the tables call it."""
    names = display_names()
    model = names["models"].get(run.model, run.model)
    size = "" if run.kernel is None else f" {names['attentions'].get(run.attention, run.attention)} k={run.kernel}"
    family = "VAN-" if run.attention else ""
    return f"{family}{model}{size}" + (", random backbone" if task.endswith(CONTROL) else "")


def _head(task: str) -> str:
    head = task.partition("/")[2].removesuffix(CONTROL)
    return display_names().get("heads", {}).get(head, head)


def _pooled(entries: list[tuple[str, dict[str, Any]]]) -> str:
    """Mean with its deviation over seeds, or with its standard error where there is one seed."""
    if not entries:
        return ""
    found = pool([entry["value"] for _, entry in entries], [entry.get("standard_error") for _, entry in entries])
    spread = found.standard_error if found.deviation is None else found.deviation
    return f"{found.mean:.1f}" + ("" if spread is None else f" ± {spread:.1f}")


def seeds(results: Results) -> int:
    """The largest number of seeds that any network was trained with."""
    networks = Counter(str(run.with_seed(0)) for run in results.config.runs)
    return max(networks.values(), default=0)
