"""The corruptions of ImageNet-C-bar: what the published definitions promise, at any image size."""

import math

import numpy as np
import pytest

from lska.data.perturbed.c_bar import CORRUPTIONS
from lska.data.perturbed.corruptions import corrupt
from lska.data.perturbed.names import C_BAR, FAMILIES, SEVERITIES
from lska.data.synthetic import ClassificationSettings, classification_scene, render

NEUTRAL = {
    *("plasma_noise", "checkerboard_cutout", "cocentric_sine_waves", "single_frequency_greyscale"),
    *("brownish_noise", "perlin_noise", "caustic_refraction"),
}
"""Corruptions that leave the image as it is at level 0."""


def scene(size: int, number: int = 0) -> np.ndarray:
    return render(classification_scene(ClassificationSettings(image_size=size), "val", "star", number))


def apply(corruption: str, image: np.ndarray, level: float, seed: int = 0) -> np.ndarray:
    return CORRUPTIONS[corruption](image.astype(float), level, np.random.default_rng(seed))


def level(corruption: str, severity: int) -> float:
    return C_BAR[corruption][severity - 1] / 10


@pytest.fixture(scope="module")
def grey() -> np.ndarray:
    return np.full((64, 64, 3), 128, dtype=np.uint8)


def test_the_corruptions_are_the_ten_of_the_published_list() -> None:
    assert tuple(CORRUPTIONS) == FAMILIES["c_bar"]


@pytest.mark.parametrize("corruption", C_BAR)
@pytest.mark.parametrize("size", [32, 45, 96])
def test_the_distance_from_the_clean_image_grows_with_the_severity(corruption: str, size: int) -> None:
    cleans = [scene(size, number) for number in range(6)]
    corrupted = [
        [corrupt("c_bar", clean, corruption, s, seed) for seed, clean in enumerate(cleans)] for s in SEVERITIES
    ]
    distances = [float(np.abs(np.subtract(pictures, cleans, dtype=float)).mean()) for pictures in corrupted]
    assert distances == sorted(set(distances))
    assert distances[0] > 0.3


@pytest.mark.parametrize("corruption", C_BAR)
@pytest.mark.parametrize("size", [32, 45])
def test_equal_arguments_give_equal_pixels(corruption: str, size: int) -> None:
    clean = scene(size)
    untouched, state = clean.copy(), np.random.get_state()[1].copy()
    once = corrupt("c_bar", clean, corruption, 3, seed=2**40 + 3)
    assert (once.shape, once.dtype) == (clean.shape, np.uint8)
    assert (corrupt("c_bar", clean, corruption, 3, seed=2**40 + 3) == once).all()
    assert (corrupt("c_bar", clean, corruption, 3, seed=4) != once).any()
    assert (clean == untouched).all()
    assert (np.random.get_state()[1] == state).all()


@pytest.mark.parametrize("corruption", sorted(NEUTRAL))
def test_level_zero_changes_nothing(corruption: str) -> None:
    clean = scene(48)
    assert np.allclose(apply(corruption, clean, 0.0), clean, atol=1e-9)


def test_the_greyscale_wave_is_plane_and_has_the_published_amplitude(grey: np.ndarray) -> None:
    for seed in range(5):
        wave = (apply("single_frequency_greyscale", grey, 0.3, seed) - grey)[..., 0]
        values = np.linalg.svd(wave, compute_uv=False)
        # sin(a x + b y + c) is the sum of two products of a function of x and one of y.
        assert values[2] < 1e-9 * values[0]
        assert 0.9 * 58.8 < np.abs(wave).max() <= 58.8


def test_rings_rise_from_minus_to_plus_64_levels(grey: np.ndarray) -> None:
    rings = np.stack([apply("cocentric_sine_waves", grey, 0.5, seed) - grey for seed in range(5)])
    assert -32 <= rings.min() < -28
    assert 28 < rings.max() <= 32
    assert (rings[..., 0] == rings[..., 2]).all()


def test_plasma_is_coloured_and_dims_the_image(grey: np.ndarray) -> None:
    mixed = apply("plasma_noise", grey, 1.0)
    plasma = (mixed - (1 - 64 / 255) * grey) / 64
    assert np.abs(plasma).max() <= 1 + 1e-9
    assert np.abs(plasma).max(axis=(0, 1)).min() > 0.9
    assert np.abs(np.corrcoef(plasma.reshape(-1, 3).T)[0, 2]) < 0.9


def test_perlin_clouds_are_lit_from_the_middle_up_and_zero_on_the_lattice() -> None:
    black = np.zeros((56, 56, 3), dtype=np.uint8)
    clouds = apply("perlin_noise", black, 1.0) / 127.5
    assert clouds.min() >= 0.5
    assert 0.6 < clouds.mean() < 0.9
    # The cells have a seventh of the side, 8 pixels here.
    assert np.allclose(clouds[::8, ::8], 0.5)
    assert (clouds[4::8, 4::8] > 0.5).all()


def test_brownish_noise_has_the_published_deviation_and_low_frequencies(grey: np.ndarray) -> None:
    noise = apply("brownish_noise", grey, 0.3) - grey
    assert np.allclose(noise.std(axis=(0, 1)), 19.2)
    spectrum = np.abs(np.fft.fft2(noise[..., 0]))
    assert spectrum[1:4, 1:4].mean() > 50 * spectrum[28:36, 28:36].mean()
    assert np.abs(np.corrcoef(noise.reshape(-1, 3).T)[0, 1]) < 0.7


@pytest.mark.parametrize("severity", SEVERITIES)
def test_blue_noise_blackens_the_share_below_its_threshold(severity: int) -> None:
    clean = np.maximum(scene(224), 1)
    sampled = corrupt("c_bar", clean, "blue_noise_sample", severity, seed=3)
    black = (sampled == 0).all(axis=2)
    assert (sampled == clean)[~black].all()
    threshold = 3 * level("blue_noise_sample", severity) - 2.5
    # The noise is a sum of many waves, so nearly normal.
    assert black.mean() == pytest.approx(0.5 + 0.5 * math.erf(threshold / math.sqrt(2)), rel=0.1)


def test_blue_noise_has_high_frequencies() -> None:
    # At this level the threshold is the mean, so that the mask keeps most of the noise's spectrum.
    mask = apply("blue_noise_sample", np.ones((96, 96, 3)), 2.5 / 3)[..., 0]
    spectrum = np.abs(np.fft.fft2(mask - mask.mean()))
    assert spectrum[40:56, 40:56].mean() > 2 * spectrum[1:6, 1:6].mean()
    assert mask.mean() == pytest.approx(0.5, abs=0.02)


def test_the_checkerboard_cuts_out_half_of_the_level_in_grey() -> None:
    clean = scene(64)
    clean[clean == 128] = 127
    shares = []
    for seed in range(60):
        cut = corrupt("c_bar", clean, "checkerboard_cutout", 5, seed) != clean
        assert (cut.all(axis=2) == cut.any(axis=2)).all()
        assert (corrupt("c_bar", clean, "checkerboard_cutout", 5, seed)[cut] == 128).all()
        shares.append(cut.mean())
    # Six tenths of the squares of one colour, which are half of all.
    assert np.mean(shares) == pytest.approx(0.3, abs=0.03)


def test_sparkles_only_lighten_and_have_white_centres() -> None:
    clean = scene(96)
    sparkling = corrupt("c_bar", clean, "sparkles", 3, seed=1)
    assert (sparkling >= clean).all()
    white = (sparkling >= 250).all(axis=2) & (clean < 240).all(axis=2)
    # Five discs with a radius of 3 % of the side, one of which may lie outside in part.
    assert 0.5 < white.mean() / (5 * np.pi * 0.03**2) < 2


def test_inverse_sparkles_show_the_middle_and_hide_the_far_corners() -> None:
    dark = np.zeros((96, 96, 3), dtype=np.uint8)
    for seed in range(5):
        seen = corrupt("c_bar", dark, "inverse_sparkles", 5, seed).mean(axis=2)
        assert seen.min() < 3
        corners = [seen[y, x] for y in (0, -1) for x in (0, -1)]
        assert max(corners) > 200
        assert 0.05 < (seen < 128).mean() < 0.35


def test_caustics_move_pixels_and_shade_them() -> None:
    rows = np.repeat(np.linspace(60, 200, 96).astype(np.uint8)[:, None, None], 96, axis=1).repeat(3, axis=2)
    bent = apply("caustic_refraction", rows, level("caustic_refraction", 3))
    assert np.allclose(bent[..., 0], bent[..., 1])
    changed = np.abs(bent - rows)[..., 0]
    assert np.median(changed) < 25 < changed.max()


@pytest.mark.parametrize("corruption", ["perlin_noise", "plasma_noise", "inverse_sparkles", "checkerboard_cutout"])
def test_what_is_tied_to_the_size_looks_alike_at_two_sizes(corruption: str) -> None:
    large, small = (
        corrupt("c_bar", np.full((side, side, 3), 90, np.uint8), corruption, 5, seed=2).astype(float)
        for side in (192, 48)
    )
    shrunk = large.reshape(48, 4, 48, 4, 3).mean(axis=(1, 3))
    assert np.corrcoef(shrunk.ravel(), small.ravel())[0, 1] > 0.6


def test_other_shapes_and_names_are_refused() -> None:
    with pytest.raises(ValueError, match="image must be square, found 32 x 48 pixels; crop it first"):
        corrupt("c_bar", np.zeros((32, 48, 3), np.uint8), "sparkles", 1, 0)
    with pytest.raises(ValueError, match="corruption must be one of blue_noise_sample, .*found 'fog'"):
        corrupt("c_bar", scene(32), "fog", 1, 0)
    with pytest.raises(ValueError, match="at least 32 pixels"):
        corrupt("c_bar", np.zeros((16, 16, 3), np.uint8), "sparkles", 1, 0)
