"""A generated texture set in the layout of the Describable Textures Dataset: one texture family fills the image.

Two images of one texture instance, as two cut-outs of one photograph would be, never lie in different parts of a split:
the nearest neighbour of an image shows another instance, of which only the family can be recognised.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from pydantic import Field

from lska.data.manifest import IMAGES, LABELS, PARTS, TextureManifest
from lska.data.synthetic.generated import GeneratedSet, Quality, Seed, some_of, sorted_names
from lska.data.synthetic.render import coloured, encode_jpeg
from lska.data.synthetic.scene import Paint
from lska.data.synthetic.seeds import HELD_OUT, generator
from lska.data.synthetic.textures import DRAWN, texture_field
from lska.provenance.files import csv_text
from lska.provenance.strict import AtLeastOne, Share, checked
from lska.settings.recipes import Interval

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
