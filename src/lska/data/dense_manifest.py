"""Manifests of detection and segmentation: what such a data set has to hold, and the digest that stands for it."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from lska.data.archives import Archive
from lska.data.layouts import EXTENSIONS
from lska.data.manifest import DIGEST, read_manifest
from lska.provenance import digest
from lska.strict import build

LARGEST_LABEL = 255  # label maps have 8 bits

# What says where the files lie or how the data are spoken of, and may change without changing them.
NO_IDENTITY = ("title", "source", "terms", "archive", "folder", "archives")

ROUNDING = 1.0
"""Pixels: annotators' coordinates round over the border by less."""

# Left out of the digest at these values, so that results from before these fields stay those of the same data.
DEFAULTS = {"overhang": ROUNDING, "short_polygons": False}


@dataclass(frozen=True)
class DetectionSplitManifest:
    """One split of a detection set; paths are relative to the data set's folder.

    `images` is a folder. `annotations` is a COCO JSON file, or for `format: voc` a folder of XML files, of which
    `names` lists those of the split, one a line without ending. `contents` is the digest of all files of the split
    where it is prescribed.
    """

    images: str
    annotations: str
    count: int
    """Images."""
    objects: int | None = None
    """Annotations, those without area included and those left out not; None where it is not prescribed."""
    names: str | None = None
    dropped: int = 0
    """Objects that the conversion from VOC leaves out (`lska.data.voc`)."""
    without_area: int = 0
    """Most boxes of zero width or height that are known errors of the data set; the trainers leave them out."""
    contents: str | None = None

    def __post_init__(self) -> None:
        _refuse([*_bad_counts(self, "count", "objects", "dropped", "without_area"), *_bad_digest(self.contents)])


@dataclass(frozen=True)
class SegmentationSplitManifest:
    """One split of a segmentation set: folders of images and label maps, relative to the data set's folder."""

    images: str
    labels: str
    count: int
    """Images, and as many label maps."""
    contents: str | None = None

    def __post_init__(self) -> None:
        _refuse([*_bad_counts(self, "count"), *_bad_digest(self.contents)])


@dataclass(frozen=True)
class DetectionManifest:
    """A detection set: `classes` in label order with their `category_ids` in the annotation files.

    `archive` is a tar or zip file of one's own, `folder` the folder inside it or inside a root, that the paths of the
    splits start from.
    """

    name: str
    title: str
    source: str
    terms: str
    classes: tuple[str, ...]
    category_ids: tuple[int, ...]
    splits: dict[str, DetectionSplitManifest]
    format: Literal["coco", "voc"] = "coco"
    masks: bool = False
    """Whether every object has a mask."""
    overhang: float = ROUNDING
    """Pixels by which a box or polygon must not leave its image. pycocotools clips masks to the image, mmdet boxes."""
    short_polygons: bool = False
    """Whether polygons of one or two points may follow the first of a mask (`lska.data.masks.read_mask`)."""
    archive: str | None = None
    folder: str | None = None
    archives: tuple[Archive, ...] = ()
    """What it is distributed as."""

    def __post_init__(self) -> None:
        problems = _bad_lists(self)
        if len(set(self.category_ids)) < len(self.category_ids) or len(self.category_ids) != len(self.classes):
            problems.append(f"category_ids: expected {len(self.classes)} different numbers, one for each class")
        for name, split in self.splits.items():
            if (split.names is not None) != (self.format == "voc"):
                problems.append(f"splits.{name}.names: expected the file of names with format voc, and only with it")
        if self.overhang <= 0:
            problems.append(f"overhang: expected a positive number of pixels, found {self.overhang}")
        _refuse(problems)

    @property
    def tolerant(self) -> bool:
        """Whether it states more than rounding as known of the data; such cases are then counted."""
        return self.overhang > ROUNDING or self.short_polygons

    @property
    def digest(self) -> str:
        """`sha256:...` of what identifies the data: not of wording, nor of where its folder or archive lies."""
        return _digest(self, "detection")


@dataclass(frozen=True)
class SegmentationManifest:
    """A segmentation set: `classes` in the order of their labels, from 1 on with `zero_is_unlabelled`, else from 0."""

    name: str
    title: str
    source: str
    terms: str
    classes: tuple[str, ...]
    splits: dict[str, SegmentationSplitManifest]
    zero_is_unlabelled: bool = False
    ignore: tuple[int, ...] = ()
    """Label values that are allowed and not scored."""
    image_suffix: str = ".jpg"
    label_suffix: str = ".png"
    archive: str | None = None
    folder: str | None = None
    archives: tuple[Archive, ...] = ()

    def __post_init__(self) -> None:
        problems = _bad_lists(self)
        taken = range(len(self.classes) + self.zero_is_unlabelled)
        wrong = [value for value in self.ignore if value in taken or not 0 <= value <= LARGEST_LABEL]
        if wrong:
            problems.append(
                f"ignore: expected values up to {LARGEST_LABEL} that are no class (not in 0 to {len(taken) - 1}), "
                f"found {list(self.ignore)}"
            )
        if len(self.classes) > LARGEST_LABEL:
            # The last label of 8 bits stands for pixels that are not scored.
            problems.append(f"classes: expected at most {LARGEST_LABEL}, found {len(self.classes)}")
        for name in ("image_suffix", "label_suffix"):
            if not getattr(self, name).lower().endswith(EXTENSIONS):
                problems.append(f"{name}: expected an end in {', '.join(EXTENSIONS)}, found {getattr(self, name)!r}")
        _refuse(problems)

    @property
    def allowed(self) -> frozenset[int]:
        """Every value that a label map may hold."""
        return frozenset(range(len(self.classes) + self.zero_is_unlabelled)) | frozenset(self.ignore)

    @property
    def digest(self) -> str:
        """As `DetectionManifest.digest`."""
        return _digest(self, "segmentation")


DenseManifest = DetectionManifest | SegmentationManifest

MANIFESTS: dict[str, type[DenseManifest]] = {"detection": DetectionManifest, "segmentation": SegmentationManifest}


def load_dense_manifest(kind: str, name: str | Path) -> DenseManifest:
    """Load a manifest of `kind` (detection or segmentation), bundled by name or any by the path of its YAML file.

    Raises:
        ValueError: no such manifest, another kind, or wrong content; every unknown key and wrong type is named.
    """
    if kind not in MANIFESTS:
        raise ValueError(f"unknown kind of data {kind!r}; choose from {', '.join(MANIFESTS)}")
    path, values = read_manifest(name, kind)
    return build(MANIFESTS[kind], values, str(path))


def _digest(manifest: DenseManifest, kind: str) -> str:
    values = {
        key: value
        for key, value in dataclasses.asdict(manifest).items()
        if key not in NO_IDENTITY and (key not in DEFAULTS or value != DEFAULTS[key])
    }
    return digest({"kind": kind, **values})


def _bad_counts(split: Any, *names: str) -> list[str]:
    least = {"count": 1}
    found = {name: getattr(split, name) for name in names}
    return [
        f"{name}: expected at least {least.get(name, 0)}, found {value}"
        for name, value in found.items()
        if value is not None and value < least.get(name, 0)
    ]


def _bad_digest(value: str | None) -> list[str]:
    if value is None or DIGEST.fullmatch(value):
        return []
    return [f"contents: expected sha256: and 64 hexadecimal digits, found {value!r}"]


def _bad_lists(manifest: DenseManifest) -> list[str]:
    problems = []
    if not manifest.classes or len(set(manifest.classes)) < len(manifest.classes):
        problems.append("classes: expected distinct names, at least one")
    if not manifest.splits:
        problems.append("splits: expected at least one, found none")
    return problems


def _refuse(problems: list[str]) -> None:
    if problems:
        raise ValueError("; ".join(problems))
