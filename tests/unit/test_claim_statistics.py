"""Differences and noise: against textbook results, and against what really happens by chance."""

from __future__ import annotations

import numpy as np
import pytest
from claim_helpers import ONE, OTHER, evidence, on_images
from scipy import stats

from lska.claims.listing import parse
from lska.claims.verdicts import Difference, difference, mcnemar

THIRD = "classification.top1(van_tiny-lska-k53)"


def compare(text: str, *parts: object) -> Difference:
    (comparison,) = parse(text)
    return difference(comparison, {part.quantity: part for part in parts})


def right(generator: np.random.Generator, n: int, share: float) -> np.ndarray:
    return 100.0 * (generator.random(n) < share)


def test_several_seeds_on_both_sides_are_compared_by_welchs_test() -> None:
    one, other = (71.2, 72.9, 72.0, 71.8), (70.1, 71.4, 70.2)
    found = compare(f"{ONE} > {OTHER}", evidence(ONE, *one), evidence(OTHER, *other))
    expected = stats.ttest_ind(one, other, equal_var=False)
    interval = expected.confidence_interval(0.95)
    assert (found.p, found.value) == (pytest.approx(expected.pvalue), pytest.approx(np.mean(one) - np.mean(other)))
    assert found.interval() == (pytest.approx(interval.low), pytest.approx(interval.high))
    assert found.basis == "Welch's test over seeds (3, 4 each)"


def test_seeds_that_are_alike_are_no_proof() -> None:
    """Whole numbers, such as dimensions, may be the same for two seeds; the spread over images decides then."""
    for one in (5.1, 6.3):
        found = compare(f"{ONE} > {OTHER}", evidence(ONE, one, one, one), evidence(OTHER, 5.1, 5.1, 5.1))
        assert (found.standard_error, found.p, found.basis) == (None, None, "no error is known")
    parts = (evidence(text, value, value, standard_error=0.3) for text, value in ((ONE, 6), (OTHER, 5)))
    found = compare(f"{ONE} > {OTHER}", *parts)
    assert found.standard_error == pytest.approx(0.3 * 2**0.5)
    assert found.basis == "unpaired errors of the metric files, means over 2 seeds, whose spread is left out"


def test_images_without_any_spread_are_no_proof() -> None:
    """Two networks alike on every one of a few images may well differ on others."""
    generator = np.random.default_rng(8)
    same = right(generator, 40, 0.6)
    for text in (f"{ONE} - {OTHER} > -0.5", f"{ONE} - {OTHER} = 0", f"{ONE} > {OTHER}", f"3 * {ONE} / {OTHER} > 1"):
        found = compare(text, on_images(ONE, same), on_images(OTHER, same))
        assert (found.standard_error, found.interval(), found.p) == (None, None, None), text
        assert found.basis == "paired over 40 images, one seed: without any spread, so no error is known"


def test_one_seed_is_compared_image_by_image() -> None:
    """Two networks that are right on nearly the same images: what is hard for both says nothing about either."""
    generator = np.random.default_rng(0)
    one = right(generator, 2000, 0.7)
    other = np.where(generator.random(2000) < 0.05, 0, one)
    found = compare(f"{ONE} > {OTHER}", on_images(ONE, one), on_images(OTHER, other))
    paired = stats.ttest_rel(one, other)
    assert found.standard_error == pytest.approx(found.value / paired.statistic)
    assert found.standard_error < 0.5 * np.hypot(*(np.std(part) / 2000**0.5 for part in (one, other)))
    assert found.basis == "paired over 2,000 images, one seed; exact McNemar test"
    assert found.p == pytest.approx(stats.binomtest(int((one > other).sum()), int((one != other).sum())).pvalue)


def test_mcnemar_counts_the_images_that_one_network_alone_gets_right() -> None:
    # 8 of 10 discordant images for the first: 2 (1 + 10 + 45) / 2^10.
    one, other = np.array([1] * 8 + [0] * 2 + [1, 0]), np.array([0] * 8 + [1] * 2 + [1, 0])
    assert mcnemar(one, other) == pytest.approx(2 * 56 / 1024)
    assert mcnemar(one, one) == 1


def test_the_error_of_a_quotient_follows_from_its_derivatives() -> None:
    generator = np.random.default_rng(3)
    base = generator.normal(50, 5, 4000)
    one, other = base + generator.normal(1, 2, 4000), base
    found = compare(f"{ONE} / {OTHER} > 1", on_images(ONE, one), on_images(OTHER, other))
    rows = generator.integers(0, 4000, (2000, 4000))
    resampled = one[rows].mean(axis=1) / other[rows].mean(axis=1)
    assert found.standard_error == pytest.approx(np.std(resampled), rel=0.06)


def test_bootstrap_samples_of_the_same_images_are_subtracted_from_each_other() -> None:
    generator = np.random.default_rng(4)
    shared = generator.normal(0, 3, 1000)
    one, other = 45 + shared + generator.normal(0, 0.5, 1000), 44 + shared
    parts = (on_images(text, part, "samples", images=87) for text, part in ((ONE, one), (OTHER, other)))
    found = compare(f"{ONE} > {OTHER}", *parts)
    assert found.standard_error == pytest.approx(np.std(one - other, ddof=1))
    assert found.standard_error < 0.6
    assert found.basis == "paired over 1,000 bootstrap samples of 87 images, one seed"


def test_samples_without_a_value_are_left_out() -> None:
    one, other = np.array([1.0, 2.0, np.nan, 4.0]), np.array([1.0, 1.0, 1.0, np.nan])
    parts = [on_images(text, part, "samples") for text, part in ((ONE, one), (OTHER, other))]
    assert compare(f"{ONE} > {OTHER}", *parts).standard_error == pytest.approx(np.std([0, 1], ddof=1))
    few = [on_images(text, np.append(part, [np.nan] * 2), "samples") for text, part in ((ONE, one), (OTHER, other))]
    assert compare(f"{ONE} > {OTHER}", *few).standard_error is None


def test_without_outcomes_the_errors_of_the_files_are_taken_as_independent() -> None:
    parts = (evidence(ONE, 75, standard_error=0.3), evidence(OTHER, 74, standard_error=0.4))
    found = compare(f"{ONE} > {OTHER}", *parts)
    assert (found.standard_error, found.basis) == (pytest.approx(0.5), "unpaired errors of the metric files, one seed")
    assert found.p == pytest.approx(2 * stats.norm.sf(2))


def test_a_metric_of_zero_has_its_derivative_too() -> None:
    """A network that gets nothing right: the step must not be lost beside the other network's 80 %."""
    generator = np.random.default_rng(9)
    other = right(generator, 500, 0.8)
    one = np.zeros(500)
    found = compare(f"{ONE} - {OTHER} > -90", on_images(ONE, one), on_images(OTHER, other))
    assert found.standard_error == pytest.approx(np.std(other, ddof=1) / 500**0.5, rel=1e-5)
    parts = (evidence(text, value, standard_error=error) for text, value, error in ((ONE, 0, 1), (OTHER, 80, 0)))
    nothing = compare(f"{ONE} + {OTHER} < 90", *parts)
    assert nothing.standard_error == pytest.approx(1, rel=1e-5)


def test_networks_that_are_equally_good_differ_in_one_of_twenty_tests() -> None:
    """300 pairs of networks without a difference: 5 % and four standard errors of that share."""
    generator = np.random.default_rng(6)
    hard = generator.random(400)
    found = []
    for _ in range(300):
        parts = (on_images(text, 100.0 * (hard + generator.normal(0, 0.3, 400) < 0.6)) for text in (ONE, OTHER))
        found.append(compare(f"{ONE} > {OTHER}", *parts).p < 0.05)
    assert np.mean(found) < 0.05 + 4 * (0.05 * 0.95 / 300) ** 0.5
    assert np.mean(found) > 0
