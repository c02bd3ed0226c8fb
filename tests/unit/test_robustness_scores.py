"""From predictions to metrics: corruption errors against published numbers, errors of means, calibration."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from lska.data.perturbed.names import C_BAR, EXTRA, FAMILIES, GROUPS, SEVERITIES, STANDARD
from lska.evaluate.scores import (
    ALEXNET,
    ALEXNET_CLEAN,
    Errors,
    Outcome,
    calibration_error,
    corruption_metrics,
    masked_metrics,
    plain_metrics,
)
from lska.provenance.metric_files import project_root
from lska.provenance.outcomes import mean_of

# Top-1 of torchvision's ResNet-50 and its corruption errors (bethgelab/game-of-noise, Results/clean_results.txt).
RESNET_50 = {
    "brightness": (68.02, 56.64), "contrast": (39.06, 71.43), "defocus_blur": (38.75, 74.71),
    "elastic_transform": (45.25, 84.75), "fog": (45.83, 66.11), "frost": (38.14, 74.84),
    "gaussian_noise": (29.29, 79.77), "glass_blur": (26.79, 88.61), "impulse_noise": (23.81, 82.58),
    "jpeg_compression": (53.41, 76.82), "motion_blur": (38.67, 78.03), "pixelate": (44.79, 76.92),
    "shot_noise": (27.03, 81.58), "snow": (32.53, 77.83), "zoom_blur": (36.24, 79.86),
}  # fmt: skip
WORDS = {
    "gaussian_noise": "Gaussian noise", "shot_noise": "shot", "impulse_noise": "impulse", "defocus_blur": "defocus",
    "glass_blur": "glass", "motion_blur": "motion", "zoom_blur": "zoom", "elastic_transform": "elastic",
    "jpeg_compression": "JPEG", "speckle_noise": "speckle", "gaussian_blur": "Gaussian blur",
}  # fmt: skip
"""What paper/protocol.md calls corruptions."""


def wrong(count: int, n: int, confidence: float = 0.5) -> Outcome:
    """Predictions of which the first `count` are wrong."""
    return Outcome(np.arange(n) >= count, np.full(n, confidence, np.float32))


def everywhere(counts: Mapping[str, int], n: int) -> dict[tuple[str, int], Outcome]:
    """Every severity of a corruption with its number of errors."""
    return {(name, level): wrong(count, n) for name, count in counts.items() for level in SEVERITIES}


def values(metrics: Mapping[str, Mapping[str, Any]]) -> dict[str, float | None]:
    return {name: entry["value"] for name, entry in metrics.items()}


def errors_of(rates: Mapping[str, float], clean: float | None = None, n: int = 10_000) -> Errors:
    """Errors in percent of every corruption, rounded to whole images."""
    cells = everywhere({name: round(rate * n / 100) for name, rate in rates.items()}, n)
    return Errors("c", cells, None if clean is None else wrong(round(clean * n / 100), n))


def test_published_accuracies_give_the_published_corruption_errors() -> None:
    found = values(corruption_metrics(errors_of({name: 100 - top1 for name, (top1, _) in RESNET_50.items()})))
    for name, (top1, error) in RESNET_50.items():
        assert found[f"top1_{name}"] == pytest.approx(top1)
        assert found[f"ce_{name}"] == pytest.approx(error, abs=0.02), name
    assert found["mce_15"] == pytest.approx(76.70, abs=0.01)
    assert found["top1_mean_15"] == pytest.approx(np.mean([top1 for top1, _ in RESNET_50.values()]))
    assert found["error_mean_15"] == pytest.approx(100 - found["top1_mean_15"])
    assert found["mce_19"] is found["top1_mean_19"] is None


def test_the_errors_of_alexnet_are_those_of_the_protocol() -> None:
    text = (project_root() / "paper" / "protocol.md").read_text(encoding="utf-8")
    (listed,) = re.findall(r"AlexNet errors in the script: (.*?\d)\. ", text)
    printed = {name.lower(): float(rate) for name, rate in re.findall(r"([A-Za-z][A-Za-z ]*) (\d+\.\d)", listed)}
    ours = {WORDS.get(name, name).lower(): rate for name, rate in ALEXNET.items()}
    assert set(printed) == set(ours)
    assert [name for name, rate in printed.items() if abs(ours[name] - rate) > 0.05 + 1e-9] == []
    assert tuple(ALEXNET) == FAMILIES["c"] == STANDARD + EXTRA


def test_alexnet_against_itself_is_100() -> None:
    found = values(corruption_metrics(errors_of(ALEXNET, ALEXNET_CLEAN)))
    for kind, allowed in (("ce", 0.01), ("relative_ce", 0.05)):
        assert [found[f"{kind}_{name}"] for name in ALEXNET] == pytest.approx([100] * 19, abs=allowed)
    assert [found[name] for name in ("mce_15", "mce_19")] == pytest.approx([100, 100], abs=0.005)
    assert [found[f"relative_mce_{n}"] for n in (15, 19)] == pytest.approx([100, 100], abs=0.02)


def test_relative_errors_by_hand() -> None:
    # Of 10 images 2 are wrong when clean. Brightness: 1, 3, 4, 5, 7 wrong, 40 % in the mean, 20 more than clean, where
    # AlexNet has 56.4592 - 43.5 = 12.9592 more. Contrast: all wrong, 80 more, where AlexNet has 41.8204 more.
    cells = {("brightness", level): wrong(count, 10) for level, count in zip(SEVERITIES, (1, 3, 4, 5, 7), strict=True)}
    cells |= everywhere({"contrast": 10}, 10)
    found = values(corruption_metrics(Errors("c", cells, wrong(2, 10))))
    assert found["relative_ce_brightness"] == pytest.approx(2000 / 12.9592)
    assert found["ce_brightness"] == pytest.approx(4000 / 56.4592)
    assert found["relative_ce_contrast"] == pytest.approx(8000 / 41.8204)
    assert found["top1_clean"] == 80
    assert found["relative_mce_15"] is None

    rest = {name: 6 for name in ALEXNET}
    found = values(corruption_metrics(Errors("c", everywhere(rest, 10) | cells, wrong(2, 10))))
    terms = {name: 4000 / (rate - 43.5) for name, rate in ALEXNET.items()}
    terms |= {"brightness": 2000 / 12.9592, "contrast": 8000 / 41.8204}
    assert found["relative_mce_15"] == pytest.approx(sum(terms[name] for name in STANDARD) / 15)
    assert found["relative_mce_19"] == pytest.approx(sum(terms.values()) / 19)


def test_without_clean_images_relative_errors_are_null_and_nothing_else() -> None:
    found = values(corruption_metrics(errors_of(ALEXNET)))
    null = {name for name, value in found.items() if value is None}
    assert null == {f"relative_ce_{name}" for name in ALEXNET} | {"relative_mce_15", "relative_mce_19"}
    assert not {"top1_clean", "ece_clean"} & set(found)


def test_the_metrics_of_a_complete_set() -> None:
    found = values(corruption_metrics(errors_of(ALEXNET, ALEXNET_CLEAN)))
    expected = {f"top1_{name}_{level}" for name in ALEXNET for level in SEVERITIES}
    kinds = ("top1", "ece", "ce", "relative_ce")
    expected |= {f"{kind}_{name}" for kind in kinds for name in ALEXNET}
    kinds = ("top1_mean", "error_mean", "ece_mean", "mce", "relative_mce")
    expected |= {f"{kind}_{n}" for kind in kinds for n in (15, 19)}
    expected |= {f"top1_{group}" for group in GROUPS} | {"top1_present", "top1_clean", "ece_clean"}
    assert set(found) == expected
    assert found["top1_noise"] == pytest.approx(100 - np.mean([ALEXNET[name] for name in STANDARD[:3]]), abs=0.01)
    assert found["top1_present"] == pytest.approx(found["top1_mean_19"])

    bar = values(corruption_metrics(Errors("c_bar", everywhere(dict.fromkeys(C_BAR, 30), 100))))
    assert (bar["error_mean_10"], bar["top1_mean_10"], bar["top1_present"]) == pytest.approx((30, 70, 70))
    assert not any(name.startswith(("ce_", "mce", "relative")) for name in bar)


@pytest.mark.parametrize("gone", [[("fog", level) for level in SEVERITIES], [("fog", 3)]], ids=["whole", "severity"])
def test_what_is_missing_makes_every_mean_over_it_null_and_nothing_else(gone: list[tuple[str, int]]) -> None:
    whole = errors_of(ALEXNET, ALEXNET_CLEAN, n=1000)
    rest = {cell: outcome for cell, outcome in whole.cells.items() if cell not in gone}
    complete, partial = (values(corruption_metrics(e)) for e in (whole, Errors("c", rest, whole.clean)))
    assert list(partial) == list(complete)
    over = {f"{kind}_fog" for kind in ("top1", "ece", "ce", "relative_ce")} | {"top1_weather"}
    over |= {f"{kind}_{n}" for kind in ("top1_mean", "error_mean", "ece_mean", "mce", "relative_mce") for n in (15, 19)}
    over |= {f"top1_fog_{level}" for _, level in gone}
    assert {name for name, value in partial.items() if value is None} == over
    same = set(partial) - over - {"top1_present"}
    assert {name: partial[name] for name in same} == {name: complete[name] for name in same}
    assert partial["top1_present"] == pytest.approx(np.mean([100 * o.correct.mean() for o in rest.values()]))


def test_without_an_extra_corruption_the_mean_of_15_stays() -> None:
    found = values(corruption_metrics(errors_of({name: ALEXNET[name] for name in STANDARD}, ALEXNET_CLEAN)))
    assert found["mce_15"] == pytest.approx(100, abs=0.005)
    assert found["mce_19"] is found["top1_extra"] is found["top1_spatter"] is None


def test_parts_that_agree_have_the_standard_error_of_one() -> None:
    n = 400
    found = corruption_metrics(Errors("c", everywhere(dict.fromkeys(ALEXNET, 100), n)))
    one = (0.25 * 0.75 / (n - 1)) ** 0.5 * 100
    for name in ("top1_mean_19", "top1_mean_15", "top1_noise", "top1_fog", "top1_present", "error_mean_15"):
        assert found[name]["standard_error"] == pytest.approx(one), name
        assert found[name]["n"] == n
    assert found["ce_fog"]["standard_error"] == pytest.approx(100 * one / ALEXNET["fog"])
    assert found["top1_fog_3"]["standard_error"] == pytest.approx((0.25 * 0.75 / n) ** 0.5 * 100)


def test_standard_errors_agree_with_a_bootstrap_over_images() -> None:
    # Images differ in difficulty and parts in severity, as in the real sets.
    n, generator = 300, np.random.default_rng(0)
    difficulty = generator.uniform(-0.3, 0.3, n)
    cells = {
        (name, level): Outcome(generator.random(n) > 0.12 * level + 0.1 + difficulty, np.full(n, 0.5, np.float32))
        for name in ALEXNET for level in SEVERITIES
    }  # fmt: skip
    whole = Errors("c", cells, Outcome(generator.random(n) > 0.2 + difficulty / 2, np.full(n, 0.5, np.float32)))
    found = corruption_metrics(whole)
    names = ("top1_mean_19", "mce_15", "relative_mce_19", "relative_ce_fog")
    drawn: dict[str, list[float]] = {name: [] for name in names}
    errors = {name: np.mean([~cells[name, level].correct for level in SEVERITIES], axis=0) for name in ALEXNET}
    for _ in range(1000):
        images = generator.integers(0, n, n)
        rate = {name: 100 * error[images].mean() for name, error in errors.items()}
        clean = 100 * (~whole.clean.correct[images]).mean()
        relative = {name: 100 * (rate[name] - clean) / (ALEXNET[name] - ALEXNET_CLEAN) for name in ALEXNET}
        drawn["top1_mean_19"].append(100 - np.mean(list(rate.values())))
        drawn["mce_15"].append(np.mean([100 * rate[name] / ALEXNET[name] for name in STANDARD]))
        drawn["relative_mce_19"].append(np.mean(list(relative.values())))
        drawn["relative_ce_fog"].append(relative["fog"])
    for name, draws in drawn.items():
        assert found[name]["standard_error"] == pytest.approx(np.std(draws), rel=0.1), name
    # Pictures are not independent: as many images as pictures would claim less than half of it.
    assert found["top1_mean_19"]["standard_error"] > 2 * 100 * (0.25 / (n * 95)) ** 0.5


def test_a_single_image_has_no_standard_error() -> None:
    assert mean_of(np.array([40.0]), "%") == {"value": 40.0, "unit": "%", "n": 1}


def test_calibration_error_by_hand() -> None:
    # Bins of 0.25: three images at 0.2 (one right), one at 0.25 (wrong), two at 0.9 (one right), one at 1 (right).
    confidence = np.array([0.2, 0.2, 0.2, 0.25, 0.9, 0.9, 1.0], np.float32)
    outcome = Outcome(np.array([1, 0, 0, 0, 1, 0, 1], bool), confidence)
    low, high = abs(1 - 0.85), abs(2 - 2.8)
    assert calibration_error(outcome, bins=4) == pytest.approx(100 * (low + high) / 7, rel=1e-6)


def test_calibration_error_agrees_with_a_loop_over_bins() -> None:
    generator = np.random.default_rng(1)
    confidence = generator.random(2000).astype(np.float32)
    correct = generator.random(2000) < confidence**2
    total = 0.0
    for low in range(15):
        inside = (confidence > low / 15) & (confidence <= (low + 1) / 15)
        total += inside.mean() * abs(correct[inside].mean() - confidence[inside].mean())
    assert calibration_error(Outcome(correct, confidence)) == pytest.approx(100 * total, rel=1e-5)
    assert total > 0.05


def test_calibration_error_of_calibrated_and_of_certain_predictions() -> None:
    generator = np.random.default_rng(2)
    confidence = generator.random(200_000).astype(np.float32)
    assert calibration_error(Outcome(generator.random(200_000) < confidence, confidence)) < 0.6
    exact = Outcome(np.repeat([True, False], [6, 4]), np.full(10, 0.6))
    assert calibration_error(exact) == pytest.approx(0, abs=1e-9)
    assert calibration_error(Outcome(np.array([True, False]), np.array([1.0, 0.0]))) == 0
    assert calibration_error(Outcome(np.array([False, False]), np.array([1.0, 1.0]))) == 100


def test_the_calibration_error_of_a_mean_is_the_mean_over_parts() -> None:
    cells = {
        (name, level): wrong(number, 20, confidence=0.05 * level)
        for number, name in enumerate(C_BAR) for level in SEVERITIES
    }  # fmt: skip
    found = values(corruption_metrics(Errors("c_bar", cells)))
    assert found["ece_mean_10"] == pytest.approx(np.mean([calibration_error(one) for one in cells.values()]))
    first = next(iter(C_BAR))
    assert found[f"ece_{first}"] == pytest.approx(np.mean([95, 90, 85, 80, 75]))


def test_masked_and_plain_metrics() -> None:
    found = masked_metrics(wrong(1, 4, 0.75), wrong(3, 4, 0.5))
    assert values(found) == pytest.approx(
        {"top1": 75, "error": 25, "ece": 0, "top1_unmasked": 25, "error_unmasked": 75, "ece_unmasked": 25}
    )
    assert found["error"]["standard_error"] == found["top1"]["standard_error"] == pytest.approx(100 * (3 / 64) ** 0.5)
    assert found["top1"]["n"] == 4
    assert plain_metrics(wrong(1, 4, 0.75)) == {name: found[name] for name in ("top1", "error", "ece")}
