"""Figures 4 and 8: effective receptive fields as heat maps, kernel sizes across and attentions down."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from lska.evaluate.receptive_field import area_ratio, scaled
from lska.tables import curves as c
from lska.tables.style import INK

COLOURS = "inferno"
OUTLINES = {0.5: "-", 0.99: (0, (3, 2))}
"""Shares of the total whose squares are outlined, and their line styles."""
OUTLINE = "#56b4e9"
"""Sky blue of Okabe and Ito, which the colour map has nowhere."""
BLOCKS = 256
"""Most fields drawn per side of a map; more would not show in print."""
EXPONENT = 0.5
"""Of the colour scale: the centre outshines all else, and a linear scale would be black around it."""
NOTE = (
    "Colour: log10(score + 1) over its maximum in the map, on a square-root scale, of maps of {size} pixels a side. "
    "Squares: the smallest centred ones with more than the share t of the total, 50 % (solid) and 99 % (dashed); r: "
    "their shares of the map's area."
)


def receptive_fields(maps: Mapping[tuple[str, int], np.ndarray], caption: str = "") -> Figure:
    """One heat map per network, kernel sizes across in rising order, LKA above LSKA, one colour scale for all.

    Places of networks that are not among the maps stay empty.

    Args:
        maps: contribution maps (S, S) by attention and kernel size.
        caption: what the maps were made from, for the small print: scale, weights, data, images.

    Raises:
        ValueError: an attention is unknown, or a map is no contribution map.
    """
    unknown = sorted({attention for attention, _ in maps} - set(c.LOOKS))
    if unknown:
        raise ValueError(f"maps: expected attentions among {', '.join(c.LOOKS)}; found {', '.join(unknown)}")
    attentions = [name for name in c.LOOKS if any(name == attention for attention, _ in maps)]
    kernels = sorted({kernel for _, kernel in maps})
    rows, columns = max(1, len(attentions)), max(1, len(kernels))
    side = min(2.2, (c.WIDTH - 0.9) / columns)
    figure = Figure(figsize=(c.WIDTH, 0.75 + rows * (side + 0.32)))
    grid = figure.subplots(rows, columns, squeeze=False)
    for axes in grid.flat:
        axes.axis("off")
    for (attention, kernel), scores in maps.items():
        axes = grid[attentions.index(attention)][kernels.index(kernel)]
        _draw(axes, scores)
        axes.set_title(f"{c.NAMES[attention]} k={kernel}", fontsize=7, color=c.LOOKS[attention][0])
    _finish(figure, grid, maps, caption)
    return figure


def _finish(figure: Figure, grid: np.ndarray, maps: Mapping[tuple[str, int], np.ndarray], caption: str) -> None:
    """Colour bar and small print."""
    sizes = sorted({len(scores) for scores in maps.values()})
    note = NOTE.format(size=" or ".join(map(str, sizes)))
    if maps:
        bar = figure.colorbar(ScalarMappable(_scale(), COLOURS), ax=grid, aspect=30, pad=0.015, ticks=[0, 0.1, 0.5, 1])
        bar.set_label("log10(score + 1) / maximum", fontsize=6.5)
        bar.ax.tick_params(labelsize=6)
    else:
        note = ""
        figure.text(0.5, 0.5, "no network was measured at this scale", ha="center", va="center")
    wrapped = [line for text in (caption, note) for line in c.balanced(text)]
    figure.supxlabel("\n".join(wrapped), fontsize=6.5, color=INK)


def _scale() -> PowerNorm:
    return PowerNorm(EXPONENT, vmin=0, vmax=1)


def _draw(axes: Axes, scores: np.ndarray) -> None:
    """The map, its squares, and their area ratios below."""
    size = len(scores)
    axes.axis("on")
    # Whole numbers lie at the pixels' edges.
    extent = (0, size, size, 0)
    axes.imshow(block_means(scaled(scores)), extent=extent, cmap=COLOURS, norm=_scale(), interpolation="nearest")
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set_visible(False)
    lines = []
    for threshold, style in OUTLINES.items():
        side, share = area_ratio(scores, threshold)
        start = 0 if side == size else size // 2 - side // 2
        looks = {"facecolor": "none", "edgecolor": OUTLINE, "linewidth": 0.7, "linestyle": style}
        axes.add_patch(Rectangle((start, start), side, side, **looks))
        lines.append(f"t = {100 * threshold:g} %: r = {percent(share)} %")
    axes.set_xlabel("\n".join(lines), fontsize=6, labelpad=2)


def percent(share: float) -> str:
    """Three digits, also where the last are zeros."""
    return f"{share:#.3g}".removesuffix(".")


def block_means(values: np.ndarray) -> np.ndarray:
    """Means over blocks of equal side, at most `BLOCKS` per side, (S, S) to (ceil(S / b), ceil(S / b)).

    The last row and column of blocks are smaller where the side does not divide S.
    """
    size = len(values)
    starts = np.arange(0, size, -(-size // BLOCKS))
    lengths = np.diff(np.append(starts, size))
    sums = np.add.reduceat(np.add.reduceat(values, starts, axis=0), starts, axis=1)
    return sums / np.outer(lengths, lengths)
