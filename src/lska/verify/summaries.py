"""What DVC compares between commits as it is on disk, against what metric files and records of trainings give now."""

from __future__ import annotations

import csv
import itertools
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from lska.config import Config
from lska.files import FileError, read_bytes, read_json
from lska.verify.files import broken, said_of, unreadable
from lska.verify.findings import Finding, Level


def check(config: Config) -> Iterator[Finding]:
    """Compare the files of `lska summary --write` with what it would write now; nothing where none of them is there."""
    from lska.claims.summaries import leftovers, summary_contents

    summaries, plots = summary_contents(config)
    every = summaries | plots
    old = leftovers(config, every)
    if not any(map(os.path.lexists, every)):
        return
    for path, made in every.items():
        try:
            expected = made()
        except (OSError, ValueError) as error:
            if os.path.lexists(path):
                yield from unreadable([path])
                yield Finding(Level.NOTE, path, "", f"not compared: {error}")
            continue
        if not os.path.lexists(path):
            yield Finding(Level.OUTDATED, path, "", "is missing, although others of its kind are there")
        else:
            try:
                yield from (_numbers if path in summaries else _lines)(path, expected)
            except FileError as error:
                yield broken(path, "", said_of(path, error))
    for path in old:
        yield Finding(Level.OUTDATED, path, "", f"scale {config.scale} has no such run or training any more")


def _numbers(path: Path, expected: Mapping[str, float | int]) -> Iterator[Finding]:
    found = dict(_dotted(read_json(path)))
    for name in sorted({*found, *expected}):
        ours, theirs = found.get(name), expected.get(name)
        if name not in expected:
            yield broken(path, name, f"is {ours!r}, the metric files have no such number")
        elif name not in found:
            yield broken(path, name, f"is missing, the metric files give {theirs!r}")
        # True equals 1, and is no number.
        elif ours != theirs or isinstance(ours, bool):
            yield broken(path, name, f"is {ours!r}, the metric files give {theirs!r}")


def _dotted(content: Any, place: str = "") -> Iterator[tuple[str, Any]]:
    """The values of nested mappings by their dotted names."""
    if not isinstance(content, Mapping):
        yield place, content
        return
    for name, value in content.items():
        yield from _dotted(value, f"{place}.{name}" if place else name)


def _lines(path: Path, expected: str) -> Iterator[Finding]:
    """The first line that differs, and the column where it does so."""
    found = read_bytes(path).decode("utf-8", "replace")
    if found == expected:
        return
    pairs = enumerate(itertools.zip_longest(found.split("\n"), expected.split("\n")), start=1)
    number, (ours, theirs) = next((number, pair) for number, pair in pairs if pair[0] != pair[1])
    (columns,) = csv.reader([expected.partition("\n")[0]])
    cells = [_cells(line or "") for line in (ours, theirs)]
    differing = [place for place, (one, other) in enumerate(itertools.zip_longest(*cells)) if one != other]
    same_length = len(cells[0]) == len(cells[1]) == len(columns) and number > 1 and differing
    name = f", {columns[differing[0]]}" if same_length else ""
    shown = [line[differing[0]] if same_length else text for line, text in zip(cells, (ours, theirs), strict=True)]
    source = "the metric files give" if path.name == "networks.csv" else "the record of the training gives"
    yield broken(path, f"line {number}{name}", f"is {shown[0]!r}, {source} {shown[1]!r}")


def _cells(line: str) -> list[str]:
    """The fields of a line; the line itself where it is none of a CSV file."""
    try:
        return next(csv.reader([line]), [])
    except csv.Error:
        return [line]
