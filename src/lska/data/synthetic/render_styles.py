"""Drawings of a scene, by hand and in relief; each gives grey RGB (size, size, 3) in [0, 1].

Lengths are shares of the image side, but never less than pixels can show, so that a drawing looks alike at every size.
What is irregular in a drawing follows from its scene: equal scenes give equal drawings.
"""

import numpy as np
from numpy.random import Generator

from lska.data.synthetic.scene import LUMA, Scene, SceneObject
from lska.data.synthetic.seeds import generator
from lska.data.synthetic.textures import noise, texture_field

LIGHT = np.array([-0.5, -0.62, 0.6])
"""Direction to the light of a relief: from the upper left, towards the viewer; x to the right, y downwards."""

SOFTNESS = 0.5
"""Width of the edge of a pencil stroke as a share of half the period."""


def pencil(scene: Scene) -> np.ndarray:
    """Draw every object on white paper with a dark contour, hatched the denser the darker its texture.

    A second layer of strokes crosses the first in the dark half.
    """
    rng, size = _stream("pencil", scene), scene.size
    layers = [_strokes(rng, size, angle) for angle in rng.uniform(-0.2, 0.2) + np.deg2rad([35, 125])]
    drawn = np.zeros((size, size))
    for item in scene.objects:
        shade = _shade(item, scene)
        hatching = [_inked(layers[0], 0.15 + 0.55 * shade), _inked(layers[1], 0.9 * (shade - 0.5))]
        inside = 0.12 + 0.5 * np.maximum(*hatching)
        contour = 0.85 * _contour(item.coverage, max(0.55, size / 110))
        drawn = np.maximum(drawn * (1 - item.coverage) + inside * item.coverage, contour)
    return _on_paper(drawn)


def sketch(scene: Scene) -> np.ndarray:
    """Draw the edges of every object in dark, slightly irregular lines on white, those of its texture only faintly.

    Each contour is drawn twice by an unsteady hand, as in the black and white drawings of ImageNet-Sketch (Wang et
    al., "Learning Robust Global Representations by Penalizing Local Predictive Power", NeurIPS 2019).
    """
    rng, size = _stream("sketch", scene), scene.size
    width = max(0.6, size / 100)
    drawn = np.zeros((size, size))
    for item in scene.objects:
        strokes = [
            _contour(_shaken(item.coverage, rng), width) * np.clip(0.85 + 0.15 * noise(rng, size, 1.5), 0.5, 1)
            for _ in range(2)
        ]
        detail = 0.16 * _contour(_field(item, scene), width) * item.coverage
        drawn = np.maximum.reduce([drawn * (1 - item.coverage), *strokes, detail])
    return _on_paper(0.92 * drawn)


def emboss(scene: Scene) -> np.ndarray:
    """Draw the scene as a grey relief under light from the upper left: raised objects, their texture as a faint one."""
    from scipy.ndimage import gaussian_filter, sobel

    bevel = max(0.9, scene.size / 55)
    height = np.zeros((scene.size, scene.size))
    for number, item in enumerate(scene.objects, start=1):
        # Each object lies on those behind it, or their common border would not show.
        level = number + 0.3 * (gaussian_filter(_field(item, scene), bevel / 2, mode="nearest") - 0.5)
        height = height * (1 - item.coverage) + level * item.coverage
    height = 2.0 * bevel * gaussian_filter(height, bevel / 2, mode="nearest")
    x, y = (sobel(height, axis=axis, mode="nearest") / 8 for axis in (1, 0))
    brightness = (LIGHT[2] - LIGHT[0] * x - LIGHT[1] * y) / np.sqrt(1 + x**2 + y**2)
    return _grey(np.clip(0.5 * brightness / LIGHT[2], 0, 1))


def _stream(style: str, scene: Scene) -> Generator:
    # The background's instance number is the scene's own.
    return generator(style, scene.seed, scene.background.instance)


def _field(item: SceneObject, scene: Scene) -> np.ndarray:
    return texture_field(item.labels.texture, item.labels.texture_instance, scene.size, scene.seed)


def _shade(item: SceneObject, scene: Scene) -> np.ndarray:
    """Return how dark each pixel of the object is, from 0 to 1, without details that strokes cannot show."""
    from scipy.ndimage import gaussian_filter

    field = gaussian_filter(_field(item, scene), max(0.8, scene.size / 60), mode="nearest")
    return np.clip(field if np.array(item.paint.step) @ LUMA < 0 else 1 - field, 0, 1)


def _strokes(rng: Generator, size: int, angle: float) -> np.ndarray:
    """Return the distance of each pixel to the middle of a parallel stroke: 0 there, 1 half-way to the next stroke."""
    period = max(3.4, size / 22)
    y, x = np.mgrid[:size, :size]
    across = x * np.cos(angle) + y * np.sin(angle) + 0.25 * period * noise(rng, size, 2.0)
    return np.abs((across / period + rng.uniform()) % 1 * 2 - 1)


def _inked(distance: np.ndarray, share: np.ndarray) -> np.ndarray:
    """Return how dark strokes that are `share` of their period wide are at each pixel, from 0 to 1, with soft edges."""
    return np.clip((share - distance) / SOFTNESS + 0.5, 0, 1) * (share > 0)


def _contour(field: np.ndarray, width: float) -> np.ndarray:
    """Return lines of standard deviation `width` (pixels) along the edges of a field, 1 at a sharp step from 0 to 1."""
    from scipy.ndimage import gaussian_gradient_magnitude

    # The pixel's own width adds to that of the filter.
    peak = np.sqrt(2 * np.pi * (width**2 + 1 / 12))
    return np.clip(gaussian_gradient_magnitude(field, width, mode="nearest") * peak, 0, 1)


def _shaken(coverage: np.ndarray, rng: Generator) -> np.ndarray:
    """Displace the points, rarely by more than a hundredth of the side, as an unsteady hand does."""
    from scipy.ndimage import map_coordinates

    size = coverage.shape[0]
    where = np.mgrid[:size, :size] + 0.006 * size * np.stack([noise(rng, size, 1.6) for _ in range(2)])
    return map_coordinates(coverage, where, order=1, mode="nearest")


def _on_paper(darkness: np.ndarray) -> np.ndarray:
    return _grey(1 - np.clip(darkness, 0, 1))


def _grey(luma: np.ndarray) -> np.ndarray:
    return np.repeat(luma[..., None], 3, axis=2)
