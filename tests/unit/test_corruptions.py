"""Corruptions of ImageNet-C and ImageNet-C-bar: names, repeatability, and the numbers of the published definitions."""

from __future__ import annotations

import io
import math
import subprocess
import sys
from importlib import resources

import imagecorruptions
import numpy as np
import pytest
from numpy.random import RandomState
from PIL import Image
from scipy.ndimage import correlate1d

from lska.data.perturbed import c_bar
from lska.data.perturbed.corruptions import corrupt, enlarged, moved
from lska.data.perturbed.names import C_BAR, EXTRA, FAMILIES, GROUPS, SEVERITIES, STANDARD, severity_folder
from lska.data.synthetic.labelled import ClassificationSettings, classification_scene
from lska.data.synthetic.render import render

SIDE = 224

WITHOUT_CHANCE = {
    *("defocus_blur", "zoom_blur", "brightness", "contrast", "pixelate", "jpeg_compression", "gaussian_blur"),
    "saturate",
}
"""Corruptions that draw nothing."""

ALL = [(family, corruption) for family, corruptions in FAMILIES.items() for corruption in corruptions]

UNEVEN = ("saturate", "elastic_transform")
"""The first fades and then glares; the second moves the whole image far, then its parts a little."""


def scene(size: int, number: int = 0) -> np.ndarray:
    return render(classification_scene(ClassificationSettings(image_size=size), "val", "star", number))


def flat(level: int, side: int = SIDE) -> np.ndarray:
    return np.full((side, side, 3), level, np.uint8)


# --- Both families ---------------------------------------------------------------------------------------------------


def test_names_and_folders_are_the_published_ones_and_need_no_library() -> None:
    assert list(STANDARD) == imagecorruptions.get_corruption_names("common")
    assert list(EXTRA) == imagecorruptions.get_corruption_names("validation")
    for group in ("noise", "blur", "weather", "digital"):
        assert list(GROUPS[group]) == imagecorruptions.get_corruption_names(group)
    assert tuple(name for group in GROUPS.values() for name in group) == FAMILIES["c"]
    assert tuple(c_bar.CORRUPTIONS) == FAMILIES["c_bar"] and (len(FAMILIES["c"]), len(FAMILIES["c_bar"])) == (19, 10)
    assert [severity_folder("c", "fog", severity) for severity in SEVERITIES] == ["1", "2", "3", "4", "5"]
    found = [severity_folder("c_bar", "caustic_refraction", severity) for severity in SEVERITIES]
    assert found == ["2.35", "3.20", "4.90", "6.60", "9.15"]
    assert all(list(values) == sorted(set(values)) and len(values) == 5 for values in C_BAR.values())
    heavy = {"numpy", "PIL", "torch", "scipy", "cv2"}
    code = f"import sys, lska.data.perturbed.names; sys.exit(len({heavy} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


@pytest.mark.parametrize(("family", "corruption"), ALL)
def test_pixels_follow_from_the_arguments_alone(
    family: str, corruption: str, capfd: pytest.CaptureFixture[str]
) -> None:
    for size, severity in ((32, 5), (45, 1)):
        clean = scene(size)
        untouched, state = clean.copy(), np.random.get_state()[1].copy()
        once = corrupt(family, clean, corruption, severity, seed=2**40 + 3)
        assert (once.shape, once.dtype) == (clean.shape, np.uint8)
        assert (corrupt(family, clean, corruption, severity, seed=2**40 + 3) == once).all()
        other = corrupt(family, clean, corruption, severity, seed=4)
        assert (other == once).all() == (corruption in WITHOUT_CHANCE)
        assert (clean == untouched).all() and (np.random.get_state()[1] == state).all()
    # The library reports pictures that do not fit on the standard output.
    assert capfd.readouterr().out == ""


@pytest.mark.parametrize(("family", "corruption"), [one for one in ALL if one[1] not in UNEVEN])
def test_the_distance_from_the_clean_image_grows_with_the_severity(family: str, corruption: str) -> None:
    cleans = [scene(64, number) for number in range(6)]
    levels = SEVERITIES if family == "c_bar" else SEVERITIES[::4]
    made = [[corrupt(family, clean, corruption, s, seed) for seed, clean in enumerate(cleans)] for s in levels]
    distances = [float(np.abs(np.subtract(pictures, cleans, dtype=float)).mean()) for pictures in made]
    assert distances == sorted(set(distances)) and distances[0] > 0.3


# --- ImageNet-C, against its published definition at 224 pixels ------------------------------------------------------


def series(corruption: str, image: np.ndarray, seed: int = 3) -> list[np.ndarray]:
    """The image at all five severities, in 0 to 1."""
    return [corrupt("c", image, corruption, severity, seed) / 255 for severity in SEVERITIES]


def test_spatter_without_a_drop_leaves_the_image_clean() -> None:
    clean = scene(32)
    dry = [(corrupt("c", clean, "spatter", 1, seed) == clean).all() for seed in range(40)]
    assert 0 < sum(dry) < len(dry)


def test_frost_is_one_of_five_pictures_at_their_own_scale() -> None:
    seen, names = set(), ["frost1.png", "frost2.png", "frost3.png", "frost4.jpg", "frost5.jpg"]
    weights = [(1, 0.4), (0.8, 0.6), (0.7, 0.7), (0.65, 0.7), (0.6, 0.75)]
    for seed in range(20):
        severity, draws, side = 1 + seed % 5, RandomState(seed), (SIDE, 64)[seed % 2]
        seen.add(name := names[draws.randint(5)])
        with (resources.files("imagecorruptions") / "frost" / name).open("rb") as stream:
            frost = np.asarray(Image.open(stream).convert("RGB")).astype(float)
        top, left = draws.randint(0, frost.shape[0] - side), draws.randint(0, frost.shape[1] - side)
        image, ice = weights[severity - 1]
        expected = np.minimum(image * 90 + ice * frost[top : top + side, left : left + side], 255).astype(np.uint8)
        assert np.array_equal(corrupt("c", flat(90, side), "frost", severity, seed), expected)
    assert seen == set(names)
    # A picture that is too small is enlarged.
    assert corrupt("c", np.zeros((40, 700, 3), np.uint8), "frost", 5, 1).shape == (40, 700, 3)


# Factor of the displacements, deviation of their smoothing and largest shift of the affine points, in pixels.
ELASTIC = [(488, 170.8, 24.4), (488, 19.52, 48.8), (12.2, 2.44, 4.88), (17.08, 2.44, 4.88), (29.28, 2.44, 4.88)]


def smoothed(values: np.ndarray, deviation: float) -> np.ndarray:
    """By a Gaussian cut at three deviations, of a field that is mirrored at its border, border pixels twice."""
    reach = int(3 * deviation + 0.5)
    weights = np.exp(-(np.arange(-reach, reach + 1) ** 2) / (2 * deviation**2))
    padded = np.pad(values, reach, mode="symmetric")
    for axis in (0, 1):
        padded = correlate1d(padded, weights / weights.sum(), axis)
    return padded[reach:-reach, reach:-reach]


@pytest.mark.parametrize("severity", SEVERITIES)
def test_elastic_transform_is_affine_and_then_local(severity: int) -> None:
    side = 96 if severity == 1 else SIDE
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
    assert np.abs(found[..., 0] + 0.5 - x)[inside].max() < 0.75 and np.abs(found[..., 1] + 0.5 - y)[inside].max() < 0.75


def test_motion_blur_is_half_a_gaussian_whose_levels_are_cut() -> None:
    dot = np.zeros((9, 9), np.uint8)
    dot[4, 4] = 255
    # exp(0), exp(-1/2) and exp(-2) in shares of their sum are 0.5741, 0.3482 and 0.0777; times 255 146.4, 88.8, 19.8.
    assert moved(dot, 1, 1, 0.0)[4].tolist() == [0, 0, 19, 88, 146, 0, 0, 0, 0]
    assert moved(dot, 1, 1, -90.0)[:, 4].tolist() == [0, 0, 0, 0, 146, 88, 19, 0, 0]
    assert np.diag(moved(dot, 1, 1, 45.0)).tolist() == [0, 0, 0, 108, 146, 0, 0, 0, 0]
    for level, severity, side in ((1, 1, SIDE), (100, 3, 32), (255, 5, SIDE)):
        assert (corrupt("c", flat(level, side), "motion_blur", severity, severity) == level).all()


def test_snow_whitens_and_lies_in_both_directions() -> None:
    # On black: half the weight that the image loses, and flakes with their copy turned by 180 degrees.
    for severity, weight in enumerate((0.8, 0.7, 0.7, 0.65, 0.55), 1):
        found = corrupt("c", flat(0), "snow", severity, 5)
        assert found.min() == int(255 * 0.5 * (1 - weight) + 1e-4) and found.max() > found.min() + 20
        assert np.array_equal(found, np.rot90(found, 2))
    values = RandomState(1).normal(size=(64, 64))
    # 22 of 64 pixels are enlarged to 66, of which one is cut at either end.
    assert np.allclose(enlarged(values[::-1], 3), enlarged(values, 3)[::-1]) and enlarged(values, 3).shape == (64, 64)


def test_noise_has_the_published_strength() -> None:
    grey, near, share = flat(128), pytest.approx, 128 / 255
    assert [image.std() for image in series("gaussian_noise", grey)][:3] == near([0.08, 0.12, 0.18], rel=0.02)
    variances = [image.var() for image in series("shot_noise", flat(64))][:3]
    assert variances == near([64 / 255 / count for count in (60, 25, 12)], rel=0.05)
    changed = [(image != share).mean() for image in series("impulse_noise", grey)]
    assert changed == near([0.03, 0.06, 0.09, 0.17, 0.27], rel=0.05)
    deviations = [image.std() / share for image in series("speckle_noise", grey)][:3]
    assert deviations == near([0.15, 0.2, 0.35], rel=0.02)


def test_what_draws_nothing_gives_the_numbers_of_its_definition() -> None:
    halves, red, line = flat(51), flat(51), flat(0)
    halves[: SIDE // 2], red[..., 0], line[:, SIDE // 2] = 153, 102, 255
    # Values of 0.2 and 0.6, mean 0.4.
    differences = [image[0, 0, 0] - image[-1, 0, 0] for image in series("contrast", halves)]
    assert differences == pytest.approx([0.4 * part for part in (0.4, 0.3, 0.2, 0.1, 0.05)], abs=0.005)
    brightness = [image[0, 0, 0] for image in series("brightness", flat(51))]
    assert brightness == pytest.approx([0.3, 0.4, 0.5, 0.6, 0.7], abs=0.005)
    saturations = [1 - image[0, 0, 1] / image[0, 0, 0] for image in series("saturate", red)]
    assert saturations == pytest.approx([0.15, 0.05, 1, 1, 1], abs=0.015)
    # A line under a disk of radius r shows its chords; under a Gaussian a peak of 1 / (sqrt(2 pi) deviation).
    widths = [(image[SIDE // 2, :, 0] > 0).sum() for image in series("defocus_blur", line)]
    assert [(width - 1) // 2 for width in widths] == pytest.approx([3, 4, 6, 8, 10], abs=1)
    peaks = [image[SIDE // 2, SIDE // 2, 0] for image in series("gaussian_blur", line)]
    assert peaks == pytest.approx([0.3989 / deviation for deviation in (1, 2, 3, 4, 6)], abs=0.005)
    noise = RandomState(2).randint(0, 256, (SIDE, SIDE, 3)).astype(np.uint8)
    for severity, (blocks, quality) in enumerate(((134, 25), (112, 18), (89, 15), (67, 10), (56, 7)), 1):
        coarse = corrupt("c", noise, "pixelate", severity, 0)
        assert 1 + (coarse[:, 1:] != coarse[:, :-1]).any(axis=(0, 2)).sum() == blocks
        stream = io.BytesIO()
        Image.fromarray(noise).save(stream, "JPEG", quality=quality)
        assert np.array_equal(corrupt("c", noise, "jpeg_compression", severity, 0), np.asarray(Image.open(stream)))


# --- ImageNet-C-bar, at any size -------------------------------------------------------------------------------------

GREY = flat(128, 64)


def apply(corruption: str, image: np.ndarray, level: float, seed: int = 0) -> np.ndarray:
    return c_bar.CORRUPTIONS[corruption](image.astype(float), level, np.random.default_rng(seed))


def test_level_zero_changes_nothing() -> None:
    clean = scene(48)
    for corruption in set(C_BAR) - {"blue_noise_sample", "sparkles", "inverse_sparkles"}:
        assert np.allclose(apply(corruption, clean, 0.0), clean, atol=1e-9), corruption


def test_waves_rings_and_plasma_have_the_published_amplitudes() -> None:
    for seed in range(5):
        wave = (apply("single_frequency_greyscale", GREY, 0.3, seed) - GREY)[..., 0]
        values = np.linalg.svd(wave, compute_uv=False)
        # sin(a x + b y + c) is the sum of two products of a function of x and one of y.
        assert values[2] < 1e-9 * values[0] and 0.9 * 58.8 < np.abs(wave).max() <= 58.8
    rings = np.stack([apply("cocentric_sine_waves", GREY, 0.5, seed) - GREY for seed in range(5)])
    assert -32 <= rings.min() < -28 and 28 < rings.max() <= 32 and (rings[..., 0] == rings[..., 2]).all()
    plasma = (apply("plasma_noise", GREY, 1.0) - (1 - 64 / 255) * GREY) / 64
    assert np.abs(plasma).max() <= 1 + 1e-9 and np.abs(plasma).max(axis=(0, 1)).min() > 0.9
    assert np.abs(np.corrcoef(plasma.reshape(-1, 3).T)[0, 2]) < 0.9


def test_perlin_clouds_are_lit_from_the_middle_up_and_zero_on_the_lattice() -> None:
    clouds = apply("perlin_noise", flat(0, 56), 1.0) / 127.5
    assert clouds.min() >= 0.5 and 0.6 < clouds.mean() < 0.9
    # The cells have a seventh of the side, 8 pixels here.
    assert np.allclose(clouds[::8, ::8], 0.5) and (clouds[4::8, 4::8] > 0.5).all()


def test_brown_noise_has_low_and_blue_noise_high_frequencies() -> None:
    noise = apply("brownish_noise", GREY, 0.3) - GREY
    assert np.allclose(noise.std(axis=(0, 1)), 19.2)
    spectrum = np.abs(np.fft.fft2(noise[..., 0]))
    assert spectrum[1:4, 1:4].mean() > 50 * spectrum[28:36, 28:36].mean()
    assert np.abs(np.corrcoef(noise.reshape(-1, 3).T)[0, 1]) < 0.7
    # At this level the threshold is the mean, so that the mask keeps most of the noise's spectrum.
    mask = apply("blue_noise_sample", np.ones((96, 96, 3)), 2.5 / 3)[..., 0]
    spectrum = np.abs(np.fft.fft2(mask - mask.mean()))
    assert spectrum[40:56, 40:56].mean() > 2 * spectrum[1:6, 1:6].mean()
    clean = np.maximum(scene(224), 1)
    for severity in SEVERITIES:
        sampled = corrupt("c_bar", clean, "blue_noise_sample", severity, seed=3)
        black = (sampled == 0).all(axis=2)
        assert (sampled == clean)[~black].all()
        # The noise is a sum of many waves, so nearly normal.
        threshold = 3 * C_BAR["blue_noise_sample"][severity - 1] / 10 - 2.5
        assert black.mean() == pytest.approx(0.5 + 0.5 * math.erf(threshold / math.sqrt(2)), rel=0.1)


def test_the_checkerboard_cuts_out_half_of_the_level_in_grey() -> None:
    clean, shares = scene(64), []
    clean[clean == 128] = 127
    for seed in range(60):
        made = corrupt("c_bar", clean, "checkerboard_cutout", 5, seed)
        cut = made != clean
        assert (cut.all(axis=2) == cut.any(axis=2)).all() and (made[cut] == 128).all()
        shares.append(cut.mean())
    # Six tenths of the squares of one colour, which are half of all.
    assert np.mean(shares) == pytest.approx(0.3, abs=0.03)


def test_sparkles_lighten_and_inverse_sparkles_hide_the_corners() -> None:
    clean, dark = scene(96), flat(0, 96)
    sparkling = corrupt("c_bar", clean, "sparkles", 3, seed=1)
    white = (sparkling >= 250).all(axis=2) & (clean < 240).all(axis=2)
    # Five discs with a radius of 3 % of the side, one of which may lie outside in part.
    assert (sparkling >= clean).all() and 0.5 < white.mean() / (5 * np.pi * 0.03**2) < 2
    for seed in range(5):
        seen = corrupt("c_bar", dark, "inverse_sparkles", 5, seed).mean(axis=2)
        corners = [seen[y, x] for y in (0, -1) for x in (0, -1)]
        assert seen.min() < 3 and max(corners) > 200 and 0.05 < (seen < 128).mean() < 0.35


def test_caustics_move_pixels_and_shade_them() -> None:
    rows = np.repeat(np.linspace(60, 200, 96).astype(np.uint8)[:, None, None], 96, axis=1).repeat(3, axis=2)
    bent = apply("caustic_refraction", rows, 0.49)
    changed = np.abs(bent - rows)[..., 0]
    assert np.allclose(bent[..., 0], bent[..., 1]) and np.median(changed) < 25 < changed.max()
