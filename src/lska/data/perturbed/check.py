"""Finding the parts of a perturbed set on disk, and saying exactly what is missing, down to corruption and severity."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from lska.data.check import Report, structure_problems, undecodable
from lska.data.check import check as check_splits
from lska.data.folders import DataError, Split, list_split
from lska.data.layouts import shown
from lska.data.manifest import Manifest, names_digest
from lska.data.perturbed.manifests import TEST, CorruptedManifest
from lska.data.perturbed.names import FAMILIES, GROUPS, severity_folder

Cell = tuple[str, int]
"""A corruption and a severity."""


@dataclass(frozen=True)
class CorruptedCheck:
    """What is there of a set of corruptions: complete parts by cell, and what is wrong, by cell or in general.

    `names` is the digest of the file names, the same in every complete part; None where there is none.
    """

    parts: dict[Cell, Split] = field(default_factory=dict)
    problems: dict[Cell, str] = field(default_factory=dict)
    absent: tuple[Cell, ...] = ()
    names: str | None = None
    root_problem: str | None = None

    def sentences(self) -> tuple[str, ...]:
        """What is wrong: whole corruptions and single severities that are missing, then parts that are not complete."""
        if self.root_problem is not None:
            return (self.root_problem,)
        missing: dict[str, list[int]] = {}
        for corruption, severity in self.absent:
            missing.setdefault(corruption, []).append(severity)
        lines = [f"{name}: severities {', '.join(map(str, levels))} are missing." for name, levels in missing.items()]
        broken = [f"{name}/{severity}: {problem}." for (name, severity), problem in self.problems.items()]
        return (*lines, *broken)


def check_corrupted(manifest: CorruptedManifest, root: Path) -> CorruptedCheck:
    """List every part of a set of corruptions; nothing about the data raises. No image is read."""
    if not root.is_dir():
        return CorruptedCheck(
            root_problem=f"{root} is no folder: expected <corruption>/<severity>/<class>/<image>; correct the root"
        )
    parts: dict[Cell, Split] = {}
    problems: dict[Cell, str] = {}
    absent, names = [], None
    for cell, split in _cells(manifest, root, problems):
        if split is None:
            if cell not in problems:
                absent.append(cell)
            continue
        found = names_digest(split)
        names = found if names is None else names
        if found != names:
            first = "/".join(map(str, next(iter(parts))))
            problems[cell] = f"its file names are not those of {first}, although every part shows the same images"
            continue
        parts[cell] = split
    return CorruptedCheck(parts, problems, tuple(absent), names)


def _cells(
    manifest: CorruptedManifest, root: Path, problems: dict[Cell, str]
) -> Iterator[tuple[Cell, Split | None]]:
    """Every cell with its split, None where it is absent or, with an entry in `problems`, not complete."""
    from tqdm import tqdm

    for cell in tqdm(manifest.cells, unit="part", disable=None, leave=False):
        folder = corruption_folder(root, manifest.family, cell[0])
        severity = severity_folder(manifest.family, *cell)
        if folder is None or not (folder / severity).is_dir():
            yield cell, None
            continue
        try:
            split = list_split(folder, severity)
            wrong = structure_problems(manifest.part(severity), split)
        except DataError as error:
            wrong = [str(error)]
        if wrong:
            problems[cell] = "; ".join(wrong)
        yield cell, None if wrong else split


def corruption_folder(root: Path, family: str, corruption: str) -> Path | None:
    """The folder of a corruption: `root/<corruption>`, or inside the folder of its archive (`root/blur/zoom_blur`)."""
    archives = [group for group, members in GROUPS.items() if corruption in members] if family == "c" else []
    places = [root / corruption, *(root / group / corruption for group in archives)]
    return next((place for place in places if place.is_dir()), None)


def report_corrupted(manifest: CorruptedManifest, root: Path, contents: bool = False) -> Report:
    """The check of a set of corruptions for people; with `contents`, every image is decoded too."""
    checked = check_corrupted(manifest, root)
    damaged = [text for cell, part in checked.parts.items() for text in _damaged(cell, part)] if contents else []
    note = (
        f"{len(checked.parts)} of {len(manifest.cells)} parts ({len(FAMILIES[manifest.family])} corruptions, "
        f"{len(manifest.severities)} severities) are complete, with {manifest.count:,} images each."
    )
    return Report(manifest.name, manifest.digest, root, (*checked.sentences(), *damaged), (note,))


def _damaged(cell: Cell, part: Split) -> Iterator[str]:
    failed = undecodable(part)
    if failed:
        yield f"{cell[0]}/{cell[1]}: images that cannot be decoded ({len(failed):,}): {shown(failed)}."


def report_perturbed(manifest: Manifest, root: Path, contents: bool = False, cache: Path | None = None) -> Report:
    """The check of a set with one folder per class, for people; `root` is that folder or a tar file of it."""
    return replace(check_splits(_renamed(manifest, root), root.parent, contents, cache), root=root)


def open_test(root: Path, cache: Path | None = None) -> Split:
    """List a set with one folder per class; `root` is that folder, or what it is packed in (`imagenet-r.tar`).

    Raises:
        DataError: it is missing, or its images are not sorted into classes.
    """
    return list_split(root.parent, _split_name(root), cache)


def perturbed_problems(manifest: Manifest, split: Split) -> list[str]:
    """What is wrong with an opened set with one folder per class; reads no image."""
    return structure_problems(_renamed(manifest, split.root / split.split), split)


def _renamed(manifest: Manifest, root: Path) -> Manifest:
    """The manifest under the name that the set's folder has, by which splits are found."""
    return replace(manifest, splits={_split_name(root): manifest.splits[TEST]})


def _split_name(root: Path) -> str:
    return root.name.removesuffix(".tar")
