"""Configurations of scales: the project's own, merging, the order of runs, identity of trainings, and refusals."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from tiny_project import RECIPE, RUN, SETTINGS

from lska.config import Config, from_dict, load
from lska.provenance import digest
from lska.runs import Run
from lska.strict import merge

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Path("recipe.yaml").write_text(yaml.safe_dump(RECIPE), encoding="utf-8")
    return tmp_path


def config(**changes: Any) -> Config:
    return from_dict(merge(SETTINGS, changes), "here")


def problems(changes: dict[str, Any]) -> list[str]:
    with pytest.raises(ValueError) as caught:
        config(**changes)
    head, *lines = str(caught.value).splitlines()
    assert head.startswith("here: ")
    return [line.strip() for line in lines] or [head]


# Files that are given after another one and override parts of it.
OVERLAYS = {"small_gpu": "small"}
OTHERS = (
    "convnext_tiny", "replknet_31t", "slak_tiny", "swin_tiny_patch4_window7_224", "deit_small_patch16_224", "pvt_small",
    "pvt_v2_b2",
)  # fmt: skip


@pytest.mark.parametrize("name", sorted(path.stem for path in (ROOT / "config").glob("*.yaml")))
def test_the_projects_own_scales_load(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    base = OVERLAYS.get(name, name)
    scale = load([Path(f"config/{stem}.yaml") for stem in dict.fromkeys((base, name))])
    assert scale.scale == name
    assert scale.caption.startswith(f"{base} scale: ")
    assert len(scale.runs) == len({str(run) for run in scale.runs}) > 0
    known = {"van_tiny", "van_small", "van_base", *(OTHERS if name in ("paper", "demo") else ())}
    assert {run.model for run in scale.runs} == (known if name in ("paper", "demo") else {"van_tiny"})
    assert scale.results == Path("results") / name
    assert all(recipe.total_epochs > 0 for recipe in scale.recipes.values())
    assert set(scale.recipes) == {run.model for run in (*scale.runs, *scale.references)}


def test_the_demo_covers_what_was_asked_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    runs = {(run.model, run.attention, run.kernel) for run in load([Path("config/demo.yaml")]).runs}
    attentions = ("lka_trivial", "lska_trivial", "lka", "lska")
    assert runs >= {("van_tiny", attention, kernel) for attention in attentions for kernel in (7, 23, 53)}
    assert runs >= {(model, attention, 23) for model in ("van_small", "van_base") for attention in ("lka", "lska")}


def test_the_paper_scale_shrinks_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    scale = load([Path("config/paper.yaml")])
    assert scale.architecture == {}
    assert scale.data.name == "imagenet1k"
    assert scale.training.recipe == "config/recipes/imagenet.yaml"
    assert set(scale.training.recipes) == set(OTHERS)


def test_a_network_has_its_own_recipe(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    scale = load([Path("config/paper.yaml")], {"training": {"overrides": {"epochs": 7}}})
    swin, van = (next(run for run in scale.runs if run.model.startswith(name)) for name in ("swin", "van_tiny"))
    assert (scale.recipe_of(van).epochs, scale.recipe_of(swin).epochs) == (7, 300)
    assert (scale.recipe_of(swin).test_crop, scale.recipe_of(swin).clip_gradient) == (0.875, 5.0)
    assert scale.training_spec(swin)["recipe"]["mean"] == (0.485, 0.456, 0.406)
    assert scale.recipes["pvt_small"].to_dict()["augmentation_repeats"] == 3
    assert "augmentation_repeats" not in scale.recipe_of(van).to_dict(), "digests stay what they were"


def test_a_recipe_of_a_network_that_no_run_uses_is_named() -> None:
    with pytest.raises(ValueError, match=r"training.recipes names models that no run uses: swin_tiny"):
        from_dict(merge(SETTINGS, {"training": {"recipes": {"swin_tiny": "a.yaml"}}}), "here")


def test_later_files_and_then_overrides_win_key_by_key() -> None:
    Path("a.yaml").write_text(yaml.safe_dump(SETTINGS), encoding="utf-8")
    Path("b.yaml").write_text("training: {threads: 2, hours: 1}\nevaluation: {batch_size: 5}\n", encoding="utf-8")
    merged = load([Path("a.yaml"), Path("b.yaml")], {"training": {"hours": 3}})
    assert (merged.training.threads, merged.training.hours, merged.training.recipe) == (2, 3.0, "recipe.yaml")
    assert merged.evaluation.batch_size == 5


@pytest.mark.parametrize("overrides", [[1], "x", 3])
def test_overrides_that_are_no_mapping_are_refused(overrides: Any) -> None:
    Path("a.yaml").write_text(yaml.safe_dump(SETTINGS), encoding="utf-8")
    with pytest.raises(ValueError, match="overrides: expected a mapping of settings, found"):
        load([Path("a.yaml")], overrides)


def test_everything_wrong_is_named_at_once_with_its_place() -> None:
    changes = {
        "runs": [{"model": "van_tiny", "attention": "lska", "kernel": "7", "seed": 0}, {"modle": "van", "seed": 0}],
        "caption": None, "data": {"rot": "x", "root": 3}, "training": {"threads": "two", "recipe": "recipe.yaml"},
        "colour": "red", "architecture": {"van_tiny": 3},
    }  # fmt: skip
    assert problems(changes) == [
        "unknown key 'colour'; known keys: scale, caption, runs, data, training, evaluation, speed, architecture, "
        "detection, segmentation, robustness, shape_texture, texture_knn, receptive_field, stored_images, "
        "retrain",
        "caption: expected str, found NoneType None",
        "runs[0].kernel: expected int or a list or null, found str '7'",
        "runs[1]: unknown key 'modle' (did you mean 'model'?)",
        "runs[1]: missing key 'model'",
        "data: unknown key 'rot' (did you mean 'root'?)",
        "data.root: expected str, found int 3",
        "training.threads: expected int, found str 'two'",
        "architecture.van_tiny: expected a mapping, found int 3",
    ]


def test_missing_sections_are_named_as_the_file_calls_them() -> None:
    with pytest.raises(ValueError) as caught:
        from_dict({"scale": "x", "groups": []}, "x.yaml")
    lines = str(caught.value).splitlines()
    assert lines[1].startswith("  unknown key 'groups'")
    assert lines[2:] == [
        f"  missing key {key!r}" for key in ("caption", "runs", "data", "training", "evaluation", "speed")
    ]


@pytest.mark.parametrize(
    ("group", "message"),
    [
        ({"model": "van_tiny", "attention": "lksa", "kernel": 7, "seed": 0}, "expected one of .*; found 'lksa'"),
        ({"model": "van_tiny", "attention": "lska", "seed": 0}, "van_tiny: attention and kernel go together"),
        (
            {"model": "van_tiny", "attention": "lka", "kernel": [7, 24], "seed": 0},
            "odd integer .*found 24; nearest: 23 or 25",
        ),
    ],
)
def test_impossible_runs_are_refused_with_their_place(group: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=rf"here: 1 problem\(s\):\n  runs\[1\]: .*{message}"):
        config(runs=[*SETTINGS["runs"], group])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"training": {"threads": 0}}, "training: threads must be at least 1, found 0"),
        (
            {"training": {"gpus": -1, "hours": -2.0}},
            "gpus must be at least 0, found -1, hours must be at least 0, found -2.0",
        ),
        ({"training": {"hours": 0}}, "training: hours must be positive, found 0"),
        ({"training": {"threads": 10**17}}, f"training: threads must be at most 4096, found {10**17}"),
        ({"training": {"attempts": 0}}, "training: attempts must be at least 1, found 0"),
        ({"scale": "my scale"}, "scale 'my scale' becomes a file name: use letters, digits"),
        ({"data": {"name": "../x"}}, "data.name '../x' becomes a file name"),
        (
            {"training": {"gpus": 3}},
            "2 micro-batches (global_batch / micro_batch of the recipe), which cannot be divided",
        ),
        ({"evaluation": {"batch_size": 0}}, "evaluation: batch_size must be at least 1, found 0"),
        ({"speed": {"repeats": 0}}, "speed: repeats must be at least 1, found 0"),
        ({"architecture": {"van_tiny": {}, "van_huge": {}}}, "architecture names models that no run uses: van_huge"),
    ],
)
def test_impossible_values_are_refused(changes: dict[str, Any], message: str) -> None:
    assert message in problems(changes)[0]


def test_an_error_in_the_recipe_is_told_with_the_configuration() -> None:
    with pytest.raises(
        ValueError, match=r"recipe\.yaml: 1 problem\(s\):\n  unknown key 'epoch' \(did you mean 'epochs'"
    ):
        config(training={"overrides": {"epoch": 3}})
    with pytest.raises(ValueError, match=r"none\.yaml: no such file"):
        config(training={"recipe": "none.yaml"})


def test_groups_expand_to_products_in_the_order_of_the_tables() -> None:
    groups = [
        {"model": "van_tiny", "attention": ["lska", "lka_trivial"], "kernel": [53, 7], "seed": [1, 0]},
        {"model": ["van_small", "van_base"], "attention": "lka", "kernel": 23, "seed": 0},
        {"model": "convnext_tiny", "seed": 0},
    ]
    tiny = [
        f"van_tiny-{attention}-k{kernel}-s{seed}"
        for attention in ("lka_trivial", "lska") for kernel in (7, 53) for seed in (0, 1)
    ]  # fmt: skip
    others = ["van_small-lka-k23-s0", "van_base-lka-k23-s0", "convnext_tiny-s0"]
    assert [str(run) for run in config(runs=groups).runs] == tiny + others


def test_a_run_listed_twice_is_refused_and_named() -> None:
    again = {"model": ["van_tiny", "van_small"], "attention": ["lka", "lska"], "kernel": [7, 11], "seed": 0}
    (problem,) = problems({"runs": [*SETTINGS["runs"], again]})
    assert problem.endswith(f"runs lists the same run more than once: {RUN}")


DECIDES_WEIGHTS: list[dict[str, Any]] = [
    *({"training": {"overrides": {name: value}}} for name, value in {
        "epochs": 4, "learning_rate": 1e-3, "schedule_unit": "epoch", "ema_decay": 0.9, "micro_batch": 16, "mixup": 0.1,
        "rand_augment": "rand-m9", "precision": "bf16", "channels_last": False, "mean": [0.4, 0.5, 0.5],
    }.items()),
    {"architecture": {"van_tiny": {"depths": [1, 1, 2, 1]}}},
    {"data": {"name": "shapes"}},
    {"data": {"generate": {"seed": 1}}},
]  # fmt: skip


@pytest.mark.parametrize("changes", DECIDES_WEIGHTS, ids=str)
def test_what_decides_the_weights_changes_the_identity(changes: dict[str, Any]) -> None:
    assert config(**changes).training_digest(RUN) != config().training_digest(RUN)


@pytest.mark.parametrize(
    "other", ["van_tiny-lka-k7-s0", "van_tiny-lska-k11-s0", "van_tiny-lska-k7-s1", "van_base-lska-k7-s0"]
)
def test_every_part_of_the_run_changes_the_identity(other: str) -> None:
    assert config().training_digest(Run.parse(other)) != config().training_digest(RUN)


NEUTRAL: list[dict[str, Any]] = [
    {"scale": "other", "caption": "other"},
    {"training": {"threads": 2, "workers": 4, "gpus": 1, "hours": 1, "state_minutes": 1}},
    {"data": {"root": "/elsewhere", "manifest": "elsewhere.yaml"}},
    {"evaluation": {"batch_size": 1, "threads": 2, "workers": 1, "gpus": 1}},
    {"speed": {"batch_size": 1}},
    {"runs": [*SETTINGS["runs"], {"model": "van_small", "attention": "lka", "kernel": 7, "seed": 0}]},
    {"architecture": {"van_tiny": {"depths": [1, 1, 1, 1]}}},
    {"training": {"overrides": {"epochs": RECIPE["epochs"]}}},
]


@pytest.mark.parametrize("changes", NEUTRAL, ids=str)
def test_means_and_places_do_not_change_the_identity(changes: dict[str, Any]) -> None:
    assert config(**changes).training_digest(RUN) == config().training_digest(RUN)


def test_the_architecture_of_another_model_does_not_change_the_identity() -> None:
    runs = [*SETTINGS["runs"], {"model": "van_small", "attention": "lka", "kernel": 7, "seed": 0}]
    changed = config(runs=runs, architecture={"van_small": {"depths": [1, 1, 1, 1]}})
    assert changed.training_digest(RUN) == config().training_digest(RUN)


def test_the_identity_is_that_of_the_recorded_settings() -> None:
    spec = config().training_spec(RUN)
    assert digest(json.loads(json.dumps(spec))) == config().training_digest(RUN)
    assert spec["recipe"]["global_batch"] == RECIPE["global_batch"]


def test_files_have_the_places_that_the_rules_expect() -> None:
    settings = config()
    assert settings.metric_path("classification", RUN) == Path(
        "results/test/metrics/classification/van_tiny-lska-k7-s0.json"
    )
    assert settings.metric_path("properties", "lska") == Path("results/test/metrics/properties/lska.json")
    assert settings.weights_path(RUN) == Path("checkpoints/test/van_tiny-lska-k7-s0.safetensors")
    assert settings.training_log(RUN) == Path("results/test/training/van_tiny-lska-k7-s0.jsonl")
    assert settings.data_record == Path("results/test/data/colours.json")


@pytest.mark.parametrize("content", [None, "{", "{}", "[]"])
def test_a_missing_or_damaged_data_record_is_named_with_its_remedy(content: str | None) -> None:
    settings = config()
    if content is not None:
        settings.data_record.parent.mkdir(parents=True)
        settings.data_record.write_text(content)
    message = r"results/test/data/colours\.json is missing or damaged .*`lska data prepare --kind classification`"
    with pytest.raises(ValueError, match=message):
        settings.data_identity()
