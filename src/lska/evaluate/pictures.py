"""Pictures beside the numbers: sample predictions with their ground truth, and what perturbed sets look like.

Also what all drawings share: their style, their ink, and one colour per class.
"""

from __future__ import annotations

import io
import itertools
import textwrap
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle
from matplotlib.patheffects import withStroke
from PIL import Image

from lska.data.decoding import IGNORED, decode
from lska.data.folders import Split
from lska.data.perturbed.names import FAMILIES, SEVERITIES
from lska.data.perturbed.parts import Part, open_parts
from lska.provenance.files import atomic_path
from lska.settings.tasks import PerturbedSet

INK = "#4d4d4d"
STYLE = {
    "font.size": 8,
    "axes.titlesize": 8,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "legend.frameon": False,
    "lines.linewidth": 1.1,
    "lines.markersize": 4,
    "figure.constrained_layout.use": True,
    "pdf.fonttype": 42,
    "svg.fonttype": "none",
    "svg.hashsalt": "lska",
    "text.parse_math": False,
}
"""Readable at the width of a column. Text stays text: PDF files embed its fonts, SVG files take the reader's. Ids in
SVG files do not depend on chance, and dollar signs are no formulas."""

LIMIT = 400_000
"""Bytes of a sheet; photographs are drawn with fewer pixels until they fit."""
WIDTH, GAP, LINE, DPI = 9.0, 0.06, 0.17, 180
"""Of a sheet: inches of its width, between panels, and of a line of text; its resolution."""
TITLE_LETTERS = 130
"""Letters that fit into a line of the caption."""
FONT, TITLE, SMALL = 5.5, 7, 6.5
"""Points: names at boxes, titles of panels, legend and note."""

SCORE, MOST, CROWD = 0.3, 20, 10
"""Least score of a prediction that is drawn, most predictions per image, and the number of objects beyond which boxes
carry no names, which would hide the image."""
NOTE = (
    f"Drawn are predictions with a score of at least {SCORE:g}, and at most {MOST} per image. "
    f"Beyond {CROWD} objects, only colours name the classes."
)
ACROSS, LABEL = 10, 1.4
"""Of a perturbed set: images in a row of classes, and inches for the name of a corruption."""

# Okabe and Ito's eight, and twelve that stay apart from these and each other in normal and in red- and green-blind
# vision (distance in CIELAB of at least 11), chosen greedily.
COLOURS = (
    "#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#f0e442", "#333333", "#f8f3aa", "#5c4000",
    "#332288", "#00446b", "#117733", "#ecb78c", "#666666", "#cab2d6", "#999933", "#346c8c", "#fb9a99", "#aa4b00",
)  # fmt: skip
SHADES = ((1.0, 0.0), (0.5, 1.0), (0.45, 0.0))
"""Share of the colour, and the grey (0 to 1) of the rest, in each further round through the colours."""
GREY = (217 / 255,) * 3

Colour = tuple[float, float, float]


@contextmanager
def styled() -> Iterator[None]:
    """Draw in this style, whatever a user's settings are, and leave those as they were."""
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(STYLE)
        yield


def class_colour(index: int) -> Colour:
    """The colour of a class, RGB from 0 to 1: told apart for 20 classes, then lighter, then darker ones of the same."""
    share, grey = SHADES[index // len(COLOURS) % len(SHADES)]
    mixed = (share * part + (1 - share) * grey for part in to_rgb(COLOURS[index % len(COLOURS)]))
    red, green, blue = (round(255 * part) / 255 for part in mixed)
    return red, green, blue


# --- Sample predictions ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Instances:
    """Objects of one image, true or predicted: boxes float (n, 4) as x_min, y_min, x_max, y_max in pixels, labels int
    (n,), scores float (n,) of predictions, masks bool (n, height, width) if any."""

    boxes: np.ndarray
    labels: np.ndarray
    scores: np.ndarray | None = None
    masks: np.ndarray | None = None


def detection_sheet(
    images: Sequence[np.ndarray], truths: Sequence[Instances], predictions: Sequence[Instances],
    classes: Sequence[str], path: Path, caption: str,
) -> None:  # fmt: skip
    """Draw true and predicted boxes, and masks where there are some, side by side; write a PNG atomically.

    Predictions with a score below `SCORE` are left out, and all but the `MOST` best ones; the sheet says so.

    `images` are uint8 (height, width, 3) each, of any sizes, about six; `classes` names in the order of the labels;
    `caption` says what the sheet shows: scale, task and network.
    """
    best = []
    for items in predictions:
        order = np.argsort(-items.scores, kind="stable")[:MOST]
        kept = order[items.scores[order] >= SCORE]
        masks = None if items.masks is None else items.masks[kept]
        best.append(Instances(np.reshape(items.boxes, (-1, 4))[kept], items.labels[kept], items.scores[kept], masks))
    with styled():
        legend = _legend([items.labels for items in (*truths, *best)], classes)
        figure, panels = _sheet(images, ("ground truth", "prediction"), caption, legend, NOTE)
        for image, axes, *shown in zip(images, panels, truths, best, strict=True):
            for panel, items in zip(axes, shown, strict=True):
                _show(panel, image)
                _draw_instances(panel, items, classes)
            if not len(shown[1].labels):
                box = {"boxstyle": "square,pad=0.2", "facecolor": "white", "edgecolor": "none", "alpha": 0.85}
                axes[1].text(
                    0.5, 0.5, f"no score of {SCORE:g} or more", transform=axes[1].transAxes, ha="center", va="center",
                    fontsize=FONT, color=INK, bbox=box,
                )  # fmt: skip
        _save(figure, path, legend.values())


def segmentation_sheet(
    images: Sequence[np.ndarray], truths: Sequence[np.ndarray], predictions: Sequence[np.ndarray],
    classes: Sequence[str], path: Path, caption: str,
) -> None:  # fmt: skip
    """Draw images, true and predicted label maps side by side over a legend; write a PNG atomically.

    Label maps are int (height, width): class indices, `IGNORED` where nothing is scored; the rest as `detection_sheet`.
    """
    with styled():
        legend = _legend([*truths, *predictions], classes)
        figure, panels = _sheet(images, ("image", "ground truth", "prediction"), caption, legend)
        palette = np.round(255 * np.array([*map(class_colour, range(IGNORED)), GREY])).astype(np.uint8)
        for image, axes, *labels in zip(images, panels, truths, predictions, strict=True):
            for panel, shown in zip(axes, (image, *(palette[found] for found in labels)), strict=True):
                _show(panel, shown)
        _save(figure, path, legend.values())


def _legend(arrays: Iterable[np.ndarray], classes: Sequence[str]) -> dict[str, Colour]:
    """The classes that occur, in their order, with their colours."""
    found = sorted(set().union(*(np.unique(array).tolist() for array in arrays)))
    names = {classes[index]: class_colour(index) for index in found if index != IGNORED}
    return names | ({"not scored": GREY} if IGNORED in found else {})


def _draw_instances(axes: Axes, items: Instances, classes: Sequence[str]) -> None:
    """Large objects first, so that small ones stay visible; names last."""
    boxes, colours = np.reshape(items.boxes, (-1, 4)), [class_colour(int(label)) for label in items.labels]
    order = np.argsort(-np.prod(boxes[:, 2:] - boxes[:, :2], axis=1), kind="stable")
    for number in order:
        left, top, right, bottom = boxes[number]
        if items.masks is not None:
            mask = items.masks[number]
            layer = np.where(mask[..., None], (*colours[number], 0.5), 0.0)
            axes.imshow(layer, extent=(0, mask.shape[1], mask.shape[0], 0), interpolation="nearest")
        halo = [withStroke(linewidth=2.0, foreground="white")]
        looks = {"fill": False, "edgecolor": colours[number], "linewidth": 1.1, "path_effects": halo}
        axes.add_patch(Rectangle((left, top), right - left, bottom - top, **looks))
    (_, width), (height, _) = axes.get_xlim(), axes.get_ylim()
    line = 1.5 * FONT / 72 / (axes.get_position().width * WIDTH) * width
    for number in order:
        words = [classes[items.labels[number]]] if len(order) <= CROWD else []
        words += [] if items.scores is None else [f"{items.scores[number]:.2f}"]
        if not words:
            continue
        # Above the box where there is room, otherwise within it; from its right corner in the right half of the image.
        box, (red, green, blue) = boxes[number], colours[number]
        to_right = box[0] + box[2] > width
        axes.text(
            min(box[2], width) if to_right else max(box[0], 0), np.clip(box[1], line, height), " ".join(words),
            fontsize=FONT, ha="right" if to_right else "left", va="bottom", clip_on=True,
            color="black" if 0.299 * red + 0.587 * green + 0.114 * blue > 0.45 else "white",
            bbox={"boxstyle": "square,pad=0.12", "facecolor": colours[number], "edgecolor": "none"},
        )  # fmt: skip


def _sheet(
    images: Sequence[np.ndarray], titles: Sequence[str], caption: str, legend: dict[str, Colour], note: str = ""
) -> tuple[Figure, list[list[Axes]]]:
    """A sheet with legend and note, and for each image a row of panels, one per title; two images share a row."""
    across = min(2, len(images))
    width = (WIDTH - GAP * across * (len(titles) + 2)) / (across * len(titles))
    height = width * max(image.shape[0] / image.shape[1] for image in images)
    lines = textwrap.wrap(caption, TITLE_LETTERS)
    head = LINE * (len(lines) + 1.4)
    # Names beside each other: about 3.6 points a letter, and 28 for patch and gaps.
    columns = max(1, min(10, int(WIDTH * 72 / (3.6 * max(map(len, legend), default=0) + 28))))
    below = LINE if note else 0.0
    foot = 1.45 * SMALL / 72 * -(-len(legend) // columns) + GAP + below
    total = head + -(-len(images) // across) * (height + GAP) + foot
    figure = _empty(total, "\n".join(lines), linespacing=1.3)
    figure.legend(
        handles=[Patch(facecolor=colour, label=name) for name, colour in legend.items()],
        loc="lower center", bbox_to_anchor=(0.5, below / total), ncols=columns,
        fontsize=SMALL, handlelength=1.2, labelspacing=0.3, columnspacing=1.2, borderpad=0.2, borderaxespad=0.1,
    )  # fmt: skip
    figure.text(0.5, GAP / total, note, ha="center", va="bottom", fontsize=SMALL, color=INK)
    panels = []
    for number in range(len(images)):
        row, group = divmod(number, across)
        left, bottom = group * WIDTH / across + 1.5 * GAP, total - head - row * (height + GAP) - height
        places = [(left + column * (width + GAP), bottom) for column in range(len(titles))]
        panels.append([_panel(figure, place, (width, height), anchor="N") for place in places])
        for axes, title in zip(panels[-1], titles if row == 0 else (), strict=False):
            axes.set_title(title, fontsize=TITLE, color=INK, pad=2)
    return figure, panels


# --- What perturbed sets look like -----------------------------------------------------------------------------------


def draw_examples(item: PerturbedSet) -> None:
    """Write the picture of a perturbed set to its place under `samples/`: the first image under every corruption and
    severity, or some images of every class.

    Raises:
        DataError: the set was not prepared, was changed since, or an image cannot be decoded.
    """
    parts, caption = open_parts(item), f"{item.caption}: {item.data.name}"
    with styled():
        figure = _strips(FAMILIES[item.name], parts, caption) if item.corrupted else _classes(parts[0].split, caption)
        item.strips.parent.mkdir(parents=True, exist_ok=True)
        _save(figure, item.strips, ())


def _strips(names: Sequence[str], parts: Sequence[Part], caption: str) -> Figure:
    """A strip of the five severities for every corruption, in two columns; parts that are missing say so."""
    cells = {part.cell: part for part in parts if part.cell is not None}
    rows, side = -(-len(names) // 2), (WIDTH / 2 - LABEL - 7 * GAP) / len(SEVERITIES)
    height = rows * (side + GAP) + 3 * LINE
    figure = _empty(height, caption)
    for number, name in enumerate(names):
        column, row = divmod(number, rows)
        left, bottom = column * WIDTH / 2 + GAP, height - 2.2 * LINE - (row + 1) * (side + GAP)
        looks = {"va": "center", "color": INK, "fontsize": TITLE}
        figure.text(left / WIDTH, (bottom + side / 2) / height, name.replace("_", " "), **looks)
        for place, severity in enumerate(SEVERITIES):
            axes = _panel(figure, (left + LABEL + place * (side + GAP), bottom), (side, side))
            axes.set(xticks=[], yticks=[])
            if row == 0:
                axes.set_title(f"severity {severity}", fontsize=6, color=INK, pad=2)
            if (name, severity) in cells:
                _show(axes, _image(cells[name, severity].split, 0))
            else:
                axes.set_axis_off()
                axes.text(0.5, 0.5, "missing", ha="center", va="center", color=INK, fontsize=5)
    return figure


def _classes(split: Split, caption: str) -> Figure:
    """Images spread evenly over a set, each under the name of its class."""
    chosen = np.linspace(0, len(split) - 1, min(4 * ACROSS, len(split))).astype(int).tolist()
    rows, side = -(-len(chosen) // ACROSS), (WIDTH - GAP * (ACROSS + 1)) / ACROSS
    height = rows * (side + GAP + LINE) + 2 * LINE
    figure = _empty(height, caption)
    for number, index in enumerate(chosen):
        row, column = divmod(number, ACROSS)
        bottom = height - 2.4 * LINE - row * (side + GAP + LINE) - side
        axes = _panel(figure, (GAP + column * (side + GAP), bottom), (side, side))
        axes.set_title(split.classes[split.samples[index].target], fontsize=6, color=INK, pad=2)
        _show(axes, _image(split, index))
    return figure


def _image(split: Split, index: int) -> np.ndarray:
    return np.asarray(decode(split.read(index), split.name(index)))


# --- Sheets ----------------------------------------------------------------------------------------------------------


def _empty(height: float, caption: str, **looks: float) -> Figure:
    figure = Figure(figsize=(WIDTH, height), layout="none", facecolor="white")
    figure.text(0.5, 1 - GAP / height, caption, ha="center", va="top", **looks)
    return figure


def _panel(figure: Figure, corner: tuple[float, float], size: tuple[float, float], **looks: str) -> Axes:
    """Axes with this lower left corner and size in inches."""
    total = figure.get_figheight()
    return figure.add_axes((corner[0] / WIDTH, corner[1] / total, size[0] / WIDTH, size[1] / total), **looks)


def _show(axes: Axes, image: np.ndarray) -> None:
    """Draw an image so that its pixels' edges, not their centres, lie at whole numbers, as boxes count them."""
    axes.imshow(image, extent=(0, image.shape[1], image.shape[0], 0), aspect="equal")
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set_visible(False)


def _save(figure: Figure, path: Path, colours: Iterable[Colour]) -> None:
    """Write a PNG of 256 colours, `colours` among them, atomically; with fewer pixels where it would exceed `LIMIT`."""
    fixed = sorted({*colours, *map(to_rgb, ("white", "black", INK))})
    reserved, dpi, content = [tuple(round(255 * part) for part in colour) for colour in fixed], float(DPI), b""
    while not content or len(content) > LIMIT:
        if content:
            dpi *= 0.97 * (LIMIT / len(content)) ** 0.5
        figure.set_dpi(dpi)
        canvas = FigureCanvasAgg(figure)
        canvas.draw()
        pixels = np.asarray(canvas.buffer_rgba())
        free = Image.fromarray(pixels).convert("RGB").quantize(256 - len(fixed), dither=Image.Dither.NONE)
        indices = np.asarray(free) + np.uint8(len(fixed))
        whole = np.ascontiguousarray(pixels).view(np.uint32)[..., 0]
        for number, colour in enumerate(reserved):
            indices[whole == np.array([*colour, 255], np.uint8).view(np.uint32)] = number
        picture, stream = Image.fromarray(indices), io.BytesIO()
        picture.putpalette([*itertools.chain.from_iterable(reserved), *free.getpalette()])
        picture.save(stream, format="PNG", optimize=True)
        content = stream.getvalue()
    with atomic_path(path) as temporary:
        temporary.write_bytes(content)
