"""Perturbed sets: made or checked, down to corruption and severity, recorded, and opened part by part."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from lska.data.archives import archives_of, class_root, open_classification
from lska.data.entries import DataError, content_hash, wrong_root
from lska.data.folders import Split, contents_digest, list_split, names_digest
from lska.data.manifest import TEST, CorruptedManifest, Manifest, describe_split, manifest_for
from lska.data.perturbed.corrupted_set import chosen_images, write_corrupted_set
from lska.data.perturbed.names import FAMILIES, GROUPS, SEVERITIES, severity_folder
from lska.data.preparing import (
    RENDERED,
    CheckReport,
    DataSet,
    Findings,
    changed,
    check_class_folders,
    mapped,
    prepare_set,
    read_contents,
    record,
    structure_problems,
)
from lska.data.synthetic.labelled import Judge, write_adversarial_set
from lska.provenance import metric_files
from lska.provenance.errors import InputError
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
    """The record of a prepared set; FileError, which says how to make it, where it is missing or damaged."""
    fields = {"name": str, "digest": str, "names": str}
    if item.corrupted:
        fields |= {"manifest": str, "contents": dict, "parts": dict, "missing": dict}
    return metric_files.read_record(item.record, item.data.name, item.name, **fields)


def open_parts(item: PerturbedSet) -> list[Part]:
    """Every part that the record of a set names, in the published order, and for ImageNet-C the clean images first.

    Raises DataError or FileError: the record is missing, or the images are not the recorded ones any more.
    """
    stored, root = read_perturbed_record(item), Path(item.data.root)
    if not item.corrupted:
        split = open_test(class_root(root, archives_of(item.data), item.data.cache))
        if names_digest(split) != stored["names"]:
            raise changed(root, item.record, ["its file names are not the recorded ones"])
        return [Part(TEST, split, digest([stored["digest"], stored["names"]]))]
    parts = []
    for corruption in FAMILIES[item.name]:
        for severity in stored["parts"].get(corruption, ()):
            name = f"{corruption}/{severity}"
            folder = corruption_folder(root, item.name, corruption) or root / corruption
            split = list_split(folder, severity_folder(item.name, corruption, severity))
            if names_digest(split) != stored["names"]:
                raise changed(root, item.record, [f"{name}: its file names are not the recorded ones"])
            identity = digest([stored["manifest"], name, stored["names"], stored["contents"].get(name)])
            parts.append(Part(name, split, identity, stored=True))
    clean = clean_part(item, parts[0].split) if item.name == "c" else None
    return parts if clean is None else [clean, *parts]


def clean_part(item: PerturbedSet, corrupted: Split) -> Part | None:
    """The clean validation images with the names of the corrupted ones; None where they are not at hand."""
    try:
        clean = open_classification(item.clean, "val")
    except DataError as error:
        logger.warning("relative errors need the clean validation images: %s", error)
        return None
    # Without suffixes: a corrupted copy of a PNG file is a JPEG file.
    places = {name.rpartition(".")[0]: index for index, name in enumerate(clean.samples.names)}
    indices = [places.get(sample.name.rpartition(".")[0]) for sample in corrupted.samples]
    if None in indices:
        lacking = indices.count(None)
        logger.warning("%s lacks the clean image of %d images of %s; relative errors are left out",
                       clean.source, lacking, item.name)  # fmt: skip
        return None
    identity = digest([item.clean.identity(), indices])
    return Part(CLEAN, clean, identity, tuple(indices))


# --- Making and recording --------------------------------------------------------------------------------------------

DESCRIBED = {"source": "made by lska.data.perturbed from the scale's validation images", "terms": "those of the images"}
"""What a manifest says of generated corruptions."""


def prepare_perturbed(item: PerturbedSet, judge: Judge | None = None, judged_by: dict[str, Any] | None = None) -> None:
    """Generate a perturbed set where the configuration says so, check it, and write its record.

    A set of corruptions may lack corruptions or severities: the record says which, and so will the results. `judge` is
    the reference classifier of a generated counterpart of ImageNet-A, `judged_by` identifies its weights. Raises as
    `prepare_set`, also where no part is complete.
    """
    chosen = {} if judged_by is None else {"reference": judged_by}
    if item.corrupted:
        dataset: DataSet = CorruptedFolders(item.name, item.data, item.data.cache, item)
    else:
        dataset = PerturbedFolder(item.name, item.data, item.data.cache, judge, chosen.get("reference", {}))
    prepare_set(dataset, item.record, chosen | {"set": item.name, "inputs": item.inputs()})


# --- Sets of corruptions ---------------------------------------------------------------------------------------------


def check_corrupted(manifest: CorruptedManifest, root: Path) -> tuple[dict[Cell, Split], list[str]]:
    """The complete parts of a set of corruptions, and what is wrong; nothing about the data raises. Reads no image.

    Severities with the same problem share a sentence.
    """
    parts: dict[Cell, Split] = {}
    problems: dict[Cell, str] = {}
    for cell in manifest.cells:
        severity = severity_folder(manifest.family, *cell)
        folder = corruption_folder(root, manifest.family, cell[0])
        if folder is None or not (folder / severity).is_dir():
            problems[cell] = "missing"
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
    if {*problems.values()} == {"missing"} and not parts:
        example = f"{manifest.cells[0][0]}/{severity_folder(manifest.family, *manifest.cells[0])}"
        return {}, [str(wrong_root(root, f"{manifest.name}: expected <corruption>/<severity>/<class>, as {example}"))]
    # The part whose file names are not those of most parts is the exception, also where it comes first.
    names = {cell: names_digest(split) for cell, split in parts.items()}
    for usual, _ in Counter(names.values()).most_common(1):
        example = "/".join(map(str, next(cell for cell, found in names.items() if found == usual)))
        for cell in (cell for cell, found in names.items() if found != usual):
            problems[cell] = f"the file names are not those of {example}, although every part shows the same images"
            del parts[cell]
    findings = []
    for problem in dict.fromkeys(problems.values()):
        alike = by_corruption(cell for cell, found in problems.items() if found == problem).items()
        places = "; ".join(f"{name}/{', '.join(map(str, levels))}" for name, levels in alike)
        findings.append(f"{places}: {problem}.")
    return parts, findings


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
    parts, findings = check_corrupted(manifest, root)
    for (corruption, severity), part in parts.items() if contents else ():
        damaged = Findings()
        read_contents(part, damaged, Findings())
        findings += [f"{corruption}/{severity}: {text}." for text in damaged.sentences()]
    note = (
        f"{len(parts)} of {len(manifest.cells)} parts ({len(FAMILIES[manifest.family])} corruptions, "
        f"{len(manifest.severities)} severities) are complete, with {manifest.count:,} images each."
    )
    return CheckReport(manifest.name, manifest.digest, root, tuple(findings), (note,))


@dataclass(frozen=True)
class CorruptedFolders(DataSet):
    """ImageNet-C or ImageNet-C-bar, or the same corruptions of the scale's validation images."""

    item: PerturbedSet

    @property
    def manifest(self) -> CorruptedManifest:
        """What it has to hold: as its manifest says, or as the generator's settings promise.

        Raises ValueError: no such manifest, one of another family, a wrong setting, or no clean images to corrupt.
        """
        if self.data.generate is None:
            manifest = manifest_for(self.kind, self.data)
            if manifest.family != self.kind:
                raise InputError(
                    f"robustness.sets.{self.kind}: {manifest.name} is a manifest of family {manifest.family}, expected "
                    f"one of family {self.kind}; correct name or manifest"
                )
            return manifest
        settings, origin = self.settings, self.item.clean.name
        clean = open_classification(self.item.clean, "val")
        chosen = chosen_images(clean, settings.images, settings.seed)
        per_class = Counter(clean.samples[index].target for index in chosen).values()
        return CorruptedManifest(
            self.data.name, f"corruptions of {origin}", **DESCRIBED, family=self.kind, classes=clean.classes,
            count=len(chosen), per_class=(min(per_class), max(per_class)), severities=settings.severities,
        )  # fmt: skip

    def generate(self) -> None:
        """Corrupt the clean images."""
        clean, origin = open_classification(self.item.clean, "val"), self.item.clean.identity()
        workers = max(1, self.item.section.evaluation.threads)
        write_corrupted_set(clean, self.root, self.settings, origin, workers)

    def check(self, contents: bool = False) -> tuple[CheckReport, dict[str, Any]]:
        """Every part; what is missing is only told, as long as one part is complete."""
        manifest = self.manifest
        complete, findings = check_corrupted(manifest, self.root)
        if not complete:
            told = ("no part of it is complete.", *findings)
            return CheckReport(manifest.name, manifest.digest, self.root, told), {}
        for sentence in findings:
            logger.warning("%s: %s", self.data.name, sentence)
        # Severities that a generated set does without are missing from its means too.
        whole = [(corruption, severity) for corruption in FAMILIES[manifest.family] for severity in SEVERITIES]
        digests = {}
        for (corruption, severity), part in complete.items() if self.data.generate is not None else ():
            hashes = mapped(lambda index, part=part: content_hash(part.read(index)), len(part), part.source.name)
            digests[f"{corruption}/{severity}"] = contents_digest(part, hashes)
        content = manifest.about | {
            "family": manifest.family,
            "classes": len(manifest.classes),
            "images": manifest.count,
            "manifest": manifest.digest,
            "parts": by_corruption(complete),
            "names": names_digest(next(iter(complete.values()))),
            "missing": by_corruption(cell for cell in whole if cell not in complete),
            "contents": digests,
        }
        identity = digest([content[key] for key in ("manifest", "parts", "names", "contents")])
        return CheckReport(manifest.name, identity, self.root, ()), content | {"digest": identity}


# --- Sets with one folder per class ----------------------------------------------------------------------------------


def open_test(root: Path) -> Split:
    """List a set with one folder per class; DataError where it is missing or its images are not sorted into classes."""
    if not root.is_dir():
        raise wrong_root(root, "a set: expected a folder of images per class, or an archive of them")
    return replace(list_split(root.parent, root.name), split=TEST)


@dataclass(frozen=True)
class PerturbedFolder(DataSet):
    """ImageNet-A, -R or -Sketch, or a generated counterpart: one folder per class."""

    judge: Judge | None = None
    """The reference classifier that chooses the images of a counterpart of A, and what identifies its weights."""
    judged_by: dict[str, Any] = field(default_factory=dict)

    def generate(self) -> None:
        """Write the counterpart's images."""
        if self.judge is None:
            super().generate()
        else:
            write_adversarial_set(self.root, self.settings, self.judge, self.judged_by)

    def check(self, contents: bool = False) -> tuple[CheckReport, dict[str, Any]]:
        """Classes, counts and names; what was generated is described as it is."""
        if self.data.generate is None:
            manifest = manifest_for(self.kind, self.data)
            place = class_root(self.root, manifest.archives, self.cache)
            report = check_class_folders(manifest, place, contents, lambda name: open_test(place))
            names = names_digest(open_test(place)) if report.ok else None
            return report, record(manifest) | {"names": names, "contents": None}
        split = open_test(self.root)
        described = replace(describe_split(split), counts=split.counts())
        words = {"title": "generated scenes", **RENDERED}
        manifest = Manifest(name=self.data.name, **words, classes=split.classes, splits={TEST: described})
        content = record(manifest) | {"names": described.names, "contents": described.contents}
        return CheckReport(manifest.name, manifest.digest, self.root, ()), content
