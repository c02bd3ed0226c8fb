"""Settings: what is accepted, the project's own scales, and one snapshot of everything that is refused."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml
from bad_settings import FAULTS
from paper_jobs import RECIPES
from syrupy.assertion import SnapshotAssertion
from tiny_project import RECIPE, RUN, SETTINGS

from lska.provenance.files import read_yaml
from lska.provenance.metric_files import project_root
from lska.provenance.strict import SettingsError, merge
from lska.settings.recipes import load_recipe
from lska.settings.scale import Config, as_options, from_dict, load, typed
from lska.settings.settings_reference import reference_page
from lska.settings.tasks import INSPECTIONS, OWN_DATA, SETS, set_of

OTHERS = (
    "convnext_tiny", "replknet_31t", "slak_tiny", "swin_tiny_patch4_window7_224", "deit_small_patch16_224", "pvt_small",
    "pvt_v2_b2",
)  # fmt: skip
FILES = {"retinanet": "coco_retinanet", "mask_rcnn": "coco_mask_rcnn", "semantic_fpn": "ade20k_semantic_fpn"}


@pytest.fixture(autouse=True)
def folder(monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(project_root())
    return project_root()


@pytest.fixture
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("recipe.yaml").write_text(yaml.safe_dump(RECIPE), encoding="utf-8")


def config(scale: str = "demo", **changes: Any) -> Config:
    return from_dict(merge(read_yaml(Path(f"config/{scale}.yaml")), changes), "here")


def read(base: str, changes: dict[str, Any]) -> Any:
    """What a corpus of faults changes, with the changes."""
    if base == "tiny":
        return from_dict(merge(SETTINGS, changes), "here")
    if base == "demo":
        return config(**changes)
    if base == "recipe":
        return load_recipe(Path("recipe.yaml"), changes)
    path = Path("own.yaml")
    path.write_text((RECIPES / f"{FILES[base]}.yaml").read_text(encoding="utf-8"), encoding="utf-8")
    return load_recipe(path, changes, base)


def test_every_fault_is_named_with_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, snapshot: SnapshotAssertion
) -> None:
    told = []
    for base, faults in FAULTS.items():
        if base != "demo":
            monkeypatch.chdir(tmp_path)
            Path("recipe.yaml").write_text(yaml.safe_dump(RECIPE), encoding="utf-8")
        for changes in faults:
            with pytest.raises(SettingsError) as caught:
                read(base, changes)
            told.append(f"{base}: {changes!r}\n{caught.value}")
        monkeypatch.chdir(project_root())
    with pytest.raises(SettingsError) as caught:
        from_dict({"scale": "x", "groups": []}, "x.yaml")
    told.append(str(caught.value))
    assert "\n\n".join(told) == snapshot


def test_merging_goes_key_by_key_and_replaces_lists() -> None:
    base = {"a": {"x": 1, "y": [1, 2]}, "b": 1}
    assert merge(base, {"a": {"y": [3]}, "c": {"z": 0}}) == {"a": {"x": 1, "y": [3]}, "b": 1, "c": {"z": 0}}
    assert base == {"a": {"x": 1, "y": [1, 2]}, "b": 1}
    assert merge({"a": {"x": 1}}, {"a": None}) == {"a": None}


@pytest.mark.usefixtures("tiny")
def test_later_files_and_then_overrides_win_key_by_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATA", "/there")
    Path("a.yaml").write_text(yaml.safe_dump(SETTINGS), encoding="utf-8")
    Path("b.yaml").write_text("training: {threads: 2, hours: 1}\ndata: {root: $DATA/x}\n", encoding="utf-8")
    merged = load([Path("a.yaml"), Path("b.yaml")], {"training": {"hours": 3}})
    assert (merged.training.threads, merged.training.hours, merged.training.recipe) == (2, 3.0, "recipe.yaml")
    assert merged.data.root == "/there/x"
    for overrides in ([1], "x", 3):
        with pytest.raises(ValueError, match="overrides: expected a mapping of settings, found"):
            load([Path("a.yaml")], overrides)


@pytest.mark.parametrize("names", [("demo",), ("small", "small_gpu"), ("paper",)], ids="+".join)
def test_the_projects_own_scales_load(names: tuple[str, ...]) -> None:
    scale = load([Path(f"config/{name}.yaml") for name in names])
    assert scale.scale == names[-1] and scale.results == Path("results") / names[-1]
    assert scale.caption.startswith(f"{names[0]} scale: ")
    assert len(scale.runs) == len(set(scale.runs)) > 0
    known = {"van_tiny", "van_small", "van_base", *OTHERS} if names[0] != "small" else {"van_tiny"}
    assert {run.model for run in scale.runs} == known
    assert all(recipe.total_epochs > 0 for recipe in scale.recipes.values())
    assert set(scale.recipes) == {run.model for run in (*scale.runs, *scale.references)}
    assert list(scale.robustness.sets) == list(SETS if names[0] != "small" else SETS[:2])
    assert all((data.generate is not None) == (names[0] != "paper") for data in scale.robustness.sets.values())
    assert all(len(data.generate.get("severities", range(5))) == 5 for data in scale.robustness.sets.values()
               if data.generate is not None), "means need all of them"  # fmt: skip
    counts = {"demo": (23, 10, 12), "small": (50, 50, 50), "paper": (20, 10, 12)}[names[0]]
    assert tuple(len(scale.runs_of(task)) for task in INSPECTIONS) == counts
    tasks = (*INSPECTIONS, *map("robustness/{}".format, SETS))
    assert all(set(scale.runs_of(task)) <= set(scale.runs) for task in tasks)


def test_the_demo_covers_what_was_asked_of_it_and_the_paper_scale_shrinks_nothing() -> None:
    demo, paper = config("demo"), config("paper")
    runs = {(run.model, run.attention, run.kernel) for run in demo.runs}
    attentions = ("lka_trivial", "lska_trivial", "lka", "lska")
    assert runs >= {("van_tiny", attention, kernel) for attention in attentions for kernel in (7, 23, 53)}
    assert runs >= {(model, attention, 23) for model in ("van_small", "van_base") for attention in ("lka", "lska")}
    assert (paper.architecture, paper.data.name) == ({}, "imagenet1k")
    assert paper.training.recipe == "config/recipes/imagenet.yaml"
    assert set(paper.training.recipes) == set(OTHERS)
    swin, van = (next(run for run in paper.runs if run.model.startswith(name)) for name in ("swin", "van_tiny"))
    other = config("paper", training={"overrides": {"epochs": 7}})
    assert (other.recipe_of(van).epochs, other.recipe_of(swin).epochs) == (7, 300), "overrides are not for its own"
    assert paper.recipe_of(swin).test_crop == 0.875


@pytest.mark.usefixtures("tiny")
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
    made = from_dict(merge(SETTINGS, {"runs": groups, "architecture": None} | {"architecture": {}}), "here")
    assert [str(run) for run in made.runs] == tiny + others


def test_sections_decide_sources_and_tasks() -> None:
    demo, small = config("demo"), config("small")
    assert [set_of(f"robustness/{name}") for name in SETS] == list(SETS)
    others = ("robustness/d", "robustness/c/x", "robustness", "classification", "detection/retinanet")
    assert [set_of(task) for task in others] == [None] * 5
    assert [str(run) for run in demo.references] == ["resnet18-s0"] and small.references == ()
    assert not set(demo.references) & {*demo.runs, *demo.runs_of("robustness/a")}
    assert [dict(demo.sources)[name].name for name in OWN_DATA] == ["shapes_cue_conflict", "textures"]
    assert small.runs_of("robustness/r") == ()
    less = config("small", shape_texture=None)
    assert less.runs_of("shape_texture") == () and "shape_texture" not in dict(less.sources)
    sets = {name: {"root": "data/corruptions"} for name in ("c", "c_bar")}
    assert config("paper", robustness={"sets": sets}).robustness.sets["c"].name == "imagenet_c", "stored sets may share"
    for make, told in (
        (lambda: small.perturbed_set("r"), "scale small has no perturbed set 'r'; it has: c, c_bar"),
        (lambda: less.inspection("shape_texture"), "no section 'shape_texture'; it has: texture_knn, receptive_fi"),
    ):
        with pytest.raises(ValueError, match=told):
            make()


def test_files_have_the_places_that_the_rules_expect(snapshot: SnapshotAssertion) -> None:
    demo = config()
    run = demo.runs_of("receptive_field")[0]
    measured = [[str(path) for path in (*item.outputs(run), item.record)] for item in demo.measured]
    perturbed = [f"{one.strips} {one.predictions} {one.corrupted} {one.rule} {one.command}" for one in demo.perturbed]
    paths = demo.checkpoints, demo.weights_path(RUN), demo.training_log(RUN), demo.images.record, demo.work
    tuned = demo.fine_tunings[0]
    assert tuned.states == demo.work / "train" / tuned.place / tuned.digest().removeprefix("sha256:")[:12]
    paths += tuned.weights, tuned.log, tuned.metrics, tuned.samples, tuned.outcomes, tuned.backbone
    assert [*map(str, paths), str(demo.metric_path("properties", "lska")), *measured, *perturbed] == snapshot


@pytest.mark.parametrize("content", [None, "{", "{}", "[]"])
@pytest.mark.usefixtures("tiny")
def test_a_missing_or_damaged_data_record_is_named_with_its_remedy(content: str | None) -> None:
    settings = from_dict(SETTINGS, "here")
    if content is not None:
        settings.images.record.parent.mkdir(parents=True)
        settings.images.record.write_text(content)
    message = r"results/test/data/colours\.json is missing or damaged .*`lska data prepare --kind classification`"
    with pytest.raises(ValueError, match=message):
        settings.images.identity()


def test_the_reference_of_all_settings_is_that_of_the_code() -> None:
    text = Path("docs/settings.md").read_text(encoding="utf-8")
    assert text == reference_page(), "write it anew; its head says how"


def test_settings_of_the_command_line_are_read_as_yaml_and_passed_on() -> None:
    given = typed({"training": {"threads": "2", "hours": "1e3", "overrides": "{epochs: 3}"}, "retrain": ["van*", 1]})
    read = {"training": {"threads": 2, "hours": "1e3", "overrides": {"epochs": 3}}, "retrain": ["van*", 1]}
    assert given == read
    words = shlex.split(as_options([Path("a b.yaml"), Path("c.yaml")], {"b": "x y", "a": [1]}))
    assert words == ["--config", "a b.yaml", "c.yaml", "--set", '{"a":[1],"b":"x y"}']
    assert as_options([Path("c.yaml")], {}) == "--config c.yaml"
