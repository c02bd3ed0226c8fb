"""Figures 3 and 6: cost, accuracy and speed against the kernel size."""

from __future__ import annotations

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from lska.tables.collect import Table
from lska.tables.curves import (
    INK, WIDE, Point, curves, draw_not_run, draw_ours, draw_paper, footer, leave_foot, legend,
)  # fmt: skip
from lska.tables.render import heading
from lska.tables.specs import ColumnSpec

Series = dict[str, list[Point]]


def cost(table: Table) -> Figure:
    """Parameters and FLOPs over the kernel size, on logarithmic axes; pending curves are named in the legend."""
    series = curves(table)
    figure = Figure(figsize=(WIDE, 3.1))
    columns = table.spec.columns
    for axes, column in zip(figure.subplots(1, len(columns)), columns, strict=True):
        _panel(axes, series, column)
        axes.set_yscale("log")
        _plain_numbers(axes)
    pending = any(row.source is not None and row.source.spec.pending for row in table.rows)
    extra = [table.spec.options["pending_name"]] if pending else []
    legend(figure, series, [column.label for column in columns], extra)
    footer(figure, table)
    return figure


def panels(table: Table) -> Figure:
    """One panel per column, (a) to (d), over the kernel size.

    Accuracies on other data than the paper's get a panel of their own below the paper's, as the two must not be compared.
    """
    series = curves(table)
    columns = table.spec.columns
    figure = Figure(figsize=(WIDE, 5.0))
    grid = figure.add_gridspec((len(columns) + 1) // 2, 2)
    for number, column in enumerate(columns):
        place = grid[divmod(number, 2)]
        title = f"({chr(ord('a') + number)}) {heading(column)}"
        if _stands_apart(series, column):
            upper, lower = (figure.add_subplot(part) for part in place.subgridspec(2, 1))
            _panel(upper, series, column, ours=False)
            _panel(lower, series, column, paper=False)
            upper.set_xlabel("")
            upper.set_title(f"{title}, paper, ImageNet-1K", loc="left")
            lower.set_title(f"ours, {', '.join(table.data)}", loc="left")
        else:
            axes = figure.add_subplot(place)
            _panel(axes, series, column)
            axes.set_title(title, loc="left")
    legend(figure, series, [column.label for column in columns])
    footer(figure, table)
    return figure


def _stands_apart(series: Series, column: ColumnSpec) -> bool:
    cells = [point.cells[column.label] for points in series.values() for point in points]
    return any(cell.other_data for cell in cells) and any(cell.paper is not None for cell in cells)


def _panel(axes: Axes, series: Series, column: ColumnSpec, ours: bool = True, paper: bool = True) -> None:
    for name, points in series.items():
        if paper:
            draw_paper(axes, name, points, None, column.label)
        if ours:
            draw_ours(axes, name, points, None, column.label)
    if ours:
        leave_foot(axes, series, column.label)
        draw_not_run(axes, series, None, column.label)
    axes.set_xlabel("kernel size")
    axes.set_ylabel(heading(column))
    sizes = sorted({point.kernel for points in series.values() for point in points})
    axes.xaxis.set_major_locator(FixedLocator(sizes))
    axes.set_xlim(sizes[0] - 0.04 * sizes[-1], sizes[-1] * 1.04)
    known = any(p.paper(column.label) is not None for points in series.values() for p in points)
    if paper and not known:
        axes.text(0.98, 0.97, "no printed value known", transform=axes.transAxes, fontsize=6.5, color=INK, ha="right")


def _plain_numbers(axes: Axes) -> None:
    """Ticks at round numbers on a logarithmic axis that spans less than two decades."""
    low, high = axes.get_ylim()
    steps = [a * 10**b for b in (-1, 0, 1, 2, 3) for a in (1, 1.5, 2, 3, 4, 5, 7)]
    axes.yaxis.set_major_locator(FixedLocator([step for step in steps if low <= step <= high]))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
