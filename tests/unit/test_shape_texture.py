"""Shape and texture: both forms of the dimensions on planted factors, decisions of classifiers, features."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from cue_sets import planted, random_set, write_names

from lska.data.cue_conflict import CueConflictSet, imagenet_categories, read_cue_conflict
from lska.data.manifest import packaged_classes
from lska.evaluate import shape_texture
from lska.evaluate.inspecting import category_classes
from lska.evaluate.shape_texture import (
    allocate,
    bias_metrics,
    bias_outcomes,
    decide,
    dimension_metrics,
    dimension_outcomes,
    dimensions,
    draw_pairs,
    sharing_pairs,
)
from lska.models import create
from lska.models.scoring import features
from lska.provenance.outcomes import resample_counts

TINY = {"embed_dims": (8, 12, 16, 20), "depths": (1, 1, 1, 1), "mlp_ratios": (2, 2, 2, 2), "num_classes": 5}
TOLERANCE = 0.05
"""Of a planted share of variance: with 80 shapes and 40 textures, a code's variance is off by up to that much."""


@pytest.fixture(scope="module")
def cues(tmp_path_factory: pytest.TempPathFactory) -> CueConflictSet:
    return random_set(tmp_path_factory.mktemp("cues"))


def estimate(cues: CueConflictSet, values: np.ndarray, **settings: object) -> shape_texture.Dimensions:
    return dimensions(values, *sharing_pairs(cues), **{"resamples": 20, **settings})


# Pairs


def test_pairs_share_exactly_one_instance(cues: CueConflictSet, tmp_path: Path) -> None:
    expected: dict[str, list] = {"shape": [], "texture": []}
    for a, b in itertools.combinations(range(len(cues)), 2):
        shape = cues.shape_instance[a] == cues.shape_instance[b]
        texture = cues.texture_instance[a] == cues.texture_instance[b]
        if shape != texture:
            expected["shape" if shape else "texture"].append([a, b])
    assert sharing_pairs(cues)[0].tolist() == expected["shape"]
    assert sharing_pairs(cues)[1].tolist() == expected["texture"]
    # 80 shapes with 6 textures each.
    assert len(expected["shape"]) == 80 * 15
    # Images of one category are no pair by that alone.
    names = ["cat/cat1-dog1.png", "cat/cat2-dog2.png", "cat/cat1-dog2.png", "dog/dog1-dog2.png"]
    few = read_cue_conflict(write_names(tmp_path, names))
    pairs = [{few.names[i] for i in pair} for pair in sharing_pairs(few)[0]]
    assert pairs == [{"cat/cat1-dog1.png", "cat/cat1-dog2.png"}] and len(sharing_pairs(few)[1]) == 3


def test_a_draw_repeats_with_its_seed_and_takes_no_pair_twice(cues: CueConflictSet) -> None:
    pairs = sharing_pairs(cues)[1]
    first = draw_pairs(pairs, 100, seed=1)
    assert np.array_equal(first, draw_pairs(pairs, 100, seed=1))
    assert not np.array_equal(first, draw_pairs(pairs, 100, seed=2))
    assert len(np.unique(first, axis=0)) == 100 and set(map(tuple, first)) <= set(map(tuple, pairs))
    assert draw_pairs(pairs, None, 0) is pairs and draw_pairs(pairs, 10**6, 0) is pairs


# Estimates


@pytest.mark.parametrize(("shape", "texture", "noise"), [(120, 40, 32), (0, 150, 42)])
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
    assert found.correlations["shape"][:shape] == pytest.approx(np.ones(shape))
    assert np.abs(found.correlations["shape"][shape:]).max() < 0.35


def test_a_mixture_of_codes_counts_by_its_share_of_the_variance(cues: CueConflictSet) -> None:
    mixing, _ = np.linalg.qr(np.random.default_rng(0).standard_normal((200, 200)))
    apart = planted(cues, 100, 60, 40)
    # A rotation spreads the factors over all neurons; the summed covariance does not see it, the correlations do.
    whole, mixed = (estimate(cues, values).estimates for values in (apart, apart @ mixing))
    assert mixed["reference"].scores == pytest.approx(whole["reference"].scores)
    loud = estimate(cues, np.concatenate([3 * apart[:, :100], apart[:, 100:]], axis=1)).estimates
    assert loud["reference"].scores[0] == pytest.approx(0.9, abs=TOLERANCE)
    assert loud["printed"].scores == pytest.approx(whole["printed"].scores)


def test_the_printed_form_is_all_or_nothing_where_the_other_is_graded(cues: CueConflictSet) -> None:
    found = estimate(cues, planted(cues, 90, 60, 42)).estimates
    assert found["printed"].dimensions == (0, 0, 192) and min(found["reference"].dimensions) > 30
    # Only where one factor is all there is does it reach the residual's score of N.
    assert estimate(cues, planted(cues, 192, 0, 0)).estimates["printed"].dimensions == (96, 0, 96)
    # Without any factor the softmax still gives 1 / (2 + e) to each.
    shuffled = np.random.default_rng(3).permutation(planted(cues, 80, 60, 52))
    none = estimate(cues, shuffled).estimates["reference"]
    assert np.abs(none.scores[:2]).max() < 0.01
    assert np.abs(np.array(none.dimensions[:2]) - int(192 / (2 + np.e))).max() <= 1


def test_the_formulas_are_those_of_the_released_estimate(cues: CueConflictSet) -> None:
    """Written out for equally many pairs of both factors, in both orders."""
    values = planted(cues, 10, 10, 10) * np.linspace(0.5, 2, 30) + 7
    values[:, 29] = np.exp(values[:, 29] - 7)
    pairs = [draw_pairs(one, 400, seed=0) for one in sharing_pairs(cues)]
    found = dimensions(values, *pairs, resamples=5)
    everything = np.concatenate([values[pair.T.ravel()] for pair in pairs])
    for factor, (name, pair) in enumerate(zip(("shape", "texture"), pairs, strict=True)):
        a, b = values[pair[:, 0]], values[pair[:, 1]]
        middle = (a.mean(axis=0) + b.mean(axis=0)) / 2
        score = ((a - middle) * (b - middle)).mean(axis=0).sum() / everything.var(axis=0).sum()
        both, back = np.concatenate([a, b]), np.concatenate([b, a])
        correlations = [np.corrcoef(both[:, i], back[:, i])[0, 1] for i in range(30)]
        assert found.estimates["reference"].scores[factor] == pytest.approx(score)
        assert found.correlations[name] == pytest.approx(np.array(correlations))
        assert found.estimates["printed"].scores[factor] == pytest.approx(np.sum(correlations))
    # Neither the order within pairs nor that of neurons matters.
    turned = dimensions(values[:, ::-1], *(pair[:, ::-1] for pair in pairs), resamples=5).estimates
    for form in shape_texture.FORMS:
        assert turned[form].scores == pytest.approx(found.estimates[form].scores)


def test_chunks_change_nothing(cues: CueConflictSet, monkeypatch: pytest.MonkeyPatch) -> None:
    values = planted(cues, 10, 20, 30).astype(np.float32)
    whole = estimate(cues, values, resamples=30)
    monkeypatch.setattr(shape_texture, "ELEMENTS", 7 * len(sharing_pairs(cues)[1]))
    parts = estimate(cues, values, resamples=30)
    for form in shape_texture.FORMS:
        assert parts.estimates[form].scores == pytest.approx(whole.estimates[form].scores)
        assert np.allclose(parts.estimates[form].score_intervals, whole.estimates[form].score_intervals)


def test_constant_neurons_are_counted_and_have_no_correlation(cues: CueConflictSet) -> None:
    values, rare = planted(cues, 20, 20, 20), np.zeros((len(cues), 1))
    dead = np.concatenate([values, np.full((len(cues), 4), 0.1), np.zeros((len(cues), 2))], axis=1).astype(np.float32)
    former, found = estimate(cues, values), estimate(cues, dead)
    assert (former.constant, found.constant, found.neurons) == (0, 6, 66)
    assert (found.correlations["shape"][60:] == 0).all()
    # A neuron that only one image excites has no variance in most resamples.
    rare[5] = 1
    rarely = estimate(cues, np.concatenate([values, rare], axis=1)).estimates
    for form in shape_texture.FORMS:
        assert found.estimates[form].scores[:2] == pytest.approx(former.estimates[form].scores[:2], rel=1e-5)
        assert np.isfinite(rarely[form].score_intervals).all()


def test_intervals_hold_what_all_pairs_give(cues: CueConflictSet) -> None:
    values = planted(cues, 40, 30, 30)
    true, inside = estimate(cues, values).estimates["reference"], []
    for seed in range(40):
        pairs = [draw_pairs(one, 150, seed) for one in sharing_pairs(cues)]
        found = dimensions(values, *pairs, resamples=100, seed=seed).estimates["reference"]
        for i in range(2):
            (low, high), (least, most) = found.score_intervals[i], found.dimension_intervals[i]
            inside.append((low <= true.scores[i] <= high, least <= true.dimensions[i] <= most))
    assert (np.mean(inside, axis=0) >= 0.85).all()


def test_samples_are_the_scores_of_the_pairs_of_the_images_that_were_drawn(cues: CueConflictSet) -> None:
    values = planted(cues, 12, 9, 9)
    found = estimate(cues, values, resamples=3)
    kept = dimension_outcomes(found).samples
    for number, counts in enumerate(resample_counts(len(cues), resamples=3)):
        # A pair is there once for every pair of copies of its two images.
        pairs = [
            np.repeat(pair, counts[pair[:, 0]] * counts[pair[:, 1]], axis=0)
            for pair in sharing_pairs(cues)
        ]
        for form, estimates in dimensions(values, *pairs, resamples=1).estimates.items():
            drawn = found.samples[form][number]
            assert drawn == pytest.approx(estimates.scores[:2])
            for i, factor in enumerate(shape_texture.FACTORS):
                assert kept[f"{factor}_dimensions_{form}"][number] == estimates.dimensions[i]
                assert kept[f"{factor}_share_{form}"][number] == pytest.approx(100 * estimates.dimensions[i] / 30)
                assert factor == "residual" or kept[f"{factor}_score_{form}"][number] == drawn[i]


def test_the_spread_of_samples_is_the_error_over_sets_and_smaller_within_a_difference(cues: CueConflictSet) -> None:
    scores, errors, narrow = [], [], []
    for seed in range(25):
        found = estimate(cues, planted(cues, 40, 30, 122, seed), resamples=60)
        reference = found.estimates["reference"]
        scores.append(reference.scores[:2])
        errors.append(found.samples["reference"].std(axis=0, ddof=1))
        narrow.append([(high - low) / 3.92 for low, high in reference.score_intervals[:2]])
    assert np.mean(errors, axis=0) == pytest.approx(np.std(scores, axis=0, ddof=1), rel=0.4)
    assert (np.mean(narrow, axis=0) < 0.7 * np.std(scores, axis=0, ddof=1)).all()
    # A second network with a little more noise of its own on the same images.
    values = planted(cues, 40, 30, 122)
    noisy = values + 0.3 * np.random.default_rng(9).standard_normal(values.shape)
    first, second = (estimate(cues, each, resamples=200).samples["reference"][:, 0] for each in (values, noisy))
    assert 0 < (first - second).std(ddof=1) < np.hypot(first.std(ddof=1), second.std(ddof=1)) / 2


def test_samples_without_a_pair_have_no_score(tmp_path: Path) -> None:
    names = ["ant/ant1-bee1.png", "ant/ant1-bee2.png", "bee/bee1-bee1.png", "bee/bee1-bee2.png"]
    few = read_cue_conflict(write_names(tmp_path, names))
    found = estimate(few, np.random.default_rng(0).standard_normal((4, 5)), resamples=50)
    kept = dimension_outcomes(found).samples
    absent = np.array([
        any((counts[pair[:, 0]] * counts[pair[:, 1]]).sum() == 0 for pair in sharing_pairs(few))
        for counts in resample_counts(4, resamples=50)
    ])  # fmt: skip
    assert 0 < absent.sum() < 50
    for name in ("shape_score_reference", "texture_share_reference", "residual_dimensions_printed"):
        assert (np.isnan(kept[name]) == absent).all(), name


def test_dimensions_are_rounded_down_and_the_rest_is_residual(cues: CueConflictSet) -> None:
    # exp(1) / (exp(1) + 2) = 0.576
    assert allocate(np.array([[1.0, 0.0, 0.0], [0.0, 0.0, 1.0], [2000.0, 0.0, 1.0]]), 10).tolist() == [
        [5, 2, 3], [2, 2, 6], [10, 0, 0],
    ]  # fmt: skip
    found = estimate(cues, planted(cues, 50, 25, 25))
    entries = dimension_metrics(found)
    for form, estimates in found.estimates.items():
        for i, factor in enumerate(shape_texture.FACTORS):
            share, count = (entries[f"{factor}_{kind}_{form}"] for kind in ("share", "dimensions"))
            assert share["value"] == pytest.approx(estimates.dimensions[i]) and share["unit"] == "%"
            assert share["interval"] == pytest.approx(count["interval"]) and count["unit"] == "1"
    assert entries["shape_dimensions_reference"]["n"] == len(sharing_pairs(cues)[0])
    assert entries["residual_share_printed"]["n"] == len(sharing_pairs(cues)[0]) + len(sharing_pairs(cues)[1])


def test_impossible_input_is_named(cues: CueConflictSet) -> None:
    values, pairs = planted(cues, 3, 3, 3), sharing_pairs(cues)
    with pytest.raises(ValueError, match="share the shape: expected at least 2, found 1; the set needs"):
        dimensions(values, pairs[0][:1], pairs[1])
    with pytest.raises(ValueError, match="every neuron has one value for all images"):
        dimensions(np.ones_like(values), *pairs)


# Shape bias

CLASSES = ("ant", "bee", "cat", "dog")
NAMES = ("ant/ant1-bee1.png", "ant/ant1-dog1.png", "bee/bee1-ant1.png", "bee/bee1-bee1.png", "dog/dog1-bee1.png")
"""Read in this order; the fourth has no conflict."""


@pytest.fixture
def five(tmp_path: Path) -> CueConflictSet:
    return read_cue_conflict(write_names(tmp_path, NAMES))


def decided(cues: CueConflictSet, *places: int) -> shape_texture.CueDecisions:
    """Of a classifier that is sure of these of `CLASSES`."""
    return decide(np.eye(4)[list(places)], category_classes(cues, CLASSES), cues)


def test_categories_are_classes_of_their_name_or_imagenets(five: CueConflictSet, tmp_path: Path) -> None:
    assert {name: own.tolist() for name, own in category_classes(five, ("x", *CLASSES)).items()} == {
        "ant": [1], "bee": [2], "dog": [4]
    }  # fmt: skip
    assert category_classes(five, ("ant", "bee")) is None
    classes = packaged_classes("timm:data/_info/imagenet_synsets.txt", "this test")
    animals = read_cue_conflict(write_names(tmp_path / "animals", ["cat/cat1-dog1.png", "dog/dog1-cat1.png"]))
    groups, reverse = (category_classes(animals, order) for order in (classes, classes[::-1]))
    assert list(groups) == sorted(groups) and len(groups) == 16
    for name, members in groups.items():
        assert tuple(classes[i] for i in members) == imagenet_categories()[name]
        assert (999 - reverse[name] == members).all()
    probabilities = np.zeros((2, 1000))
    probabilities[0, 499] = 0.01  # a knife, the only one
    probabilities[0, 151:269] = 0.005  # all dogs, more in sum
    probabilities[1, [281, 0]] = 0.1, 0.9  # a cat, and a tench, which is in no category
    found = decide(probabilities, groups, animals)
    # The first is neither; the second, a dog of a cat's texture, is taken for its texture.
    assert (found.shape.tolist(), found.texture.tolist()) == ([False, False], [False, True])


def test_shape_and_texture_decisions_are_counted_where_cues_conflict(five: CueConflictSet) -> None:
    # Shape, neither, texture, no conflict, shape.
    found = decided(five, 0, 1, 0, 1, 3)
    entries, kept = bias_metrics(found, ("ant", "bee", "dog")), bias_outcomes(found, 40)
    bias = entries["shape_bias"]
    assert bias["value"] == pytest.approx(200 / 3) and bias["n"] == 3
    assert bias["standard_error"] == pytest.approx(100 * (2 / 3 * 1 / 3 / 3) ** 0.5)
    assert (entries["cue_decisions"]["value"], entries["cue_decisions"]["n"]) == (75, 4)
    assert entries["shape_decisions"]["value"] == 50 and entries["texture_decisions"]["value"] == 25
    assert {name: entries[f"shape_bias_{name}"]["value"] for name in ("ant", "bee", "dog")} == {
        "ant": 100, "bee": 0, "dog": 100
    }  # fmt: skip
    assert entries["shape_bias_category_mean"]["value"] == pytest.approx(200 / 3)
    assert kept.images["shape_decisions"].tolist() == [100, 0, 0, 100]
    for number, counts in enumerate(resample_counts(4, resamples=40)):
        shape, texture = (kept.images[f"{cue}_decisions"] @ counts for cue in ("shape", "texture"))
        assert kept.samples["shape_bias"][number] == pytest.approx(
            100 * shape / (shape + texture) if shape + texture else np.nan, nan_ok=True
        )


def test_no_decision_for_either_cue_gives_no_bias(five: CueConflictSet) -> None:
    entries = bias_metrics(decided(five, 3, 1, 3, 3, 0), five.categories)
    assert entries["shape_bias"] == entries["shape_bias_ant"] == {"value": None, "unit": "%"}
    assert entries["shape_bias_category_mean"] == {"value": None, "unit": "%"}
    assert entries["cue_decisions"]["value"] == 0


# Features


def test_features_of_every_stage_and_logits_pooled_or_not() -> None:
    torch.manual_seed(0)
    network, images = create("van_tiny", attention="lska", kernel_size=7, **TINY), torch.randn(3, 3, 64, 64)
    with pytest.raises(ValueError, match=r"VAN is in training mode.*eval\(\)"):
        features(network, images)
    with pytest.raises(ValueError, match="stage: VAN has stages 1 to 4, found 5"):
        features(network.eval(), images, stage=5)
    last, logits = features(network, images)
    assert last.shape == (3, 20) and last.dtype == torch.float32 and not last.requires_grad
    assert torch.equal(last, network.forward_features(images).mean(dim=(2, 3)))
    assert torch.equal(logits, network(images)) and not logits.requires_grad
    for stage, channels in enumerate((8, 12, 16, 20), start=1):
        side = 64 // 2 ** (stage + 1)
        (whole, _), (pooled, same) = features(network, images, stage, pooled=False), features(network, images, stage)
        assert whole.shape == (3, channels * side**2) and pooled.shape == (3, channels)
        assert torch.allclose(whole.view(3, channels, -1).mean(dim=2), pooled, atol=1e-6)
        assert torch.equal(same, logits)
    assert torch.allclose(pooled, last)
    assert torch.equal(features(network, images, pooled=False)[0], whole)
    # The order of neurons does not depend on the layout in memory.
    network.to(memory_format=torch.channels_last)
    turned, _ = features(network, images.contiguous(memory_format=torch.channels_last), stage=4, pooled=False)
    assert torch.allclose(turned, whole, atol=1e-5)
    other = create("resnet18", layers=(1, 1, 1, 1), channels=(8, 8, 8, 12), num_classes=5).eval()
    assert torch.allclose(other(images), other.get_classifier()(features(other, images)[0]))
