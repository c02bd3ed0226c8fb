"""Recipes: the published settings, and the switches between readings of the sources."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import yaml
from paper_jobs import RECIPES
from tiny_project import RECIPE

from lska.settings import recipes as dense
from lska.settings.recipes import SWITCHES, load_recipe

IMAGENET = RECIPES / "imagenet.yaml"
FILES = {"retinanet": "coco_retinanet", "mask_rcnn": "coco_mask_rcnn", "semantic_fpn": "ade20k_semantic_fpn"}

# paper/protocol.md, section 2, column "official code". Where it lists more than one, the value is the README's.
PUBLISHED = {
    "epochs": 300, "cooldown_epochs": 10, "optimizer": "adamw", "weight_decay": 0.05, "learning_rate": 1e-3,
    "warmup_epochs": 5, "warmup_learning_rate": 1e-6, "minimum_learning_rate": 1e-6, "schedule_unit": "epoch",
    "clip_gradient": None, "global_batch": 512, "micro_batch": 128, "drop_path": 0.1, "crop_scale": (0.08, 1.0),
    "crop_ratio": (3 / 4, 4 / 3), "horizontal_flip": 0.5, "rand_augment": "rand-m9-mstd0.5-inc1", "color_jitter": 0.4,
    "erase_probability": 0.25, "erase_mode": "pixel", "mixup": 0.8, "cutmix": 1.0, "mixup_probability": 1.0,
    "mixup_switch_probability": 0.5, "label_smoothing": 0.1, "train_interpolation": "random", "ema_decay": None,
    "precision": "fp32", "image_size": 224, "test_crop": 0.9, "test_interpolation": "bicubic", "mean": (0.5, 0.5, 0.5),
    "deviation": (0.5, 0.5, 0.5),
}  # fmt: skip
# Speed or the log only; the protocol says nothing of them.
OURS = {"channels_last": True, "compile": False, "validation_interval": 10}

# Protocol sections 3 and 4.
SHARED = {
    "learning_rate": 1e-4, "betas": (0.9, 0.999), "global_batch": 16, "drop_path": 0.1, "horizontal_flip": 0.5,
    "clip_gradient": None, "fpn_channels": 256, "precision": "fp32", "mean": (0.485, 0.456, 0.406),
    "deviation": (0.229, 0.224, 0.225), "layer_norm_eps": 1e-5,
}  # fmt: skip
DETECTION = {"epochs": 12, "milestones": (8, 11), "warmup_updates": 1000, "micro_batch": 2, "weight_decay": 0.05}
SEGMENTATION = {
    "updates": 80000, "power": 0.9, "minimum_learning_rate": 0.0, "micro_batch": 4, "weight_decay": 1e-4,
}  # fmt: skip

CHOICES: dict[tuple[str, str], dict[str, Any]] = {
    ("batch", "published"): {"global_batch": 512, "micro_batch": 128},
    ("batch", "published_script"): {"global_batch": 128, "micro_batch": 64},
    ("batch", "corrected"): {"global_batch": 1024, "micro_batch": 128},
    ("averaging", "published"): {"ema_decay": None},
    ("averaging", "corrected"): {"ema_decay": 0.9999},
    ("normalization", "published"): {"mean": (0.5, 0.5, 0.5), "deviation": (0.5, 0.5, 0.5)},
    ("normalization", "corrected"): {"mean": (0.485, 0.456, 0.406), "deviation": (0.229, 0.224, 0.225)},
}


def test_imagenet_is_the_protocol() -> None:
    recipe = load_recipe(IMAGENET)
    assert recipe.to_dict() == PUBLISHED | OURS
    assert recipe.total_epochs == 310  # the evaluation script names epoch index 309
    assert recipe.mixes


def test_fine_tunings_are_the_protocol_and_heads_have_their_own_kind_of_recipe() -> None:
    for head, file in FILES.items():
        recipe = load_recipe(RECIPES / f"{file}.yaml", head=head)
        expected = SHARED | (SEGMENTATION if head == "semantic_fpn" else DETECTION)
        assert {name: recipe.to_dict()[name] for name in expected} == expected
        assert type(recipe) is dense.RECIPES[head]
    with pytest.raises(ValueError, match="'upernet' is no detector or segmentor; expected one of retinanet, mask_rcnn"):
        load_recipe(RECIPES / "coco_retinanet.yaml", head="upernet")


def test_a_switch_sets_its_fields_and_nothing_else() -> None:
    assert {(name, choice) for name, choices in SWITCHES.items() for choice in choices} == set(CHOICES)
    published = load_recipe(IMAGENET).to_dict()
    for (name, choice), fields in CHOICES.items():
        assert load_recipe(IMAGENET, {"switches": {name: choice}}).to_dict() == published | fields
    corrected = {"normalization": {"mean": None, "deviation": None}, "layer_norm": {"layer_norm_eps": 1e-6}}
    for head, file in FILES.items():
        own = load_recipe(RECIPES / f"{file}.yaml", head=head)
        for name, fields in corrected.items():
            switched = load_recipe(RECIPES / f"{file}.yaml", {"switches": {name: "corrected"}}, head)
            assert switched == dataclasses.replace(own, **fields) != own


def test_a_recipe_may_leave_out_the_switches(tmp_path: Path) -> None:
    values = yaml.safe_load((RECIPES / "coco_retinanet.yaml").read_text())
    del values["switches"]
    path = tmp_path / "own.yaml"
    path.write_text(yaml.safe_dump({**values, "mean": [0.1, 0.2, 0.3], "deviation": [1, 1, 1], "layer_norm_eps": 0.1}))
    recipe = load_recipe(path, head="retinanet")
    assert (recipe.mean, recipe.deviation, recipe.layer_norm_eps) == ((0.1, 0.2, 0.3), (1.0, 1.0, 1.0), 0.1)


def test_every_recipe_of_the_project_resolves_and_opens_with_how_to_use_it() -> None:
    for path in sorted(RECIPES.glob("*.yaml")):
        head = next((head for head in FILES if path.stem.endswith(f"_{head}")), None)
        recipe = load_recipe(path, head=head)
        if path.stem.startswith("imagenet_"):
            assert recipe.test_crop == 0.875, "networks of other papers"
            assert ("augmentation_repeats" in recipe.to_dict()) == (recipe.augmentation_repeats != 1), "digests stay"
        text = path.read_text(encoding="utf-8")
        assert all(f"\n# {word} " in text for word in ("command", "hardware", "duration", "expect")), path


def test_overrides_win_over_the_file_and_mixing_needs_a_kind_and_a_probability(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(RECIPE, sort_keys=False), encoding="utf-8")
    recipe = load_recipe(path, {"epochs": 7, "ema_decay": 0.5})
    assert (recipe.epochs, recipe.ema_decay, recipe.learning_rate) == (7, 0.5, RECIPE["learning_rate"])
    cases = ((0.8, 0, 1.0, True), (0, 1.0, 0.5, True), (0.8, 1.0, 0.0, False), (0, 0, 1.0, False))
    for mixup, cutmix, probability, mixes in cases:
        changes = {"mixup": mixup, "cutmix": cutmix, "mixup_probability": probability}
        assert load_recipe(path, changes).mixes is mixes
