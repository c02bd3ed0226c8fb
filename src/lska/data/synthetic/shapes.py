"""Shape categories: families of outlines, one function per family.

Outlines live in a plane with x to the right and y downwards, roughly within [-1, 1]. A shape *instance* is one draw of
a family's own proportions plus a small bend, stretch and shear; where it lies in an image, how large and how turned,
is its pose and belongs to the scene.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.random import Generator
from PIL import Image, ImageDraw

from lska.data.synthetic.seeds import generator

SUPERSAMPLING = 4
"""Sub-pixels per pixel and axis when an outline is drawn: 16 levels and more at a slanted edge."""

BODY, HOLE = True, False

Layers = list[tuple[np.ndarray, bool]]
"""Polygons, arrays (n, 2) of x and y, painted one after the other: each adds to the shape or cuts a hole."""


@dataclass(frozen=True, eq=False)
class Outline:
    """The layers of one shape instance."""

    layers: Layers

    def map(self, transform: Callable[[np.ndarray], np.ndarray]) -> "Outline":
        """The outline with `transform`, from (n, 2) to (n, 2), applied to every polygon."""
        return Outline([(transform(points), solid) for points, solid in self.layers])

    def bounds(self) -> tuple[np.ndarray, np.ndarray]:
        """The lowest and the highest x and y of the solid parts, each of shape (2,)."""
        points = np.concatenate([points for points, solid in self.layers if solid])
        return points.min(axis=0), points.max(axis=0)

    def coverage(self, size: int) -> np.ndarray:
        """Draw the outline, given in pixels, on `size` x `size` pixels: float32 shares in [0, 1] of each pixel."""
        canvas = Image.new("L", (size * SUPERSAMPLING, size * SUPERSAMPLING))
        draw = ImageDraw.Draw(canvas)
        for points, solid in self.layers:
            draw.polygon((points * SUPERSAMPLING - 0.5).ravel().tolist(), fill=255 * solid)
        return np.asarray(canvas.reduce(SUPERSAMPLING), dtype=np.float32) / 255


def shape_outline(shape: str, instance: int, seed: int = 0) -> Outline:
    """The outline of one instance of a shape category, centred, with its longer side from -1 to 1."""
    rng = generator("shape", seed, shape, instance)
    layers = [(np.asarray(points, dtype=float), solid) for points, solid in _FAMILIES[shape](rng)]
    stretch = np.array([[1.0, rng.uniform(-0.1, 0.1)], [0.0, rng.uniform(0.88, 1.14)]])
    waves = rng.uniform(0.8, 2.0, (2, 2)) * rng.choice([-1, 1], (2, 2))
    phases, amplitude = rng.uniform(0, 2 * np.pi, 2), rng.uniform(0.0, 0.06)

    def deformed(points: np.ndarray) -> np.ndarray:
        points = _subdivided(points)
        return (points + amplitude * np.sin(points @ waves + phases)) @ stretch

    outline = Outline(layers).map(deformed)
    low, high = outline.bounds()
    return outline.map(lambda points: (points - (low + high) / 2) * (2 / (high - low).max()))


def _subdivided(points: np.ndarray, step: float = 0.08) -> np.ndarray:
    """A polygon with points on its long edges, so that a bend bends them."""
    closed = np.vstack([points, points[:1]])
    counts = np.maximum(1, np.ceil(np.linalg.norm(np.diff(closed, axis=0), axis=1) / step).astype(int))
    position = np.concatenate([i + np.arange(n) / n for i, n in enumerate(counts)])
    index = np.arange(len(closed))
    return np.stack([np.interp(position, index, closed[:, axis]) for axis in (0, 1)], axis=1)


def _arc(x: float, y: float, rx: float, ry: float, start: float = 0.0, stop: float = 2 * np.pi) -> np.ndarray:
    angle = np.linspace(start, stop, 49)
    return np.stack([x + rx * np.cos(angle), y + ry * np.sin(angle)], axis=1)


def _box(x0: float, y0: float, x1: float, y1: float) -> np.ndarray:
    return np.array([[x0, y0], [x1, y0], [x1, y1], [x0, y1]])


def _polar(radius: np.ndarray, angle: np.ndarray) -> np.ndarray:
    return np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1)


def _circle(rng: Generator) -> Layers:
    return [(_arc(0, 0, 1, 1), BODY)]


def _triangle(rng: Generator) -> Layers:
    apex, height = rng.uniform(-0.2, 0.2), rng.uniform(1.5, 1.9)
    return [([[apex, -height / 2], [1, height / 2], [-1, height / 2]], BODY)]


def _square(rng: Generator) -> Layers:
    half = rng.uniform(0.88, 1.0)
    return [(_box(-1, -half, 1, half), BODY)]


def _star(rng: Generator) -> Layers:
    tips, inner = int(rng.choice([5, 5, 6])), rng.uniform(0.36, 0.5)
    angle = np.arange(2 * tips) * np.pi / tips - np.pi / 2
    return [(_polar(np.where(np.arange(2 * tips) % 2, inner, 1.0), angle), BODY)]


def _heart(rng: Generator) -> Layers:
    t = np.linspace(0, 2 * np.pi, 64, endpoint=False)
    x = 16 * np.sin(t) ** 3 * rng.uniform(0.9, 1.1)
    y = -(13 * np.cos(t) - rng.uniform(4.5, 6) * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t))
    return [(np.stack([x, y], axis=1) / 17, BODY)]


def _crescent(rng: Generator) -> Layers:
    shift, radius = rng.uniform(0.4, 0.6), rng.uniform(0.75, 0.88)
    x = (1 - radius**2 + shift**2) / (2 * shift)
    outer, inner = np.arccos(x), np.arctan2(np.sqrt(1 - x**2), x - shift)
    far_side = _arc(0, 0, 1, 1, outer, 2 * np.pi - outer)
    bite = _arc(shift, 0, radius, radius, 2 * np.pi - inner, inner)
    return [(np.vstack([far_side, bite]), BODY)]


def _cross(rng: Generator) -> Layers:
    w, arm = rng.uniform(0.24, 0.36), rng.uniform(0.85, 1.0)
    return [(_box(-arm, -w, arm, w), BODY), (_box(-w, -1, w, 1), BODY)]


def _arrow(rng: Generator) -> Layers:
    neck, head, shaft = rng.uniform(-0.05, 0.3), rng.uniform(0.6, 0.8), rng.uniform(0.17, 0.28)
    upper = [[-1, -shaft], [neck, -shaft], [neck, -head], [1, 0]]
    return [([*upper, [neck, head], [neck, shaft], [-1, shaft]], BODY)]


def _ring(rng: Generator) -> Layers:
    inner = rng.uniform(0.5, 0.68)
    return [(_arc(0, 0, 1, 1), BODY), (_arc(0, 0, inner, inner), HOLE)]


def _leaf(rng: Generator) -> Layers:
    width, fullness, bend = rng.uniform(0.42, 0.6), rng.uniform(0.65, 0.95), rng.uniform(-0.25, 0.25)

    def band(start: float, stop: float, half: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
        x = np.linspace(start, stop, 40)
        middle = bend * (x**2 - 0.5)
        return np.vstack([np.stack([x, middle - half(x)], 1), np.stack([x, middle + half(x)], 1)[::-1]])

    blade = band(-1, 1, lambda x: width * np.sin(np.pi * ((x + 1) / 2) ** fullness))
    stem = band(-1.45, -0.9, lambda x: np.full_like(x, 0.06))
    midrib = band(-0.85, 0.65, lambda x: 0.045 * (1 - (x + 0.85) / 2.4))
    return [(blade, BODY), (stem, BODY), (midrib, HOLE)]


def _house(rng: Generator) -> Layers:
    wall, eaves, ridge = rng.uniform(0.7, 0.8), rng.uniform(-0.2, 0.0), rng.uniform(-1.1, -0.9)
    door, chimney = rng.uniform(-0.35, 0.35), rng.choice([-1, 1]) * rng.uniform(0.4, 0.5)
    roof, stack = [[-1, eaves], [0, ridge], [1, eaves]], _box(chimney - 0.13, ridge, chimney + 0.13, eaves)
    solid = [(polygon, BODY) for polygon in (roof, stack, _box(-wall, eaves, wall, 1))]
    return [*solid, (_box(door - 0.17, 0.35, door + 0.17, 1.01), HOLE)]


def _key(rng: Generator) -> Layers:
    bow, eye, shaft = rng.uniform(0.42, 0.5), rng.uniform(0.2, 0.26), rng.uniform(0.1, 0.14)
    tooth, depth = rng.uniform(0.14, 0.18), rng.uniform(0.28, 0.4)
    head = [(_arc(-0.6, 0, bow, bow), BODY), (_arc(-0.6, 0, eye, eye), HOLE)]
    teeth = [(_box(x - tooth, 0, x, depth), BODY) for x in (1.0, 0.6)]
    return [*head, (_box(-0.6 + eye + 0.06, -shaft, 1, shaft), BODY), *teeth]


def _fish(rng: Generator) -> Layers:
    height, tail, fork = rng.uniform(0.42, 0.56), rng.uniform(0.36, 0.5), rng.uniform(0.08, 0.2)
    x = np.linspace(-1, 0.6, 40)
    half = height * np.sin(np.pi * ((x + 1) / 1.6) ** 0.8) ** 0.8
    body = np.vstack([np.stack([x, -half], 1), np.stack([x, half], 1)[::-1]])
    fan = [[0.3, 0], [1, -tail], [1 - fork, 0], [1, tail]]
    fin = [[-0.45, -height * 0.8], [-0.1, -height - 0.22], [0.2, -height * 0.6]]
    return [(body, BODY), (fan, BODY), (fin, BODY), (_arc(-0.65, -0.1, 0.07, 0.07), HOLE)]


def _bottle(rng: Generator) -> Layers:
    half, neck = rng.uniform(0.36, 0.44), rng.uniform(0.12, 0.16)
    shoulder, throat = rng.uniform(-0.2, 0.0), rng.uniform(-0.55, -0.42)
    t = np.linspace(0, np.pi, 20)
    slope = np.stack([half + (neck - half) * (1 - np.cos(t)) / 2, shoulder + (throat - shoulder) * t / np.pi], 1)
    right = np.vstack([[[half - 0.07, 1], [half, 0.93]], slope, [[neck, -0.86]]])
    return [(np.vstack([right, right[::-1] * [-1, 1]]), BODY), (_box(-neck - 0.06, -1, neck + 0.06, -0.84), BODY)]


def _gear(rng: Generator) -> Layers:
    teeth, root, hub = int(rng.integers(8, 11)), rng.uniform(0.72, 0.78), rng.uniform(0.24, 0.34)
    angle = (np.arange(teeth)[:, None] + np.array([-0.27, -0.17, 0.17, 0.27])).ravel() * 2 * np.pi / teeth
    return [(_polar(np.tile([root, 1.0, 1.0, root], teeth), angle), BODY), (_arc(0, 0, hub, hub), HOLE)]


def _mug(rng: Generator) -> Layers:
    half, taper, reach = rng.uniform(0.6, 0.7), rng.uniform(0.0, 0.1), rng.uniform(0.4, 0.5)
    x, rise, wall = half - 0.08, rng.uniform(0.48, 0.56), rng.uniform(0.17, 0.21)
    right = [[half, -0.85], [half - taper, 0.75], [half - taper - 0.12, 0.85]]
    left = [[-half + taper + 0.12, 0.85], [-half + taper, 0.75]]
    handle = [(_arc(x, 0, reach, rise), BODY), (_arc(x, 0, reach - wall, rise - wall), HOLE)]
    return [*handle, ([[-half, -0.85], *right, *left], BODY)]


_FAMILIES: dict[str, Callable[[Generator], Layers]] = {
    "arrow": _arrow, "bottle": _bottle, "circle": _circle, "crescent": _crescent, "cross": _cross, "fish": _fish,
    "heart": _heart, "house": _house, "key": _key, "star": _star, "gear": _gear, "leaf": _leaf, "mug": _mug,
    "ring": _ring, "square": _square, "triangle": _triangle,
}  # fmt: skip

SHAPES: tuple[str, ...] = tuple(_FAMILIES)
"""Names of the shape categories. A set of n classes takes the first n."""

TURNS = {"bottle": 25, "cross": 20, "fish": 25, "heart": 30, "house": 15, "mug": 15}
"""How far, in degrees either way, a shape may be turned and named still; others by any angle."""
