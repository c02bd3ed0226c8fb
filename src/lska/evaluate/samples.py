"""Sheets of sample predictions: images with their ground truth and what a network predicts, on one small PNG."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle
from matplotlib.patheffects import withStroke

from lska.data.decoding import IGNORED
from lska.tables.sheets import GAP, LINE, WIDTH, Colour, class_colour, save, sheet, show
from lska.tables.style import INK, styled

SCORE = 0.3
"""Least score of a prediction that is drawn."""

MOST = 20
"""Predictions drawn per image, those with the highest scores."""

CROWD = 10
"""Objects beyond which boxes carry no names, which would hide the image."""

NOTE = (
    f"Drawn are predictions with a score of at least {SCORE:g}, and at most {MOST} per image. "
    f"Beyond {CROWD} objects, only colours name the classes."
)

FONT, SMALL = 5.5, 6.5
"""Points: names at boxes, legend and note."""

GREY = (217 / 255,) * 3


@dataclass(frozen=True, eq=False)
class Instances:
    """Objects of one image, true or predicted.

    Raises:
        ValueError: the arrays do not belong together.
    """

    boxes: np.ndarray
    """float (n, 4): x_min, y_min, x_max, y_max in pixels."""
    labels: np.ndarray
    """int (n,): class indices."""
    scores: np.ndarray | None = None
    """float (n,): 0 to 1, for predictions."""
    masks: np.ndarray | None = None
    """bool (n, height, width)."""

    def __post_init__(self) -> None:
        count = len(self.labels)
        shapes = {"boxes": np.shape(self.boxes), "labels": np.shape(self.labels)}
        right = shapes["labels"] == (count,) and (shapes["boxes"] == (count, 4) or count == np.size(self.boxes) == 0)
        for name in ("scores", "masks"):
            if getattr(self, name) is not None:
                shapes[name] = np.shape(getattr(self, name))
                right = right and shapes[name][:1] == (count,) and len(shapes[name]) == (1 if name == "scores" else 3)
        if not right:
            found = ", ".join(f"{name} {shape}" for name, shape in shapes.items())
            raise ValueError(f"expected boxes (n, 4), labels (n,), scores (n,) and masks (n, H, W), found {found}")


def detection_sheet(
    images: Sequence[np.ndarray],
    truths: Sequence[Instances],
    predictions: Sequence[Instances],
    classes: Sequence[str],
    path: Path,
    caption: str,
) -> None:
    """Draw true and predicted boxes, and masks where there are some, side by side; write a PNG atomically.

    Predictions with a score below `SCORE` are left out, and all but the `MOST` best ones; the sheet says so.

    Args:
        images: uint8 (height, width, 3) each, of any sizes; about six.
        classes: names in the order of the label indices.
        caption: what the sheet shows: scale, task and network.

    Raises:
        ValueError: nothing to draw, unequal numbers of images, an unknown class, or masks of another size than the
            image; names the image.
    """
    _check(images, path, truths=truths, predictions=predictions)
    for number, (image, *both) in enumerate(zip(images, truths, predictions, strict=True)):
        for items in both:
            _check_labels(items.labels, len(classes), number, path)
            _check_size(None if items.masks is None else items.masks.shape[1:], image, number, path)
    with styled():
        best = [_best(items) for items in predictions]
        legend = _Legend.of((items.labels for items in (*truths, *best)), classes)
        figure, panels = sheet(images, ("ground truth", "prediction"), caption, legend.height + LINE)
        legend.draw(figure, LINE)
        figure.text(0.5, GAP / figure.get_figheight(), NOTE, ha="center", va="bottom", fontsize=SMALL, color=INK)
        for image, axes, *both in zip(images, panels, truths, best, strict=True):
            for panel, items in zip(axes, both, strict=True):
                show(panel, image)
                _draw_instances(panel, items, classes)
            if not len(both[1].labels):
                _remark(axes[1], f"no score of {SCORE:g} or more")
        save(figure, path, legend.colours)


def segmentation_sheet(
    images: Sequence[np.ndarray],
    truths: Sequence[np.ndarray],
    predictions: Sequence[np.ndarray],
    classes: Sequence[str],
    path: Path,
    caption: str,
) -> None:
    """Draw images, true and predicted label maps side by side over a legend; write a PNG atomically.

    Args:
        images: uint8 (height, width, 3) each, of any sizes; about six.
        truths: int (height, width) each: class indices, `IGNORED` for pixels that are not scored.
        predictions: as `truths`.
        classes: names in the order of the class indices; the legend has those that occur.
        caption: what the sheet shows: scale, task and network.

    Raises:
        ValueError: nothing to draw, unequal numbers of images, an unknown class, or a label map of another size than
            its image; names the image.
    """
    _check(images, path, truths=truths, predictions=predictions)
    for number, (image, *both) in enumerate(zip(images, truths, predictions, strict=True)):
        for labels in both:
            _check_labels(labels[labels != IGNORED], len(classes), number, path)
            _check_size(labels.shape, image, number, path)
    with styled():
        legend = _Legend.of((*truths, *predictions), classes)
        figure, panels = sheet(images, ("image", "ground truth", "prediction"), caption, legend.height)
        legend.draw(figure)
        for image, axes, *both in zip(images, panels, truths, predictions, strict=True):
            for panel, shown in zip(axes, (image, *map(_paint, both)), strict=True):
                show(panel, shown)
        save(figure, path, legend.colours)


def _check(images: Sequence[np.ndarray], path: Path, **others: Sequence[object]) -> None:
    counts = {"images": len(images), **{name: len(values) for name, values in others.items()}}
    if not images or len(set(counts.values())) > 1:
        found = ", ".join(f"{count} {name}" for name, count in counts.items())
        raise ValueError(f"{path}: expected images with as many truths and predictions, found {found}")
    for number, image in enumerate(images):
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
            expected = "expected uint8 (height, width, 3)"
            raise ValueError(f"{path}, image {number}: {expected}, found {image.dtype} {image.shape}")


def _check_labels(labels: np.ndarray, count: int, number: int, path: Path) -> None:
    unknown = sorted({int(label) for label in np.unique(labels) if not 0 <= label < count})
    if unknown:
        raise ValueError(f"{path}, image {number}: expected classes from 0 to {count - 1}, found {unknown}")


def _check_size(shape: tuple[int, ...] | None, image: np.ndarray, number: int, path: Path) -> None:
    if shape is not None and shape != image.shape[:2]:
        raise ValueError(f"{path}, image {number}: expected masks of the image's {image.shape[:2]}, found {shape}")


def _best(items: Instances) -> Instances:
    if items.scores is None:
        return items
    order = np.argsort(-items.scores, kind="stable")[:MOST]
    kept = order[items.scores[order] >= SCORE]
    masks = None if items.masks is None else items.masks[kept]
    return Instances(np.reshape(items.boxes, (-1, 4))[kept], items.labels[kept], items.scores[kept], masks)


def _draw_instances(axes: Axes, items: Instances, classes: Sequence[str]) -> None:
    """Large objects first, so that small ones stay visible; names last."""
    boxes = np.reshape(items.boxes, (-1, 4))
    order = np.argsort(-np.prod(boxes[:, 2:] - boxes[:, :2], axis=1), kind="stable")
    for number in order:
        colour = class_colour(int(items.labels[number]))
        left, top, right, bottom = boxes[number]
        if items.masks is not None:
            _draw_mask(axes, items.masks[number], colour)
        axes.add_patch(
            Rectangle((left, top), right - left, bottom - top, fill=False, edgecolor=colour, linewidth=1.1,
                      path_effects=[withStroke(linewidth=2.0, foreground="white")])
        )  # fmt: skip
    for number in order:
        name = [classes[items.labels[number]]] if len(order) <= CROWD else []
        score = [] if items.scores is None else [f"{items.scores[number]:.2f}"]
        if name + score:
            _draw_name(axes, boxes[number], " ".join(name + score), class_colour(int(items.labels[number])))


def _draw_mask(axes: Axes, mask: np.ndarray, colour: Colour) -> None:
    layer = np.zeros((*mask.shape, 4))
    layer[mask] = (*colour, 0.5)
    axes.imshow(layer, extent=(0, mask.shape[1], mask.shape[0], 0), interpolation="nearest")


def _draw_name(axes: Axes, box: np.ndarray, text: str, colour: Colour) -> None:
    """Above the box where there is room, otherwise within it; from its right corner in the right half of the image."""
    (_, width), (height, _) = axes.get_xlim(), axes.get_ylim()
    line = 1.5 * FONT / 72 / (axes.get_position().width * WIDTH) * width
    to_right = box[0] + box[2] > width
    axes.text(
        min(box[2], width) if to_right else max(box[0], 0), np.clip(box[1], line, height), text, fontsize=FONT,
        ha="right" if to_right else "left", va="bottom", color=_ink_on(colour), clip_on=True,
        bbox={"boxstyle": "square,pad=0.12", "facecolor": colour, "edgecolor": "none"},
    )  # fmt: skip


def _ink_on(colour: Colour) -> str:
    red, green, blue = colour
    return "black" if 0.299 * red + 0.587 * green + 0.114 * blue > 0.45 else "white"


def _remark(axes: Axes, text: str) -> None:
    box = {"boxstyle": "square,pad=0.2", "facecolor": "white", "edgecolor": "none", "alpha": 0.85}
    axes.text(0.5, 0.5, text, transform=axes.transAxes, ha="center", va="center", fontsize=FONT, color=INK, bbox=box)


def _paint(labels: np.ndarray) -> np.ndarray:
    """Colours, uint8 (height, width, 3), of a label map."""
    palette = np.array([*map(class_colour, range(IGNORED)), GREY])
    return np.round(255 * palette).astype(np.uint8)[labels]


@dataclass(frozen=True)
class _Legend:
    """The classes that occur, in their order, with their colours."""

    names: dict[str, Colour]

    @classmethod
    def of(cls, arrays: Iterable[np.ndarray], classes: Sequence[str]) -> _Legend:
        found = sorted(set().union(*(np.unique(array).tolist() for array in arrays)))
        names = {classes[index]: class_colour(index) for index in found if index != IGNORED}
        return cls(names | ({"not scored": GREY} if IGNORED in found else {}))

    @property
    def colours(self) -> set[Colour]:
        return set(self.names.values())

    @property
    def columns(self) -> int:
        """Names beside each other, at about 3.6 points a letter and 28 for patch and gaps."""
        longest = max(map(len, self.names), default=0)
        return max(1, min(10, int(WIDTH * 72 / (3.6 * longest + 28))))

    @property
    def height(self) -> float:
        """Inches."""
        return 1.45 * SMALL / 72 * -(-len(self.names) // self.columns) + GAP

    def draw(self, figure: Figure, bottom: float = 0.0) -> None:
        """Draw at the foot of a sheet, `bottom` inches above its edge."""
        figure.legend(
            handles=[Patch(facecolor=colour, label=name) for name, colour in self.names.items()],
            loc="lower center", bbox_to_anchor=(0.5, bottom / figure.get_figheight()), ncols=self.columns,
            fontsize=SMALL, handlelength=1.2, labelspacing=0.3, columnspacing=1.2, borderpad=0.2, borderaxespad=0.1,
        )  # fmt: skip
