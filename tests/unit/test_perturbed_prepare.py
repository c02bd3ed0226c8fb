"""Records of perturbed sets: partial ones, generated ones, and what is refused."""

from __future__ import annotations

import logging
import re
import shutil
from pathlib import Path

import pytest
from perturbed_sets import (
    GENERATED,
    NAMES,
    corrupted_manifest,
    generated,
    judge,
    made,
    perturbed_manifest,
    picture,
    record,
    stored,
    write_part,
)
from tiny_project import Project

from lska.data.decoding import decode
from lska.data.entries import DataError
from lska.data.manifest import make_manifest, save_manifest
from lska.data.perturbed.names import FAMILIES, SEVERITIES
from lska.data.perturbed.parts import open_parts
from lska.data.perturbed.perturbed_preparing import prepare_perturbed
from lska.data.synthetic.labelled import ClassificationSettings
from lska.settings.tasks import PerturbedSet
from lska.settings.versions import GENERATORS, Version


def test_a_partial_set_is_recorded_with_what_is_missing(
    partial: PerturbedSet, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        prepare_perturbed(partial)
    found = record(partial)
    assert found["missing"] == {"fog": [1, 2, 3, 4, 5], "snow": [4], "frost": [2]}
    assert sum(map(len, found["parts"].values())) == 95 - 7
    assert (found["parts"]["snow"], found["parts"]["frost"]) == ([1, 2, 3, 5], [1, 3, 4, 5])
    assert (found["family"], found["images"], found["classes"], found["contents"]) == ("c", 8, 4, {})
    assert (found["set"], found["inputs"]) == ("c", partial.inputs())
    said = "\n".join(caplog.messages)
    assert "my_c: fog: severities 1, 2, 3, 4, 5 missing" in said and "my_c: frost/2: 7 images, expected 8" in said


def test_a_part_that_is_added_changes_the_identity(partial: PerturbedSet) -> None:
    prepare_perturbed(partial)
    before = record(partial)
    (Path("my_c") / "frost" / "2" / "red" / NAMES[0]).write_bytes(picture(9))
    prepare_perturbed(partial)
    after = record(partial)
    assert after["missing"] == {"fog": [1, 2, 3, 4, 5], "snow": [4]}
    assert before["digest"] != after["digest"] and before["names"] == after["names"]


def test_a_set_without_any_complete_part_is_refused(project: Project) -> None:
    corrupted_manifest(Path("my_c.yaml"), count=12, per_class=[3, 3])
    write_part(Path("my_c") / "fog" / "1")
    write_part(Path("my_c") / "fog" / "2")
    item = stored(project, "c")
    with pytest.raises(DataError) as caught:
        prepare_perturbed(item)
    text = str(caught.value)
    assert text.startswith("my_c at my_c: not as its manifest says") and "no part of it is complete" in text
    assert "fog/1, 2: 8 images, expected 12" in text
    assert text.count("expected 12") == 1 and "robustness.sets.c.root" in text
    assert not item.record.exists()


@pytest.mark.parametrize(
    ("name", "family", "message"),
    [("c", "c_bar", r"sets\.c: my_c is a manifest of family c_bar, expected one of family c; correct"),
     ("c_bar", "c", r"sets\.c_bar: my_c_bar is a manifest of family c, expected one of family c_bar; correct")],
)  # fmt: skip
def test_a_manifest_of_the_other_family_is_refused(project: Project, name: str, family: str, message: str) -> None:
    corrupted_manifest(Path(f"my_{name}.yaml"), family)
    with pytest.raises(ValueError, match=message):
        prepare_perturbed(stored(project, name))


@pytest.mark.parametrize("name", GENERATED)
def test_a_generated_set_is_recorded_with_its_contents_and_kept(
    project: Project, few: None, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    item = generated(project, name)
    found = made(item)
    assert found["name"] == f"my_{name}" and found["inputs"] == item.inputs() and found["set"] == name
    contents = found["contents"]
    assert re.fullmatch(r"sha256:[0-9a-f]{64}", next(iter(contents.values())) if item.corrupted else contents)
    files = {path: path.stat().st_mtime_ns for path in Path(f"my_{name}").rglob("*.jpg")}
    assert len(files) >= 6
    assert made(item) == found
    assert {path: path.stat().st_mtime_ns for path in Path(f"my_{name}").rglob("*.jpg")} == files
    parts = open_parts(item)
    assert all(len(part) == len(parts[-1]) for part in parts)


@pytest.mark.parametrize("name", GENERATED)
def test_other_settings_make_another_set(project: Project, few: None, name: str) -> None:
    before, after = made(generated(project, name)), made(generated(project, name, seed=1))
    for key in ("inputs", "digest", "contents"):
        assert before[key] != after[key]


def test_fewer_severities_are_missing_from_the_means(project: Project, few: None) -> None:
    found = made(generated(project, "c", severities=[4, 2]))
    assert found["parts"] == {"brightness": [2, 4], "contrast": [2, 4]}
    assert found["missing"] == {"brightness": [1, 3, 5], "contrast": [1, 3, 5]}


def test_corruptions_follow_their_clean_images(project: Project, few: None) -> None:
    item = generated(project, "c")
    before = made(item)
    shutil.copytree("data", "other")
    Path("data").unlink()
    Path("other").rename("data")
    for path in (Path("data") / "val" / "red").iterdir():
        path.write_bytes(picture(99))
    save_manifest(make_manifest(Path("data"), "colours"), Path("colours.yaml"))
    assert item.inputs() != before["inputs"]
    project.prepare(item.config)
    assert made(item)["digest"] != before["digest"]


def test_versions_of_other_generators_do_not_enter_corruptions(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    items = {name: generated(project, name) for name in ("c", "r")}
    before = {name: item.inputs() for name, item in items.items()}
    monkeypatch.setitem(GENERATORS, "renditions", Version(99, ()))
    assert items["c"].inputs() == before["c"]
    assert items["r"].inputs() != before["r"]


def test_the_reference_is_part_of_the_record(project: Project) -> None:
    item = generated(project, "a")
    found = made(item)
    assert found["reference"] == {"run": "resnet18-s0", "md5": "abc"}
    prepare_perturbed(item, judge, {"run": "resnet18-s0", "md5": "other"})
    again = record(item)
    assert again["reference"]["md5"] == "other"
    assert again["inputs"] == found["inputs"], "which weights they were is known only after training"


def test_images_that_the_reference_gets_right_are_not_in_the_set(project: Project) -> None:
    item = generated(project, "a")
    made(item)
    (part,) = open_parts(item)
    names = sorted(ClassificationSettings(image_size=32, classes=4).class_names)
    assert len(part.split.classes) == 3 and len(part) == 6
    for index, sample in enumerate(part.split.samples):
        image = decode(part.split.read(index), part.split.name(index))
        assert names[int(judge([image]).argmax())] != part.split.classes[sample.target]


def test_without_its_reference_the_set_cannot_be_made(project: Project) -> None:
    with pytest.raises(ValueError, match=r"robustness\.sets\.a\.generate: the images .* reference classifier"):
        prepare_perturbed(generated(project, "a"))


def test_a_stored_set_with_a_folder_per_class(project: Project) -> None:
    perturbed_manifest(Path("my_r.yaml"))
    write_part(Path("my_r"))
    item = stored(project, "r")
    prepare_perturbed(item)
    assert (record(item)["splits"], record(item)["contents"]) == ({"test": 8}, None)
    (part,) = open_parts(item)
    assert (part.name, len(part), part.stored) == ("test", 8, False)


def test_a_stored_set_that_is_not_as_published_is_refused(project: Project) -> None:
    perturbed_manifest(Path("my_r.yaml"))
    write_part(Path("my_r"))
    (Path("my_r") / "red" / NAMES[0]).unlink()
    with pytest.raises(DataError, match=r"(?s)7 images, expected 8.*robustness\.sets\.r\.root"):
        prepare_perturbed(stored(project, "r"))
    shutil.rmtree("my_r")
    with pytest.raises(DataError, match=r"(?s)my_r does not exist: expected a folder .*robustness\.sets\.r\.root"):
        prepare_perturbed(stored(project, "r"))


def test_severities_are_those_of_the_family(project: Project, few: None) -> None:
    found = made(generated(project, "c_bar"))
    assert found["parts"] == dict.fromkeys(FAMILIES["c_bar"], list(SEVERITIES))
    assert found["missing"] == {}
    assert (Path("my_c_bar") / "sparkles" / "3.00").is_dir()
