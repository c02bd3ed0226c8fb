"""A generated texture set in the layout of the Describable Textures Dataset: one texture family fills the image.

Two images of one texture instance, as two cut-outs of one photograph would be, never lie in different parts of a split:
the nearest neighbour of an image shows another instance, of which only the family can be recognised.
"""

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.random import Generator

from lska.data.manifest import IMAGES, LABELS, PARTS, TextureManifest
from lska.data.synthetic.generated_folder import describe, generate
from lska.data.synthetic.generator_workers import each
from lska.data.synthetic.render import coloured
from lska.data.synthetic.scene import Paint
from lska.data.synthetic.seeds import HELD_OUT, generator
from lska.data.synthetic.textures import texture_field
from lska.data.synthetic.value_checks import check_names, check_pair, check_range
from lska.provenance.errors import InputError

FAMILIES = (
    *("checkers", "clouds", "cracks", "dots", "grain", "grid"),
    *("marble", "scales", "stripes", "waves", "weave"),
)
"""Texture categories that are drawn anew for every instance.

The photographic ones are not among them: two instances are crops of one photograph and can show the same place.
"""

FIRST = HELD_OUT + 3 * (1 << 28)
"""First instance number: past those of clean training and validation sets and of the adversarial set."""

COLUMNS = ("path", "texture", "instance")
"""Columns of instances.csv."""


@dataclass(frozen=True)
class TextureSettings:
    """Settings of a generated texture set.

    Raises:
        ValueError: a value is out of range or of the wrong type; the message names the setting.
    """

    image_size: int = 48
    """Height and width in pixels."""
    families: int | tuple[str, ...] = len(FAMILIES)
    """Texture families, the classes, or how many of `FAMILIES`, from the first on."""
    per_part: int = 18
    """Images of each class in each of the parts train, val and test of a split."""
    crops: int = 2
    """Images of each texture instance; they always lie in the same part. Divides `per_part`."""
    splits: int = 3
    """Number of splits of the same images; DTD has ten."""
    share: tuple[float, float] = (0.6, 0.9)
    """Least and largest side of an image as a share of the canvas that it is cut from, which sets the scale."""
    contrast: tuple[float, float] = (0.4, 0.8)
    """Least and largest difference in luma between the dark and the light of a texture; less where colours end."""
    colour: float = 0.15
    """Largest deviation of a colour channel from grey, of the mean and of the contrast; 0 gives grey images."""
    quality: int = 92
    """JPEG quality."""
    seed: int = 0
    """Seed of everything random in the set."""

    def __post_init__(self) -> None:
        if isinstance(self.families, tuple):
            check_names("families", self.families, FAMILIES, least=2)
        else:
            check_range("families", self.families, 2, len(FAMILIES))
        check_range("image_size", self.image_size, 16, 4096)
        # File names have four digits, as in DTD.
        check_range("per_part", self.per_part, 1, 9999 // len(PARTS))
        check_range("crops", self.crops, 1, self.per_part)
        check_range("splits", self.splits, 1, 1000)
        check_range("quality", self.quality, 90, 100)
        check_range("seed", self.seed, 0, 2**32 - 1)
        check_range("colour", self.colour, 0.0, 1.0)
        check_pair("share", self.share, 0.1, 1.0)
        check_pair("contrast", self.contrast, 0.1, 1.0)
        if self.per_part % self.crops:
            raise InputError(
                f"crops must divide per_part, {self.per_part}, since all images of an instance lie in one part, "
                f"found {self.crops}"
            )
        # 0 and 0.0 are one setting and must have one digest.
        object.__setattr__(self, "colour", float(self.colour))
        for name in ("share", "contrast"):
            object.__setattr__(self, name, tuple(map(float, getattr(self, name))))

    @property
    def class_names(self) -> tuple[str, ...]:
        """Class folders in alphabetical order, the order of their indices."""
        return tuple(sorted(FAMILIES[: self.families] if isinstance(self.families, int) else self.families))

    @property
    def instances(self) -> int:
        """Texture instances of each class."""
        return self.per_class // self.crops

    @property
    def per_class(self) -> int:
        """Images of each class."""
        return self.per_part * len(PARTS)

    def description(self) -> dict[str, Any]:
        """Return what identifies the set, ready for JSON."""
        return describe("textures", self, {"families": self.class_names}, "texture_set")

    def manifest(self, name: str) -> TextureManifest:
        """Return what `check_textures` compares the written set with."""
        parts = dict.fromkeys(PARTS, self.per_part)
        words = {"title": "Generated textures", "source": "generated", "terms": "as the code"}
        return TextureManifest(name=name, **words, classes=self.class_names, parts=parts, splits=self.splits)


def texture_image(settings: TextureSettings, family: str, number: int) -> np.ndarray:
    """Return image `number` of a family as uint8 RGB (size, size, 3).

    Images of one instance have consecutive numbers. Each is cut at a place and scale of its own out of a canvas that
    the instance fills, and has colours of its own, so that colour says nothing about the family.
    """
    rng = generator("texture image", settings.seed, family, number)
    canvas = round(settings.image_size / rng.uniform(*settings.share))
    top, left = rng.integers(0, canvas - settings.image_size + 1, 2)
    field = texture_field(family, FIRST + number // settings.crops, canvas, settings.seed)
    cut = field[top : top + settings.image_size, left : left + settings.image_size]
    pixels = coloured(cut, _paint(settings, rng), np.ones_like(cut))
    return np.rint(np.clip(pixels, 0, 1) * 255).astype(np.uint8)


def _paint(settings: TextureSettings, rng: Generator) -> Paint:
    """Draw the mean colour and the step from dark to light, or from light to dark."""
    mean = np.clip(rng.uniform(0.4, 0.6) + rng.uniform(-1, 1, 3) * settings.colour, 0.2, 0.8)
    step = rng.uniform(*settings.contrast) * (1 + rng.uniform(-1, 1, 3) * settings.colour)
    return Paint(tuple(mean.tolist()), tuple((rng.choice([-1, 1]) * step).tolist()))


def instance_parts(settings: TextureSettings, family: str, split: int) -> dict[str, tuple[int, ...]]:
    """Return the instances, numbered from 0, in each part of a split (numbered from 1), drawn anew for each split."""
    order = generator("texture split", settings.seed, family, split).permutation(settings.instances).tolist()
    size = settings.instances // len(PARTS)
    return {part: tuple(sorted(order[size * i : size * (i + 1)])) for i, part in enumerate(PARTS)}


def write_texture_set(
    root: Path, settings: TextureSettings, *, overwrite: bool = False, workers: int = 1
) -> dict[str, int]:
    """Write the set to `root/images/<class>/<class>_<nnnn>.jpg` and `root/labels/<part><split>.txt`, DTD's layout.

    Beside them lie `instances.csv`, which says what instance each image shows, and `settings.json`. The folder appears
    complete or not at all. A folder that already holds this set is left alone. Equal settings give equal bytes,
    whatever the number of `workers` (processes).

    Returns:
        Number of classes, of images, of splits, and of images written now (0 for a set left alone).

    Raises:
        FileExistsError: `root` holds a set of other settings and `overwrite` is False, or holds anything else.
    """
    check_range("workers", workers, 1, 1024)
    names = settings.class_names
    counts = {"classes": len(names), "images": len(names) * settings.per_class, "splits": settings.splits}

    def write(folder: Path) -> None:
        each(partial(_write_class, folder, settings), names, workers, chunk=1)
        _write_labels(folder / LABELS, settings)
        _write_instances(folder / "instances.csv", settings)

    return counts | {"written": generate(root, settings.description(), counts["images"], overwrite, write)}


def _name(family: str, number: int) -> str:
    return f"{family}/{family}_{number + 1:04d}.jpg"


def _write_class(folder: Path, settings: TextureSettings, family: str) -> None:
    from PIL import Image

    (folder / IMAGES / family).mkdir(parents=True)
    for number in range(settings.per_class):
        image = Image.fromarray(texture_image(settings, family, number))
        # Full-resolution colour, as in the other generated sets.
        image.save(folder / IMAGES / _name(family, number), "JPEG", quality=settings.quality, subsampling=0)


def _write_labels(folder: Path, settings: TextureSettings) -> None:
    folder.mkdir()
    for split in range(1, settings.splits + 1):
        parts = {family: instance_parts(settings, family, split) for family in settings.class_names}
        for part in PARTS:
            names = [name for family in parts for name in _names(settings, family, parts[family][part])]
            text = "".join(f"{name}\n" for name in names)
            (folder / f"{part}{split}.txt").write_text(text, encoding="utf-8", newline="\n")


def _names(settings: TextureSettings, family: str, instances: Sequence[int]) -> list[str]:
    crops = settings.crops
    return [_name(family, instance * crops + crop) for instance in instances for crop in range(crops)]


def _write_instances(path: Path, settings: TextureSettings) -> None:
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(COLUMNS)
        for family in settings.class_names:
            for number in range(settings.per_class):
                writer.writerow([f"{IMAGES}/{_name(family, number)}", family, FIRST + number // settings.crops])
