"""A generated segmentation set in the layout of ADE20K, every pixel labelled exactly."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from lska.data.synthetic.dense_scenes import DenseSettings, dense_scene, write_set
from lska.data.synthetic.generator_workers import each
from lska.data.synthetic.render import save_jpeg
from lska.data.synthetic.scene import Scene

FOLDERS = {"train": "training", "val": "validation"}

BACKGROUND = "background"
"""Class of all pixels that show no object; its label is 1, since 0 means unlabelled."""


@dataclass(frozen=True)
class SegmentationSettings(DenseSettings):
    """Settings of a generated segmentation set."""

    KIND = "segmentation"

    @property
    def class_names(self) -> tuple[str, ...]:
        """The classes in the order of their labels, which run from 1: the background, then the shapes."""
        return (BACKGROUND, *self.shape_names)


def write_segmentation_set(
    root: Path, settings: SegmentationSettings, *, overwrite: bool = False, workers: int = 1
) -> dict[str, int]:
    """Write the set to `root/images/{training,validation}/<name>.jpg` and `root/annotations/.../<name>.png`.

    Label maps hold 1 for the background and 2 on for the shapes, in the order of `class_names`; 0 (unlabelled) does
    not occur. The folder, repeated calls, `workers`, result and errors are as with `write_detection_set`.
    """
    return write_set(root, settings, overwrite, partial(_write_split, settings, workers))


def _write_split(settings: SegmentationSettings, workers: int, folder: Path, split: str) -> None:
    for kind in ("images", "annotations"):
        (folder / kind / FOLDERS[split]).mkdir(parents=True)
    each(partial(_write_pair, folder, settings, split), range(settings.count(split)), workers)


def label_map(scene: Scene, classes: tuple[str, ...]) -> np.ndarray:
    """Return uint8 (size, size): at each pixel the number, from 1, of its class in `classes`."""
    background = classes.index(BACKGROUND) + 1
    values = [background, *(classes.index(item.labels.shape) + 1 for item in scene.objects)]
    return np.array(values, dtype=np.uint8)[scene.instance_map()]


def _write_pair(folder: Path, settings: SegmentationSettings, split: str, number: int) -> None:
    from PIL import Image

    scene, place = dense_scene(settings, split, number), FOLDERS[split]
    name = f"{split}_{number + 1:08d}"
    save_jpeg(folder / "images" / place / f"{name}.jpg", scene, settings.quality)
    labels = label_map(scene, settings.class_names)
    Image.fromarray(labels).save(folder / "annotations" / place / f"{name}.png")
