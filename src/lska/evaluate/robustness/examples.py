"""Pictures of what perturbed sets look like: one image under every corruption and severity, or some of every class."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from lska.data.decoding import decode
from lska.data.folders import Split
from lska.data.perturbed.names import FAMILIES, SEVERITIES
from lska.data.perturbed.parts import Part, open_parts
from lska.robustness import PerturbedSet
from lska.tables.sheets import GAP, LINE, WIDTH, save, show
from lska.tables.style import INK, styled

ACROSS = 10
"""Images in a row of a set that is not made of corruptions."""

LABEL = 1.4
"""Inches for the name of a corruption."""


def draw(item: PerturbedSet) -> None:
    """Write the picture of a perturbed set to its place under `samples/`.

    Raises:
        DataError: the set was not prepared, was changed since, or an image cannot be decoded.
    """
    parts = open_parts(item)
    caption = f"{item.config.caption}: {item.data.name}"
    with styled():
        figure = _strips(item, parts, caption) if item.corrupted else _classes(parts[0].split, caption)
        item.strips.parent.mkdir(parents=True, exist_ok=True)
        save(figure, item.strips, ())


def _strips(item: PerturbedSet, parts: Sequence[Part], caption: str) -> Figure:
    """A strip of the five severities for every corruption, in two columns; parts that are missing say so."""
    cells = {part.cell: part for part in parts if part.cell is not None}
    names = FAMILIES[item.name]
    rows, side = -(-len(names) // 2), (WIDTH / 2 - LABEL - 7 * GAP) / len(SEVERITIES)
    figure, height = _sheet(rows * (side + GAP) + LINE, caption)
    for number, name in enumerate(names):
        column, row = divmod(number, rows)
        left, bottom = column * WIDTH / 2 + GAP, height - 2.2 * LINE - (row + 1) * (side + GAP)
        looks = {"va": "center", "color": INK, "fontsize": 7}
        figure.text(left / WIDTH, (bottom + side / 2) / height, name.replace("_", " "), **looks)
        for place, severity in enumerate(SEVERITIES):
            x = left + LABEL + place * (side + GAP)
            axes = figure.add_axes((x / WIDTH, bottom / height, side / WIDTH, side / height))
            axes.set(xticks=[], yticks=[])
            if row == 0:
                axes.set_title(f"severity {severity}", fontsize=6, color=INK, pad=2)
            if (name, severity) in cells:
                show(axes, _image(cells[name, severity].split, 0))
            else:
                axes.set_axis_off()
                axes.text(0.5, 0.5, "missing", ha="center", va="center", color=INK, fontsize=5)
    return figure


def _classes(split: Split, caption: str) -> Figure:
    """Images spread evenly over a set, each under the name of its class."""
    chosen = np.linspace(0, len(split) - 1, min(4 * ACROSS, len(split))).astype(int).tolist()
    rows, side = -(-len(chosen) // ACROSS), (WIDTH - GAP * (ACROSS + 1)) / ACROSS
    figure, height = _sheet(rows * (side + GAP + LINE), caption)
    for number, index in enumerate(chosen):
        row, column = divmod(number, ACROSS)
        left, bottom = GAP + column * (side + GAP), height - 2.4 * LINE - row * (side + GAP + LINE) - side
        axes = figure.add_axes((left / WIDTH, bottom / height, side / WIDTH, side / height))
        axes.set_title(split.classes[split.samples[index].target], fontsize=6, color=INK, pad=2)
        show(axes, _image(split, index))
    return figure


def _sheet(content: float, caption: str) -> tuple[Figure, float]:
    """An empty sheet for `content` inches below its caption, and its height in inches."""
    height = content + 2 * LINE
    figure = Figure(figsize=(WIDTH, height), layout="none", facecolor="white")
    figure.text(0.5, 1 - GAP / height, caption, ha="center", va="top")
    return figure, height


def _image(split: Split, index: int) -> np.ndarray:
    return np.asarray(decode(split.read(index), split.name(index)))
