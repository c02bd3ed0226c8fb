"""Identities of trainings and measurements: what they are today, and what changes them. Others outdate results."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from syrupy.assertion import SnapshotAssertion
from tiny_project import RECIPE, RUN, SETTINGS

from lska.models.runs import Run
from lska.provenance.files import read_yaml
from lska.provenance.metric_files import digest, project_root
from lska.provenance.strict import merge
from lska.settings.scale import Config, from_dict, load
from lska.settings.tasks import INSPECTIONS, SETS


@pytest.fixture(autouse=True)
def folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(project_root())


def config(scale: str = "demo", **changes: Any) -> Config:
    return from_dict(merge(read_yaml(Path(f"config/{scale}.yaml")), changes), "here")


def identities(scale: Config) -> Iterator[str]:
    """A line for every training and measurement."""
    short = slice(len("sha256:"), len("sha256:") + 16)
    yield from (f"{run} {scale.classifier(run).digest()[short]}" for run in (*scale.runs, *scale.references))
    yield from (f"{job.place} {job.digest()[short]}" for job in scale.fine_tunings)
    for item in scale.measured:
        # What generated images are follows from the versions of their generators.
        generated = scale.data.generate is not None or item.data.generate is not None
        yield f"{item.task} {item.protocol()[short]} {'' if generated else (item.inputs() or '')[short]}"


@pytest.mark.parametrize("names", [("demo",), ("small",), ("small", "small_gpu"), ("paper",)], ids="+".join)
def test_no_result_of_the_projects_scales_is_outdated(names: tuple[str, ...], snapshot: SnapshotAssertion) -> None:
    assert "\n".join(identities(load([Path(f"config/{name}.yaml") for name in names]))) == snapshot


RECIPE_FIELDS = {
    "epochs": 4, "learning_rate": 1e-3, "schedule_unit": "epoch", "ema_decay": 0.9, "micro_batch": 16, "mixup": 0.1,
    "rand_augment": "rand-m9", "precision": "bf16", "channels_last": False, "mean": [0.4, 0.5, 0.5],
}  # fmt: skip
SMALL = {"model": "van_small", "attention": "lka", "kernel": 7, "seed": 0}

DECIDES_WEIGHTS: list[dict[str, Any]] = [
    *({"training": {"overrides": {name: value}}} for name, value in RECIPE_FIELDS.items()),
    {"architecture": {"van_tiny": {"depths": [1, 1, 2, 1]}}},
    {"data": {"name": "shapes"}},
    {"data": {"generate": {"seed": 1}}},
]
NEUTRAL: list[dict[str, Any]] = [
    {"scale": "other", "caption": "other"},
    {"training": {"threads": 2, "workers": 4, "gpus": 1, "hours": 1, "state_minutes": 1}},
    {"data": {"root": "/elsewhere", "manifest": "elsewhere.yaml"}},
    {"evaluation": {"batch_size": 1, "threads": 2, "workers": 1, "gpus": 1}},
    {"speed": {"batch_size": 1}},
    {"runs": [*SETTINGS["runs"], SMALL], "architecture": {"van_small": {"depths": [1, 1, 1, 1]}}},
    {"architecture": {"van_tiny": {"depths": [1, 1, 1, 1]}}},
    {"training": {"overrides": {"epochs": RECIPE["epochs"]}}},
]


def test_what_decides_the_weights_changes_the_identity_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("recipe.yaml").write_text(yaml.safe_dump(RECIPE), encoding="utf-8")
    before = from_dict(SETTINGS, "here")
    own = before.classifier(RUN).digest()
    changed = [from_dict(merge(SETTINGS, changes), "here").classifier(RUN).digest() for changes in DECIDES_WEIGHTS]
    names = ("van_tiny-lka-k7-s0", "van_tiny-lska-k11-s0", "van_tiny-lska-k7-s1", "van_base-lska-k7-s0")
    changed += [before.classifier(Run.parse(name)).digest() for name in names]
    assert len({own, *changed}) == len(changed) + 1
    for changes in NEUTRAL:
        assert from_dict(merge(SETTINGS, changes), "here").classifier(RUN).digest() == own, changes
    spec = before.classifier(RUN).spec()
    assert digest(json.loads(json.dumps(spec))) == own
    assert spec["recipe"]["global_batch"] == RECIPE["global_batch"]


PERTURBED: dict[str, tuple[dict[str, Any], set[str]]] = {
    "another seed of one": ({"robustness": {"sets": {"r": {"generate": {"seed": 5}}}}}, {"r"}),
    "fewer severities": ({"robustness": {"sets": {"c": {"generate": {"severities": [1]}}}}}, {"c"}),
    "other clean images": ({"data": {"generate": {"seed": 5}}}, {"c", "c_bar", "a"}),
    "another reference": ({"robustness": {"sets": {"a": {"generate": {"reference": "resnet18-s1"}}}}}, {"a"}),
    "a reference of another make": ({"architecture": {"resnet18": {"layers": [1, 1, 1, 2]}}}, {"a"}),
    "other places": ({"robustness": {"sets": {"c": {"root": "x"}, "r": {"root": "y"}}}}, set()),
    "other means": ({"robustness": {"passes": 3, "shard": 7, "hours": 1}, "caption": "x"}, set()),
    "stored images enlarged": ({"stored_images": "enlarged"}, set()),
}


def test_what_makes_a_perturbed_set_what_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = config()
    for change, (changes, expected) in PERTURBED.items():
        after = config(**changes)
        changed = {name for name in SETS if before.perturbed_set(name).inputs() != after.perturbed_set(name).inputs()}
        assert changed == expected, change
    manifest = tmp_path / "mine.yaml"
    manifest.write_text("one")
    paper = config("paper", robustness={"sets": {"r": {"manifest": str(manifest)}}})
    own = paper.perturbed_set("r").inputs()
    manifest.write_text("two")
    assert paper.perturbed_set("r").inputs() != own
    here = [item.inputs() for scale in (before, paper) for item in scale.perturbed]
    monkeypatch.chdir(tmp_path)
    assert [item.inputs() for scale in (before, paper) for item in scale.perturbed] == here, "from every folder"


INSPECTED = {
    "shape_texture": {"stage": 3, "pooled": False, "pairs": 50, "resamples": 7, "seed": 1},
    "texture_knn": {"gallery": ["train", "test"], "query": "test"},
    "receptive_field": {"images": 3, "size": 96, "normalization": "imagenet"},
}


def test_the_protocol_changes_with_every_setting_that_decides_the_numbers() -> None:
    for task, settings in INSPECTED.items():
        changes = ({}, *({name: value} for name, value in settings.items()))
        protocols = {config(**{task: change}).inspection(task).protocol() for change in changes}
        assert len(protocols) == len(settings) + 1
        means = {"passes": 2, "attempts": 3, "evaluation": {"batch_size": 3, "threads": 2}}
        assert config(**{task: means}).inspection(task).protocol() in protocols


def test_only_stored_images_that_are_cropped_depend_on_how_they_are_read() -> None:
    for crop, expected in ((0.9, {"c", "c_bar", "shape_texture"}), (1.0, {"c", "c_bar"})):
        overrides = {"training": {"overrides": {"test_crop": crop}}}
        one, other = (config(stored_images=reading, **overrides) for reading in ("as_stored", "enlarged"))
        changed = {a.name for a, b in zip(one.measured, other.measured, strict=True) if a.protocol() != b.protocol()}
        assert changed == expected
        assert len({item.protocol() for item in one.measured}) == len(SETS) + len(INSPECTIONS)
