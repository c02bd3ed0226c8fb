"""The Describable Textures Dataset (DTD), or a generated set in its layout: class folders and several splits of them.

Every split sorts all images into the parts train, val and test. Cimpoi et al., "Describing Textures in the Wild",
CVPR 2014; the layout is that of release 1.0.1.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lska.data.digests import file_hash
from lska.data.entries import DataError, lying_at, shown_names
from lska.data.folders import Split, list_split
from lska.data.integrity import check_class_folders
from lska.data.manifest import PARTS, TextureManifest
from lska.data.problems import CheckReport, Findings
from lska.provenance.files import FileError, quoted, read_lines

FOLDER = "dtd"
IMAGES, LABELS = "images", "labels"

Splits = dict[int, dict[str, np.ndarray]]
"""For each split, numbered from 1, and each of `PARTS` the indices of its images, int64 (n,), in the file's order."""

_LABEL_FILE = re.compile(rf"({'|'.join(PARTS)})([1-9]\d*)\.txt")


@dataclass(frozen=True, eq=False)
class TextureSet:
    """Images of textures, sorted by class and file name, with the splits of them."""

    folder: Path
    """Holds the folders `images` and `labels`."""
    images: Split
    splits: Splits

    def __len__(self) -> int:
        return len(self.images)

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names in index order."""
        return self.images.classes

    @functools.cached_property
    def names(self) -> tuple[str, ...]:
        """`<class>/<file>` of every image."""
        return tuple(self.images.samples.names)

    @property
    def targets(self) -> np.ndarray:
        """Class index of every image, int32 (n,)."""
        return self.images.samples.targets

    def listing(self) -> list[str]:
        """Lines that change whenever an image is added, removed, renamed or resized, or a split changed.

        Raises:
            DataError: a label file cannot be read.
            OSError: an image is gone.
        """
        files = [self.folder / LABELS / f"{part}{number}.txt" for number in self.splits for part in PARTS]
        sizes = [f"{IMAGES} {name} {self.images.size(index)}" for index, name in enumerate(self.names)]
        return [*sizes, *(f"{LABELS} {file.name} {file_hash(file)}" for file in files)]


def read_textures(root: Path) -> TextureSet:
    """Read the splits of the texture set at `root`, its own folder or the one that holds it as `dtd`. Reads no image.

    Raises:
        DataError: folders, images or label files are missing, a line names no image or one of an unknown class, or an
            image is listed twice in a split; every kind of problem is named with its first examples.
    """
    findings = Findings()
    textures = _read(root, findings)
    if findings:
        raise DataError(
            f"{textures.folder / LABELS} does not describe splits of {textures.images.source}:\n"
            + "\n".join(f"  {text}" for text in findings.sentences())
            + "\nrestore the files, or point the data root at a sound copy"
        )
    return textures


def check_textures(manifest: TextureManifest, root: Path, contents: bool = False) -> CheckReport:
    """Check a texture set completely: classes, counts, empty files, every line of every split.

    With `contents`, every image is decoded too. Nothing about the data raises: a missing root is a finding like any
    other.
    """
    findings = Findings()
    try:
        textures = _read(root, findings)
    except DataError as error:
        return CheckReport(manifest.name, manifest.digest, root, (f"{error}.",), ())
    _compare(manifest, textures, findings)
    images = check_class_folders(manifest.images, textures.folder, contents)
    sizes = ", ".join(f"{part} {count:,}" for part, count in manifest.parts.items())
    note = f"{LABELS}: {len(textures.splits)} splits, expected of each class {sizes}."
    sentences = (*images.findings, *(f"{LABELS}: {text}." for text in findings.sentences()))
    return CheckReport(manifest.name, manifest.digest, Path(root), sentences, (*images.notes, note))


def texture_folder(root: Path) -> Path:
    """The folder that holds `images` and `labels`: `root`, or `root/dtd`.

    Raises:
        DataError: neither does; says what lies there.
    """
    root = Path(root)
    for folder in (root, root / FOLDER):
        if (folder / IMAGES).is_dir() and (folder / LABELS).is_dir():
            return folder
    raise DataError(
        f"data root '{root.absolute()}' holds no texture set: expected the folders {IMAGES} and {LABELS}, or {FOLDER} "
        f"with them, {lying_at(root)}; unpack the archive there, or correct the data root in the configuration"
    )


def _read(root: Path, findings: Findings) -> TextureSet:
    """The texture set without the lines that are wrong, which become findings."""
    folder = texture_folder(root)
    images = list_split(folder, IMAGES)
    index = {name: position for position, name in enumerate(images.samples.names)}
    splits = {
        number: _split(folder / LABELS, number, index, images.classes, findings)
        for number in _numbers(folder / LABELS)
    }
    return TextureSet(folder, images, splits)


def _numbers(labels: Path) -> list[int]:
    """Numbers of the splits that have a label file."""
    try:
        names = sorted(path.name for path in labels.iterdir())
    except OSError as error:
        raise DataError(f"{labels} cannot be read ({error.strerror}); check its permissions and mount") from error
    numbers = {int(match[2]) for match in map(_LABEL_FILE.fullmatch, names) if match}
    if not numbers:
        raise DataError(
            f"{labels} holds no split: expected {', '.join(f'{part}1.txt' for part in PARTS)}, found "
            f"{shown_names(names)}; restore the label files"
        )
    return sorted(numbers)


def _split(
    labels: Path, number: int, index: dict[str, int], classes: tuple[str, ...], findings: Findings
) -> dict[str, np.ndarray]:
    """The parts of one split; an image that is listed twice belongs to the part that lists it first."""
    placed: dict[int, str] = {}
    # A dictionary keeps the order of the file.
    members: dict[str, dict[int, None]] = {part: {} for part in PARTS}
    for part in PARTS:
        for where, name in _lines(labels / f"{part}{number}.txt", findings):
            position = index.get(name)
            if position is None:
                known = name.partition("/")[0] in classes
                findings.add("lines that name a missing image" if known else "lines of an unknown class", where)
            elif placed.setdefault(position, part) != part:
                findings.add("images in two parts of a split", f"{where} and {placed[position]}{number}.txt")
            elif position in members[part]:
                findings.add("images listed twice in a part", where)
            else:
                members[part][position] = None
    return {part: np.array(list(found), dtype=np.int64) for part, found in members.items()}


def _lines(path: Path, findings: Findings) -> Iterator[tuple[str, str]]:
    """Every line with its place."""
    try:
        lines = read_lines(path)
    except FileError as error:
        findings.add("label files that cannot be read", str(error))
        return
    if not lines:
        findings.add("label files that name no image", path.name)
    for number, name in lines:
        yield f"{quoted(name)} in {path.name} line {number}", name


def _compare(manifest: TextureManifest, textures: TextureSet, findings: Findings) -> None:
    """Compare numbers of splits and of images in each part with the manifest."""
    expected = set(range(1, manifest.splits + 1))
    for number in sorted(expected - set(textures.splits)):
        findings.add("missing splits", f"split {number}")
    for number in sorted(set(textures.splits) - expected):
        findings.add("splits that are not in the manifest", f"split {number}")
    for number, parts in textures.splits.items():
        for part, indices in parts.items():
            counts = np.bincount(textures.targets[indices], minlength=len(textures.classes)).tolist()
            for label, count in zip(textures.classes, counts, strict=True):
                if label in manifest.classes and count != manifest.parts[part]:
                    wrong = f"{part}{number}.txt has {count:,} of {label}, expected {manifest.parts[part]:,}"
                    findings.add("classes with too many or too few images in a part", wrong)
