"""Recipes of fine-tuning: the paper's values, switches, refusals that name everything at once."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import yaml
from paper_jobs import RECIPES, TASKS

from lska.openmmlab.recipe import (
    DETECTORS,
    SEGMENTORS,
    DetectionRecipe,
    MaskRCNNRecipe,
    SegmentationRecipe,
    load_dense_recipe,
)
from lska.train.recipe import load_recipe

FILES = {"retinanet": "coco_retinanet", "mask_rcnn": "coco_mask_rcnn", "semantic_fpn": "ade20k_semantic_fpn"}
KINDS = {"retinanet": DetectionRecipe, "mask_rcnn": MaskRCNNRecipe, "semantic_fpn": SegmentationRecipe}


def load(head: str, **overrides: Any) -> Any:
    return load_dense_recipe(head, RECIPES / f"{FILES[head]}.yaml", overrides)


@pytest.mark.parametrize("path", sorted(path.name for path in RECIPES.glob("*_*.yaml")))
def test_every_recipe_of_the_project_loads_and_opens_with_how_to_use_it(path: str) -> None:
    head = next((head for head in FILES if path.endswith(f"_{head}.yaml")), None)
    if head is None:
        assert load_recipe(RECIPES / path).test_crop == 0.875, "networks of other papers"
    else:
        assert type(load_dense_recipe(head, RECIPES / path)) is KINDS[head]
    text = (RECIPES / path).read_text(encoding="utf-8")
    assert all(f"\n# {word} " in text for word in ("command", "hardware", "duration", "expect"))


def test_heads_have_their_own_kind_of_recipe() -> None:
    assert (*DETECTORS, *SEGMENTORS) == tuple(TASKS)
    assert {head: type(load(head)) for head in FILES} == KINDS
    with pytest.raises(ValueError, match="'upernet' is no detector or segmentor; expected one of retinanet, mask_rcnn"):
        load_dense_recipe("upernet", RECIPES / "coco_retinanet.yaml")


@pytest.mark.parametrize("head", FILES)
def test_the_papers_recipes(head: str) -> None:
    """Protocol sections 3 and 4."""
    recipe = load(head)
    shared = (recipe.learning_rate, recipe.betas, recipe.global_batch, recipe.drop_path, recipe.horizontal_flip)
    assert shared == (1e-4, (0.9, 0.999), 16, 0.1, 0.5)
    assert (recipe.clip_gradient, recipe.fpn_channels, recipe.precision) == (None, 256, "fp32")
    assert (recipe.mean, recipe.deviation) == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    assert recipe.layer_norm_eps == 1e-5
    if head == "semantic_fpn":
        assert (recipe.updates, recipe.power, recipe.minimum_learning_rate) == (80000, 0.9, 0.0)
        assert (recipe.micro_batch, recipe.weight_decay) == (4, 1e-4)
    else:
        assert (recipe.epochs, recipe.milestones, recipe.warmup_updates) == (12, (8, 11), 1000)
        assert (recipe.micro_batch, recipe.weight_decay) == (2, 0.05)


@pytest.mark.parametrize("head", FILES)
@pytest.mark.parametrize(
    ("switch", "fields"),
    [("normalization", {"mean": None, "deviation": None}), ("layer_norm", {"layer_norm_eps": 1e-6})],
)
def test_a_switch_changes_its_own_fields_only(head: str, switch: str, fields: dict[str, Any]) -> None:
    published, corrected = load(head), load(head, switches={switch: "corrected"})
    assert corrected == dataclasses.replace(published, **fields)
    assert corrected != published


def test_an_unknown_switch_or_choice_is_named_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match="coco_retinanet") as caught:
        load("retinanet", switches={"layer_norm": "fixed", "eps": "published"}, learning_rate="1e-3", rate=3)
    assert [line.strip() for line in str(caught.value).splitlines()[1:]] == [
        "unknown switch layer_norm: fixed; choices of layer_norm: published, corrected",
        "unknown switch eps: published; switches: normalization, layer_norm",
        "unknown key 'rate'; known keys: " + ", ".join(field.name for field in dataclasses.fields(DetectionRecipe)),
        "learning_rate: expected a finite float, found str '1e-3'; YAML takes it for text, write 1.0e-3",
    ]


def test_a_field_is_set_by_a_switch_or_directly_never_by_both() -> None:
    with pytest.raises(ValueError, match="layer_norm_eps is set both directly and by switch layer_norm; remove one"):
        load("semantic_fpn", layer_norm_eps=1e-3)


def test_a_recipe_may_leave_out_the_switches(tmp_path: Path) -> None:
    values = yaml.safe_load((RECIPES / "coco_retinanet.yaml").read_text())
    del values["switches"]
    path = tmp_path / "own.yaml"
    path.write_text(yaml.safe_dump({**values, "mean": [0.1, 0.2, 0.3], "deviation": [1, 1, 1], "layer_norm_eps": 0.1}))
    recipe = load_dense_recipe("retinanet", path)
    assert (recipe.mean, recipe.deviation, recipe.layer_norm_eps) == ((0.1, 0.2, 0.3), (1.0, 1.0, 1.0), 0.1)
    path.write_text(yaml.safe_dump({**values, "mean": [0.1, 0.2, 0.3], "deviation": None, "layer_norm_eps": 0.1}))
    with pytest.raises(ValueError, match="mean and deviation must both be set, or both be null"):
        load_dense_recipe("retinanet", path)


@pytest.mark.parametrize(
    ("head", "wrong", "message"),
    [
        ("retinanet", {"micro_batch": 3}, "global_batch 16 must be a multiple of micro_batch 3"),
        ("retinanet", {"micro_batch": 0}, "micro_batch must be positive, found 0"),
        ("retinanet", {"learning_rate": 0.0}, "learning_rate must be positive, found 0.0"),
        ("retinanet", {"weight_decay": -0.1}, "weight_decay must not be negative, found -0.1"),
        ("retinanet", {"clip_gradient": 0.0}, "clip_gradient must be positive, found 0.0"),
        ("retinanet", {"drop_path": 1.0}, r"drop_path must be in \[0, 1\), found 1.0"),
        ("retinanet", {"betas": [0.9, 1.0]}, r"betas must be in \[0, 1\), found \[0.9, 1.0\]"),
        ("retinanet", {"image_scale": [100_000, 800]}, "longest, shortest side], at most 16384 pixels, found"),
        ("retinanet", {"milestones": [11, 8]}, r"milestones must be increasing epochs below 12, found \[11, 8\]"),
        ("retinanet", {"milestones": [8, 12]}, r"milestones must be increasing epochs below 12, found \[8, 12\]"),
        ("retinanet", {"warmup_factor": 0.0}, "warmup_factor must be positive, found 0.0"),
        ("retinanet", {"warmup_updates": -1}, "warmup_updates and smallest_image must not be negative"),
        ("retinanet", {"image_scale": [800, 1333]}, r"image_scale must be \[longest, shortest side\]"),
        ("mask_rcnn", {"proposals": 0}, "proposals must be positive, found 0"),
        ("mask_rcnn", {"score_threshold": 1.1}, r"score_threshold must be in \[0, 1\], found 1.1"),
        ("semantic_fpn", {"updates": 0}, "updates must be positive, found 0"),
        ("semantic_fpn", {"scale_range": [2.0, 0.5]}, "scale_range must be two increasing positive factors"),
        ("semantic_fpn", {"largest_class": -0.5}, r"largest_class must be in \[0, 1\], found -0.5"),
        ("semantic_fpn", {"minimum_learning_rate": -1.0}, "minimum_learning_rate must not be negative"),
        ("semantic_fpn", {"precision": "fp16"}, "precision: expected one of 'fp32', 'bf16', found str 'fp16'"),
    ],
)
def test_impossible_values_are_named(head: str, wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load(head, **wrong)


def test_all_impossible_values_are_named_at_once() -> None:
    with pytest.raises(ValueError, match="coco_mask_rcnn") as caught:
        load("mask_rcnn", epochs=0, milestones=[], fc_channels=-1, suppression_iou=2.0)
    assert str(caught.value).splitlines()[-1].strip() == (
        "epochs must be positive, found 0; suppression_iou must be in [0, 1], found 2.0; "
        "fc_channels must be positive, found -1"
    )
