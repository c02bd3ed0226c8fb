"""Compare class folders with their manifest and say exactly what is missing or too much."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from lska.data.decoding import see
from lska.data.digests import contents_digest, names_digest
from lska.data.entries import SHOWN, DataError, shown_names
from lska.data.folders import Split, list_split
from lska.data.manifest import Manifest, SplitManifest
from lska.data.parallel import mapped
from lska.data.problems import CheckReport, Findings


def check_class_folders(
    manifest: Manifest, root: Path, contents: bool = False, cache: Path | None = None
) -> CheckReport:
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
            notes.append(f"{name}: other entries, ignored ({split.ignored:,}): {shown_names(split.ignored_names[:3])}.")
        problems, remarks = structure_problems(manifest, split), ()
        whole = not problems
        problems += _empty_files(split)
        if contents:
            hashes, damaged, remarks = read_contents(split)
            problems += damaged
            stated = expected.contents if whole and not damaged else None
            if stated and (found := contents_digest(split, hashes)) != stated:
                problems.append(f"the contents differ, expected contents digest {stated}, found {found}")
        findings += [f"{name}: {text}." for text in problems]
        notes += [f"{name}: {text}." for text in remarks]
    # A missing root fails every split with the same message.
    return CheckReport(manifest.name, manifest.digest, Path(root), tuple(dict.fromkeys(findings)), tuple(notes))


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


def read_contents(split: Split) -> tuple[list[str], tuple[str, ...], tuple[str, ...]]:
    """Decode every image, with a progress bar on a terminal.

    Returns:
        The hashes of the files, in order, empty where one cannot be used; sentences about images that cannot be used,
        which name the first of them; sentences about what decoding leaves out.
    """
    hashes, damaged, remarks = [], Findings(), Findings()
    pictures = mapped(lambda index: see(lambda: split.read(index), split.name(index)), len(split), split.split)
    for index, picture in enumerate(pictures):
        hashes.append(picture.hash)
        for remark in picture.remarks:
            remarks.add(f"images with {remark}", split.samples[index].name)
        if picture.problem:
            damaged.add("images that cannot be decoded", picture.problem)
    return hashes, damaged.sentences(), remarks.sentences()


def _classes(manifest: Manifest, split: Split) -> Iterator[str]:
    missing = sorted(set(manifest.classes) - set(split.classes))
    unexpected = sorted(set(split.classes) - set(manifest.classes))
    empty = [name for name, count in split.counts().items() if not count]
    if missing:
        yield f"missing classes ({len(missing):,} of {len(manifest.classes):,}): {shown_names(missing)}"
    if unexpected:
        yield f"class folders that are not in the manifest ({len(unexpected):,}): {shown_names(unexpected)}"
    if empty:
        yield f"class folders without images ({len(empty):,}): {shown_names(empty)}"


def _counts(manifest: Manifest, expected: SplitManifest, split: Split) -> Iterator[str]:
    gap = len(split) - expected.count
    if gap:
        direction = "too many" if gap > 0 else "too few"
        yield f"{len(split):,} images, expected {expected.count:,} ({abs(gap):,} {direction})"
    few, many = [], []
    for name, count in split.counts().items():
        if not count or name not in manifest.classes:
            continue
        fewest, most = expected.expected(name)
        if count < fewest:
            few.append(f"{name} has {count:,} of {fewest:,}")
        elif count > most:
            many.append(f"{name} has {count:,} instead of {most:,}")
    for which, items in (("few", few), ("many", many)):
        if items:
            more = f" and {len(items) - SHOWN:,} more" if len(items) > SHOWN else ""
            yield f"classes with too {which} images ({len(items):,}): {', '.join(items[:SHOWN])}{more}"


def _empty_files(split: Split) -> Iterator[str]:
    empty, unreadable = [], []
    for index in range(len(split)):
        try:
            if split.size(index) == 0:
                empty.append(split.samples[index].name)
        except (OSError, DataError):
            unreadable.append(split.samples[index].name)
    if empty:
        yield f"files without bytes ({len(empty):,}): {shown_names(empty)}"
    if unreadable:
        yield f"files that cannot be opened ({len(unreadable):,}): {shown_names(unreadable)}"
