"""Every kind of broken detection data is named by the complete check, and sound data of every form pass."""

from __future__ import annotations

import codecs
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from dense_sets import annotations, copied, edited, findings, write_coco
from PIL import Image
from pycocotools import mask

from lska.config import DataSource
from lska.data.masks import read_mask, run_lengths

Edit = Callable[[dict[str, Any]], None]


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> DataSource:
    return write_coco(tmp_path_factory.mktemp("sets"))


@pytest.fixture
def data(sound: DataSource, tmp_path: Path) -> DataSource:
    return copied(sound, tmp_path)


def first(content: dict[str, Any], **changes: Any) -> None:
    content["annotations"][0].update(changes)


def image(content: dict[str, Any], **changes: Any) -> None:
    content["images"][0].update(changes)


def test_sound_data_pass(data: DataSource, tmp_path: Path) -> None:
    assert findings("detection", data, tmp_path) == ""


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda c: first(c, bbox=[30, 5, 11, 4]), "boxes outside their image (1): annotation 1 of 000000000001.jpg"),
        (lambda c: first(c, bbox=[-1, 5, 11, 4]), "boxes outside their image (1)"),
        (lambda c: first(c, bbox=[40, 5, 0.5, 4]), "boxes outside their image (1)"),
        (lambda c: first(c, bbox=[3, -0.5, 11, 0.5]), "boxes outside their image (1)"),
        (lambda c: first(c, bbox=[3, 5, 11, -4]), "boxes of negative size (1)"),
        (
            lambda c: first(c, bbox=[3, 5, 11, 0]),
            "boxes without area (1): annotation 1 of 000000000001.jpg: [3, 5, 11, 0]",
        ),
        (lambda c: first(c, bbox=[3, 5, 11]), "boxes that are not four numbers (1)"),
        (lambda c: first(c, bbox=[3, 5, 11, float("nan")]), "boxes that are not four numbers (1)"),
        (lambda c: first(c, category_id=9), "annotations of an unknown category (1): annotation 1"),
        (lambda c: first(c, image_id=999), "annotations of an image that is not listed (1): annotation 1 of image 999"),
        (lambda c: first(c, id=2), "duplicate annotation ids (1): annotation 2"),
        (lambda c: first(c, id="one"), "annotations without a usable key (1): annotations[0]: id"),
        (lambda c: first(c, id=0), "annotations without a usable key (1): annotations[0]: id of at least 1"),
        (lambda c: c["annotations"][0].pop("area"), "annotations without a usable key (1): annotations[0]: area"),
        (lambda c: first(c, iscrowd=2), "area or iscrowd of no use (1)"),
        (lambda c: first(c, area=-3), "area or iscrowd of no use (1)"),
        (lambda c: first(c, area=0), "area is stated as 0, which training leaves out and evaluation scores (1): annot"),
        (lambda c: first(c, ignore=1), "objects marked `ignore`, which training leaves out and evaluation scores (1)"),
        (lambda c: c.update(info={"dropped": 5}), "info.dropped that is no list of texts (1): 5"),
        (lambda c: image(c, file_name="000000000001.tif"), "listed files that end in none of .png, .jpg, .jpeg, .webp"),
        (lambda c: c["annotations"].pop(), "objects, expected"),
        (lambda c: c["annotations"].append("box"), "annotations without a usable key (1)"),
        (lambda c: first(c, segmentation=[]), "masks that do not fit their image (1): annotation 1"),
        (
            lambda c: first(c, segmentation={"size": [40, 41], "counts": [1640]}),
            "run-length encoding of [height, width] [40, 41] in 40x40",
        ),
        (lambda c: first(c, segmentation=[[1, 1, 9, 1, 9, 50]]), "polygon from (1, 1) to (9, 50) in 40x40"),
        (lambda c: first(c, segmentation=[[1, 1, 9, 9, 5, 5], [2, 2, 2, 2, 2, 2]]), "a line or a point"),
        (lambda c: image(c, width=41), "images of another size than the annotations say (1)"),
        (lambda c: image(c, id=2), "duplicate image ids (1): 2: 000000000001.jpg and 000000000002.jpg"),
        (lambda c: image(c, file_name="000000000002.jpg"), "image files listed twice (1): 000000000002.jpg"),
        (
            lambda c: image(c, height="40"),
            "image entries without a whole id, file_name, width and height (1): images[0]",
        ),
        (lambda c: image(c, file_name="7.jpg"), "missing image files (1)"),
        (lambda c: c["images"].pop(), "5 images, expected 6 (1 too few)"),
        (lambda c: c["categories"][0].update(name="cube"), "unknown categories (1): id 1: 'cube', expected 'arrow'"),
        (lambda c: c["categories"].pop(), "missing categories (1): id 3: 'circle'"),
        (
            lambda c: c["categories"].reverse(),
            "categories in another order (1): ids [3, 2, 1], expected [1, 2, 3]",
        ),
        (lambda c: c["categories"].append({"id": 3, "name": "ring"}), "duplicate category ids (1): 3"),
        (lambda c: c["categories"].append({"id": None}), "categories without a whole id (1)"),
        (lambda c: c.pop("images"), "is no COCO annotation file: expected lists images"),
    ],
)
def test_broken_annotations_are_named(data: DataSource, tmp_path: Path, edit: Edit, message: str) -> None:
    with edited(annotations(data)) as content:
        edit(content)
    found = findings("detection", data, tmp_path)
    assert message in found
    assert all(line.startswith("train: ") for line in found.splitlines())


def test_broken_files_are_named(data: DataSource, tmp_path: Path) -> None:
    images = Path(data.root) / "train2017"
    (images / "000000000001.jpg").unlink()
    half = (images / "000000000002.jpg").read_bytes()
    (images / "000000000002.jpg").write_bytes(half[: len(half) // 2])
    (images / "000000000003.jpg").write_bytes(b"")
    Image.new("RGB", (40, 30)).save(images / "000000000004.jpg")
    found = findings("detection", data, tmp_path)
    assert f"train: missing image files (1): {images / '000000000001.jpg'}." in found
    assert f"unreadable images (2): {images / '000000000002.jpg'}: expected an image, found " in found
    assert "(image file is truncated" in found
    assert f"{images / '000000000003.jpg'}: expected an image, found 0 bytes that cannot be used (no file of" in found
    assert f"{images / '000000000004.jpg'} is 40x30, stated 40x40" in found


def test_every_kind_gives_its_number_and_ten_examples(data: DataSource, tmp_path: Path) -> None:
    with edited(annotations(data)) as content:
        number = len(content["annotations"])
        for entry in content["annotations"]:
            entry["bbox"] = [100, 100, 5, 5]
            entry["category_id"] = 0
    assert number > 11
    for line in findings("detection", data, tmp_path).splitlines():
        assert f"({number})" in line
        assert line.count("annotation ") == 10
        assert line.endswith(f"; and {number - 10} more.")


def test_images_that_opencv_does_not_read_are_refused_and_remarks_made(data: DataSource, tmp_path: Path) -> None:
    from lska.data.dense import check

    folder = Path(data.root) / "train2017"
    picture = Image.open(folder / "000000000001.jpg")
    turned = Image.Exif()
    turned[0x0112] = 3
    picture.save(folder / "000000000001.jpg", exif=turned)
    picture.convert("RGBA").rotate(30).save(folder / "000000000002.jpg", format="PNG")
    notes = "\n".join(check("detection", data, tmp_path).notes)
    assert "images with an orientation in EXIF data, left out (1): 000000000001.jpg" in notes
    assert "images with transparency, left out (1): 000000000002.jpg" in notes
    for kind in ("TGA", "PCX", "ICO", "SGI", "DIB", "JPEG2000"):
        picture.save(folder / "000000000003.jpg", format=kind)
        assert f"{folder}/000000000003.jpg: expected an image, found" in findings("detection", data, tmp_path)


def test_rounding_over_the_border_passes_and_a_pixel_does_not(data: DataSource, tmp_path: Path) -> None:
    for over, wrong in ((0.99, 0), (1.0, 1)):
        with edited(annotations(data)) as content:
            first(content, bbox=[30, -over, 10 + over, 5], segmentation=[[30, -over, 40, 1, 40 + over, 9]])
        found = findings("detection", data, tmp_path)
        assert ("boxes outside their image (1)" in found) == bool(wrong)
        assert ("masks that do not fit" in found) == bool(wrong)


def test_known_boxes_without_area_are_allowed_up_to_their_number(data: DataSource, tmp_path: Path) -> None:
    manifest = Path(data.manifest or "")
    values = yaml.safe_load(manifest.read_text())
    values["splits"]["train"]["without_area"] = 2
    own = tmp_path / "own.yaml"
    own.write_text(yaml.safe_dump(values))
    data = DataSource(data.name, data.root, str(own))
    for number in (2, 3):
        with edited(annotations(data)) as content:
            for entry in content["annotations"][:number]:
                entry["bbox"][3] = 0.0
        assert ("boxes without area (3)" in findings("detection", data, tmp_path)) == (number == 3)


def test_all_forms_of_masks_pass(data: DataSource, tmp_path: Path) -> None:
    with edited(annotations(data)) as content:
        content["info"] = None
        polygon, runs, compressed = content["annotations"][:3]
        polygon["segmentation"] = [[1.5, 1, 9, 1, 9, 30.25], [20, 20, 25, 20, 25, 25, 20, 25]]
        runs["segmentation"] = {"size": [40, 40], "counts": run_lengths(runs["segmentation"]["counts"])}
        runs["iscrowd"] = 1
        assert isinstance(compressed["segmentation"]["counts"], str)
    assert findings("detection", data, tmp_path) == ""


def test_masks_are_optional_where_the_manifest_promises_none(data: DataSource, tmp_path: Path) -> None:
    own = tmp_path / "own.yaml"
    own.write_text(Path(data.manifest or "").read_text().replace("masks: true", "masks: false"))
    data = DataSource(data.name, data.root, str(own))
    with edited(annotations(data)) as content:
        for entry in content["annotations"]:
            del entry["segmentation"]
    assert findings("detection", data, tmp_path) == ""
    with edited(annotations(data)) as content:
        first(content, segmentation={"size": [1, 1], "counts": [1]})
    assert "masks that do not fit their image (1)" in findings("detection", data, tmp_path)


def test_damaged_json_is_named(data: DataSource, tmp_path: Path) -> None:
    path = annotations(data)
    path.write_text(path.read_text()[:-5])
    assert f"{path}: line 1, column " in findings("detection", data, tmp_path)
    for content, message in (
        (b"[]", "expected a mapping, found a list"),
        (b"{}", "is no COCO annotation file: expected lists images, annotations, categories"),
        (b'{"images": [], "annotations": [], "categories": [], "images": [1]}', "'images' is given twice"),
        (codecs.BOM_UTF8 + b'{"images": [], "annotations": [], "categories": []}', "begins with a byte order mark"),
        ('{"images": []}'.encode("utf-16"), "is in UTF-16, expected UTF-8"),
        (b'{"images": [1' + 400 * b"0" + b"]}", "a whole number of 401 digits"),
    ):
        path.write_bytes(content)
        found = findings("detection", data, tmp_path)
        assert str(path) in found and message in found
    path.unlink()
    assert f"{path} is missing" in findings("detection", data, tmp_path)


def test_run_lengths_read_what_pycocotools_writes() -> None:
    rng = np.random.default_rng(0)
    for height, width, share in ((7, 5, 0.5), (200, 300, 0.001), (64, 48, 0.97), (3, 3, 0.0), (3, 3, 1.1)):
        pixels = rng.random((height, width)) < share
        encoded = mask.encode(np.asfortranarray(pixels, dtype=np.uint8))
        runs = run_lengths(encoded["counts"].decode())
        flat = np.repeat(np.arange(len(runs)) % 2, runs)
        assert np.array_equal(flat.reshape(width, height).T, pixels)


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        ({"size": [10, 12], "counts": [100, 19]}, "of 119 pixels, expected 120"),
        ({"size": [10, 12], "counts": [121, -1]}, "of 120 pixels"),
        ({"size": [10, 12], "counts": [100, "20"]}, "cannot be read"),
        ({"size": [12, 10], "counts": [120]}, "[height, width] [12, 10]"),
        ({"size": [10, 12], "counts": "5P"}, "it ends within a number"),
        ({"size": [10, 12], "counts": "\u00e9"}, "character"),
        ({"size": [10, 12], "counts": ""}, "of 0 pixels"),
        ({"size": [10, 12]}, "found NoneType"),
        ([[1, 1, 2, 2]], "polygon of 2 points, expected at least 3"),
        ([[1, 1, 2, 2, 3]], "no flat list of numbers"),
        ([[[1, 1], [9, 1], [9, 9]]], "no flat list of numbers x, y, x, y, ...: [[1, 1], [9, 1], [9, 9]]"),
        ([1, 1, 9, 1, 9, 9], "no flat list of numbers"),
        ([[1, 1, 9, 1, 9, True]], "no flat list of numbers"),
        ([[]], "polygon of 0 points"),
        ([[1, 1, 2, 2, 3, float("inf")]], "of finite numbers"),
        ([["1", "1", "2", "2", "3", "3"]], "no flat list of numbers"),
        ({"size": [10.0, 12], "counts": [100, 20]}, "[height, width] [10.0, 12]"),
        ({"size": [10, 12], "counts": [100, 20.0]}, "cannot be read"),
        ({"size": [10, 12], "counts": [120]}, "without a pixel"),
        ([[1, 1, 2, 2, 3, 3], [1, 1, 2, 2, 30, 3]], "polygon from (1, 1) to (30, 3)"),
        ("mask", "expected polygons or a run-length encoding, found 'mask'"),
        (None, "found None"),
    ],
)
def test_broken_masks_are_named(broken: Any, message: str) -> None:
    assert message in read_mask(broken, width=12, height=10, overhang=1.0).problem
