"""The files of a table or figure, cell by cell, against the table as its metric files fill it now."""

from __future__ import annotations

import contextlib
import csv
import functools
import io
import itertools
import os
import tempfile
from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from lska.audit.links import Finding, Level, broken, faulty
from lska.provenance.files import FileError, read_bytes, read_text
from lska.tables.cell_text import cell_text
from lska.tables.collect import Cell, State, Table
from lska.tables.table_formats import WRITERS

AROUND = 40
"""Characters shown on each side of a difference within a long text."""

CODE = "code and metric files give"
"""Source of captions, legends and whatever else is outside of cells."""


class Apart(NamedTuple):
    """The cells of a table that its files do not show as today's configuration asks, though nobody edited them."""

    other: frozenset[tuple[str, str]] = frozenset()
    """Made of other metric files than the configuration names now, or when it named none."""
    rows: frozenset[str] = frozenset()
    """Those that only the files have, of metric files not named any more, or that only the configuration has."""
    absent: frozenset[tuple[str, str]] = frozenset()
    """Cells of metric files that are not there."""

    @classmethod
    def of(cls, table: Table, paths: Iterable[Path], named: Container[Path]) -> Apart:
        """Which cells cannot be compared, as the CSV file among `paths` tells by the metric files behind each cell.

        Args:
            table: filled for today's configuration, with gaps.
            named: the metric files that this names.
        """
        absent = frozenset((one.row, one.column) for one in table.cells if not all(path.exists() for path in one.files))
        here, text = {}, WRITERS[".csv"](table)
        for path in paths:
            if path.suffix == ".csv":
                with contextlib.suppress(FileError):
                    here = _csv_cells(read_text(path), text)
        if not here:
            return cls(absent=absent)
        today = _csv_cells(text, text)
        files = {key: set(filter(None, (line["files"] or "").split(";"))) for key, line in here.items()}
        former = {key: {name for name in names if Path(name) not in named} for key, names in files.items()}
        other = set()
        for key in here.keys() & today.keys():
            theirs = set(filter(None, today[key]["files"].split(";")))
            # What names the metric files of another cell was edited, as was a value of no file.
            known = files[key] - former[key] <= theirs and (files[key] or here[key]["state"] == State.NOT_RUN)
            other |= {key} if files[key] != theirs and known else set()
        gone = {row for (row, _), names in former.items() if names} - {row for row, _ in today}
        added = {row.label for row in table.rows if row.source is not None} - {row for row, _ in here}
        return cls(frozenset(other), frozenset(gone | added), absent)

    def __bool__(self) -> bool:
        return any(self)

    def __contains__(self, key: object) -> bool:
        return isinstance(key, tuple) and (key in self.other or key in self.absent or key[0] in self.rows)

    def finding(self, path: Path) -> Finding:
        """What is said of a file that has such cells."""
        parts = {f"{len(self.other):,} cell(s) of other metric files": self.other}
        parts |= {f"{len(self.rows):,} row(s) of other networks": self.rows}
        if told := " and ".join(text for text, some in parts.items() if some):
            return Finding(Level.OUTDATED, path, "", f"was made by another configuration, with {told} than today's")
        text = f"not compared in {len(self.absent):,} cell(s), whose metric files are not there"
        return Finding(Level.NOTE, path, "", text)


_NOTHING = Apart()


def verify_table(table: Table, path: Path, apart: Apart = _NOTHING) -> Iterator[Finding]:
    """Where a file of a table differs from the table as its metric files fill it; each finding names the cell, the
    file's text and the table's. Cells that are `apart` are not compared.
    """
    try:
        found, expected = read_text(path, keep_mark=True), WRITERS[path.suffix](table)
    except FileError as error:
        yield faulty(path, error)
        return
    if found != expected:
        yield from (_csv_faults if path.suffix == ".csv" else _line_faults)(table, path, found, expected, apart)
        yield from [apart.finding(path)] if apart else []


def _csv_cells(text: str, like: str) -> dict[tuple[str, str], dict[str, str]]:
    """The lines of a CSV file of a table by row and column; none where its head is not that of `like`."""
    if text.partition("\n")[0] == like.partition("\n")[0]:
        with contextlib.suppress(csv.Error):
            return {(one["row"], one["column"]): one for one in csv.DictReader(io.StringIO(text))}
    return {}


def _csv_faults(table: Table, path: Path, found: str, expected: str, apart: Apart) -> Iterator[Finding]:
    """The cells whose lines are others than expected, or the first line that differs where it is none of a cell."""
    faults = []
    here, today = _csv_cells(found, expected), _csv_cells(expected, expected)
    for key, line in today.items() if here else ():
        ours, place = here.get(key), f"row {key[0]!r}, column {key[1]!r}"
        if key in apart:
            continue
        if ours is None:
            faults.append(broken(path, place, "the line of this cell is missing", key))
            continue
        for name, value in line.items():
            if ours[name] != value:
                text = _shows(ours[name] or "", value, f"{_sources(table, key, name)} give")
                faults.append(broken(path, f"{place}, {name}", text, key))
    strange = {row: None for row, _ in here if row not in apart.rows and row not in {row for row, _ in today}}
    faults += [broken(path, f"row {row!r}", "the table has no such row") for row in strange]
    yield from faults or ([] if here and apart else [line_fault(path, found, expected, CODE)])


def _line_faults(table: Table, path: Path, found: str, expected: str, apart: Apart) -> Iterator[Finding]:
    """The lines that a rendered table shows otherwise, with the cell in which each differs where it is in one."""
    ours, theirs = found.splitlines(), expected.splitlines()
    if len(ours) != len(theirs) or ours == theirs:
        # Without a value, a cell may take its lines of heading or legend with it.
        yield from [] if apart and ours != theirs else [line_fault(path, found, expected, CODE)]
        return
    layout = _Layout(table, WRITERS[path.suffix])
    for number, (line, wanted) in enumerate(zip(ours, theirs, strict=True)):
        if line == wanted:
            continue
        key = layout.cell(number, line, wanted)
        if apart and (key is None or key in apart or number not in layout.row_lines):
            continue
        place = f"line {number + 1}" if key is None else f"row {key[0]!r}, column {key[1]!r}"
        source = CODE if key is None else f"{_sources(table, key)} give"
        yield broken(path, place, _shows(line, wanted, source), key)


def _sources(table: Table, key: tuple[str, str], field: str = "") -> str:
    """The files that give a cell, or one of its fields: metric files, the paper's values, or both."""
    measured = next((list(map(str, cell.files)) for cell in table.cells if (cell.row, cell.column) == key), [])
    printed = [f"paper/{table.spec.paper}.csv"] if "paper" in field or not field else []
    return " and ".join(([] if field.startswith("paper") else measured or ["the metric files"]) + printed)


class _Layout:
    """Where the cells of a rendered table stand: what changes in its text when a row or a column has other cells."""

    def __init__(self, table: Table, write: Callable[[Table], str]) -> None:
        self._table, self._write = table, write

    @functools.cached_property
    def _rows(self) -> dict[str, list[str]]:
        return {row.label: self._other("row", row.label) for row in self._table.rows}

    @functools.cached_property
    def _columns(self) -> dict[str, list[str]]:
        return {column.label: self._other("column", column.label) for column in self._table.spec.columns}

    @functools.cached_property
    def row_lines(self) -> set[int]:
        """Numbers of the lines with a row's label, and so not those of caption, heading and legend."""
        rows = (replace(row, label=row.label.translate(_OTHERS)) for row in self._table.rows)
        other = self._write(replace(self._table, rows=tuple(rows))).splitlines()
        pairs = zip(self._write(self._table).splitlines(), other, strict=False)
        return {number for number, (line, changed) in enumerate(pairs) if line != changed}

    def cell(self, number: int, found: str, expected: str) -> tuple[str, str] | None:
        """Row and column of the first cell in which a line differs; None where it is no row, or differs beside them."""
        rows = [label for label, lines in self._rows.items() if lines[number : number + 1] != [expected]]
        place = _differing_span(expected, found)[0]
        for label, lines in self._columns.items():
            start, end = _differing_span(expected, lines[number]) if number < len(lines) else (0, 0)
            if len(rows) == 1 and lines[number] != expected and start <= place <= end:
                return rows[0], label
        return None

    def _other(self, kind: str, label: str) -> list[str]:
        """The lines of the table in which the cells of a row or column look otherwise, and are as wide as they are."""

        def other(cell: Cell, reference: bool) -> Cell:
            # A column applies to a reference row where it has a cell.
            if getattr(cell, kind) != label or (reference and cell.state is State.NOT_APPLICABLE):
                return cell
            return replace(cell, state=State.CONTROL, value=str(cell_text(cell))[::-1].translate(_OTHERS))

        rows = (
            replace(row, cells=tuple(other(cell, row.source is None) for cell in row.cells)) for row in self._table.rows
        )
        return self._write(replace(self._table, rows=tuple(rows))).splitlines()


_ALIKE = "0123456789", "abcdefghknopqrstuvxyz"
_OTHERS = {ord(one): other for alike in _ALIKE for one, other in zip(alike, alike[1:] + alike[:1], strict=True)}
"""For each character another one of its width."""


def _differing_span(one: str, other: str) -> tuple[int, int]:
    """Start and end of the part of a text that differs from another text."""
    start = len(os.path.commonprefix([one, other]))
    return start, max(start, len(one) - len(os.path.commonprefix([one[start:][::-1], other[start:][::-1]])))


def drawing_faults(table: Table, paths: Sequence[Path]) -> Iterator[Finding]:
    """Draw a table anew and compare bytes, which are equal for equal numbers, code, matplotlib and fonts."""
    from lska.tables.figures import draw_figure

    with tempfile.TemporaryDirectory(prefix="lska-") as folder:
        copies = [Path(folder) / path.name for path in paths]
        draw_figure(table, copies)
        for path, copy in zip(paths, copies, strict=True):
            try:
                same = read_bytes(path) == copy.read_bytes()
            except FileError as error:
                yield faulty(path, error)
                continue
            if not same:
                yield broken(path, "", "is not what is drawn now from the metric files by this code and matplotlib")


# --- Comparing texts -------------------------------------------------------------------------------------------------


def line_fault(path: Path, found: str, expected: str, source: str) -> Finding:
    """The first line in which a text differs from what it should be."""
    ours, theirs = found.splitlines(), expected.splitlines()
    if ours == theirs:
        return broken(path, "", "line endings, or the end of the file, are others than those written")
    pairs = enumerate(itertools.zip_longest(ours, theirs, fillvalue=""), start=1)
    number, (line, wanted) = next((number, pair) for number, pair in pairs if pair[0] != pair[1])
    counts = "" if len(ours) == len(theirs) else f" (the file has {len(ours)} lines, expected {len(theirs)})"
    return broken(path, f"line {number}", _shows(line, wanted, source) + counts)


def _shows(ours: str, theirs: str, source: str) -> str:
    """Both texts, of long ones what is around their difference."""
    start = max(0, _differing_span(theirs, ours)[0] - AROUND) if max(len(ours), len(theirs)) > 3 * AROUND else 0
    cut = slice(start, start + 3 * AROUND)
    return f"shows {ours[cut]!r}, {source} {theirs[cut]!r}"
