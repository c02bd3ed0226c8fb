"""Generated cue-conflict images in the published layout: the shape of one class filled with the texture of another."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from PIL import Image
from pydantic import Field

from lska.data.synthetic.generated import ShapeSet
from lska.data.synthetic.labelled import ClassificationSettings
from lska.data.synthetic.render import render
from lska.data.synthetic.scene import Background, Labels, Paint, Scene, SceneObject, compose_scene
from lska.data.synthetic.seeds import HELD_OUT, generator
from lska.data.synthetic.shapes import SHAPES
from lska.data.synthetic.textures import TEXTURES
from lska.provenance.strict import checked

GROUND = 0.25
"""Luma of the grey ground. No background of the clean set is darker, so that every object keeps the set's contrast."""

SHAPE_KEY, TEXTURE_KEY = 2, 3
"""First numbers of the keys of scenes, after those of the training and the validation split."""

Combination = tuple[str, int, str, int]
"""Shape class, number of the shape, texture class, number of the texture; numbers from 1 on."""

Instances = Annotated[int, Field(ge=1, le=100_000)]


def _textures_problem(shown: int, classes: int | tuple[str, ...], per_class: int) -> str | None:
    most = (classes if isinstance(classes, int) else len(classes)) * per_class
    return None if 1 <= shown <= most else f"expected 1 to {most}, the textures of all classes, found {shown}"


@dataclass(frozen=True)
class CueConflictSettings(ShapeSet):
    """Settings of a generated cue-conflict set.

    The defaults give the published set's numbers for each class: 10 shapes with 8 textures each, 3 textures.
    `image_size`, `classes` and `seed` are those of the clean set; further settings of its scenes are the defaults.

    A network can only decide by texture where textures tell classes apart in its training set. Where they are drawn
    independently of the class, as in `ClassificationSettings`, its texture decisions are chance, and a shape bias says
    nothing; the dimension estimate does not need them.
    """

    kind = "cue_conflict"
    made_by = ("cue_conflict", "scenes")

    shapes_per_class: Instances = 10
    textures_per_class: Instances = 3
    textures_per_shape: Annotated[int, checked(_textures_problem, "classes", "textures_per_class")] = 8
    """Textures, of different classes as far as there are so many, that each shape instance is shown with."""
    pose: Literal["shape", "image"] = "shape"
    """Whether place, size and turn belong to the `shape` instance, as in the published set, where one photograph lies
    behind all its images, or are drawn anew for each `image`. With the first, features that only follow the object's
    area count as shape, so that networks with random weights score high too."""

    @property
    def per_class(self) -> int:
        """Images in each class folder."""
        return self.shapes_per_class * self.textures_per_shape

    def names(self) -> dict[str, Any]:
        """The shapes, and the textures that stand for them."""
        return {"classes": self.shape_names, "textures": [class_texture(name) for name in self.shape_names]}

    def write(self, folder: Path) -> None:
        """Write `<shape>/<shape><n>-<texture><m>.png`, the published layout.

        Every image with a shape instance shows it in the same pose (see `pose`), every image with a texture instance in
        the same colours, all before the same grey; so a pair of images that shares one of them shares nothing else but
        the ground. Instances come from the held-out pool, that of validation images.
        """
        for name in self.class_names:
            (folder / name).mkdir()
        for combination in combinations(self):
            shape, shape_number, texture, texture_number = combination
            path = folder / shape / f"{shape}{shape_number}-{texture}{texture_number}.png"
            Image.fromarray(render(cue_conflict_scene(self, combination))).save(path)


def class_texture(shape: str) -> str:
    """The texture category that stands for a class: `TEXTURES[i]` for the class `SHAPES[i]`, in every set.

    In a file name the texture is called by the class, as in the published set: `star1-fish2.png` shows a star filled
    with the second instance of the fish's texture.
    """
    return TEXTURES[SHAPES.index(shape)]


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
                chosen = np.lexsort((rng.random(len(classes)), used, met[classes], shown[classes], own))[0]
                for counter, index in ((own, chosen), (used, chosen), (met, classes[chosen])):
                    counter[index] += 1
                plan.append((shape, number, names[classes[chosen]], int(chosen) % count + 1))
    return plan


def cue_conflict_scene(settings: CueConflictSettings, combination: Combination) -> Scene:
    """The scene of one image: pose by the shape instance, or by both of them where each image has its own, texture and
    colours by the texture instance, grey ground.
    """
    shape, shape_number, texture, texture_number = combination
    clean = ClassificationSettings(image_size=settings.image_size, classes=settings.classes, seed=settings.seed)
    by_shape, by_texture = (SHAPES.index(shape), shape_number), (SHAPES.index(texture), texture_number)
    pose = by_shape if settings.pose == "shape" else by_shape + by_texture
    labels = Labels(shape, class_texture(texture), HELD_OUT + shape_number - 1, HELD_OUT + texture_number - 1)
    posed = compose_scene(clean.scenes("val"), (SHAPE_KEY, *pose), [labels]).objects[0]
    painted = compose_scene(clean.scenes("val"), (TEXTURE_KEY, *by_texture), [labels]).objects[0]
    item = SceneObject(labels, painted.paint, posed.coverage, posed.mask)
    ground = Background(None, 0, Paint((GROUND,) * 3, (0.0,) * 3))
    return Scene(settings.image_size, settings.seed, (item,), ground)
