"""The generated classification set: layout, labels, balance, disjoint splits, atomic writing."""

import csv
import json
import logging
import os
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, JpegImagePlugin

from lska.data.synthetic import (
    SHAPES,
    TEXTURES,
    ClassificationSettings,
    classification_scene,
    contact_sheet,
    is_held_out,
    labelled,
    write_classification_set,
)

LUMA = np.array([0.299, 0.587, 0.114])
SMALL = ClassificationSettings(image_size=32, classes=3, train_per_class=18, val_per_class=7)


def files(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


def rows(root: Path) -> list[dict[str, str]]:
    with (root / "labels.csv").open(newline="") as stream:
        return list(csv.DictReader(stream))


@pytest.fixture(scope="module")
def small_set(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("sets") / "small"
    write_classification_set(root, SMALL)
    return root


def test_folders_and_labels_agree(small_set: Path) -> None:
    table = rows(small_set)
    images = [path for path in files(small_set) if path.endswith(".jpg")]
    assert sorted(row["path"] for row in table) == images
    assert len(images) == 3 * (18 + 7)
    for row in table:
        split, folder, name = row["path"].split("/")
        assert (split, folder) == (row["split"], row["shape"])
        assert name.startswith(f"{folder}_")
        with Image.open(small_set / row["path"]) as image:
            assert (image.format, image.size, image.mode) == ("JPEG", (32, 32), "RGB")
            assert JpegImagePlugin.get_sampling(image) == 0  # chroma at full resolution


def test_the_box_in_the_labels_is_where_the_picture_shows_the_object(small_set: Path) -> None:
    for row in rows(small_set):
        luma = np.asarray(Image.open(small_set / row["path"])) @ LUMA / 255
        ground = np.median(np.concatenate([luma[0], luma[-1], luma[:, 0], luma[:, -1]]))
        y, x = np.nonzero(luma > ground + 0.12)
        measured = np.array([x.min(), y.min(), x.max() + 1, y.max() + 1])
        listed = np.array([int(row[name]) for name in ("x_min", "y_min", "x_max", "y_max")])
        assert np.abs(measured - listed).max() <= 2, row


def test_instances_are_disjoint_between_splits_and_fresh_for_each_image(small_set: Path) -> None:
    table = rows(small_set)
    for category, number in (("shape", "shape_instance"), ("texture", "texture_instance")):
        instances = Counter((row[category], row[number]) for row in table)
        assert set(instances.values()) == {1}
        for row in table:
            assert is_held_out(int(row[number])) == (row["split"] == "val")


def test_textures_are_balanced_within_and_between_classes(small_set: Path) -> None:
    counts = Counter((row["shape"], row["texture"]) for row in rows(small_set) if row["split"] == "train")
    table = np.array([[counts[shape, texture] for texture in TEXTURES] for shape in SMALL.class_names])
    assert set(table.ravel()) == {1, 2}
    assert (table.sum(axis=1) == 18).all()
    # 18 images over 16 textures leave two extra ones per class; they must not fall on the same textures.
    assert (table.sum(axis=0) <= 3 + 2).all()


def test_equal_settings_give_equal_bytes_whatever_the_number_of_workers(small_set: Path, tmp_path: Path) -> None:
    again, parallel = tmp_path / "again", tmp_path / "parallel"
    assert write_classification_set(again, SMALL) == {"classes": 3, "train": 54, "val": 21, "written": 75}
    write_classification_set(parallel, SMALL, workers=2)
    assert files(again) == files(small_set)
    assert files(parallel) == files(small_set)


def test_another_seed_changes_every_image(small_set: Path, tmp_path: Path) -> None:
    write_classification_set(tmp_path / "set", replace(SMALL, seed=1, train_per_class=2, val_per_class=1))
    former = files(small_set)
    for name, content in files(tmp_path / "set").items():
        assert content != former[name], name


def test_a_larger_set_contains_the_smaller(small_set: Path, tmp_path: Path) -> None:
    names = (*SMALL.class_names, "mug")
    write_classification_set(tmp_path / "set", replace(SMALL, classes=names, train_per_class=20))
    larger = files(tmp_path / "set")
    assert all(larger[name] == content for name, content in files(small_set).items() if name.endswith(".jpg"))


def test_a_written_set_is_left_alone_and_said_so(
    small_set: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(labelled, "save_jpeg", lambda *arguments: pytest.fail("rendered again"))
    with caplog.at_level(logging.INFO, "lska"):
        counts = write_classification_set(small_set, replace(SMALL, turn=45), overwrite=True)
    assert counts == {"classes": 3, "train": 54, "val": 21, "written": 0}
    assert f"{small_set} already holds this set of 75 images" in caplog.text


def test_other_settings_are_refused_unless_overwritten(tmp_path: Path) -> None:
    tiny = replace(SMALL, classes=2, train_per_class=2, val_per_class=1)
    write_classification_set(tmp_path / "set", tiny)
    former = files(tmp_path / "set")
    with pytest.raises(FileExistsError, match=r"other settings \(seed: 0, not 5\).* pass overwrite"):
        write_classification_set(tmp_path / "set", replace(tiny, seed=5))
    assert files(tmp_path / "set") == former
    write_classification_set(tmp_path / "set", replace(tiny, seed=5, val_per_class=2), overwrite=True)
    assert json.loads((tmp_path / "set/settings.json").read_text())["settings"]["seed"] == 5
    assert len(rows(tmp_path / "set")) == 2 * (2 + 2)
    assert [path.name for path in tmp_path.iterdir()] == ["set"]


@pytest.mark.parametrize("content", ["folder", "file", "broken"])
def test_a_root_of_other_origin_is_never_replaced(tmp_path: Path, content: str) -> None:
    root = tmp_path / "photos"
    if content == "file":
        root.write_text("mine")
    else:
        root.mkdir()
        (root / ("settings.json" if content == "broken" else "holiday.jpg")).write_text("mine")
    with pytest.raises(FileExistsError, match="photos exists and is no generated set"):
        write_classification_set(root, SMALL, overwrite=True)
    assert [path.read_text() for path in (root, *root.rglob("*")) if path.is_file()] == ["mine"]


@pytest.mark.parametrize("mine", ["added", "old copy", "edited", "link"])
def test_files_that_somebody_put_into_a_generated_set_are_never_replaced(tmp_path: Path, mine: str) -> None:
    root, tiny = tmp_path / "set", replace(SMALL, classes=2, train_per_class=2, val_per_class=1)
    write_classification_set(root, tiny)
    path = root / "labels.csv" if mine == "edited" else root / "train/arrow/holiday.jpg"
    if mine == "link":
        path.symlink_to(tmp_path / "nowhere")
    else:
        path.write_text("mine")
    if mine == "old copy":
        os.utime(path, (0, 0))
    former = {path: path.lstat().st_mtime_ns for path in root.rglob("*")}
    with pytest.raises(FileExistsError, match=f"later: '{path.relative_to(root)}'; move them elsewhere"):
        write_classification_set(root, replace(tiny, seed=5), overwrite=True)
    assert {path: path.lstat().st_mtime_ns for path in root.rglob("*")} == former
    path.unlink()
    assert write_classification_set(root, replace(tiny, seed=5), overwrite=True)["written"] == 6


@pytest.mark.parametrize("present", [False, True])
def test_an_interruption_leaves_nothing_half_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, present: bool
) -> None:
    root, tiny = tmp_path / "set", replace(SMALL, classes=2, train_per_class=3, val_per_class=1)
    if present:
        write_classification_set(root, tiny)
    former, save, calls = files(root), labelled.save_jpeg, []

    def interrupted(path: Path, *arguments) -> None:
        calls.append(path)
        if len(calls) == 5:
            raise KeyboardInterrupt
        save(path, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(labelled, "save_jpeg", interrupted)
        with pytest.raises(KeyboardInterrupt):
            write_classification_set(root, replace(tiny, seed=1), overwrite=True)
    assert sum(path.parent.name == "arrow" for path in calls) == 3
    assert files(root) == former
    assert [path.name for path in tmp_path.iterdir()] == (["set"] if present else [])
    assert write_classification_set(root, replace(tiny, seed=1), overwrite=True)["written"] == 8


def test_paths_with_spaces_and_quotes_and_an_empty_folder(tmp_path: Path) -> None:
    root = tmp_path / 'it\'s a "data" set; $HOME' / "münchen"
    root.mkdir(parents=True)
    tiny = replace(SMALL, classes=("star", "key"), train_per_class=1, val_per_class=1)
    write_classification_set(root, tiny)
    assert [row["path"] for row in rows(root)][:2] == ["train/key/key_00000.jpg", "train/star/star_00000.jpg"]
    assert contact_sheet(root, root.parent / "a 'sheet'.png") == 4


def test_the_smallest_objects_still_have_a_mask() -> None:
    settings = ClassificationSettings(image_size=24, classes=16, extent=(0.3, 0.3))
    for shape in SHAPES:
        for number in range(8):
            x0, y0, x1, y1 = classification_scene(settings, "train", shape, number).objects[0].box
            assert max(x1 - x0, y1 - y0) >= 5


@pytest.mark.parametrize(
    ("setting", "value", "expected"),
    [
        ("image_size", 8, "an integer from 24 to 4096, found 8"),
        ("image_size", 64.0, "an integer from 24 to 4096, found 64.0"),
        ("classes", 1, "an integer from 2 to 16, found 1"),
        ("classes", True, "an integer from 2 to 16, found True"),
        ("classes", "star", "an integer from 2 to 16, found 'star'"),
        ("classes", ("star", "blob"), "has unknown 'blob'; choose from arrow"),
        ("classes", ("star", "star"), "at least 2 different names"),
        ("train_per_class", 0, "an integer from 1 to 1000000, found 0"),
        ("val_per_class", -3, "an integer from 1 to 1000000, found -3"),
        ("textures", (), "at least 1 different names"),
        ("textures", ("plaid",), "has unknown 'plaid'; choose from checkers"),
        ("extent", (0.9, 0.5), "must have the smaller number first"),
        ("extent", 0.5, "must be a tuple of two numbers, found 0.5"),
        ("extent", (0.1, 0.5), "a number from 0.3 to 0.95, found 0.1"),
        ("turn", 270, "a number from 0.0 to 180.0, found 270"),
        ("ground", "black", "one of darker, lighter, either, found 'black'"),
        ("contrast", 0.9, "a number from 0.0 to 0.5, found 0.9"),
        ("clutter", float("nan"), "a number from 0.0 to 1.0, found nan"),
        ("quality", 50, "an integer from 90 to 100, found 50"),
        ("seed", -1, "an integer from 0 to 4294967295, found -1"),
    ],
)
def test_settings_out_of_range_are_named(setting: str, value: object, expected: str) -> None:
    with pytest.raises(ValueError, match=f"^{setting} .*{expected}"):
        ClassificationSettings(**{setting: value})
