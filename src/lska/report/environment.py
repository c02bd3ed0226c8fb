"""Where the results of a scale were made: code, lock file, versions, hardware and data."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lska.audit.findings import MEANING, Level
from lska.audit.verify import Verification
from lska.report.evidence import commit
from lska.report.gather import Results

LOCK = Path("envs/requirements.txt")
VERSIONS = {"python": "Python", "torch": "PyTorch", "timm": "timm"}
"""Versions that every result keeps, by their names there."""


@dataclass(frozen=True)
class Group:
    """Files of the results that agree in something."""

    name: str
    measured: int
    """Metric files."""
    trained: int
    """Sidecars of weights."""
    first: str
    last: str
    """Days of the first and last of them."""


@dataclass(frozen=True)
class Findings:
    """What a verification found of a level, as texts with the files that they are about."""

    level: str
    meaning: str
    texts: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class DataSet:
    """A checked or generated data set, as its record tells it."""

    name: str
    title: str
    images: str
    """How many, by split where it has some."""
    digest: str
    terms: str


def groups(results: Results, what: str) -> list[Group]:
    """Files by `commit`, by the `lock` file, or by what else decides numbers (`machine`); the most first."""
    found: dict[str, list[tuple[str, str]]] = {}
    for kind, contents in (("measured", results.metrics), ("trained", results.sidecars)):
        for content in contents.values():
            day = str(content.get("started") or content.get("finished") or "")[:10]
            found.setdefault(_value(content, what), []).append((kind, day))
    made = [_group(name, files) for name, files in found.items()]
    return sorted(made, key=lambda group: (-group.measured - group.trained, group.name))


def _value(content: Mapping[str, Any], what: str) -> str:
    if what == "commit":
        return commit(content.get("code") or {})
    known = content.get("environment") or {}
    if what == "lock":
        return str(known.get("lock") or "unknown")
    versions = [f"{name} {known[key]}" for key, name in VERSIONS.items() if known.get(key)]
    return ", ".join([" on ".join(str(known[key]) for key in ("device", "hardware") if known.get(key)), *versions])


def _group(name: str, files: Iterable[tuple[str, str]]) -> Group:
    kinds, days = zip(*files, strict=True)
    count, known = Counter(kinds), sorted(day for day in days if day) or [""]
    return Group(name, count["measured"], count["trained"], known[0], known[-1])


def lock_digest() -> str | None:
    """Digest of today's lock file, as results keep it; None where there is none."""
    return "sha256:" + hashlib.sha256(LOCK.read_bytes()).hexdigest() if LOCK.is_file() else None


def findings(verified: Verification | None) -> list[Findings]:
    """What was found, alike texts once. Notes are left out: they are about the checkout of the day, not the results."""
    found = []
    for level in (Level.BROKEN, Level.OUTDATED, Level.UNSEALED):
        files: dict[str, list[str]] = {}
        for finding in verified.of(level) if verified is not None else ():
            files.setdefault(finding.text, []).append(f"{finding.file.as_posix()} {finding.place}".strip())
        texts = tuple((text, names[0] if len(names) == 1 else f"{len(names)} files") for text, names in files.items())
        found += [Findings(str(level), MEANING[level], texts)] if texts else []
    return found


def data_sets(results: Results) -> list[DataSet]:
    """The records of the scale's data sets, by name."""
    return [_data_set(path, record) for path, record in results.records.items()]


def _data_set(path: Path, record: Mapping[str, Any]) -> DataSet:
    name, title, digest, terms = (str(record.get(key) or "") for key in ("name", "title", "digest", "terms"))
    splits, images = record.get("splits"), record.get("images")
    counts = [f"{split} {number:,}" for split, number in splits.items()] if splits else []
    counts += [f"{images:,}"] if isinstance(images, int) and not splits else []
    return DataSet(name or path.stem, title, ", ".join(counts), digest, terms)
