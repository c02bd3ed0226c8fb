"""Cue-conflict images: the shape of one category with the texture of another, in the published layout.

`<category>/<shape><n>-<texture><m>.png`: the folder is the shape's category, the name gives which instance of a shape
and which of a texture are combined (Geirhos et al., ICLR 2019; github.com/rgeirhos/texture-vs-shape, folder
stimuli/style-transfer-preprocessed-512, whose images have 224 pixels). Hidden entries, and files beside the category
folders, are ignored.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from lska.data.decoding import read_encoded
from lska.data.entries import DataError, is_hidden
from lska.data.integrity import CheckReport, Findings, decoded, differences
from lska.data.preparing import RENDERED, DataSet, inspected_record
from lska.provenance.files import read_yaml
from lska.provenance.metric_files import digest
from lska.settings.tasks import CUE_CONFLICT

NAME = re.compile(r"([A-Za-z_]+)([0-9]+)-([A-Za-z_]+)([0-9]+)\.png")

PUBLISHED = {
    "title": "published cue-conflict set",
    "source": "Geirhos et al., ImageNet-trained CNNs are biased towards texture, ICLR 2019; rgeirhos/texture-vs-shape",
    "terms": "images under the terms of their sources",
}
"""What is said of the published cue-conflict set, which has no manifest."""


@dataclass(frozen=True)
class Expected:
    """What a set has to hold: shape categories, one folder each, and images in each folder."""

    categories: tuple[str, ...]
    per_category: int


def imagenet_categories() -> dict[str, tuple[str, ...]]:
    """The 16 categories of the published set in alphabetical order, with the ImageNet-1K synsets of each."""
    found = read_yaml(Path(__file__).with_name("categories16.yaml"))
    return {name: tuple(synsets) for name, synsets in sorted(found.items())}


def published() -> Expected:
    """The published set: 16 categories of 80 images, 1,280 in all."""
    return Expected(tuple(imagenet_categories()), 80)


class Instance(NamedTuple):
    """One shape or one texture: `airplane1` is number 1 of its category."""

    category: str
    number: int

    def __str__(self) -> str:
        return f"{self.category}{self.number}"


@dataclass(frozen=True, eq=False)
class CueConflictSet:
    """The images of a set, sorted by category, shape number, texture category and texture number.

    All arrays are int64 (n,) and hold indices: into `categories` (the categories of shapes and of textures, sorted),
    into `shapes` and into `textures` (the instances that occur, sorted).
    """

    root: Path
    names: tuple[str, ...]
    """`<category>/<file>` of each image."""
    categories: tuple[str, ...]
    shapes: tuple[Instance, ...]
    textures: tuple[Instance, ...]
    shape_category: np.ndarray = field(repr=False)
    shape_instance: np.ndarray = field(repr=False)
    texture_category: np.ndarray = field(repr=False)
    texture_instance: np.ndarray = field(repr=False)

    def __len__(self) -> int:
        return len(self.names)

    @property
    def conflict(self) -> np.ndarray:
        """bool (n,): whether shape and texture are of different categories."""
        return self.shape_category != self.texture_category

    def place(self, index: int) -> Path:
        """Where an image lies."""
        return self.root / self.names[index]

    def name(self, index: int) -> str:
        """Where an image lies, for messages."""
        return str(self.place(index))

    def listing(self) -> list[str]:
        """Lines that change with every file's name and size."""
        return [f"{name} {self.place(index).stat().st_size}" for index, name in enumerate(self.names)]

    def read(self, index: int) -> bytes:
        """The encoded bytes of an image; raises DataError where it cannot be read."""
        return read_encoded(self.place(index))


def read_cue_conflict(root: Path, expected: Expected | None = None) -> CueConflictSet:
    """List the set at `root`, without decoding its images.

    Raises DataError, which names everything found: a root that cannot be read, wrong names, files in the wrong folder
    or without bytes, a combination that is there twice, and what is not as `expected`.
    """
    findings = Findings()
    images = _listed(Path(root), findings)
    sentences = [*findings.sentences(), *_deviations(images, expected)]
    if sentences:
        raise DataError(
            f"{root} is no complete cue-conflict set: {'; '.join(sentences)}. Expected folders of images "
            "<category>/<shape><n>-<texture><m>.png; restore what is missing from the set's source, remove the rest"
        )
    return images


def check_cue_conflict(
    root: Path, expected: Expected, name: str = CUE_CONFLICT
) -> tuple[CheckReport, dict[str, Any], str | None]:
    """Check the whole set, decoding every image; nothing about the data raises.

    Returns:
        The report; the numbers of `images`, `categories`, `shape_instances`, `texture_instances` and of images whose
        cues agree (`without_conflict`); the digest of names and bytes of all images, None where something is wrong.
    """
    root, findings, hashes = Path(root), Findings(), []
    identity = digest([list(expected.categories), expected.per_category])
    try:
        images = _listed(root, findings)
    except DataError as error:
        return CheckReport(name, identity, root, (str(error),)), {}, None
    first: dict[str, str] = {}
    pictures = decoded([root / name for name in images.names], root.name, findings, Findings())
    for image, picture in zip(images.names, pictures, strict=True):
        hashes.append([image, picture.hash])
        if picture.hash and (former := first.setdefault(picture.hash, image)) != image:
            findings.add("files of equal content", f"{former} and {image}")
    facts = {
        "images": len(images),
        "categories": len({shape.category for shape in images.shapes}),
        "shape_instances": len(images.shapes),
        "texture_instances": len(images.textures),
        "without_conflict": int((~images.conflict).sum()),
    }
    note = ", ".join(f"{value:,} {what.replace('_', ' ')}" for what, value in facts.items())
    sentences = (*findings.sentences(), *_deviations(images, expected))
    report = CheckReport(name, identity, root, sentences, (f"{note}.",))
    return report, facts, digest(hashes) if report.ok else None


def _listed(root: Path, findings: Findings) -> CueConflictSet:
    """Every image whose name says what it is, sorted; what is wrong goes to `findings`."""
    entries, seen = [], {}
    try:
        files = [
            file
            for folder in sorted(root.iterdir()) if folder.is_dir() and not is_hidden(folder.name)
            for file in folder.iterdir() if not is_hidden(file.name)
        ]  # fmt: skip
        for file in files:
            name, match = f"{file.parent.name}/{file.name}", NAME.fullmatch(file.name)
            if match is None:
                findings.add("names other than <shape><n>-<texture><m>.png", name)
                continue
            if match[1] != file.parent.name:
                findings.add("files in the folder of another shape", name)
            if not file.is_file() or file.stat().st_size == 0:
                findings.add("files without bytes", name)
            entries.append((Instance(match[1], int(match[2])), Instance(match[3], int(match[4])), name))
    except OSError as error:
        raise DataError(
            f"{error.filename or root} cannot be read ({error.strerror}): expected the folder of a cue-conflict set, "
            "which holds one folder per shape category; correct the path or mount the data"
        ) from error
    for *pair, name in sorted(entries):
        if (former := seen.setdefault(tuple(pair), name)) != name:
            findings.add("combinations of shape and texture that occur twice", f"{former} and {name}")
    shape, texture, names = zip(*sorted(entries), strict=True) if entries else ((), (), ())
    shapes, textures = sorted(set(shape)), sorted(set(texture))
    categories = sorted({instance.category for instance in (*shapes, *textures)})

    def numbers(values: list[Any], among: list[Any]) -> np.ndarray:
        place = {value: index for index, value in enumerate(among)}
        return np.array([place[value] for value in values], dtype=np.int64)

    return CueConflictSet(
        root, names, tuple(categories), tuple(shapes), tuple(textures),
        shape_category=numbers([one.category for one in shape], categories), shape_instance=numbers(shape, shapes),
        texture_category=numbers([one.category for one in texture], categories),
        texture_instance=numbers(texture, textures),
    )  # fmt: skip


def _deviations(images: CueConflictSet, expected: Expected | None) -> list[str]:
    """Sentences about categories and counts that are not as expected."""
    if not len(images):
        return ["no image found"]
    if expected is None:
        return []
    findings, counts = Findings(), Counter(name.split("/")[0] for name in images.names)
    wanted, textures = set(expected.categories), {texture.category for texture in images.textures}
    findings.add("categories without images", *sorted(wanted - set(counts)))
    findings.add("folders that are no category of the set", *sorted(set(counts) - wanted))
    findings.add("textures of no category of the set", *sorted(textures - wanted))
    for category in sorted(set(counts) & wanted):
        if counts[category] != expected.per_category:
            example = f"{category} has {counts[category]} instead of {expected.per_category}"
            findings.add("categories with another number of images", example)
    total = len(expected.categories) * expected.per_category
    return [*differences([("images", total, len(images))]), *findings.sentences()]


class CueConflictFolder(DataSet):
    """Cue-conflict images: the published set, or generated ones in its layout."""

    def check(self) -> tuple[CheckReport, dict[str, Any]]:
        """Every name and every image."""
        expected, about = published(), PUBLISHED
        if self.data.generate is not None:
            expected = Expected(self.settings.class_names, self.settings.per_class)
            about = {"title": "generated scenes", **RENDERED}
        report, facts, contents = check_cue_conflict(self.root, expected, self.data.name)
        if not report.ok:
            return report, {}
        images = read_cue_conflict(self.root, expected)
        identity = digest([list(expected.categories), expected.per_category, contents])
        return report, inspected_record(self, images, about, identity) | {"detail": facts}
