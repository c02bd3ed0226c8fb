"""Recipes: the published ImageNet settings, the switches between readings of the sources, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from tiny_project import RECIPE

from lska.train.recipe import SWITCHES, Recipe, load_recipe

RECIPES = Path(__file__).resolve().parents[2] / "config" / "recipes"
IMAGENET = RECIPES / "imagenet.yaml"

# paper/protocol.md, section 2, column "official code". Where it lists more than one, the value is the README's.
PUBLISHED = {
    "epochs": 300,
    "cooldown_epochs": 10,
    "optimizer": "adamw",
    "weight_decay": 0.05,
    "learning_rate": 1e-3,
    "warmup_epochs": 5,
    "warmup_learning_rate": 1e-6,
    "minimum_learning_rate": 1e-6,
    "schedule_unit": "epoch",
    "clip_gradient": None,
    "global_batch": 512,
    "micro_batch": 128,
    "drop_path": 0.1,
    "crop_scale": (0.08, 1.0),
    "crop_ratio": (3 / 4, 4 / 3),
    "horizontal_flip": 0.5,
    "rand_augment": "rand-m9-mstd0.5-inc1",
    "color_jitter": 0.4,
    "erase_probability": 0.25,
    "erase_mode": "pixel",
    "mixup": 0.8,
    "cutmix": 1.0,
    "mixup_probability": 1.0,
    "mixup_switch_probability": 0.5,
    "label_smoothing": 0.1,
    "train_interpolation": "random",
    "ema_decay": None,
    "precision": "fp32",
    "image_size": 224,
    "test_crop": 0.9,
    "test_interpolation": "bicubic",
    "mean": (0.5, 0.5, 0.5),
    "deviation": (0.5, 0.5, 0.5),
}
# Speed or the log only; the protocol says nothing of them.
OURS = {"channels_last", "compile", "validation_interval"}


@pytest.mark.parametrize(("field", "value"), PUBLISHED.items())
def test_imagenet_is_the_protocol(field: str, value: object) -> None:
    assert getattr(load_recipe(IMAGENET), field) == value


def test_no_field_of_the_imagenet_recipe_goes_unchecked() -> None:
    recipe = load_recipe(IMAGENET).to_dict()
    assert set(recipe) == set(PUBLISHED) | OURS
    assert not recipe["compile"]
    assert load_recipe(IMAGENET).total_epochs == 310  # the evaluation script names epoch index 309
    assert load_recipe(IMAGENET).mixes


CHOICES = {
    ("batch", "published"): {"global_batch": 512, "micro_batch": 128},
    ("batch", "published_script"): {"global_batch": 128, "micro_batch": 64},
    ("batch", "corrected"): {"global_batch": 1024, "micro_batch": 128},
    ("averaging", "published"): {"ema_decay": None},
    ("averaging", "corrected"): {"ema_decay": 0.9999},
    ("normalization", "published"): {"mean": (0.5, 0.5, 0.5), "deviation": (0.5, 0.5, 0.5)},
    ("normalization", "corrected"): {"mean": (0.485, 0.456, 0.406), "deviation": (0.229, 0.224, 0.225)},
}


def test_every_choice_of_every_switch_is_known_here() -> None:
    assert {(name, choice) for name, choices in SWITCHES.items() for choice in choices} == set(CHOICES)


@pytest.mark.parametrize(("name", "choice"), CHOICES)
def test_a_switch_sets_its_fields_and_nothing_else(name: str, choice: str) -> None:
    published = load_recipe(IMAGENET).to_dict()
    switched = load_recipe(IMAGENET, {"switches": {name: choice}}).to_dict()
    assert switched == published | CHOICES[name, choice]


# Names with an underscore, data set and head, are recipes of fine-tuning (test_openmmlab_recipe.py).
CLASSIFICATION = sorted(path for path in RECIPES.glob("*.yaml") if "_" not in path.stem)


@pytest.mark.parametrize("path", CLASSIFICATION, ids=lambda path: path.stem)
def test_every_recipe_resolves_and_opens_with_how_to_use_it(path: Path) -> None:
    recipe = load_recipe(path)
    assert recipe.total_epochs == recipe.epochs + recipe.cooldown_epochs
    text = path.read_text(encoding="utf-8")
    assert all(f"\n# {word} " in text for word in ("command", "hardware", "duration", "expect"))


def load(folder: Path, changes: dict[str, Any]) -> Recipe:
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump({**RECIPE, **changes}, sort_keys=False), encoding="utf-8")
    return load_recipe(path)


def problems(folder: Path, changes: dict[str, Any]) -> str:
    with pytest.raises(ValueError) as caught:
        load(folder, changes)
    assert str(caught.value).startswith(f"{folder / 'recipe.yaml'}: ")
    return str(caught.value)


def test_a_field_set_directly_and_by_a_switch_is_refused(tmp_path: Path) -> None:
    message = problems(tmp_path, {"switches": {"batch": "published", "normalization": "corrected"}})
    assert "global_batch is set both directly and by switch batch; remove one" in message
    assert "mean is set both directly and by switch normalization; remove one" in message
    assert "deviation is set both directly" in message


def test_unknown_switches_choices_keys_and_wrong_types_are_named_at_once(tmp_path: Path) -> None:
    changes = {
        "switches": {"batch": "big", "btach": "published", "averaging": ["corrected"]},
        "epoch": 3, "learning_rate": "1e-3", "erase_mode": "noise", "crop_scale": 0.5,
    }  # fmt: skip
    assert problems(tmp_path, changes).splitlines()[1:] == [
        "  unknown switch batch: big; choices of batch: published, published_script, corrected",
        "  unknown switch btach: published; switches: batch, averaging, normalization",
        "  unknown switch averaging: ['corrected']; choices of averaging: published, corrected",
        "  unknown key 'epoch' (did you mean 'epochs'?)",
        "  learning_rate: expected a finite float, found str '1e-3'; YAML takes it for text, write 1.0e-3",
        "  crop_scale: expected a list, found float 0.5",
        "  erase_mode: expected one of 'const', 'rand', 'pixel', found str 'noise'",
    ]


@pytest.mark.parametrize("value", [3, ["batch"], None])
def test_switches_that_are_no_mapping_are_refused(tmp_path: Path, value: object) -> None:
    assert "switches: expected a mapping, found" in problems(tmp_path, {"switches": value})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"epochs": 0}, "epochs must be positive, found 0"),
        ({"clip_gradient": 0.0}, "clip_gradient must be positive, found 0.0"),
        ({"micro_batch": 0}, "micro_batch must be positive, found 0"),
        ({"micro_batch": 6}, "global_batch 16 must be a multiple of micro_batch 6"),
        ({"micro_batch": 1, "mixup": 0.2, "mixup_probability": 1.0}, "must be even with mixup or cutmix, found 1"),
        ({"warmup_epochs": 3}, "warmup_epochs 3 must be below epochs 3"),
        ({"cooldown_epochs": -1}, "cooldown_epochs must not be negative, found -1"),
        ({"test_crop": 1.2}, r"test_crop must be in \(0, 1\], found 1.2"),
        ({"erase_probability": 2}, r"erase_probability must be in \[0, 1\], found 2"),
        ({"ema_decay": 99.99}, r"ema_decay must be in \[0, 1\], found 99.99"),
        ({"drop_path": 1.0}, r"drop_path must be in \[0, 1\), found 1.0"),
        ({"image_size": 1_000_000}, "image_size must be at most 16384 pixels, found 1000000"),
        ({"crop_ratio": [-1.0, 1.0]}, "crop_ratio must be two increasing positive ratios of width to height"),
        ({"deviation": [0.5, 0.0, 0.5]}, "deviation must be positive"),
        ({"crop_scale": [1.0, 0.08]}, r"crop_scale must be two increasing shares in \(0, 1\]"),
    ],
)
def test_impossible_values_are_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load(tmp_path, changes)


def test_all_impossible_values_are_named_at_once(tmp_path: Path) -> None:
    message = problems(tmp_path, {"epochs": -1, "test_crop": 0, "micro_batch": 5})
    assert all(part in message for part in ("epochs must", "test_crop must", "multiple of micro_batch 5"))


def test_overrides_win_over_the_file(tmp_path: Path) -> None:
    load(tmp_path, {})
    recipe = load_recipe(tmp_path / "recipe.yaml", {"epochs": 7, "ema_decay": 0.5})
    assert (recipe.epochs, recipe.ema_decay, recipe.learning_rate) == (7, 0.5, RECIPE["learning_rate"])


@pytest.mark.parametrize(
    ("changes", "mixes"),
    [
        ({"mixup": 0.8, "mixup_probability": 1.0}, True),
        ({"cutmix": 1.0, "mixup_probability": 0.5}, True),
        ({"mixup": 0.8, "cutmix": 1.0, "mixup_probability": 0.0}, False),
        ({"mixup_probability": 1.0}, False),
    ],
)
def test_mixing_needs_a_kind_and_a_probability(tmp_path: Path, changes: dict[str, Any], mixes: bool) -> None:
    assert load(tmp_path, changes).mixes is mixes
