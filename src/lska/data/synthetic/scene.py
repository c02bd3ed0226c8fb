"""Scenes: textured shapes before a background, with everything that can be asked about them known exactly.

A `Scene` says what is where; `lska.data.synthetic.render` turns it into pixels. Shape and texture are separate labels
of one object, so that the same scenes serve classification, detection, segmentation, cue-conflict and texture sets.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.random import Generator

from lska.data.synthetic.seeds import HELD_OUT, generator
from lska.data.synthetic.shapes import SHAPES, Outline, shape_family, shape_outline
from lska.data.synthetic.textures import TEXTURES
from lska.data.synthetic.value_checks import check_choice, check_names, check_pair, check_range

LUMA = np.array([0.299, 0.587, 0.114])
"""Weights of red, green and blue in the luma of an image (ITU-R BT.601)."""

GROUNDS = ("darker", "lighter", "either")

SOLID = 0.5
"""Share of a pixel that an object must cover for the pixel to belong to its mask."""

PLACEMENTS = 30
"""Positions tried for an object before the scene does without it."""


@dataclass(frozen=True)
class SceneSettings:
    """What scenes are made of.

    Raises:
        ValueError: a value is out of range or of the wrong type; the message names the setting.
    """

    image_size: int = 64
    """Height and width in pixels."""
    shapes: tuple[str, ...] = SHAPES
    """Shape categories drawn from where no labels are given."""
    textures: tuple[str, ...] = TEXTURES
    """Texture categories drawn from, for objects without labels and for cluttered backgrounds."""
    objects: tuple[int, int] = (1, 1)
    """Least and most objects where no labels are given."""
    extent: tuple[float, float] = (0.6, 0.88)
    """Least and largest longer side of an object's box, as a share of the image side."""
    turn: float = 45.0
    """Largest turn of an object in degrees, either way; less for shapes that are named by their upright position."""
    overlap: float = 0.2
    """Largest share of an object that others may cover."""
    ground: str = "darker"
    """Whether the background is `darker` or `lighter` than the objects, or `either`, scene by scene."""
    contrast: float = 0.3
    """Least difference between the mean luma of an object and that of the background; luma runs from 0 to 1."""
    relief: float = 0.5
    """Luma range of an object's texture, less where it would leave the range from 0 to 1."""
    clutter: float = 0.0
    """Luma range of a textured background; at 0 the background is a faint gradient instead."""
    colour: float = 0.18
    """Largest distance of a colour channel from grey; 0 gives grey images."""
    held_out: bool = False
    """Draw shape and texture instances from the validation pool."""
    seed: int = 0
    """Seed of the whole set. Instances with equal numbers differ between seeds."""

    def __post_init__(self) -> None:
        check_names("shapes", self.shapes, SHAPES)
        check_names("textures", self.textures, TEXTURES)
        check_pair("objects", self.objects, 1, 99)
        check_pair("extent", self.extent, 0.1, 0.95)
        check_range("image_size", self.image_size, 16, 4096)
        check_range("seed", self.seed, 0, 2**32 - 1)
        check_range("contrast", self.contrast, 0.0, 0.5)
        check_range("turn", self.turn, 0.0, 180.0)
        check_choice("ground", self.ground, GROUNDS)
        for name in ("overlap", "relief", "clutter", "colour"):
            check_range(name, getattr(self, name), 0.0, 1.0)


@dataclass(frozen=True)
class Labels:
    """What an object is: shape and texture category, and which instance of each."""

    shape: str
    texture: str
    shape_instance: int
    texture_instance: int


@dataclass(frozen=True)
class Paint:
    """How a grey field becomes colour: `mean` RGB of the region, and the RGB step from field 0 to field 1.

    The step is shortened where the luma would leave the range from `darkest` to `lightest`.
    """

    mean: tuple[float, float, float]
    step: tuple[float, float, float]
    darkest: float = 0.0
    lightest: float = 1.0


@dataclass(frozen=True)
class Background:
    """What lies behind the objects: a texture instance, or a faint gradient where `texture` is None."""

    texture: str | None
    instance: int
    paint: Paint


@dataclass(frozen=True, eq=False)
class SceneObject:
    """One object of a scene."""

    labels: Labels
    paint: Paint
    coverage: np.ndarray
    """float32 (size, size): share of each pixel that the whole object covers, hidden parts included."""
    mask: np.ndarray
    """bool (size, size): pixels at least half covered and not hidden by a later object."""

    @property
    def box(self) -> tuple[int, int, int, int]:
        """Extent of the mask as x_min, y_min, x_max, y_max in pixels; the maxima lie one past the last pixel."""
        columns, rows = np.flatnonzero(self.mask.any(axis=0)), np.flatnonzero(self.mask.any(axis=1))
        return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


@dataclass(frozen=True, eq=False)
class Scene:
    """Objects from back to front before a background, on `size` x `size` pixels."""

    size: int
    seed: int
    objects: tuple[SceneObject, ...]
    background: Background

    def instance_map(self) -> np.ndarray:
        """Return uint8 (size, size): 0 for background, i + 1 for `objects[i]`."""
        labels = np.zeros((self.size, self.size), dtype=np.uint8)
        for number, item in enumerate(self.objects, start=1):
            labels[item.mask] = number
        return labels

    def label_map(self) -> np.ndarray:
        """Return uint8 (size, size): 0 for background, i + 1 for the shape category `SHAPES[i]`."""
        categories = [0, *(SHAPES.index(item.labels.shape) + 1 for item in self.objects)]
        return np.array(categories, dtype=np.uint8)[self.instance_map()]


def compose_scene(settings: SceneSettings, key: Sequence[int], labels: Sequence[Labels] | None = None) -> Scene:
    """Compose the scene that `key` names within the set.

    `labels` says what the objects are; without them number, categories and instances are drawn. Objects that find no
    place in a crowded scene are left out. Equal arguments give equal scenes.
    """
    rng = generator("scene", settings.seed, *key)
    labels = _draw_labels(settings, rng) if labels is None else labels
    level, background_level = _luma_levels(settings, rng)
    background = _background(settings, background_level, rng)
    placed: list[tuple[Labels, np.ndarray]] = []
    for item in labels:
        coverage = _place(item, settings, [other for _, other in placed], rng)
        if coverage is not None:
            placed.append((item, coverage))
    masks = _visible_masks([coverage for _, coverage in placed])
    objects = tuple(
        SceneObject(item, _object_paint(level, background_level, settings, rng), coverage, mask)
        for (item, coverage), mask in zip(placed, masks, strict=True)
    )
    return Scene(settings.image_size, settings.seed, objects, background)


def _draw_labels(settings: SceneSettings, rng: Generator) -> list[Labels]:
    first = HELD_OUT if settings.held_out else 0
    return [
        Labels(
            str(rng.choice(settings.shapes)),
            str(rng.choice(settings.textures)),
            first + int(rng.integers(HELD_OUT)),
            first + int(rng.integers(HELD_OUT)),
        )
        for _ in range(int(rng.integers(settings.objects[0], settings.objects[1] + 1)))
    ]


def _luma_levels(settings: SceneSettings, rng: Generator) -> tuple[float, float]:
    """Draw mean luma of the objects and of the background, both from 0.25 to 0.75."""
    difference = rng.uniform(settings.contrast, 0.5)
    middle = rng.uniform(0.25 + difference / 2, 0.75 - difference / 2)
    sign = {"darker": 1, "lighter": -1, "either": int(rng.choice([-1, 1]))}[settings.ground]
    return middle + sign * difference / 2, middle - sign * difference / 2


def _chroma(rng: Generator, strength: float) -> np.ndarray:
    """Draw an RGB offset of zero luma whose largest channel is at most `strength`."""
    offset = rng.standard_normal(3)
    offset -= offset @ LUMA
    return offset / np.abs(offset).max() * strength * rng.uniform(0.3, 1.0)


def _paint(level: float, relief: float, colour: float, rng: Generator) -> Paint:
    # Vivid colours near black or white would leave the texture no room.
    mean = level + _chroma(rng, min(colour, 0.4 * level, 0.4 * (1 - level)))
    step = rng.choice([-1, 1]) * relief + _chroma(rng, colour * relief)
    return Paint(tuple(mean.tolist()), tuple(step.tolist()))


def _object_paint(level: float, background_level: float, settings: SceneSettings, rng: Generator) -> Paint:
    """Draw an object's paint; no part of its texture comes nearer to the background than half the contrast."""
    paint, margin = _paint(level, settings.relief, settings.colour, rng), settings.contrast / 2
    if level > background_level:
        return replace(paint, darkest=background_level + margin)
    return replace(paint, lightest=background_level - margin)


def _background(settings: SceneSettings, level: float, rng: Generator) -> Background:
    first = HELD_OUT if settings.held_out else 0
    texture = str(rng.choice(settings.textures)) if settings.clutter else None
    paint = _paint(level, settings.clutter or 0.12, settings.colour, rng)
    return Background(texture, first + int(rng.integers(HELD_OUT)), paint)


def _place(labels: Labels, settings: SceneSettings, others: list[np.ndarray], rng: Generator) -> np.ndarray | None:
    """Return the coverage of the object at a random pose that hides little of the others, None where none is found."""
    outline = shape_outline(labels.shape, labels.shape_instance, settings.seed)
    turn = min(settings.turn, shape_family(labels.shape).turn)
    for _ in range(PLACEMENTS):
        coverage = _pose(outline, turn, settings, rng).coverage(settings.image_size)
        stack = [*others, coverage]
        visible, whole = _visible_masks(stack), [item >= SOLID for item in stack]
        if all(v.sum() >= max(1, (1 - settings.overlap) * w.sum()) for v, w in zip(visible, whole, strict=True)):
            return coverage
    return None


def _pose(outline: Outline, turn: float, settings: SceneSettings, rng: Generator) -> Outline:
    """Mirror, turn, scale and shift the outline to pixels, wholly inside the image and clear of its border."""
    angle, mirror = np.deg2rad(rng.uniform(-turn, turn)), rng.choice([-1, 1])
    rotation = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    turned = outline.map(lambda points: points * [mirror, 1] @ rotation)
    low, high = turned.bounds()
    scale = rng.uniform(*settings.extent) * settings.image_size / (high - low).max()
    room = settings.image_size - 2 - (high - low) * scale
    shift = 1 + rng.uniform(0, 1, 2) * np.maximum(room, 0) - low * scale
    return turned.map(lambda points: points * scale + shift)


def _visible_masks(coverages: list[np.ndarray]) -> list[np.ndarray]:
    masks = [coverage >= SOLID for coverage in coverages]
    for index, mask in enumerate(masks):
        for front in masks[index + 1 :]:
            mask &= ~front
    return masks
