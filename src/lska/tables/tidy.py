"""A filled table as tidy records: one per cell, with everything known about it (columns in docs/extend.md)."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from pathlib import Path

from lska.tables.collect import Table, TableRow
from lska.tables.specs import ColumnSpec

CSV_COLUMNS = (
    "table", "row", "column", "value", "unit", "deviation", "standard_error", "n", "paper", "paper_source", "state",
    "files", "low", "high", "data", "conditions", "note", "paper_detail", "scale", "model", "attention", "kernel",
    "seeds", "task", "metric",
)  # fmt: skip

SIMPLE = (
    "row", "column", "value", "unit", "deviation", "standard_error", "n", "paper", "paper_source", "low", "high",
    "conditions", "note", "paper_detail",
)  # fmt: skip


def to_csv(table: Table) -> str:
    """One line per cell; empty fields are unknown quantities."""
    stream = io.StringIO()
    writer = csv.DictWriter(stream, CSV_COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(records(table))
    return stream.getvalue()


def records(table: Table) -> list[dict[str, object]]:
    """One mapping per cell with the keys `CSV_COLUMNS`, row by row; None where nothing is known."""
    return [record for row in table.rows for record in _records(row, table)]


def _records(row: TableRow, table: Table) -> Iterator[dict[str, object]]:
    for cell, column in zip(row.cells, table.spec.columns, strict=True):
        found = {name: getattr(cell, name) for name in SIMPLE}
        lists = {"files": map(place, cell.files), "data": cell.data, "seeds": map(str, cell.seeds)}
        found |= {name: ";".join(parts) or None for name, parts in lists.items()}
        found |= {"table": table.spec.target, "scale": table.scale, "state": str(cell.state)}
        found |= _identity(row, column)
        yield {name: found[name] for name in CSV_COLUMNS}


def _identity(row: TableRow, column: ColumnSpec) -> dict[str, object]:
    """The network of a row, and the task and metric that fill the cell; None for rows of other publications."""
    source = row.source
    if source is None:
        return dict.fromkeys(("model", "attention", "kernel", "task", "metric"))
    network = {"model": source.model or source.module, "attention": source.attention, "kernel": source.kernel}
    if not source.applies(column):
        return network | {"task": None, "metric": None}
    return network | {"task": source.task(column), "metric": column.metric.format(**source.values)}


def place(path: Path) -> str:
    """The path as seen from the working folder, so that committed files name no machine."""
    here = Path.cwd()
    return (path.relative_to(here) if path.is_relative_to(here) else path).as_posix()
