"""Maps, one per network: effective receptive fields (Figures 4 and 8), accuracy by corruption and severity (S1)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.patches import Rectangle

from lska.evaluate.receptive_field import area_ratio, scaled
from lska.provenance.errors import InputError
from lska.provenance.files import MissingFileError
from lska.provenance.outcomes import read_arrays
from lska.tables.cell_text import facts
from lska.tables.collect import Table
from lska.tables.figure_parts import LOOKS, NAMES, SMALL, WIDTH, footer, small_print

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
ABREAST = 3
"""Maps beside each other whose titles fit on a line."""
DARK, ON_DARK, ON_LIGHT = 60, "#fffffe", "#000001"
"""Percentage below which numbers are written in white; on a map neither must follow the reader's colour scheme, as pure
white and black do."""

Network = tuple[str, int]
"""Attention and kernel size, which tell the maps apart."""


def receptive_fields(table: Table) -> Figure:
    """Contribution maps of the trained networks that the table names, from the files beside their metric files.

    Raises:
        FileNotFoundError: a map is missing; says which rule makes it.
        ValueError: a map is damaged.
    """
    maps, seeds = {}, set()
    for row in table.rows:
        source, files = row.source, row.cells[0].files
        if source is not None and source.attention is not None and source.kernel is not None and files:
            maps[source.attention, source.kernel] = _contributions(files[0])
            seeds |= set(row.cells[0].seeds[:1])
    if not maps:
        figure = Figure(figsize=(WIDTH, 1.2))
        _nothing_measured(figure, 0.6)
        footer(figure, table)
        return figure
    shown = f"Trained networks, seed {' or '.join(map(str, sorted(seeds)))}."
    return field_maps(maps, " ".join([*facts(table), shown]))


def field_maps(maps: Mapping[Network, np.ndarray], caption: str) -> Figure:
    """One heat map per network, kernel sizes across in rising order, LKA above LSKA, one colour scale for all.

    Places of networks that are not among the maps stay empty.

    Args:
        maps: contribution maps (S, S).
        caption: what the maps were made from, for the small print: scale, weights, data, images.
    """
    attentions = [name for name in LOOKS if any(name == attention for attention, _ in maps)]
    kernels = sorted({kernel for _, kernel in maps})
    side = min(2.2, (WIDTH - 0.9) / len(kernels))
    figure = Figure(figsize=(WIDTH, 0.75 + len(attentions) * (side + 0.32)))
    grid = figure.subplots(len(attentions), len(kernels), squeeze=False)
    for axes in grid.flat:
        axes.axis("off")
    scale = PowerNorm(EXPONENT, vmin=0, vmax=1)
    for (attention, kernel), scores in maps.items():
        axes = grid[attentions.index(attention)][kernels.index(kernel)]
        _draw_field(axes, scores, scale)
        axes.set_title(f"{NAMES[attention]} k={kernel}", fontsize=7, color=LOOKS[attention][0])
    looks = {"aspect": 30, "pad": 0.015, "ticks": [0, 0.1, 0.5, 1]}
    _colour_bar(figure, ScalarMappable(scale, "inferno"), "log10(score + 1) / maximum", **looks)
    sizes = " or ".join(map(str, sorted({len(scores) for scores in maps.values()})))
    small_print(figure, caption, NOTE.format(size=sizes))
    return figure


def corruption_maps(table: Table) -> Figure:
    """One map per measured network, corruptions down and severities across, an attention per row of maps.

    Fields that were not measured are left white; networks without any are left out.
    """
    maps = _accuracies(table)
    attentions = list(dict.fromkeys(attention for attention, _ in maps))
    kernels = sorted({kernel for _, kernel in maps})
    corruptions = list(next(row for row in table.rows if row.source).source.spec.values["corruption"])
    rows, columns = max(1, len(attentions)), max(1, len(kernels))
    figure = Figure(figsize=(WIDTH, 0.6 + rows * (0.3 + 0.135 * len(corruptions))))
    figure.get_layout_engine().set(rect=(0.02, 0, 0.98, 1))  # names of corruptions would be cut off else
    grid = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True)
    image = None
    for (attention, kernel), values in maps.items():
        axes = grid[attentions.index(attention)][kernels.index(kernel)]
        image = _draw_accuracies(axes, values, corruptions)
        mean = "partial" if np.isnan(values).any() else f"{values.mean():.1f}"
        title = f"{NAMES[attention]} k={kernel}", f"mean {mean}"
        axes.set_title((", " if columns <= ABREAST else "\n").join(title), fontsize=7)
    for axes in grid.flat:
        axes.set_visible(axes.has_data())
    for axes in grid[-1]:
        axes.set_xlabel("severity", fontsize=SMALL)
    if image is None:
        _nothing_measured(figure)
    else:
        _colour_bar(figure, image, "top-1 (%)", shrink=0.5, aspect=40)
    footer(figure, table)
    return figure


def block_means(values: np.ndarray) -> np.ndarray:
    """Means over blocks of equal side, at most `BLOCKS` per side, (S, S) to (ceil(S / b), ceil(S / b)).

    The last row and column of blocks are smaller where the side does not divide S.
    """
    size = len(values)
    starts = np.arange(0, size, -(-size // BLOCKS))
    lengths = np.diff(np.append(starts, size))
    sums = np.add.reduceat(np.add.reduceat(values, starts, axis=0), starts, axis=1)
    return sums / np.outer(lengths, lengths)


def _contributions(metrics: Path) -> np.ndarray:
    """The map of the trained network, beside `<results>/metrics/receptive_field/<run>.json`."""
    path = metrics.parents[2] / "fields" / f"{metrics.stem}.npz"
    try:
        maps = read_arrays(path)
    except MissingFileError as error:
        raise MissingFileError(
            f"{path}: contribution maps missing although {metrics} is there; delete that file and run its rule again"
        ) from error
    if "trained" not in maps:
        raise InputError(f"{path}: has no map of the trained network; delete {metrics} and run its rule again")
    return maps["trained"].astype(np.float64)


def _draw_field(axes: Axes, scores: np.ndarray, scale: PowerNorm) -> None:
    """The map, its squares, and their area ratios below with three digits."""
    size = len(scores)
    axes.axis("on")
    # Whole numbers lie at the pixels' edges.
    looks = {"extent": (0, size, size, 0), "cmap": "inferno", "norm": scale, "interpolation": "nearest"}
    axes.imshow(block_means(scaled(scores)), **looks)
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set_visible(False)
    lines = []
    for threshold, style in OUTLINES.items():
        side, share = area_ratio(scores, threshold)
        start = 0 if side == size else size // 2 - side // 2
        looks = {"facecolor": "none", "edgecolor": OUTLINE, "linewidth": 0.7, "linestyle": style}
        axes.add_patch(Rectangle((start, start), side, side, **looks))
        lines.append(f"t = {100 * threshold:g} %: r = {f'{share:#.3g}'.removesuffix('.')} %")
    axes.set_xlabel("\n".join(lines), fontsize=6, labelpad=2)


def _accuracies(table: Table) -> dict[Network, np.ndarray]:
    """Percentages (corruptions, severities) by network, NaN where not measured; networks in the order of the table."""
    found: dict[Network, np.ndarray] = {}
    for row in table.rows:
        source, value = row.source, row.cells[0].value
        if source is None or not isinstance(value, float):
            continue
        names, levels = source.spec.values["corruption"], source.spec.values["severity"]
        network = (str(source.attention), int(source.kernel or 0))
        values = found.setdefault(network, np.full((len(names), len(levels)), np.nan))
        values[names.index(source.values["corruption"]), levels.index(source.values["severity"])] = value
    return found


def _draw_accuracies(axes: Axes, values: np.ndarray, corruptions: Sequence[str]) -> AxesImage:
    image = axes.imshow(values, vmin=0, vmax=100, cmap="viridis", aspect="auto")
    axes.set_yticks(range(len(corruptions)), [name.replace("_", " ") for name in corruptions], fontsize=6)
    axes.set_xticks(range(values.shape[1]), [str(level + 1) for level in range(values.shape[1])], fontsize=6)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    for (row, column), value in np.ndenumerate(values):
        if not np.isnan(value):
            colour = ON_DARK if value < DARK else ON_LIGHT
            axes.text(column, row, f"{value:.0f}", ha="center", va="center", fontsize=5, color=colour)
    return image


def _colour_bar(figure: Figure, colours: ScalarMappable, label: str, **looks: object) -> None:
    """One for all panels of the figure."""
    bar = figure.colorbar(colours, ax=figure.axes, **looks)
    bar.set_label(label, fontsize=SMALL)
    bar.ax.tick_params(labelsize=6)


def _nothing_measured(figure: Figure, height: float = 0.5) -> None:
    figure.text(0.5, height, "no network was measured at this scale", ha="center", va="center")
