"""Sheets of pictures: rows of panels under a caption, with one colour per class, on one small PNG."""

from __future__ import annotations

import io
import itertools
import textwrap
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from PIL import Image

from lska.files import atomic_path
from lska.tables.style import INK

LIMIT = 400_000
"""Bytes of a sheet; photographs are drawn with fewer pixels until they fit."""

WIDTH, GAP, LINE = 9.0, 0.06, 0.17
"""Inches: of a sheet, between panels, and of a line of text."""

DPI = 180
TITLE_LETTERS = 130
"""Letters that fit into a line of the caption."""

# Okabe and Ito's eight, and twelve that stay apart from these and each other in normal and in red- and green-blind
# vision (distance in CIELAB of at least 11), chosen greedily.
COLOURS = (
    "#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#f0e442", "#333333", "#f8f3aa", "#5c4000",
    "#332288", "#00446b", "#117733", "#ecb78c", "#666666", "#cab2d6", "#999933", "#346c8c", "#fb9a99", "#aa4b00",
)  # fmt: skip
SHADES = ((1.0, 0.0), (0.5, 1.0), (0.45, 0.0))
"""Share of the colour, and the grey (0 to 1) of the rest, in each further round through the colours."""

Colour = tuple[float, float, float]


def class_colour(index: int) -> Colour:
    """The colour of a class, RGB from 0 to 1: told apart for 20 classes, then lighter, then darker ones of the same."""
    share, grey = SHADES[index // len(COLOURS) % len(SHADES)]
    mixed = (share * part + (1 - share) * grey for part in to_rgb(COLOURS[index % len(COLOURS)]))
    red, green, blue = (round(255 * part) / 255 for part in mixed)
    return red, green, blue


def sheet(
    images: Sequence[np.ndarray], titles: Sequence[str], caption: str, foot: float
) -> tuple[Figure, list[list[Axes]]]:
    """An empty sheet, and for each image a row of panels, one per title; two images stand beside each other.

    Args:
        images: arrays (height, width, ...) that fix the form of the panels.
        foot: inches that are kept free at the foot.
    """
    across = min(2, len(images))
    width = (WIDTH - GAP * across * (len(titles) + 2)) / (across * len(titles))
    height = width * max(image.shape[0] / image.shape[1] for image in images)
    lines = textwrap.wrap(caption, TITLE_LETTERS)
    head = LINE * (len(lines) + 1.4)
    total = head + -(-len(images) // across) * (height + GAP) + foot
    figure = Figure(figsize=(WIDTH, total), layout="none", facecolor="white")
    figure.text(0.5, 1 - GAP / total, "\n".join(lines), ha="center", va="top", linespacing=1.3)
    panels = []
    for number in range(len(images)):
        row, group = divmod(number, across)
        left, bottom = group * WIDTH / across + 1.5 * GAP, total - head - row * (height + GAP) - height
        places = [(left + column * (width + GAP), bottom) for column in range(len(titles))]
        boxes = [(x / WIDTH, y / total, width / WIDTH, height / total) for x, y in places]
        panels.append([figure.add_axes(box, anchor="N") for box in boxes])
        for axes, title in zip(panels[-1], titles if row == 0 else (), strict=False):
            axes.set_title(title, fontsize=7, color=INK, pad=2)
    return figure, panels


def show(axes: Axes, image: np.ndarray) -> None:
    """Draw an image so that its pixels' edges, not their centres, lie at whole numbers, as boxes count them."""
    axes.imshow(image, extent=(0, image.shape[1], image.shape[0], 0), aspect="equal")
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set_visible(False)


def save(figure: Figure, path: Path, colours: Iterable[Colour]) -> None:
    """Write a PNG of 256 colours, `colours` among them, atomically; with fewer pixels where it would exceed `LIMIT`."""
    fixed = sorted({*colours, *map(to_rgb, ("white", "black", INK))})
    dpi = float(DPI)
    while len(content := _png(figure, dpi, fixed)) > LIMIT:
        dpi *= 0.97 * (LIMIT / len(content)) ** 0.5
    with atomic_path(path) as temporary:
        temporary.write_bytes(content)


def _png(figure: Figure, dpi: float, fixed: Sequence[Colour]) -> bytes:
    figure.set_dpi(dpi)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    pixels = np.asarray(canvas.buffer_rgba())
    free = Image.fromarray(pixels).convert("RGB").quantize(256 - len(fixed), dither=Image.Dither.NONE)
    indices = np.asarray(free) + np.uint8(len(fixed))
    reserved = [tuple(round(255 * part) for part in colour) for colour in fixed]
    whole = np.ascontiguousarray(pixels).view(np.uint32)[..., 0]
    for number, colour in enumerate(reserved):
        indices[whole == np.array([*colour, 255], np.uint8).view(np.uint32)] = number
    picture = Image.fromarray(indices)
    picture.putpalette([*itertools.chain.from_iterable(reserved), *free.getpalette()])
    stream = io.BytesIO()
    picture.save(stream, format="PNG", optimize=True)
    return stream.getvalue()
