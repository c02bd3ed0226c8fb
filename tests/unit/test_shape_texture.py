"""Dimensions of shape and texture: pairs, both forms of the estimate on planted factors, features at every stage."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from cue_sets import planted, random_set, write_names

from lska.data.cue_conflict import CueConflictSet, read_cue_conflict
from lska.evaluate import shape_texture
from lska.evaluate.shape_texture import (
    allocate,
    dimension_metrics,
    dimension_outcomes,
    dimensions,
    draw_pairs,
    shape_pairs,
    texture_pairs,
)
from lska.models import create
from lska.models.features import features, responses
from lska.provenance.metric_files import validate
from lska.provenance.outcomes import resample_counts

TINY = {"embed_dims": (8, 12, 16, 20), "depths": (1, 1, 1, 1), "mlp_ratios": (2, 2, 2, 2), "num_classes": 5}
TOLERANCE = 0.05
"""Of a planted share of variance: with 80 shapes and 40 textures, a code's variance is off by up to that much."""


@pytest.fixture(scope="module")
def cues(tmp_path_factory: pytest.TempPathFactory) -> CueConflictSet:
    return random_set(tmp_path_factory.mktemp("cues"))


def estimate(cues: CueConflictSet, values: np.ndarray, **settings: object) -> shape_texture.Dimensions:
    return dimensions(values, shape_pairs(cues), texture_pairs(cues), **{"resamples": 20, **settings})


# Pairs


def test_pairs_share_exactly_one_instance(cues: CueConflictSet) -> None:
    expected: dict[str, list] = {"shape": [], "texture": []}
    for a, b in itertools.combinations(range(len(cues)), 2):
        shape = cues.shape_instance[a] == cues.shape_instance[b]
        texture = cues.texture_instance[a] == cues.texture_instance[b]
        if shape != texture:
            expected["shape" if shape else "texture"].append([a, b])
    assert shape_pairs(cues).tolist() == expected["shape"]
    assert texture_pairs(cues).tolist() == expected["texture"]
    # 80 shapes with 6 textures each.
    assert len(expected["shape"]) == 80 * 15


def test_images_of_one_category_are_no_pair_by_that_alone(tmp_path: Path) -> None:
    names = ["cat/cat1-dog1.png", "cat/cat2-dog2.png", "cat/cat1-dog2.png", "dog/dog1-dog2.png"]
    cues = read_cue_conflict(write_names(tmp_path, names))
    pairs = [{cues.names[i] for i in pair} for pair in shape_pairs(cues)]
    assert pairs == [{"cat/cat1-dog1.png", "cat/cat1-dog2.png"}]
    assert len(texture_pairs(cues)) == 3


def test_images_that_share_both_instances_are_no_pair(cues: CueConflictSet) -> None:
    texture = cues.texture_instance.copy()
    first, second = np.flatnonzero(cues.shape_instance == 0)[:2]
    texture[first] = texture[second]
    alike = replace(cues, texture_instance=texture)
    for pairs in (shape_pairs(alike), texture_pairs(alike)):
        assert [first, second] not in pairs.tolist()
    assert len(shape_pairs(alike)) == len(shape_pairs(cues)) - 1


def test_a_draw_repeats_with_its_seed_and_takes_no_pair_twice(cues: CueConflictSet) -> None:
    pairs = texture_pairs(cues)
    first = draw_pairs(pairs, 100, seed=1)
    assert np.array_equal(first, draw_pairs(pairs, 100, seed=1))
    assert not np.array_equal(first, draw_pairs(pairs, 100, seed=2))
    assert len(np.unique(first, axis=0)) == 100
    assert set(map(tuple, first)) <= set(map(tuple, pairs))
    assert draw_pairs(pairs, None, 0) is pairs and draw_pairs(pairs, 10**6, 0) is pairs
    with pytest.raises(ValueError, match="n: expected at least 2 pairs"):
        draw_pairs(pairs, 1, 0)


# Estimates


@pytest.mark.parametrize(("shape", "texture", "noise"), [(64, 64, 64), (120, 40, 32), (20, 100, 72), (0, 150, 42)])
def test_the_reference_scores_are_the_planted_shares_of_variance(
    cues: CueConflictSet, shape: int, texture: int, noise: int
) -> None:
    found = estimate(cues, planted(cues, shape, texture, noise))
    reference = found.estimates["reference"]
    assert reference.scores == pytest.approx((shape / 192, texture / 192, 1), abs=TOLERANCE)
    true = allocate(np.array([shape / 192, texture / 192, 1.0]), 192)
    assert np.abs(true - reference.dimensions).max() <= TOLERANCE * 192 / 2
    assert sum(reference.dimensions) == found.neurons == 192
    assert found.estimates["printed"].scores[:2] == pytest.approx((shape, texture), abs=TOLERANCE * 192)


def test_correlations_tell_the_planted_neurons_apart(cues: CueConflictSet) -> None:
    found = estimate(cues, planted(cues, 30, 20, 50))
    assert found.correlations["shape"][:30] == pytest.approx(np.ones(30))
    assert found.correlations["texture"][30:50] == pytest.approx(np.ones(20))
    assert np.abs(found.correlations["shape"][30:]).max() < 0.3
    assert np.abs(found.correlations["texture"][:30]).max() < 0.3


def test_a_mixture_of_codes_counts_by_its_share_of_the_variance(cues: CueConflictSet) -> None:
    rng = np.random.default_rng(0)
    mixing, _ = np.linalg.qr(rng.standard_normal((200, 200)))
    apart = planted(cues, 100, 60, 40)
    # A rotation spreads the factors over all neurons; the summed covariance does not see it, the correlations do.
    whole, mixed = (estimate(cues, values).estimates for values in (apart, apart @ mixing))
    assert mixed["reference"].scores == pytest.approx(whole["reference"].scores)
    loud = np.concatenate([3 * apart[:, :100], apart[:, 100:]], axis=1)
    assert estimate(cues, loud).estimates["reference"].scores[0] == pytest.approx(0.9, abs=TOLERANCE)
    assert estimate(cues, loud).estimates["printed"].scores == pytest.approx(whole["printed"].scores)


def test_the_printed_form_is_all_or_nothing_where_the_other_is_graded(cues: CueConflictSet) -> None:
    for shape, texture in [(90, 60), (60, 90), (30, 20)]:
        values = planted(cues, shape, texture, 192 - shape - texture)
        found = estimate(cues, values).estimates
        assert found["printed"].dimensions == (0, 0, 192)
        largest = 0 if shape > texture else 1
        unresidual = estimate(cues, values, printed_residual=1.0).estimates["printed"].dimensions
        assert unresidual[largest] >= 190 and unresidual[1 - largest] == 0
        assert min(found["reference"].dimensions) > 30
    # Only where one factor is all there is does it reach the residual's score of N.
    assert estimate(cues, planted(cues, 192, 0, 0)).estimates["printed"].dimensions == (96, 0, 96)


def test_shuffled_labels_leave_no_factor(cues: CueConflictSet) -> None:
    values = planted(cues, 80, 60, 52)
    shuffled = np.random.default_rng(3).permutation(values)
    found = estimate(cues, shuffled, resamples=200).estimates["reference"]
    assert np.abs(found.scores[:2]).max() < 0.01
    # Without any factor the softmax still gives 1 / (2 + e) to each.
    none = int(192 / (2 + np.e))
    assert np.abs(np.array(found.dimensions[:2]) - none).max() <= 1


def test_the_formulas_are_those_of_the_released_estimate(cues: CueConflictSet) -> None:
    """Written out for equally many pairs of both factors, in both orders."""
    values = planted(cues, 10, 10, 10) * np.linspace(0.5, 2, 30) + 7
    values[:, 29] = np.exp(values[:, 29] - 7)
    pairs = [draw_pairs(one(cues), 400, seed=0) for one in (shape_pairs, texture_pairs)]
    everything = np.concatenate([values[pair.T.ravel()] for pair in pairs])
    for factor, (name, pair) in enumerate(zip(("shape", "texture"), pairs, strict=True)):
        a, b = values[pair[:, 0]], values[pair[:, 1]]
        middle = (a.mean(axis=0) + b.mean(axis=0)) / 2
        score = ((a - middle) * (b - middle)).mean(axis=0).sum() / everything.var(axis=0).sum()
        both, back = np.concatenate([a, b]), np.concatenate([b, a])
        correlations = [np.corrcoef(both[:, i], back[:, i])[0, 1] for i in range(30)]
        found = dimensions(values, *pairs, resamples=5)
        assert found.estimates["reference"].scores[factor] == pytest.approx(score)
        assert found.correlations[name] == pytest.approx(np.array(correlations))
        assert found.estimates["printed"].scores[factor] == pytest.approx(np.sum(correlations))


def test_the_order_within_pairs_and_of_neurons_does_not_matter(cues: CueConflictSet) -> None:
    values, pairs = planted(cues, 10, 20, 30), (shape_pairs(cues), texture_pairs(cues))
    turned = [np.where(np.random.default_rng(1).random((len(p), 1)) < 0.5, p, p[:, ::-1]) for p in pairs]
    first, second = (dimensions(values, *both, resamples=5).estimates for both in (pairs, turned))
    third = dimensions(values[:, ::-1], *pairs, resamples=5).estimates
    for form in shape_texture.FORMS:
        assert second[form].scores == pytest.approx(first[form].scores)
        assert third[form].scores == pytest.approx(first[form].scores)


def test_chunks_change_nothing(cues: CueConflictSet, monkeypatch: pytest.MonkeyPatch) -> None:
    values = planted(cues, 10, 20, 30).astype(np.float32)
    whole = estimate(cues, values, resamples=30)
    monkeypatch.setattr(shape_texture, "ELEMENTS", 7 * len(texture_pairs(cues)))
    parts = estimate(cues, values, resamples=30)
    assert np.allclose(parts.correlations["shape"], whole.correlations["shape"])
    for form in shape_texture.FORMS:
        assert parts.estimates[form].scores == pytest.approx(whole.estimates[form].scores)
        assert np.allclose(parts.estimates[form].score_intervals, whole.estimates[form].score_intervals)
        assert parts.estimates[form].dimension_intervals == whole.estimates[form].dimension_intervals


def test_constant_neurons_are_counted_and_have_no_correlation(cues: CueConflictSet) -> None:
    values = planted(cues, 20, 20, 20)
    dead = np.concatenate([values, np.full((len(cues), 4), 0.1), np.zeros((len(cues), 2))], axis=1).astype(np.float32)
    former, found = estimate(cues, values), estimate(cues, dead)
    assert (former.constant, found.constant, found.neurons) == (0, 6, 66)
    assert (found.correlations["shape"][60:] == 0).all() and (found.correlations["texture"][60:] == 0).all()
    for form in shape_texture.FORMS:
        assert found.estimates[form].scores[:2] == pytest.approx(former.estimates[form].scores[:2], rel=1e-5)
    # A neuron that only one image excites has no variance in most resamples.
    rare = np.zeros((len(cues), 1))
    rare[5] = 1
    assert all(np.isfinite(e.score_intervals).all() for e in
               estimate(cues, np.concatenate([values, rare], axis=1)).estimates.values())  # fmt: skip


def test_intervals_hold_what_all_pairs_give(cues: CueConflictSet) -> None:
    values = planted(cues, 40, 30, 30)
    true = estimate(cues, values).estimates["reference"]
    inside = {"score": [], "dimension": []}
    for seed in range(60):
        pairs = [draw_pairs(one(cues), 150, seed) for one in (shape_pairs, texture_pairs)]
        found = dimensions(values, *pairs, resamples=200, seed=seed).estimates["reference"]
        for i in range(2):
            low, high = found.score_intervals[i]
            assert low < found.scores[i] < high and high - low < 0.2
            inside["score"].append(low <= true.scores[i] <= high)
            low, high = found.dimension_intervals[i]
            inside["dimension"].append(low <= true.dimensions[i] <= high)
    assert np.mean(inside["score"]) >= 0.85
    assert np.mean(inside["dimension"]) >= 0.85


def test_the_seed_fixes_the_intervals_and_more_confidence_widens_them(cues: CueConflictSet) -> None:
    values = planted(cues, 40, 30, 30)
    one, again, other = (estimate(cues, values, seed=seed).estimates["reference"] for seed in (1, 1, 2))
    assert one == again and one.score_intervals != other.score_intervals and one.scores == other.scores
    wide = estimate(cues, values, seed=1, confidence=0.999).estimates["reference"]
    assert wide.score_intervals[0][0] < one.score_intervals[0][0] < one.score_intervals[0][1]


def test_samples_are_the_scores_of_the_pairs_of_the_images_that_were_drawn(cues: CueConflictSet) -> None:
    values = planted(cues, 12, 9, 9)
    found = estimate(cues, values, resamples=3)
    for number, counts in enumerate(resample_counts(len(cues), resamples=3)):
        # A pair is there once for every pair of copies of its two images.
        pairs = [
            np.repeat(pair, counts[pair[:, 0]] * counts[pair[:, 1]], axis=0)
            for pair in (shape_pairs(cues), texture_pairs(cues))
        ]
        direct = dimensions(values, *pairs, resamples=1).estimates
        kept = dimension_outcomes(found).samples
        for form, estimates in direct.items():
            drawn = found.samples[form][number]
            assert drawn == pytest.approx(estimates.scores[:2])
            for i, factor in enumerate(shape_texture.FACTORS):
                assert kept[f"{factor}_dimensions_{form}"][number] == estimates.dimensions[i]
                assert kept[f"{factor}_share_{form}"][number] == pytest.approx(100 * estimates.dimensions[i] / 30)
                assert kept.get(f"{factor}_score_{form}", [None] * 3)[number] == (
                    None if factor == "residual" else drawn[i]
                )


def test_the_spread_of_samples_is_the_error_over_sets_and_not_that_of_pairs(cues: CueConflictSet) -> None:
    scores, errors, narrow = [], [], []
    for seed in range(25):
        found = estimate(cues, planted(cues, 40, 30, 122, seed), resamples=60)
        reference = found.estimates["reference"]
        scores.append(reference.scores[:2])
        errors.append(found.samples["reference"].std(axis=0, ddof=1))
        narrow.append([(high - low) / 3.92 for low, high in reference.score_intervals[:2]])
    assert np.mean(errors, axis=0) == pytest.approx(np.std(scores, axis=0, ddof=1), rel=0.4)
    assert (np.mean(narrow, axis=0) < 0.7 * np.std(scores, axis=0, ddof=1)).all()


def test_a_difference_of_scores_within_samples_has_a_smaller_error(cues: CueConflictSet) -> None:
    values = planted(cues, 40, 30, 122)
    # A second network with a little more noise of its own on the same images.
    noisy = values + 0.3 * np.random.default_rng(9).standard_normal(values.shape)
    first, second = (
        dimension_outcomes(estimate(cues, each, resamples=200)).samples["shape_score_reference"]
        for each in (values, noisy)
    )
    unpaired = np.hypot(first.std(ddof=1), second.std(ddof=1))
    assert 0 < (first - second).std(ddof=1) < unpaired / 2


def test_samples_without_a_pair_have_no_score(tmp_path: Path) -> None:
    names = ["ant/ant1-bee1.png", "ant/ant1-bee2.png", "bee/bee1-bee1.png", "bee/bee1-bee2.png"]
    few = read_cue_conflict(write_names(tmp_path, names))
    found = estimate(few, np.random.default_rng(0).standard_normal((4, 5)), resamples=50)
    kept = dimension_outcomes(found).samples
    absent = np.array([
        any((counts[pair[:, 0]] * counts[pair[:, 1]]).sum() == 0 for pair in (shape_pairs(few), texture_pairs(few)))
        for counts in resample_counts(4, resamples=50)
    ])  # fmt: skip
    assert 0 < absent.sum() < 50
    for name in ("shape_score_reference", "texture_share_reference", "residual_dimensions_printed"):
        assert (np.isnan(kept[name]) == absent).all(), name


def test_dimensions_are_rounded_down_and_the_rest_is_residual() -> None:
    # exp(1) / (exp(1) + 2) = 0.576
    assert allocate(np.array([[1.0, 0.0, 0.0], [0.0, 0.0, 1.0], [2000.0, 0.0, 1.0]]), 10).tolist() == [
        [5, 2, 3], [2, 2, 6], [10, 0, 0],
    ]  # fmt: skip


def test_metric_entries_fit_the_schema(cues: CueConflictSet) -> None:
    found = estimate(cues, planted(cues, 50, 25, 25))
    entries = dimension_metrics(found)
    for form, estimates in found.estimates.items():
        for i, factor in enumerate(shape_texture.FACTORS):
            share, count = (entries[f"{factor}_{kind}_{form}"] for kind in ("share", "dimensions"))
            assert share["value"] == pytest.approx(estimates.dimensions[i]) and share["unit"] == "%"
            assert share["interval"] == pytest.approx(count["interval"]) and count["unit"] == "1"
    assert entries["shape_dimensions_reference"]["n"] == len(shape_pairs(cues))
    assert entries["residual_share_printed"]["n"] == len(shape_pairs(cues)) + len(texture_pairs(cues))
    assert entries["shape_correlation"]["value"] == pytest.approx(0.5, abs=TOLERANCE)
    content = {
        "schema": 1, "task": "shape_texture", "run": "van_tiny-lska-k23-s0", "scale": "demo", "metrics": entries,
        "weights": {"md5": None, "origin": "random"}, "recipe": None, "data": None,
        "code": {"commit": None, "dirty": None}, "detail": {}, "started": "2024-01-01T00:00:00+00:00", "seconds": 1.0,
        "environment": {"lock": None, "python": "3", "torch": "2", "timm": "1", "device": "cpu", "hardware": "x"},
    }  # fmt: skip
    validate(content, "metrics", "a metric file")


def test_impossible_input_is_named(cues: CueConflictSet) -> None:
    values, pairs = planted(cues, 3, 3, 3), (shape_pairs(cues), texture_pairs(cues))
    with pytest.raises(ValueError, match=r"the shape: expected at least 2 rows of 2 images, found an array \(1, 2\)"):
        dimensions(values, pairs[0][:1], pairs[1])
    with pytest.raises(ValueError, match="share the texture: expected images from 0 to 99, found"):
        dimensions(values[:100], pairs[0][:5], pairs[1])
    with pytest.raises(ValueError, match="every neuron has one value for all images"):
        dimensions(np.ones_like(values), *pairs)
    with pytest.raises(ValueError, match="expected finite numbers, found others for 1 of 480 images"):
        dimensions(np.where(np.arange(480)[:, None] == 3, np.nan, values), *pairs)
    with pytest.raises(ValueError, match=r"features: expected an array \(images, neurons\), found \(480,\)"):
        dimensions(values[:, 0], *pairs)
    with pytest.raises(ValueError, match="resamples: expected at least 1"):
        dimensions(values, *pairs, resamples=0)


# Features


def test_features_of_every_stage_pooled_or_not() -> None:
    torch.manual_seed(0)
    network = create("van_tiny", attention="lska", kernel_size=7, **TINY).eval()
    images = torch.randn(3, 3, 64, 64)
    last = features(network, images)
    assert last.shape == (3, 20) and last.dtype == torch.float32 and not last.requires_grad
    assert torch.equal(last, network.forward_features(images).mean(dim=(2, 3)))
    for stage, channels in enumerate((8, 12, 16, 20), start=1):
        side = 64 // 2 ** (stage + 1)
        whole, pooled = features(network, images, stage, pooled=False), features(network, images, stage)
        assert whole.shape == (3, channels * side**2) and pooled.shape == (3, channels)
        assert torch.allclose(whole.view(3, channels, -1).mean(dim=2), pooled, atol=1e-6)
    assert torch.allclose(pooled, last)
    assert torch.equal(features(network, images, pooled=False), whole)
    assert torch.equal(network(images), network.head(last))


def test_features_of_another_network_are_what_its_head_sees() -> None:
    torch.manual_seed(0)
    network = create("resnet18", layers=(1, 1, 1, 1), channels=(8, 8, 8, 12), num_classes=5).eval()
    images = torch.randn(2, 3, 64, 64)
    assert torch.allclose(network(images), network.get_classifier()(features(network, images)))
    assert features(network, images, stage=2).shape[0] == 2


@pytest.mark.parametrize("stage", [None, 2])
def test_features_and_logits_together_are_those_of_each(stage: int | None) -> None:
    torch.manual_seed(0)
    network = create("van_tiny", attention="lska", kernel_size=7, **TINY).eval()
    images = torch.randn(2, 3, 64, 64)
    for pooled in (True, False):
        found, logits = responses(network, images, stage, pooled)
        assert torch.equal(found, features(network, images, stage, pooled))
        assert torch.equal(logits, network(images)) and not logits.requires_grad
    with pytest.raises(ValueError, match="is in training mode"):
        responses(network.train(), images, stage)


def test_one_forward_pass_gives_the_last_features_and_the_logits(monkeypatch: pytest.MonkeyPatch) -> None:
    network = create("van_tiny", attention="lska", kernel_size=7, **TINY).eval()
    calls: list[torch.Tensor] = []
    original = network.forward_features
    monkeypatch.setattr(network, "forward_features", lambda images: calls.append(images) or original(images))
    responses(network, torch.randn(2, 3, 64, 64))
    assert len(calls) == 1


def test_layout_in_memory_does_not_change_the_order_of_neurons() -> None:
    torch.manual_seed(0)
    network = create("van_tiny", attention="lka", kernel_size=7, **TINY).eval()
    images = torch.randn(2, 3, 64, 64)
    first = features(network, images, stage=1, pooled=False)
    network.to(memory_format=torch.channels_last)
    second = features(network, images.contiguous(memory_format=torch.channels_last), stage=1, pooled=False)
    assert torch.allclose(first, second, atol=1e-5)


def test_wrong_stages_and_training_mode_are_refused() -> None:
    network = create("van_tiny", attention="lska", kernel_size=7, **TINY)
    with pytest.raises(ValueError, match=r"VAN is in training mode.*eval\(\)"):
        features(network, torch.zeros(1, 3, 64, 64))
    with pytest.raises(ValueError, match="stage: VAN has stages 1 to 4, found 5"):
        features(network.eval(), torch.zeros(1, 3, 64, 64), stage=5)
