"""The corruptions of ImageNet-C and ImageNet-C-bar, deterministic, as functions of an image.

Those of ImageNet-C are the library `imagecorruptions`'s, but for four that it makes otherwise than published: these
follow hendrycks/robustness, `ImageNet-C/create_c/make_imagenet_c.py`, with draws in the published order from the
generator that NumPy's global one is made of. Lengths are those for 224 pixels, whatever the size of the image, except
in the elastic transform, whose published lengths are shares of the image side.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from importlib import resources

import cv2
import imagecorruptions
import numpy as np
from numpy.random import RandomState
from scipy.ndimage import gaussian_filter, map_coordinates, zoom

from lska.data.perturbed import c_bar
from lska.data.perturbed.names import C_BAR

OWN_SEED = ("impulse_noise", "glass_blur")
"""Corruptions of the library that draw from a generator of their own; the others use NumPy's global one."""


def corrupt(family: str, image: np.ndarray, corruption: str, severity: int, seed: int) -> np.ndarray:
    """A corrupted copy of an image; uint8 RGB (H, W, 3), sides of at least 32 pixels, in and out, for `c_bar` square.

    Equal arguments give equal pixels, and NumPy's global generator is left as it was. At 224 pixels what is done is
    what the published generators do (docs/methods.md says what was compared). Strengths of `c` are those for 224 pixels
    whatever the image size, but for the elastic transform's, which grow with it. Spatter on a small image may have no
    drop, which the published formula divides by; the image then stays clean.

    Args:
        corruption: one of `FAMILIES[family]`.
        severity: 1 to 5; for `c_bar` it stands for the published value in `C_BAR[corruption]`.
        seed: any non-negative integer; the library's generators use its lowest 32 bits. At another severity of `c_bar`
            it gives the same random choices.
    """
    if family == "c_bar":
        level = C_BAR[corruption][severity - 1] / 10
        pixels = c_bar.CORRUPTIONS[corruption](image.astype(np.float64), level, np.random.default_rng(seed))
        # Truncated, not rounded, as the published generators do.
        return np.clip(pixels, 0, 255).astype(np.uint8)
    seed %= 2**32
    if corruption in OWN:
        return OWN[corruption](image, severity, RandomState(seed)).astype(np.uint8)
    state = np.random.get_state()
    np.random.seed(seed)
    try:
        with np.errstate(invalid="raise" if corruption == "spatter" else "warn"):
            more = {"seed": seed} if corruption in OWN_SEED else {}
            return imagecorruptions.corrupt(image, severity, corruption, **more)
    except FloatingPointError:
        return image.copy()
    finally:
        np.random.set_state(state)


# --- Four corruptions as published -----------------------------------------------------------------------------------

MOTION_BLUR = ((10, 3), (15, 5), (15, 8), (15, 12), (20, 15))
"""Radius and standard deviation in pixels at each severity."""

SNOW = (
    (0.1, 0.3, 3, 0.5, 10, 4, 0.8),
    (0.2, 0.3, 2, 0.5, 12, 4, 0.7),
    (0.55, 0.3, 4, 0.9, 12, 8, 0.7),
    (0.55, 0.3, 4.5, 0.85, 12, 8, 0.65),
    (0.55, 0.3, 2.5, 0.85, 12, 12, 0.55),
)
"""Mean and deviation of the flakes, enlargement, threshold, radius and deviation of their blur, weight of the image."""

FROST = ((1, 0.4), (0.8, 0.6), (0.7, 0.7), (0.65, 0.7), (0.6, 0.75))
"""Weights of the image and of the frost."""

FROST_PICTURES = ("frost1.png", "frost2.png", "frost3.png", "frost4.jpg", "frost5.jpg")
"""The pictures that are drawn from. A sixth, which the published generator lists, is never drawn there."""

ELASTIC = ((2, 0.7, 0.1), (2, 0.08, 0.2), (0.05, 0.01, 0.02), (0.07, 0.01, 0.02), (0.12, 0.01, 0.02))
"""Factor of the displacements, deviation of their smoothing, largest shift of the affine points: shares of the side,
which the published generator takes for 244 at 224 pixels."""


def motion_blur(image: np.ndarray, severity: int, generator: RandomState) -> np.ndarray:
    """Blur in a direction of -45 to 45 degrees; uint8 (H, W, 3) in, whole grey levels (H, W, 3) out."""
    radius, deviation = MOTION_BLUR[severity - 1]
    return moved(image, radius, deviation, generator.uniform(-45, 45))


def moved(image: np.ndarray, radius: int, deviation: float, angle: float) -> np.ndarray:
    """ImageMagick's motion blur of 8-bit pixels (H, W, ...): half a Gaussian along a line, border pixels repeated.

    The line has 2 * radius + 1 pixels, starts at the pixel itself, and runs at `angle` degrees, clockwise from the
    right. The result has whole grey levels.
    """
    steps = np.arange(2 * radius + 1)
    weights = np.exp(-(steps**2) / (2 * deviation**2))
    direction = np.sin(np.deg2rad(angle)), np.cos(np.deg2rad(angle))
    down, right = (np.ceil(steps * part - 0.5).astype(int) for part in direction)
    height, width, reach = *image.shape[:2], steps[-1]
    padded = np.pad(image, [(reach, reach)] * 2 + [(0, 0)] * (image.ndim - 2), mode="edge").astype(np.float64)
    blurred = np.zeros(image.shape)
    for weight, y, x in zip(weights / weights.sum(), reach + down, reach + right, strict=True):
        blurred += weight * padded[y : y + height, x : x + width]
    # It computes with 16 bits, rounded, and writes 8, cut: seen in version 6.9.11.
    return np.rint(blurred * 257) // 257


def snow(image: np.ndarray, severity: int, generator: RandomState) -> np.ndarray:
    """Whiten the image and lay blown flakes over it, once as drawn and once turned by 180 degrees."""
    mean, spread, enlargement, threshold, radius, deviation, weight = SNOW[severity - 1]
    pixels = image.astype(np.float32) / 255
    flakes = enlarged(generator.normal(mean, spread, image.shape[:2]), enlargement)
    flakes[flakes < threshold] = 0
    # Eight bits on both sides of the blur, as it was made by another program.
    flakes = (np.clip(flakes, 0, 1) * 255).astype(np.uint8)
    flakes = moved(flakes, radius, deviation, generator.uniform(-135, -45))[..., None] / 255
    whitened = np.maximum(pixels, cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY)[..., None] * 1.5 + 0.5)
    pixels = weight * pixels + (1 - weight) * whitened
    return np.clip(pixels + flakes + np.rot90(flakes, 2), 0, 1) * 255


def enlarged(values: np.ndarray, factor: float) -> np.ndarray:
    """The middle of `values` (H, W), enlarged by `factor` (bilinear) and cut to (H, W) around the centre."""
    taken = [int(np.ceil(side / factor)) for side in values.shape]
    first = [(side - part) // 2 for side, part in zip(values.shape, taken, strict=True)]
    larger = zoom(values[tuple(slice(a, a + n) for a, n in zip(first, taken, strict=True))], factor, order=1)
    first = [(large - side) // 2 for large, side in zip(larger.shape, values.shape, strict=True)]
    return larger[tuple(slice(a, a + side) for a, side in zip(first, values.shape, strict=True))]


def frost(image: np.ndarray, severity: int, generator: RandomState) -> np.ndarray:
    """Add a random crop of a picture of frost, at its own scale, to the image.

    Where the picture is not larger than the image, which does not occur at 224 pixels, it is enlarged (bicubic) to 1.1
    times what would cover it.
    """
    of_image, of_frost = FROST[severity - 1]
    picture = frost_picture(FROST_PICTURES[generator.randint(len(FROST_PICTURES))])
    height, width = image.shape[:2]
    if picture.shape[0] <= height or picture.shape[1] <= width:
        factor = 1.1 * max(height / picture.shape[0], width / picture.shape[1])
        size = [int(np.ceil(factor * side)) for side in (picture.shape[1], picture.shape[0])]
        picture = cv2.resize(picture, size, interpolation=cv2.INTER_CUBIC)
    top = generator.randint(0, picture.shape[0] - height)
    left = generator.randint(0, picture.shape[1] - width)
    return np.clip(of_image * image + of_frost * picture[top : top + height, left : left + width], 0, 255)


@functools.cache
def frost_picture(name: str) -> np.ndarray:
    """A published picture of frost, which the library carries: uint8 RGB (H, W, 3)."""
    data = np.frombuffer((resources.files("imagecorruptions") / "frost" / name).read_bytes(), np.uint8)
    return cv2.cvtColor(cv2.imdecode(data, cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)


def elastic_transform(image: np.ndarray, severity: int, generator: RandomState) -> np.ndarray:
    """Move three points of the image at random (affine), then every pixel by a smooth random field."""
    height, width = image.shape[:2]
    side = 244 * min(height, width) / 224
    factor, deviation, shift = (side * share for share in ELASTIC[severity - 1])
    centre, reach = np.float32([height, width]) // 2, min(height, width) // 3
    points = np.float32([centre + reach, [centre[0] + reach, centre[1] - reach], centre - reach])
    targets = points + generator.uniform(-shift, shift, points.shape).astype(np.float32)
    pixels = cv2.warpAffine(
        image.astype(np.float32) / 255, cv2.getAffineTransform(points, targets), (width, height),
        borderMode=cv2.BORDER_REFLECT_101,
    )  # fmt: skip
    right, down = (
        (gaussian_filter(drawn, deviation, mode="reflect", truncate=3) * factor).astype(np.float32)
        for drawn in (generator.uniform(-1, 1, (height, width)) for _ in range(2))
    )
    rows, columns, channels = np.indices(image.shape, sparse=True)
    places = np.broadcast_arrays(rows + down[..., None], columns + right[..., None], channels)
    return np.clip(map_coordinates(pixels, places, order=1, mode="reflect"), 0, 1) * 255


OWN: dict[str, Callable[[np.ndarray, int, RandomState], np.ndarray]] = {
    function.__name__: function for function in (motion_blur, snow, frost, elastic_transform)
}
"""Functions of an image, uint8 RGB (H, W, 3), a severity and a generator, giving grey levels (H, W, 3) in 0 to 255."""
