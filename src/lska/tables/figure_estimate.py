"""Figure 7: how the dimensions of shape and texture are estimated, from pairs of images to a share of the neurons."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Polygon, Rectangle

from lska.data.synthetic.cue_conflict_images import CueConflictSettings, cue_conflict_scene
from lska.data.synthetic.render import render
from lska.data.synthetic.scene import Scene
from lska.evaluate.pictures import INK
from lska.evaluate.shape_texture import FACTORS, Estimate, dimensions
from lska.tables.cell_text import facts
from lska.tables.collect import Table
from lska.tables.figure_parts import FRAME, SHADE, STROKE, WIDTH, Place, arrow, box, footer, letter, page, path

SHARES = {"shape": ("#56b4e9", "///"), "texture": ("#e69f00", "..."), "residual": ("#d9d9d9", "")}
"""Colour and hatching of a factor: Okabe and Ito's colours, told apart without colour too."""
DOTS = 40
"""Pairs drawn of each neuron's activations; its correlation is that of all given ones."""

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
    pairs = pair_scenes(table.spec.options["categories"])
    figure, axes = page(HEIGHT)
    for factor, other in (("shape", "texture"), ("texture", "shape")):
        letter(axes, (0.06, ROWS[factor] + 0.83), f"same {factor},\nother {other}", ha="left")
        _draw_pairs(axes, pairs[factor], ROWS[factor])
        _draw_activations(axes, neurons[factor], factor)
    corners = [(1.12, BOTTOM), (1.74, BOTTOM + 0.35), (1.74, TOP - 0.35), (1.12, TOP)]
    axes.add_patch(Polygon(corners, facecolor=SHADE, edgecolor=INK, linewidth=STROKE, joinstyle="round"))
    words = f"pre-trained\nnetwork,\nlast features,\npooled\n\nN = {sum(result.dimensions):,}\nneurons"
    letter(axes, (1.43, (TOP + BOTTOM) / 2), words, 6)
    _draw_result(axes, result)
    for left, title in TITLES.items():
        letter(axes, (left, -0.1), title, 7.5, ha="left", weight="bold")
    axes.set(xlim=(0, WIDTH), ylim=(-HEIGHT, 0))  # images have changed them
    said = [*facts(table)[:1], "The activations are made up; their dimensions follow by the code of Table XII."]
    footer(figure, table, "The file with numbers beside this figure has the measured ones.", said)
    return figure


def pair_scenes(categories: Sequence[str]) -> dict[str, list[tuple[Scene, Scene]]]:
    """By shared factor, three pairs of cue-conflict scenes: one shape with two textures, one texture on two shapes.

    A texture is called by the class that it stands for, as in the generated cue-conflict set.
    """
    settings = CueConflictSettings(image_size=128, classes=tuple(categories))

    def scene(shape: str, texture: str) -> Scene:
        return cue_conflict_scene(settings, (shape, 1, texture, 1))

    triples = [[categories[(first + step) % len(categories)] for step in range(3)] for first in range(3)]
    return {
        "shape": [(scene(shared, one), scene(shared, other)) for shared, one, other in triples],
        "texture": [(scene(one, shared), scene(other, shared)) for shared, one, other in triples],
    }


def planted_example(neurons: int = 256, encoding: tuple[int, int] = (120, 56)) -> tuple[Activations, Estimate]:
    """Made-up activations of three neurons, and the estimate, in its reference form, made from all.

    Of the neurons, `encoding` gives how many follow the shape and the texture instance; the others follow neither. The
    activations are those of one neuron of each kind. Images show each of 32 shape instances with 16 texture instances.
    """
    rng = np.random.default_rng(0)
    instances = np.indices((32, 16)).reshape(2, -1)
    features = rng.standard_normal((instances.shape[1], neurons))
    kinds = np.split(np.arange(neurons), np.cumsum(encoding))
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


def _draw_pairs(axes: Axes, pairs: Sequence[tuple[Scene, Scene]], middle: float) -> None:
    for number, pair in enumerate(pairs):
        bottom = middle + (THUMB + 0.07) * ((len(pairs) - 1) / 2 - number) - THUMB / 2
        for side, scene in enumerate(pair):
            left = 0.06 + side * (THUMB + 0.02)
            axes.imshow(render(scene), extent=(left, left + THUMB, bottom, bottom + THUMB))
    arrow(axes, (0.11 + 2 * THUMB, middle), (1.12, middle))


def _draw_activations(axes: Axes, neurons: np.ndarray, factor: str) -> None:
    """One panel for each neuron: its activation for the one image of a pair against that for the other."""
    middle = ROWS[factor]
    arrow(axes, (1.74, middle), (1.94, middle))
    letter(axes, (2.02, middle), "other image", 5.5, rotation=90)
    for number, pairs in enumerate(neurons):
        centre = 2.1 + 0.78 * number + SIDE / 2
        if factor == "shape":
            letter(axes, (centre, middle + SIDE / 2 + 0.07), f"neuron {'ijk'[number]}", 6, va="baseline")
        _draw_dots(axes, (centre - SIDE / 2, middle - SIDE / 2), pairs, SHARES[factor][0])
        # Adding 0.0 turns a rounded -0.0 into 0.0.
        words = f"one image\nρ = {round(correlation(pairs), 2) + 0.0:.2f}".replace("-", "\N{MINUS SIGN}")
        letter(axes, (centre, middle - SIDE / 2 - 0.15), words, 5.5)
    arrow(axes, (4.4, middle), (4.78, middle))
    letter(axes, (4.57, middle + 0.1), "all N", 5.5)


def _draw_dots(axes: Axes, corner: Place, pairs: np.ndarray, colour: str) -> None:
    axes.add_patch(Rectangle(corner, SIDE, SIDE, facecolor="white", edgecolor=FRAME, linewidth=0.6))
    shown = pairs[:: max(1, len(pairs) // DOTS)][:DOTS]
    low, high = shown.min(), shown.max()
    # Both axes of a panel have one scale, or a diagonal would not mean equal activations.
    places = np.array(corner) + SIDE * (0.08 + 0.84 * (shown - low) / (high - low))
    axes.plot(*places.T, "o", markersize=2.2, color=colour, markeredgecolor=INK, markeredgewidth=0.25)


def _draw_result(axes: Axes, result: Estimate) -> None:
    """Scores, softmax, and the neurons as a bar, split into the factors in the order of their rows."""
    for factor, score in zip(FACTORS, result.scores, strict=True):
        y, fixed = ROWS[factor], factor == "residual"
        words = f"residual\nset to {score:.3g}" if fixed else f"{factor}\nΣ cov / Σ var\n= {score:.3g}"
        box(axes, (5.18, y), (0.8, 0.36 if fixed else 0.48), SHARES[factor][0], line=1.4)
        letter(axes, (5.18, y), words, 6)
        arrow(axes, (5.58, y), (5.72, y), head=5)
    box(axes, (5.8, (TOP + BOTTOM) / 2), (0.16, TOP - BOTTOM))
    letter(axes, (5.8, (TOP + BOTTOM) / 2), "softmax × N, rounded down", 6, rotation=90)
    arrow(axes, (5.88, ROWS["residual"]), (6.03, ROWS["residual"]), head=5)
    found, above = dict(zip(FACTORS, result.dimensions, strict=True)), TOP
    for factor, y in ROWS.items():
        share = found[factor] / sum(result.dimensions)
        height = (TOP - BOTTOM) * share
        looks = dict(zip(("facecolor", "hatch"), SHARES[factor], strict=True))
        axes.add_patch(Rectangle((6.03, above - height), 0.28, height, edgecolor="white", linewidth=0, **looks))
        path(axes, (6.31, above - height / 2), (6.41, y))
        letter(axes, (6.45, y), f"{factor}\n{found[factor]:,}\n{100 * share:.0f} %", ha="left")
        above -= height
    axes.add_patch(Rectangle((6.03, BOTTOM), 0.28, TOP - BOTTOM, fill=False, edgecolor=INK, linewidth=STROKE))
