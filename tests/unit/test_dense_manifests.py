"""Bundled and own manifests of detection and segmentation sets."""

from __future__ import annotations

import ast
import importlib.util
from pathlib import Path
from typing import Any

import pytest
import yaml

from lska.data.dense_manifest import DetectionManifest, SegmentationManifest, load_dense_manifest
from lska.data.manifest import available, load_manifest

OWN: dict[str, dict[str, Any]] = {
    "detection": {
        "kind": "detection",
        "category_ids": [3, 1],
        "splits": {"train": {"images": "images", "annotations": "a.json", "count": 2}},
    },
    "segmentation": {
        "kind": "segmentation",
        "ignore": [255],
        "splits": {"train": {"images": "images", "labels": "labels", "count": 2}},
    },
}
ABOUT = {"name": "own", "title": "Own", "source": "made here", "terms": "none", "classes": ["dog", "cat"]}


def listed_in(package: str, file: str, name: str) -> list[str]:
    """A list of names in the source of an installed package; importing it would take seconds or a compiled mmcv."""
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        pytest.skip(f"{package} is not installed")
    source = (Path(spec.submodule_search_locations[0]) / file).read_text()
    for node in ast.walk(ast.parse(source)):
        pairs: list[tuple[Any, ast.expr]] = []
        if isinstance(node, ast.keyword):
            pairs = [(node.arg, node.value)]
        elif isinstance(node, ast.Assign):
            pairs = [(getattr(node.targets[0], "id", None), node.value)]
        elif isinstance(node, ast.Dict):
            pairs = [(getattr(key, "value", None), value) for key, value in zip(node.keys, node.values, strict=True)]
        for key, value in pairs:
            if key == name:
                return [entry.strip() for entry in ast.literal_eval(value)]
    raise AssertionError(f"{file} has no {name}")


def test_kinds_are_told_apart() -> None:
    assert available() == ("cifar10", "imagenet1k")
    assert available("detection") == ("bccd", "coco2017")
    assert available("segmentation") == ("ade20k", "camvid", "camvid_png")
    with pytest.raises(ValueError, match=r"coco2017.yaml is a manifest of detection, expected one of classification"):
        load_manifest("coco2017")
    with pytest.raises(ValueError, match=r"cifar10.yaml is a manifest of classification, .* bccd, coco2017"):
        load_dense_manifest("detection", "cifar10")
    with pytest.raises(ValueError, match="no manifest 'coco': expected one of bccd, coco2017"):
        load_dense_manifest("detection", "coco")
    with pytest.raises(ValueError, match="unknown kind of data 'panoptic'"):
        load_dense_manifest("panoptic", "coco2017")


def test_coco() -> None:
    manifest = load_dense_manifest("detection", "coco2017")
    assert isinstance(manifest, DetectionManifest)
    counts = {name: (split.count, split.objects, split.without_area) for name, split in manifest.splits.items()}
    assert counts == {"train": (118_287, 860_001, 2), "val": (5_000, 36_781, 0)}
    assert manifest.splits["val"].annotations == "annotations/instances_val2017.json"
    assert manifest.masks
    assert (manifest.overhang, manifest.short_polygons, manifest.tolerant) == (3.0, True, True)
    assert set(range(1, 91)) - set(manifest.category_ids) == {12, 26, 29, 30, 45, 66, 68, 69, 71, 83}
    assert list(manifest.classes) == listed_in("mmdet", "datasets/coco.py", "classes")


def test_coco_ids_go_with_their_names() -> None:
    categories = listed_in("torchvision", "models/_meta.py", "_COCO_CATEGORIES")
    manifest = load_dense_manifest("detection", "coco2017")
    assert isinstance(manifest, DetectionManifest)
    assert [categories[number] for number in manifest.category_ids] == list(manifest.classes)


def test_ade20k() -> None:
    manifest = load_dense_manifest("segmentation", "ade20k")
    assert isinstance(manifest, SegmentationManifest)
    assert {name: split.count for name, split in manifest.splits.items()} == {"train": 20_210, "val": 2_000}
    assert manifest.zero_is_unlabelled
    assert manifest.allowed == frozenset(range(151))
    assert list(manifest.classes) == listed_in("mmseg", "datasets/ade.py", "classes")


def test_camvid_scores_eleven_classes() -> None:
    manifest = load_dense_manifest("segmentation", "camvid")
    assert isinstance(manifest, SegmentationManifest)
    assert (len(manifest.classes), manifest.ignore, manifest.zero_is_unlabelled) == (11, (11,), False)
    assert manifest.allowed == frozenset(range(12))


def test_digest_goes_by_the_data_and_not_by_wording_or_place(tmp_path: Path) -> None:
    path = tmp_path / "own.yaml"

    def digest(kind: str, **changes: Any) -> str:
        path.write_text(yaml.safe_dump(OWN[kind] | ABOUT | changes))
        return load_dense_manifest(kind, path).digest

    for kind in OWN:
        first = digest(kind)
        assert digest(kind, title="Other", folder="elsewhere", archive="a.tar") == first
        assert digest(kind, classes=["cat", "dog"]) != first
        assert digest(kind, splits={"train": OWN[kind]["splits"]["train"] | {"count": 3}}) != first


def test_published_results_are_of_the_manifest_of_today() -> None:
    manifest = load_dense_manifest("detection", "bccd")
    # As in the published metric files of the small scale; tolerances came later and BCCD has none.
    assert manifest.digest == "sha256:d6c917267a3ec4e586bef42a2cee6c6f88e4349903dd039a24cf882e0ec19352"
    assert isinstance(manifest, DetectionManifest)
    assert (manifest.overhang, manifest.short_polygons, manifest.tolerant) == (1.0, False, False)


def test_stated_tolerances_change_the_digest(tmp_path: Path) -> None:
    digests = set()
    for changes in ({}, {"overhang": 1.0, "short_polygons": False}, {"overhang": 2.0}, {"short_polygons": True}):
        path = tmp_path / "own.yaml"
        path.write_text(yaml.safe_dump(OWN["detection"] | ABOUT | changes))
        digests.add(load_dense_manifest("detection", path).digest)
    assert len(digests) == 3


@pytest.mark.parametrize(
    ("kind", "changes", "message"),
    [
        ("detection", {"category_ids": [1]}, "category_ids: expected 2 different numbers"),
        ("detection", {"category_ids": [1, 1]}, "category_ids: 1 is listed twice"),
        ("detection", {"format": "voc"}, "names: expected the file of names with format voc"),
        ("detection", {"format": "yolo"}, "format: expected one of 'coco', 'voc'"),
        ("detection", {"classes": ["dog", "dog"]}, "classes: 'dog' is listed twice"),
        ("detection", {"overhang": 0}, "overhang: expected a positive number of pixels, found 0.0"),
        ("segmentation", {"ignore": [1]}, "ignore: expected values up to 255 that are no class"),
        ("segmentation", {"ignore": [2], "zero_is_unlabelled": True}, "ignore: expected values"),
        ("segmentation", {"splits": {}}, "splits: expected at least one"),
        ("segmentation", {"image_sufix": ".jpg"}, "unknown key 'image_sufix' .did you mean 'image_suffix'"),
    ],
)
def test_wrong_manifests_are_refused(kind: str, changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    path = tmp_path / "own.yaml"
    path.write_text(yaml.safe_dump(OWN[kind] | ABOUT | changes))
    with pytest.raises(ValueError, match=message):
        load_dense_manifest(kind, path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"count": 0}, "count: expected at least 1, found 0"),
        ({"without_area": -1}, "without_area: expected at least 0"),
        ({"contents": "md5:1"}, "contents: expected sha256:"),
    ],
)
def test_wrong_splits_are_refused(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    path = tmp_path / "own.yaml"
    splits = {"train": OWN["detection"]["splits"]["train"] | changes}
    path.write_text(yaml.safe_dump(OWN["detection"] | ABOUT | {"splits": splits}))
    with pytest.raises(ValueError, match=message):
        load_dense_manifest("detection", path)
