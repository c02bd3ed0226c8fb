"""Generated detection and segmentation sets as data sources: their settings, their manifests, and writing them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from lska.data.dense_manifest import (
    DenseManifest,
    DetectionManifest,
    DetectionSplitManifest,
    SegmentationManifest,
    SegmentationSplitManifest,
)
from lska.data.folders import DataError
from lska.data.generators import generator_settings
from lska.data.synthetic.dense import DenseSettings
from lska.data.synthetic.detection import DetectionSettings, write_detection_set
from lska.data.synthetic.folder import existing_settings
from lska.data.synthetic.segmentation import write_segmentation_set

if TYPE_CHECKING:
    from lska.config import DataSource

TITLE = {"title": "generated scenes", "source": "lska.data.synthetic", "terms": "no restrictions"}


def generate(kind: str, data: DataSource) -> None:
    """Write the set to its root, in the place of a generated set of other settings.

    Raises:
        FileExistsError: the root holds something that was not generated.
        ValueError: an unknown kind, or a setting that is unknown or out of range.
    """
    settings, root = generator_settings(kind, data), Path(data.root)
    if isinstance(settings, DetectionSettings):
        write_detection_set(root, settings, overwrite=True)
    else:
        write_segmentation_set(root, settings, overwrite=True)


def generated_manifest(kind: str, data: DataSource) -> DenseManifest:
    """What the settings promise, after a look at whether the root was made by them.

    Raises:
        DataError: the root holds no set of these settings.
        ValueError: a setting is unknown or out of range.
    """
    settings = generator_settings(kind, data)
    _require(Path(data.root), settings, data.name)
    names = settings.class_names
    if isinstance(settings, DetectionSettings):
        parts = {
            split: DetectionSplitManifest(
                f"{split}2017", f"annotations/instances_{split}2017.json", settings.count(split)
            )
            for split in ("train", "val")
        }
        ids = tuple(range(1, len(names) + 1))
        return DetectionManifest(data.name, **TITLE, classes=names, category_ids=ids, splits=parts, masks=True)
    folders = {"train": "training", "val": "validation"}
    splits = {
        split: SegmentationSplitManifest(f"images/{folder}", f"annotations/{folder}", settings.count(split))
        for split, folder in folders.items()
    }
    return SegmentationManifest(data.name, **TITLE, classes=names, splits=splits, zero_is_unlabelled=True)


def _require(root: Path, settings: DenseSettings, name: str) -> None:
    try:
        there = existing_settings(root, settings.description(), overwrite=False)
        reason = "it is missing or empty"
    except FileExistsError as error:
        there, reason = False, str(error)
    if not there:
        raise DataError(f"{root} does not hold the generated set {name!r} ({reason}); make it with `lska data prepare`")
