"""Figure 5: VAN with LKA or LSKA, drawn from the modules of two networks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Polygon, Rectangle

from lska.tables.canvas import FRAME, RADIUS, SIGNS, Column, Place, arrow, box, chain, circle, path, sheet, write
from lska.tables.curves import LOOKS, NAMES, WIDTH
from lska.tables.structure import Convolution, Stage, Step, Structure, reach, segments
from lska.tables.style import INK

# Inches.
HEIGHT = 6.6
MARGIN = 0.06
FLOW = -0.62
"""Vertical place of the line from the image through the stages to the classes."""
MAPS = -1.42
LOWER = -2.2
"""Top of the opened block and of the attention modules."""
FIRST, LAST = LOWER - 0.46, -HEIGHT + 0.42
"""Ends of the lines of the lower chains."""
INPUT, HEAD, FRAME_GAP = 0.44, 0.8, 0.12
MAP_SIDE, MAP_DEPTH = 0.46, 0.4
"""Side of the largest map, and depth of the map with most channels."""
BLOCK_WIDTH, STEP_WIDTH, STEP_HEIGHT = 3.36, 1.18, 0.25
TALL, FIELD = 0.57, 0.47
"""Height of the box of a depth-wise convolution, and side of the field of k x k pixels in it."""
DROP_PATH = {"DropPath": ", drop-path"}
SHADE = "#ececec"
"""Behind whatever belongs to a block."""


def block_diagram(structure_lka: Structure, structure_lska: Structure, foot: float = 0.0) -> Figure:
    """Stages on top; below, one block, and the attention of both networks side by side.

    Args:
        structure_lka: drawn as the left attention, `structure_lska` as the right.
        foot: inches left free below the drawing, for a footer.

    Raises:
        ValueError: the networks differ in more than their attention.
    """
    pair = (structure_lka, structure_lska)
    if len({replace(s, attention="", kernel_size=0, gate=()) for s in pair}) != 1:
        raise ValueError("block_diagram: expected two networks that differ in attention and kernel size only; they do")
    figure, axes = sheet(HEIGHT, foot)
    _draw_overview(axes, structure_lka)
    _draw_block(axes, pair)
    for structure, letter, left in zip(pair, "cd", (3.72, 5.43), strict=True):
        _draw_attention(axes, structure, letter, left)
    return figure


def _draw_overview(axes: Axes, structure: Structure) -> None:
    write(axes, (MARGIN, -0.1), "(a) Network", 8, ha="left", weight="bold")
    width = (WIDTH - 2 * MARGIN - INPUT - HEAD - FRAME_GAP * (len(structure.stages) + 1)) / len(structure.stages)
    channels = structure.stages[0].embedding.channels[0]
    write(axes, (MARGIN + INPUT / 2, FLOW), f"image\n{channels}×H×W", 6)
    left = MARGIN + INPUT
    for number, stage in enumerate(structure.stages, 1):
        arrow(axes, (left, FLOW), (left + FRAME_GAP, FLOW), head=5)
        left += FRAME_GAP
        _draw_stage(axes, stage, number, left, width)
        _draw_map(axes, stage, structure.stages, left + width / 2)
        left += width
    arrow(axes, (left, FLOW), (left + FRAME_GAP, FLOW), head=5)
    pooling = {"avg": "mean over map", "max": "maximum of map"}.get(structure.pooling, f"pooling: {structure.pooling}")
    words = f"{pooling}\nlinear\n{structure.classes:,} classes"
    box(axes, (left + FRAME_GAP + HEAD / 2, FLOW), (HEAD, 0.5))
    write(axes, (left + FRAME_GAP + HEAD / 2, FLOW), words, 6)


def _draw_stage(axes: Axes, stage: Stage, number: int, left: float, width: float) -> None:
    box(axes, (left + width / 2, FLOW + 0.05), (width, 0.74), FRAME, "white")
    write(axes, (left + 0.06, FLOW + 0.34), f"stage {number}", 6.5, ha="left", weight="bold")
    pad, gap = 0.05, 0.08
    embedding, norm = 0.5, 0.14
    blocks = width - 2 * pad - 2 * gap - embedding - norm - 0.06
    at = left + pad + embedding / 2
    box(axes, (at, FLOW), (embedding, 0.48))
    first = stage.embedding
    write(axes, (at, FLOW), f"{_size(first)} conv.\nstride {first.stride}\n{stage.embedding_norm}", 5.5)
    at = left + pad + embedding + gap
    arrow(axes, (at - gap, FLOW), (at, FLOW), head=4)
    for sheet_number in (2, 1, 0):
        shift = 0.03 * sheet_number
        box(axes, (at + blocks / 2 + shift, FLOW + 0.03 - shift), (blocks, 0.36), face=SHADE)
    write(axes, (at + blocks / 2, FLOW + 0.03), f"block\n× {stage.blocks}", 6)
    at += blocks + 0.06
    arrow(axes, (at, FLOW), (at + gap, FLOW), head=4)
    box(axes, (at + gap + norm / 2, FLOW), (norm, 0.54))
    write(axes, (at + gap + norm / 2, FLOW), stage.norm, 5.5, rotation=90)


def _draw_map(axes: Axes, stage: Stage, stages: Sequence[Stage], middle: float) -> None:
    """The stage's maps as a slab: side and depth to scale among the stages."""
    side = MAP_SIDE * min(s.reduction for s in stages) / stage.reduction
    depth = MAP_DEPTH * stage.channels / max(s.channels for s in stages)
    slant = 0.35 * side
    left, bottom = middle - (depth + slant) / 2, MAPS - (side + slant) / 2
    right, top = left + depth, bottom + side
    corners = {
        "#f2f2f2": [(left, bottom), (right, bottom), (right, top), (left, top)],
        "#e0e0e0": [(left, top), (right, top), (right + slant, top + slant), (left + slant, top + slant)],
        "#cccccc": [(right, bottom), (right + slant, bottom + slant), (right + slant, top + slant), (right, top)],
    }
    for colour, places in corners.items():
        axes.add_patch(Polygon(places, facecolor=colour, edgecolor=INK, linewidth=0.6, joinstyle="round"))
    size = f"H/{stage.reduction} × W/{stage.reduction}"
    write(axes, (middle, MAPS - 0.46), f"C = {stage.channels}, r = {stage.expansion:g}\n{size}", 6)


def _draw_block(axes: Axes, pair: Sequence[Structure]) -> None:
    write(axes, (MARGIN, LOWER - 0.1), "(b) Block", 8, ha="left", weight="bold")
    pieces = segments(pair[0].block)
    top, bottom = LOWER - 0.24, -HEIGHT + MARGIN
    box(axes, (MARGIN + BLOCK_WIDTH / 2, (top + bottom) / 2), (BLOCK_WIDTH, top - bottom), FRAME, SHADE)
    left, room = MARGIN + 0.1, (BLOCK_WIDTH - 0.1) / len(pieces)
    for number, piece in enumerate(pieces):
        column = Column(left + room * number, STEP_WIDTH, FIRST, LAST)

        def draw(_: int, step: Step, place: Place) -> None:
            _draw_step(axes, step, place, pair)

        last = number + 1 == len(pieces)
        chain(axes, column, piece, _step_height, draw, ends=last)
        if not last:
            between, following = column.left + room - 0.12, column.middle + room
            path(axes, (column.middle, LAST), (between, LAST), (between, FIRST), (following, FIRST))
    write(axes, (left + STEP_WIDTH / 2, FIRST + 0.08), "input, C channels", 6.5)
    write(axes, (left + room * (len(pieces) - 1) + STEP_WIDTH / 2, LAST - 0.1), "output, C channels", 6.5)


def _step_height(step: Step) -> float:
    return 2 * RADIUS if step.kind in SIGNS else STEP_HEIGHT


def _draw_step(axes: Axes, step: Step, place: Place, pair: Sequence[Structure]) -> None:
    if step.kind in SIGNS:
        circle(axes, place, step.kind)
    elif step.kind == "gate":
        # One half in the colour of each attention, which is opened on the right.
        for side, structure in ((-1, pair[0]), (1, pair[1])):
            at, colour = (place[0] + side * (STEP_WIDTH / 4 + 0.01), place[1]), LOOKS[structure.attention][0]
            box(axes, at, (STEP_WIDTH / 2 - 0.02, STEP_HEIGHT), colour, "white", 1.2)
            write(axes, at, NAMES[structure.attention], 6.5, color=colour, weight="bold")
    else:
        box(axes, place, (STEP_WIDTH, STEP_HEIGHT))
        write(axes, place, _step_words(step, pair[0].stages[-1]), 6)


def _step_words(step: Step, stage: Stage) -> str:
    if step.convolution is None:
        return f"channel scale{DROP_PATH.get(step.layer, '')}" if step.kind == "scale" else step.layer
    before, after = (_channels(number, stage) for number in step.convolution.channels)
    kind = f"depth-wise, {after}" if step.convolution.depthwise else f"conv., {before} → {after}"
    return f"{_size(step.convolution)} {kind}"


def _channels(number: int, stage: Stage) -> str:
    """Channels in the symbols of the overview: C, or rC in the feed-forward part."""
    return {round(stage.channels * stage.expansion): "rC", stage.channels: "C"}.get(number, str(number))


def _draw_attention(axes: Axes, structure: Structure, letter: str, left: float) -> None:
    """One attention module, its depth-wise kernels drawn to scale in a field of k x k pixels."""
    colour = LOOKS[structure.attention][0]
    title = f"({letter}) {NAMES[structure.attention]}, k = {structure.kernel_size}"
    write(axes, (left, LOWER - 0.1), title, 8, ha="left", weight="bold", color=colour)
    column = Column(left, 1.38, FIRST, LAST)
    seen = [step.convolution for step in structure.gate if _is_depthwise(step)]
    field = max(reach(seen))

    def draw(number: int, step: Step, place: Place) -> None:
        if step.kind in SIGNS:
            circle(axes, place, step.kind)
            return
        box(axes, place, (column.width, _gate_height(step)), colour, line=0.9)
        if not _is_depthwise(step):
            write(axes, place, _step_words(step, structure.stages[-1]), 6)
            return
        joint = reach(seen[:number])
        at = (left + 0.07 + FIELD / 2, place[1])
        _draw_taps(axes, at, step.convolution, joint, field, colour)
        write(axes, (left + FIELD + 0.15, place[1]), _kernel_words(step.convolution, joint), 6, ha="left")

    chain(axes, column, structure.gate, _gate_height, draw)
    write(axes, (column.middle, FIRST + 0.08), "input, C channels")
    total = sum(convolution.weights_per_channel for convolution in seen)
    write(axes, (column.middle, LAST - 0.05), f"output; {total} depth-wise\nweights per channel", va="top")


def _is_depthwise(step: Step) -> bool:
    return step.convolution is not None and step.convolution.depthwise


def _gate_height(step: Step) -> float:
    return TALL if _is_depthwise(step) else _step_height(step)


def _kernel_words(convolution: Convolution, joint: tuple[int, int]) -> str:
    dilation = f"\ndilation {convolution.dilation}" if convolution.dilation > 1 else ""
    return f"{_size(convolution)}{dilation}\nsees {joint[0]}×{joint[1]}"


def _draw_taps(
    axes: Axes, place: Place, convolution: Convolution, joint: tuple[int, int], field: int, colour: str
) -> None:
    """The taps of a kernel, one square per pixel, on what it sees together with those before it."""
    pixel = FIELD / field
    corner = (place[0] - FIELD / 2, place[1] - FIELD / 2)
    axes.add_patch(Rectangle(corner, FIELD, FIELD, facecolor="white", edgecolor="#bbbbbb", linewidth=0.4))
    height, width = (pixel * extent for extent in joint)
    corner = (place[0] - width / 2, place[1] - height / 2)
    axes.add_patch(Rectangle(corner, width, height, facecolor=colour, alpha=0.18, linewidth=0))
    rows, columns = (_offsets(taps, convolution.dilation * pixel) for taps in convolution.kernel)
    for y in rows:
        for x in columns:
            corner = (place[0] + x - pixel / 2, place[1] + y - pixel / 2)
            axes.add_patch(Rectangle(corner, pixel, pixel, facecolor=colour, edgecolor=colour, linewidth=0.1))


def _offsets(taps: int, distance: float) -> list[float]:
    return [distance * (number - (taps - 1) / 2) for number in range(taps)]


def _size(convolution: Convolution) -> str:
    return f"{convolution.kernel[0]}×{convolution.kernel[1]}"
