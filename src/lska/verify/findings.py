"""What a verification found, for people and for scripts."""

from __future__ import annotations

import itertools
import textwrap
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

from lska.chain.text import shortened
from lska.files import printable

WIDTH = 100
SHOWN = 5
"""Findings of a kind that are told one by one where only their number matters, and chains of a broken link."""


COUNTED = ("complexity", "properties")
"""Start of the tasks whose numbers depend on the code alone."""


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
    """One thing that was found. `place` is the field or cell of the file that is at fault, or empty."""

    level: Level
    file: Path
    place: str
    text: str
    chains: tuple[str, ...] = ()
    """Cells whose first broken link this is, as `table_03: VAN-LSKA-Tiny / top-1`."""


@dataclass(frozen=True)
class Tally:
    """Numbers of metric files by how much the evidence says of them; by task and field, such as `speed: value`."""

    recomputed: Counter[str] = field(default_factory=Counter)
    bounded: Counter[str] = field(default_factory=Counter)
    """Only a range, or a relation to other numbers, is known."""
    unknown: Counter[str] = field(default_factory=Counter)

    def __add__(self, other: Tally) -> Tally:
        kinds = zip(vars(self).values(), vars(other).values(), strict=True)
        return Tally(*(one + another for one, another in kinds))


@dataclass(frozen=True)
class Report:
    """The outcome of a verification; `checked` has the number of files and cells by what they are."""

    scale: str
    caption: str
    checked: Mapping[str, int]
    chains: int
    """Cells of tables and figures that were followed."""
    findings: tuple[Finding, ...]
    numbers: Tally = Tally()
    """Numbers of the metric files, by how far they follow from the evidence."""

    def of(self, level: Level) -> tuple[Finding, ...]:
        """The findings of a level."""
        return tuple(finding for finding in self.findings if finding.level is level)

    @property
    def broken_chains(self) -> int:
        """Cells that do not follow from their files."""
        return len({chain for finding in self.of(Level.BROKEN) for chain in finding.chains})

    def sound(self, strict: bool = False) -> bool:
        """Whether nothing is broken and, if `strict`, nothing is outdated or without a seal either."""
        bad = (Level.BROKEN, Level.OUTDATED, Level.UNSEALED) if strict else (Level.BROKEN,)
        return not any(finding.level in bad for finding in self.findings)


def to_json(report: Report) -> dict[str, Any]:
    """Plain values for scripts."""
    return {
        "schema": 1,
        "scale": report.scale,
        "caption": report.caption,
        "sound": report.sound(),
        "checked": dict(report.checked),
        "numbers": {kind: dict(counts) for kind, counts in vars(report.numbers).items()},
        "chains": {"followed": report.chains, "broken": report.broken_chains},
        "findings": [finding_json(finding) | {"first_broken_of": list(finding.chains)} for finding in report.findings],
    }


def finding_json(finding: Finding) -> dict[str, Any]:
    """Plain values of one finding, without its chains."""
    file, level = finding.file.as_posix(), str(finding.level)
    return {"level": level, "file": file, "place": finding.place, "text": finding.text}


def to_text(report: Report) -> str:
    """Counts, then the findings by level; what is broken one by one, with the cells that it breaks."""
    counts = ", ".join(f"{number:,} {what}" for what, number in report.checked.items() if number)
    lines = textwrap.wrap(f"{report.scale} scale: checked {counts}", WIDTH, subsequent_indent="  ")
    state = f"{report.broken_chains:,} are broken" if report.broken_chains else "none is broken"
    lines.append(f"{report.chains:,} cells of tables and figures were followed to their files; {state}.")
    lines += _numbers(report.numbers)
    for level in Level:
        found = report.of(level)
        if found:
            lines += ["", *textwrap.wrap(f"{str(level).upper()} ({len(found):,}): {MEANING[level]}", WIDTH)]
            lines += {Level.BROKEN: _all, Level.UNSEALED: _few}.get(level, _alike)(found)
    if not report.of(Level.BROKEN):
        lines += ["", "Nothing is broken."]
    return printable("\n".join(lines) + "\n")


def _numbers(tally: Tally) -> Iterator[str]:
    """How many numbers were recomputed, and which were not."""
    recomputed, bounded, unknown = (sum(counts.values()) for counts in vars(tally).values())
    text = (
        f"Of {recomputed + bounded + unknown:,} numbers in metric files, {recomputed:,} were recomputed; of "
        f"{bounded:,} only a range or a relation to others is known; {unknown:,} are not determined by the evidence "
        "that is kept"
    )
    yield from textwrap.wrap(f"{text}{':' if unknown else '.'}", WIDTH)
    for task, fields in itertools.groupby(sorted(tally.unknown), lambda kind: kind.partition(": ")[0]):
        kinds = ", ".join(f"{tally.unknown[kind]:,} of {kind.partition(': ')[2]}" for kind in fields)
        again = " (counted again by --recount)" if task.startswith(COUNTED) else ""
        yield f"  {task}: {kinds}{again}"


def _all(findings: tuple[Finding, ...]) -> Iterator[str]:
    for finding in findings:
        yield f"  {finding.file.as_posix()}{f': {finding.place}' if finding.place else ''}"
        yield from _indented(finding.text)
        if finding.chains:
            more = f" and {len(finding.chains) - SHOWN:,} more" if len(finding.chains) > SHOWN else ""
            cells = "; ".join(finding.chains[:SHOWN]) + more
            yield from _indented(f"first broken link of {len(finding.chains):,} cell(s): {cells}")


def _alike(findings: tuple[Finding, ...]) -> Iterator[str]:
    """Findings that say the same of several files once."""
    groups: dict[tuple[str, str], list[str]] = {}
    for finding in findings:
        groups.setdefault((finding.place, finding.text), []).append(finding.file.as_posix())
    for (place, text), files in groups.items():
        for file in files[:SHOWN]:
            yield f"  {file}{f': {place}' if place else ''}"
        if len(files) > SHOWN:
            yield f"  and {len(files) - SHOWN:,} more"
        yield from _indented(text)


def _indented(text: str) -> list[str]:
    return textwrap.wrap(
        shortened(text),
        WIDTH,
        initial_indent="      ",
        subsequent_indent="      ",
        break_long_words=False,
        break_on_hyphens=False,
    )


def _few(findings: tuple[Finding, ...]) -> Iterator[str]:
    """How many files of each kind, and which where they are few."""
    for kind, number in Counter(finding.text for finding in findings).items():
        yield f"  {number:,} {kind}"
        if number <= SHOWN:
            yield from (f"    {finding.file.as_posix()}" for finding in findings if finding.text == kind)
