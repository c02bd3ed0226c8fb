"""The complete check of detection and segmentation data: each kind of fault is named, sound data of each form pass."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from dense_sets import annotations, copied, edited, findings, write_ade, write_coco
from PIL import Image
from syrupy.assertion import SnapshotAssertion

from lska.data import dense_sets
from lska.settings.scale import DataSource

# Inside pycocotools, under numpy 2.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

Edit = Callable[[dict[str, Any]], Any]


def first(**changes: Any) -> Edit:
    return lambda content: content["annotations"][0].update(changes)


def image(**changes: Any) -> Edit:
    return lambda content: content["images"][0].update(changes)


def outline(*polygons: Any) -> Edit:
    return first(segmentation=list(polygons))


def runs(size: list[Any], counts: Any = None) -> Edit:
    return first(segmentation={"size": size} | ({} if counts is None else {"counts": counts}))


SQUARE = [1, 1, 9, 1, 9, 9]
BROKEN: dict[str, Edit] = {
    "over the right border": first(bbox=[30, 5, 11, 4]),
    "beside the image": first(bbox=[40, 5, 0.5, 4]),
    "negative height": first(bbox=[3, 5, 11, -4]),
    "no height": first(bbox=[3, 5, 11, 0]),
    "NaN": first(bbox=[3, 5, 11, float("nan")]),
    "unknown category": first(category_id=9),
    "unknown image": first(image_id=999),
    "id twice": first(id=2),
    "no area": lambda c: c["annotations"][0].pop("area"),
    "area 0": first(area=0),
    "ignore": first(ignore=1),
    "no mask": outline(),
    "mask of another size": runs([40, 41], [1640]),
    "too few runs": runs([40, 40], [100, 1]),
    "too many runs": runs([40, 40], [100, 1501]),
    "no pixel": runs([40, 40], [1600]),
    "text of runs that ends within a number": runs([40, 40], "5P"),
    "outline over the border": outline([1, 1, 9, 1, 9, 50]),
    "two points": outline([1, 1, 9, 9]),
    "odd coordinates": outline([1, 1, 2, 2, 3]),
    "pairs": outline([[1, 1], [9, 1], [9, 9]]),
    "width": image(width=41),
    "image file twice": image(file_name="000000000002.jpg"),
    "missing image": image(file_name="7.jpg"),
    "image of another suffix": image(file_name="000000000001.tif"),
    "renamed category": lambda c: c["categories"][0].update(name="cube"),
    "of other types": lambda c: (
        first(bbox=[3, 5, 11], id="one", iscrowd=2)(c), image(height="40")(c), c["annotations"].append("box"),
        c["categories"].append({"id": [None]}), c["annotations"][1].update(segmentation=[1, 2, 3]),
        c["annotations"][2].update(segmentation={"size": [40, "40"], "counts": [-1, 2.5]}),
    ),
    "no section images": lambda c: c.pop("images"),
}
RAW = {
    "cut off": b'{"images": [',
}


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> DataSource:
    return write_coco(tmp_path_factory.mktemp("sets"))


@pytest.fixture
def data(sound: DataSource, tmp_path: Path) -> DataSource:
    return copied(sound, tmp_path)


def with_manifest(data: DataSource, path: Path, **settings: Any) -> DataSource:
    """The same data with a manifest of other settings."""
    values = yaml.safe_load(Path(data.manifest or "").read_text())
    path.write_text(yaml.safe_dump(values | settings))
    return DataSource(data.name, data.root, str(path))


def test_broken_annotations_are_named(data: DataSource, tmp_path: Path, snapshot: SnapshotAssertion) -> None:
    """Each in one line, by annotation and file; nothing breaks the check."""
    path, said = annotations(data), []
    whole = path.read_bytes()
    assert findings("detection", data, tmp_path) == ""
    for what, edit in BROKEN.items():
        with edited(path) as content:
            edit(content)
        said.append(f"{what}: {findings('detection', data, tmp_path)}")
        path.write_bytes(whole)
    for what, broken in RAW.items():
        path.write_bytes(broken)
        said.append(f"{what}: {findings('detection', data, tmp_path)}")
    path.unlink()
    said.append(f"no file: {findings('detection', data, tmp_path)}")
    text = "\n".join(said).replace(str(tmp_path), "TMP")
    assert text.isascii() and text == snapshot


def test_broken_files_are_named_and_what_decoding_leaves_out_is_told(
    data: DataSource, tmp_path: Path, snapshot: SnapshotAssertion
) -> None:
    folder, cache = Path(data.root) / "train2017", tmp_path / "cache"
    picture = Image.open(folder / "000000000001.jpg").convert("RGB")
    turned = Image.Exif()
    turned[0x0112] = 3
    picture.save(folder / "000000000001.jpg", exif=turned)
    picture.convert("RGBA").rotate(30).save(folder / "000000000002.jpg", format="PNG")
    notes = "\n".join(dense_sets.DenseSet("detection", data, cache).check()[0].notes)
    assert "images with an orientation in EXIF data, left out (1): train2017/000000000001.jpg" in notes
    assert "images with transparency, left out (1): train2017/000000000002.jpg" in notes
    (folder / "000000000001.jpg").unlink()
    half = (folder / "000000000003.jpg").read_bytes()
    (folder / "000000000002.jpg").write_bytes(half[: len(half) // 2])
    (folder / "000000000003.jpg").write_bytes(b"")
    Image.new("RGB", (40, 30)).save(folder / "000000000004.jpg")
    picture.save(folder / "000000000005.jpg", format="JPEG2000")
    found = findings("detection", data, cache).replace(str(tmp_path), "TMP")
    assert re.sub(r"found \d+ bytes", "found N bytes", found) == snapshot


def test_rounding_over_the_border_passes_and_known_boxes_without_area(data: DataSource, tmp_path: Path) -> None:
    with edited(annotations(data)) as content:
        first(bbox=[30, -0.99, 10.99, 5], segmentation=[[30, -0.99, 40, 1, 40.99, 9]])(content)
    assert findings("detection", data, tmp_path) == ""
    splits = yaml.safe_load(Path(data.manifest or "").read_text())["splits"]
    splits["train"]["without_area"] = 2
    data = with_manifest(data, tmp_path / "own.yaml", splits=splits)
    for number in (2, 3):
        with edited(annotations(data)) as content:
            for entry in content["annotations"][:number]:
                entry["bbox"][3] = 0.0
        assert ("boxes without area (3)" in findings("detection", data, tmp_path)) == (number == 3)


def test_all_forms_of_masks_pass_and_none_where_none_is_promised(data: DataSource, tmp_path: Path) -> None:
    with edited(annotations(data)) as content:
        content["info"] = None
        polygon, encoded, compressed = content["annotations"][:3]
        polygon["segmentation"] = [[1.5, 1, 9, 1, 9, 30.25], [20, 20, 25, 20, 25, 25, 20, 25]]
        encoded["segmentation"], encoded["iscrowd"] = {"size": [40, 40], "counts": [100, 30, 1470]}, 1
        assert isinstance(compressed["segmentation"]["counts"], str)
    assert findings("detection", data, tmp_path) == ""
    data = with_manifest(data, tmp_path / "own.yaml", masks=False)
    with edited(annotations(data)) as content:
        for entry in content["annotations"]:
            del entry["segmentation"]
    assert findings("detection", data, tmp_path) == ""
    with edited(annotations(data)) as content:
        runs([1, 1], [1])(content)
    assert "masks that do not fit their image (1)" in findings("detection", data, tmp_path)


# --- Tolerances ------------------------------------------------------------------------------------------------------

# In the scenes of 40 pixels: an outline 2.9 pixels over two borders, with two polygons that have no area.
OUTLINE = [[30, -2.9, 42.9, -2.9, 42.9, 9, 30, 9], [33, 2, 36, 4], [5, 5]]
BOX = [30, -2.9, 12.9, 11.9]


@pytest.mark.parametrize(("bbox", "polygons", "short"), [(BOX, OUTLINE, 2), ([30, 0, 10, 9], OUTLINE[:1], 0)])
def test_stated_cases_pass_and_are_counted_and_are_refused_where_they_are_not_stated(
    bbox: list[float], polygons: list[Any], short: int, data: DataSource, tmp_path: Path
) -> None:
    record = tmp_path / "record.json"
    dense_sets.prepare_dense("detection", data, record, tmp_path)
    assert "short_polygons" not in json.loads(record.read_text())["detail"]["train"]
    with edited(annotations(data)) as content:
        first(bbox=bbox, segmentation=polygons)(content)
    assert "polygon from (30, -2.9) to (42.9, 9) in 40x40" in findings("detection", data, tmp_path)
    tolerant = with_manifest(data, tmp_path / "own.yaml", overhang=3.0, short_polygons=True)
    report = dense_sets.DenseSet("detection", tolerant, tmp_path).check()[0]
    told = "tolerated, as the manifest says: 1 objects that leave their image by a pixel or more, where they are cut "
    assert report.ok
    assert f"train: {told}off; {short} polygons of one or two points, without area." in report.notes
    dense_sets.prepare_dense("detection", tolerant, record, tmp_path)
    detail = json.loads(record.read_text())["detail"]
    counts = {split: [facts["objects_over_the_border"], facts["short_polygons"]] for split, facts in detail.items()}
    assert counts == {"train": [1, short], "val": [0, 0]}


def test_what_would_be_read_wrongly_is_refused_all_the_same(
    data: DataSource, tmp_path: Path, snapshot: SnapshotAssertion
) -> None:
    data, said = with_manifest(data, tmp_path / "own.yaml", overhang=3.0, short_polygons=True), []
    whole = annotations(data).read_bytes()
    for edit in (
        first(bbox=[41, 5, 1.5, 4]), outline([30, 5, 43, 5, 43, 9]), outline([1, 1, 9, 9], SQUARE),
        outline(SQUARE, []), outline(SQUARE, [2, 2, 3]), runs([40, 41], [1640]), outline(),
    ):  # fmt: skip
        with edited(annotations(data)) as content:
            edit(content)
        said.append(findings("detection", data, tmp_path))
        annotations(data).write_bytes(whole)
    assert "\n".join(said) == snapshot


# --- Label maps ------------------------------------------------------------------------------------------------------


Damage = Callable[[Path, Path], None]


@pytest.fixture(scope="module")
def sound_maps(tmp_path_factory: pytest.TempPathFactory) -> DataSource:
    return write_ade(tmp_path_factory.mktemp("sets"))


@pytest.fixture
def maps(sound_maps: DataSource, tmp_path: Path) -> DataSource:
    return copied(sound_maps, tmp_path)


def save(path: Path, array: np.ndarray) -> None:
    Image.fromarray(array).save(path)


def altered(path: Path, value: int) -> None:
    labels = np.array(Image.open(path))
    labels[3, 4] = value
    save(path, labels)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


DAMAGE: dict[str, Damage] = {
    "no label map": lambda image, label: label.unlink(),
    "no image": lambda image, label: image.unlink(),
    "cut image": lambda image, label: cut(image),
    "cut label map": lambda image, label: cut(label),
    "a pipe as label map": lambda image, label: (label.unlink(), os.mkfifo(label)),
    "another suffix": lambda image, label: image.rename(image.with_suffix(".JPG")),
    "another size": lambda image, label: save(label, np.ones((40, 39), np.uint8)),
    "value 255": lambda image, label: altered(label, 255),
    "colours": lambda image, label: save(label, np.ones((40, 40, 3), np.uint8)),
    "no folder": lambda image, label: label.parent.rename(label.parent.with_name("train")),
}


def test_broken_pairs_are_named(sound_maps: DataSource, tmp_path: Path, snapshot: SnapshotAssertion) -> None:
    said = []
    assert findings("segmentation", sound_maps, tmp_path) == ""
    for what, damage in DAMAGE.items():
        data = copied(sound_maps, tmp_path / what)
        root = Path(data.root)
        damage(root / "images/training/train_00000002.jpg", root / "annotations/training/train_00000002.png")
        found = findings("segmentation", data, tmp_path)
        assert all(line.startswith("train: ") for line in found.splitlines())
        said.append(f"{what}: {found}")
    text = "\n".join(said).replace(str(tmp_path), "TMP")
    assert re.sub(r"found \d{3} bytes", "found N bytes", text) == snapshot


def test_unlabelled_pixels_and_palettes_pass(maps: DataSource, tmp_path: Path) -> None:
    folder = Path(maps.root) / "annotations" / "training"
    altered(folder / "train_00000001.png", 0)
    labels = Image.open(folder / "train_00000002.png").copy()
    labels.putpalette(list(range(256)) * 3)
    labels.save(folder / "train_00000002.png")
    assert labels.mode == "P"
    assert findings("segmentation", maps, tmp_path) == ""


def test_values_to_be_ignored_pass_where_the_manifest_lists_them(maps: DataSource, tmp_path: Path) -> None:
    altered(Path(maps.root) / "annotations" / "training" / "train_00000001.png", 255)
    own = tmp_path / "own.yaml"
    own.write_text(yaml.safe_dump(yaml.safe_load(Path(maps.manifest or "").read_text()) | {"ignore": [255]}))
    assert findings("segmentation", DataSource(maps.name, maps.root, str(own)), tmp_path) == ""
