"""Figure S1: accuracy by corruption and severity, a map per network."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lska.tables import curves as c
from lska.tables.collect import Table

COLOURS = "viridis"
ABREAST = 3
"""Maps beside each other whose titles fit on a line."""
DARK = 0.6
"""Share of the colour scale below which numbers are written in white."""


class Network(NamedTuple):
    """What tells the maps apart."""

    attention: str
    kernel: int


def heat_maps(table: Table) -> Figure:
    """One map per measured network, corruptions down and severities across, an attention per row of maps.

    Fields that were not measured are left white; networks without any are left out.
    """
    maps = _maps(table)
    attentions = list(dict.fromkeys(network.attention for network in maps))
    kernels = sorted({network.kernel for network in maps})
    corruptions = list(next(row for row in table.rows if row.source).source.spec.values["corruption"])
    rows, columns = max(1, len(attentions)), max(1, len(kernels))
    figure = Figure(figsize=(c.WIDTH, 0.6 + rows * (0.3 + 0.135 * len(corruptions))))
    figure.get_layout_engine().set(rect=(0.02, 0, 0.98, 1))  # names of corruptions would be cut off else
    grid = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True)
    image = None
    for network, values in maps.items():
        axes = grid[attentions.index(network.attention)][kernels.index(network.kernel)]
        image = _draw(axes, values, corruptions)
        between = ", " if columns <= ABREAST else "\n"
        axes.set_title(f"{c.NAMES[network.attention]} k={network.kernel}{between}mean {_mean(values)}", fontsize=7)
    for axes in grid.flat:
        axes.set_visible(axes.has_data())
    for axes in grid[-1]:
        axes.set_xlabel("severity", fontsize=6.5)
    if image is None:
        figure.text(0.5, 0.5, "no network was measured at this scale", ha="center", va="center")
    else:
        bar = figure.colorbar(image, ax=grid, shrink=0.5, aspect=40)
        bar.set_label("top-1 (%)", fontsize=6.5)
        bar.ax.tick_params(labelsize=6)
    c.footer(figure, table)
    return figure


def _maps(table: Table) -> dict[Network, np.ndarray]:
    """Percentages (corruptions, severities) by network, NaN where not measured; networks in the order of the table."""
    found: dict[Network, np.ndarray] = {}
    for row in table.rows:
        source, value = row.source, row.cells[0].value
        if source is None or not isinstance(value, float):
            continue
        names, levels = source.spec.values["corruption"], source.spec.values["severity"]
        network = Network(str(source.attention), int(source.kernel or 0))
        values = found.setdefault(network, np.full((len(names), len(levels)), np.nan))
        values[names.index(source.values["corruption"]), levels.index(source.values["severity"])] = value
    return found


def _mean(values: np.ndarray) -> str:
    return "partial" if np.isnan(values).any() else f"{values.mean():.1f}"


def _draw(axes: Axes, values: np.ndarray, corruptions: list[str]) -> object:
    image = axes.imshow(values, vmin=0, vmax=100, cmap=COLOURS, aspect="auto")
    axes.set_yticks(range(len(corruptions)), [name.replace("_", " ") for name in corruptions], fontsize=6)
    axes.set_xticks(range(values.shape[1]), [str(level + 1) for level in range(values.shape[1])], fontsize=6)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    for (row, column), value in np.ndenumerate(values):
        if not np.isnan(value):
            colour = "white" if value < 100 * DARK else "black"
            axes.text(column, row, f"{value:.0f}", ha="center", va="center", fontsize=5, color=colour)
    return image
