"""A generated classification set in ImageNet's folder layout: one object per image, the class is its shape."""

import csv
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lska.data.synthetic.generated_folder import describe, generate
from lska.data.synthetic.generator_workers import each
from lska.data.synthetic.render import save_jpeg
from lska.data.synthetic.scene import Labels, Scene, SceneSettings, compose_scene
from lska.data.synthetic.seeds import HELD_OUT
from lska.data.synthetic.shapes import SHAPES
from lska.data.synthetic.textures import TEXTURES
from lska.data.synthetic.value_checks import check_names, check_pair, check_range

SPLITS = ("train", "val")

COLUMNS = (
    *("path", "split", "shape", "texture", "shape_instance", "texture_instance"),
    *("x_min", "y_min", "x_max", "y_max"),
)
"""Columns of labels.csv; the box is that of the object's mask in pixels, its maxima one past the last pixel."""


@dataclass(frozen=True)
class ClassificationSettings:
    """Settings of a generated classification set.

    Raises:
        ValueError: a value is out of range or of the wrong type; the message names the setting.
    """

    image_size: int = 64
    """Height and width in pixels."""
    classes: int | tuple[str, ...] = 10
    """Shape categories, or how many of `SHAPES`, from the first on."""
    train_per_class: int = 200
    """Training images of each class."""
    val_per_class: int = 50
    """Validation images of each class."""
    textures: tuple[str, ...] = TEXTURES
    """Texture categories; every class shows each of them equally often (give or take one image)."""
    extent: tuple[float, float] = (0.6, 0.88)
    """Least and largest longer side of the object's box, as a share of the image side."""
    turn: float = 45.0
    """Largest turn of the object in degrees, either way."""
    ground: str = "darker"
    """Whether the background is `darker` or `lighter` than the object, or `either`, image by image."""
    contrast: float = 0.3
    """Least difference in mean luma between object and background."""
    clutter: float = 0.0
    """Luma range of a textured background; at 0 the background is a faint gradient. Harder the larger it is."""
    quality: int = 92
    """JPEG quality."""
    seed: int = 0
    """Seed of everything random in the set."""

    def __post_init__(self) -> None:
        if isinstance(self.classes, tuple):
            check_names("classes", self.classes, SHAPES, least=2)
        else:
            check_range("classes", self.classes, 2, len(SHAPES))
        check_range("train_per_class", self.train_per_class, 1, 1_000_000)
        check_range("val_per_class", self.val_per_class, 1, 1_000_000)
        check_range("quality", self.quality, 90, 100)
        # Smaller objects could vanish between the pixels.
        check_range("image_size", self.image_size, 24, 4096)
        check_pair("extent", self.extent, 0.3, 0.95)
        self.scene_settings("train")
        # 0 and 0.0 are one setting and must have one digest.
        for name in ("turn", "contrast", "clutter"):
            object.__setattr__(self, name, float(getattr(self, name)))
        object.__setattr__(self, "extent", tuple(map(float, self.extent)))

    @property
    def class_names(self) -> tuple[str, ...]:
        """Class folders in alphabetical order, the order of their indices."""
        return tuple(sorted(SHAPES[: self.classes] if isinstance(self.classes, int) else self.classes))

    def per_class(self, split: str) -> int:
        """Return the number of images of each class in a split."""
        return {"train": self.train_per_class, "val": self.val_per_class}[split]

    def scene_settings(self, split: str) -> SceneSettings:
        """Return the settings of the scenes of a split."""
        return SceneSettings(
            image_size=self.image_size,
            shapes=self.class_names,
            textures=self.textures,
            extent=self.extent,
            turn=self.turn,
            ground=self.ground,
            contrast=self.contrast,
            clutter=self.clutter,
            held_out=split == "val",
            seed=self.seed,
        )

    def description(self) -> dict[str, Any]:
        """Return what identifies the set, ready for JSON."""
        return describe("classification", self, {"classes": self.class_names}, "scenes")


def classification_scene(settings: ClassificationSettings, split: str, shape: str, number: int) -> Scene:
    """Return the scene of image `number` of a class.

    Its shape instance is new. Texture categories take turns, each class starting with another one, and each image has
    a texture instance of its own. Instances of the validation split are numbered from `HELD_OUT` on; photographs are
    cropped from other rows there. No image depends on how many there are: a larger set contains the smaller.
    """
    first, index = HELD_OUT * (split == "val"), SHAPES.index(shape)
    texture = settings.textures[(number + index) % len(settings.textures)]
    labels = Labels(shape, texture, first + number, first + number * len(SHAPES) + index)
    key = (SPLITS.index(split), index, number)
    return compose_scene(settings.scene_settings(split), key, [labels])


def write_classification_set(
    root: Path, settings: ClassificationSettings, *, overwrite: bool = False, workers: int = 1
) -> dict[str, int]:
    """Write the set to `root/{train,val}/<class>/<class>_<n>.jpg` with `labels.csv` and `settings.json` beside them.

    The folder appears complete or not at all. A folder that already holds this set is left alone. Equal settings give
    equal bytes, whatever the number of `workers` (processes).

    Returns:
        Number of classes, of training and of validation images, and of images written now (0 for a set left alone).

    Raises:
        FileExistsError: `root` holds a set of other settings and `overwrite` is False, or holds anything else.
    """
    check_range("workers", workers, 1, 1024)
    counts = {split: len(settings.class_names) * settings.per_class(split) for split in SPLITS}
    counts = {"classes": len(settings.class_names), **counts}

    def write(folder: Path) -> None:
        _write_labels(folder / "labels.csv", list(_write_images(folder, settings, workers)))

    images = counts["train"] + counts["val"]
    return counts | {"written": generate(root, settings.description(), images, overwrite, write)}


def _write_images(folder: Path, settings: ClassificationSettings, workers: int) -> Iterator[list[Any]]:
    jobs = [(folder, settings, split, shape) for split in SPLITS for shape in settings.class_names]
    for rows in each(_write_class, jobs, workers, chunk=1):
        yield from rows


def _write_class(job: tuple[Path, ClassificationSettings, str, str]) -> list[list[Any]]:
    """Write the images of one class of one split and return their rows of labels.csv."""
    folder, settings, split, shape = job
    (folder / split / shape).mkdir(parents=True)
    rows = []
    for number in range(settings.per_class(split)):
        scene = classification_scene(settings, split, shape, number)
        path = f"{split}/{shape}/{shape}_{number:05d}.jpg"
        save_jpeg(folder / path, scene, settings.quality)
        labels = scene.objects[0].labels
        instances = [labels.shape_instance, labels.texture_instance]
        rows.append([path, split, shape, labels.texture, *instances, *scene.objects[0].box])
    return rows


def _write_labels(path: Path, rows: list[list[Any]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(COLUMNS)
        writer.writerows(rows)
