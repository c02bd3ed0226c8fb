"""The same cells at several scales, side by side, from the tables that each scale has written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from lska.provenance.files import MissingFileError, read_table
from lska.report.plain_words import number_text
from lska.report.site_paths import TabledScale
from lska.tables.specs import TARGETS, ColumnSpec, TableSpec, load_spec

COLUMNS = ("row", "column", "state", "value", "deviation", "standard_error", "data", "paper")
"""Those of a table's file that are read."""

Record = Mapping[str, str]


@dataclass(frozen=True)
class CellAtScales:
    """A cell at all scales: its value and data at each, None where it was not measured there."""

    row: str
    column: str
    cells: tuple[tuple[str, str] | None, ...]
    paper: str
    """Empty where no value is known."""


@dataclass(frozen=True)
class TableAtScales:
    """A table's cells that were measured at two scales or more, and the number of those that are equal at all of them
    because they depend on no data."""

    spec: TableSpec
    lines: tuple[CellAtScales, ...]
    equal: int


def compare_scales(scales: Sequence[TabledScale]) -> list[TableAtScales]:
    """The tables that have cells measured at two of the scales or more.

    Raises:
        ValueError: a table's file lacks a column.
    """
    if len(scales) < 2:
        return []
    made = [_compare(load_spec(name), scales) for name in TARGETS if name.startswith("table")]
    return [one for one in made if one.lines or one.equal]


def _compare(spec: TableSpec, scales: Sequence[TabledScale]) -> TableAtScales:
    tables = [_read(scale.tables / f"{spec.target}.csv") for scale in scales]
    columns = {column.label: column for column in spec.columns}
    lines, equal = [], 0
    for row, label in dict.fromkeys(key for table in tables for key in table):
        records, column = [table.get((row, label)) for table in tables], columns[label]
        values = [record["value"] for record in records if record and record["value"]]
        if len(values) < 2:
            continue
        if column.data is None and len(set(values)) == 1:
            equal += 1
            continue
        paper = next((record["paper"] for record in records if record and record["paper"]), "")
        unit = "" if column.unit in ("", "1") else f", {column.unit}"
        lines.append(CellAtScales(row, label + unit, tuple(_shown(record, column) for record in records), paper))
    return TableAtScales(spec, tuple(lines), equal)


def _read(path: Path) -> dict[tuple[str, str], Record]:
    try:
        lines = read_table(path, COLUMNS, filled=())
    except MissingFileError:
        return {}
    return {(line["row"], line["column"]): line for _, line in lines if line["state"] != "reference"}


def _shown(record: Record | None, column: ColumnSpec) -> tuple[str, str] | None:
    if record is None or not record["value"]:
        return None
    spread = record["deviation"] or record["standard_error"]
    try:
        value = number_text(float(record["value"]), column.digits, float(spread) if spread else None)
    except ValueError:
        value = record["value"]
    return value, record["data"].replace(";", ", ")
