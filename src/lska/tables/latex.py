"""How a table is laid out on LaTeX's page: panels of columns beside each other, and rows divided among pages."""

from __future__ import annotations

import itertools
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass, replace

from lska.tables.cell_states import State
from lska.tables.cell_text import cell_text, headings
from lska.tables.collect import Table

NARROW, WIDE = " .,:;'()[]-/ijl|", "✓✗○±×MWm%"
LETTER, SEPARATION = 4.25, 8.0
"""Points at \\footnotesize: of a digit, as of most letters, and between columns."""
TEXT = 345.0
"""Width in points of the text of LaTeX's `article`."""
SMALLEST = 0.7
"""A panel wider than the text is scaled down to it, to about 5.6 points; what needs more goes into another panel."""
LABEL = 48
"""Characters of a line of a row's label."""
PAGE, HEAD = 36, 3
"""Rows on a page, beside caption and legend, and the rows that a panel's head and gap take."""


@dataclass(frozen=True)
class Panel:
    """Some columns of a table, and the rows that they apply to, by number."""

    columns: tuple[int, ...]
    rows: tuple[int, ...]

    def head_width(self, table: Table, column: int) -> int:
        """Characters of a heading's line that keep it about as wide as its column's cells."""
        cells = (str(cell_text(table.rows[row].cells[column])) for row in self.rows)
        return max(8, *map(len, headings(table)[column + 1].split()), *map(len, cells))


def table_pages(table: Table) -> list[list[Panel]]:
    """Panels of each page; one with more rows than a page has is divided."""
    made: list[list[Panel]] = []
    left, most = 0, PAGE - HEAD
    for panel in table_panels(table):
        for start in range(0, len(panel.rows), most):
            part = replace(panel, rows=panel.rows[start : start + most])
            if not made or len(part.rows) + HEAD > left:
                made.append([])
                left = PAGE
            made[-1].append(part)
            left -= len(part.rows) + HEAD
    return made


def table_panels(table: Table) -> list[Panel]:
    """Columns in order: in one panel where that fits as it is, else in as few and about equally wide ones as possible,
    each of columns that apply to the same rows."""
    labels = [line for row in table.rows for line in textwrap.wrap(row.label, LABEL)]
    label = max(map(_width, labels), default=0.0) + SEPARATION
    texts = [[str(cell_text(cell)) for cell in row.cells] for row in table.rows]
    # Headings may be broken between words.
    words = [head.split() for head in headings(table)[1:]]
    widths = [max(map(_width, [*head, *cells])) + SEPARATION for head, *cells in zip(words, *texts, strict=True)]
    columns = range(len(table.spec.columns))
    if label + sum(widths) <= TEXT:
        return [Panel(tuple(columns), tuple(range(len(table.rows))))]
    found = []
    for rows, group in itertools.groupby(columns, lambda column: _applying(table, column)):
        found += [Panel(packed, rows) for packed in _pack(list(group), widths, TEXT / SMALLEST - label)]
    return found


def _applying(table: Table, column: int) -> tuple[int, ...]:
    """Rows that have this column; a cell of theirs may be n/a all the same."""
    spec = table.spec.columns[column]
    applies = (
        row.cells[column].state is not State.NOT_APPLICABLE if row.source is None else row.source.applies(spec)
        for row in table.rows
    )
    return tuple(itertools.compress(range(len(table.rows)), applies))


def _width(text: str) -> float:
    """About how many points a text takes."""
    widths = (0.66 if c in NARROW else 1.5 if c in WIDE or c.isupper() else 1.0 for c in text)
    return LETTER * sum(widths)


def _pack(columns: Sequence[int], widths: Sequence[float], room: float) -> list[tuple[int, ...]]:
    """Columns in as few parts of at most `room` as possible, the widest of which is as narrow as possible."""
    fewest = _greedy(columns, widths, room)
    narrower = (_greedy(columns, widths, width) for width in range(1, int(room)))
    return next((parts for parts in narrower if len(parts) == len(fewest)), fewest)


def _greedy(columns: Sequence[int], widths: Sequence[float], room: float) -> list[tuple[int, ...]]:
    found: list[tuple[int, ...]] = []
    left = 0.0
    for column in columns:
        if not found or widths[column] > left:
            found.append(())
            left = room
        found[-1] = (*found[-1], column)
        left -= widths[column]
    return found
