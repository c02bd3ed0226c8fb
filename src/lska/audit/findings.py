"""What is found wrong with the evidence, by file and place."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from lska.provenance.files import FileError, differing, printable
from lska.provenance.metric_files import file_md5

VALUE, WIDEST = 120, 2000
"""Characters of a value in a difference, and of a finding's text: what is wrong may be one very long word."""


class Level(StrEnum):
    """How much a finding matters."""

    BROKEN = "broken"
    OUTDATED = "outdated"
    UNSEALED = "unsealed"
    NOTE = "note"


MEANING = {
    Level.BROKEN: "a file was edited, or does not belong to the one that names it",
    Level.OUTDATED: "sound, but not what today's configuration asks for; the pipeline would make it again",
    Level.UNSEALED: "written before such files were sealed; an edit shows where git or another file has the number",
    Level.NOTE: "worth knowing",
}


@dataclass(frozen=True)
class Finding:
    """One thing that was found."""

    level: Level
    file: Path
    place: str
    """The field or cell of the file that is at fault, or empty."""
    text: str
    cell: tuple[str, str] | None = None
    """Row and column of the cell that the file of a table or figure shows otherwise."""
    chains: tuple[str, ...] = ()
    """Cells whose first broken link this is, as `table_03: VAN-LSKA-Tiny / top-1`."""

    def to_json(self) -> dict[str, Any]:
        """Plain values, without its cells."""
        return {"level": str(self.level), "file": self.file.as_posix(), "place": self.place, "text": self.text}


def broken(path: Path, place: str, text: str, cell: tuple[str, str] | None = None) -> Finding:
    """A finding of a file that cannot be trusted."""
    return Finding(Level.BROKEN, path, place, printable(text, WIDEST), cell)


def compared(
    path: Path, place: str, found: Any, source: str, expected: Any, level: Level = Level.BROKEN
) -> list[Finding]:
    """A finding where a value is not the one that `source` gives (`the manifest says`); none where it is."""
    text = printable(f"is {found!r}, {source} {expected!r}", WIDEST)
    return [] if found == expected else [Finding(level, path, place, text)]


def said_of(path: Path, error: Exception) -> str:
    """What an error says of the file that it names, in one line."""
    return " ".join(str(error).split()).removeprefix(f"{path}:").removeprefix(f"{path}").strip()


def faulty(path: Path, error: Exception) -> Finding:
    """The finding of a file that an error is about."""
    return broken(path, "", said_of(path, error))


def changes_of(then: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Where two specs differ, as `recipe.epochs: 4, now 5`."""
    return [f"{place}: {as_json(before)}, now {as_json(after)}" for place, before, after in differing(then, now)]


def as_json(value: Any) -> str:
    """A value of a recipe on a short line; `...` stands for one that is missing."""
    return "not a field of it" if value is ... else printable(json.dumps(value), VALUE)


def md5_of(path: Path) -> str:
    """MD5 of a file, or in words why it cannot be read."""
    try:
        return file_md5(path)
    except FileError as error:
        return said_of(path, error)
