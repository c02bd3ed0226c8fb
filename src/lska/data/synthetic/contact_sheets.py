"""Contact sheets: labelled samples on one PNG, to be looked at."""

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from lska.data.synthetic.render import render
from lska.data.synthetic.scene import Scene
from lska.provenance.errors import InputError
from lska.provenance.files import MissingFileError, atomic_path

if TYPE_CHECKING:
    from PIL.Image import Image as Picture

CAPTION = 14
"""Height of the caption under each sample in pixels."""


def contact_sheet(source: Path | Sequence[Scene], path: Path, *, per_class: int = 8, columns: int = 16) -> int:
    """Write a PNG of labelled samples, all of one size: all given scenes, or a set's first images of each class.

    From a set come `per_class` training and as many validation images of each class.

    Returns:
        Number of samples shown.

    Raises:
        FileNotFoundError: `source` is a folder without labels.csv.
        ValueError: there is nothing to show.
    """
    samples = _samples_of_set(source, per_class) if isinstance(source, Path) else _samples_of_scenes(source)
    if not samples:
        raise InputError(f"{source}: no samples to show on {path}")
    with atomic_path(path) as temporary:
        _tile(samples, columns).save(temporary, format="PNG")
    return len(samples)


def _samples_of_scenes(scenes: Sequence[Scene]) -> list[tuple[np.ndarray, str]]:
    return [
        (render(scene), "+".join(f"{o.labels.shape}/{o.labels.texture}" for o in scene.objects)) for scene in scenes
    ]


def _samples_of_set(root: Path, per_class: int) -> list[tuple[np.ndarray, str]]:
    from PIL import Image

    if not (root / "labels.csv").is_file():
        raise MissingFileError(f"{root}: no labels.csv; expected the folder of a generated classification set")
    shown: dict[tuple[str, str], int] = {}
    samples = []
    with (root / "labels.csv").open(newline="", encoding="utf-8") as stream:
        for row in sorted(csv.DictReader(stream), key=lambda row: row["shape"]):
            group = (row["shape"], row["split"])
            shown[group] = shown.get(group, 0) + 1
            if shown[group] <= per_class:
                samples.append((np.asarray(Image.open(root / row["path"])), f"{row['shape']}/{row['texture']}"))
    return samples


def _tile(samples: Sequence[tuple[np.ndarray, str]], columns: int) -> "Picture":
    from PIL import Image, ImageDraw

    size = samples[0][0].shape[0]
    width, height = max(size, 96) + 4, size + CAPTION + 4
    sheet = Image.new("RGB", (columns * width, -(-len(samples) // columns) * height), "white")
    draw = ImageDraw.Draw(sheet)
    for index, (pixels, caption) in enumerate(samples):
        x, y = index % columns * width, index // columns * height
        sheet.paste(Image.fromarray(pixels), (x + 2, y + 2))
        draw.text((x + 2, y + size + 3), caption, fill="black", font_size=10)
    return sheet
