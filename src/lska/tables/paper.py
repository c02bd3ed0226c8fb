"""What the paper printed: the files in paper/, read as they are."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path

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
    """A file of paper/; `rows` in file order."""

    path: Path
    rows: tuple[str, ...]
    values: dict[tuple[str, str], PaperValue]

    def get(self, row: str, column: str) -> PaperValue | None:
        """The entry of a row and column, or None where the file has none or knows no value."""
        entry = self.values.get((row, column))
        return entry if entry is not None and entry.value is not None else None


def read_paper(path: Path) -> PaperTable:
    """Read `paper/<table>.csv` (columns as in paper/README.md).

    Raises:
        ValueError: the file is missing, has other columns, or gives one cell twice.
    """
    try:
        with path.open(encoding="utf-8", newline="") as stream:
            lines = list(csv.DictReader(stream, strict=True))
    except OSError as error:
        raise ValueError(f"{path}: the paper's values cannot be read ({error.strerror}); check the folder") from error
    values: dict[tuple[str, str], PaperValue] = {}
    for number, line in enumerate(lines, start=2):
        if tuple(line) != COLUMNS:
            raise ValueError(f"{path}: expected the columns {', '.join(COLUMNS)}, found {', '.join(map(str, line))}")
        key = (line["row"], line["column"])
        if key in values:
            raise ValueError(f"{path}, line {number}: row {key[0]!r}, column {key[1]!r} is given twice; keep one")
        values[key] = PaperValue(line["value"] or None, line["unit"], line["source"], line["detail"])
    return PaperTable(path, tuple(dict.fromkeys(row for row, _ in values)), values)
