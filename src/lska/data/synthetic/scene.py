"""Scenes: textured shapes before a background, with everything that can be asked about them known exactly.

A `Scene` says what is where; `lska.data.synthetic.render` turns it into pixels. Shape and texture are separate labels
of one object, so that the same scenes serve classification, detection, segmentation, cue-conflict and texture sets.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.random import Generator

from lska.data.synthetic.seeds import HELD_OUT, generator
from lska.data.synthetic.shapes import SHAPES, TURNS, Outline, shape_outline
from lska.data.synthetic.textures import TEXTURES

LUMA = np.array([0.299, 0.587, 0.114])
"""Weights of red, green and blue in the luma of an image (ITU-R BT.601)."""

SOLID = 0.5
"""Share of a pixel that an object must cover for the pixel to belong to its mask."""

PLACEMENTS = 30
"""Positions tried for an object before the scene does without it."""

RELIEF = 0.5
"""Luma range of an object's texture, less where it would leave the range from 0 to 1."""

COLOUR = 0.18
"""Largest distance of a colour channel from grey."""


@dataclass(frozen=True)
class SceneSettings:
    """What scenes are made of; fields without a word here are explained in `lska.data.synthetic.generated.SceneSet`."""

    image_size: int = 64
    shapes: tuple[str, ...] = SHAPES
    """Shape categories drawn from where no labels are given."""
    textures: tuple[str, ...] = TEXTURES
    """Texture categories drawn from, for objects without labels and for cluttered backgrounds."""
    objects: tuple[int, int] = (1, 1)
    """Least and most objects where no labels are given."""
    extent: tuple[float, float] = (0.6, 0.88)
    turn: float = 45.0
    overlap: float = 0.2
    """Largest share of an object that others may cover."""
    ground: str = "darker"
    contrast: float = 0.3
    clutter: float = 0.0
    held_out: bool = False
    """Draw shape and texture instances from the validation pool."""
    seed: int = 0


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


def compose_scene(settings: SceneSettings, key: Sequence[int], labels: Sequence[Labels] | None = None) -> Scene:
    """Compose the scene that `key` names within the set. Equal arguments give equal scenes.

    `labels` says what the objects are; without them number, categories and instances are drawn. Objects that find no
    place in a crowded scene are left out.
    """
    rng, first = generator("scene", settings.seed, *key), HELD_OUT if settings.held_out else 0
    if labels is None:
        labels = [
            Labels(
                str(rng.choice(settings.shapes)), str(rng.choice(settings.textures)),
                first + int(rng.integers(HELD_OUT)), first + int(rng.integers(HELD_OUT)),
            )
            for _ in range(int(rng.integers(settings.objects[0], settings.objects[1] + 1)))
        ]  # fmt: skip
    # Mean luma of the objects and of the background, both from 0.25 to 0.75.
    difference = rng.uniform(settings.contrast, 0.5)
    middle = rng.uniform(0.25 + difference / 2, 0.75 - difference / 2)
    sign = {"darker": 1, "lighter": -1, "either": int(rng.choice([-1, 1]))}[settings.ground]
    level, ground = middle + sign * difference / 2, middle - sign * difference / 2

    texture = str(rng.choice(settings.textures)) if settings.clutter else None
    paint = _paint(ground, settings.clutter or 0.12, rng)
    background = Background(texture, first + int(rng.integers(HELD_OUT)), paint)
    placed: list[tuple[Labels, np.ndarray]] = []
    for item in labels:
        coverage = _place(item, settings, [other for _, other in placed], rng)
        if coverage is not None:
            placed.append((item, coverage))
    masks = _visible_masks([coverage for _, coverage in placed])
    # No part of an object's texture comes nearer to the background than half the contrast.
    margin = settings.contrast / 2
    limit = {"darkest": ground + margin} if level > ground else {"lightest": ground - margin}
    objects = tuple(
        SceneObject(item, replace(_paint(level, RELIEF, rng), **limit), coverage, mask)
        for (item, coverage), mask in zip(placed, masks, strict=True)
    )
    return Scene(settings.image_size, settings.seed, objects, background)


def _paint(level: float, relief: float, rng: Generator) -> Paint:
    """Draw colours of mean luma `level` and luma range `relief`."""

    def chroma(strength: float) -> np.ndarray:
        """An RGB offset of zero luma whose largest channel is at most `strength`."""
        offset = rng.standard_normal(3)
        offset -= offset @ LUMA
        return offset / np.abs(offset).max() * strength * rng.uniform(0.3, 1.0)

    # Vivid colours near black or white would leave the texture no room.
    mean = level + chroma(min(COLOUR, 0.4 * level, 0.4 * (1 - level)))
    step = rng.choice([-1, 1]) * relief + chroma(COLOUR * relief)
    return Paint(tuple(mean.tolist()), tuple(step.tolist()))


def _place(labels: Labels, settings: SceneSettings, others: list[np.ndarray], rng: Generator) -> np.ndarray | None:
    """The coverage of the object at a random pose that hides little of the others, None where none is found."""
    outline = shape_outline(labels.shape, labels.shape_instance, settings.seed)
    turn = min(settings.turn, TURNS.get(labels.shape, 180))
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
