"""Generated detection and segmentation sets: exact annotations, public layouts, held-out instances, equal bytes."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from dense_sets import DETECTION, SEGMENTATION
from PIL import Image
from pycocotools.coco import COCO

from lska.data.synthetic import (
    DetectionSettings,
    SegmentationSettings,
    boxed,
    dense_scene,
    is_held_out,
    render,
    write_detection_set,
    write_segmentation_set,
)
from lska.data.synthetic.scene import Scene


@pytest.fixture(scope="module")
def coco_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("sets") / "coco"
    assert write_detection_set(root, DETECTION) == {"train": 6, "val": 3, "written": 9}
    return root


@pytest.fixture(scope="module")
def ade_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("sets") / "ade"
    assert write_segmentation_set(root, SEGMENTATION) == {"train": 6, "val": 3, "written": 9}
    return root


def files(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


@pytest.mark.parametrize("split", ["train", "val"])
def test_boxes_and_masks_are_those_of_the_scenes(coco_root: Path, split: str) -> None:
    coco = COCO(coco_root / "annotations" / f"instances_{split}2017.json")
    names = {number: entry["name"] for number, entry in coco.cats.items()}
    assert names == dict(enumerate(DETECTION.class_names, start=1))
    assert len(coco.imgs) == DETECTION.count(split)
    objects = 0
    for number in range(DETECTION.count(split)):
        scene = dense_scene(DETECTION, split, number)
        found = coco.loadAnns(coco.getAnnIds(imgIds=[number + 1]))
        objects += len(found)
        assert len(found) == len(scene.objects)
        for entry, item in zip(found, scene.objects, strict=True):
            assert names[entry["category_id"]] == item.labels.shape
            assert (coco.annToMask(entry).astype(bool) == item.mask).all()
            left, top, width, height = entry["bbox"]
            assert (left, top, left + width, top + height) == item.box
            assert (entry["area"], entry["iscrowd"]) == (item.mask.sum(), 0)
    assert sorted(coco.anns) == list(range(1, objects + 1))


@pytest.mark.parametrize("split", ["train", "val"])
def test_images_show_the_scenes(coco_root: Path, split: str) -> None:
    for number in range(DETECTION.count(split)):
        expected = render(dense_scene(DETECTION, split, number)).astype(int)
        with Image.open(coco_root / f"{split}2017" / f"{number + 1:012d}.jpg") as image:
            assert np.abs(np.asarray(image) - expected).mean() < 3  # JPEG


def test_label_maps_are_those_of_the_scenes(ade_root: Path) -> None:
    assert SEGMENTATION.class_names == ("background", "arrow", "bottle", "circle")
    for number in range(SEGMENTATION.train_images):
        scene = dense_scene(SEGMENTATION, "train", number)
        with Image.open(ade_root / "annotations" / "training" / f"train_{number + 1:08d}.png") as image:
            assert image.mode == "L"
            labels = np.asarray(image)
        assert (ade_root / "images" / "training" / f"train_{number + 1:08d}.jpg").is_file()
        expected = np.ones_like(labels)
        for item in scene.objects:
            expected[item.mask] = SEGMENTATION.class_names.index(item.labels.shape) + 1
        assert (labels == expected).all()
        assert (labels == 1).any()
        assert (labels > 1).any()


def test_validation_scenes_are_made_of_held_out_instances() -> None:
    for split, held_out in (("train", False), ("val", True)):
        for number in range(20):
            for item in dense_scene(DETECTION, split, number).objects:
                labels = item.labels
                assert {is_held_out(labels.shape_instance), is_held_out(labels.texture_instance)} == {held_out}


def test_equal_settings_give_equal_bytes_in_any_number_of_processes(coco_root: Path, tmp_path: Path) -> None:
    write_detection_set(tmp_path / "again", DETECTION, workers=2)
    assert files(tmp_path / "again") == files(coco_root)


def test_a_larger_set_contains_the_smaller() -> None:
    larger = dataclasses.replace(DETECTION, train_images=900)
    assert (render(dense_scene(larger, "train", 5)) == render(dense_scene(DETECTION, "train", 5))).all()


def test_a_written_set_is_left_alone_and_another_is_refused(ade_root: Path) -> None:
    before = files(ade_root)
    assert write_segmentation_set(ade_root, SEGMENTATION)["written"] == 0
    other = dataclasses.replace(SEGMENTATION, seed=1)
    with pytest.raises(FileExistsError, match="seed: 0, not 1"):
        write_segmentation_set(ade_root, other)
    with pytest.raises(FileExistsError, match="kind: 'segmentation', not 'detection'"):
        write_detection_set(ade_root, DETECTION)
    assert files(ade_root) == before


def test_another_set_is_replaced_on_request(tmp_path: Path) -> None:
    write_detection_set(tmp_path, dataclasses.replace(DETECTION, train_images=2, val_images=1))
    one = dataclasses.replace(DETECTION, train_images=1, val_images=1)
    assert write_detection_set(tmp_path, one, overwrite=True)["written"] == 2
    assert [path.name for path in sorted((tmp_path / "train2017").iterdir())] == ["000000000001.jpg"]


def test_an_object_that_is_all_but_hidden_is_not_annotated(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    whole = dense_scene(DETECTION, "train", 0)
    rest = np.zeros_like(whole.objects[0].mask)
    rest[20, 5 : 5 + boxed.SMALLEST - 1] = True
    enough = rest.copy()
    enough[21, 5] = True
    hidden, visible = (dataclasses.replace(whole.objects[0], mask=mask) for mask in (rest, enough))

    def scene(*_: object) -> Scene:
        return dataclasses.replace(whole, objects=(hidden, visible))

    monkeypatch.setattr(boxed, "dense_scene", scene)
    write_detection_set(tmp_path / "set", dataclasses.replace(DETECTION, train_images=1, val_images=1))
    content = json.loads((tmp_path / "set" / "annotations" / "instances_train2017.json").read_text())
    assert [entry["area"] for entry in content["annotations"]] == [boxed.SMALLEST]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"classes": 99}, "classes must be an integer from 1 to 16"),
        ({"classes": ("circle", "cube")}, "classes has unknown 'cube'"),
        ({"train_images": 0}, "train_images"),
        ({"objects": (3, 1)}, "objects must have the smaller number first"),
        ({"overlap": 1.5}, "overlap"),
        ({"ground": "dark"}, "ground must be one of"),
        ({"image_size": 8}, "image_size"),
    ],
)
def test_settings_out_of_range_are_named(settings: dict[str, object], message: str) -> None:
    for kind in (DetectionSettings, SegmentationSettings):
        with pytest.raises(ValueError, match=message):
            kind(**settings)


def test_writing_twice_as_ints_or_floats_is_one_setting() -> None:
    assert DetectionSettings(turn=30, clutter=0).description() == DetectionSettings(turn=30.0).description()
