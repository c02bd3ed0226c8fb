"""Figure 7: how the dimensions of shape and texture are estimated, from pairs of images to a share of the neurons."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Polygon, Rectangle

from lska.data.synthetic.cue_conflict import CueConflictSettings, cue_conflict_scene
from lska.data.synthetic.render import render
from lska.data.synthetic.scene import Scene
from lska.evaluate.shape_texture import FACTORS, FORMS, Estimate, allocate, dimensions
from lska.tables.canvas import FRAME, Place, arrow, box, path, sheet, write
from lska.tables.curves import WIDTH
from lska.tables.style import INK

LOOKS = {"shape": ("#56b4e9", "///"), "texture": ("#e69f00", "..."), "residual": ("#d9d9d9", "")}
"""Colour and hatching of a factor: Okabe and Ito's colours, told apart without colour too."""
IMAGE_SIZE = 128
SHOWN = 3
"""Pairs drawn of each kind."""
DOTS = 40
"""Pairs drawn of each neuron's activations; its correlation is that of all given ones."""

# Inches.
HEIGHT = 3.72
ROWS = {"shape": -1.18, "residual": -2.065, "texture": -2.95}
"""Vertical places of the factors, pairs and scores alike."""
TITLE, CAPTION = -0.1, 0.83
"""Vertical place of the titles, and distance of a row's caption from the row."""
HALF = 0.67
"""From a row's middle to its upper and lower end."""
THUMB, THUMBS_LEFT = 0.4, 0.06
ENCODER = (1.12, 1.74)
PANELS = (2.08, 4.42)
PANEL_GAP = 0.1
SCORES = (4.78, 5.58)
SOFTMAX, BAR, LABELS = 5.8, (6.03, 6.31), 6.45
Pair = tuple[Scene, Scene]


def estimate_diagram(
    categories: Sequence[str],
    neurons: Mapping[str, np.ndarray],
    result: Estimate,
    form: str = "reference",
    foot: float = 0.0,
) -> Figure:
    """Pairs that share the shape or the texture, the encoder, activations over pairs, scores, dimensions.

    Args:
        categories: at least three classes of the generator, which the pairs are drawn with.
        neurons: for `shape` and `texture`, floats (M, P, 2): activations of the same M neurons for both images of P
            pairs that share the factor.
        result: scores, and the dimensions that they give, to be shown as the example.
        form: `reference` or `printed`, the form that `result` is of.
        foot: inches left free below the drawing, for a footer.

    Raises:
        ValueError: unknown form, too few categories, activations of another shape, or dimensions that do not follow
            from the scores.
    """
    _check(categories, neurons, result, form)
    figure, axes = sheet(HEIGHT, foot)
    size = sum(result.dimensions)
    for factor, pairs in pair_scenes(categories).items():
        _draw_pairs(axes, factor, pairs)
        _draw_activations(axes, factor, neurons[factor])
    _draw_encoder(axes, size)
    _draw_scores(axes, result, form)
    _draw_split(axes, result)
    titles = {THUMBS_LEFT: "(a) Pairs", ENCODER[0]: "(b) Encoder", PANELS[0] - 0.1: "(c) Activations over the pairs"}
    titles |= {SCORES[0]: "(d) Scores", BAR[0] - 0.1: "(e) Dimensions"}
    for left, title in titles.items():
        write(axes, (left, TITLE), title, 7.5, ha="left", weight="bold")
    axes.set(xlim=(0, WIDTH), ylim=(-HEIGHT, 0))  # images have changed them
    return figure


def pair_scenes(categories: Sequence[str]) -> dict[str, list[Pair]]:
    """By shared factor, pairs of cue-conflict scenes: one shape with two textures, one texture on two shapes.

    A texture is called by the class that it stands for, as in the generated cue-conflict set.
    """
    settings = CueConflictSettings(image_size=IMAGE_SIZE, classes=tuple(categories))

    def scene(shape: str, texture: str) -> Scene:
        return cue_conflict_scene(settings, (shape, 1, texture, 1))

    triples = [[categories[(first + step) % len(categories)] for step in range(3)] for first in range(SHOWN)]
    return {
        "shape": [(scene(shared, one), scene(shared, other)) for shared, one, other in triples],
        "texture": [(scene(one, shared), scene(other, shared)) for shared, one, other in triples],
    }


def planted_example(
    neurons: int = 256, encoding: tuple[int, int] = (120, 56), form: str = "reference", seed: int = 0
) -> tuple[dict[str, np.ndarray], Estimate]:
    """Made-up activations and the estimate made from them, as `estimate_diagram` takes them.

    Of the neurons, `encoding` gives how many follow the shape and the texture instance; the others follow neither. The
    activations are those of one neuron of each kind. Images show each of 32 shape instances with 16 texture instances.
    """
    rng = np.random.default_rng(seed)
    instances = np.indices((32, 16)).reshape(2, -1)
    features = rng.standard_normal((instances.shape[1], neurons))
    kinds = np.split(np.arange(neurons), np.cumsum(encoding))
    for codes, kind in zip(instances, kinds, strict=False):
        code = rng.standard_normal((codes.max() + 1, len(kind)))
        features[:, kind] = 0.95 * code[codes] + 0.3 * features[:, kind]
    pairs = [np.argwhere(np.triu(codes[:, None] == codes[None, :], 1)) for codes in instances]
    shown = features[:, [kind[0] for kind in kinds]]
    activations = {factor: shown[pair].transpose(2, 0, 1) for factor, pair in zip(FACTORS, pairs, strict=False)}
    return activations, dimensions(features, *pairs, resamples=1).estimates[form]


def correlation(pairs: np.ndarray) -> float:
    """Correlation of one neuron over pairs (P, 2), each taken in both orders; 0 for a constant neuron."""
    if np.ptp(pairs) == 0:
        return 0.0
    both = np.concatenate([pairs, pairs[:, ::-1]])
    return float(np.corrcoef(both.T)[0, 1])


def _check(categories: Sequence[str], neurons: Mapping[str, np.ndarray], result: Estimate, form: str) -> None:
    if form not in FORMS:
        raise ValueError(f"form: expected one of {', '.join(FORMS)}; found {form!r}")
    if len(set(categories)) < 3:
        raise ValueError(f"categories: expected at least three different ones, found {', '.join(categories)}")
    shapes = [neurons[factor].shape for factor in ("shape", "texture")]
    if any(len(shape) != 3 or shape[1] < 2 or shape[2] != 2 for shape in shapes) or shapes[0][0] != shapes[1][0]:
        raise ValueError(f"neurons: expected (neurons, pairs, 2) for both factors, found {shapes[0]} and {shapes[1]}")
    expected = tuple(allocate(np.array(result.scores), sum(result.dimensions)).tolist())
    if expected != tuple(result.dimensions):
        raise ValueError(f"result: the scores {result.scores} give the dimensions {expected}, not {result.dimensions}")


def _draw_pairs(axes: Axes, factor: str, pairs: Sequence[Pair]) -> None:
    other = {"shape": "texture", "texture": "shape"}[factor]
    middle = ROWS[factor]
    words = f"same {factor},\nother {other}"
    write(axes, (THUMBS_LEFT, middle + CAPTION), words, ha="left", va="center")
    for number, pair in enumerate(pairs):
        bottom = middle + (THUMB + 0.07) * ((len(pairs) - 1) / 2 - number) - THUMB / 2
        for side, scene in enumerate(pair):
            left = THUMBS_LEFT + side * (THUMB + 0.02)
            axes.imshow(render(scene), extent=(left, left + THUMB, bottom, bottom + THUMB))
    arrow(axes, (THUMBS_LEFT + 2 * THUMB + 0.05, middle), (ENCODER[0], middle))


def _draw_encoder(axes: Axes, neurons: int) -> None:
    left, right = ENCODER
    top, bottom = ROWS["shape"] + HALF, ROWS["texture"] - HALF
    corners = [(left, bottom), (right, bottom + 0.35), (right, top - 0.35), (left, top)]
    axes.add_patch(Polygon(corners, facecolor="#ececec", edgecolor=INK, linewidth=0.8, joinstyle="round"))
    words = f"pre-trained\nnetwork,\nlast features,\npooled\n\nN = {neurons:,}\nneurons"
    write(axes, ((left + right) / 2, (top + bottom) / 2), words, 6)


def _draw_activations(axes: Axes, factor: str, neurons: np.ndarray) -> None:
    """One panel for each neuron: its activation for the one image of a pair against that for the other."""
    room = (PANELS[1] - PANELS[0]) / len(neurons)
    side = min(room - PANEL_GAP, 0.8)
    middle = ROWS[factor]
    arrow(axes, (ENCODER[1], middle), (PANELS[0] - 0.14, middle))
    write(axes, (PANELS[0] - 0.06, middle), "other image", 5.5, rotation=90)
    for number, pairs in enumerate(neurons):
        centre = (PANELS[0] + room * number + side / 2 + 0.02, middle)
        if factor == "shape":
            name = f"neuron {chr(ord('i') + number)}"
            write(axes, (centre[0], middle + side / 2 + 0.07), name, 6, va="baseline")
        _draw_dots(axes, centre, side, pairs, LOOKS[factor][0])
        # Adding 0.0 turns a rounded -0.0 into 0.0.
        words = f"one image\nρ = {round(correlation(pairs), 2) + 0.0:.2f}".replace("-", "\N{MINUS SIGN}")
        write(axes, (centre[0], middle - side / 2 - 0.15), words, 5.5)
    arrow(axes, (PANELS[1] - 0.02, middle), (SCORES[0], middle))
    write(axes, (PANELS[1] + 0.15, middle + 0.1), "all N", 5.5)


def _draw_dots(axes: Axes, centre: Place, side: float, pairs: np.ndarray, colour: str) -> None:
    corner = (centre[0] - side / 2, centre[1] - side / 2)
    axes.add_patch(Rectangle(corner, side, side, facecolor="white", edgecolor=FRAME, linewidth=0.6))
    shown = pairs[:: max(1, len(pairs) // DOTS)][:DOTS]
    low, high = shown.min(), shown.max()
    # Both axes of a panel have one scale, or a diagonal would not mean equal activations.
    places = np.array(corner) + side * (0.08 + 0.84 * (shown - low) / (high - low or 1))
    axes.plot(*places.T, "o", markersize=2.2, color=colour, markeredgecolor=INK, markeredgewidth=0.25)


def _draw_scores(axes: Axes, result: Estimate, form: str) -> None:
    how = {"reference": "Σ cov / Σ var", "printed": "Σ ρ"}[form]
    middle, width = sum(SCORES) / 2, SCORES[1] - SCORES[0]
    for factor, score in zip(FACTORS, result.scores, strict=True):
        value = f"{score:.3g}".replace("-", "\N{MINUS SIGN}")
        words = f"residual\nset to {value}" if factor == "residual" else f"{factor}\n{how}\n= {value}"
        box(axes, (middle, ROWS[factor]), (width, 0.36 if factor == "residual" else 0.48), LOOKS[factor][0], line=1.4)
        write(axes, (middle, ROWS[factor]), words, 6)
        arrow(axes, (SCORES[1], ROWS[factor]), (SOFTMAX - 0.08, ROWS[factor]), head=5)


def _draw_split(axes: Axes, result: Estimate) -> None:
    """Softmax, and the neurons as a bar, split into the factors in the order of their rows."""
    top, bottom = ROWS["shape"] + HALF, ROWS["texture"] - HALF
    box(axes, (SOFTMAX, (top + bottom) / 2), (0.16, top - bottom))
    write(axes, (SOFTMAX, (top + bottom) / 2), "softmax × N, rounded down", 6, rotation=90)
    found, size = dict(zip(FACTORS, result.dimensions, strict=True)), sum(result.dimensions)
    arrow(axes, (SOFTMAX + 0.08, ROWS["residual"]), (BAR[0], ROWS["residual"]), head=5)
    above = top
    for factor, middle in ROWS.items():
        height = (top - bottom) * found[factor] / size
        colour, hatch = LOOKS[factor]
        looks = {"facecolor": colour, "hatch": hatch, "edgecolor": "white", "linewidth": 0}
        axes.add_patch(Rectangle((BAR[0], above - height), BAR[1] - BAR[0], height, **looks))
        path(axes, (BAR[1], above - height / 2), (LABELS - 0.04, middle))
        words = f"{factor}\n{found[factor]:,}\n{100 * found[factor] / size:.0f} %"
        write(axes, (LABELS, middle), words, ha="left")
        above -= height
    outline = {"fill": False, "edgecolor": INK, "linewidth": 0.8}
    axes.add_patch(Rectangle((BAR[0], bottom), BAR[1] - BAR[0], top - bottom, **outline))
