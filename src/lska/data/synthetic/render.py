"""Drawings of a scene in several styles: functions from a `Scene` to pixels.

Lengths are shares of the image side, but never less than pixels can show, so that a drawing looks alike at every size.
What is irregular in a drawing follows from its scene: equal scenes give equal drawings.
"""

import io
from collections.abc import Callable

import numpy as np
from numpy.random import Generator
from PIL import Image, ImageFilter

from lska.data.synthetic.scene import LUMA, Paint, Scene, SceneObject
from lska.data.synthetic.seeds import generator
from lska.data.synthetic.textures import noise, texture_field

LIGHT = np.array([-0.5, -0.62, 0.6])
"""Direction to the light of a relief: from the upper left, towards the viewer; x to the right, y downwards."""

SOFTNESS = 0.5
"""Width of the edge of a pencil stroke as a share of half the period."""


def render(scene: Scene, style: str = "texture") -> np.ndarray:
    """The scene as uint8 RGB (size, size, 3) in one of `STYLES`."""
    return np.rint(STYLES[style](scene) * 255).astype(np.uint8)


def encode_jpeg(pixels: np.ndarray, quality: int) -> bytes:
    """uint8 RGB (H, W, 3) as the bytes of a JPEG file."""
    stream = io.BytesIO()
    # Full-resolution colour: in small images the usual halving of the chroma planes smears the objects' edges.
    Image.fromarray(pixels).save(stream, "JPEG", quality=quality, subsampling=0)
    return stream.getvalue()


def coloured(field: np.ndarray, paint: Paint, weight: np.ndarray) -> np.ndarray:
    """Colour a field (size, size), giving RGB (size, size, 3) in [0, 1] whose mean under `weight` is `paint.mean`.

    The texture's contrast is lowered where it would leave the paint's range or a channel [0, 1]: clipping would shift
    the mean, and with it the contrast between object and background that the scene promises.
    """
    mean, step = np.array(paint.mean), np.array(paint.step)
    centred = field - np.average(field, weights=weight)
    inside = centred[weight > 0]
    # The luma is a fourth channel with limits of its own.
    middles, steps = np.append(mean, mean @ LUMA), np.append(step, step @ LUMA)
    highest = np.maximum(steps * inside.max(), steps * inside.min())
    lowest = np.minimum(steps * inside.max(), steps * inside.min())
    above = np.append(np.ones(3), paint.lightest) - middles
    below = middles - np.append(np.zeros(3), paint.darkest)
    share = min(1.0, (above / np.maximum(highest, 1e-9)).min(), (below / np.maximum(-lowest, 1e-9)).min())
    return mean + max(share, 0.0) * centred[..., None] * step


# --- Styles: each gives RGB (size, size, 3) in [0, 1] ----------------------------------------------------------------


def _textured(scene: Scene) -> np.ndarray:
    background, size = scene.background, scene.size
    if background.texture is not None:
        field = texture_field(background.texture, background.instance, size, scene.seed)
    else:
        rng = generator("background", scene.seed, background.instance)
        angle, axis = rng.uniform(0, 2 * np.pi), np.linspace(-0.5, 0.5, size)
        gradient = np.cos(angle) * axis[None, :] + np.sin(angle) * axis[:, None]
        field = 0.5 + 0.6 * gradient + 0.06 * noise(rng, size, 1.5)
    clear = np.prod([1 - item.coverage for item in scene.objects], axis=0) * np.ones((size, size))
    canvas = coloured(field, background.paint, clear + 1e-6)
    for item in scene.objects:
        alpha = item.coverage[..., None]
        canvas = canvas * (1 - alpha) + coloured(_field(item, scene), item.paint, item.mask) * alpha
    return np.clip(canvas, 0, 1)


def _flat(scene: Scene) -> np.ndarray:
    """Every object in its mean colour, without texture, before the mean colour of the background."""
    canvas = np.broadcast_to(np.array(scene.background.paint.mean), (scene.size, scene.size, 3))
    for item in scene.objects:
        alpha = item.coverage[..., None]
        canvas = canvas * (1 - alpha) + np.array(item.paint.mean) * alpha
    return canvas


def _outline(scene: Scene) -> np.ndarray:
    """Dark contours on white, drawn just inside every object, each object hiding the lines behind it."""
    width = 2 * max(1, scene.size // 64) + 1
    lines = np.zeros((scene.size, scene.size))
    for item in scene.objects:
        inner = Image.fromarray((item.coverage * 255).astype(np.uint8)).filter(ImageFilter.MinFilter(width))
        contour = np.clip(item.coverage - np.asarray(inner) / 255, 0, 1)
        lines = lines * (1 - item.coverage) + contour
    return _grey(1 - 0.9 * np.clip(lines, 0, 1))


def _pencil(scene: Scene) -> np.ndarray:
    """Every object on white paper with a dark contour, hatched the denser the darker its texture.

    A second layer of strokes crosses the first in the dark half.
    """
    from scipy.ndimage import gaussian_filter

    rng, size = _stream("pencil", scene), scene.size
    period, (y, x) = max(3.4, size / 22), np.mgrid[:size, :size]
    layers = []
    for angle in rng.uniform(-0.2, 0.2) + np.deg2rad([35, 125]):
        across = x * np.cos(angle) + y * np.sin(angle) + 0.25 * period * noise(rng, size, 2.0)
        # Distance to the middle of a stroke: 0 there, 1 half-way to the next.
        layers.append(np.abs((across / period + rng.uniform()) % 1 * 2 - 1))
    drawn = np.zeros((size, size))
    for item in scene.objects:
        # How dark each pixel is, without details that strokes cannot show.
        field = gaussian_filter(_field(item, scene), max(0.8, size / 60), mode="nearest")
        shade = np.clip(field if np.array(item.paint.step) @ LUMA < 0 else 1 - field, 0, 1)
        # Shares of the period that strokes are wide.
        widths = 0.15 + 0.55 * shade, 0.9 * (shade - 0.5)
        hatching = [
            np.clip((width - layer) / SOFTNESS + 0.5, 0, 1) * (width > 0)
            for width, layer in zip(widths, layers, strict=True)
        ]
        inside = 0.12 + 0.5 * np.maximum(*hatching)
        contour = 0.85 * _contour(item.coverage, max(0.55, size / 110))
        drawn = np.maximum(drawn * (1 - item.coverage) + inside * item.coverage, contour)
    return _grey(1 - np.clip(drawn, 0, 1))


def _sketch(scene: Scene) -> np.ndarray:
    """The edges of every object in dark, slightly irregular lines on white, those of its texture only faintly.

    Each contour is drawn twice by an unsteady hand, as in the black and white drawings of ImageNet-Sketch (Wang et
    al., "Learning Robust Global Representations by Penalizing Local Predictive Power", NeurIPS 2019).
    """
    from scipy.ndimage import map_coordinates

    rng, size = _stream("sketch", scene), scene.size
    width = max(0.6, size / 100)
    drawn = np.zeros((size, size))
    for item in scene.objects:
        strokes = []
        for _ in range(2):
            # The hand displaces points, rarely by more than a hundredth of the side.
            where = np.mgrid[:size, :size] + 0.006 * size * np.stack([noise(rng, size, 1.6) for _ in range(2)])
            shaken = map_coordinates(item.coverage, where, order=1, mode="nearest")
            strokes.append(_contour(shaken, width) * np.clip(0.85 + 0.15 * noise(rng, size, 1.5), 0.5, 1))
        detail = 0.16 * _contour(_field(item, scene), width) * item.coverage
        drawn = np.maximum.reduce([drawn * (1 - item.coverage), *strokes, detail])
    return _grey(1 - np.clip(0.92 * drawn, 0, 1))


def _emboss(scene: Scene) -> np.ndarray:
    """A grey relief under light from the upper left: raised objects, their texture as a faint one."""
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


def _contour(field: np.ndarray, width: float) -> np.ndarray:
    """Lines of standard deviation `width` (pixels) along the edges of a field, 1 at a sharp step from 0 to 1."""
    from scipy.ndimage import gaussian_gradient_magnitude

    # The pixel's own width adds to that of the filter.
    peak = np.sqrt(2 * np.pi * (width**2 + 1 / 12))
    return np.clip(gaussian_gradient_magnitude(field, width, mode="nearest") * peak, 0, 1)


def _grey(luma: np.ndarray) -> np.ndarray:
    return np.repeat(luma[..., None], 3, axis=2)


STYLES: dict[str, Callable[[Scene], np.ndarray]] = {
    "texture": _textured, "flat": _flat, "outline": _outline, "pencil": _pencil, "emboss": _emboss, "sketch": _sketch,
}  # fmt: skip
"""Ways to draw a scene, by name."""
