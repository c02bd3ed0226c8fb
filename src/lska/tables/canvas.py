"""Pencils for diagrams: a sheet measured in inches, boxes, arrows, and chains of operations with their bypasses."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Circle, FancyBboxPatch
from matplotlib.text import Text

from lska.tables.curves import WIDTH
from lska.tables.structure import Step
from lska.tables.style import INK

FRAME = "#c8c8c8"
LINE = 0.8
"""Width of strokes in points."""
LANE = 0.1
"""Inches from a chain's boxes to its innermost bypass, and from one bypass to the next."""
RADIUS = 0.085
"""Of the circle around a sign, in inches."""
SIGNS = {"product": (45, 135), "sum": (0, 90)}
"""Angles of the strokes of a sign in degrees."""
Place = tuple[float, float]


@dataclass(frozen=True)
class Column:
    """Where a chain is drawn: left edge and width of its boxes, top and bottom of its line, in inches."""

    left: float
    width: float
    top: float
    bottom: float

    @property
    def middle(self) -> float:
        """Horizontal place of the line that runs through the boxes."""
        return self.left + self.width / 2


def sheet(height: float, foot: float = 0.0) -> tuple[Figure, Axes]:
    """A figure of the page's width and axes in inches: 0 to ``WIDTH``, and from 0 at the top down to ``-height``.

    ``foot`` inches below them are left free for a footer.
    """
    figure = Figure(figsize=(WIDTH, height + foot))
    axes = figure.subplots()
    axes.set(xlim=(0, WIDTH), ylim=(-height, 0), aspect="equal", anchor="N")
    axes.axis("off")
    return figure, axes


def write(axes: Axes, place: Place, words: str, size: float = 6.5, **looks: object) -> Text:
    """Text centred at a place, unless ``looks`` says otherwise; ``size`` in points."""
    settled = {"ha": "center", "va": "center", "color": INK, "fontsize": size, "linespacing": 1.35}
    return axes.text(*place, words, **(settled | looks))


def box(axes: Axes, place: Place, size: Place, edge: str = INK, face: str = "white", line: float = LINE) -> None:
    """A box with round corners around a place; ``size`` is width and height in inches."""
    (x, y), (width, height) = place, size
    shape = f"round,pad=0,rounding_size={min(0.05, width / 4, height / 4)}"
    corner = (x - width / 2, y - height / 2)
    axes.add_patch(FancyBboxPatch(corner, width, height, shape, facecolor=face, edgecolor=edge, linewidth=line))


def circle(axes: Axes, place: Place, sign: str) -> None:
    """A circle with the sign of an operation on two inputs, `product` or `sum`."""
    axes.add_patch(Circle(place, RADIUS, facecolor="white", edgecolor=INK, linewidth=LINE, zorder=3))
    # Drawn, since a font's signs do not stand in the middle of their line.
    for angle in SIGNS[sign]:
        x, y = (0.55 * RADIUS * part for part in (math.cos(math.radians(angle)), math.sin(math.radians(angle))))
        axes.plot([place[0] - x, place[0] + x], [place[1] - y, place[1] + y], color=INK, linewidth=LINE, zorder=4)


def arrow(axes: Axes, *places: Place, head: float = 6) -> None:
    """A line through the places with a head of ``head`` points at the last."""
    path(axes, *places[:-1])
    looks = {"arrowstyle": "-|>", "color": INK, "linewidth": LINE, "shrinkA": 0, "shrinkB": 0, "mutation_scale": head}
    axes.annotate("", places[-1], places[-2], arrowprops=looks)


def path(axes: Axes, *places: Place) -> None:
    """A line through the places."""
    xs, ys = zip(*places, strict=True)
    axes.plot(xs, ys, color=INK, linewidth=LINE, solid_joinstyle="miter")


def chain(
    axes: Axes,
    column: Column,
    steps: Sequence[Step],
    height_of: Callable[[Step], float],
    draw: Callable[[int, Step, Place], None],
    ends: bool = True,
) -> None:
    """Draw steps from top to bottom, evenly spaced, joined by arrows, with bypasses on the right.

    Args:
        height_of: height of a step's drawing in inches.
        draw: draws a step, given its number from 1 and the place of its centre.
        ends: whether the line ends in an arrow, or is to be led on.
    """
    heights = [height_of(step) for step in steps]
    gap = (column.top - column.bottom - sum(heights)) / (len(steps) + 1)
    centres: list[float] = []
    leaving = [column.top - gap * 0.4]
    above = column.top
    for number, (step, height) in enumerate(zip(steps, heights, strict=True), 1):
        centres.append(above - gap - height / 2)
        arrow(axes, (column.middle, above), (column.middle, above - gap))
        draw(number, step, (column.middle, centres[-1]))
        above = centres[-1] - height / 2
        leaving.append(above - gap * 0.4)
    (arrow if ends else path)(axes, (column.middle, above), (column.middle, column.bottom))
    _bypasses(axes, column, steps, centres, leaving)


def _bypasses(
    axes: Axes, column: Column, steps: Sequence[Step], centres: Sequence[float], leaving: Sequence[float]
) -> None:
    """Lines from where a step's output leaves to the circle that takes it a second time; longer ones further out."""
    spans = [
        (number - step.bypass, number, step.bypass) for number, step in enumerate(steps) if step.bypass is not None
    ]
    for lane, (_, number, start) in enumerate(sorted(spans), 1):
        x, y = column.left + column.width + LANE * lane, centres[number]
        arrow(axes, (column.middle, leaving[start]), (x, leaving[start]), (x, y), (column.middle + RADIUS, y))
