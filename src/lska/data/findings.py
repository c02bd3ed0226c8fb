"""What a check of a data set collects: problems by kind, and facts worth recording."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from lska.data.layouts import SHOWN
from lska.files import one_line


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
        return tuple(f"{kind} ({count:,}): {self._listed(kind)}" for kind, count in self._counts.items())

    def _listed(self, kind: str) -> str:
        examples, count = self._examples[kind], self._counts[kind]
        more = f"; and {count - len(examples):,} more" if count > len(examples) else ""
        return "; ".join(examples) + more


@dataclass(frozen=True)
class Outcome:
    """What the complete check of one split found.

    `findings` are what is wrong, one text per kind; `facts` are numbers for the record; `notes` are for the log;
    `contents` is the digest of all bytes.
    """

    findings: tuple[str, ...]
    facts: dict[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    contents: str | None = None


def differences(stated: Iterable[tuple[str, int | None, int]]) -> list[str]:
    """Sentences about counts that are not as stated, from triples (what, expected or None, found)."""
    sentences = []
    for what, expected, found in stated:
        if expected is not None and found != expected:
            direction = "many" if found > expected else "few"
            sentences.append(f"{found:,} {what}, expected {expected:,} ({abs(found - expected):,} too {direction})")
    return sentences
