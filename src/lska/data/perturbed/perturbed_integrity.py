"""Finding the parts of a perturbed set on disk, and saying exactly what is missing, down to corruption and severity."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from lska.data.entries import DataError, lying_at
from lska.data.folders import Split, list_split, names_digest
from lska.data.integrity import CheckReport, check_class_folders, read_contents, structure_problems
from lska.data.manifest import TEST, CorruptedManifest, Manifest
from lska.data.perturbed.names import FAMILIES, GROUPS, severity_folder

Cell = tuple[str, int]
"""A corruption and a severity."""


@dataclass(frozen=True)
class CorruptedCheck:
    """What is there of a set of corruptions: complete parts by cell, and what is wrong.

    `names` is the digest of the file names, the same in every complete part; None where there is none.
    """

    parts: dict[Cell, Split] = field(default_factory=dict)
    findings: tuple[str, ...] = ()
    names: str | None = None


def check_corrupted(manifest: CorruptedManifest, root: Path) -> CorruptedCheck:
    """List every part of a set of corruptions; nothing about the data raises. No image is read.

    Findings are whole corruptions and single severities that are missing, then parts that are not complete; those with
    the same problem share a sentence.
    """
    from tqdm import tqdm

    if not root.is_dir():
        text = f"{root} is no folder: expected <corruption>/<severity>/<class>/<image>; correct the root"
        return CorruptedCheck(findings=(text,))
    parts: dict[Cell, Split] = {}
    problems: dict[Cell, str] = {}
    absent: list[Cell] = []
    for cell in tqdm(manifest.cells, unit="part", disable=None, leave=False):
        severity = severity_folder(manifest.family, *cell)
        folder = corruption_folder(root, manifest.family, cell[0])
        if folder is None or not (folder / severity).is_dir():
            absent.append(cell)
            continue
        try:
            parts[cell] = list_split(folder, severity)
            wrong = structure_problems(manifest.part(severity), parts[cell])
        except DataError as error:
            wrong = [str(error)]
        if wrong:
            problems[cell] = "; ".join(wrong)
            parts.pop(cell, None)
    if len(absent) == len(manifest.cells):
        example = f"{absent[0][0]}/{severity_folder(manifest.family, *absent[0])}"
        text = (
            f"{root} holds no corruption of {manifest.name}: expected <corruption>/<severity>/<class>/<image>, such as "
            f"{example}, {lying_at(root)}; correct the root"
        )
        return CorruptedCheck(findings=(text,))
    names = _usual_names(parts, problems)
    parts = {cell: split for cell, split in parts.items() if cell not in problems}
    alike: dict[str, list[Cell]] = {}
    for cell, problem in problems.items():
        alike.setdefault(problem, []).append(cell)
    missing = [_missing(name, levels) for name, levels in by_corruption(absent).items()]
    broken = [f"{_places(cells)}: {problem}." for problem, cells in alike.items()]
    return CorruptedCheck(parts, (*missing, *broken), names)


def by_corruption(cells: Iterable[Cell]) -> dict[str, list[int]]:
    """The severities of each corruption that occurs."""
    found: dict[str, list[int]] = {}
    for corruption, severity in cells:
        found.setdefault(corruption, []).append(severity)
    return found


def _places(cells: Iterable[Cell]) -> str:
    """`fog/1, 2; snow/3`."""
    return "; ".join(f"{name}/{', '.join(map(str, levels))}" for name, levels in by_corruption(cells).items())


def _missing(corruption: str, levels: list[int]) -> str:
    archive = next((f"{group}.tar" for group, members in GROUPS.items() if corruption in members), None)
    source = "" if archive is None else f" (ImageNet-C has them in {archive})"
    what = "severities" if len(levels) > 1 else "severity"
    return f"{corruption}: {what} {', '.join(map(str, levels))} missing{source}."


def _usual_names(parts: dict[Cell, Split], problems: dict[Cell, str]) -> str | None:
    """Digest of the file names that most parts have; the others get an entry in `problems`."""
    digests = {cell: names_digest(split) for cell, split in parts.items()}
    if not digests:
        return None
    usual, _ = Counter(digests.values()).most_common(1)[0]
    example = "/".join(map(str, next(cell for cell, found in digests.items() if found == usual)))
    for cell in (cell for cell, found in digests.items() if found != usual):
        problems[cell] = f"the file names are not those of {example}, although every part shows the same images"
    return usual


def corruption_folder(root: Path, family: str, corruption: str) -> Path | None:
    """The folder of a corruption: `root/<corruption>`, or inside the folder of its archive (`root/blur/zoom_blur`)."""
    archives = [group for group, members in GROUPS.items() if corruption in members] if family == "c" else []
    places = [root / corruption, *(root / group / corruption for group in archives)]
    return next((place for place in places if place.is_dir()), None)


def report_corrupted(manifest: CorruptedManifest, root: Path, contents: bool = False) -> CheckReport:
    """The check of a set of corruptions for people; with `contents`, every image is decoded too."""
    checked = check_corrupted(manifest, root)
    damaged = [
        f"{corruption}/{severity}: {text}."
        for (corruption, severity), part in (checked.parts.items() if contents else ())
        for text in read_contents(part)[1]
    ]
    note = (
        f"{len(checked.parts)} of {len(manifest.cells)} parts ({len(FAMILIES[manifest.family])} corruptions, "
        f"{len(manifest.severities)} severities) are complete, with {manifest.count:,} images each."
    )
    return CheckReport(manifest.name, manifest.digest, root, (*checked.findings, *damaged), (note,))


def report_perturbed(manifest: Manifest, root: Path, contents: bool = False) -> CheckReport:
    """The check of a set with one folder per class, for people."""
    return check_class_folders(manifest, root, contents, lambda name: open_test(root))


def open_test(root: Path) -> Split:
    """List a set with one folder per class; DataError where it is missing or its images are not sorted into classes."""
    if not root.is_dir():
        raise DataError(
            f"{root} does not exist: expected a folder with a folder of images per class, or an archive of it; correct "
            "the root"
        )
    return list_split(root.parent, root.name)


def perturbed_problems(manifest: Manifest, split: Split) -> list[str]:
    """What is wrong with an opened set with one folder per class; reads no image."""
    return structure_problems(manifest, split, TEST)
