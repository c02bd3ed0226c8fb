"""A filled table as a page shows it: cells with what they are sorted by, and the details behind each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from lska.report.evidence import cell_facts, file_facts, place
from lska.report.gather import Contents
from lska.tables.collect import Cell, Table, TableRow
from lska.tables.render import CellText, caption, cell_text, heading, legend
from lska.tables.states import MEANING, State


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
    width: int = 0
    """Letters of the longest value of the paper in its column, where that is longer; numbers stand below each other."""


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
    stub: str
    headings: tuple[str, ...]
    rows: tuple[RowView, ...]
    legend: tuple[str, ...]
    states: tuple[tuple[str, str, int, str], ...]
    """Each state that occurs: its name, as a name for styles, how many cells, and its meaning."""
    details: dict[str, Any]
    """`cells`: title, facts and metric files of each cell; `files`: facts of each metric file."""


def view(table: Table, metrics: Contents) -> TableView:
    """What a page shows of `table`, whose metric files are among `metrics`."""
    head = tuple(heading(column) for column in table.spec.columns)
    rows, cells = [], []
    widths = [max(map(_letters, column)) for column in zip(*(row.cells for row in table.rows), strict=True)]
    for row in table.rows:
        placed = enumerate(zip(row.cells, widths, strict=True), start=len(cells))
        views = tuple(_cell(cell, number, width) for number, (cell, width) in placed)
        cells += row.cells
        rows.append(RowView(row.label, _kind(row), views))
    states = tuple((str(state), style(state), count, MEANING[state]) for state, count in table.count().items())
    found = (caption(table), table.spec.stub, head, tuple(rows), tuple(legend(table)), states)
    return TableView(table.spec.target, *found, details=_details(cells, metrics))


def style(state: State) -> str:
    """A state as a name for styles."""
    return str(state).replace(" ", "-")


def _kind(row: TableRow) -> str:
    if row.source is None:
        return "reference"
    return "control" if row.source.spec.control else ""


def _letters(cell: Cell) -> int:
    return len(cell_text(cell).paper)


def _cell(cell: Cell, number: int, width: int) -> CellView:
    own = "" if cell.value is None else repr(cell.value) if isinstance(cell.value, float) else cell.value
    filled = 0 < _letters(cell) < width
    return CellView(cell_text(cell), style(cell.state), own, cell.paper or "", number, width if filled else 0)


def _details(cells: list[Cell], metrics: Contents) -> dict[str, Any]:
    """Facts of cells and, each once, of their metric files."""
    used = list(dict.fromkeys(path for cell in cells for path in cell.files))
    numbers = {path: number for number, path in enumerate(used)}
    return {
        "cells": [
            {"title": f"{cell.row}, {cell.column}", "facts": cell_facts(cell), "files": [numbers[p] for p in cell.files]}
            for cell in cells
        ],
        "files": [
            {"path": path.as_posix(), "link": place(path), "facts": file_facts(metrics[path])} for path in used
        ],
    }
