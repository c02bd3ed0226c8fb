"""Perturbed sets: what is there of them, down to corruption and severity, and their parts opened for evaluation."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lska.data.entries import DataError, lying_at
from lska.data.folders import Split, list_split, names_digest
from lska.data.integrity import CheckReport, changed, check_class_folders, read_contents, structure_problems
from lska.data.manifest import TEST, CorruptedManifest, Manifest, manifest_for
from lska.data.perturbed.names import FAMILIES, GROUPS, severity_folder
from lska.data.sources import archives_of, class_root, open_classification
from lska.provenance import metric_files
from lska.provenance.metric_files import digest
from lska.settings.tasks import PerturbedSet

logger = logging.getLogger(__name__)

CLEAN = "clean"
"""Part with the clean images that the corruptions were applied to, for the relative errors of ImageNet-C."""

Cell = tuple[str, int]
"""A corruption and a severity."""


@dataclass(frozen=True, eq=False)
class Part:
    """Images that are scored together: a corruption at a severity, the clean images, or a whole set."""

    name: str
    """`gaussian_noise/3`, `clean` or `test`."""
    split: Split
    identity: str
    """Digest of what the images are; predictions on them are kept under it."""
    indices: tuple[int, ...] | None = None
    """Images of `split` that belong to the part, in the order of the other parts; None for all."""
    stored: bool = False
    """Whether the images are stored at the size of the networks' input."""

    def __len__(self) -> int:
        return len(self.split) if self.indices is None else len(self.indices)

    def index(self, position: int) -> int:
        """Index in `split` of the image at `position`."""
        return position if self.indices is None else self.indices[position]

    @property
    def cell(self) -> Cell | None:
        """Corruption and severity; None for other parts."""
        corruption, _, severity = self.name.partition("/")
        return (corruption, int(severity)) if severity else None


def read_perturbed_record(item: PerturbedSet) -> dict[str, Any]:
    """The record of a prepared set.

    Raises:
        FileError: it is missing or damaged; says how to make it.
    """
    fields = {"name": str, "digest": str, "names": str}
    if item.corrupted:
        fields |= {"manifest": str, "contents": dict, "parts": dict, "missing": dict}
    return metric_files.read_record(item.record, item.data.name, item.name, **fields)


def open_parts(item: PerturbedSet) -> list[Part]:
    """Every part that the record of a set names, in the published order, and for ImageNet-C the clean images first.

    Raises:
        DataError: the record is missing, or the images are not the recorded ones any more; says how.
    """
    stored, root = read_perturbed_record(item), Path(item.data.root)
    if not item.corrupted:
        split = open_test(class_root(root, archives_of(item.data), item.data.cache))
        made = item.data.generate is not None
        problems = [] if made else structure_problems(manifest_for(item.name, item.data), split, TEST)
        if names_digest(split) != stored["names"]:
            problems.append("its file names are not the recorded ones")
        if problems:
            raise changed(root, item.record, problems)
        return [Part(TEST, split, digest([stored["digest"], stored["names"]]))]
    parts = []
    for corruption in FAMILIES[item.name]:
        for severity in stored["parts"].get(corruption, ()):
            name, folder = f"{corruption}/{severity}", corruption_folder(root, item.name, corruption)
            if folder is None:
                raise changed(root, item.record, [f"{name}: {root / corruption} is gone"])
            split = list_split(folder, severity_folder(item.name, corruption, severity))
            if names_digest(split) != stored["names"]:
                raise changed(root, item.record, [f"{name}: its file names are not the recorded ones"])
            identity = digest([stored["manifest"], name, stored["names"], stored["contents"].get(name)])
            parts.append(Part(name, split, identity, stored=True))
    clean = clean_part(item, parts[0].split) if item.name == "c" else None
    return parts if clean is None else [clean, *parts]


def clean_part(item: PerturbedSet, corrupted: Split) -> Part | None:
    """The clean validation images with the names of the corrupted ones; None where they are not at hand."""

    def stem(name: str) -> str:
        """`<class>/<file>` without its suffix: a corrupted copy of a PNG file is a JPEG file."""
        return name.rpartition(".")[0]

    try:
        clean = open_classification(item.clean, "val")
    except DataError as error:
        logger.warning("relative errors need the clean validation images: %s", error)
        return None
    places = {stem(sample.name): index for index, sample in enumerate(clean.samples)}
    indices = [places.get(stem(sample.name)) for sample in corrupted.samples]
    if None in indices:
        lacking = indices.count(None)
        logger.warning("%s: %d images of %s are not among them; no relative errors", clean.source, lacking, item.name)
        return None
    identity = digest([item.clean.identity(), indices])
    return Part(CLEAN, clean, identity, tuple(indices))


# --- Sets of corruptions ---------------------------------------------------------------------------------------------


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

    expected = "expected <corruption>/<severity>/<class>/<image>"
    if not root.is_dir():
        return CorruptedCheck(findings=(f"{root} is no folder: {expected}; correct the root",))
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
            split = list_split(folder, severity)
            wrong = "; ".join(structure_problems(manifest.part(severity), split))
        except DataError as error:
            wrong = str(error)
        if wrong:
            problems[cell] = wrong
        else:
            parts[cell] = split
    if len(absent) == len(manifest.cells):
        example = f"{absent[0][0]}/{severity_folder(manifest.family, *absent[0])}"
        what = f"{root} holds no corruption of {manifest.name}: {expected}, such as {example}, {lying_at(root)}"
        return CorruptedCheck(findings=(f"{what}; correct the root",))
    # The part whose file names are not those of most parts is the exception, also where it comes first.
    names = {cell: names_digest(split) for cell, split in parts.items()}
    usual = Counter(names.values()).most_common(1)[0][0] if names else None
    for cell in [cell for cell, found in names.items() if found != usual]:
        example = "/".join(map(str, next(one for one, found in names.items() if found == usual)))
        problems[cell] = f"the file names are not those of {example}, although every part shows the same images"
        del parts[cell]
    findings = []
    for corruption, levels in by_corruption(absent).items():
        archive = next((f"{group}.tar" for group, members in GROUPS.items() if corruption in members), None)
        source = "" if archive is None else f" (ImageNet-C has them in {archive})"
        what = "severities" if len(levels) > 1 else "severity"
        findings.append(f"{corruption}: {what} {', '.join(map(str, levels))} missing{source}.")
    for problem in dict.fromkeys(problems.values()):
        alike = by_corruption(cell for cell, found in problems.items() if found == problem).items()
        places = "; ".join(f"{name}/{', '.join(map(str, levels))}" for name, levels in alike)
        findings.append(f"{places}: {problem}.")
    return CorruptedCheck(parts, tuple(findings), usual)


def by_corruption(cells: Iterable[Cell]) -> dict[str, list[int]]:
    """The severities of each corruption that occurs."""
    found: dict[str, list[int]] = {}
    for corruption, severity in cells:
        found.setdefault(corruption, []).append(severity)
    return found


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


# --- Sets with one folder per class ----------------------------------------------------------------------------------


def report_perturbed(manifest: Manifest, root: Path, contents: bool = False) -> CheckReport:
    """The check of a set with one folder per class, for people."""
    return check_class_folders(manifest, root, contents, lambda name: open_test(root))


def open_test(root: Path) -> Split:
    """List a set with one folder per class; DataError where it is missing or its images are not sorted into classes."""
    if not root.is_dir():
        what = "a folder with a folder of images per class, or an archive of it"
        raise DataError(f"{root} does not exist: expected {what}; correct the root")
    return list_split(root.parent, root.name)
