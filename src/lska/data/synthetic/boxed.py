"""A generated detection set in the layout of COCO 2017, with exact boxes and masks."""

import json
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from lska.data.synthetic.dense_scenes import DenseSettings, dense_scene, write_set
from lska.data.synthetic.generator_workers import each
from lska.data.synthetic.render import save_jpeg
from lska.data.synthetic.scene import Scene, SceneObject

SMALLEST = 16
"""Visible pixels below which an object is not annotated: so small a rest names no shape."""


@dataclass(frozen=True)
class DetectionSettings(DenseSettings):
    """Settings of a generated detection set."""

    KIND = "detection"


def write_detection_set(
    root: Path, settings: DetectionSettings, *, overwrite: bool = False, workers: int = 1
) -> dict[str, int]:
    """Write the set to `root/{train,val}2017/<n>.jpg` and `root/annotations/instances_{train,val}2017.json`.

    Category ids run from 1 in the order of `class_names`. Boxes [x, y, width, height] enclose the visible pixels of an
    object, areas count them, masks are their compressed run lengths; all in pixels and exact. `settings.json` stands
    beside them. The folder appears complete or not at all, a folder that already holds this set is left alone, and
    equal settings give equal bytes, whatever the number of `workers` (processes).

    Returns:
        Number of training and of validation images, and of images written now (0 for a set left alone).

    Raises:
        FileExistsError: `root` holds a set of other settings and `overwrite` is False, or holds anything else.
    """
    return write_set(root, settings, overwrite, partial(_write_split, settings, workers))


def _write_split(settings: DetectionSettings, workers: int, folder: Path, split: str) -> None:
    (folder / f"{split}2017").mkdir()
    made = each(partial(_write_image, folder, settings, split), range(settings.count(split)), workers)
    _write_annotations(folder / "annotations" / f"instances_{split}2017.json", settings, made)


def annotated(scene: Scene) -> list[SceneObject]:
    """Return the objects of a scene of which enough is visible."""
    return [item for item in scene.objects if item.mask.sum() >= SMALLEST]


def _write_image(folder: Path, settings: DetectionSettings, split: str, number: int) -> list[dict[str, Any]]:
    """Write one image and return its annotations without their ids."""
    scene = dense_scene(settings, split, number)
    save_jpeg(folder / f"{split}2017" / _file_name(number), scene, settings.quality)
    return [_annotation(item, settings.class_names) for item in annotated(scene)]


def _file_name(number: int) -> str:
    return f"{number + 1:012d}.jpg"


def _annotation(item: SceneObject, classes: tuple[str, ...]) -> dict[str, Any]:
    import numpy as np
    from pycocotools import mask

    left, top, right, bottom = item.box
    encoded = mask.encode(np.asfortranarray(item.mask, dtype=np.uint8))
    return {
        "category_id": classes.index(item.labels.shape) + 1,
        "bbox": [left, top, right - left, bottom - top],
        "area": int(item.mask.sum()),
        "iscrowd": 0,
        "segmentation": {"size": list(encoded["size"]), "counts": encoded["counts"].decode("ascii")},
    }


def _write_annotations(path: Path, settings: DetectionSettings, made: list[list[dict[str, Any]]]) -> None:
    size = {"width": settings.image_size, "height": settings.image_size}
    pairs = [(image, annotation) for image, of_image in enumerate(made, start=1) for annotation in of_image]
    content = {
        "info": {"description": "generated scenes"},
        "images": [{"id": n + 1, "file_name": _file_name(n), **size} for n in range(len(made))],
        "annotations": [
            {"id": number, "image_id": image, **annotation} for number, (image, annotation) in enumerate(pairs, start=1)
        ],
        "categories": [{"id": n, "name": name} for n, name in enumerate(settings.class_names, start=1)],
    }
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(content, sort_keys=True), encoding="utf-8")
