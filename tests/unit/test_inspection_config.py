"""The sections of what is looked for inside networks: what they name, and what is refused with its place."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from lska.config import Config, from_dict
from lska.files import read_yaml
from lska.inspection import OWN_DATA, TASKS, InspectionJob
from lska.provenance import project_root
from lska.strict import merge

TINY = {"model": "van_tiny", "attention": "lska", "kernel": 23, "seed": 0}
ABSENT = {**TINY, "kernel": 17}


@pytest.fixture(autouse=True)
def folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(project_root())


def config(scale: str = "demo", **changes: Any) -> Config:
    return from_dict(merge(read_yaml(Path(f"config/{scale}.yaml")), changes), "here")


def without_cue_conflict() -> Config:
    """The small scale without its section `shape_texture`."""
    values = read_yaml(Path("config/small.yaml"))
    del values["shape_texture"]
    return from_dict(values, "here")


def problem(scale: str = "demo", **changes: Any) -> str:
    with pytest.raises(ValueError) as caught:
        config(scale, **changes)
    head, *lines = str(caught.value).splitlines()
    assert head.startswith("here: ")
    return " ".join(line.strip() for line in lines)


@pytest.mark.parametrize(
    ("scale", "counts"), [("demo", (23, 10, 12)), ("small", (6, 6, 6)), ("paper", (20, 10, 12))], ids=str
)
def test_the_projects_scales_look_inside_the_networks_that_they_promise(scale: str, counts: tuple[int, ...]) -> None:
    made = config(scale)
    assert tuple(len(made.runs_of(task)) for task in TASKS) == counts
    assert all(set(made.runs_of(task)) <= set(made.runs) for task in TASKS)
    names = [item.name for item in made.measured if isinstance(item, InspectionJob)]
    assert names == [task for task, count in zip(TASKS, counts, strict=True) if count]


def test_sets_of_their_own_are_data_sets_of_the_scale() -> None:
    sources = dict(config().sources)
    assert [sources[name].name for name in OWN_DATA] == ["shapes_cue_conflict", "textures"]
    assert "receptive_field" not in sources
    assert [name for name, _ in without_cue_conflict().sources if name in OWN_DATA] == ["texture_knn"]


def test_files_have_places_of_their_own() -> None:
    made = config()
    run = made.runs_of("receptive_field")[0]
    field = InspectionJob(made, "receptive_field")
    assert field.outputs(run) == [
        Path(f"results/demo/metrics/receptive_field/{run}.json"),
        Path(f"results/demo/metrics/receptive_field/{run}.npz"), Path(f"results/demo/fields/{run}.npz"),
    ]  # fmt: skip
    assert field.record == made.data_record and field.inputs() is None and field.reference is None
    dimensions = InspectionJob(made, "shape_texture")
    assert dimensions.outputs(run) == [
        Path(f"results/demo/metrics/shape_texture/{run}{end}") for end in (".json", ".npz")
    ]
    assert dimensions.record == Path("results/demo/data/shapes_cue_conflict.json")
    assert (dimensions.rule, dimensions.command) == ("shape_texture", "shape_texture")


def test_a_section_that_the_scale_lacks_is_named_with_those_that_it_has() -> None:
    made = without_cue_conflict()
    with pytest.raises(ValueError, match="small has no section 'shape_texture'; it has: texture_knn, receptive_field"):
        InspectionJob(made, "shape_texture")
    with pytest.raises(ValueError, match="no section 'robustness'"):
        InspectionJob(made, "robustness")
    assert made.runs_of("shape_texture") == ()


@pytest.mark.parametrize("task", TASKS)
def test_unknown_keys_are_named_with_their_section(task: str) -> None:
    # What a pass of robustness has and these have not: a wall time after which to go on.
    assert f"{task}: unknown key 'hours'" in problem(**{task: {"hours": 3}})


@pytest.mark.parametrize("task", TASKS)
def test_runs_that_are_not_trained_or_listed_twice_are_named(task: str) -> None:
    found = problem(**{task: {"runs": [TINY, ABSENT, TINY]}})
    assert f"{task}.runs lists the same run more than once: van_tiny-lska-k23-s0" in found
    assert f"{task}.runs: not among the scale's runs: van_tiny-lska-k17-s0; add them to runs" in found


REFUSED: list[tuple[str, dict[str, Any], str]] = [
    ("shape_texture", {"stage": 0}, "stage must be at least 1, found 0"),
    ("shape_texture", {"pairs": 1}, "pairs must be at least 2, found 1"),
    ("shape_texture", {"resamples": 0}, "resamples must be at least 1, found 0"),
    ("shape_texture", {"passes": 0}, "passes must be at least 1, found 0"),
    ("shape_texture", {"data": {"manifest": "x.yaml"}}, "shape_texture.data.manifest: cue-conflict sets have no"),
    ("texture_knn", {"gallery": ["train", "val"]}, "other than the query val, found train, val"),
    ("texture_knn", {"gallery": []}, "other than the query val, found none"),
    ("texture_knn", {"query": "all"}, "texture_knn.query: expected one of 'train', 'val', 'test', found str 'all'"),
    ("texture_knn", {"attempts": 0}, "attempts must be at least 1, found 0"),
    ("receptive_field", {"images": 0}, "images must be at least 1, found 0"),
    ("receptive_field", {"size": 31}, "size must be at least 32, found 31"),
    ("receptive_field", {"normalization": "none"}, "expected one of 'imagenet', 'recipe', found str 'none'"),
]


@pytest.mark.parametrize(("task", "change", "message"), REFUSED, ids=str)
def test_impossible_settings_are_refused(task: str, change: dict[str, Any], message: str) -> None:
    assert message in problem(**{task: change})


@pytest.mark.parametrize("other", ["shapes", "scenes", "shapes_c", "textures"])
@pytest.mark.parametrize("robust", [True, False])
def test_two_data_sets_need_two_names(other: str, robust: bool) -> None:
    values = merge(read_yaml(Path("config/demo.yaml")), {"shape_texture": {"data": {"name": other}}})
    if not robust:
        del values["robustness"], values["architecture"]["resnet18"]
    if not robust and other == "shapes_c":
        assert from_dict(values, "here").shape_texture.data.name == other
        return
    with pytest.raises(ValueError, match=f"data sets need different names, found .*{other}"):
        from_dict(values, "here")


@pytest.mark.parametrize(("task", "published"), [("shape_texture", "cue_conflict"), ("texture_knn", "dtd")])
def test_a_generated_set_bears_no_published_name(task: str, published: str) -> None:
    # Tables would compare with the paper's numbers.
    found = problem(**{task: {"data": {"name": published}}})
    assert f"{task}.data.name: {published} is a published set, and this one is generated" in found


@pytest.mark.parametrize("name", ["shapes", "shapes_r", "textures"])
def test_a_generated_set_replaces_no_other_data(name: str) -> None:
    root = f"results/demo/data/{name}"
    found = problem(shape_texture={"data": {"root": root}})
    assert f".root: {root} is the root of another data set too" in found


def test_a_name_that_is_no_file_name_is_refused() -> None:
    assert "texture_knn.data.name 'a/b' becomes a file name" in problem(texture_knn={"data": {"name": "a/b"}})


SETTINGS = {
    "shape_texture": {"stage": 3, "pooled": False, "pairs": 50, "resamples": 7, "seed": 1},
    "texture_knn": {"gallery": ["train", "test"], "query": "test"},
    "receptive_field": {"images": 3, "size": 96, "normalization": "imagenet"},
}


def test_the_protocol_changes_with_every_setting_that_decides_the_numbers() -> None:
    for task, settings in SETTINGS.items():
        changes = [{}, *({name: value} for name, value in settings.items())]
        protocols = {InspectionJob(config(**{task: change}), task).protocol() for change in changes}
        assert len(protocols) == len(settings) + 1
        means = {"passes": 2, "attempts": 3, "evaluation": {"batch_size": 3, "threads": 2}}
        assert InspectionJob(config(**{task: means}), task).protocol() in protocols


def test_only_the_cue_conflict_set_depends_on_how_stored_images_are_read() -> None:
    for crop, expected in ((0.9, {"shape_texture"}), (1.0, set())):
        overrides = {"training": {"overrides": {"test_crop": crop}}}
        one, other = (config(stored_images=reading, **overrides) for reading in ("as_stored", "enlarged"))
        changed = {
            task for task in TASKS if InspectionJob(one, task).protocol() != InspectionJob(other, task).protocol()
        }
        assert changed == expected, "where nothing is cropped, both readings are one"
    assert "stored_images: expected one of 'as_stored', 'enlarged', found" in problem(stored_images="published")
