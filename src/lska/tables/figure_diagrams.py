"""How the attention modules (Figure 2) and the networks (Figure 5) are built, from the kernel rule and the modules."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Polygon, Rectangle

from lska.evaluate.pictures import INK
from lska.models.kernels import Depthwise, KernelPlan, kernel_plan
from lska.tables.collect import Table
from lska.tables.figure_parts import (
    FRAME,
    LOOKS,
    NAMES,
    SHADE,
    STROKE,
    WIDTH,
    Place,
    arrow,
    box,
    footer,
    letter,
    page,
    path,
)

if TYPE_CHECKING:
    from torch import nn

DESIGNS = ("lka_trivial", "lska_trivial", "lka", "lska")
BLOCK = (
    "norm1 attn.proj_1 attn.activation attn.spatial_gating_unit attn.proj_2 +1 layer_scale_1 +0",
    "norm2 mlp.fc1 mlp.dwconv.dwconv mlp.act mlp.fc2 layer_scale_2 +0",
)
"""What the two halves of a block do in order: names of modules and layer scales; +n adds what the nth step gave, +0 the
half's input."""

# Inches.
MARGIN = 0.06
BOX, TALL, FIELD = 0.25, 0.6, 0.47
"""Height of a box, and of that of a depth-wise convolution; side of the field of k x k pixels in the latter."""
DESIGN, APART = 1.38, 1.71
"""Width of a design, and from one design to the next."""
RADIUS, LANE = 0.085, 0.1
"""Of the circle around a sign; from the boxes to the innermost bypass, and from one bypass to the next."""
LIST_LINE = 0.14
NOTE = (
    "Tall boxes: depth-wise convolutions with their taps (dark) in a field of k×k pixels, and what they see together "
    "with those before them (light); here d = {dilation}. Below: their kernels for each k; d2: dilation 2."
)


class Step(NamedTuple):
    """One box of a chain, by the name of its module; or a sign that takes in what step number `bypass` gave, too."""

    name: str
    words: str
    bypass: int | None = None
    part: Depthwise | None = None
    sees: tuple[int, int] = (1, 1)

    @property
    def height(self) -> float:
        """Inches."""
        return 2 * RADIUS if self.bypass is not None else TALL if self.part else BOX


def design_diagram(table: Table) -> Figure:
    """One column per attention, from the input down to the gated output, for the kernel size of the spec's options."""
    kernel, bottom = table.spec.options["kernel"], -4.6
    figure, axes = page(-bottom + LIST_LINE * (len(table.rows) + 1), foot=0.7)
    for number, name in enumerate(DESIGNS):
        left = 0.16 + number * APART
        _draw_design(axes, name, kernel, "abcd"[number], left, 0, bottom)
        for line, row in enumerate(table.rows, 1):
            kernels = str(table.cell(row.label, NAMES[name]).value).removesuffix("; 1x1")
            for long, short in (("DW ", ""), ("dilation ", "d"), ("x", "×"), ("; ", ", ")):
                kernels = kernels.replace(long, short)
            letter(axes, (left, bottom - LIST_LINE * line), f"{row.label}:  {kernels}", 5.5, ha="left")
    footer(figure, table, NOTE.format(dilation=kernel_plan("lska", kernel).dilation))
    return figure


def block_diagram(table: Table) -> Figure:
    """Stages on top; below, one block, and the attention of both networks side by side."""
    import torch

    from lska.models import create

    kernel, top, bottom = table.spec.options["kernel"], -2.1, -6.5
    with torch.device("meta"):
        network = create(table.spec.options["model"], kernel_size=kernel)
    figure, axes = page(MARGIN - bottom)
    _draw_network(axes, network)
    _draw_block(axes, network.block1[0], top, bottom)
    _draw_design(axes, "lka", kernel, "c", 3.72, top, bottom)
    _draw_design(axes, "lska", kernel, "d", 3.72 + APART, top, bottom)
    footer(figure, table)
    return figure


def gate_steps(plan: KernelPlan) -> list[Step]:
    """The gating unit: depth-wise convolutions, 1x1 convolution, product with the input."""
    steps, sees = [], (1, 1)
    for part in plan.depthwise:
        length, dilated = max(part.kernel), part.dilation > 1
        symbol = "k" if plan.dilated is None else "⌊k/d⌋" if dilated else "(2d−1)"
        sees = tuple(extent + part.dilation * (taps - 1) for extent, taps in zip(sees, part.kernel, strict=True))
        words = [_size(part.kernel), "×".join("1" if taps < length else symbol for taps in part.kernel)]
        words += [f"dilation {part.dilation}"] if dilated else []
        steps.append(Step(part.name, "\n".join([*words, f"sees {_size(sees)}"]), None, part, sees))
    return [*steps, Step("conv1", "1×1 convolution"), Step("", "x", 0)]


def block_steps(block: nn.Module) -> list[list[Step]]:
    """The halves of a block of :class:`lska.models.van.VAN` as `BLOCK` names them, in the words of their modules."""
    layers = dict(block.named_modules())
    channels = {block.mlp.fc1.in_channels: "C", block.mlp.fc1.out_channels: "rC"}

    def step(name: str) -> Step:
        layer = layers.get(name)
        if name.startswith("+"):
            return Step("", "+", int(name))
        if layer is None:
            return Step(name, "channel scale")
        if layer is block.attn.spatial_gating_unit:
            return Step(name, "LKA (c) or LSKA (d)")
        if not hasattr(layer, "kernel_size"):
            return Step(name, _layer(layer))
        before, after = channels[layer.in_channels], channels[layer.out_channels]
        kind = f"conv., {before} → {after}" if layer.groups == 1 else f"depth-wise, {after}"
        return Step(name, f"{_size(layer.kernel_size)} {kind}")

    return [[step(name) for name in half.split()] for half in BLOCK]


def _size(extents: Sequence[int]) -> str:
    return "×".join(map(str, extents))


def _draw_design(axes: Axes, attention: str, kernel: int, mark: str, left: float, top: float, bottom: float) -> None:
    """The gating unit of an attention with its kernels to scale, under a title."""
    colour, plan = LOOKS[attention][0], kernel_plan(attention, kernel)
    title = f"({mark}) {NAMES[attention]}, k = {kernel}"
    letter(axes, (left, top - 0.1), title, 8, ha="left", weight="bold", color=colour)
    letter(axes, (left + DESIGN / 2, top - 0.38), "input, C channels")
    _draw_chain(axes, gate_steps(plan), left, DESIGN, top - 0.46, bottom + 0.37, colour, ends=True)
    weights = sum(part.kernel[0] * part.kernel[1] for part in plan.depthwise)
    letter(axes, (left + DESIGN / 2, bottom + 0.2), f"output; {weights} depth-wise\nweights per channel")


def _draw_chain(
    axes: Axes, steps: Sequence[Step], left: float, width: float, top: float, bottom: float, colour: str, ends: bool
) -> None:
    """Steps from top to bottom, evenly spaced, joined by arrows, with bypasses on the right, the longer ones outside.

    ``ends`` says whether the line ends in an arrow, or is led on.
    """
    gap = (top - bottom - sum(step.height for step in steps)) / (len(steps) + 1)
    field = max(max(step.sees) for step in steps)
    middle, right, above = left + width / 2, left + width, top
    leaving = [top - 0.4 * gap]
    for step in steps:
        y = above - gap - step.height / 2
        arrow(axes, (middle, above), (middle, above - gap))
        if step.bypass is None:
            box(axes, (middle, y), (width, step.height), colour, line=0.9, name=step.name)
            place = (left + FIELD + 0.14, y) if step.part else (middle, y)
            letter(axes, place, step.words, 6, ha="left" if step.part else "center")
        else:
            axes.plot(middle, y, "o", markersize=144 * RADIUS, color="white", mec=INK, mew=STROKE)
            axes.plot(middle, y, step.words, markersize=80 * RADIUS, color=INK, mew=STROKE)
            right += LANE
            start = leaving[step.bypass]
            arrow(axes, (middle, start), (right, start), (right, y), (middle + RADIUS, y))
        if step.part:
            _draw_taps(axes, (left + 0.07 + FIELD / 2, y), step, field, colour)
        above = y - step.height / 2
        leaving.append(above - 0.4 * gap)
    (arrow if ends else path)(axes, (middle, above), (middle, bottom))


def _draw_taps(axes: Axes, place: Place, step: Step, field: int, colour: str) -> None:
    """The taps of a kernel in the field of k x k pixels, on what it sees together with those before it."""
    pixel = FIELD / field

    def draw(y: float, x: float, height: float, width: float, **looks: object) -> None:
        corner = (place[0] + (x - width / 2) * pixel, place[1] + (y - height / 2) * pixel)
        axes.add_patch(Rectangle(corner, width * pixel, height * pixel, **looks))

    draw(0, 0, field, field, facecolor="white", edgecolor="#bbbbbb", linewidth=0.4)
    draw(0, 0, *step.sees, facecolor=colour, alpha=0.18, linewidth=0)
    if step.part.dilation == 1:
        draw(0, 0, *step.part.kernel, facecolor=colour, linewidth=0)
        return
    rows, columns = ([step.part.dilation * (n - (taps - 1) / 2) for n in range(taps)] for taps in step.part.kernel)
    for y, x in itertools.product(rows, columns):
        draw(y, x, 1, 1, facecolor=colour, linewidth=0)


def _draw_block(axes: Axes, block: nn.Module, top: float, bottom: float) -> None:
    letter(axes, (MARGIN, top - 0.1), "(b) Block", 8, ha="left", weight="bold")
    width, step, first, last = 3.36, 1.18, top - 0.48, bottom + 0.37
    box(axes, (MARGIN + width / 2, (top - 0.24 + bottom) / 2), (width, top - 0.24 - bottom), FRAME, SHADE)
    one, other = MARGIN + 0.1, MARGIN + 0.1 + width / 2
    for left, steps in zip((one, other), block_steps(block), strict=True):
        _draw_chain(axes, steps, left, step, first, last, INK, ends=left == other)
    turn = other - 0.13
    path(axes, (one + step / 2, last), (turn, last), (turn, first), (other + step / 2, first))
    letter(axes, (one + step / 2, first + 0.09), "input, C channels")
    letter(axes, (other + step / 2, last - 0.1), "output, C channels")


def _draw_network(axes: Axes, network: nn.Module) -> None:
    """Image, stages with the form of their maps, classifier."""
    y, image, head, gap = -0.62, 0.44, 0.8, 0.12
    stages = [
        [getattr(network, f"{part}{number}") for part in ("patch_embed", "block", "norm")]
        for number in range(1, network.num_stages + 1)
    ]
    room = (WIDTH - 2 * MARGIN - image - head - gap) / len(stages)
    letter(axes, (MARGIN, -0.1), "(a) Network", 8, ha="left", weight="bold")
    letter(axes, (MARGIN + image / 2, y), f"image\n{stages[0][0].proj.in_channels}×H×W", 6)
    left, reduction = MARGIN + image, 1
    for number, (embedding, blocks, norm) in enumerate(stages, 1):
        conv, width = embedding.proj, room - gap
        arrow(axes, (left, y), (left + gap, y), head=5)
        left += room
        box(axes, (left - width / 2, y + 0.05), (width, 0.74), FRAME)
        letter(axes, (left - width + 0.06, y + 0.34), f"stage {number}", ha="left", weight="bold")
        at = left - width + 0.05
        words = f"{_size(conv.kernel_size)} conv.\nstride {max(conv.stride)}\n{_layer(embedding.norm)}"
        box(axes, (at + 0.25, y), (0.5, 0.48))
        letter(axes, (at + 0.25, y), words, 5.5)
        arrow(axes, (at + 0.5, y), (at + 0.58, y), head=4)
        for shift in (0.06, 0.03, 0):
            box(axes, (at + 0.73 + shift, y + 0.03 - shift), (0.3, 0.36), face=SHADE)
        letter(axes, (at + 0.73, y + 0.03), f"block\n× {len(blocks)}", 6)
        arrow(axes, (at + 0.94, y), (left - 0.19, y), head=4)
        box(axes, (left - 0.12, y), (0.14, 0.54))
        letter(axes, (left - 0.12, y), _layer(norm), 5.5, rotation=90)
        reduction *= max(conv.stride)
        sizes = (1.84 / reduction, conv.out_channels / 640)
        _draw_map(axes, (left - width / 2, -1.42), *sizes)
        ratio = blocks[0].mlp.fc1.out_channels // conv.out_channels
        form = f"C = {conv.out_channels}, r = {ratio}\nH/{reduction} × W/{reduction}"
        letter(axes, (left - width / 2, -1.88), form, 6)
    arrow(axes, (left, y), (left + gap, y), head=5)
    place = (left + gap + head / 2, y)
    box(axes, place, (head, 0.5))
    letter(axes, place, f"mean over map\nlinear\n{network.num_classes:,} classes", 6)


def _layer(module: nn.Module) -> str:
    return type(module).__name__.removesuffix("2d")


def _draw_map(axes: Axes, middle: Place, side: float, depth: float) -> None:
    """A stage's maps as a slab: their side and, as depth, their channels, to scale among the stages."""
    slant = 0.35 * side
    left, bottom = middle[0] - (depth + slant) / 2, middle[1] - (side + slant) / 2
    right, top = left + depth, bottom + side
    corners = {
        "#f2f2f2": [(left, bottom), (right, bottom), (right, top), (left, top)],
        "#e0e0e0": [(left, top), (right, top), (right + slant, top + slant), (left + slant, top + slant)],
        "#cccccc": [(right, bottom), (right + slant, bottom + slant), (right + slant, top + slant), (right, top)],
    }
    for colour, places in corners.items():
        axes.add_patch(Polygon(places, facecolor=colour, edgecolor=INK, linewidth=0.6, joinstyle="round"))
