"""Figure 1: accuracy against FLOPs."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from lska.tables.collect import Table
from lska.tables.curves import (
    LOOKS, WIDE, Point, curves, draw_not_run, draw_ours, draw_paper, footer, leave_foot, legend,
)  # fmt: skip

TICKS = (0.83, 0.84, 0.86, 0.9, 1.0, 1.2, 1.6, 2.6, 5.0, 10.0)
# Points; where the numbers beside the markers stand, so that those of neighbouring curves do not meet.
LABELS = {"lka_trivial": (5, -7), "lska_trivial": (0, -10), "lka": (5, 3), "lska": (-5, 4)}


def trade_off(table: Table) -> Figure:
    """Accuracy over FLOPs, one curve per attention, the kernel size beside each marker.

    The paper's points share the panel with ours only if ours were measured on the same data.
    """
    series = curves(table)
    apart = any(cell.other_data for cell in table.cells)
    figure = Figure(figsize=(WIDE, 3.4))
    axes = figure.subplots(1, 2, squeeze=False)[0] if apart else [figure.subplots()] * 2
    x, y = (column.label for column in table.spec.columns)
    for name, points in series.items():
        draw_paper(axes[0], name, points, x, y)
        draw_ours(axes[1], name, points, x, y)
        _label(axes[0], name, points, lambda p: (p.paper(x), p.paper(y)) if apart else (None, None))
        _label(axes[1], name, points, lambda p: (p.ours(x), p.ours(y) if p.ours(y) is not None else p.paper(y)))
    leave_foot(axes[1], series, y)
    draw_not_run(axes[1], series, x, y)
    cheapest = min(p.ours(x) for points in series.values() for p in points)
    for panel, title in zip(axes, ("ImageNet-1K, as printed", ", ".join(table.data)), strict=True):
        _axis(panel, cheapest)
        panel.set_title(title if apart else "", loc="left")
        panel.set_xlabel("FLOPs (G), stretched at the low end")
        panel.set_ylabel("top-1 (%)")
    legend(figure, series, [y])
    footer(figure, table)
    return figure


def _label(axes: Axes, name: str, points: list[Point], place: Callable[[Point], tuple[float | None, float | None]]) -> None:
    for point in points:
        x, y = place(point)
        if x is not None and y is not None:
            axes.annotate(
                str(point.kernel), (x, y), LABELS[name], textcoords="offset points", fontsize=6.5, color=LOOKS[name][0],
                ha="center", va="center",
            )  # fmt: skip


def _axis(axes: Axes, cheapest: float) -> None:
    """A logarithmic axis of what a network costs beyond about 98.5 % of the cheapest one.

    The separable forms differ by hundredths of a GFLOP and the trivial one by whole GFLOPs, so that a common axis would
    show either ones or the other.
    """
    origin = 0.985 * cheapest

    def forward(x: np.ndarray) -> np.ndarray:
        return np.log10(np.maximum(x - origin, 1e-4))

    axes.set_xscale("function", functions=(forward, lambda x: 10**x + origin))
    low, high = axes.get_xlim()
    axes.xaxis.set_major_locator(FixedLocator([tick for tick in TICKS if tick > origin]))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.set_xlim(origin + (cheapest - origin) * 0.6, max(high, low))
