"""What the paper printed: the files in paper/, read as they are."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from lska.provenance.files import FileError, quoted, read_table

COLUMNS = ("table", "row", "column", "value", "unit", "source", "detail")
REFERENCE = "reference:"
"""Start of the names of rows that are no entries of the table, but other publications' values."""


@dataclass(frozen=True)
class PaperValue:
    """One value of the paper's file; `value` keeps the printed digits and is None where no value was found."""

    value: str | None
    unit: str
    source: str
    detail: str


@dataclass(frozen=True)
class PaperTable:
    """A file of paper/; `rows` in file order, `values` by row and column."""

    rows: tuple[str, ...]
    values: dict[tuple[str, str], PaperValue]


def read_paper(path: Path) -> PaperTable:
    """Read `paper/<table>.csv` (columns as in paper/README.md).

    Raises:
        FileError: the file is missing or damaged, lacks a column, or gives one cell twice.
    """
    values: dict[tuple[str, str], PaperValue] = {}
    for number, line in read_table(path, COLUMNS, filled=("table", "row", "column")):
        row, column = key = (line["row"], line["column"])
        if key in values:
            raise FileError(f"{path}: line {number}: row {quoted(row)}, column {quoted(column)} is given twice")
        values[key] = PaperValue(line["value"] or None, line["unit"], line["source"], line["detail"])
    return PaperTable(tuple(dict.fromkeys(row for row, _ in values)), values)
