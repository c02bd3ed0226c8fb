"""Generated sets of the inspections: cue-conflict images, the shape of one class with the texture of another; and
textures, one family filling each image. Both have the published layouts, the latter that of DTD.

Two images of one texture instance, as two cut-outs of one photograph would be, never lie in different parts of a split:
the nearest neighbour of an image shows another instance, of which only the family can be recognised.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from PIL import Image
from pydantic import Field

from lska.data.manifest import IMAGES, LABELS, PARTS, TextureManifest
from lska.data.synthetic.generated import GeneratedSet, Quality, Seed, ShapeSet, some_of, sorted_names
from lska.data.synthetic.labelled import ClassificationSettings
from lska.data.synthetic.render import coloured, encode_jpeg, render
from lska.data.synthetic.scene import Background, Labels, Paint, Scene, SceneObject, compose_scene
from lska.data.synthetic.seeds import HELD_OUT, generator
from lska.data.synthetic.shapes import SHAPES
from lska.data.synthetic.textures import DRAWN, TEXTURES, texture_field
from lska.provenance.files import csv_text
from lska.provenance.strict import AtLeastOne, Share, checked
from lska.settings.recipes import Interval

# --- Cue conflict ----------------------------------------------------------------------------------------------------

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


# --- Textures --------------------------------------------------------------------------------------------------------

FAMILIES = tuple(DRAWN)
"""The photographic textures are not among them: two instances are crops of one photograph and can show the same place.
"""

FIRST = HELD_OUT + 3 * (1 << 28)
"""First instance number: past those of clean training and validation sets and of the adversarial set."""

COLUMNS = ("path", "texture", "instance")
"""Columns of instances.csv, which says what instance each image shows."""


def _crops_problem(crops: int, per_part: int) -> str | None:
    wanted = f"expected a divisor of per_part {per_part}, since all images of an instance lie in one part"
    return f"{wanted}, found {crops}" if per_part % crops else None


Families = some_of(FAMILIES, 2)
TenthToOne = Annotated[float, Field(ge=0.1, le=1)]


@dataclass(frozen=True)
class TextureSettings(GeneratedSet):
    """Settings of a generated texture set."""

    kind = "textures"
    made_by = ("texture_set",)

    image_size: Annotated[int, Field(ge=16, le=4096)] = 48
    families: Families = len(FAMILIES)
    """Texture families, the classes, or how many of `FAMILIES`, from the first on."""
    per_part: Annotated[int, Field(ge=1, le=9999 // len(PARTS))] = 18  # file names have four digits, as in DTD
    """Images of each class in each of the parts train, val and test of a split."""
    crops: Annotated[AtLeastOne, checked(_crops_problem, "per_part")] = 2
    """Images of each texture instance; they always lie in the same part. Divides `per_part`."""
    splits: Annotated[int, Field(ge=1, le=1000)] = 3
    """Number of splits of the same images; DTD has ten."""
    share: Annotated[tuple[TenthToOne, TenthToOne], Interval] = (0.6, 0.9)
    """Least and largest side of an image as a share of the canvas that it is cut from, which sets the scale."""
    contrast: Annotated[tuple[TenthToOne, TenthToOne], Interval] = (0.4, 0.8)
    """Least and largest difference in luma between the dark and the light of a texture; less where colours end."""
    colour: Share = 0.15
    """Largest deviation of a colour channel from grey, of the mean and of the contrast; 0 gives grey images."""
    quality: Quality = 92
    seed: Seed = 0

    @property
    def class_names(self) -> tuple[str, ...]:
        """Class folders in alphabetical order, the order of their indices."""
        return sorted_names(self.families, FAMILIES)

    def names(self) -> dict[str, Any]:
        """The families by name."""
        return {"families": self.class_names}

    def manifest(self, name: str) -> TextureManifest:
        """What `check_textures` compares the written set with."""
        parts = dict.fromkeys(PARTS, self.per_part)
        words = {"title": "Generated textures", "source": "generated", "terms": "as the code"}
        return TextureManifest(name=name, **words, classes=self.class_names, parts=parts, splits=self.splits)

    def write(self, folder: Path) -> None:
        """Write `images/<class>/<class>_<nnnn>.jpg` and `labels/<part><split>.txt`, DTD's layout, and instances.csv."""
        rows = []
        for family in self.class_names:
            (folder / IMAGES / family).mkdir(parents=True)
            for number in range(self.per_part * len(PARTS)):
                path = f"{IMAGES}/{_name(family, number)}"
                (folder / path).write_bytes(encode_jpeg(texture_image(self, family, number), self.quality))
                rows.append(dict(zip(COLUMNS, (path, family, FIRST + number // self.crops), strict=True)))
        (folder / "instances.csv").write_text(csv_text(COLUMNS, rows), encoding="utf-8")
        (folder / LABELS).mkdir()
        for split in range(1, self.splits + 1):
            parts = {family: instance_parts(self, family, split) for family in self.class_names}
            for part in PARTS:
                names = [
                    _name(family, instance * self.crops + crop)
                    for family, instances in parts.items() for instance in instances[part] for crop in range(self.crops)
                ]  # fmt: skip
                (folder / LABELS / f"{part}{split}.txt").write_text("".join(f"{name}\n" for name in names))


def _name(family: str, number: int) -> str:
    return f"{family}/{family}_{number + 1:04d}.jpg"


def texture_image(settings: TextureSettings, family: str, number: int) -> np.ndarray:
    """Image `number` of a family as uint8 RGB (size, size, 3).

    Images of one instance have consecutive numbers. Each is cut at a place and scale of its own out of a canvas that
    the instance fills, and has colours of its own, so that colour says nothing about the family.
    """
    rng, size = generator("texture image", settings.seed, family, number), settings.image_size
    canvas = round(size / rng.uniform(*settings.share))
    top, left = rng.integers(0, canvas - size + 1, 2)
    field = texture_field(family, FIRST + number // settings.crops, canvas, settings.seed)
    cut = field[top : top + size, left : left + size]
    # The mean colour and the step from dark to light, or from light to dark.
    mean = np.clip(rng.uniform(0.4, 0.6) + rng.uniform(-1, 1, 3) * settings.colour, 0.2, 0.8)
    step = rng.uniform(*settings.contrast) * (1 + rng.uniform(-1, 1, 3) * settings.colour)
    paint = Paint(tuple(mean.tolist()), tuple((rng.choice([-1, 1]) * step).tolist()))
    return np.rint(np.clip(coloured(cut, paint, np.ones_like(cut)), 0, 1) * 255).astype(np.uint8)


def instance_parts(settings: TextureSettings, family: str, split: int) -> dict[str, tuple[int, ...]]:
    """The instances, numbered from 0, in each part of a split (numbered from 1), drawn anew for each split."""
    size = settings.per_part // settings.crops
    order = generator("texture split", settings.seed, family, split).permutation(size * len(PARTS)).tolist()
    return {part: tuple(sorted(order[size * i : size * (i + 1)])) for i, part in enumerate(PARTS)}
