"""Finding a cell by the labels of its row and column."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator

from lska.tables.cell_text import cell_text, heading
from lska.tables.collect import Cell, Table

SHOWN = 6
"""Labels that a message names where none is like the one asked for."""


def choose(table: Table, row: str, column: str) -> Cell:
    """The cell at a row and column label; case does not matter where that leaves no doubt.

    A column may also be named with its unit, as the tables head it.

    Raises:
        ValueError: there is no such row or column; names the closest ones.
    """
    target = table.spec.target
    headings = {heading(one): one.label for one in table.spec.columns}
    names = [one.label for one in table.spec.columns]
    found_row = _match(row, [one.label for one in table.rows], target, "row")
    return table.cell(found_row, _match(headings.get(column, column), names, target, "column"))


def _match(wanted: str, labels: Iterable[str], target: str, kind: str) -> str:
    labels = list(dict.fromkeys(labels))
    alike = [label for label in labels if label.casefold() == wanted.casefold()]
    if wanted in labels or len(alike) == 1:
        return wanted if wanted in labels else alike[0]
    close = _close(wanted, labels)
    advice = f"did you mean {' or '.join(map(repr, close))}?" if close else f"it has {_few(labels)};"
    raise ValueError(f"{target} has no {kind} {wanted!r}: {advice} `lska explain {target}` without --cell lists all")


def _few(labels: list[str]) -> str:
    more = f" and {len(labels) - SHOWN} more" if len(labels) > SHOWN else ""
    return ", ".join(map(repr, labels[:SHOWN])) + more


def _close(wanted: str, labels: list[str]) -> list[str]:
    """Labels that look like `wanted`, or that hold all its words."""
    words = wanted.casefold().split()
    holding = [label for label in labels if words and all(word in label.casefold() for word in words)]
    folded = {label.casefold(): label for label in labels}
    similar = [folded[name] for name in difflib.get_close_matches(wanted.casefold(), folded, n=3)]
    return list(dict.fromkeys([*similar, *holding]))[:4]


def listing(table: Table) -> Iterator[str]:
    """Lines that name every cell of a table with what it shows and its state."""
    yield f"{table.spec.number}. {table.spec.title} ({table.scale} scale)"
    width = max((len(column.label) for column in table.spec.columns), default=0)
    for row in table.rows:
        yield f"\n{row.label}"
        for cell in row.cells:
            yield f"  {cell.column:<{width}}  {str(cell_text(cell)) or '-':<28} {cell.state}"
    if table.rows:
        cell = table.rows[0].cells[-1]
        yield f'\nThe chain behind one: lska explain {table.spec.target} --cell "{cell.row}" "{cell.column}"'
