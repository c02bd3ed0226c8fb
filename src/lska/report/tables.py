"""A filled table as a page shows it: cells with what they are sorted by, and the details behind each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from lska.config import Config
from lska.report.evidence import Evidence
from lska.tables.cell_states import MEANING, State
from lska.tables.cell_text import CellText, caption, cell_text, facts, heading, legend
from lska.tables.collect import Cell, Table, TableRow


@dataclass(frozen=True)
class CellView:
    """A cell: its visible parts, its state as a name for styles, and numbers that its column is sorted by."""

    text: CellText
    state: str
    sort: str
    """Our value; empty where there is none."""
    sort_paper: str
    """The paper's, by which rows without a value of ours are sorted, after all others."""
    details: int
    """Its place among the table's details."""
    slots: tuple[str, str] = ("", "")
    """The widest mark and value of the paper in its column, whose room it keeps: numbers stand below each other."""


@dataclass(frozen=True)
class RowView:
    """A row; `kind` is `reference`, `control` or empty."""

    label: str
    kind: str
    cells: tuple[CellView, ...]


@dataclass(frozen=True)
class TableView:
    """A table with its caption, legend and the details of its cells."""

    target: str
    caption: str
    facts: tuple[str, ...]
    """Sentences of the caption without number and title, which the page itself has; the first tells the scale."""
    stub: str
    headings: tuple[str, ...]
    rows: tuple[RowView, ...]
    legend: tuple[str, ...]
    states: tuple[tuple[str, str, int, str], ...]
    """Each state that occurs: its name, as a name for styles, how many cells, and its meaning."""
    details: dict[str, Any]
    """`cells`: title, facts and links of each cell; `links`: what these rest on (`lska.report.evidence`)."""


def view(table: Table, config: Config) -> TableView:
    """What a page shows of `table`, which was filled at the scale of `config`."""
    slots = [_slots(column) for column in zip(*(row.cells for row in table.rows), strict=True)]
    rows, count = [], 0
    for row in table.rows:
        placed = enumerate(zip(row.cells, slots, strict=True), start=count)
        cells = tuple(_cell(cell, number, slot) for number, (cell, slot) in placed)
        rows.append(RowView(row.label, _kind(row), cells))
        count += len(row.cells)
    evidence = Evidence(config)
    details = {"cells": [evidence.cell(table, cell) for cell in table.cells], "links": evidence.links}
    return TableView(
        target=table.spec.target,
        caption=caption(table),
        facts=tuple(facts(table)),
        stub=table.spec.stub,
        headings=tuple(heading(column) for column in table.spec.columns),
        rows=tuple(rows),
        legend=tuple(legend(table)),
        states=tuple((str(state), style(state), number, MEANING[state]) for state, number in table.count().items()),
        details=details,
    )


def style(state: State) -> str:
    """A state as a name for styles."""
    return str(state).replace(" ", "-")


def _kind(row: TableRow) -> str:
    if row.source is None:
        return "reference"
    return "control" if row.source.spec.control else ""


def _slots(column: Sequence[Cell]) -> tuple[str, str]:
    texts = [cell_text(cell) for cell in column]
    return max((text.mark for text in texts), key=len), max((text.paper for text in texts), key=len)


def _cell(cell: Cell, number: int, slots: tuple[str, str]) -> CellView:
    own = "" if cell.value is None else repr(cell.value) if isinstance(cell.value, float) else cell.value
    return CellView(cell_text(cell), style(cell.state), own, cell.paper or "", number, slots)
