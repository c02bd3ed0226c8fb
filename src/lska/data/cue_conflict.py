"""Cue-conflict images: the shape of one category with the texture of another, in the published layout.

`<category>/<shape><n>-<texture><m>.png`: the folder is the shape's category, the name gives which instance of a shape
and which of a texture are combined (Geirhos et al., ICLR 2019; github.com/rgeirhos/texture-vs-shape, folder
stimuli/style-transfer-preprocessed-512, whose images have 224 pixels). Hidden entries, and files beside the category
folders, are ignored.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from lska.data.decoding import read_encoded, see_file
from lska.data.entries import DataError, is_hidden
from lska.data.parallel import mapped
from lska.data.problems import CheckReport, Findings, differences
from lska.provenance.files import read_yaml
from lska.provenance.metric_files import digest
from lska.settings.perturbed_sets import CUE_CONFLICT

NAME = re.compile(r"([A-Za-z_]+)([0-9]+)-([A-Za-z_]+)([0-9]+)\.png")


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

    Raises:
        DataError: the root cannot be read, files have wrong names, lie in the wrong folder, are empty or name the same
            combination twice, or the set is not as `expected`; everything found is named.
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
    root, findings = Path(root), Findings()
    identity = digest([list(expected.categories), expected.per_category])
    try:
        images = _listed(root, findings)
    except DataError as error:
        return CheckReport(name, identity, root, (str(error),)), {}, None
    first: dict[str, str] = {}
    hashes = []
    pictures = mapped(lambda index: see_file(images.place(index)), len(images), root.name)
    for image, picture in zip(images.names, pictures, strict=True):
        hashes.append([image, picture.hash])
        if picture.problem:
            findings.add("images that cannot be decoded", picture.problem)
        elif (former := first.setdefault(picture.hash, image)) != image:
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
    try:
        folders = sorted(path for path in root.iterdir() if path.is_dir() and not is_hidden(path.name))
        entries = sorted(entry for folder in folders for entry in _images(folder, findings))
    except OSError as error:
        raise DataError(
            f"{error.filename or root} cannot be read ({error.strerror}): expected the folder of a cue-conflict set, "
            "which holds one folder per shape category; correct the path or mount the data"
        ) from error
    seen: dict[tuple[Instance, Instance], str] = {}
    for shape, texture, name in entries:
        if (former := seen.setdefault((shape, texture), name)) != name:
            findings.add("combinations of shape and texture that occur twice", f"{former} and {name}")
    shapes, textures = (sorted({entry[side] for entry in entries}) for side in (0, 1))
    categories = sorted({instance.category for instance in (*shapes, *textures)})

    def numbers(values: list[Any], among: list[Any]) -> np.ndarray:
        place = {value: index for index, value in enumerate(among)}
        return np.array([place[value] for value in values], dtype=np.int64)

    return CueConflictSet(
        root,
        tuple(name for _, _, name in entries),
        tuple(categories),
        tuple(shapes),
        tuple(textures),
        shape_category=numbers([shape.category for shape, _, _ in entries], categories),
        shape_instance=numbers([shape for shape, _, _ in entries], shapes),
        texture_category=numbers([texture.category for _, texture, _ in entries], categories),
        texture_instance=numbers([texture for _, texture, _ in entries], textures),
    )


def _images(folder: Path, findings: Findings) -> Iterator[tuple[Instance, Instance, str]]:
    """Shape, texture and name of each image of a category."""
    with os.scandir(folder) as files:
        for file in files:
            name, match = f"{folder.name}/{file.name}", NAME.fullmatch(file.name)
            if is_hidden(file.name):
                continue
            if match is None:
                findings.add("names other than <shape><n>-<texture><m>.png", name)
                continue
            if match[1] != folder.name:
                findings.add("files in the folder of another shape", name)
            if not file.is_file() or file.stat().st_size == 0:
                findings.add("files without bytes", name)
            yield Instance(match[1], int(match[2])), Instance(match[3], int(match[4])), name


def _deviations(images: CueConflictSet, expected: Expected | None) -> list[str]:
    """Sentences about categories and counts that are not as expected."""
    if not len(images):
        return ["no image found"]
    if expected is None:
        return []
    findings, counts = Findings(), Counter(name.split("/")[0] for name in images.names)
    wanted, textures = set(expected.categories), {texture.category for texture in images.textures}
    for kind, categories in (
        ("categories without images", wanted - set(counts)),
        ("folders that are no category of the set", set(counts) - wanted),
        ("textures of no category of the set", textures - wanted),
    ):
        for category in sorted(categories):
            findings.add(kind, category)
    for category in sorted(set(counts) & wanted):
        if counts[category] != expected.per_category:
            example = f"{category} has {counts[category]} instead of {expected.per_category}"
            findings.add("categories with another number of images", example)
    total = len(expected.categories) * expected.per_category
    return [*differences([("images", total, len(images))]), *findings.sentences()]
