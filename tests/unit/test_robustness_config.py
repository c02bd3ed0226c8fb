"""The section `robustness` of a configuration: what it names, and what is refused with its place."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from lska.config import Config, from_dict
from lska.files import read_yaml
from lska.provenance import project_root
from lska.robustness import SETS, PerturbedSet, set_of
from lska.strict import merge

TINY = {"model": "van_tiny", "attention": "lska", "kernel": 23, "seed": 0}


@pytest.fixture(autouse=True)
def folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(project_root())


def config(scale: str = "demo", **robustness: Any) -> Config:
    return from_dict(merge(read_yaml(Path(f"config/{scale}.yaml")), {"robustness": robustness}), "here")


def problem(scale: str = "demo", **robustness: Any) -> str:
    with pytest.raises(ValueError) as caught:
        config(scale, **robustness)
    head, *lines = str(caught.value).splitlines()
    assert head.startswith("here: ")
    return " ".join(line.strip() for line in lines)


def test_the_projects_scales_have_the_sets_that_they_promise() -> None:
    assert list(config("demo").robustness.sets) == list(config("paper").robustness.sets) == list(SETS)
    assert list(config("small").robustness.sets) == ["c", "c_bar"]
    assert all(data.generate is not None for data in config("demo").robustness.sets.values())
    assert all(data.generate is None for data in config("paper").robustness.sets.values())
    for scale in ("demo", "small"):
        for name in ("c", "c_bar"):
            assert "severities" not in config(scale).robustness.sets[name].generate, "means need all of them"


def test_the_runs_of_a_set_are_those_of_the_section() -> None:
    scale = config()
    runs = scale.runs_of("robustness/c")
    assert len(runs) == 21 and set(runs) < set(scale.runs)
    assert all(scale.runs_of(item.task) == runs for item in scale.perturbed)
    assert {run.attention for run in runs if run.model.startswith("van")} == {"lka", "lska"}
    assert config("small").runs_of("robustness/r") == ()
    assert from_dict(without("robustness", "resnet18"), "here").runs_of("robustness/c") == ()


def without(section: str, model: str) -> dict[str, Any]:
    values = read_yaml(Path("config/demo.yaml"))
    del values[section], values["architecture"][model]
    return values


def test_only_tasks_of_known_sets_are_perturbed() -> None:
    assert [set_of(f"robustness/{name}") for name in SETS] == list(SETS)
    others = ("robustness/d", "robustness/c/x", "robustness", "classification", "detection/retinanet")
    assert [set_of(task) for task in others] == [None] * 5


def test_files_of_a_set_have_places_of_their_own() -> None:
    scale = config()
    item = PerturbedSet(scale, "c_bar")
    run = scale.runs_of(item.task)[0]
    assert item.metrics(run) == Path(f"results/demo/metrics/robustness/c_bar/{run}.json")
    assert item.record == Path("results/demo/data/shapes_c_bar.json")
    assert item.strips == Path("results/demo/samples/robustness/c_bar/examples.png")
    assert item.predictions == Path("work/demo/predictions/shapes_c_bar")
    assert (item.corrupted, PerturbedSet(scale, "a").corrupted) == (True, False)


def test_the_reference_is_trained_and_compared_nowhere() -> None:
    scale = config()
    assert [str(run) for run in scale.references] == ["resnet18-s0"]
    assert not set(scale.references) & {*scale.runs, *scale.runs_of("robustness/a")}
    assert config("paper").references == config("small").references == ()


@pytest.mark.parametrize(("scale", "name"), [("small", "r"), ("demo", "d")])
def test_a_set_that_a_scale_lacks_is_named_with_those_it_has(scale: str, name: str) -> None:
    with pytest.raises(ValueError, match=rf"scale {scale} has no perturbed set '{name}'; it has: c, c_bar"):
        PerturbedSet(config(scale), name)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sets": {"d": {"name": "d", "root": "d"}}}, "robustness.sets.d: unknown; expected some of c, c_bar, a, r, s"),
        (
            {"runs": [{**TINY, "kernel": 9}]},
            "robustness.runs: not among the scale's runs: van_tiny-lska-k9-s0; add them",
        ),
        ({"runs": [TINY, TINY]}, "robustness.runs lists the same run more than once: van_tiny-lska-k23-s0"),
        ({"runs": [{**TINY, "kernel": 8}]}, "robustness.runs[0]: "),
        (
            {"sets": {"a": {"generate": {"reference": "van_tiny-lska-k23-s0"}}}},
            "robustness.sets.a: the reference van_tiny-lska-k23-s0 is among the compared runs; choose another",
        ),
        (
            {"sets": {"a": {"generate": {"reference": None}}}},
            "robustness.sets.a.generate: expected `reference`, the run id of the classifier that chooses",
        ),
        (
            {"sets": {"a": {"generate": {"reference": "resnet18"}}}},
            "robustness.sets.a.generate.reference: 'resnet18' is not a run id",
        ),
        (
            {"sets": {"r": {"name": "imagenet_r"}}},
            "robustness.sets.r.name: imagenet_r is a published set, and this one is generated; name it otherwise",
        ),
        ({"sets": {"r": {"name": "shapes_a"}}}, "data sets need different names, found shapes, scenes"),
        ({"sets": {"r": {"name": "scenes"}}}, "data sets need different names, found shapes, scenes"),
        ({"sets": {"r": {"name": "shapes"}}}, "data sets need different names, found shapes, scenes"),
        ({"sets": {"sketch": {"name": "my/set"}}}, "robustness.sets.sketch.name 'my/set' becomes a file name"),
        (
            {"sets": {"c": {"root": "results/demo/data/shapes_c_bar"}}},
            "robustness.sets.c.root: results/demo/data/shapes_c_bar is the root of another data set too",
        ),
        (
            {"sets": {"r": {"root": "results/demo/data/shapes/"}}},
            "robustness.sets.r.root: results/demo/data/shapes/ is the root of another data set too",
        ),
        ({"sets": {"c": {"rot": "x"}}}, "robustness.sets.c: unknown key 'rot' (did you mean 'root'?)"),
        ({"passes": 0}, "robustness: passes must be at least 1, found 0"),
        ({"shard": 0, "attempts": 0}, "shard must be at least 1, found 0, attempts must be at least 1, found 0"),
        ({"hours": 0}, "robustness: hours must be positive, found 0"),
        ({"evaluation": {"batch_size": 0}}, "robustness.evaluation: batch_size must be at least 1, found 0"),
    ],
)
def test_what_cannot_be_is_refused_with_its_place(changes: dict[str, Any], message: str) -> None:
    assert message in problem(**changes)


def test_several_mistakes_are_named_at_once() -> None:
    sets = {"d": {"name": "shapes", "root": "d"}, "r": {"name": "imagenet_r"}}
    said = problem(sets=sets, runs=[{**TINY, "kernel": 9}])
    for part in (
        "robustness.sets.d: unknown",
        "need different names",
        "imagenet_r is a published set",
        "k9-s0; add them",
    ):
        assert part in said


def test_stored_sets_may_share_a_root_and_have_published_names() -> None:
    sets = {name: {"root": "data/corruptions"} for name in ("c", "c_bar")}
    assert config("paper", sets=sets).robustness.sets["c"].name == "imagenet_c"


def test_a_section_without_the_reference_has_no_use_for_its_architecture() -> None:
    values = read_yaml(Path("config/demo.yaml"))
    del values["robustness"]["sets"]["a"]
    with pytest.raises(ValueError, match="architecture names models that no run uses: resnet18"):
        from_dict(values, "here")


IDENTITY: list[tuple[str, dict[str, Any], set[str]]] = [
    ("another seed of one", {"robustness": {"sets": {"r": {"generate": {"seed": 5}}}}}, {"r"}),
    ("fewer severities", {"robustness": {"sets": {"c": {"generate": {"severities": [1]}}}}}, {"c"}),
    ("other clean images", {"data": {"generate": {"seed": 5}}}, {"c", "c_bar", "a"}),
    ("another reference", {"robustness": {"sets": {"a": {"generate": {"reference": "resnet18-s1"}}}}}, {"a"}),
    ("a reference of another make", {"architecture": {"resnet18": {"layers": [1, 1, 1, 2]}}}, {"a"}),
    ("other places", {"robustness": {"sets": {"c": {"root": "x"}, "r": {"root": "y"}}}}, set()),
    ("other means", {"robustness": {"passes": 3, "shard": 7, "hours": 1}, "caption": "x"}, set()),
    ("stored images enlarged", {"stored_images": "enlarged"}, set()),
]


@pytest.mark.parametrize(("changes", "expected"), [case[1:] for case in IDENTITY], ids=[case[0] for case in IDENTITY])
def test_what_makes_a_set_what_it_is(changes: dict[str, Any], expected: set[str]) -> None:
    before, after = config(), from_dict(merge(read_yaml(Path("config/demo.yaml")), changes), "here")
    changed = {name for name in SETS if PerturbedSet(before, name).inputs() != PerturbedSet(after, name).inputs()}
    assert changed == expected


def test_only_corruptions_depend_on_how_stored_images_are_read() -> None:
    demo = read_yaml(Path("config/demo.yaml"))
    one, other = (from_dict(demo | {"stored_images": value}, "here") for value in ("as_stored", "enlarged"))
    protocols = {name: [PerturbedSet(scale, name).protocol() for scale in (one, other)] for name in SETS}
    assert {name for name, (a, b) in protocols.items() if a != b} == {"c", "c_bar"}
    assert len({a for a, _ in protocols.values()}) == len(SETS)


def test_the_manifest_is_part_of_the_identity_of_a_stored_set(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("one")
    scale = config("paper", sets={"r": {"manifest": str(path)}})
    before = PerturbedSet(scale, "r").inputs()
    path.write_text("two")
    assert PerturbedSet(scale, "r").inputs() != before


def test_the_identity_is_the_same_from_every_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scales = [config("paper"), config("demo")]
    here = [item.inputs() for scale in scales for item in scale.perturbed]
    monkeypatch.chdir(tmp_path)
    assert [item.inputs() for scale in scales for item in scale.perturbed] == here
