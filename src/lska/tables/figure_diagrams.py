"""How the attention modules (Figure 2) and the networks (Figure 5) are built, from the kernel rule and the modules; and
how dimensions of shape and texture are estimated (Figure 7), from pairs of images to a share of the neurons."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch, Polygon, Rectangle

from lska.data.synthetic.inspection_sets import CueConflictSettings, cue_conflict_scene
from lska.data.synthetic.render import render
from lska.evaluate.pictures import INK
from lska.evaluate.shape_texture import FACTORS, Estimate, dimensions
from lska.models.kernels import Depthwise, KernelPlan, kernel_plan
from lska.tables.cell_text import facts
from lska.tables.collect import Table
from lska.tables.figure_parts import LOOKS, NAMES, SMALL, WIDTH, footer

if TYPE_CHECKING:
    from torch import nn

FRAME, SHADE = "#c8c8c8", "#ececec"
STROKE = 0.8
"""Points."""
FOOT = 0.45
"""Inches that a diagram leaves free for the small print."""

Place = tuple[float, float]

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
    figure, axes = _page(-bottom + LIST_LINE * (len(table.rows) + 1), foot=0.7)
    for number, name in enumerate(DESIGNS):
        left = 0.16 + number * APART
        _draw_design(axes, name, kernel, "abcd"[number], left, 0, bottom)
        for line, row in enumerate(table.rows, 1):
            kernels = str(table.cell(row.label, NAMES[name]).value).removesuffix("; 1x1")
            for long, short in (("DW ", ""), ("dilation ", "d"), ("x", "×"), ("; ", ", ")):
                kernels = kernels.replace(long, short)
            _letter(axes, (left, bottom - LIST_LINE * line), f"{row.label}:  {kernels}", 5.5, ha="left")
    footer(figure, table, NOTE.format(dilation=kernel_plan("lska", kernel).dilation))
    return figure


def block_diagram(table: Table) -> Figure:
    """Stages on top; below, one block, and the attention of both networks side by side."""
    import torch

    from lska.models import create

    kernel, top, bottom = table.spec.options["kernel"], -2.1, -6.5
    with torch.device("meta"):
        network = create(table.spec.options["model"], kernel_size=kernel)
    figure, axes = _page(MARGIN - bottom)
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
    _letter(axes, (left, top - 0.1), title, 8, ha="left", weight="bold", color=colour)
    _letter(axes, (left + DESIGN / 2, top - 0.38), "input, C channels")
    _draw_chain(axes, gate_steps(plan), left, DESIGN, top - 0.46, bottom + 0.37, colour, ends=True)
    weights = sum(part.kernel[0] * part.kernel[1] for part in plan.depthwise)
    _letter(axes, (left + DESIGN / 2, bottom + 0.2), f"output; {weights} depth-wise\nweights per channel")


def _draw_chain(
    axes: Axes, steps: Sequence[Step], left: float, width: float, top: float, bottom: float, colour: str, ends: bool
) -> None:
    """Steps from top to bottom, evenly spaced, joined by arrows, with bypasses on the right, the longer ones outside.

    `ends` says whether the line ends in an arrow, or is led on.
    """
    gap = (top - bottom - sum(step.height for step in steps)) / (len(steps) + 1)
    field = max(max(step.sees) for step in steps)
    middle, right, above = left + width / 2, left + width, top
    leaving = [top - 0.4 * gap]
    for step in steps:
        y = above - gap - step.height / 2
        _arrow(axes, (middle, above), (middle, above - gap))
        if step.bypass is None:
            _box(axes, (middle, y), (width, step.height), colour, line=0.9, name=step.name)
            place = (left + FIELD + 0.14, y) if step.part else (middle, y)
            _letter(axes, place, step.words, 6, ha="left" if step.part else "center")
        else:
            axes.plot(middle, y, "o", markersize=144 * RADIUS, color="white", mec=INK, mew=STROKE)
            axes.plot(middle, y, step.words, markersize=80 * RADIUS, color=INK, mew=STROKE)
            right += LANE
            start = leaving[step.bypass]
            _arrow(axes, (middle, start), (right, start), (right, y), (middle + RADIUS, y))
        if step.part:
            _draw_taps(axes, (left + 0.07 + FIELD / 2, y), step, field, colour)
        above = y - step.height / 2
        leaving.append(above - 0.4 * gap)
    (_arrow if ends else _path)(axes, (middle, above), (middle, bottom))


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
    _letter(axes, (MARGIN, top - 0.1), "(b) Block", 8, ha="left", weight="bold")
    width, step, first, last = 3.36, 1.18, top - 0.48, bottom + 0.37
    _box(axes, (MARGIN + width / 2, (top - 0.24 + bottom) / 2), (width, top - 0.24 - bottom), FRAME, SHADE)
    one, other = MARGIN + 0.1, MARGIN + 0.1 + width / 2
    for left, steps in zip((one, other), block_steps(block), strict=True):
        _draw_chain(axes, steps, left, step, first, last, INK, ends=left == other)
    turn = other - 0.13
    _path(axes, (one + step / 2, last), (turn, last), (turn, first), (other + step / 2, first))
    _letter(axes, (one + step / 2, first + 0.09), "input, C channels")
    _letter(axes, (other + step / 2, last - 0.1), "output, C channels")


def _draw_network(axes: Axes, network: nn.Module) -> None:
    """Image, stages with the form of their maps, classifier."""
    y, image, head, gap = -0.62, 0.44, 0.8, 0.12
    stages = [
        [getattr(network, f"{part}{number}") for part in ("patch_embed", "block", "norm")]
        for number in range(1, network.num_stages + 1)
    ]
    room = (WIDTH - 2 * MARGIN - image - head - gap) / len(stages)
    _letter(axes, (MARGIN, -0.1), "(a) Network", 8, ha="left", weight="bold")
    _letter(axes, (MARGIN + image / 2, y), f"image\n{stages[0][0].proj.in_channels}×H×W", 6)
    left, reduction = MARGIN + image, 1
    for number, (embedding, blocks, norm) in enumerate(stages, 1):
        conv, width = embedding.proj, room - gap
        _arrow(axes, (left, y), (left + gap, y), head=5)
        left += room
        _box(axes, (left - width / 2, y + 0.05), (width, 0.74), FRAME)
        _letter(axes, (left - width + 0.06, y + 0.34), f"stage {number}", ha="left", weight="bold")
        at = left - width + 0.05
        words = f"{_size(conv.kernel_size)} conv.\nstride {max(conv.stride)}\n{_layer(embedding.norm)}"
        _box(axes, (at + 0.25, y), (0.5, 0.48))
        _letter(axes, (at + 0.25, y), words, 5.5)
        _arrow(axes, (at + 0.5, y), (at + 0.58, y), head=4)
        for shift in (0.06, 0.03, 0):
            _box(axes, (at + 0.73 + shift, y + 0.03 - shift), (0.3, 0.36), face=SHADE)
        _letter(axes, (at + 0.73, y + 0.03), f"block\n× {len(blocks)}", 6)
        _arrow(axes, (at + 0.94, y), (left - 0.19, y), head=4)
        _box(axes, (left - 0.12, y), (0.14, 0.54))
        _letter(axes, (left - 0.12, y), _layer(norm), 5.5, rotation=90)
        reduction *= max(conv.stride)
        sizes = (1.84 / reduction, conv.out_channels / 640)
        _draw_map(axes, (left - width / 2, -1.42), *sizes)
        ratio = blocks[0].mlp.fc1.out_channels // conv.out_channels
        form = f"C = {conv.out_channels}, r = {ratio}\nH/{reduction} × W/{reduction}"
        _letter(axes, (left - width / 2, -1.88), form, 6)
    _arrow(axes, (left, y), (left + gap, y), head=5)
    place = (left + gap + head / 2, y)
    _box(axes, place, (head, 0.5))
    _letter(axes, place, f"mean over map\nlinear\n{network.num_classes:,} classes", 6)


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


# Figure 7: the estimate of dimensions.

SHARES = {"shape": ("#56b4e9", "///"), "texture": ("#e69f00", "..."), "residual": ("#d9d9d9", "")}
"""Colour and hatching of a factor: Okabe and Ito's colours, told apart without colour too."""
DOTS = 40
"""Pairs drawn of each neuron's activations, chosen at random; its correlation is that of all given ones."""

# Inches.
HEIGHT = 3.72
ROWS = {"shape": -1.18, "residual": -2.065, "texture": -2.95}
"""Vertical places of the factors: of their pairs, activations and scores."""
TOP, BOTTOM = ROWS["shape"] + 0.67, ROWS["texture"] - 0.67
THUMB, SIDE = 0.4, 0.68
"""Sides of a small image and of a panel of activations."""
TITLES = {
    0.06: "(a) Pairs", 1.12: "(b) Encoder", 1.98: "(c) Activations over the pairs", 4.78: "(d) Scores",
    5.93: "(e) Dimensions",
}  # fmt: skip

Activations = dict[str, np.ndarray]
"""For shape and texture, floats (M, P, 2): of the same M neurons for both images of P pairs that share the factor."""


def estimate_diagram(table: Table) -> Figure:
    """Pairs that share the shape or the texture, the encoder, activations over pairs, scores, dimensions."""
    neurons, result = planted_example()
    figure, axes = _page(HEIGHT)
    for factor, other in (("shape", "texture"), ("texture", "shape")):
        _letter(axes, (0.06, ROWS[factor] + 0.83), f"same {factor},\nother {other}", ha="left")
        _draw_pairs(axes, factor, table.spec.options["categories"])
        _draw_activations(axes, neurons[factor], factor)
    corners = [(1.12, BOTTOM), (1.74, BOTTOM + 0.35), (1.74, TOP - 0.35), (1.12, TOP)]
    axes.add_patch(Polygon(corners, facecolor=SHADE, edgecolor=INK, linewidth=STROKE, joinstyle="round"))
    words = f"pre-trained\nnetwork,\nlast features,\npooled\n\nN = {sum(result.dimensions):,}\nneurons"
    _letter(axes, (1.43, (TOP + BOTTOM) / 2), words, 6)
    _draw_result(axes, result)
    for left, title in TITLES.items():
        _letter(axes, (left, -0.1), title, 7.5, ha="left", weight="bold")
    axes.set(xlim=(0, WIDTH), ylim=(-HEIGHT, 0))  # images have changed them
    said = [*facts(table)[:1], "The activations are made up; their dimensions follow by the code of Table XII."]
    footer(figure, table, "The file with numbers beside this figure has the measured ones.", said)
    return figure


def planted_example() -> tuple[Activations, Estimate]:
    """Made-up activations of three neurons, and the estimate, in its reference form, made from all 256.

    Of these, 120 follow the shape instance and 56 the texture instance; the others follow neither. The activations are
    those of one neuron of each kind. Images show each of 32 shape instances with 16 texture instances.
    """
    rng = np.random.default_rng(0)
    instances = np.indices((32, 16)).reshape(2, -1)
    features = rng.standard_normal((instances.shape[1], 256))
    kinds = np.split(np.arange(256), np.cumsum((120, 56)))
    for codes, kind in zip(instances, kinds, strict=False):
        code = rng.standard_normal((codes.max() + 1, len(kind)))
        features[:, kind] = 0.95 * code[codes] + 0.3 * features[:, kind]
    pairs = [np.argwhere(np.triu(codes[:, None] == codes[None, :], 1)) for codes in instances]
    shown = features[:, [kind[0] for kind in kinds]]
    activations = {factor: shown[pair].transpose(2, 0, 1) for factor, pair in zip(FACTORS, pairs, strict=False)}
    return activations, dimensions(features, *pairs, resamples=1).estimates["reference"]


def correlation(pairs: np.ndarray) -> float:
    """Correlation of one neuron over pairs (P, 2), each taken in both orders."""
    return float(np.corrcoef(np.concatenate([pairs, pairs[:, ::-1]]).T)[0, 1])


def _draw_pairs(axes: Axes, factor: str, categories: Sequence[str]) -> None:
    """Three pairs of images: one shape with two textures, or one texture on two shapes. A texture is called by the
    class that it stands for, as in the generated cue-conflict set."""
    settings, middle = CueConflictSettings(image_size=128, classes=tuple(categories)), ROWS[factor]
    for number in range(3):
        shared, *others = (categories[(number + step) % len(categories)] for step in range(3))
        bottom = middle + (THUMB + 0.07) * (1 - number) - THUMB / 2
        for side, other in enumerate(others):
            shape, texture = (shared, other) if factor == "shape" else (other, shared)
            image = render(cue_conflict_scene(settings, (shape, 1, texture, 1)))
            left = 0.06 + side * (THUMB + 0.02)
            axes.imshow(image, extent=(left, left + THUMB, bottom, bottom + THUMB))
    _arrow(axes, (0.11 + 2 * THUMB, middle), (1.12, middle))


def _draw_activations(axes: Axes, neurons: np.ndarray, factor: str) -> None:
    """One panel for each neuron: its activation for the one image of a pair against that for the other."""
    middle, rng = ROWS[factor], np.random.default_rng(0)
    # Pairs are listed by their images: every n-th would show few instances of the other factor, again and again.
    drawn = rng.choice(neurons.shape[1], min(DOTS, neurons.shape[1]), replace=False)
    # Either image is the one or the other, as in the correlation.
    swapped = rng.random(len(drawn)) < 0.5
    _arrow(axes, (1.74, middle), (1.94, middle))
    _letter(axes, (2.02, middle), "other image", 5.5, rotation=90)
    for number, pairs in enumerate(neurons):
        centre = 2.1 + 0.78 * number + SIDE / 2
        left, bottom = centre - SIDE / 2, middle - SIDE / 2
        if factor == "shape":
            _letter(axes, (centre, middle + SIDE / 2 + 0.07), f"neuron {'ijk'[number]}", 6, va="baseline")
        axes.add_patch(Rectangle((left, bottom), SIDE, SIDE, facecolor="white", edgecolor=FRAME, linewidth=0.6))
        shown = np.where(swapped[:, None], pairs[drawn, ::-1], pairs[drawn])
        # Both axes of a panel have one scale, or a diagonal would not mean equal activations.
        places = np.array((left, bottom)) + SIDE * (0.08 + 0.84 * (shown - shown.min()) / (shown.max() - shown.min()))
        looks = {"color": SHARES[factor][0], "markeredgecolor": INK, "markeredgewidth": 0.25}
        axes.plot(*places.T, "o", markersize=2.2, **looks)
        # Adding 0.0 turns a rounded -0.0 into 0.0.
        words = f"one image\nρ = {round(correlation(pairs), 2) + 0.0:.2f}".replace("-", "\N{MINUS SIGN}")
        _letter(axes, (centre, middle - SIDE / 2 - 0.15), words, 5.5)
    _arrow(axes, (4.4, middle), (4.78, middle))
    _letter(axes, (4.57, middle + 0.1), "all N", 5.5)


def _draw_result(axes: Axes, result: Estimate) -> None:
    """Scores, softmax, and the neurons as a bar, split into the factors in the order of their rows."""
    for factor, score in zip(FACTORS, result.scores, strict=True):
        y, fixed = ROWS[factor], factor == "residual"
        words = f"residual\nset to {score:.3g}" if fixed else f"{factor}\nΣ cov / Σ var\n= {score:.3g}"
        _box(axes, (5.18, y), (0.8, 0.36 if fixed else 0.48), SHARES[factor][0], line=1.4)
        _letter(axes, (5.18, y), words, 6)
        _arrow(axes, (5.58, y), (5.72, y), head=5)
    _box(axes, (5.8, (TOP + BOTTOM) / 2), (0.16, TOP - BOTTOM))
    _letter(axes, (5.8, (TOP + BOTTOM) / 2), "softmax × N, rounded down", 6, rotation=90)
    _arrow(axes, (5.88, ROWS["residual"]), (6.03, ROWS["residual"]), head=5)
    found, above = dict(zip(FACTORS, result.dimensions, strict=True)), TOP
    for factor, y in ROWS.items():
        share = found[factor] / sum(result.dimensions)
        height = (TOP - BOTTOM) * share
        looks = dict(zip(("facecolor", "hatch"), SHARES[factor], strict=True))
        axes.add_patch(Rectangle((6.03, above - height), 0.28, height, edgecolor="white", linewidth=0, **looks))
        _path(axes, (6.31, above - height / 2), (6.41, y))
        _letter(axes, (6.45, y), f"{factor}\n{found[factor]:,}\n{100 * share:.0f} %", ha="left")
        above -= height
    axes.add_patch(Rectangle((6.03, BOTTOM), 0.28, TOP - BOTTOM, fill=False, edgecolor=INK, linewidth=STROKE))


# Pencils for diagrams that are measured in inches.


def _page(height: float, foot: float = FOOT) -> tuple[Figure, Axes]:
    """A figure of the page's width and axes in inches: 0 to `WIDTH`, and from 0 at the top down to `-height`.

    `foot` inches below them are left free for a footer.
    """
    figure = Figure(figsize=(WIDTH, height + foot))
    axes = figure.subplots()
    axes.set(xlim=(0, WIDTH), ylim=(-height, 0), aspect="equal", anchor="N")
    axes.axis("off")
    return figure, axes


def _letter(axes: Axes, place: Place, words: str, size: float = SMALL, **looks: object) -> None:
    """Text centred at a place, unless `looks` says otherwise; `size` in points."""
    settled = {"ha": "center", "va": "center", "color": INK, "fontsize": size, "linespacing": 1.35}
    axes.text(*place, words, **(settled | looks))


def _box(
    axes: Axes, place: Place, size: Place, edge: str = INK, face: str = "white", line: float = STROKE, name: str = ""
) -> None:
    """A box with round corners around a place; `size` is width and height in inches, `name` its artist's label."""
    (x, y), (width, height) = place, size
    shape = f"round,pad=0,rounding_size={min(0.05, width / 4, height / 4)}"
    looks = {"facecolor": face, "edgecolor": edge, "linewidth": line, "label": name}
    axes.add_patch(FancyBboxPatch((x - width / 2, y - height / 2), width, height, shape, **looks))


def _path(axes: Axes, *places: Place) -> None:
    """A line through the places."""
    xs, ys = zip(*places, strict=True)
    axes.plot(xs, ys, color=INK, linewidth=STROKE, solid_joinstyle="miter")


def _arrow(axes: Axes, *places: Place, head: float = 6) -> None:
    """A line through the places with a head of `head` points at the last."""
    _path(axes, *places[:-1])
    looks = {"arrowstyle": "-|>", "color": INK, "linewidth": STROKE, "shrinkA": 0, "shrinkB": 0, "mutation_scale": head}
    axes.annotate("", places[-1], places[-2], arrowprops=looks)
