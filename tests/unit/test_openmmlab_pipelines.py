"""What generated configurations do to images and labels, against protocol sections 3 and 4."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import paper_jobs
import pytest
from paper_jobs import data_set, generated, means, published, steps
from PIL import Image

from lska.data.coco import check_detection
from lska.data.dense_sets import DetectionSplit
from lska.data.manifest import DetectionManifest, DetectionSplitManifest

DETECTORS = ("retinanet", "mask_rcnn")


@pytest.mark.parametrize("head", DETECTORS)
def test_detectors_see_coco_as_published(head: str) -> None:
    config = published(head)
    train, test = steps(config, "train_dataloader"), steps(config, "test_dataloader")
    assert list(train) == ["mmengine.LoadPicture", "LoadAnnotations", "Resize", "RandomFlip", "PackDetInputs"]
    assert list(test) == ["mmengine.LoadPicture", "Resize", "PackDetInputs"]
    assert train["Resize"] == test["Resize"] == {"type": "Resize", "scale": (1333, 800), "keep_ratio": True}
    assert train["RandomFlip"] == {"type": "RandomFlip", "prob": 0.5}
    assert train["LoadAnnotations"].with_mask == (head == "mask_rcnn")
    assert config.train_dataloader.dataset.dataset.filter_cfg == {"filter_empty_gt": True, "min_size": 32}
    assert config.test_dataloader.dataset.filter_cfg is None
    preprocessor = config.model.data_preprocessor
    assert preprocessor.mean == pytest.approx([123.675, 116.28, 103.53])
    assert preprocessor.std == pytest.approx([58.395, 57.12, 57.375])
    assert (preprocessor.bgr_to_rgb, preprocessor.pad_size_divisor) == (True, 32)


def test_semantic_fpn_trains_on_random_crops_and_is_tested_once_at_one_scale() -> None:
    config = published("semantic_fpn")
    train, test = steps(config, "train_dataloader"), steps(config, "test_dataloader")
    assert list(train) == [
        "mmengine.LoadPicture", "mmengine.LoadLabelMap", "RandomResize", "RandomCrop", "RandomFlip",
        "PhotoMetricDistortion", "PackSegInputs",
    ]  # fmt: skip
    assert train["RandomResize"] == {
        "type": "RandomResize", "scale": (2048, 512), "ratio_range": (0.5, 2.0), "keep_ratio": True,
    }  # fmt: skip
    assert train["RandomCrop"] == {"type": "RandomCrop", "crop_size": (512, 512), "cat_max_ratio": 0.75}
    assert train["RandomFlip"] == {"type": "RandomFlip", "prob": 0.5}
    assert list(test) == ["mmengine.LoadPicture", "Resize", "mmengine.LoadLabelMap", "PackSegInputs"]
    assert test["Resize"] == {"type": "Resize", "scale": (2048, 512), "keep_ratio": True}
    assert config.test_dataloader.dataset.reduce_zero_label is True
    assert config.test_dataloader.batch_size == 1


@pytest.fixture
def scenes(tmp_path: Path) -> Path:
    """COCO-style images: of 300x200 pixels with an object, the same without, and a tiny one."""
    folder = tmp_path / "coco"
    (folder / "train").mkdir(parents=True)
    sizes = {"with": (300, 200), "without": (300, 200), "tiny": (31, 40)}
    for name, size in sizes.items():
        Image.fromarray(np.zeros((size[1], size[0], 3), np.uint8)).save(folder / "train" / f"{name}.png")
    images = [
        {"id": number, "file_name": f"{name}.png", "width": width, "height": height}
        for number, (name, (width, height)) in enumerate(sizes.items())
    ]
    shape = {"bbox": [30, 20, 60, 40], "area": 2400, "iscrowd": 0,
             "segmentation": [[30, 20, 90, 20, 90, 60, 30, 60]]}  # fmt: skip
    objects = [{"id": 1, "image_id": 0, "category_id": 3, **shape}, {"id": 2, "image_id": 2, "category_id": 1, **shape}]
    split = paper_jobs.detection_split("train", folder)
    categories = [{"id": i, "name": name} for i, name in zip(split.category_ids, split.classes, strict=True)]
    content = {"images": images, "annotations": objects, "categories": categories}
    split.annotations.write_text(json.dumps(content), encoding="utf-8")
    return folder


@pytest.mark.parametrize("head", DETECTORS)
def test_images_without_objects_are_left_out_and_the_others_resized(head: str, scenes: Path) -> None:
    split = paper_jobs.detection_split("train", scenes)
    unflipped = means(head, overrides={"horizontal_flip": 0.0})
    config = generated(head, unflipped, data={"train": split, "val": split})
    made = data_set(config, "train_dataloader")
    assert [Path(made.get_data_info(index)["img_path"]).stem for index in range(len(made))] == ["with"]
    sample = made[0]
    assert tuple(sample["inputs"].shape) == (3, 800, 1200)
    found = sample["data_samples"].gt_instances
    assert found.labels.tolist() == [1]  # category 3 is the second class
    assert found.bboxes.tensor.tolist() == [[120, 80, 360, 240]]
    assert ("masks" in found) == (head == "mask_rcnn")
    assert len(data_set(config, "test_dataloader")) == 3


def test_boxes_are_cut_off_at_the_border_and_short_polygons_dropped(scenes: Path) -> None:
    split = paper_jobs.detection_split("train", scenes)
    content = json.loads(split.annotations.read_text())
    # What the manifest of COCO 2017 tolerates: 2.9 pixels over two borders, polygons of two points and of one.
    outline = [[290, -2.9, 302.9, -2.9, 302.9, 9, 290, 9], [250, 20, 260, 40], [5, 5]]
    content["annotations"][0].update(bbox=[290, -2.9, 12.9, 11.9], segmentation=outline)
    split.annotations.write_text(json.dumps(content))
    unchanged = means("mask_rcnn", overrides={"horizontal_flip": 0.0, "image_scale": [300, 200]})
    config = generated("mask_rcnn", unchanged, data={"train": split})
    found = data_set(config, "train_dataloader")[0]["data_samples"].gt_instances
    assert found.bboxes.tensor.tolist() == [[290, 0, 300, 9]]
    expected = np.zeros((200, 300), np.uint8)
    expected[:9, 290:] = 1
    assert np.array_equal(found.masks.masks[0], expected)


def test_the_check_says_what_training_keeps_as_mmdet_keeps_it(tmp_path: Path) -> None:
    """Objects and images that mmdet leaves out without a word are counted, and named by id."""
    folder = tmp_path / "set"
    (folder / "train").mkdir(parents=True)
    sizes = {"plenty": (60, 40), "thin": (60, 40), "empty": (60, 40), "small": (31, 40)}
    for name, size in sizes.items():
        Image.new("RGB", size).save(folder / "train" / f"{name}.png")
    images = [
        {"id": number, "file_name": f"{name}.png", "width": width, "height": height}
        for number, (name, (width, height)) in enumerate(sizes.items(), start=1)
    ]
    outline = [[2, 2, 20, 2, 20, 12, 2, 12]]
    about = {"category_id": 1, "bbox": [2, 2, 18, 10], "area": 180, "iscrowd": 0, "segmentation": outline}
    changes = [
        {}, {}, {"iscrowd": 1}, {"bbox": [2, 2, 0.9, 10]}, {"bbox": [2, 2, 18, 0.1]}, {"image_id": 2, "area": 0},
        {"image_id": 4}, {"segmentation": [outline[0], outline[0]]}, {"bbox": [-0.5, 2, 10, 10]},
    ]  # fmt: skip
    objects = [{"id": number, "image_id": 1, **about, **change} for number, change in enumerate(changes, start=1)]

    def write() -> None:
        content = {"images": images, "annotations": objects, "categories": [{"id": 1, "name": "thing"}]}
        (folder / "train.json").write_text(json.dumps(content), encoding="utf-8")

    write()
    split = DetectionSplit("train", folder / "train", folder / "train.json", ("thing",), (1,), 4, True)
    stated = DetectionSplitManifest("train", "train.json", 4, without_area=1)
    manifest = DetectionManifest("own", "t", "s", "t", ("thing",), (1,), {"train": stated}, masks=True)
    outcome = check_detection(manifest, split)
    assert outcome.findings == ()
    made = data_set(generated("mask_rcnn", data={"train": split}), "train_dataloader")
    trained = sum(len(made[index]["data_samples"].gt_instances) for index in range(len(made)))
    assert (len(made), trained) == (2, 4)
    said = "\n".join(outcome.notes)
    for text in (
        f"training keeps {len(made)} of the images, with {trained} objects.",
        "crowds (or difficult objects), neither trained on nor scored (1): annotation 3 of plenty.png.",
        "or of area 0, scored but not trained on (3): annotation 4 of plenty.png; annotation 5 of plenty.png; annot",
        "images without objects, not trained on (1): empty.png.",
        "images with a side below 32 pixels, not trained on (1): small.png.",
    ):
        assert text in said
    for entry in objects:
        entry["image_id"] = 4
    write()
    assert check_detection(manifest, split).findings == ("training would keep no object on 4 images",)


def write_labels(folder: Path, values: np.ndarray, size: tuple[int, int]) -> None:
    """An image of `size` (width, height) whose label map has columns of `values`."""
    for part in ("images", "labels"):
        (folder / part / "val").mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.zeros((size[1], size[0], 3), np.uint8)).save(folder / "images" / "val" / "a.png")
    columns = np.resize(values, size[0]).astype(np.uint8)
    Image.fromarray(np.tile(columns, (size[1], 1))).save(folder / "labels" / "val" / "a.png")


@pytest.mark.parametrize(
    ("unlabelled", "stored", "expected"),
    [
        (True, [0, 1, 2, 150, 200, 255], [255, 0, 1, 149, 255, 255]),
        (False, [0, 1, 2, 149, 200, 255], [0, 1, 2, 149, 255, 255]),
    ],
)
def test_label_values_become_classes_and_ignored_pixels(
    unlabelled: bool, stored: list[int], expected: list[int], tmp_path: Path
) -> None:
    write_labels(tmp_path, np.array(stored), (100, 60))
    split = paper_jobs.segmentation_split("val", tmp_path, zero_is_unlabelled=unlabelled, ignore=(200, 255))
    config = generated("semantic_fpn", data={"val": split})
    sample = data_set(config, "test_dataloader")[0]
    labels = sample["data_samples"].gt_sem_seg.data
    # Shorter side 512, the longer not rounded to a multiple of 32; labels are scored at their own size.
    assert tuple(sample["inputs"].shape) == (3, 512, 853)
    assert tuple(labels.shape) == (1, 60, 100)
    assert labels[0, 0, :6].tolist() == expected
    assert "param_scheduler" not in config
