"""What the drawings share: the points of a filled table, the looks of the attentions, curves, legend and footer."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import Locator

from lska.tables.cell_text import facts
from lska.tables.collect import Cell, Table
from lska.tables.specs import display_names
from lska.tables.style import INK

# Okabe and Ito's colours, told apart by colour-blind readers; the marker says the same once more.
LOOKS = {
    "lka_trivial": ("#d55e00", "o"),
    "lska_trivial": ("#cc79a7", "s"),
    "lka": ("#0072b2", "^"),
    "lska": ("#009e73", "D"),
    "slak": ("#e69f00", "v"),
    "slak_sparse": ("#56b4e9", "P"),
}
NAMES = display_names()["attentions"]
WIDTH = 7.0
"""Inches: the text width of a two-column page."""
FOOTER_LETTERS = 135
"""Letters of small print that fit into this width."""


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


Series = dict[str, list[Point]]


def curves(table: Table) -> Series:
    """Points of each attention by rising kernel size."""
    found: Series = {name: [] for name in LOOKS}
    for row in table.rows:
        if row.source is not None and row.source.attention is not None and row.source.kernel is not None:
            cells = {cell.column: cell for cell in row.cells}
            found[row.source.attention].append(Point(row.source.kernel, cells))
    return {name: sorted(points, key=lambda p: p.kernel) for name, points in found.items() if points}


def draw_ours(axes: Axes, name: str, points: Sequence[Point], x: str | None, y: str) -> None:
    """A curve with filled markers of the points that were measured; `x` is as in `Point.place`.

    Bars are the deviation over seeds, the standard error of one run, or the quartiles of repeated measurements.
    """
    colour, marker = LOOKS[name]
    shown = [p for p in points if p.ours(y) is not None and p.place(x) is not None]
    xs, ys, bars = [p.place(x) for p in shown], [p.ours(y) for p in shown], [_bar(p.cells[y]) for p in shown]
    axes.plot(xs, ys, color=colour, marker=marker, zorder=3)
    if any(any(bar) for bar in bars):
        axes.errorbar(xs, ys, yerr=list(zip(*bars, strict=True)), fmt="none", ecolor=colour, elinewidth=0.7, alpha=0.6)


def draw_paper(axes: Axes, name: str, points: Sequence[Point], x: str | None, y: str) -> None:
    """A dashed curve with hollow markers of the values that the paper is known to give."""
    colour, marker = LOOKS[name]
    known = [p for p in points if p.paper(y) is not None and p.place(x) is not None]
    axes.plot(
        [p.place(x) for p in known], [p.paper(y) for p in known], color=colour, marker=marker, markersize=6,
        markerfacecolor="none", markeredgewidth=0.8, linewidth=0.7, linestyle=(0, (4, 2)), zorder=2,
    )  # fmt: skip


def draw_not_run(axes: Axes, series: Series, x: str | None, y: str, spacing: float = 0.04) -> None:
    """Crosses at the foot of the panel, one line per attention, where a network was not run.

    Args:
        spacing: between the lines, as a share of the panel's height.
    """
    if not is_missing(series, y):
        return
    low, high = axes.get_ylim()
    if all((p.ours(y) or 0.0) >= 0 for points in series.values() for p in points):
        low = max(low, 0.0)
    foot_share = spacing * (len(series) + 1)
    axes.set_ylim(low - foot_share * (high - low), high)
    # The crosses lie below the axis: no value belongs to their height.
    axes.spines["left"].set_bounds(low, high)
    for line, (name, points) in enumerate(series.items()):
        absent = [p for p in points if p.ours(y) is None and p.place(x) is not None]
        xs, missing = [p.place(x) for p in absent], [p.kernel for p in absent]
        heights = [foot_share / (1 + foot_share) * (len(series) - line) / (len(series) + 1)] * len(xs)
        foot = axes.get_xaxis_transform()
        axes.plot(xs, heights, "x", color=LOOKS[name][0], markersize=3, markeredgewidth=0.8, transform=foot)
        for place, height, size in zip(xs, heights, missing, strict=True) if x is not None else ():
            looks = {"fontsize": 5.5, "color": LOOKS[name][0], "va": "center"}
            axes.annotate(str(size), (place, height), (5, 0), foot, "offset points", **looks)


class Above(Locator):
    """The ticks of another locator that lie on the axis, not beside the crosses of networks that were not run."""

    def __init__(self, axes: Axes, inner: Locator) -> None:
        self.axes, self.inner = axes, inner
        inner.set_axis(axes.yaxis)

    def __call__(self) -> Sequence[float]:
        low, high = self.axes.spines["left"].get_bounds() or self.axes.get_ylim()
        return [tick for tick in self.inner.tick_values(low, high) if low <= tick <= high]


def is_missing(series: Series, y: str) -> bool:
    """Whether any network of the figure has no value of ours in column `y`."""
    return any(p.ours(y) is None for points in series.values() for p in points)


def is_known(series: Series, y: str) -> bool:
    """Whether the paper's value of column `y` is known for any network of the figure."""
    return any(p.paper(y) is not None for points in series.values() for p in points)


def legend(figure: Figure, series: Series, columns: Sequence[str]) -> None:
    """The figure's only legend, above the panels."""
    handles = [Line2D([], [], color=LOOKS[n][0], marker=LOOKS[n][1], label=NAMES[n]) for n in series]
    if any(is_known(series, column) for column in columns):
        hollow = {"marker": "o", "markersize": 6, "markerfacecolor": "none", "linestyle": (0, (4, 2))}
        handles.append(Line2D([], [], color=INK, marker="o", label="ours"))
        handles.append(Line2D([], [], color=INK, linewidth=0.7, label="paper", **hollow))
    if any(is_missing(series, column) for column in columns):
        handles.append(Line2D([], [], color=INK, marker="x", linestyle="", markersize=3, label="not run"))
    figure.legend(handles=handles, loc="outside upper center", ncols=len(handles), columnspacing=1.5, handletextpad=0.5)


def footer(figure: Figure, table: Table, note: str = "", words: Sequence[str] = ()) -> None:
    """Scale, data, conditions and what bars are, in small print below the panels; `words` instead of the caption's."""
    lines = [" ".join(words or facts(table)), note, error_bars(table) if figure.axes and _has_bars(figure) else ""]
    figure.supxlabel("\n".join(line for text in lines for line in balanced(text)), fontsize=6.5, color=INK)


def balanced(text: str, letters: int = FOOTER_LETTERS) -> list[str]:
    """Lines of at most `letters` characters, as few as possible and about equally long."""
    fewest = len(textwrap.wrap(text, letters))
    widths = range(max(1, len(text) // max(1, fewest)), letters + 1)
    return next((lines for lines in (textwrap.wrap(text, width) for width in widths) if len(lines) == fewest), [])


def error_bars(table: Table) -> str:
    """What bars stand for, and how many seeds are behind the values."""
    cells = [cell for cell in table.cells if any(_bar(cell))]
    several = sorted({len(cell.seeds) for cell in cells if cell.deviation is not None})
    kinds = [f"sample standard deviation over {' or '.join(map(str, several))} seeds"] if several else []
    if any(cell.deviation is None and cell.standard_error is not None for cell in cells):
        kinds.append("standard error over the images of one seed")
    kinds += [f"quartiles of repeated measurements ({name})" for name in dict.fromkeys(
        cell.column for cell in cells if cell.low is not None
    )]  # fmt: skip
    return f"Bars: {', '.join(kinds)}."


def _has_bars(figure: Figure) -> bool:
    return any(isinstance(lines, LineCollection) for axes in figure.axes for lines in axes.collections)


def _bar(cell: Cell) -> tuple[float, float]:
    if cell.low is not None and cell.high is not None and isinstance(cell.value, float):
        return cell.value - cell.low, cell.high - cell.value
    spread = cell.deviation if cell.deviation is not None else cell.standard_error
    return (spread or 0.0,) * 2
