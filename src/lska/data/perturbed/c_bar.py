"""The 10 corruptions of ImageNet-C-bar (Mintun, Kirillov and Xie, NeurIPS 2021), after their published definitions.

Each takes an image (S, S, 3) in 0 to 255, a level (published severity / 10) and a generator, and returns the corrupted
image, which may exceed that range. Parameters, their ranges and the severity scale are those of the published generator
(imagenet_c_bar/corrupt.py); what it ties to the image size is tied to it here. Only the random numbers differ, as they
come from another kind of generator.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy.ndimage import gaussian_filter, map_coordinates

LATTICE = 256
"""Period of the gradient lattice of Perlin noise in cells."""

SPARKLES = 5
"""Stars on an image."""

WHITE, GREY = 255.0, 128.0
"""Colours of the sparkles and of the cut-out squares."""

REFRACTIVE_INDEX = 4.0
"""Of the caustic lens."""


def grid(size: int) -> tuple[np.ndarray, np.ndarray]:
    """Row and column numbers of the pixels, float, of shapes (size, 1) and (1, size)."""
    numbers = np.arange(size, dtype=np.float64)
    return numbers[:, None], numbers[None, :]


def single_frequency_greyscale(image: np.ndarray, level: float, rng: np.random.Generator) -> np.ndarray:
    """Add a plane wave of one spatial frequency, up to half a cycle per pixel, with amplitude 196 level."""
    y, x = grid(len(image))
    first = rng.uniform(-np.pi, np.pi)
    second = rng.uniform(-abs(first), abs(first))
    across, down = rng.permutation([first, second])
    wave = np.sin(x * across + y * down + rng.uniform(0, 2 * np.pi))
    return image + 196 * level * wave[..., None]


def cocentric_sine_waves(image: np.ndarray, level: float, rng: np.random.Generator) -> np.ndarray:
    """Add rings around a point, wavy along the angle, that rise from -64 level to 64 level within each ring."""
    size = len(image)
    y, x = grid(size)
    centre_x, centre_y = rng.uniform(0, size, 2)
    frequency, amplitude, width = rng.uniform(0, 10), rng.uniform(0, size / 10), rng.uniform(0, size / 10)
    angle = np.arctan2(x - centre_x, y - centre_y) * frequency
    distance = np.hypot(x - centre_x, y - centre_y) + amplitude * np.sin(angle)
    return image + 128 * level * (distance % width / width - 0.5)[..., None]


def plasma_noise(image: np.ndarray, level: float, rng: np.random.Generator) -> np.ndarray:
    """Blend the image with coloured plasma of amplitude 64 level: sines of coordinates that sines have warped."""
    size = len(image)
    time, iterations = rng.uniform(0, 6 * np.pi), rng.integers(4, 7)
    sharpness, scale = rng.uniform(0.5, 1), rng.uniform(0.075, 0.2) * size
    y, x = (axis / scale for axis in grid(size))
    for step in range(iterations):
        frequency, divisor, phase = 1.93**step, (2.25 - sharpness) ** step, time / 1.15**step
        along, turned = np.cos(y * frequency + phase) / divisor, np.sin(x * frequency + phase) / divisor
        x, y = x + along - 0.3 * turned, y + turned + 0.3 * along
    plasma = np.stack([np.sin(x - time), np.sin((x + y + np.sin(time)) / 2), np.sin(y + time)], axis=2)
    intensity = 64 * level
    return (1 - intensity / 255) * image + intensity * plasma


def perlin_noise(image: np.ndarray, level: float, rng: np.random.Generator) -> np.ndarray:
    """Blend the image, with weight level / 2, with grey turbulence from cells of a seventh of the side."""
    size = len(image)
    cell = 32 * size / 224
    y, x = (axis / cell for axis in grid(size))
    cloud = np.clip(0.5 + 0.5 * _turbulence(x, y, 16, rng), 0, 1)
    alpha = 0.5 * level
    return (1 - alpha) * image + alpha * 255 * cloud[..., None]


def brownish_noise(image: np.ndarray, level: float, rng: np.random.Generator) -> np.ndarray:
    """Add noise of amplitude 1 / (f^2 + 1) at frequency f, independent in each channel, with deviation 64 level."""
    amplitude = 1 / (_frequencies(len(image)) ** 2 + 1)
    noise = np.stack([_shaped_noise(amplitude, rng) for _ in range(3)], axis=2)
    return image + 64 * level * noise


def blue_noise_sample(image: np.ndarray, level: float, rng: np.random.Generator) -> np.ndarray:
    """Blacken the pixels where noise of amplitude f at frequency f lies below 3 level - 2.5 deviations."""
    noise = _shaped_noise(_frequencies(len(image)), rng)
    return image * (noise > 3 * level - 2.5)[..., None]


def _frequencies(size: int) -> np.ndarray:
    """Distance of each spectral position from the middle of the spectrum, size / 2; shape (size, size)."""
    y, x = grid(size)
    return np.hypot(y - size / 2, x - size / 2)


def _shaped_noise(amplitude: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Noise (size, size) of unit deviation whose spectrum has the given amplitudes and random phases."""
    size = len(amplitude)
    phases = np.zeros((size, size))
    half = rng.uniform(0, 2 * np.pi, (size, size // 2))
    # The phases are mirrored at the middle, not negated as a real signal's would be: the published code takes the real
    # part of the inverse transform instead.
    phases[:, : size // 2], phases[:, size - size // 2 :] = half, half[::-1, ::-1]
    if size % 2:
        column = rng.uniform(0, 2 * np.pi, size // 2)
        phases[: size // 2, size // 2], phases[size - size // 2 :, size // 2] = column, column[::-1]
    spectrum = np.roll(amplitude * np.exp(1j * phases), size // 2, axis=(0, 1))
    noise = np.fft.ifft2(spectrum).real
    return noise / noise.std()


def _turbulence(x: np.ndarray, y: np.ndarray, octaves: int, rng: np.random.Generator) -> np.ndarray:
    """Sum of |Perlin noise| at frequencies 1, 2, 4 ... `octaves`, each divided by its frequency."""
    order = rng.permutation(LATTICE)
    gradients = (rng.integers(0, 2 * LATTICE, (LATTICE, 2)) - LATTICE) / LATTICE
    # A vector of two zeros, one in 262,144, has no direction.
    gradients /= np.maximum(np.linalg.norm(gradients, axis=1, keepdims=True), 1 / LATTICE)
    total, frequency = np.zeros(np.broadcast_shapes(x.shape, y.shape)), 1
    while frequency <= octaves:
        total += np.abs(_perlin(x * frequency, y * frequency, order, gradients)) / frequency
        frequency *= 2
    return total


def _perlin(x: np.ndarray, y: np.ndarray, order: np.ndarray, gradients: np.ndarray) -> np.ndarray:
    """Perlin's noise at broadcast coordinates `x`, `y` >= 0 in cells, scaled by 1.5 as published.

    `order` is a permutation of the `gradients`, unit vectors (LATTICE, 2).
    """
    left, top = np.floor(x).astype(int), np.floor(y).astype(int)
    inside_x, inside_y = x - left, y - top

    def corner(across: int, down: int) -> np.ndarray:
        row = order[(left + across) % LATTICE]
        gradient = gradients[order[(row + top + down) % LATTICE]]
        return (inside_x - across) * gradient[..., 0] + (inside_y - down) * gradient[..., 1]

    smooth_x, smooth_y = (inside**2 * (3 - 2 * inside) for inside in (inside_x, inside_y))
    upper = corner(0, 0) + smooth_x * (corner(1, 0) - corner(0, 0))
    lower = corner(0, 1) + smooth_x * (corner(1, 1) - corner(0, 1))
    return 1.5 * (upper + smooth_y * (lower - upper))


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
    """Light of a star around `centre` in 0 to 1, shape (size, size, 1), with `rays` evenly spread over the circle.

    Lengths are in pixels; `exponent` is that of the squared ratio of ray length to distance.
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
    """Caustic pattern in 0 to 1, shape (size, size), blurred by one pixel, with phase `time` and `period` in pixels."""
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


CORRUPTIONS: dict[str, Callable[[np.ndarray, float, np.random.Generator], np.ndarray]] = {
    function.__name__: function for function in (
        blue_noise_sample, plasma_noise, checkerboard_cutout, cocentric_sine_waves, single_frequency_greyscale,
        brownish_noise, perlin_noise, sparkles, inverse_sparkles, caustic_refraction,
    )
}  # fmt: skip
"""The corruptions by their published names."""
