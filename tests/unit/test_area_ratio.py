"""Area ratios of contribution maps: RepLKNet's search, and maps whose ratios are known."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import erf, erfinv

from lska.evaluate.receptive_field import area_ratio, ratios, resampled_ratios, scaled
from lska.provenance.outcomes import resample_counts, standard_error


def published(scores: np.ndarray, threshold: float) -> tuple[int, float] | None:
    """What is known of RepLKNet's search, pixel by pixel: None where it finds nothing."""
    size = len(scores)
    for reach in range(1, size // 2):
        rows = [row for row in range(size) if abs(row - size // 2) <= reach]
        inside = sum(scores[row, column] for row in rows for column in rows)
        if inside / scores.sum() > threshold:
            return 2 * reach + 1, 100 * (2 * reach + 1) ** 2 / size**2
    return None


@given(st.integers(3, 14), st.integers(0, 2**32 - 1), st.floats(0.01, 0.99), st.booleans())
def test_search_is_the_published_one(size: int, seed: int, threshold: float, peaked: bool) -> None:
    rng = np.random.default_rng(seed)
    scores = rng.random((size, size)) ** (8 if peaked else 1)
    found = area_ratio(scores, threshold, on="raw")
    expected = published(scores, threshold) or (size, 100.0)
    assert found == (expected[0], pytest.approx(expected[1]))
    logarithms = np.log10(scores + 1)
    expected = published(logarithms / logarithms.max(), threshold) or (size, 100.0)
    assert area_ratio(scores, threshold)[0] == expected[0]


@pytest.mark.parametrize("size", [200, 201])
@pytest.mark.parametrize("threshold", [0.2, 0.3, 0.5, 0.95])
def test_a_gaussian_has_its_known_ratio(size: int, threshold: float) -> None:
    """A square of half side a holds erf(a / (deviation * sqrt 2)) squared of a Gaussian."""
    deviation, places = 20.0, np.arange(size) - size // 2
    profile = np.exp(-(places**2) / (2 * deviation**2))
    gaussian = np.outer(profile, profile)
    half = deviation * np.sqrt(2) * erfinv(np.sqrt(threshold))
    side, share = area_ratio(gaussian, threshold, on="raw")
    assert side - 2 <= 2 * half <= side
    assert share == pytest.approx(100 * (side / size) ** 2)
    assert erf(side / 2 / deviation / np.sqrt(2)) ** 2 > threshold
    # The logarithm undoes this power, and is a mere factor for small scores.
    assert area_ratio(10 ** (3 * gaussian) - 1, threshold)[0] == side
    assert area_ratio(1e-7 * gaussian, threshold)[0] == side
    assert area_ratio(1e4 * gaussian, threshold)[0] > side


@pytest.mark.parametrize("size", [16, 17])
def test_samples_are_the_ratios_of_the_mean_map_of_the_images_drawn(size: int) -> None:
    generator, distance = np.random.default_rng(0), np.abs(np.arange(size) - size // 2)
    reach = np.maximum(distance[:, None], distance)
    maps = np.stack([
        np.exp(-reach / generator.uniform(1, 6)) * generator.exponential(2, (size, size)) for _ in range(9)
    ]).astype(np.float32)  # fmt: skip
    samples = resampled_ratios(maps, 30)
    for number, counts in enumerate(resample_counts(9, resamples=30)):
        mean = np.repeat(maps, counts, axis=0).mean(axis=0, dtype=np.float64)
        expected = {name: entry["value"] for name, entry in ratios(mean).items() if name.startswith("area")}
        assert {name: values[number] for name, values in samples.items()} == pytest.approx(expected)
    assert standard_error(samples["area_ratio_50"]) > 0
    alike = resampled_ratios(np.repeat(maps[:1], 9, axis=0), 30)
    assert all(standard_error(values) < 1e-9 for values in alike.values())


def test_the_ratios_of_a_wider_field_differ_by_more_than_their_paired_error() -> None:
    generator, distance = np.random.default_rng(1), np.abs(np.arange(64) - 32)
    reach = np.maximum(distance[:, None], distance)
    # Images that spread contributions widely do so in both networks.
    widths = generator.uniform(3, 12, 40)
    first, second = (
        resampled_ratios(np.stack([np.exp(-reach / (width * factor)) for width in widths]).astype(np.float32), 300)
        for factor in (1.0, 1.15)
    )
    difference = second["area_ratio_50"] - first["area_ratio_50"]
    unpaired = np.hypot(*(found["area_ratio_50"].std(ddof=1) for found in (first, second)))
    assert difference.std(ddof=1) < unpaired / 2 and difference.mean() > 3 * difference.std(ddof=1)


def one_pixel(size: int, *places: tuple[int, int, float]) -> np.ndarray:
    scores = np.zeros((size, size))
    for row, column, score in places:
        scores[row, column] = score
    return scores


def test_borders_of_the_search() -> None:
    scores = one_pixel(9, (4, 4, 3), (2, 4, 1))
    # Thresholds are exceeded, not met.
    assert area_ratio(scores, 0.74, on="raw") == (3, pytest.approx(100 / 9))
    assert area_ratio(scores, 0.75, on="raw") == (5, pytest.approx(100 * 25 / 81))
    # No square is smaller than three pixels, and those of even maps end before the first row.
    assert area_ratio(one_pixel(8, (4, 4, 1)), 0.2) == (3, pytest.approx(100 * 9 / 64))
    assert area_ratio(one_pixel(8, (7, 7, 1)), 0.5)[0] == 7
    assert area_ratio(one_pixel(8, (7, 7, 1), (0, 0, 2)), 0.5) == (8, 100.0)


def test_scaled_scores_end_at_one() -> None:
    found = scaled(np.array([[0.0, 9.0], [99.0, 999.0]]))
    np.testing.assert_allclose(found, [[0, 1 / 3], [2 / 3, 1]])


def test_metric_entries_name_thresholds_units_and_images() -> None:
    scores = np.outer(np.hanning(101), np.hanning(101))
    entries = ratios(scores, n=50)
    assert list(entries) == [f"{name}_{t}" for t in (20, 30, 50, 99) for name in ("area_ratio", "side")]
    for percent in (20, 30, 50, 99):
        side, share = area_ratio(scores, percent / 100)
        assert entries[f"area_ratio_{percent}"] == {"value": share, "unit": "%", "n": 50}
        assert entries[f"side_{percent}"] == {"value": side, "unit": "pixels", "n": 50}
    assert ratios(1e4 * scores, on="raw") == ratios(scores, on="raw")
    assert ratios(1e4 * scores) != ratios(scores)


def test_impossible_maps_and_settings_are_refused() -> None:
    maps = [np.zeros((4, 4)), np.ones((4, 5)), np.ones(4), -np.ones((4, 4)), np.full((4, 4), np.nan)]
    for scores in [*maps, np.full((4, 4), np.inf)]:
        with pytest.raises(ValueError, match="scores: expected a contribution map"):
            area_ratio(scores, 0.5)
    for threshold in (0, 1, 50):
        with pytest.raises(ValueError, match="threshold: expected a share"):
            area_ratio(np.ones((4, 4)), threshold)
    with pytest.raises(ValueError, match="'linear'"):
        area_ratio(np.ones((4, 4)), 0.5, on="linear")
