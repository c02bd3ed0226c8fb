"""Figure 1: accuracy against FLOPs."""

from __future__ import annotations

import itertools

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator

from lska.tables import curves as c
from lska.tables.collect import Table

TICKS = (0.83, 0.84, 0.86, 0.9, 1.0, 1.2, 1.6, 2.6, 5.0, 10.0)
NOTE = "Numbers are kernel sizes. Horizontal places are exact counts, also of the paper's points (printed to 0.01 G)."

Label = tuple[float, float, str, str]
"""Place in data coordinates, text and colour."""


def trade_off(table: Table) -> Figure:
    """Accuracy over FLOPs, one curve per attention, the kernel size beside each marker.

    The paper's points share the panel with ours only if ours were measured on the same data.
    """
    series = c.curves(table)
    apart = any(cell.other_data for cell in table.cells)
    figure = Figure(figsize=(c.WIDTH, 3.4))
    panels = figure.subplots(1, 1 + apart, squeeze=False)[0]
    x, y = (column.label for column in table.spec.columns)
    for axes in panels:
        axes.margins(y=0.12)
    for name, points in series.items():
        c.draw_paper(panels[0], name, points, x, y)
        c.draw_ours(panels[-1], name, points, x, y)
    c.draw_not_run(panels[-1], series, x, y)
    for axes, title in zip(panels, ("paper, ImageNet-1K", f"ours, {', '.join(table.data)}"), strict=False):
        axes.set_title(title if apart else "", loc="left")
        axes.set(xlabel="FLOPs (G), stretched at the low end", ylabel="top-1 (%)")
        _stretch(axes, [p.place(x) for points in series.values() for p in points])
    c.legend(figure, series, [y])
    c.footer(figure, table, NOTE)
    figure.draw_without_rendering()
    for axes in panels:
        _place_labels(axes, _labels(series, x, y, ours=axes is panels[-1], paper=axes is panels[0]))
    return figure


def _labels(series: c.Series, x: str, y: str, ours: bool, paper: bool) -> list[Label]:
    """Kernel sizes beside our points, and beside the paper's where ours are elsewhere or missing."""
    labels = []
    for name, point in ((name, point) for name, points in series.items() for point in points):
        height = point.ours(y) if ours and point.ours(y) is not None else point.paper(y) if paper else None
        if height is not None and point.place(x) is not None:
            labels.append((point.place(x), height, str(point.kernel), c.LOOKS[name][0]))
    return labels


def _stretch(axes: Axes, costs: list[float | None]) -> None:
    """A logarithmic axis of what a network costs beyond 98.5 % of the cheapest one.

    The separable forms differ by hundredths of a GFLOP and the trivial one by whole GFLOPs, so that a linear axis would
    show either the ones or the other.
    """
    known = [cost for cost in costs if cost is not None]
    origin = 0.985 * min(known)

    def forward(x: np.ndarray) -> np.ndarray:
        return np.log10(np.maximum(x - origin, 1e-4))

    axes.set_xscale("function", functions=(forward, lambda x: 10**x + origin))
    axes.xaxis.set_major_locator(FixedLocator([tick for tick in TICKS if tick > origin]))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_major_locator(c.Above(axes, MaxNLocator(steps=[1, 2, 5, 10])))
    axes.set_xlim(origin + 0.65 * (min(known) - origin), origin + 1.5 * (max(known) - origin))


def _place_labels(axes: Axes, labels: list[Label]) -> None:
    """Write each label on the side of its marker that is farthest from curves, markers and labels before it."""
    scale = 72 / axes.figure.dpi
    taken = _obstacles(axes) * scale
    frame = axes.get_window_extent().get_points() * scale
    for x, y, text, colour in labels:
        centre = axes.transData.transform((x, y)) * scale
        sides = [(r * np.cos(a), r * np.sin(a)) for r, a in itertools.product((8, 11), np.arange(8) * np.pi / 4)]
        crowding = [_crowding(taken, _box(centre + side), frame) + 0.02 * np.hypot(*side) for side in sides]
        side = sides[int(np.argmin(np.round(crowding, 6)))]
        taken = np.vstack([taken, *[_box(centre + side)] * 4])
        axes.annotate(
            text, (x, y), side, textcoords="offset points", fontsize=6.5, color=colour, ha="center", va="center"
        )


def _box(centre: np.ndarray) -> np.ndarray:
    """Points (3, 2) from the left to the right end of a label of two digits."""
    return np.array([centre + (shift, 0) for shift in (-3.5, 0, 3.5)])


def _crowding(taken: np.ndarray, box: np.ndarray, frame: np.ndarray) -> float:
    """How close the points (N, 2) are to those of a label; falls to a third within three points of type.

    A label on or beyond an edge of the panel's `frame`, its corners (2, 2), is the last resort.
    """
    distances = np.linalg.norm(taken[:, None] - box[None], axis=2)
    beyond = (box[:, 0] < frame[0, 0] + 2).any() or (box[:, 1] < frame[0, 1] + 4).any()
    return float(np.exp(-distances / 3).sum() / len(box)) + 10.0 * beyond


def _obstacles(axes: Axes) -> np.ndarray:
    """Pixels (N, 2) of all markers, and of points along the lines between them."""
    found = [np.empty((0, 2))]
    bars = [np.asarray(bar) for lines in axes.collections for bar in lines.get_segments()]
    found += [np.linspace(*axes.transData.transform(bar), 5) for bar in bars]
    for line in axes.get_lines():
        corners = line.get_transform().transform(line.get_xydata())
        found += [corners] * 3
        for start, end in itertools.pairwise(corners) if line.get_linestyle() != "None" else ():
            found.append(np.linspace(start, end, 2 + int(np.hypot(*(end - start)) // 6)))
    return np.vstack(found)
