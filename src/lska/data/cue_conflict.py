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
from lska.data.preparing import RENDERED, CheckReport, DataSet, Findings, decoded, differences, inspected_record
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

PER_CATEGORY = 80
"""Images in each of the 16 folders of the published set."""


def imagenet_categories() -> dict[str, tuple[str, ...]]:
    """The 16 categories of the published set in alphabetical order, with the ImageNet-1K synsets of each."""
    found = read_yaml(Path(__file__).with_name("categories16.yaml"))
    return {name: tuple(synsets) for name, synsets in sorted(found.items())}


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

    def name(self, index: int) -> str:
        """Where an image lies."""
        return f"{self.root}/{self.names[index]}"

    def listing(self) -> list[str]:
        """Lines that change with every file's name and size."""
        return [f"{name} {(self.root / name).stat().st_size}" for name in self.names]

    def read(self, index: int) -> bytes:
        """The encoded bytes of an image; raises DataError where it cannot be read."""
        return read_encoded(self.name(index))


def read_cue_conflict(root: Path) -> CueConflictSet:
    """List the set at `root`, without decoding its images.

    Raises DataError, which names everything found: a root that cannot be read or holds no image, wrong names, files in
    the wrong folder or without bytes, a combination that is there twice.
    """
    findings = Findings()
    images = _listed(Path(root), findings)
    if sentences := findings.sentences():
        raise DataError(
            f"{root} is no cue-conflict set: {'; '.join(sentences)}. Expected folders of images "
            "<category>/<shape><n>-<texture><m>.png; restore what is missing from the set's source, remove the rest"
        )
    return images


def check_cue_conflict(
    root: Path, categories: tuple[str, ...], per_category: int, name: str = CUE_CONFLICT
) -> tuple[CheckReport, dict[str, Any], str | None]:
    """Check the whole set, decoding every image, against its categories; nothing about the data raises.

    Returns the report, numbers of images, categories, instances and images whose cues agree, and the digest of names
    and bytes of all images, None where something is wrong.
    """
    root, findings, hashes = Path(root), Findings(), []
    identity = digest([list(categories), per_category])
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
    counts, wanted = Counter(image.split("/")[0] for image in images.names), dict.fromkeys(categories, per_category)
    for category in sorted({*counts, *wanted}):
        if counts[category] != wanted.get(category, 0):
            example = f"{category} has {counts[category]} instead of {wanted.get(category, 0)}"
            findings.add("categories with another number of images", example)
    textures = {texture.category for texture in images.textures}
    findings.add("textures of no category of the set", *sorted(textures - set(categories)))
    facts = {
        "images": len(images),
        "categories": len({shape.category for shape in images.shapes}),
        "shape_instances": len(images.shapes),
        "texture_instances": len(images.textures),
        "without_conflict": int((~images.conflict).sum()),
    }
    note = ", ".join(f"{value:,} {what.replace('_', ' ')}" for what, value in facts.items())
    sentences = (*differences([("images", len(categories) * per_category, len(images))]), *findings.sentences())
    report = CheckReport(name, identity, root, sentences, (f"{note}.",))
    return report, facts, digest(hashes) if report.ok else None


def _listed(root: Path, findings: Findings) -> CueConflictSet:
    """Every image whose name says what it is, sorted; what is wrong goes to `findings`."""
    entries, seen = [], {}
    try:
        for file in sorted(root.glob("*/*")):
            name, match = f"{file.parent.name}/{file.name}", NAME.fullmatch(file.name)
            if is_hidden(name):
                continue
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
            f"{error.filename or root} cannot be read ({error.strerror}); correct the root or mount the data"
        ) from error
    if not entries:
        raise DataError(
            f"{root} holds no image: expected <category>/<shape><n>-<texture><m>.png; correct the root or mount it"
        )
    for *pair, name in sorted(entries):
        if (former := seen.setdefault(tuple(pair), name)) != name:
            findings.add("combinations of shape and texture that occur twice", f"{former} and {name}")
    shape, texture, names = zip(*sorted(entries), strict=True)
    shapes, textures = sorted(set(shape)), sorted(set(texture))
    categories = sorted({instance.category for instance in (*shapes, *textures)})
    return CueConflictSet(
        root, names, tuple(categories), tuple(shapes), tuple(textures),
        shape_category=np.array([categories.index(one.category) for one in shape], dtype=np.int64),
        shape_instance=np.array([shapes.index(one) for one in shape], dtype=np.int64),
        texture_category=np.array([categories.index(one.category) for one in texture], dtype=np.int64),
        texture_instance=np.array([textures.index(one) for one in texture], dtype=np.int64),
    )  # fmt: skip


class CueConflictFolder(DataSet):
    """Cue-conflict images: the published set, or generated ones in its layout."""

    def check(self, contents: bool = False) -> tuple[CheckReport, dict[str, Any]]:
        """Every name and every image."""
        categories, per_category, about = tuple(imagenet_categories()), PER_CATEGORY, PUBLISHED
        if self.data.generate is not None:
            categories, per_category = self.settings.class_names, self.settings.per_class
            about = {"title": "generated scenes", **RENDERED}
        report, facts, content = check_cue_conflict(self.root, categories, per_category, self.data.name)
        if not report.ok:
            return report, {}
        identity = digest([list(categories), per_category, content])
        return report, inspected_record(self, read_cue_conflict(self.root), about, identity) | {"detail": facts}
