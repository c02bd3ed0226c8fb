"""The corruptions of ImageNet-C and ImageNet-C-bar, deterministic, as functions of an image.

Those of ImageNet-C are the library `imagecorruptions`'s, but for four that it makes otherwise than published.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

from lska.data.perturbed import c_bar
from lska.data.perturbed.names import C_BAR, FAMILIES, SEVERITIES
from lska.data.synthetic.value_checks import check_choice, check_range
from lska.provenance.errors import InputError

SMALLEST = 32
"""Least side of an image in pixels; the library refuses smaller ones."""

OWN_SEED = ("impulse_noise", "glass_blur")
"""Corruptions of the library that draw from a generator of their own; the others use NumPy's global one."""


def corrupt(family: str, image: np.ndarray, corruption: str, severity: int, seed: int) -> np.ndarray:
    """Return a corrupted copy of an image; uint8 RGB (H, W, 3) in and out, for `c_bar` square.

    Equal arguments give equal pixels, and NumPy's global generator is left as it was. At 224 pixels what is done is
    what the published generators do (docs/methods.md says what was compared). Strengths of `c` are those for 224 pixels
    whatever the image size, but for the elastic transform's, which grow with it. Spatter on a small image may have no
    drop, which the published formula divides by; the image then stays clean.

    Args:
        corruption: one of `FAMILIES[family]`.
        severity: 1 to 5; for `c_bar` it stands for the published value in `C_BAR[corruption]`.
        seed: any non-negative integer; the library's generators use its lowest 32 bits. At another severity of `c_bar`
            it gives the same random choices.

    Raises:
        ValueError: unknown corruption, severity or seed out of range, or an image of another kind, below 32 pixels, or
            for `c_bar` not square (the published definitions know one side).
    """
    check_choice("corruption", corruption, FAMILIES[family])
    check_range("severity", severity, SEVERITIES[0], SEVERITIES[-1])
    check_range("seed", seed, 0, 2**64 - 1)
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or min(image.shape[:2]) < SMALLEST:
        raise InputError(
            f"image must be uint8 RGB (H, W, 3) with sides of at least {SMALLEST} pixels, "
            f"found {image.dtype} {image.shape}; convert it or choose a larger size"
        )
    if family == "c":
        return _of_imagenet_c(image, corruption, severity, seed)
    if image.shape[0] != image.shape[1]:
        raise InputError(f"image must be square, found {image.shape[0]} x {image.shape[1]} pixels; crop it first")
    level = C_BAR[corruption][severity - 1] / 10
    pixels = c_bar.CORRUPTIONS[corruption](image.astype(np.float64), level, np.random.default_rng(seed))
    # Truncated, not rounded, as the published generator does.
    return np.clip(pixels, 0, 255).astype(np.uint8)


def _of_imagenet_c(image: np.ndarray, corruption: str, severity: int, seed: int) -> np.ndarray:
    import imagecorruptions

    from lska.data.perturbed.c_published import CORRUPTIONS

    if corruption in CORRUPTIONS:
        # Grey levels are cut to whole ones, not rounded, as in the published generator.
        return CORRUPTIONS[corruption](image, severity, np.random.RandomState(seed % 2**32)).astype(np.uint8)
    own = {"seed": seed % 2**32} if corruption in OWN_SEED else {}
    try:
        with _global_generator(seed % 2**32), np.errstate(invalid="raise" if corruption == "spatter" else "warn"):
            return imagecorruptions.corrupt(image, severity, corruption, **own)
    except FloatingPointError:
        return image.copy()


@contextmanager
def _global_generator(seed: int) -> Iterator[None]:
    """Seed NumPy's global generator, and put its state back afterwards."""
    state = np.random.get_state()
    np.random.seed(seed)
    try:
        yield
    finally:
        np.random.set_state(state)
