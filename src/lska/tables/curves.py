"""Figures 1, 3 and 6: curves of the four attentions, ours filled and the paper's hollow."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from lska.tables.collect import Cell, Table

INK = "#4d4d4d"
# Okabe and Ito's colours, told apart by colour-blind readers; the marker says the same once more.
LOOKS = {
    "lka_trivial": ("#d55e00", "o"),
    "lska_trivial": ("#cc79a7", "s"),
    "lka": ("#0072b2", "^"),
    "lska": ("#009e73", "D"),
}
NAMES = {"lka_trivial": "LKA-trivial", "lska_trivial": "LSKA-trivial", "lka": "LKA", "lska": "LSKA"}
WIDE, NARROW = 7.0, 3.5
"""Inches: the text width and the column width of a two-column page."""


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
        """The paper's value, or None where none is known."""
        text = self.cells[column].paper
        return None if text is None else float(text)


def curves(table: Table) -> dict[str, list[Point]]:
    """Points of each attention by rising kernel size."""
    found: dict[str, list[Point]] = {name: [] for name in LOOKS}
    for row in table.rows:
        if row.source is not None and row.source.attention is not None and row.source.kernel is not None:
            cells = {cell.column: cell for cell in row.cells}
            found[row.source.attention].append(Point(row.source.kernel, cells))
    return {name: sorted(points, key=lambda p: p.kernel) for name, points in found.items() if points}


def draw_ours(axes: Axes, name: str, points: Sequence[Point], x: str | None, y: str) -> None:
    """A filled curve of the points that were measured; `x` is a column label, or None for the kernel size.

    Bars are the deviation over seeds, the standard error of one run, or the quartiles of repeated measurements.
    """
    colour, marker = LOOKS[name]
    shown = [(_x(p, x), p.ours(y), p.cells[y]) for p in points if p.ours(y) is not None and _x(p, x) is not None]
    xs, ys, bars = [a for a, _, _ in shown], [b for _, b, _ in shown], [_bar(cell) for _, _, cell in shown]
    axes.plot(xs, ys, color=colour, marker=marker, zorder=3)
    if any(any(bar) for bar in bars):
        axes.errorbar(xs, ys, yerr=list(zip(*bars, strict=True)), fmt="none", ecolor=colour, elinewidth=0.7, alpha=0.6)


def draw_paper(axes: Axes, name: str, points: Sequence[Point], x: str | None, y: str) -> None:
    """A dashed curve with hollow markers of the values that are known from the paper."""
    colour, marker = LOOKS[name]
    known = [p for p in points if p.paper(y) is not None]
    xs = [p.kernel if x is None else p.paper(x) for p in known]
    axes.plot(
        xs, [p.paper(y) for p in known], color=colour, marker=marker, markersize=6.5, markerfacecolor="none",
        markeredgewidth=0.8, linewidth=0.7, linestyle=(0, (4, 2)), zorder=2,
    )  # fmt: skip


def draw_not_run(axes: Axes, series: dict[str, list[Point]], x: str | None, y: str) -> None:
    """Crosses at the foot of the panel, one line per attention, where a network was not run."""
    foot = axes.get_xaxis_transform()
    for line, (name, points) in enumerate(series.items()):
        xs = [_x(p, x) for p in points if p.ours(y) is None and _x(p, x) is not None]
        height = 0.035 * (len(series) - line)
        axes.plot(xs, [height] * len(xs), "x", color=LOOKS[name][0], markersize=3, markeredgewidth=0.8, transform=foot)


def is_missing(series: dict[str, list[Point]], y: str) -> bool:
    """Whether any network of the figure has no value of ours in column `y`."""
    return any(p.ours(y) is None for points in series.values() for p in points)


def leave_foot(axes: Axes, series: dict[str, list[Point]], y: str) -> None:
    """Widen the vertical range downwards, so that crosses at the foot lie below all curves."""
    if is_missing(series, y):
        low, high = axes.get_ylim()
        axes.set_ylim(low - 0.035 * (len(series) + 1) * (high - low), high)


def legend(figure: Figure, series: dict[str, list[Point]], columns: Sequence[str], extra: Sequence[str] = ()) -> None:
    """The figure's only legend, above the panels; `extra` names curves that are not run."""
    handles = [Line2D([], [], color=LOOKS[n][0], marker=LOOKS[n][1], label=NAMES[n]) for n in series]
    handles.append(Line2D([], [], color=INK, marker="o", linestyle="", label="ours"))
    sources = {p.cells[c].paper_source for points in series.values() for p in points for c in columns} - {None}
    if sources:
        label = "counted on the official code" if sources == {"computed"} else "paper"
        hollow = {"marker": "o", "markersize": 6.5, "markerfacecolor": "none", "linestyle": (0, (4, 2))}
        handles.append(Line2D([], [], color=INK, linewidth=0.7, label=label, **hollow))
    if any(is_missing(series, column) for column in columns):
        handles.append(Line2D([], [], color=INK, marker="x", linestyle="", markersize=3, label="not run"))
    handles += [Line2D([], [], color="#999999", linestyle=":", label=f"{name} (not run)") for name in extra]
    figure.legend(handles=handles, loc="outside upper center", ncols=min(len(handles), 4 if extra else 7))


def footer(figure: Figure, table: Table) -> None:
    """Scale, data and conditions, in small print below the panels."""
    data = f"; accuracy on {', '.join(table.data)}" if table.data else ""
    text = "\n".join([table.caption + data, *table.conditions])
    figure.supxlabel(text, fontsize=6.5, color=INK)


def _x(point: Point, x: str | None) -> float | None:
    return point.kernel if x is None else point.ours(x)


def _bar(cell: Cell) -> tuple[float, float]:
    if cell.low is not None and cell.high is not None and isinstance(cell.value, float):
        return cell.value - cell.low, cell.high - cell.value
    spread = cell.deviation if cell.deviation is not None else cell.standard_error
    return (spread or 0.0,) * 2
