"""Shape bias: categories of classes, decisions, and the share of shape decisions."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from cue_sets import random_set, write_names

from lska.data.cue_conflict import CueConflictSet, imagenet_categories, read_cue_conflict
from lska.data.manifest import packaged_classes
from lska.evaluate.shape_bias import (
    bias_metrics,
    bias_outcomes,
    decisions,
    identity_mapping,
    imagenet_mapping,
    shape_bias,
)
from lska.provenance.outcomes import resample_counts, standard_error

CLASSES = ("ant", "bee", "cat", "dog")
NAMES = ("ant/ant1-bee1.png", "ant/ant1-dog1.png", "bee/bee1-ant1.png", "bee/bee1-bee1.png", "dog/dog1-bee1.png")
"""Read in this order; the fourth has no conflict."""


@pytest.fixture
def cues(tmp_path: Path) -> CueConflictSet:
    return read_cue_conflict(write_names(tmp_path, NAMES))


# Categories


def test_imagenet_classes_are_found_by_name_in_any_order() -> None:
    classes = packaged_classes("timm:data/_info/imagenet_synsets.txt", "this test")
    mapping, reverse = imagenet_mapping(classes), imagenet_mapping(classes[::-1])
    assert (mapping.classes, len(mapping.categories)) == (1000, 16)
    assert list(mapping.categories) == sorted(mapping.categories)
    for name, members, others in zip(mapping.categories, mapping.members, reverse.members, strict=True):
        assert tuple(classes[i] for i in members) == imagenet_categories()[name]
        assert (999 - others == members).all()


def test_classes_that_the_mapping_needs_are_named_where_they_lack() -> None:
    with pytest.raises(ValueError, match=r"the network's 4 classes lack 'n02690373'.*and 197 more; expected one class"):
        imagenet_mapping(CLASSES)
    with pytest.raises(ValueError, match="lack 'eel'"):
        identity_mapping(CLASSES, ("ant", "eel"))
    with pytest.raises(ValueError, match="names that occur twice"):
        identity_mapping((*CLASSES, "ant"), ("ant",))


# Decisions


def test_the_mean_probability_of_a_category_decides() -> None:
    classes = packaged_classes("timm:data/_info/imagenet_synsets.txt", "this test")
    mapping = imagenet_mapping(classes)
    probabilities = np.zeros((4, 1000))
    probabilities[0, 499] = 0.01  # a knife, the only one
    probabilities[0, 151:269] = 0.005  # all dogs, more in sum
    probabilities[1, [444, 671]] = 0.1, 0.2  # bicycles, mean 0.15
    probabilities[1, 404] = 0.14  # an airplane
    probabilities[2, 0] = 0.9  # a tench, which is in no category
    probabilities[2, 385] = 0.1
    found = decisions(probabilities, mapping)
    assert [mapping.categories[i] for i in found[:3]] == ["knife", "bicycle", "elephant"]
    # Nothing in any category: the first of equal ones.
    assert mapping.categories[found[3]] == "airplane"


def test_classes_outside_the_set_are_not_considered() -> None:
    probabilities = np.array([[0.1, 0.2, 0.6, 0.1], [0.3, 0.3, 0.0, 0.4]], dtype=np.float32)
    assert decisions(probabilities, identity_mapping(CLASSES, ("dog", "bee", "ant"))).tolist() == [1, 2]
    assert decisions(probabilities, identity_mapping(CLASSES, CLASSES)).tolist() == [2, 3]


def test_what_are_no_probabilities_is_refused() -> None:
    mapping = identity_mapping(CLASSES, CLASSES)
    with pytest.raises(ValueError, match=r"expected \(images, 4\), found \(2, 5\)"):
        decisions(np.zeros((2, 5)), mapping)
    for value in (-0.1, 1.5, np.nan):
        with pytest.raises(ValueError, match="from 0 to 1; pass the softmax"):
            decisions(np.full((2, 4), value), mapping)


# Shape bias


def test_shape_and_texture_decisions_are_counted_where_cues_conflict(cues: CueConflictSet) -> None:
    mapping = identity_mapping(CLASSES, CLASSES)
    # Shape, neither, texture, no conflict, shape.
    found = shape_bias(np.array([0, 2, 0, 1, 3]), mapping, cues)
    assert found.images.tolist() == [2, 1, 0, 1]
    assert found.shape.tolist() == [1, 0, 0, 1]
    assert found.texture.tolist() == [0, 1, 0, 0]
    entries = bias_metrics(found)
    bias = entries["shape_bias"]
    assert bias["value"] == pytest.approx(200 / 3) and bias["n"] == 3
    assert bias["standard_error"] == pytest.approx(100 * (2 / 3 * 1 / 3 / 3) ** 0.5)
    assert (entries["cue_decisions"]["value"], entries["cue_decisions"]["n"]) == (75, 4)
    assert entries["shape_decisions"]["value"] == 50 and entries["texture_decisions"]["value"] == 25
    by_category = {name: entries[f"shape_bias_{name}"]["value"] for name in ("ant", "bee", "dog")}
    assert by_category == {"ant": 100, "bee": 0, "dog": 100} and "shape_bias_cat" not in entries
    assert entries["shape_bias_category_mean"]["value"] == pytest.approx(200 / 3)


def test_outcomes_are_those_of_the_images_with_a_conflict(cues: CueConflictSet) -> None:
    mapping = identity_mapping(CLASSES, CLASSES)
    decided = np.array([0, 2, 0, 1, 3])
    entries, kept = bias_metrics(shape_bias(decided, mapping, cues)), bias_outcomes(decided, mapping, cues, 40)
    conflict = [place for place in range(5) if cues.conflict[place]]
    expected = {place: decided[place] == mapping.categories.index(cues.categories[cues.shape_category[place]])
                for place in conflict}  # fmt: skip
    assert kept.images["shape_decisions"].tolist() == [100.0 * expected[place] for place in conflict]
    for name in ("cue_decisions", "shape_decisions", "texture_decisions"):
        assert kept.images[name].mean() == pytest.approx(entries[name]["value"])
    for number, counts in enumerate(resample_counts(4, resamples=40)):
        shape, texture = (kept.images[f"{cue}_decisions"] @ counts for cue in ("shape", "texture"))
        assert kept.samples["shape_bias"][number] == pytest.approx(
            100 * shape / (shape + texture) if shape + texture else np.nan, nan_ok=True
        )


def test_the_error_of_the_shape_bias_is_that_of_a_proportion(tmp_path: Path) -> None:
    cues = random_set(tmp_path)
    mapping, rng = identity_mapping(cues.categories, cues.categories), np.random.default_rng(0)
    texture = rng.random(len(cues)) < 0.3
    decided = np.where(texture, cues.texture_category, cues.shape_category)
    error = standard_error(bias_outcomes(decided, mapping, cues).samples["shape_bias"])
    found = bias_metrics(shape_bias(decided, mapping, cues))["shape_bias"]
    assert error == pytest.approx(found["standard_error"], rel=0.1)


def test_no_decision_for_either_cue_gives_no_bias(cues: CueConflictSet) -> None:
    entries = bias_metrics(shape_bias(np.full(5, 2), identity_mapping(CLASSES, CLASSES), cues))
    assert entries["shape_bias"] == entries["shape_bias_ant"] == {"value": None, "unit": "%"}
    assert entries["shape_bias_category_mean"] == {"value": None, "unit": "%"}
    assert entries["cue_decisions"]["value"] == 0


def test_networks_that_see_one_cue_or_none(tmp_path: Path) -> None:
    cues = random_set(tmp_path)
    classes = ("another", *cues.categories)
    mapping, rng = identity_mapping(classes, cues.categories), np.random.default_rng(0)
    outputs = {
        "shape": np.eye(11)[cues.shape_category + 1],
        "texture": np.eye(11)[cues.texture_category + 1],
        "chance": rng.dirichlet(np.ones(11), len(cues)),
    }
    found = {name: bias_metrics(shape_bias(decisions(p, mapping), mapping, cues)) for name, p in outputs.items()}
    assert found["shape"]["shape_bias"]["value"] == found["shape"]["cue_decisions"]["value"] == 100
    assert found["texture"]["shape_bias"]["value"] == 0 and found["texture"]["cue_decisions"]["value"] == 100
    chance = found["chance"]
    assert abs(chance["shape_bias"]["value"] - 50) < 4 * chance["shape_bias"]["standard_error"]
    assert abs(chance["cue_decisions"]["value"] - 20) < 4 * chance["cue_decisions"]["standard_error"]


def test_a_set_and_decisions_that_do_not_belong_together_are_named(cues: CueConflictSet, tmp_path: Path) -> None:
    mapping = identity_mapping(CLASSES, CLASSES)
    with pytest.raises(ValueError, match=r"one for each of the 5 images of .*, found an array \(4,\)"):
        shape_bias(np.zeros(4, dtype=int), mapping, cues)
    with pytest.raises(ValueError, match="categories that are not among the decisions: 'dog'; expected only 'ant'"):
        shape_bias(np.zeros(5, dtype=int), identity_mapping(CLASSES, ("ant", "bee")), cues)
    agreeing = read_cue_conflict(write_names(tmp_path / "agreeing", ["ant/ant1-ant1.png"]))
    with pytest.raises(ValueError, match="differ in category, found none"):
        shape_bias(np.zeros(1, dtype=int), mapping, agreeing)
