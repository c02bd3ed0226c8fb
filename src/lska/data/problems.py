"""What the check of a data set collects: problems by kind, the report of them, and how a set is refused."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lska.data.entries import SHOWN, DataError
from lska.provenance.files import one_line


class Findings:
    """Problems by kind; each kind keeps its number and its first examples, so that millions of them fit in memory."""

    def __init__(self) -> None:
        self._examples: dict[str, list[str]] = {}
        self._counts: dict[str, int] = {}

    def __len__(self) -> int:
        return sum(self._counts.values())

    def add(self, kind: str, example: str) -> None:
        """Count one more problem of a kind; `example` names the file and the annotation."""
        self._counts[kind] = self._counts.get(kind, 0) + 1
        examples = self._examples.setdefault(kind, [])
        if len(examples) < SHOWN:
            examples.append(one_line(example))

    def sentences(self) -> tuple[str, ...]:
        """One text per kind: the kind, how many there are, the first of them."""
        return tuple(
            f"{kind} ({count:,}): {'; '.join(self._examples[kind])}"
            + (f"; and {count - SHOWN:,} more" if count > SHOWN else "")
            for kind, count in self._counts.items()
        )


def differences(stated: Iterable[tuple[str, int | None, int]]) -> list[str]:
    """Sentences about counts that are not as stated, from triples (what, expected or None, found)."""
    return [
        f"{found:,} {what}, expected {expected:,} "
        f"({abs(found - expected):,} too {'many' if found > expected else 'few'})"
        for what, expected, found in stated
        if expected is not None and found != expected
    ]


@dataclass(frozen=True)
class SplitOutcome:
    """What the complete check of one split found.

    `findings` are what is wrong, one text per kind; `facts` are numbers for the record; `notes` are for the log;
    `contents` is the digest of all bytes.
    """

    findings: tuple[str, ...]
    facts: dict[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    contents: str | None = None


@dataclass(frozen=True)
class CheckReport:
    """The outcome of a check: `findings` are what is wrong, `notes` what is worth knowing; one sentence each."""

    manifest: str
    digest: str
    root: Path
    findings: tuple[str, ...]
    notes: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether the data are what the manifest says."""
        return not self.findings


def render_report(report: CheckReport) -> str:
    """The report for people, ending in a newline."""
    verdict = "as its manifest says" if report.ok else f"not as its manifest says ({len(report.findings)})"
    lines = [f"{report.manifest} at {report.root}: {verdict}", f"manifest digest {report.digest}"]
    lines += [f"  wrong: {one_line(text)}" for text in report.findings]
    lines += [f"  {one_line(text)}" for text in report.notes]
    return "\n".join(lines) + "\n"


def changed(root: str | Path, record: Path, problems: Iterable[str]) -> DataError:
    """The error about a set that is not the one that `record` records any more."""
    lines = "\n".join(f"  {problem}" for problem in problems)
    return DataError(
        f"{root} is not the set that {record} records:\n{lines}\nrestore the files, or remove the record and "
        "prepare the set again"
    )
