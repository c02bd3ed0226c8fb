"""Texture categories: families of grey fields, procedural and photographic.

A field is a square float32 array with values in [0, 1]; a scene maps it to colours. Lengths are shares of the canvas
side, so that an instance looks the same at every image size. A texture *instance* is one draw of a family's period,
direction, phase and irregularity, or one crop of a photograph.
"""

from collections.abc import Callable
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from numpy.random import Generator
from PIL import Image

from lska.data.synthetic.seeds import HELD_OUT, generator
from lska.provenance.files import MissingFileError

LATTICE = 64
"""Side of the lattice on which noise is drawn before it is resized to the canvas."""

TRAINING_SHARE = 0.625
"""Share of a photograph's rows, from the top, that training instances are cropped from; the rest is held out."""


def texture_field(texture: str, instance: int, size: int, seed: int = 0) -> np.ndarray:
    """A texture instance as a float32 field (size, size) with values in [0, 1]."""
    rng = generator("texture", seed, texture, instance)
    if texture not in PHOTOS:
        return _stretched(DRAWN[texture](rng, size))
    file, smallest, largest, gamma = PHOTOS[texture]
    picture = photograph(file)
    border = round(picture.shape[0] * TRAINING_SHARE)
    region = picture[border:] if instance >= HELD_OUT else picture[:border]
    side = int(rng.integers(smallest, largest + 1))
    top, left = (int(rng.integers(0, extent - side + 1)) for extent in region.shape)
    square = np.rot90(region[top : top + side, left : left + side], int(rng.integers(4)))
    square = square[:, ::-1] if rng.random() < 0.5 else square
    resized = Image.fromarray(np.ascontiguousarray(square)).resize((size, size), Image.Resampling.LANCZOS)
    return _stretched(np.asarray(resized, dtype=np.float32)) ** np.float32(gamma)


def _stretched(field: np.ndarray) -> np.ndarray:
    """The field with its 1st to 99th percentile mapped to [0, 1]."""
    low, high = np.percentile(field, [1, 99])
    return np.clip((field - low) / max(high - low, 1e-6), 0, 1).astype(np.float32)


@cache
def photograph(file: str) -> np.ndarray:
    """A photograph from scikit-image's own files as uint8 luma (H, W); `skimage.data` itself could start a download."""
    package = find_spec("skimage")
    path = Path(next(iter(package.submodule_search_locations)) if package else "skimage") / "data" / file
    if not path.is_file():
        raise MissingFileError(f"photographic texture not found: {path}; install scikit-image, whose wheel contains it")
    return np.asarray(Image.open(path).convert("L"))


def noise(rng: Generator, size: int, falloff: float) -> np.ndarray:
    """Gaussian noise (size, size), zero mean and unit deviation, its amplitude falling as frequency^-falloff."""
    frequency = np.hypot(np.fft.fftfreq(LATTICE)[:, None], np.fft.rfftfreq(LATTICE)[None, :])
    frequency[0, 0] = np.inf
    spectrum = np.fft.rfft2(rng.standard_normal((LATTICE, LATTICE))) * frequency**-falloff
    field = np.fft.irfft2(spectrum, s=(LATTICE, LATTICE)).astype(np.float32)
    if size != LATTICE:
        field = np.asarray(Image.fromarray(field).resize((size, size), Image.Resampling.BICUBIC))
    return (field - field.mean()) / field.std()


# --- Drawn families --------------------------------------------------------------------------------------------------


def _axes(rng: Generator, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Two perpendicular coordinates, each (size, size), at a random angle and offset."""
    centre = (np.arange(size) + 0.5) / size
    x, y = np.meshgrid(centre, centre)
    angle, (dx, dy) = rng.uniform(0, 2 * np.pi), rng.uniform(2, 3, 2)
    return x * np.cos(angle) + y * np.sin(angle) + dx, y * np.cos(angle) - x * np.sin(angle) + dy


def _soft(distance: np.ndarray) -> np.ndarray:
    """A signed distance to an edge as a field whose edge is one pixel wide."""
    return np.clip(0.5 + distance * distance.shape[0], 0, 1)


def _from_middle(coordinate: np.ndarray, period: float) -> np.ndarray:
    """The distance to the middle of the nearest period, at most period / 2."""
    return np.abs(coordinate % period - period / 2)


def _stripes(rng: Generator, size: int) -> np.ndarray:
    u, _ = _axes(rng, size)
    period = rng.uniform(0.09, 0.17)
    return _soft(period * rng.uniform(0.2, 0.3) - _from_middle(u, period))


def _waves(rng: Generator, size: int) -> np.ndarray:
    u, v = _axes(rng, size)
    period, length = rng.uniform(0.1, 0.15), rng.uniform(0.22, 0.34)
    u = u + length * rng.uniform(0.16, 0.22) * np.sin(2 * np.pi * v / length)
    return _soft(period / 4 - _from_middle(u, period))


def _dots(rng: Generator, size: int) -> np.ndarray:
    u, v = _axes(rng, size)
    period = rng.uniform(0.12, 0.19)
    u = u + period / 2 * (np.floor(v / period) % 2)
    return _soft(period * rng.uniform(0.26, 0.36) - np.hypot(_from_middle(u, period), _from_middle(v, period)))


def _checkers(rng: Generator, size: int) -> np.ndarray:
    u, v = _axes(rng, size)
    period = rng.uniform(0.16, 0.28)
    a, b = period / 4 - _from_middle(u, period), period / 4 - _from_middle(v, period)
    return _soft(np.sign(a * b) * np.minimum(np.abs(a), np.abs(b)))


def _grid(rng: Generator, size: int) -> np.ndarray:
    u, v = _axes(rng, size)
    period = rng.uniform(0.1, 0.17)
    return _soft(np.maximum(_from_middle(u, period), _from_middle(v, period)) - period * rng.uniform(0.38, 0.42))


def _weave(rng: Generator, size: int) -> np.ndarray:
    u, v = _axes(rng, size)
    period = rng.uniform(0.09, 0.14)
    over = (np.floor(u / period) + np.floor(v / period)) % 2 == 0
    across, along = np.where(over, u, v), np.where(over, v, u)
    thread = 1 - (_from_middle(across, period) / (period / 2)) ** 2
    return thread * (1 - 0.5 * (_from_middle(along, period) / (period / 2)) ** 2) - 0.25 * over


def _scales(rng: Generator, size: int) -> np.ndarray:
    u, v = _axes(rng, size)
    width = rng.uniform(0.14, 0.22)
    height, radius = width / 2, width * 0.6
    shade = np.zeros_like(u)
    for back in (0, 1, 2):
        row = np.floor(v / height) - back
        across = (u + row % 2 * width / 2 + width / 2) % width - width / 2
        distance = np.hypot(across, v - row * height)
        shade = np.where(distance <= radius, 1 - (distance / radius) ** 3, shade)
    return shade


def _marble(rng: Generator, size: int) -> np.ndarray:
    u, _ = _axes(rng, size)
    phase = u / rng.uniform(0.3, 0.45) + rng.uniform(0.25, 0.35) * noise(rng, size, 1.7)
    return np.abs(np.sin(np.pi * phase)) ** 0.5


def _cracks(rng: Generator, size: int) -> np.ndarray:
    cells = int(rng.integers(5, 8))
    lattice = np.stack(np.meshgrid(*[np.arange(-1, cells + 1)] * 2), -1)
    nodes = (lattice + rng.uniform(0, 1, (cells + 2, cells + 2, 2))) / cells
    centre = (np.arange(size) + 0.5) / size
    dx, dy = (centre[:, None] - nodes[..., axis].ravel() for axis in (0, 1))
    squared = np.partition(dy[:, None] ** 2 + dx[None, :] ** 2, 1, axis=2)[..., :2]
    nearest, second = np.sqrt(squared[..., 0]), np.sqrt(squared[..., 1])
    return _soft((second - nearest) / 2 - rng.uniform(0.012, 0.02))


def _clouds(rng: Generator, size: int) -> np.ndarray:
    return noise(rng, size, rng.uniform(1.4, 1.7))


def _grain(rng: Generator, size: int) -> np.ndarray:
    return noise(rng, size, rng.uniform(0.0, 0.2))


DRAWN: dict[str, Callable[[Generator, int], np.ndarray]] = {
    "checkers": _checkers, "clouds": _clouds, "cracks": _cracks, "dots": _dots, "grain": _grain, "grid": _grid,
    "marble": _marble, "scales": _scales, "stripes": _stripes, "waves": _waves, "weave": _weave,
}  # fmt: skip
"""Families that are drawn anew for every instance; each function gives a field (size, size) of any range."""

PHOTOS = {
    "brick": ("brick.png", 110, 180, 1.0),
    "grass": ("grass.png", 90, 160, 1.0),
    "gravel": ("gravel.png", 90, 150, 1.0),
    "starfield": ("hubble_deep_field.jpg", 200, 320, 0.5),
    "tissue": ("ihc.png", 110, 180, 1.0),
}
"""Photographs that scikit-image's wheel contains: file, least and largest side of a crop in the photograph's pixels,
exponent of the field (below 1 it brings out faint detail)."""

TEXTURES: tuple[str, ...] = (*DRAWN, *PHOTOS)
"""Names of the texture categories, procedural ones first."""
