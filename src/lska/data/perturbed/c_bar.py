"""The 10 corruptions of ImageNet-C-bar (Mintun, Kirillov and Xie, NeurIPS 2021), after their published definitions.

Parameters, their ranges and the severity scale are those of the published generator; what it ties to the image size is
tied to it here. Only the random numbers differ, as they come from another kind of generator.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from lska.data.perturbed.c_bar_fields import (
    blue_noise_sample,
    brownish_noise,
    cocentric_sine_waves,
    perlin_noise,
    plasma_noise,
    single_frequency_greyscale,
)
from lska.data.perturbed.c_bar_shapes import caustic_refraction, checkerboard_cutout, inverse_sparkles, sparkles
from lska.data.perturbed.common import check_arguments
from lska.data.perturbed.names import C_BAR

Corruption = Callable[[np.ndarray, float, np.random.Generator], np.ndarray]

CORRUPTIONS: dict[str, Corruption] = {
    function.__name__: function
    for function in (
        *(blue_noise_sample, plasma_noise, checkerboard_cutout, cocentric_sine_waves, single_frequency_greyscale),
        *(brownish_noise, perlin_noise, sparkles, inverse_sparkles, caustic_refraction),
    )
}
"""Functions of an image (S, S, 3) in 0 to 255, a level (published severity / 10) and a generator, giving the same."""


def corrupt(image: np.ndarray, corruption: str, severity: int, seed: int) -> np.ndarray:
    """Return a corrupted copy of a square image; uint8 RGB (S, S, 3) in and out.

    Equal arguments give equal pixels.

    Args:
        corruption: one of `C_BAR`.
        severity: 1 to 5, which stands for the published value in `C_BAR[corruption]`.
        seed: of everything random; at another severity it gives the same random choices.

    Raises:
        ValueError: unknown corruption, severity or seed out of range, or an image of another kind, below 32 pixels or
            not square (the published definitions know one side).
    """
    check_arguments(image, corruption, severity, seed, tuple(C_BAR))
    if image.shape[0] != image.shape[1]:
        raise ValueError(f"image must be square, found {image.shape[0]} x {image.shape[1]} pixels; crop it first")
    level = C_BAR[corruption][severity - 1] / 10
    corrupted = CORRUPTIONS[corruption](image.astype(np.float64), level, np.random.default_rng(seed))
    # Truncated, not rounded, as the published generator does.
    return np.clip(corrupted, 0, 255).astype(np.uint8)
