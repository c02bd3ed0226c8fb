"""The same cells at several scales, side by side, from the tables that each scale has written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lska.provenance.files import read_table
from lska.report.site_paths import TabledScale
from lska.tables.cell_text import shown
from lska.tables.specs import TARGETS, ColumnSpec, TableSpec, load_spec

COLUMNS = ("row", "column", "state", "value", "deviation", "standard_error", "data", "paper")
"""Those of a table's file that are read."""

Record = Mapping[str, str]


def compare_scales(scales: Sequence[TabledScale]) -> list[dict[str, Any]]:
    """The tables that have cells measured at two of the scales or more: `spec`; `lines` with `row`, `column`, `paper`
    and, for each scale, value and data, or None where the cell was not measured there; and the number of cells that are
    `equal` at all of them because they depend on no data.

    Raises:
        ValueError: a table's file lacks a column.
    """
    if len(scales) < 2:
        return []
    made = [_compare(load_spec(name), scales) for name in TARGETS if name.startswith("table")]
    return [one for one in made if one["lines"] or one["equal"]]


def _compare(spec: TableSpec, scales: Sequence[TabledScale]) -> dict[str, Any]:
    tables: list[dict[tuple[str, str], Record]] = []
    for path in (scale.tables / f"{spec.target}.csv" for scale in scales):
        lines = read_table(path, COLUMNS, filled=()) if path.exists() else []
        tables.append({(line["row"], line["column"]): line for _, line in lines if line["state"] != "reference"})
    columns = {column.label: column for column in spec.columns}
    compared, equal = [], 0
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
        cells = [_shown(record, column) for record in records]
        compared.append({"row": row, "column": label + unit, "cells": cells, "paper": paper})
    return {"spec": spec, "lines": compared, "equal": equal}


def _shown(record: Record | None, column: ColumnSpec) -> tuple[str, str] | None:
    if record is None or not record["value"]:
        return None
    spread = record["deviation"] or record["standard_error"]
    try:
        value = shown(float(record["value"]), decimals=column.digits, spread=float(spread) if spread else None)
    except ValueError:
        value = record["value"]
    return value, record["data"].replace(";", ", ")
