"""Curves of the attentions: accuracy against FLOPs (Figure 1), and what rises with the kernel size (3, 6 and S2)."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, MaxNLocator, NullLocator

from lska.evaluate.pictures import INK
from lska.tables.cell_text import heading
from lska.tables.collect import Cell, Table
from lska.tables.figure_parts import LOOKS, NAMES, SMALL, WIDTH, error_bar, footer
from lska.tables.specs import ColumnSpec, data_names

TICKS = (0.83, 0.84, 0.86, 0.9, 1.0, 1.2, 1.6, 2.6, 5.0, 10.0)
NOTE = "Numbers are kernel sizes. Horizontal places are exact counts, also of the paper's points (printed to 0.01 G)."
ROW, LOW_ROW, MANY = 2.5, 1.8, 3
"""Inches of a row of panels; of one where there are `MANY` or more."""
HOLLOW = {"markersize": 6, "markerfacecolor": "none", "linewidth": 0.7, "linestyle": (0, (4, 2))}
"""Looks of the paper's curves."""
ENDS = np.array([(-3.5, 0), (0, 0), (3.5, 0)])
"""Points from the left to the right end of a label of two digits, from its middle."""


@dataclass(frozen=True)
class Point:
    """One network of a curve: its kernel size and its cells by column label."""

    kernel: int
    cells: dict[str, Cell]

    def ours(self, column: str) -> float | None:
        """Our value, or None where nothing was measured."""
        value = self.cells[column].value
        return value if isinstance(value, float) else None

    def paper(self, column: str) -> float | None:
        """The published value, or None where none is known; counts made on the official code are not published."""
        cell = self.cells[column]
        return None if cell.paper is None or cell.paper_source == "computed" else float(cell.paper)

    def place(self, column: str | None) -> float | None:
        """Horizontal place: the kernel size where `column` is None, else our value of it, else the paper's.

        The paper rounds FLOPs to two decimals, which would put several of its points on top of each other; ours are the
        exact counts that round to them.
        """
        if column is None:
            return self.kernel
        return self.ours(column) if self.ours(column) is not None else self.paper(column)


class Series(dict[str, list[Point]]):
    """Points of each attention by rising kernel size."""

    def __init__(self, table: Table) -> None:
        """Those of all rows with an attention, in the order of `LOOKS`."""
        found = {name: [] for name in LOOKS}
        for row in table.rows:
            if row.source is not None and row.source.attention is not None and row.source.kernel is not None:
                found[row.source.attention].append(Point(row.source.kernel, {cell.column: cell for cell in row.cells}))
        super().__init__({name: sorted(points, key=lambda p: p.kernel) for name, points in found.items() if points})
        self.points = [point for points in self.values() for point in points]

    def lacks_ours(self, column: str) -> bool:
        """Whether any network has no value of ours."""
        return any(p.ours(column) is None for p in self.points)

    def knows_paper(self, column: str) -> bool:
        """Whether the paper's value is known for any network."""
        return any(p.paper(column) is not None for p in self.points)


def trade_off(table: Table) -> Figure:
    """Accuracy over FLOPs, one curve per attention, the kernel size beside each marker.

    The paper's points share the panel with ours only if ours were measured on the same data.
    """
    series = Series(table)
    apart = any(cell.other_data for cell in table.cells)
    figure = Figure(figsize=(WIDTH, 3.4))
    panels = figure.subplots(1, 1 + apart, squeeze=False)[0]
    x, y = (column.label for column in table.spec.columns)
    for axes in panels:
        axes.margins(y=0.12)
    for name, points in series.items():
        _draw_paper(panels[0], name, points, x, y)
        _draw_ours(panels[-1], name, points, x, y)
    _draw_not_run(panels[-1], series, x, y)
    for axes, title in zip(panels, ("paper, ImageNet-1K", f"ours, {data_names(table.data)}"), strict=False):
        axes.set_title(title if apart else "", loc="left")
        axes.set(xlabel="FLOPs (G), stretched at the low end", ylabel="top-1 (%)")
        _stretch(axes, [place for p in series.points if (place := p.place(x)) is not None])
    _draw_legend(figure, series, [y])
    footer(figure, table, NOTE)
    figure.draw_without_rendering()
    for axes in panels:
        labels = []
        for name, point in ((name, point) for name, points in series.items() for point in points):
            # The paper's point is named where it stands alone.
            heights = [point.ours(y) if axes is panels[-1] else None, point.paper(y) if axes is panels[0] else None]
            known = [height for height in heights if height is not None]
            if known and point.place(x) is not None:
                labels.append((point.place(x), known[0], str(point.kernel), LOOKS[name][0]))
        _place_labels(axes, labels)
    return figure


def cost_curves(table: Table) -> Figure:
    """Parameters and FLOPs over the kernel size, on logarithmic axes."""
    series, columns = Series(table), table.spec.columns
    figure = Figure(figsize=(WIDTH, 3.1))
    for axes, column in zip(figure.subplots(1, len(columns)), columns, strict=True):
        _draw_panel(axes, series, column)
        axes.set_ylabel(heading(column))
        axes.set_yscale("log")
        # Round numbers: the axis spans less than two decades.
        low, high = axes.get_ylim()
        steps = [a * 10**b for b in (-1, 0, 1, 2, 3) for a in (1, 1.5, 2, 3, 4, 5, 7)]
        axes.yaxis.set_major_locator(FixedLocator([step for step in steps if low <= step <= high]))
        axes.yaxis.set_minor_locator(NullLocator())
        axes.yaxis.set_major_formatter(_plain)
    _draw_legend(figure, series, [column.label for column in columns])
    footer(figure, table, " ".join(f"{note}." for note in table.spec.notes))
    return figure


def kernel_size_panels(table: Table) -> Figure:
    """One panel per column, (a) to (d), over the kernel size."""
    series, columns = Series(table), table.spec.columns
    rows = (len(columns) + 1) // 2
    figure = Figure(figsize=(WIDTH, 0.6 + rows * (ROW if rows < MANY else LOW_ROW)))
    grid = figure.add_gridspec(rows, 2)
    for number, column in enumerate(columns):
        title = f"({chr(ord('a') + number)}) {heading(column)}"
        place, label = grid[divmod(number, 2)], column.label
        if any(p.cells[label].other_data for p in series.points) and series.knows_paper(label):
            # Ours come from other data than the paper's, so that the two must not be compared in one panel.
            upper, lower = (figure.add_subplot(part) for part in place.subgridspec(2, 1, height_ratios=[2, 3]))
            _draw_panel(upper, series, column, ours=False)
            _draw_panel(lower, series, column, paper=False, spacing=0.08)
            upper.set_title(f"{title}: paper, ImageNet-1K", loc="left")
            lower.set_title(f"ours, {data_names(table.data)}", loc="left")
            upper.set_xlabel("")
            upper.tick_params(labelbottom=False)
        else:
            axes = figure.add_subplot(place)
            _draw_panel(axes, series, column)
            axes.set_title(title, loc="left")
    _draw_legend(figure, series, [column.label for column in columns])
    footer(figure, table)
    return figure


def _draw_panel(
    axes: Axes, series: Series, column: ColumnSpec, ours: bool = True, paper: bool = True, spacing: float = 0.04
) -> None:
    y = column.label
    axes.margins(y=0.12)
    for name, points in series.items():
        if paper:
            _draw_paper(axes, name, points, None, y)
        if ours:
            _draw_ours(axes, name, points, None, y)
    if ours:
        _draw_not_run(axes, series, None, y, spacing)
    axes.set_xlabel("kernel size")
    if paper and series.knows_paper(y) or ours and any(p.ours(y) is not None for p in series.points):
        _set_ticks(axes, 6 if ours and paper else 4)
        axes.yaxis.set_major_formatter(_number)
    else:
        axes.set_yticks([])
        axes.text(0.5, 0.5, "not run at this scale", ha="center", fontsize=7, color=INK, transform=axes.transAxes)
    if ours and not series.knows_paper(y):
        axes.set_title("no printed value known", loc="right", fontsize=SMALL, color=INK)
    sizes = sorted({point.kernel for point in series.points})
    readable: list[int] = []  # the sizes whose numbers fit side by side below the axis
    for size in sizes:
        if not readable or size - readable[-1] >= 0.05 * sizes[-1]:
            readable.append(size)
    axes.set_xlim(sizes[0] - 0.04 * sizes[-1], sizes[-1] * 1.04)
    axes.xaxis.set_major_locator(FixedLocator(sizes))
    axes.xaxis.set_major_formatter(lambda size, _: f"{size:g}" if size in readable else "")


def _set_ticks(axes: Axes, most: int) -> None:
    """Round numbers on the vertical axis, but none beside the crosses of networks that were not run."""
    low, high = axes.spines["left"].get_bounds() or axes.get_ylim()
    ticks = MaxNLocator(most, steps=[1, 2, 5, 10]).tick_values(low, high)
    axes.yaxis.set_major_locator(FixedLocator([tick for tick in ticks if low <= tick <= high]))


def _plain(value: float, _: int) -> str:
    return f"{value:g}"


def _number(value: float, _: int) -> str:
    return f"{round(value, 9):,g}" if abs(value) < 1000 else f"{value:,.0f}"


def _draw_ours(axes: Axes, name: str, points: Sequence[Point], x: str | None, y: str) -> None:
    """A curve with filled markers of the points that were measured, and their bars; `x` is as in `Point.place`."""
    colour, marker = LOOKS[name]
    shown = [p for p in points if p.ours(y) is not None and p.place(x) is not None]
    xs, ys, bars = [p.place(x) for p in shown], [p.ours(y) for p in shown], [error_bar(p.cells[y]) for p in shown]
    axes.plot(xs, ys, color=colour, marker=marker, zorder=3)
    if any(any(bar) for bar in bars):
        axes.errorbar(xs, ys, yerr=list(zip(*bars, strict=True)), fmt="none", ecolor=colour, elinewidth=0.7, alpha=0.6)


def _draw_paper(axes: Axes, name: str, points: Sequence[Point], x: str | None, y: str) -> None:
    """A dashed curve with hollow markers of the values that the paper is known to give."""
    colour, marker = LOOKS[name]
    known = [p for p in points if p.paper(y) is not None and p.place(x) is not None]
    xs, ys = [p.place(x) for p in known], [p.paper(y) for p in known]
    axes.plot(xs, ys, color=colour, marker=marker, markeredgewidth=0.8, zorder=2, **HOLLOW)


def _draw_not_run(axes: Axes, series: Series, x: str | None, y: str, spacing: float = 0.04) -> None:
    """Crosses at the foot of the panel, one line per attention, where a network was not run.

    Args:
        spacing: between the lines, as a share of the panel's height.
    """
    if not series.lacks_ours(y):
        return
    low, high = axes.get_ylim()
    if all((p.ours(y) or 0.0) >= 0 for p in series.points):
        low = max(low, 0.0)
    foot_share = spacing * (len(series) + 1)
    axes.set_ylim(low - foot_share * (high - low), high)
    # The crosses lie below the axis: no value belongs to their height.
    axes.spines["left"].set_bounds(low, high)
    foot = axes.get_xaxis_transform()
    for line, (name, points) in enumerate(series.items()):
        colour = LOOKS[name][0]
        absent = [(p.place(x), p.kernel) for p in points if p.ours(y) is None and p.place(x) is not None]
        height = foot_share / (1 + foot_share) * (len(series) - line) / (len(series) + 1)
        looks = {"color": colour, "markersize": 3, "markeredgewidth": 0.8, "transform": foot}
        axes.plot([place for place, _ in absent], [height] * len(absent), "x", **looks)
        for place, size in absent if x is not None else ():
            looks = {"fontsize": 5.5, "color": colour, "va": "center"}
            axes.annotate(str(size), (place, height), (5, 0), foot, "offset points", **looks)


def _draw_legend(figure: Figure, series: Series, columns: Sequence[str]) -> None:
    """The figure's only legend, above the panels."""
    handles = [Line2D([], [], color=LOOKS[n][0], marker=LOOKS[n][1], label=NAMES[n]) for n in series]
    if any(map(series.knows_paper, columns)):
        handles.append(Line2D([], [], color=INK, marker="o", label="ours"))
        handles.append(Line2D([], [], color=INK, marker="o", label="paper", **HOLLOW))
    if any(map(series.lacks_ours, columns)):
        handles.append(Line2D([], [], color=INK, marker="x", linestyle="", markersize=3, label="not run"))
    figure.legend(handles=handles, loc="outside upper center", ncols=len(handles), columnspacing=1.5, handletextpad=0.5)


def _stretch(axes: Axes, costs: Sequence[float]) -> None:
    """A logarithmic axis of what a network costs beyond 98.5 % of the cheapest one.

    The separable forms differ by hundredths of a GFLOP and the trivial one by whole GFLOPs, so that a linear axis would
    show either the ones or the other.
    """
    origin = 0.985 * min(costs)

    def forward(x: np.ndarray) -> np.ndarray:
        return np.log10(np.maximum(x - origin, 1e-4))

    axes.set_xscale("function", functions=(forward, lambda x: 10**x + origin))
    axes.xaxis.set_major_locator(FixedLocator([tick for tick in TICKS if tick > origin]))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(_plain)
    _set_ticks(axes, 10)
    axes.set_xlim(origin + 0.65 * (min(costs) - origin), origin + 1.5 * (max(costs) - origin))


def _place_labels(axes: Axes, labels: Sequence[tuple[float, float, str, str]]) -> None:
    """Write each label (place in data coordinates, text, colour) on the side of its marker that is farthest from
    curves, markers and labels before it."""
    scale = 72 / axes.figure.dpi
    taken = _obstacles(axes) * scale
    left, low = axes.get_window_extent().min * scale
    sides = [(r * np.cos(a), r * np.sin(a)) for r, a in itertools.product((8, 11), np.arange(8) * np.pi / 4)]
    for x, y, text, colour in labels:
        centre = axes.transData.transform((x, y)) * scale
        crowding = []
        for side in sides:
            extent = centre + side + ENDS
            # What is close counts, a third as much three points of type away; beyond an edge is the last resort.
            distances = np.linalg.norm(taken[:, None] - extent[None], axis=2)
            beyond = (extent[:, 0] < left + 2).any() or (extent[:, 1] < low + 4).any()
            crowding.append(float(np.exp(-distances / 3).sum() / len(extent)) + 10.0 * beyond + 0.02 * np.hypot(*side))
        side = sides[int(np.argmin(np.round(crowding, 6)))]
        taken = np.vstack([taken, *[centre + side + ENDS] * 4])
        looks = {"fontsize": SMALL, "color": colour, "ha": "center", "va": "center"}
        axes.annotate(text, (x, y), side, textcoords="offset points", **looks)


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
