"""Corruptions of ImageNet-C-bar that mix the image with a field of noise or waves, or mask it by one.

Each takes an image (S, S, 3) in 0 to 255, a level (published severity / 10) and a generator, and returns the corrupted
image, which may exceed that range. Source: imagenet_c_bar/corrupt.py of the published code.
"""

from __future__ import annotations

import numpy as np

LATTICE = 256
"""Period of the gradient lattice of Perlin noise in cells."""


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
    """Perlin's gradient noise at broadcast coordinates `x`, `y` >= 0 in cells, scaled by 1.5 as published.

    Args:
        order: permutation of the `LATTICE` gradients.
        gradients: unit vectors (LATTICE, 2).
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
