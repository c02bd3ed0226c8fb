"""Corruptions of ImageNet-C-bar that lay shapes over the image or bend it.

Each takes an image (S, S, 3) in 0 to 255, a level (published severity / 10) and a generator, and returns the corrupted
image. Source: imagenet_c_bar/corrupt.py of the published code.
"""

from __future__ import annotations

import numpy as np

from lska.data.perturbed.c_bar_fields import grid

SPARKLES = 5
"""Stars on an image."""

WHITE, GREY = 255.0, 128.0
"""Colours of the sparkles and of the cut-out squares."""

REFRACTIVE_INDEX = 4.0
"""Of the caustic lens."""


def sparkles(image: np.ndarray, level: float, rng: np.random.Generator) -> np.ndarray:
    """Lay white stars of radius level / 10 of the side over the image; their light falls with the distance squared."""
    size = len(image)
    radius = 0.1 * level * size
    for centre in rng.uniform(0, size, (SPARKLES, 2)):
        rays = radius * (1 + 0.25 * rng.standard_normal(rng.integers(50, 200)))
        light = _star(size, centre, np.maximum(rays, 1), 1.0)
        image = image + light * (WHITE - image)
    return image


def inverse_sparkles(image: np.ndarray, level: float, rng: np.random.Generator) -> np.ndarray:
    """Show the image through one star of a quarter of the side, white elsewhere; the level sharpens its rim."""
    size = len(image)
    rays = 0.25 * size * (1 + 0.25 * rng.standard_normal(rng.integers(50, 200)))
    light = _star(size, rng.uniform(0.25, 0.75, 2) * size, rays, 65 * level / 50)
    return WHITE + light * (image - WHITE)


def _star(size: int, centre: np.ndarray, rays: np.ndarray, exponent: float) -> np.ndarray:
    """Light of a star in 0 to 1, shape (size, size, 1).

    Args:
        centre: row and column in pixels.
        rays: lengths of the rays in pixels, evenly spread over the circle, interpolated between.
        exponent: of the squared ratio of ray length to distance.
    """
    rows, columns = grid(size)
    down, across = rows - centre[0], columns - centre[1]
    position = (np.arctan2(across, down) + np.pi) / (2 * np.pi) * len(rays)
    ray = position.astype(int)
    between = position - ray
    first, second = rays[ray % len(rays)], rays[(ray + 1) % len(rays)]
    length = first + between * (second - first)
    fall = (length**2 / (down**2 + across**2 + 1e-4)) ** exponent
    return np.clip((1 - (between - 0.5) ** 2) * fall, 0, 1)[..., None]


def checkerboard_cutout(image: np.ndarray, level: float, rng: np.random.Generator) -> np.ndarray:
    """Turn a share `level` of the dark squares of a rotated checkerboard grey; a square has 0.1 to 0.25 of the side."""
    size = len(image)
    rows, columns = grid(size)
    angle, scale = rng.uniform(0, 2 * np.pi), max(rng.uniform(0.1, 0.25) * size, 1)
    chosen = rng.uniform(size=(int(4 * size // scale),) * 2) < level
    along = (np.cos(angle) * rows + np.sin(angle) * columns) / scale
    across = (np.cos(angle) * columns - np.sin(angle) * rows) / scale
    # Truncation merges the cells on both sides of an axis into one choice, as in the published code; the alternation
    # itself does not suffer.
    cut = ((along % 2).astype(int) == (across % 2).astype(int)) & chosen[along.astype(int), across.astype(int)]
    return np.where(cut[..., None], GREY, image)


def caustic_refraction(image: np.ndarray, level: float, rng: np.random.Generator) -> np.ndarray:
    """Look at the image through rippled water: bent by level / 2 of the side at most, lit by the slope of the ripples.

    The lens is a caustic pattern; a ray from above is refracted by `REFRACTIVE_INDEX` at its surface normal.
    """
    from scipy.ndimage import map_coordinates

    size = len(image)
    pattern = _caustics(size, rng.uniform(0.5, 2), rng.uniform(0.75, 1.25) * size)
    padded = np.pad(pattern, 1)
    down, across = padded[2:, 1:-1] - padded[:-2, 1:-1], padded[1:-1, 2:] - padded[1:-1, :-2]
    upright = 1 / np.sqrt(down**2 + across**2 + 1)
    refracted = np.sqrt(1 - (1 - upright**2) / REFRACTIVE_INDEX**2)
    # Nearly flat places do not bend: the published code avoids an ill-defined axis of rotation there.
    bend = np.where(upright >= 1 - 1e-3, 0, 0.5 * level * size * upright * (refracted - upright / REFRACTIVE_INDEX))
    rows, columns = grid(size)
    places = np.stack([rows + np.round(bend * down, 3), columns + np.round(bend * across, 3)])
    bent = [map_coordinates(image[..., c], places, order=1, mode="grid-constant", cval=0.0) for c in range(3)]
    return np.stack(bent, axis=2) + WHITE * 2 * level * (down - across)[..., None]


def _caustics(size: int, time: float, period: float) -> np.ndarray:
    """Caustic pattern in 0 to 1, shape (size, size), blurred with a deviation of one pixel.

    Args:
        time: phase of the pattern.
        period: its length in pixels.
    """
    from scipy.ndimage import gaussian_filter

    rows, columns = (axis / period % 1 * 2 * np.pi - 250 for axis in grid(size))
    light = np.ones((size, size))
    down, across = rows, columns
    for step in range(1, 6):
        moment = time * (1 - 3.5 / step)
        shift_down = np.cos(moment - down) + np.sin(moment + across)
        shift_across = np.sin(moment - across) + np.cos(moment + down)
        down, across = rows + shift_down, columns + shift_across
        slant = np.hypot(rows / np.sin(down + moment), columns / np.cos(across + moment))
        light += 1 / (0.005 * slant)
    return gaussian_filter(np.clip(np.abs(1.17 - (light / 5) ** 1.4) ** 8, 0, 1), sigma=1)
