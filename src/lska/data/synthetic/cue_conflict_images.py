"""Generated cue-conflict images in the published layout: the shape of one class filled with the texture of another."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from lska.data.synthetic.generated_folder import describe, generate
from lska.data.synthetic.generator_workers import each
from lska.data.synthetic.labelled import ClassificationSettings
from lska.data.synthetic.render import render
from lska.data.synthetic.scene import Background, Labels, Paint, Scene, SceneObject, compose_scene
from lska.data.synthetic.seeds import HELD_OUT, generator
from lska.data.synthetic.shapes import SHAPES
from lska.data.synthetic.textures import TEXTURES
from lska.data.synthetic.value_checks import check_choice, check_range

GROUND = 0.25
"""Luma of the grey ground. No background of the clean set is darker, so that every object keeps the set's contrast."""

SHAPE_KEY, TEXTURE_KEY = 2, 3
"""First numbers of the keys of scenes, after those of the training and the validation split."""

POSES = ("shape", "image")

Combination = tuple[str, int, str, int]
"""Shape class, number of the shape, texture class, number of the texture; numbers from 1 on."""


@dataclass(frozen=True)
class CueConflictSettings:
    """Settings of a generated cue-conflict set.

    The defaults give the published set's numbers for each class: 10 shapes with 8 textures each, 3 textures.
    `image_size`, `classes` and `seed` are those of the clean set; further settings of its scenes are the defaults.

    Raises:
        ValueError: a value is out of range or of the wrong type; the message names the setting.
    """

    image_size: int = 48
    """Height and width in pixels."""
    classes: int | tuple[str, ...] = 10
    """Shape categories of the clean set, or how many of `SHAPES`, from the first on."""
    shapes_per_class: int = 10
    """Shape instances of each class."""
    textures_per_class: int = 3
    """Texture instances that stand for each class."""
    textures_per_shape: int = 8
    """Textures, of different classes as far as there are so many, that each shape instance is shown with."""
    pose: str = "shape"
    """Whether place, size and turn belong to the `shape` instance, as in the published set, where one photograph lies
    behind all its images, or are drawn anew for each `image`. With the first, features that only follow the object's
    area count as shape, so that networks with random weights score high too."""
    seed: int = 0
    """Seed of everything random in the set."""

    def __post_init__(self) -> None:
        check_range("shapes_per_class", self.shapes_per_class, 1, 100_000)
        check_range("textures_per_class", self.textures_per_class, 1, 100_000)
        check_choice("pose", self.pose, POSES)
        textures = len(self.clean.class_names) * self.textures_per_class
        check_range("textures_per_shape", self.textures_per_shape, 1, textures)

    @property
    def clean(self) -> ClassificationSettings:
        """Settings of the clean set whose classes these are."""
        return ClassificationSettings(image_size=self.image_size, classes=self.classes, seed=self.seed)

    @property
    def class_names(self) -> tuple[str, ...]:
        """Class folders in alphabetical order."""
        return self.clean.class_names

    @property
    def per_class(self) -> int:
        """Images in each class folder."""
        return self.shapes_per_class * self.textures_per_shape

    def description(self) -> dict[str, Any]:
        """Return what identifies the set, ready for JSON."""
        names = {"classes": self.class_names, "textures": [class_texture(name) for name in self.class_names]}
        return describe("cue_conflict", self, names, "cue_conflict", "scenes")


def class_texture(shape: str) -> str:
    """The texture category that stands for a class: `TEXTURES[i]` for the class `SHAPES[i]`, in every set.

    In a file name the texture is called by the class, as in the published set: `star1-fish2.png` shows a star filled
    with the second instance of the fish's texture.
    """
    return TEXTURES[SHAPES.index(shape)]


def write_cue_conflict_set(
    root: Path, settings: CueConflictSettings, *, overwrite: bool = False, workers: int = 1
) -> dict[str, int]:
    """Write the set to `root/<shape>/<shape><n>-<texture><m>.png`, the published layout, with `settings.json` beside.

    Every image with a shape instance shows it in the same pose (see `pose`), every image with a texture instance in the
    same colours, all before the same grey; so a pair of images that shares one of them shares nothing else but the
    ground. Instances come from the held-out pool, that of validation images. The folder, repeated calls and `workers`
    are as with `write_classification_set`.

    A network can only decide by texture where textures tell classes apart in its training set. Where they are drawn
    independently of the class, as `write_classification_set` does, its texture decisions are chance, and a shape bias
    says nothing; the dimension estimate does not need them.

    Returns:
        Number of classes, of images, and of images written now (0 for a set left alone).

    Raises:
        FileExistsError: `root` holds a set of other settings and `overwrite` is False, or holds anything else.
    """
    check_range("workers", workers, 1, 1024)
    names = settings.class_names
    counts = {"classes": len(names), "images": len(names) * settings.per_class}

    def write(folder: Path) -> None:
        plan = combinations(settings)
        jobs = [[item for item in plan if item[0] == name] for name in names]
        each(partial(_write_class, folder, settings), jobs, workers, chunk=1)

    return counts | {"written": generate(root, settings.description(), counts["images"], overwrite, write)}


def combinations(settings: CueConflictSettings) -> list[Combination]:
    """What the images show: drawn so that within each class all texture classes come equally often, give or take one,
    and so do, next to that, the texture instances of the whole set. The class's own texture is among them.
    """
    rng = generator("cue conflict", settings.seed)
    names, count = settings.class_names, settings.textures_per_class
    classes = np.repeat(np.arange(len(names)), count)
    used = np.zeros(len(classes), dtype=int)
    plan: list[Combination] = []
    for shape in names:
        met = np.zeros(len(names), dtype=int)
        for number in range(1, settings.shapes_per_class + 1):
            own = np.zeros(len(classes), dtype=int)
            for _ in range(settings.textures_per_shape):
                shown = np.bincount(classes, own, len(names))
                # The last key counts first.
                order = np.lexsort((rng.random(len(classes)), used, met[classes], shown[classes], own))
                chosen = order[0]
                for counter, index in ((own, chosen), (used, chosen), (met, classes[chosen])):
                    counter[index] += 1
                plan.append((shape, number, names[classes[chosen]], int(chosen) % count + 1))
    return plan


def cue_conflict_scene(settings: CueConflictSettings, combination: Combination) -> Scene:
    """The scene of one image: pose by the shape instance, or by both of them where each image has its own, texture and
    colours by the texture instance, grey ground.
    """
    shape, shape_number, texture, texture_number = combination
    scenes = settings.clean.scene_settings("val")
    by_shape, by_texture = (SHAPES.index(shape), shape_number), (SHAPES.index(texture), texture_number)
    pose = by_shape if settings.pose == "shape" else by_shape + by_texture
    labels = Labels(shape, class_texture(texture), HELD_OUT + shape_number - 1, HELD_OUT + texture_number - 1)
    posed = compose_scene(scenes, (SHAPE_KEY, *pose), [labels]).objects[0]
    coloured = compose_scene(scenes, (TEXTURE_KEY, *by_texture), [labels]).objects[0]
    item = SceneObject(labels, coloured.paint, posed.coverage, posed.mask)
    ground = Background(None, 0, Paint((GROUND,) * 3, (0.0,) * 3))
    return Scene(settings.image_size, settings.seed, (item,), ground)


def _write_class(folder: Path, settings: CueConflictSettings, plan: list[Combination]) -> None:
    from PIL import Image

    (folder / plan[0][0]).mkdir()
    for combination in plan:
        shape, shape_number, texture, texture_number = combination
        path = folder / shape / f"{shape}{shape_number}-{texture}{texture_number}.png"
        Image.fromarray(render(cue_conflict_scene(settings, combination))).save(path)
