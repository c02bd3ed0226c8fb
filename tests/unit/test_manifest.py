"""Manifests of every kind: read strictly, names in them stay inside the data set's folder, digests stand for data."""

from __future__ import annotations

import ast
import dataclasses
import importlib.util
import json
import os
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from syrupy.assertion import SnapshotAssertion

from lska.data.entries import inside_problem, is_hidden, name_problem, read_names
from lska.data.manifest import KINDS, SplitManifest, available, load_manifest, save_manifest
from lska.provenance.metric_files import project_root

ABOUT = {"name": "own", "title": "Own", "source": "made here", "terms": "none", "classes": ["cat", "dog"]}
LISTED = {"archives": [{"file": "own.zip", "rename": {"test": "val"}}]}
COUNTED = {"count": 4, "per_class": [2, 2]}
MANIFESTS: dict[str, dict[str, Any]] = {
    "classification": ABOUT | {"splits": {"train": COUNTED | {"counts": {"cat": 2, "dog": 2}}}} | LISTED,
    "perturbed": ABOUT | {"kind": "perturbed", "splits": {"test": COUNTED}} | LISTED,
    "corrupted": ABOUT | {"kind": "corrupted", "family": "c", **COUNTED} | LISTED,
    "textures": ABOUT | {"kind": "textures", "parts": {"train": 1, "val": 1, "test": 1}, "splits": 2} | LISTED,
    "detection": ABOUT | {
        "kind": "detection", "category_ids": [1, 2], "format": "voc", "archive": "own.tar", "folder": "outer/inner",
        "splits": {"train": {"images": "photos", "annotations": "xml", "names": "lists/train.txt", "count": 2}},
    } | LISTED,
    "segmentation": ABOUT | {
        "kind": "segmentation", "ignore": [255], "archive": "own.tar", "folder": "outer/inner", "image_suffix": ".png",
        "splits": {"train": {"images": "photos", "labels": "maps", "count": 2}},
    } | LISTED,
}  # fmt: skip

NAMES = (
    *("own", "cat", "train", "test", "val", "own.zip", "own.tar", "outer/inner", "photos", "maps", "xml"),
    *("lists/train.txt", ".png"),
)
OUTSIDE = ("../x", "/etc/x", "C:/x", "..\\x", "a\x1b[2J", "")
"""What no name in a manifest may be; a class of detection or segmentation, which is no file, only the last two."""


def said(kind: str, content: dict[str, Any], tmp_path: Path) -> str:
    """What is said about a manifest; empty where it is taken."""
    path = tmp_path / "own.yaml"
    path.write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
    try:
        load_manifest(path, kind)
    except ValueError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("kind", KINDS)
def test_no_name_in_a_manifest_leads_out_of_its_folder(kind: str, tmp_path: Path) -> None:
    """Wherever it stands: as the name of the set, of a class, a split, an archive, a folder in it or a list."""
    path, text = tmp_path / "own.yaml", yaml.safe_dump(MANIFESTS[kind], sort_keys=False)
    names = {name for name in NAMES if re.search(rf"(?<![\w./]){re.escape(name)}(?![\w./])", text)}
    assert {"own", "cat", "own.zip"} < names
    for name in names:
        shown_only = name == "cat" and kind in ("detection", "segmentation")
        for other in OUTSIDE[-2:] if shown_only else OUTSIDE:
            changed = re.sub(rf"(?<![\w./]){re.escape(name)}(?![\w./])", lambda _, to=other: json.dumps(to), text)
            path.write_text(changed, encoding="utf-8")
            with pytest.raises(ValueError) as caught:
                load_manifest(path, kind)
            message = str(caught.value)
            assert message.startswith(f"{path}: ") and "expected" in message and "found" in message, (name, other)
            assert message.replace("\n", "").isprintable(), (name, other)


COCO = {"images": "images", "annotations": "a.json", "count": 2}
WRONG: list[tuple[str, dict[str, Any]]] = [
    ("classification", {"classes": ["dog", "cat"]}),
    ("classification", {"classes": ["cat", "d" * 201]}),
    ("classification", {"classes": ["cat", "cat"], "splits": {}}),
    ("classification", {"classes": "no_such_package:list.txt"}),
    ("classification", {"classes": "timm:../../../etc/passwd"}),
    ("classification", {"splits": {"val": {"count": 5, "per_class": [2, 2]}}}),
    ("classification", {"splits": {"val": {"count": 4, "per_class": [3, 2]}}}),
    ("classification", {"splits": {"val": COUNTED | {"names": "abc"}}}),
    ("classification", {"splits": {"val": COUNTED | {"counts": {"cat": 1, "dog": 2}}}}),
    ("classification", {"splits": {"val": COUNTED | {"counts": {"cat": 1, "cow": 3}}}}),
    ("classification", {"name": 3, "titel": "T", "classes": [1], "splits": {"a": {"count": "many", "per_class": [1]}}}),
    ("classification", {"kind": [1]}),
    ("classification", {"splits": {"val": COUNTED | {"files": ["cat/1.jpg", "cat/1.jpg"]}}}),
    ("classification", {"splits": {"train": COUNTED | {"folder": "."}, "val": COUNTED | {"folder": "."}}}),
    ("classification", {"splits": {
        name: COUNTED | {"folder": ".", "files": ["cat/1.jpg", "cat/2.jpg", "dog/1.jpg", f"dog/{name}.jpg"]}
        for name in ("train", "val")
    }}),
    ("classification", {"splits": {"val": COUNTED | {"folder": "../x", "files": ["/etc/passwd"]}}}),
    ("perturbed", {"splits": {"test": COUNTED, "val": COUNTED}}),
    ("corrupted", {"severities": [1, 2, 1]}),
    ("corrupted", {"severities": [0, 1]}),
    ("corrupted", {"count": 5}),
    ("textures", {"parts": {"train": 1, "val": 0, "test": 1}}),
    ("textures", {"splits": 1001}),
    ("detection", {"category_ids": [3, 3, 4]}),
    ("detection", {"format": "coco"}),
    ("detection", {"format": "yolo", "overhang": 0, "archive": "own.rar"}),
    ("detection", {"splits": {"train": COCO | {"count": 0, "without_area": -1, "contents": "md5:1"}}}),
    ("segmentation", {"ignore": [1, 9, 9]}),
    ("segmentation", {"ignore": [2], "zero_is_unlabelled": True}),
    ("segmentation", {"image_suffix": ".gif", "splits": {}}),
    ("perturbed", {"archives": [{"file": "a.rar"}, {"file": "a.zip", "md5": "A", "bytes": -1, "size": 3}, {}]}),
    ("perturbed", {"archives": [{"file": "a.zip", "rename": {"a": "b", "c": "b"}, "url": "https://a.org/\x1b[2J"}]}),
    ("perturbed", {"archives": [{"file": "a.zip"}] * 2}),
]


def test_contradictions_and_wrong_types_are_refused(tmp_path: Path, snapshot: SnapshotAssertion) -> None:
    told = []
    for kind, changes in WRONG:
        content = MANIFESTS[kind] | changes
        content["archives"] = content.pop("archives")
        found = said(kind, content, tmp_path)
        assert found.startswith(f"{tmp_path}/own.yaml: "), (kind, changes, found)
        told.append(found.replace(str(tmp_path), "TMP"))
    content = {"archives": MANIFESTS["detection"]["archives"], **MANIFESTS["detection"]}
    told.append(said("detection", content, tmp_path).replace(str(tmp_path), "TMP"))
    assert "\n".join(told) == snapshot


def test_a_manifest_by_any_ending_and_what_cannot_be_read_is_told(tmp_path: Path) -> None:
    for name in ("m.yml", "m.YAML"):
        (tmp_path / name).write_text(yaml.safe_dump(MANIFESTS["classification"], sort_keys=False))
        assert load_manifest(tmp_path / name).splits["train"].count == 4
    (tmp_path / "link.yaml").symlink_to("gone")
    os.mkfifo(tmp_path / "pipe.yaml")
    for name, what in (("link", "is a link to gone, which is not there"), ("pipe", "found a named pipe")):
        with pytest.raises(ValueError, match=f"{name}.yaml: .*{what}"):
            load_manifest(tmp_path / f"{name}.yaml")


def test_saved_manifests_come_back_equal(tmp_path: Path) -> None:
    (tmp_path / "own.yaml").write_text(yaml.safe_dump(MANIFESTS["classification"], sort_keys=False))
    made = load_manifest(tmp_path / "own.yaml")
    uneven = SplitManifest(count=3, per_class=(1, 2), counts={"cat": 1, "dog": 2})
    for original in (made, dataclasses.replace(made, splits={"train": uneven}, archives=())):
        save_manifest(original, tmp_path / "a b.yaml")
        assert load_manifest(tmp_path / "a b.yaml") == original


def test_digests_go_by_the_data_and_not_by_wording_or_place(tmp_path: Path) -> None:
    def digest(kind: str, **changes: Any) -> str:
        content = MANIFESTS[kind] | changes
        (tmp_path / "own.yaml").write_text(yaml.safe_dump({k: v for k, v in content.items() if k != "archives"}))
        return load_manifest(tmp_path / "own.yaml", kind).digest

    other: dict[str, list[dict[str, Any]]] = {
        "classification": [{"splits": {"train": COUNTED}}, {"splits": {"val": COUNTED}}],
        "perturbed": [{"splits": {"test": COUNTED | {"names": f"sha256:{'0' * 64}"}}}],
        "corrupted": [{"count": 6, "per_class": [3, 3]}, {"family": "c_bar"}, {"severities": [1, 2]}],
        "textures": [{"splits": 3}, {"parts": {"train": 2, "val": 1, "test": 1}}],
        "detection": [{"overhang": 2.0}, {"short_polygons": True}, {"masks": True}, {"category_ids": [1, 3]}],
        "segmentation": [{"ignore": []}, {"zero_is_unlabelled": True}],
    }  # fmt: skip
    for kind, changes in other.items():
        first = digest(kind)
        assert digest(kind, title="Other", source="elsewhere", terms="some") == first
        if kind in ("detection", "segmentation"):
            assert digest(kind, folder="elsewhere", archive="a.tar") == first
        if kind != "classification":  # whose counts name the classes
            changes.append({"classes": ["cat", "eel"]})
        digests = [digest(kind, **change) for change in ({}, {"name": "b"}, *changes)]
        assert len(set(digests)) == len(digests)
    assert digest("detection", overhang=1.0, short_polygons=False) == digest("detection")


def test_digests_of_published_results_are_those_of_the_manifests_of_today() -> None:
    for name in ("cifar10", "bccd", "camvid"):
        record = json.loads((project_root() / f"results/small/data/{name}.json").read_text())
        assert load_manifest(name, None).digest == record["digest"]


# --- Bundled ---------------------------------------------------------------------------------------------------------


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
    with pytest.raises(ValueError, match="no manifest 'coco': expected one of bccd, coco2017"):
        load_manifest("coco", "detection")


def test_coco() -> None:
    manifest = load_manifest("coco2017", "detection")
    counts = {name: (split.count, split.objects, split.without_area) for name, split in manifest.splits.items()}
    assert counts == {"train": (118_287, 860_001, 2), "val": (5_000, 36_781, 0)}
    assert (manifest.masks, manifest.overhang, manifest.short_polygons, manifest.tolerant) == (True, 3.0, True, True)
    assert list(manifest.classes) == listed_in("mmdet", "datasets/coco.py", "classes")
    categories = listed_in("torchvision", "models/_meta.py", "_COCO_CATEGORIES")
    assert [categories[number] for number in manifest.category_ids] == list(manifest.classes)


def test_segmentation() -> None:
    ade = load_manifest("ade20k", "segmentation")
    assert {name: split.count for name, split in ade.splits.items()} == {"train": 20_210, "val": 2_000}
    assert ade.zero_is_unlabelled and ade.allowed == frozenset(range(151))
    assert list(ade.classes) == listed_in("mmseg", "datasets/ade.py", "classes")
    camvid = load_manifest("camvid", "segmentation")
    assert (len(camvid.classes), camvid.ignore, camvid.zero_is_unlabelled) == (11, (11,), False)


def test_imagenet() -> None:
    imagenet = load_manifest("imagenet1k")
    assert (imagenet.splits["train"].count, imagenet.splits["val"].count) == (1_281_167, 50_000)
    assert len(imagenet.classes) == 1000
    assert (imagenet.classes[0], imagenet.classes[-1]) == ("n01440764", "n15075141")
    assert imagenet.splits["train"].expected("n01440764") == (732, 1300)


# --- Names -----------------------------------------------------------------------------------------------------------


def test_names_in_a_list_are_read_whatever_wrote_it(tmp_path: Path) -> None:
    path = tmp_path / "train.txt"
    for content in (b"a 1\nb\n", b"\xef\xbb\xbfa 1\r\nb\r\n\r\n", b"  a 1\n\nb", b"a 1\rb\r"):
        path.write_bytes(content)
        assert read_names(path, inside_problem) == ["a 1", "b"]


def test_hidden_means_what_no_person_put_there() -> None:
    hidden = [
        ".DS_Store", "a/.hidden/b.jpg", "__MACOSX/a/b.jpg", "a/Thumbs.db", "a/thumbs.db", "Desktop.ini", "a/Icon\r",
        ".a.json.0idvpfee.tmp.json", "System Volume Information/x", "$RECYCLE.BIN/x",
    ]  # fmt: skip
    plain = ["a.jpg", "a/b.c/d.jpg", "Icon.png", "Thumbs.db.jpg", "x__MACOSX/a", "desktop.ini.txt", "a..b"]
    assert [name for name in hidden if not is_hidden(name)] == [] and [n for n in plain if is_hidden(n)] == []
    assert name_problem("a") is None
    assert "is hidden" in str(name_problem(".a")) and "has slashes" in str(name_problem("a/b"))
