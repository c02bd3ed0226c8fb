"""The same cells at several scales, side by side, from the tables that each scale has written."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lska.files import MissingFileError, files_in, read_bytes, read_table, read_yaml
from lska.tables.specs import TARGETS, TableSpec, load_spec

ORDER = ("demo", "small", "small_gpu", "paper")
"""Scales from the smallest on; others follow by name."""

COLUMNS = ("row", "column", "state", "value", "deviation", "standard_error", "data", "paper")
"""Those of a table's file that are read."""

Key = tuple[str, str]
"""Labels of a row and a column."""


@dataclass(frozen=True)
class Scale:
    """A scale that has tables; `caption` says what its numbers were measured on."""

    name: str
    caption: str
    folder: Path


@dataclass(frozen=True)
class Shown:
    """A cell at one scale; empty texts where it was not measured there."""

    value: str
    data: str


@dataclass(frozen=True)
class Line:
    """A cell at all scales; `paper` is empty where no value is known."""

    row: str
    column: str
    cells: tuple[Shown, ...]
    paper: str


@dataclass(frozen=True)
class Comparison:
    """A table's cells that were measured at two scales or more, and the number of those that are equal at all of them
    because they depend on no data."""

    target: str
    number: str
    title: str
    lines: tuple[Line, ...]
    equal: int


def scales(folder: Path = Path("config"), results: Path = Path("results")) -> list[Scale]:
    """The configured scales that have written tables, in `ORDER`."""
    found = {}
    for path in files_in(folder, "*.yaml"):
        values = read_yaml(path)
        name = str(values.get("scale", ""))
        if name and files_in(results / name / "tables", "table_*.csv"):
            found[name] = Scale(name, str(values.get("caption", "")), results / name)
    places = {name: place for place, name in enumerate(ORDER)}
    return sorted(found.values(), key=lambda scale: (places.get(scale.name, len(places)), scale.name))


def tables_digest(others: Sequence[Scale]) -> str:
    """Digest of the tables of `others`: a site is built anew when one of them changes."""
    state = hashlib.sha256()
    for scale in others:
        for path in files_in(scale.folder / "tables", "table_*.csv"):
            state.update(path.as_posix().encode() + b"\0" + read_bytes(path))
    return state.hexdigest()


def compare(found: Sequence[Scale]) -> list[Comparison]:
    """The tables that have cells measured at two of the scales or more.

    Raises:
        ValueError: a table's file lacks a column.
    """
    if len(found) < 2:
        return []
    made = [_comparison(load_spec(name), found) for name in TARGETS if name.startswith("table")]
    return [one for one in made if one.lines or one.equal]


def _comparison(spec: TableSpec, found: Sequence[Scale]) -> Comparison:
    records = [_read(scale.folder / "tables" / f"{spec.target}.csv") for scale in found]
    keys = dict.fromkeys(key for table in records for key in table)
    counted = {column.label for column in spec.columns if column.data is None}
    lines, equal = [], 0
    for key in keys:
        measured = [table[key] for table in records if table.get(key, {}).get("value")]
        if len(measured) < 2:
            continue
        if key[1] in counted and len({record["value"] for record in measured}) == 1:
            equal += 1
        else:
            lines.append(_line(key, spec, [table.get(key) for table in records]))
    return Comparison(spec.target, spec.number, spec.title, tuple(lines), equal)


def _read(path: Path) -> dict[Key, dict[str, str]]:
    try:
        lines = read_table(path, COLUMNS, filled=())
    except MissingFileError:
        return {}
    return {(line["row"], line["column"]): line for _, line in lines if line["state"] != "reference"}


def _line(key: Key, spec: TableSpec, records: Sequence[dict[str, str] | None]) -> Line:
    column = next(column for column in spec.columns if column.label == key[1])
    cells = tuple(_shown(record, column.digits) for record in records)
    paper = next((record["paper"] for record in records if record and record["paper"]), "")
    unit = "" if column.unit in ("", "1") else f", {column.unit}"
    return Line(key[0], key[1] + unit, cells, paper)


def _shown(record: dict[str, str] | None, digits: int) -> Shown:
    if record is None or not record["value"]:
        return Shown("", "")
    spread = record["deviation"] or record["standard_error"]
    try:
        value = f"{float(record['value']):.{digits}f}" + (f" ± {float(spread):.{digits}f}" if spread else "")
    except ValueError:
        value = record["value"]
    return Shown(value, record["data"].replace(";", ", "))
