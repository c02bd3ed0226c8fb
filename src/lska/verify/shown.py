"""Tables and figures as they are on disk, against what the metric files and the paper's files give now."""

from __future__ import annotations

import csv
import html
import io
import itertools
import re
from collections.abc import Collection, Iterator
from pathlib import Path

from lska.files import FileError, decode_text, read_bytes
from lska.tables.cell_text import heading
from lska.tables.collect import Table
from lska.tables.table_formats import WRITERS
from lska.verify.files import broken, said_of
from lska.verify.findings import Finding

REST = "code and metric files give"
"""Source of captions, legends and whatever else is outside of cells."""

AROUND = 30
"""Characters shown on each side of a difference within a long text."""

_PARTS = {".md": r"(?<!\\)\|", ".tex": r"(?<!\\)&", ".html": r"(?=<t[hd][ >])"}
_BRACKETS = re.compile(r"\([^()]*\)")
_MARKUP = re.compile(r"<[^>]*>|\\(?:begin|end)\{\w+\}(?:\[\w\])?(?:\{@\{\}\w@\{\}\})?|\\text\w+|[^0-9A-Za-z]")


def differences(table: Table, path: Path, distrusted: Collection[Path] = ()) -> list[Finding]:
    """Where a file of a table differs from the table; each finding names the cell, the file's text and the table's.

    Args:
        table: as the metric files fill it.
        path: one of its files.
        distrusted: metric files that are broken themselves; cells that come from them are not compared.

    """
    try:
        content = read_bytes(path)
        decode_text(content, str(path))
    except FileError as error:
        return [broken(path, "", said_of(path, error))]
    # As it is: a byte order mark is a difference.
    found, expected = content.decode(), WRITERS[path.suffix](table)
    if found == expected:
        return []
    known = {(cell.row, cell.column): cell for cell in table.cells}
    doubtful = {key for key, cell in known.items() if set(cell.files) & set(distrusted)}
    compare = _compare_csv if path.suffix == ".csv" else _compare_lines
    try:
        differing = list(compare(table, path, found, expected))
    except csv.Error as error:
        return [broken(path, "", f"cannot be read as comma-separated values ({error})")]
    return [finding for key, finding in differing if key not in doubtful and (key is not None or not doubtful)]


Key = tuple[str, str] | None
"""Row and column of a cell; None for what is outside of all cells."""


def name_of(target: str, key: tuple[str, str]) -> str:
    """A cell as findings name it."""
    return f"{target}: {key[0]} / {key[1]}"


def _compare_csv(table: Table, path: Path, found: str, expected: str) -> Iterator[tuple[Key, Finding]]:
    ours, theirs = (list(csv.DictReader(io.StringIO(text))) for text in (found, expected))
    lines = {(line.get("row"), line.get("column")): line for line in ours}
    wanted = {(line["row"], line["column"]): line for line in theirs}
    differing = False
    for key, line in wanted.items():
        if key not in lines:
            differing = True
            yield key, broken(path, _place(key), "the line of this cell is missing")
            continue
        for name, value in line.items():
            if lines[key].get(name) != value:
                differing = True
                text = _says(lines[key].get(name), value, _source(table, key, name))
                yield key, broken(path, f"{_place(key)}, {name}", text)
    for key in [key for key in lines if key not in wanted]:
        differing = True
        yield None, broken(path, _place((str(key[0]), str(key[1]))), "no such cell follows from the metric files")
    if not differing:
        yield None, _first_line(path, found, expected)


def _compare_lines(table: Table, path: Path, found: str, expected: str) -> Iterator[tuple[Key, Finding]]:
    ours, theirs = found.splitlines(), expected.splitlines()
    if len(ours) != len(theirs):
        yield None, _first_line(path, found, expected)
        return
    places = _Places(table, path.suffix)
    for number, (line, wanted) in enumerate(zip(ours, theirs, strict=True), start=1):
        parts = places.split(wanted)
        if line == wanted:
            continue
        given = places.split(line)
        row = places.row(parts)
        if row is None or len(given) != len(parts):
            yield None, broken(path, f"line {number}", _says(line, wanted, REST))
            continue
        for column, (text, right) in enumerate(zip(given, parts, strict=True)):
            if text != right:
                key = (row, places.column(column))
                name = "paper" if _BRACKETS.sub("", text) == _BRACKETS.sub("", right) else ""
                yield key if column else None, broken(path, _place(key), _says(text, right, _source(table, key, name)))
    if found.splitlines() == theirs:
        yield None, broken(path, "", "line endings, or the end of the file, are others than those written")


class _Places:
    """Rows and columns of the parts of a line; heads of columns are taken from the line above that has them."""

    def __init__(self, table: Table, suffix: str) -> None:
        self._pattern, self._stub = re.compile(_PARTS[suffix]), _plain(table.spec.stub)
        self._rows = {_plain(row.label): row.label for row in table.rows}
        self._columns = {_plain(heading(column)): column.label for column in table.spec.columns}
        self._head: list[str] = []

    def split(self, line: str) -> list[str]:
        """The parts of a line that stand for a label and its cells; remembers the head of columns."""
        parts = self._pattern.split(line.removesuffix(r" \\"))
        parts = parts[1:] if self._pattern.pattern.startswith(("(?<!\\\\)\\|", "(?=<")) else parts
        if len(parts) > 1 and _plain(parts[0]) == self._stub:
            self._head = [self._columns.get(_plain(part), "") for part in parts]
        return parts

    def row(self, parts: list[str]) -> str | None:
        """Label of the row that the parts belong to; None where they are no row."""
        return self._rows.get(_plain(parts[0])) if len(parts) > 1 else None

    def column(self, number: int) -> str:
        """Label of the column of a part."""
        named = self._head[number] if number < len(self._head) else ""
        return named or ("row label" if number == 0 else f"column {number}")


def _plain(text: str) -> str:
    """Letters and digits of a text in Markdown, LaTeX or HTML, by which labels are recognised."""
    return _MARKUP.sub("", html.unescape(text))


def _place(key: tuple[str, str]) -> str:
    return f"row {key[0]!r}, column {key[1]!r}"


def _source(table: Table, key: tuple[str, str], name: str = "") -> str:
    """What says otherwise than the file: the paper's values, or the metric file of the cell where it has one."""
    if name.startswith("paper"):
        return f"paper/{table.spec.paper}.csv gives"
    files = next((cell.files for cell in table.cells if (cell.row, cell.column) == key), ())
    return f"{files[0]} gives" if len(files) == 1 else "the metric files give"


def _says(found: str | None, expected: str | None, source: str) -> str:
    """Both texts, or where they differ if they are long or differ in markup alone."""
    ours, theirs = ((re.sub(r"<[^>]*>", "", html.unescape(text or ""))).strip() for text in (found, expected))
    if ours == theirs or max(len(ours), len(theirs)) > 3 * AROUND:
        ours, theirs = _around(found or "", expected or "")
    return f"shows {ours!r}, {source} {theirs!r}"


def _around(one: str, other: str) -> tuple[str, str]:
    """The places of two texts where they differ."""
    pairs = itertools.zip_longest(one, other)
    start = next((place for place, (a, b) in enumerate(pairs) if a != b), 0)
    window = slice(max(0, start - AROUND), start + AROUND)
    return one[window], other[window]


def _first_line(path: Path, found: str, expected: str) -> Finding:
    ours, theirs = found.splitlines(keepends=True), expected.splitlines(keepends=True)
    number = next(place for place, (a, b) in enumerate(itertools.zip_longest(ours, theirs), start=1) if a != b)
    line, wanted = (lines[number - 1] if number <= len(lines) else "" for lines in (ours, theirs))
    counts = "" if len(ours) == len(theirs) else f" (the file has {len(ours)} lines, expected {len(theirs)})"
    return broken(path, f"line {number}", _says(line, wanted, REST) + counts)
