"""Renderings of a scene: functions from a `Scene` to pixels."""

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np

from lska.data.synthetic.render_styles import emboss, pencil, sketch
from lska.data.synthetic.scene import LUMA, Background, Paint, Scene
from lska.data.synthetic.seeds import generator
from lska.data.synthetic.textures import noise, texture_field
from lska.provenance.errors import InputError


def render(scene: Scene, style: str = "texture") -> np.ndarray:
    """Return the scene as uint8 RGB (size, size, 3) in one of `STYLES`; raises ValueError for an unknown style."""
    if style not in STYLES:
        raise InputError(f"unknown style {style!r}; choose from {', '.join(STYLES)}")
    return np.rint(STYLES[style](scene) * 255).astype(np.uint8)


def encode_jpeg(scene: Scene, quality: int, style: str = "texture") -> bytes:
    """Return the scene, drawn in one of `STYLES`, as the bytes of a JPEG file."""
    from PIL import Image

    stream = io.BytesIO()
    # Full-resolution colour: in small images the usual halving of the chroma planes smears the objects' edges.
    Image.fromarray(render(scene, style)).save(stream, "JPEG", quality=quality, subsampling=0)
    return stream.getvalue()


def save_jpeg(path: Path, scene: Scene, quality: int, style: str = "texture") -> None:
    """Write the scene, drawn in one of `STYLES`, as JPEG."""
    path.write_bytes(encode_jpeg(scene, quality, style))


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


def _background_field(background: Background, size: int, seed: int) -> np.ndarray:
    if background.texture is not None:
        return texture_field(background.texture, background.instance, size, seed)
    rng = generator("background", seed, background.instance)
    angle, axis = rng.uniform(0, 2 * np.pi), np.linspace(-0.5, 0.5, size)
    gradient = np.cos(angle) * axis[None, :] + np.sin(angle) * axis[:, None]
    return 0.5 + 0.6 * gradient + 0.06 * noise(rng, size, 1.5)


def _textured(scene: Scene) -> np.ndarray:
    clear = np.prod([1 - item.coverage for item in scene.objects], axis=0) * np.ones((scene.size, scene.size))
    field = _background_field(scene.background, scene.size, scene.seed)
    canvas = coloured(field, scene.background.paint, clear + 1e-6)
    for item in scene.objects:
        field = texture_field(item.labels.texture, item.labels.texture_instance, scene.size, scene.seed)
        alpha = item.coverage[..., None]
        canvas = canvas * (1 - alpha) + coloured(field, item.paint, item.mask) * alpha
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
    from PIL import Image, ImageFilter

    width = 2 * max(1, scene.size // 64) + 1
    lines = np.zeros((scene.size, scene.size))
    for item in scene.objects:
        inner = Image.fromarray((item.coverage * 255).astype(np.uint8)).filter(ImageFilter.MinFilter(width))
        contour = np.clip(item.coverage - np.asarray(inner) / 255, 0, 1)
        lines = lines * (1 - item.coverage) + contour
    return np.repeat(1 - 0.9 * np.clip(lines, 0, 1)[..., None], 3, axis=2)


STYLES: dict[str, Callable[[Scene], np.ndarray]] = {
    "texture": _textured,
    "flat": _flat,
    "outline": _outline,
    "pencil": pencil,
    "emboss": emboss,
    "sketch": sketch,
}
"""Ways to draw a scene, by name; each gives RGB (size, size, 3) in [0, 1]."""
