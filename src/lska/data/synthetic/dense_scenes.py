"""Generated detection and segmentation sets: scenes of several objects with exact boxes, masks and label maps."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from PIL import Image
from pydantic import Field

from lska.data.synthetic.generated import Count, SceneSet, Turn, some_of
from lska.data.synthetic.render import encode_jpeg, render
from lska.data.synthetic.scene import Scene, compose_scene
from lska.data.synthetic.shapes import SHAPES
from lska.provenance.strict import Share
from lska.settings.recipes import Interval

SPLITS = ("train", "val")

STREAM = 2
"""First number of the keys of these scenes; those of classification start with 0 or 1, so no two sets share scenes."""

SMALLEST = 16
"""Visible pixels below which an object is not annotated: so small a rest names no shape."""

BACKGROUND = "background"
"""Class of all pixels that show no object; its label is 1, since 0 means unlabelled."""

FOLDERS = {"train": "training", "val": "validation"}
"""Of ADE20K's splits."""

Objects = Annotated[int, Field(ge=1, le=99)]
DenseClasses = some_of(SHAPES, 1)
DenseExtent = Annotated[float, Field(ge=0.1, le=0.95)]


@dataclass(frozen=True)
class DenseSettings(SceneSet):
    """Settings of scenes of several objects; detection and segmentation sets of equal settings show the same ones."""

    made_by = ("dense_scenes",)

    image_size: Annotated[int, Field(ge=32, le=4096)] = 128
    classes: DenseClasses = 5
    train_images: Count = 400
    val_images: Count = 100
    objects: Annotated[tuple[Objects, Objects], Interval] = (1, 4)
    """Least and most objects of a scene; an object that finds no place is left out."""
    extent: Annotated[tuple[DenseExtent, DenseExtent], Interval] = (0.25, 0.5)
    turn: Turn = 30.0
    overlap: Share = 0.2
    """Largest share of an object that others may cover."""

    def count(self, split: str) -> int:
        """Number of images of a split."""
        return {"train": self.train_images, "val": self.val_images}[split]


def dense_scene(settings: DenseSettings, split: str, number: int) -> Scene:
    """Scene `number` of a split, its shapes, textures and instances drawn at random.

    No scene depends on how many there are: a larger set contains the smaller.
    """
    return compose_scene(settings.scenes(split), (STREAM + SPLITS.index(split), number))


@dataclass(frozen=True)
class DetectionSettings(DenseSettings):
    """Settings of a generated detection set."""

    kind = "detection"

    def write(self, folder: Path) -> None:
        """Write `{train,val}2017/<n>.jpg` and `annotations/instances_{train,val}2017.json`, the layout of COCO 2017.

        Category ids run from 1 in the order of `class_names`. Boxes [x, y, width, height] enclose the visible pixels of
        an object, areas count them, masks are their compressed run lengths; all in pixels and exact.
        """
        (folder / "annotations").mkdir()
        for split in SPLITS:
            (folder / f"{split}2017").mkdir()
            images, annotations = [], []
            for number in range(1, self.count(split) + 1):
                scene, name = dense_scene(self, split, number - 1), f"{number:012d}.jpg"
                (folder / f"{split}2017" / name).write_bytes(encode_jpeg(render(scene), self.quality))
                images.append({"id": number, "file_name": name, "width": scene.size, "height": scene.size})
                ids = {"image_id": number, "iscrowd": 0}
                annotations += [ids | one for one in annotated(scene, self.class_names)]
            content = {
                "info": {"description": "generated scenes"},
                "images": images,
                "annotations": [{"id": number, **one} for number, one in enumerate(annotations, start=1)],
                "categories": [{"id": n, "name": name} for n, name in enumerate(self.class_names, start=1)],
            }
            text = json.dumps(content, sort_keys=True)
            (folder / "annotations" / f"instances_{split}2017.json").write_text(text, encoding="utf-8")


def annotated(scene: Scene, classes: tuple[str, ...]) -> list[dict[str, Any]]:
    """Category, box, area and mask, as in COCO, of the objects of a scene of which enough is visible."""
    from pycocotools import mask

    found = []
    for item in scene.objects:
        if item.mask.sum() < SMALLEST:
            continue
        left, top, right, bottom = item.box
        encoded = mask.encode(np.asfortranarray(item.mask, dtype=np.uint8))
        found.append({
            "category_id": classes.index(item.labels.shape) + 1,
            "bbox": [left, top, right - left, bottom - top],
            "area": int(item.mask.sum()),
            "segmentation": {"size": list(encoded["size"]), "counts": encoded["counts"].decode("ascii")},
        })  # fmt: skip
    return found


@dataclass(frozen=True)
class SegmentationSettings(DenseSettings):
    """Settings of a generated segmentation set."""

    kind = "segmentation"

    @property
    def class_names(self) -> tuple[str, ...]:
        """The classes in the order of their labels, which run from 1: the background, then the shapes."""
        return (BACKGROUND, *self.shape_names)

    def write(self, folder: Path) -> None:
        """Write `images/{training,validation}/<name>.jpg` and `annotations/.../<name>.png`, the layout of ADE20K.

        Label maps hold 1 for the background and 2 on for the shapes; 0 (unlabelled) does not occur.
        """
        for split in SPLITS:
            images, maps = (folder / kind / FOLDERS[split] for kind in ("images", "annotations"))
            images.mkdir(parents=True)
            maps.mkdir(parents=True)
            for number in range(self.count(split)):
                scene, name = dense_scene(self, split, number), f"{split}_{number + 1:08d}"
                (images / f"{name}.jpg").write_bytes(encode_jpeg(render(scene), self.quality))
                Image.fromarray(label_map(scene, self.class_names)).save(maps / f"{name}.png")


def label_map(scene: Scene, classes: tuple[str, ...]) -> np.ndarray:
    """uint8 (size, size): at each pixel the number, from 1, of its class in `classes`."""
    labels = np.full((scene.size, scene.size), classes.index(BACKGROUND) + 1, dtype=np.uint8)
    for item in scene.objects:
        labels[item.mask] = classes.index(item.labels.shape) + 1
    return labels
