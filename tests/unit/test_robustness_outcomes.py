"""What is kept of every image of a perturbed set, and what the errors of the metrics come from."""

from __future__ import annotations

import numpy as np
import pytest
from tiny_robustness import RUNS, RobustProject, members_of, metrics_of, scoring

from lska.data.perturbed.names import FAMILIES, SEVERITIES, STANDARD
from lska.evaluate import scoring_passes
from lska.evaluate.robustness import measure_robustness
from lska.evaluate.scores import (
    ALEXNET,
    Errors,
    Outcome,
    calibration_error,
    corruption_metrics,
    corruption_outcomes,
    masked_metrics,
    plain_outcomes,
)
from lska.provenance.outcomes import outcomes_path, read_outcomes, resample_counts
from lska.settings.versions import MEASUREMENTS, Version


def random_errors(family: str = "c", n: int = 80, seed: int = 0) -> Errors:
    """Images of different difficulty under corruptions of different strength, with confidences to match."""
    generator = np.random.default_rng(seed)
    ease = generator.normal(0, 1, n)

    def outcome(strength: float) -> Outcome:
        chance = 1 / (1 + np.exp(strength - 1 - ease))
        return Outcome(generator.random(n) < chance, generator.uniform(0.1, 1, n).astype(np.float32))

    cells = {(name, level): outcome(0.3 * level) for name in FAMILIES[family] for level in SEVERITIES}
    return Errors(family, cells, outcome(0.0) if family == "c" else None)


@pytest.mark.parametrize("family", FAMILIES)
def test_means_of_outcomes_are_the_metrics_and_their_spread_the_error(family: str) -> None:
    errors = random_errors(family)
    found, kept = corruption_metrics(errors), corruption_outcomes(errors, 50)
    for name, images in kept.images.items():
        assert images.shape == (80,) and images.mean() == pytest.approx(found[name]["value"]), name
        # A share's error is the binomial one, with n in the place of n - 1.
        expected = images.std(ddof=1) / 80**0.5
        assert found[name]["standard_error"] == pytest.approx(expected, rel=1e-9 if name != "top1_clean" else 0.01)
    single = {f"top1_{name}_{level}" for name, level in errors.cells}
    summaries = {name for name in found if not name.startswith("ece")} - single
    parts = {name for name in found if name.startswith(("ce_", "relative_ce_"))}
    assert set(kept.images) == summaries - parts
    assert set(kept.samples) == {name for name in found if name.startswith("ece_mean") or name == "ece_clean"}


def test_outcomes_are_in_the_order_of_the_images() -> None:
    errors = random_errors()
    kept = corruption_outcomes(errors, 5).images
    wrong = np.array([[~errors.cells[name, level].correct for level in SEVERITIES] for name in STANDARD]).mean(axis=1)
    assert kept["error_mean_15"] == pytest.approx(100 * wrong.mean(axis=0))
    weights = np.array([ALEXNET[name] for name in STANDARD])
    assert kept["mce_15"] == pytest.approx((100 * 100 * wrong / weights[:, None]).mean(axis=0))
    assert kept["top1_clean"].tolist() == [100.0 * right for right in errors.clean.correct]


def test_samples_of_calibration_errors_are_those_of_the_images_drawn() -> None:
    errors = random_errors()
    kept = corruption_outcomes(errors, 4).samples
    masked = plain_outcomes({"": errors.clean}, 4).samples
    for number, counts in enumerate(resample_counts(80, resamples=4)):
        images = np.repeat(np.arange(80), counts)
        parts = [errors.clean, *(errors.cells[name, level] for name in STANDARD for level in SEVERITIES)]
        clean, *every = (calibration_error(Outcome(one.correct[images], one.confidence[images])) for one in parts)
        assert kept["ece_clean"][number] == masked["ece"][number] == pytest.approx(clean)
        assert kept["ece_mean_15"][number] == pytest.approx(np.mean(every))


def test_what_is_missing_has_no_outcomes() -> None:
    whole = random_errors()
    kept = corruption_outcomes(Errors("c", {c: o for c, o in whole.cells.items() if c != ("fog", 3)}), 3)
    found = corruption_metrics(Errors("c", {c: o for c, o in whole.cells.items() if c != ("fog", 3)}))
    assert all(found[name]["value"] is not None for name in kept.images)
    assert not {"top1_fog", "top1_weather", "mce_15", "relative_mce_19", "top1_clean"} & set(kept.images)
    assert "top1_noise" in kept.images and not kept.samples


def test_a_paired_difference_has_a_smaller_error_than_that_of_two_sets() -> None:
    first, second = (corruption_outcomes(random_errors(seed=0, n=n), 3).images["top1_mean_19"] for n in (200, 200))
    assert (first == second).all()
    errors = random_errors(n=200)
    # Another network, which is also wrong on some images in every part.
    lost = np.random.default_rng(1).random(200) < 0.05
    worse = {cell: Outcome(one.correct & ~lost, one.confidence) for cell, one in errors.cells.items()}
    second = corruption_outcomes(Errors("c", worse), 3).images["top1_mean_19"]
    unpaired = np.hypot(first.std(ddof=1), second.std(ddof=1))
    assert 0 < (first - second).std(ddof=1) < unpaired / 2


def test_masked_and_plain_outcomes_are_those_of_their_metrics() -> None:
    outcomes = {
        "": Outcome(np.array([False, True, True, True]), np.full(4, 0.75, np.float32)),
        "_unmasked": Outcome(np.array([False, False, False, True]), np.full(4, 0.5, np.float32)),
    }
    found, kept = masked_metrics(*outcomes.values()), plain_outcomes(outcomes, 6)
    assert kept.images["top1"].tolist() == [0, 100, 100, 100]
    assert kept.images["error_unmasked"].tolist() == [100, 100, 100, 0]
    assert {name: values.mean() for name, values in kept.images.items()} == {
        name: found[name]["value"] for name in found if not name.startswith("ece")
    }
    assert set(kept.samples) == {"ece", "ece_unmasked"}


@pytest.mark.parametrize("name", ["c", "a"])
def test_outcomes_are_in_the_order_of_the_stored_predictions(robust: RobustProject, name: str) -> None:
    item = robust.item(name)
    measure_robustness(item, RUNS)
    one, digests = scoring(item, members_of(item.config, *RUNS)), set()
    for run, member in zip(RUNS, one.members, strict=True):
        content = metrics_of(item, run)
        kept = read_outcomes(outcomes_path(item.metrics(run)), content["outcomes"]).images
        part = next(part for part in one.parts if part.name in ("clean", "test"))
        outcome = one.outcomes(member, part, "masked" if name == "a" else "full")
        assert kept["top1" if name == "a" else "top1_clean"].tolist() == [100.0 * right for right in outcome.correct]
        digests.add(content["outcomes"])
    # The predictions stay, and give the same bytes again.
    before = {run: outcomes_path(item.metrics(run)).read_bytes() for run in RUNS}
    measure_robustness(item, RUNS)
    assert before == {run: outcomes_path(item.metrics(run)).read_bytes() for run in RUNS} and len(digests) > 1


def test_another_protocol_makes_no_prediction_again(robust: RobustProject, monkeypatch: pytest.MonkeyPatch) -> None:
    item = robust.item("sketch")
    measure_robustness(item, RUNS)
    first = item.protocol()
    monkeypatch.setitem(MEASUREMENTS, "robustness", Version(99, ()))
    monkeypatch.setattr(scoring_passes, "decode", lambda *_: pytest.fail("an image was decoded"))
    measure_robustness(item, RUNS)
    assert metrics_of(item, RUNS[0])["detail"]["protocol"] == item.protocol() != first
