"""Opened splits of detection and segmentation sets, and what can be said about their files."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lska.data.decoding import decode, decode_labels, inspect, read_encoded
from lska.data.folders import DataError
from lska.data.layouts import is_image
from lska.data.manifest import content_hash

IGNORED = 255
"""Label of pixels that neither train nor score, as in mmseg."""


@dataclass(frozen=True)
class DetectionSplit:
    """One split of a detection set, ready for a COCO reader."""

    split: str
    images: Path
    """Folder that the file names of the annotations start from."""
    annotations: Path
    """COCO JSON file."""
    classes: tuple[str, ...]
    """In the order of the label indices."""
    category_ids: tuple[int, ...]
    """The classes' ids in the annotation file, in the same order."""
    count: int
    """Number of images."""
    masks: bool
    """Whether every object has a mask."""

    def listing(self) -> list[str]:
        """Lines that change whenever a file of the split is added, removed, renamed or resized; reads one file."""
        return [*_sized("images", file_sizes(self.images)), f"annotations {file_hash(self.annotations)}"]


@dataclass(frozen=True)
class SegmentationSplit:
    """One split of a segmentation set: images and label maps of equal names."""

    split: str
    images: Path
    labels: Path
    image_suffix: str
    label_suffix: str
    classes: tuple[str, ...]
    """In the order of the label values, from 1 on with `zero_is_unlabelled`, else from 0."""
    zero_is_unlabelled: bool
    """Whether label 0 means no class, as in ADE20K."""
    ignore: tuple[int, ...]
    """Label values, as stored, that are not scored."""
    count: int
    """Number of images."""

    def listing(self) -> list[str]:
        """As `DetectionSplit.listing`; reads no file."""
        return [*_sized("images", file_sizes(self.images)), *_sized("labels", file_sizes(self.labels))]


DenseSplit = DetectionSplit | SegmentationSplit


def lines_digest(lines: Iterable[str]) -> str:
    """`sha256:...` of lines."""
    return "sha256:" + hashlib.sha256("".join(f"{line}\n" for line in lines).encode()).hexdigest()


def _sized(part: str, sizes: dict[str, int]) -> list[str]:
    return [f"{part} {name} {size}" for name, size in sorted(sizes.items())]


def file_sizes(folder: Path) -> dict[str, int]:
    """Every image file under `folder` with its size in bytes, by relative path with forward slashes.

    Raises:
        DataError: the folder is missing or cannot be read.
    """
    try:
        return dict(_walk(str(folder), ""))
    except OSError as error:
        raise DataError(
            f"{error.filename or folder} cannot be read ({error.strerror}): expected a folder of images; restore it "
            "or correct the data root in the configuration"
        ) from error


def _walk(folder: str, prefix: str) -> Iterator[tuple[str, int]]:
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir():
                yield from _walk(entry.path, f"{prefix}{entry.name}/")
            elif is_image(entry.name):
                yield f"{prefix}{entry.name}", entry.stat().st_size


def file_hash(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal.

    Raises:
        DataError: the file is missing or cannot be read.
    """
    try:
        with path.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise DataError(
            f"{path} cannot be read ({error.strerror}): expected an annotation file; restore it, or correct the data "
            "root in the configuration"
        ) from error


@dataclass(frozen=True)
class Picture:
    """What was read of an image file: hash of its bytes, width and height, or why it cannot be used."""

    hash: str = ""
    size: tuple[int, int] | None = None
    error: str = ""
    """Names the file."""
    remarks: tuple[str, ...] = ()
    """What its decoding leaves out."""


@dataclass(frozen=True)
class LabelMap(Picture):
    """What was read of a label map: `pixels[v]` is the number of pixels of value v, for v from 0 to 255."""

    pixels: tuple[int, ...] = ()


def read_image(path: str | Path) -> np.ndarray:
    """An image file as uint8 RGB (H, W, 3).

    Raises:
        DataError: it cannot be read or used; the message names it.
    """
    return np.asarray(decode(read_encoded(path), str(path)))


def read_labels(path: str | Path) -> np.ndarray:
    """The stored values of a label map, uint8 (H, W); raises as `read_image`."""
    return decode_labels(read_encoded(path), str(path))


def read_picture(path: Path) -> Picture:
    """What the check needs of an image: whether `read_image` reads it, its size, and what is left out."""
    try:
        data = read_encoded(path)
        seen = inspect(data, str(path))
    except DataError as error:
        return Picture(error=str(error))
    return Picture(content_hash(data), seen.size, remarks=seen.remarks)


def read_label_map(path: Path) -> LabelMap:
    """What the check needs of a label map that `read_labels` reads."""
    try:
        data = read_encoded(path)
        values = decode_labels(data, str(path))
    except DataError as error:
        return LabelMap(error=str(error))
    height, width = values.shape
    pixels = np.bincount(values.ravel(), minlength=256)
    return LabelMap(content_hash(data), (width, height), pixels=tuple(pixels.tolist()))
