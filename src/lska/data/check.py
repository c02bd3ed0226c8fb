"""Compare a data root with its manifest and say exactly what is missing or too much."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from lska.data.decoding import inspect
from lska.data.findings import Findings
from lska.data.folders import DataError, Split, list_split
from lska.data.layouts import SHOWN, shown
from lska.data.manifest import Manifest, SplitManifest, content_hash, contents_digest, names_digest
from lska.data.parallel import mapped
from lska.files import one_line


@dataclass(frozen=True)
class Report:
    """The outcome of a check: `findings` are what is wrong, `notes` what is worth knowing; one sentence each."""

    manifest: str
    digest: str
    root: Path
    findings: tuple[str, ...]
    notes: tuple[str, ...]

    @property
    def ok(self) -> bool:
        """Whether the data are what the manifest says."""
        return not self.findings


def check(manifest: Manifest, root: Path, contents: bool = False, cache: Path | None = None) -> Report:
    """Check every split of `manifest` at `root`: classes, counts, empty files, names; with `contents` every image too.

    Nothing about the data raises: a missing root or a damaged archive is a finding like any other.
    """
    findings: list[str] = []
    notes: list[str] = []
    for name, expected in manifest.splits.items():
        try:
            split = list_split(root, name, cache)
        except DataError as error:
            findings.append(str(error))
            continue
        notes.append(f"{name}: {len(split):,} images in {len(split.classes):,} classes at {split.source}.")
        if split.ignored:
            notes.append(f"{name}: other entries, ignored ({split.ignored:,}): {shown(split.ignored_names[:3])}.")
        structure = structure_problems(manifest, split)
        problems = [*structure, *_empty_files(split)]
        if contents:
            read = read_contents(split)
            problems += _content_problems(expected, split, read, bool(structure))
            notes += [f"{name}: {text}." for text in read.remarks]
        findings += [f"{name}: {text}." for text in problems]
    # A missing root fails every split with the same message.
    return Report(manifest.name, manifest.digest, Path(root), tuple(dict.fromkeys(findings)), tuple(notes))


def structure_problems(manifest: Manifest, split: Split) -> list[str]:
    """What is wrong with the classes, counts and file names of an opened split, one sentence each; reads no image."""
    expected = manifest.splits[split.split]
    problems = [*_classes(manifest, split), *_counts(manifest, expected, split)]
    # Where images are missing, the names differ for that reason.
    if expected.names and not problems and (found := names_digest(split)) != expected.names:
        problems.append(
            f"the file names differ although the counts agree, expected names digest {expected.names}, found {found}"
        )
    return problems


def render(report: Report) -> str:
    """The report for people, ending in a newline."""
    verdict = "as its manifest says" if report.ok else f"not as its manifest says ({len(report.findings)})"
    lines = [f"{report.manifest} at {report.root}: {verdict}", f"manifest digest {report.digest}"]
    lines += [f"  wrong: {one_line(text)}" for text in report.findings]
    lines += [f"  {one_line(text)}" for text in report.notes]
    return "\n".join(lines) + "\n"


def _classes(manifest: Manifest, split: Split) -> Iterator[str]:
    missing = sorted(set(manifest.classes) - set(split.classes))
    unexpected = sorted(set(split.classes) - set(manifest.classes))
    if missing:
        yield f"missing classes ({len(missing):,} of {len(manifest.classes):,}): {shown(missing)}"
    if unexpected:
        yield f"class folders that are not in the manifest ({len(unexpected):,}): {shown(unexpected)}"
    empty = [name for name, count in split.counts().items() if not count]
    if empty:
        yield f"class folders without images ({len(empty):,}): {shown(empty)}"


def _counts(manifest: Manifest, expected: SplitManifest, split: Split) -> Iterator[str]:
    if len(split) != expected.count:
        gap = len(split) - expected.count
        direction = "too many" if gap > 0 else "too few"
        yield f"{len(split):,} images, expected {expected.count:,} ({abs(gap):,} {direction})"
    known = set(manifest.classes)
    filled = {name: count for name, count in split.counts().items() if count and name in known}
    few, many = [], []
    for name, count in filled.items():
        fewest, most = expected.expected(name)
        if count < fewest:
            few.append(f"{name} has {count:,} of {fewest:,}")
        elif count > most:
            many.append(f"{name} has {count:,} instead of {most:,}")
    if few:
        yield f"classes with too few images ({len(few):,}): {_listed(few)}"
    if many:
        yield f"classes with too many images ({len(many):,}): {_listed(many)}"


def _listed(items: list[str]) -> str:
    more = f" and {len(items) - SHOWN:,} more" if len(items) > SHOWN else ""
    return ", ".join(items[:SHOWN]) + more


def _empty_files(split: Split) -> Iterator[str]:
    empty, unreadable = [], []
    for index in range(len(split)):
        try:
            if split.size(index) == 0:
                empty.append(split.samples[index].name)
        except (OSError, DataError):
            unreadable.append(split.samples[index].name)
    if empty:
        yield f"files without bytes ({len(empty):,}): {shown(empty)}"
    if unreadable:
        yield f"files that cannot be opened ({len(unreadable):,}): {shown(unreadable)}"


@dataclass(frozen=True)
class Contents:
    """What reading every image of a split found."""

    hashes: list[str]
    """Of the files, in order; empty where one cannot be used."""
    damaged: tuple[str, ...]
    """Sentences about images that cannot be used; each names the first of them with the reasons."""
    remarks: tuple[str, ...]
    """Sentences about what decoding leaves out."""


def read_contents(split: Split) -> Contents:
    """Decode every image, with a progress bar on a terminal."""

    def attempt(index: int) -> tuple[str, tuple[str, ...], str]:
        try:
            data = split.read(index)
            return content_hash(data), inspect(data, split.name(index)).remarks, ""
        except DataError as error:
            return "", (), str(error)

    hashes, damaged, remarks = [], Findings(), Findings()
    for index, (value, found, problem) in enumerate(mapped(attempt, len(split), split.split)):
        hashes.append(value)
        for remark in found:
            remarks.add(f"images with {remark}", split.samples[index].name)
        if problem:
            damaged.add("images that cannot be decoded", problem)
    return Contents(hashes, damaged.sentences(), remarks.sentences())


def _content_problems(expected: SplitManifest, split: Split, contents: Contents, structure: bool) -> Iterator[str]:
    yield from contents.damaged
    stated = expected.contents if not structure and not contents.damaged else None
    if stated and (found := contents_digest(split, contents.hashes)) != stated:
        yield f"the contents differ, expected contents digest {stated}, found {found}"
