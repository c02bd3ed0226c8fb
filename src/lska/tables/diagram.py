"""Figure 2: the four attention designs, drawn from the models' own kernel plan."""

from __future__ import annotations

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Circle, FancyBboxPatch, Rectangle

from lska.models.kernels import Depthwise, KernelPlan, kernel_plan
from lska.tables.collect import Table
from lska.tables.curves import INK, LOOKS, NAMES, WIDTH, footer

# Inches.
DESIGNS = ("lka_trivial", "lska_trivial", "lka", "lska")
COLUMN = WIDTH / len(DESIGNS)
BOX_WIDTH, BOX_HEIGHT, LINE = 1.36, 0.62, 0.14
FIELD = 0.48
"""Side of the square that stands for k x k pixels; taps are drawn to scale in it."""
DEPTHWISE_TOP, DEPTHWISE_BOTTOM, TAIL = -0.3, -3.5, -4.65
NOTE = (
    "Tall boxes: depth-wise convolutions with their taps (coloured) in a field of k×k pixels, drawn for k = {kernel}, "
    "d = {dilation}. Below: their kernels for each k; d2: dilation 2."
)


def designs(table: Table) -> Figure:
    """One column per attention, from the input down to the gated output, for the kernel size of the spec's options."""
    kernel = table.spec.options["kernel"]
    figure = Figure(figsize=(WIDTH, 5.5 + LINE * len(table.rows)))
    axes = figure.subplots()
    axes.set(xlim=(0, WIDTH), ylim=(TAIL - LINE * (len(table.rows) + 1), 0.35), aspect="equal")
    axes.axis("off")
    for number, name in enumerate(DESIGNS):
        plan = kernel_plan(name, kernel)
        left = number * COLUMN + 0.08
        axes.text(left, 0.22, f"({chr(ord('a') + number)}) {NAMES[name]}", weight="bold", color=LOOKS[name][0])
        _draw_design(axes, left, plan, kernel, LOOKS[name][0])
        _list_kernels(axes, left, table, NAMES[name])
    footer(figure, table, NOTE.format(kernel=kernel, dilation=kernel_plan("lska", kernel).dilation))
    return figure


def _draw_design(axes: Axes, left: float, plan: KernelPlan, kernel: int, colour: str) -> None:
    middle = left + BOX_WIDTH / 2
    axes.text(middle, 0, "input", ha="center", va="center", color=INK)
    parts = plan.depthwise
    room = (DEPTHWISE_TOP - DEPTHWISE_BOTTOM) / len(parts)
    above = -0.08
    for number, part in enumerate(parts):
        centre = DEPTHWISE_TOP - room * (number + 0.5)
        _arrow(axes, middle, above, centre + BOX_HEIGHT / 2)
        _box(axes, left, centre, BOX_HEIGHT, colour)
        _taps(axes, left + 0.06, centre - FIELD / 2, part, kernel, colour)
        axes.text(left + FIELD + 0.12, centre, _words(part, plan), va="center", fontsize=6, linespacing=1.4)
        above = centre - BOX_HEIGHT / 2
    _draw_tail(axes, left, above, colour)


def _draw_tail(axes: Axes, left: float, above: float, colour: str) -> None:
    """1x1 convolution, product with the input, output."""
    middle = left + BOX_WIDTH / 2
    pointwise, product = DEPTHWISE_BOTTOM - 0.2, DEPTHWISE_BOTTOM - 0.65
    _arrow(axes, middle, above, pointwise + 0.13)
    _box(axes, left, pointwise, 0.26, colour)
    axes.text(middle, pointwise, "1×1 convolution", ha="center", va="center", fontsize=6.5)
    _arrow(axes, middle, pointwise - 0.13, product + 0.1)
    axes.add_patch(Circle((middle, product), 0.1, facecolor="white", edgecolor=INK, linewidth=0.8))
    axes.text(middle, product, "×", ha="center", va="center_baseline")
    bypass = left + BOX_WIDTH + 0.1
    axes.plot([middle + 0.2, bypass, bypass], [0, 0, product], color=INK, linewidth=0.8)
    axes.annotate("", (middle + 0.1, product), (bypass, product), arrowprops=_arrow_style())
    _arrow(axes, middle, product - 0.1, product - 0.3)
    axes.text(middle, product - 0.38, "output", ha="center", va="center", color=INK)


def _words(part: Depthwise, plan: KernelPlan) -> str:
    """Size in taps, the same in the paper's symbols, and the dilation."""
    length = max(part.kernel)
    symbol = "k" if plan.dilated is None else "⌊k/d⌋" if part.dilation > 1 else "(2d−1)"
    symbols = "×".join("1" if taps < length else symbol for taps in part.kernel)
    lines = [f"{part.kernel[0]}×{part.kernel[1]}", symbols, f"dilation {part.dilation}" if part.dilation > 1 else ""]
    return "\n".join(filter(None, lines))


def _taps(axes: Axes, left: float, bottom: float, part: Depthwise, kernel: int, colour: str) -> None:
    """The taps of a kernel as squares of one pixel in a field of k x k pixels."""
    pixel = FIELD / kernel
    axes.add_patch(Rectangle((left, bottom), FIELD, FIELD, facecolor="white", edgecolor="#bbbbbb", linewidth=0.4))
    solid = part.dilation == 1
    height, width = (pixel * taps if solid else pixel for taps in part.kernel)
    for y in _starts(1 if solid else part.kernel[0], part.dilation * pixel, height):
        for x in _starts(1 if solid else part.kernel[1], part.dilation * pixel, width):
            axes.add_patch(Rectangle((left + x, bottom + y), width, height, facecolor=colour, linewidth=0))


def _starts(count: int, distance: float, length: float) -> list[float]:
    """Where `count` stretches of `length`, `distance` apart, begin when they are centred in the field."""
    return [FIELD / 2 + distance * (number - (count - 1) / 2) - length / 2 for number in range(count)]


def _box(axes: Axes, left: float, centre: float, height: float, colour: str) -> None:
    shape = "round,pad=0,rounding_size=0.05"
    place = (left, centre - height / 2)
    box = FancyBboxPatch(place, BOX_WIDTH, height, shape, facecolor="#f7f7f7", edgecolor=colour, linewidth=0.9)
    axes.add_patch(box)


def _arrow(axes: Axes, x: float, start: float, end: float) -> None:
    axes.annotate("", (x, end), (x, start), arrowprops=_arrow_style())


def _arrow_style() -> dict[str, object]:
    return {"arrowstyle": "-|>", "color": INK, "linewidth": 0.8, "shrinkA": 0, "shrinkB": 0, "mutation_scale": 6}


def _list_kernels(axes: Axes, left: float, table: Table, column: str) -> None:
    """The depth-wise kernels of every kernel size of the table, as the cells of the figure's numbers say them."""
    for number, row in enumerate(table.rows):
        layers = str(table.cell(row.label, column).value).removesuffix("; 1x1")
        for long, short in (("DW ", ""), ("dilation ", "d"), ("x", "×"), ("; ", ", ")):
            layers = layers.replace(long, short)
        axes.text(left, TAIL - LINE * (number + 1), f"{row.label}:  {layers}", fontsize=5.5, color=INK)
