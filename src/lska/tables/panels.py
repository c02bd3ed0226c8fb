"""Figures 3 and 6: cost, accuracy and speed against the kernel size."""

from __future__ import annotations

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.gridspec import SubplotSpec
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator

from lska.tables import curves as c
from lska.tables.cell_text import heading
from lska.tables.collect import Table
from lska.tables.specs import ColumnSpec

ROW, LOW_ROW, MANY = 2.5, 1.8, 3
"""Inches of a row of panels; of one where there are `MANY` or more."""


def cost(table: Table) -> Figure:
    """Parameters and FLOPs over the kernel size, on logarithmic axes."""
    series = c.curves(table)
    figure = Figure(figsize=(c.WIDTH, 3.1))
    columns = table.spec.columns
    for axes, column in zip(figure.subplots(1, len(columns)), columns, strict=True):
        _panel(axes, series, column)
        axes.set_ylabel(heading(column))
        _say_if_unknown(axes, series, column)
        axes.set_yscale("log")
        _plain_numbers(axes)
    c.legend(figure, series, [column.label for column in columns])
    c.footer(figure, table, " ".join(f"{note}." for note in table.spec.notes))
    return figure


def panels(table: Table) -> Figure:
    """One panel per column, (a) to (d), over the kernel size."""
    series = c.curves(table)
    columns = table.spec.columns
    rows = (len(columns) + 1) // 2
    figure = Figure(figsize=(c.WIDTH, 0.6 + rows * (ROW if rows < MANY else LOW_ROW)))
    grid = figure.add_gridspec(rows, 2)
    for number, column in enumerate(columns):
        title = f"({chr(ord('a') + number)}) {heading(column)}"
        if _stands_apart(series, column):
            _split_panel(figure, grid[divmod(number, 2)], series, column, title, ", ".join(table.data))
        else:
            axes = figure.add_subplot(grid[divmod(number, 2)])
            _panel(axes, series, column)
            axes.set_title(title, loc="left")
            _say_if_unknown(axes, series, column)
    c.legend(figure, series, [column.label for column in columns])
    c.footer(figure, table)
    return figure


def _say_if_unknown(axes: Axes, series: c.Series, column: ColumnSpec) -> None:
    if not c.is_known(series, column.label):
        axes.set_title("no printed value known", loc="right", fontsize=6.5, color=c.INK)


def _stands_apart(series: c.Series, column: ColumnSpec) -> bool:
    """Whether ours come from other data than the paper's, so that the two must not be compared in one panel."""
    cells = [point.cells[column.label] for points in series.values() for point in points]
    return any(cell.other_data for cell in cells) and c.is_known(series, column.label)


def _split_panel(
    figure: Figure, place: SubplotSpec, series: c.Series, column: ColumnSpec, title: str, data: str
) -> None:
    upper, lower = (figure.add_subplot(part) for part in place.subgridspec(2, 1))
    _panel(upper, series, column, ours=False)
    _panel(lower, series, column, paper=False, spacing=0.08)
    upper.set_title(f"{title}: paper, ImageNet-1K", loc="left")
    lower.set_title(f"ours, {data}", loc="left")
    upper.set_xlabel("")
    upper.tick_params(labelbottom=False)


def _panel(
    axes: Axes, series: c.Series, column: ColumnSpec, ours: bool = True, paper: bool = True, spacing: float = 0.04
) -> None:
    axes.margins(y=0.12)
    for name, points in series.items():
        if paper:
            c.draw_paper(axes, name, points, None, column.label)
        if ours:
            c.draw_ours(axes, name, points, None, column.label)
    if ours:
        c.draw_not_run(axes, series, None, column.label, spacing)
    axes.set_xlabel("kernel size")
    if _has_values(series, column, ours, paper):
        locator = MaxNLocator(nbins=6 if ours and paper else 4, steps=[1, 2, 5, 10])
        axes.yaxis.set_major_locator(c.Above(axes, locator))
        axes.yaxis.set_major_formatter(FuncFormatter(_number))
    else:
        axes.set_yticks([])
        axes.text(0.5, 0.5, "not run at this scale", ha="center", fontsize=7, color=c.INK, transform=axes.transAxes)
    sizes = sorted({point.kernel for points in series.values() for point in points})
    axes.set_xlim(sizes[0] - 0.04 * sizes[-1], sizes[-1] * 1.04)
    axes.xaxis.set_major_locator(FixedLocator(sizes))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda size, _: f"{size:g}" if size in _readable(sizes) else ""))


def _number(value: float, _: int) -> str:
    return f"{round(value, 9):,g}" if abs(value) < 1000 else f"{value:,.0f}"


def _has_values(series: c.Series, column: ColumnSpec, ours: bool, paper: bool) -> bool:
    """Whether a panel has anything to show of ours or of the paper's."""
    points = [point for points in series.values() for point in points]
    return any(ours and p.ours(column.label) is not None or paper and p.paper(column.label) is not None for p in points)


def _readable(sizes: list[int]) -> list[int]:
    """The sizes whose numbers fit side by side below the axis."""
    kept: list[int] = []
    for size in sizes:
        if not kept or size - kept[-1] >= 0.05 * sizes[-1]:
            kept.append(size)
    return kept


def _plain_numbers(axes: Axes) -> None:
    """Ticks at round numbers on a logarithmic axis that spans less than two decades."""
    low, high = axes.get_ylim()
    steps = [a * 10**b for b in (-1, 0, 1, 2, 3) for a in (1, 1.5, 2, 3, 4, 5, 7)]
    axes.yaxis.set_major_locator(FixedLocator([step for step in steps if low <= step <= high]))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
