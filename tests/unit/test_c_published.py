"""ImageNet-C's corruptions against its published definition at 224 pixels: numbers worked out by other means."""

from __future__ import annotations

import io
from importlib import resources

import numpy as np
import pytest
from numpy.random import RandomState
from PIL import Image
from scipy.ndimage import correlate1d

from lska.data.perturbed.c_published import enlarged, moved
from lska.data.perturbed.corruptions import corrupt
from lska.data.perturbed.names import SEVERITIES

SIDE = 224


def flat(level: int, side: int = SIDE) -> np.ndarray:
    return np.full((side, side, 3), level, np.uint8)


def series(corruption: str, image: np.ndarray, seed: int = 3) -> list[np.ndarray]:
    """The image at all five severities, in 0 to 1."""
    return [corrupt("c", image, corruption, severity, seed) / 255 for severity in SEVERITIES]


def picture(name: str) -> np.ndarray:
    with (resources.files("imagecorruptions") / "frost" / name).open("rb") as stream:
        return np.asarray(Image.open(stream).convert("RGB")).astype(float)


FROSTED = [(1, 0.4), (0.8, 0.6), (0.7, 0.7), (0.65, 0.7), (0.6, 0.75)]
NAMES = ["frost1.png", "frost2.png", "frost3.png", "frost4.jpg", "frost5.jpg"]


@pytest.mark.parametrize("side", [SIDE, 64])
def test_frost_is_one_of_five_pictures_at_their_own_scale(side: int) -> None:
    seen = set()
    for seed in range(20):
        severity, draws = 1 + seed % 5, RandomState(seed)
        seen.add(name := NAMES[draws.randint(5)])
        frost = picture(name)
        top, left = draws.randint(0, frost.shape[0] - side), draws.randint(0, frost.shape[1] - side)
        image, ice = FROSTED[severity - 1]
        expected = np.minimum(image * 90 + ice * frost[top : top + side, left : left + side], 255).astype(np.uint8)
        assert np.array_equal(corrupt("c", flat(90, side), "frost", severity, seed), expected)
    assert seen == set(NAMES)


def test_a_picture_of_frost_that_is_too_small_is_enlarged() -> None:
    assert corrupt("c", np.zeros((40, 700, 3), np.uint8), "frost", 5, 1).shape == (40, 700, 3)


# Factor of the displacements, deviation of their smoothing and largest shift of the affine points, in pixels.
ELASTIC = [(488, 170.8, 24.4), (488, 19.52, 48.8), (12.2, 2.44, 4.88), (17.08, 2.44, 4.88), (29.28, 2.44, 4.88)]


def smoothed(field: np.ndarray, deviation: float) -> np.ndarray:
    """By a Gaussian cut at three deviations, of a field that is mirrored at its border, border pixels twice."""
    reach = int(3 * deviation + 0.5)
    weights = np.exp(-(np.arange(-reach, reach + 1) ** 2) / (2 * deviation**2))
    padded = np.pad(field, reach, mode="symmetric")
    for axis in (0, 1):
        padded = correlate1d(padded, weights / weights.sum(), axis)
    return padded[reach:-reach, reach:-reach]


@pytest.mark.parametrize("severity", SEVERITIES)
@pytest.mark.parametrize("side", [SIDE, 96])
def test_elastic_transform_is_affine_and_then_local(severity: int, side: int) -> None:
    # Red tells the column and green the row that a pixel comes from.
    rows, columns = np.indices((side, side))
    image = np.stack([columns, rows, 0 * rows], axis=-1).astype(np.uint8)
    draws = RandomState(7)
    factor, deviation, shift = (side / SIDE * length for length in ELASTIC[severity - 1])
    centre, reach = side // 2, side // 3
    points = np.array([[centre + reach] * 2, [centre + reach, centre - reach], [centre - reach] * 2], float)
    targets = points + draws.uniform(-shift, shift, (3, 2))
    right, down = (factor * smoothed(draws.uniform(-1, 1, (side, side)), deviation) for _ in range(2))
    # x, y of the source as an affine function of x, y in the moved image.
    affine = np.linalg.solve(np.c_[targets, np.ones(3)], points)
    x, y = (np.stack([columns + right, rows + down, np.ones_like(right)], axis=-1) @ affine).transpose(2, 0, 1)
    found = corrupt("c", image, "elastic_transform", severity, 7).astype(float)
    inside = (np.minimum(columns + right, rows + down) > 0) & (np.maximum(columns + right, rows + down) < side - 1)
    inside &= (np.minimum(x, y) > 1) & (np.maximum(x, y) < side - 2)
    assert inside.mean() > 0.3
    # Grey levels are cut, and OpenCV takes places in steps of 1/32 pixel.
    assert np.abs(found[..., 0] + 0.5 - x)[inside].max() < 0.75
    assert np.abs(found[..., 1] + 0.5 - y)[inside].max() < 0.75


def test_motion_blur_is_half_a_gaussian_whose_levels_are_cut() -> None:
    dot = np.zeros((9, 9), np.uint8)
    dot[4, 4] = 255
    # exp(0), exp(-1/2) and exp(-2) in shares of their sum are 0.5741, 0.3482 and 0.0777; times 255 146.4, 88.8, 19.8.
    assert moved(dot, 1, 1, 0.0)[4].tolist() == [0, 0, 19, 88, 146, 0, 0, 0, 0]
    assert moved(dot, 1, 1, -90.0)[:, 4].tolist() == [0, 0, 0, 0, 146, 88, 19, 0, 0]
    assert np.diag(moved(dot, 1, 1, 45.0)).tolist() == [0, 0, 0, 108, 146, 0, 0, 0, 0]


@pytest.mark.parametrize("side", [SIDE, 32])
def test_motion_blur_leaves_a_flat_image(side: int) -> None:
    for level in (1, 100, 255):
        for severity in SEVERITIES:
            assert (corrupt("c", flat(level, side), "motion_blur", severity, severity) == level).all()


def test_snow_whitens_and_lies_in_both_directions() -> None:
    # On black: half the weight that the image loses, and flakes with their copy turned by 180 degrees.
    for severity, weight in enumerate((0.8, 0.7, 0.7, 0.65, 0.55), 1):
        found = corrupt("c", flat(0), "snow", severity, 5)
        assert found.min() == int(255 * 0.5 * (1 - weight) + 1e-4)
        assert np.array_equal(found, np.rot90(found, 2))
        assert found.max() > found.min() + 20


def test_the_middle_is_enlarged() -> None:
    values = RandomState(1).normal(size=(64, 64))
    # 22 of 64 pixels are enlarged to 66, of which one is cut at either end.
    assert np.allclose(enlarged(values[::-1], 3), enlarged(values, 3)[::-1])
    assert enlarged(values, 3).shape == (64, 64)


def test_noise_has_the_published_strength() -> None:
    grey, near = flat(128), pytest.approx
    share = 128 / 255
    deviations = [image.std() for image in series("gaussian_noise", grey)][:3]
    assert deviations == near([0.08, 0.12, 0.18], rel=0.02)
    variances = [image.var() for image in series("shot_noise", flat(64))][:3]
    assert variances == near([64 / 255 / count for count in (60, 25, 12)], rel=0.05)
    assert [(image != share).mean() for image in series("impulse_noise", grey)] == near(
        [0.03, 0.06, 0.09, 0.17, 0.27], rel=0.05
    )
    deviations = [image.std() / share for image in series("speckle_noise", grey)][:3]
    assert deviations == near([0.15, 0.2, 0.35], rel=0.02)


def test_what_draws_nothing_gives_the_numbers_of_its_definition() -> None:
    halves = flat(51)
    halves[: SIDE // 2] = 153
    # Values of 0.2 and 0.6, mean 0.4.
    differences = [image[0, 0, 0] - image[-1, 0, 0] for image in series("contrast", halves)]
    assert differences == pytest.approx([0.4 * part for part in (0.4, 0.3, 0.2, 0.1, 0.05)], abs=0.005)
    assert [image[0, 0, 0] for image in series("brightness", flat(51))] == pytest.approx(
        [0.3, 0.4, 0.5, 0.6, 0.7], abs=0.005
    )
    red = flat(51)
    red[..., 0] = 102
    saturations = [1 - image[0, 0, 1] / image[0, 0, 0] for image in series("saturate", red)]
    assert saturations == pytest.approx([0.15, 0.05, 1, 1, 1], abs=0.015)


def test_blocks_and_qualities_are_the_published_ones() -> None:
    noise = RandomState(2).randint(0, 256, (SIDE, SIDE, 3)).astype(np.uint8)
    for severity, (blocks, quality) in enumerate(((134, 25), (112, 18), (89, 15), (67, 10), (56, 7)), 1):
        coarse = corrupt("c", noise, "pixelate", severity, 0)
        assert 1 + (coarse[:, 1:] != coarse[:, :-1]).any(axis=(0, 2)).sum() == blocks
        stream = io.BytesIO()
        Image.fromarray(noise).save(stream, "JPEG", quality=quality)
        assert np.array_equal(corrupt("c", noise, "jpeg_compression", severity, 0), np.asarray(Image.open(stream)))


def test_blurs_have_the_published_widths() -> None:
    line = flat(0)
    line[:, SIDE // 2] = 255
    # A line under a disk of radius r shows its chords; under a Gaussian a peak of 1 / (sqrt(2 pi) deviation).
    widths = [(image[SIDE // 2, :, 0] > 0).sum() for image in series("defocus_blur", line)]
    assert [(width - 1) // 2 for width in widths] == pytest.approx([3, 4, 6, 8, 10], abs=1)
    peaks = [image[SIDE // 2, SIDE // 2, 0] for image in series("gaussian_blur", line)]
    assert peaks == pytest.approx([0.3989 / deviation for deviation in (1, 2, 3, 4, 6)], abs=0.005)
