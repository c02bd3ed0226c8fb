"""Manifests of every kind: read strictly, names in them stay inside the data set's folder, digests stand for data."""

from __future__ import annotations

import ast
import copy
import dataclasses
import importlib.util
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from lska.data.entries import inside_problem, is_hidden, name_problem, read_names
from lska.data.manifest import KINDS, SplitManifest, available, load_manifest, save_manifest
from lska.provenance.files import FileError

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
        "splits": {"train": {"images": "images", "annotations": "xml", "names": "lists/train.txt", "count": 2}},
    } | LISTED,
    "segmentation": ABOUT | {
        "kind": "segmentation", "ignore": [255], "archive": "own.tar", "folder": "outer/inner", "image_suffix": ".png",
        "splits": {"train": {"images": "images", "labels": "labels", "count": 2}},
    } | LISTED,
}  # fmt: skip

WORDS = ("title", "source", "terms", "kind", "family", "format")
"""Texts that name no file."""

OUTSIDE = ("../x", "a/../../x", "..", "/etc/x", "C:/x", "..\\x", "a\nb", "a\x1b[2J", "", " ")
"""What no name in a manifest may be; a class of detection or segmentation, which is no file, only the last four."""


def places(value: Any, place: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where a manifest has names: the way to each text, and to the keys that are names (which end in `KEY`)."""
    if isinstance(value, dict):
        named = place[-1:] in (("splits",), ("rename",), ("counts",))
        for key, inner in value.items():
            if named:
                yield (*place, key, "KEY")
            yield from () if place == () and key in WORDS else places(inner, (*place, key))
    elif isinstance(value, list):
        for number, inner in enumerate(value):
            yield from places(inner, (*place, number))
    elif isinstance(value, str):
        yield place


def changed(manifest: dict[str, Any], place: tuple[Any, ...], name: str) -> dict[str, Any]:
    """The manifest with `name` in a place."""
    result = copy.deepcopy(manifest)
    key, renamed = (place[-2], True) if place[-1] == "KEY" else (place[-1], False)
    inner = result
    for step in place[: -2 if renamed else -1]:
        inner = inner[step]
    if renamed:
        inner[name] = inner.pop(key)
    else:
        inner[key] = name
    return result


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
    manifest = MANIFESTS[kind]
    assert said(kind, manifest, tmp_path) == ""
    found = list(places(manifest))
    assert ("archives", 0, "file") in found and ("name",) in found and ("classes", 0) in found
    for place in found:
        shown_only = place[0] == "classes" and kind in ("detection", "segmentation")
        for name in OUTSIDE[-4:] if shown_only else OUTSIDE:
            message = said(kind, changed(manifest, place, name), tmp_path)
            assert message.startswith(f"{tmp_path}/own.yaml: "), (place, name, message)
            assert f"{place[0]}" in message and "expected" in message and "found" in message, (place, name, message)
            assert message.replace("\n", "").isprintable(), (place, name)


def test_names_that_many_data_sets_have_are_taken(tmp_path: Path) -> None:
    classes = ["traffic light / green", "sign: 30"]
    manifest = MANIFESTS["segmentation"] | {"classes": classes, "image_suffix": "_img.png"}
    manifest["splits"] = {"train": {"images": ".", "labels": "./labels/2017 (b)/", "count": 1}}
    assert said("segmentation", manifest, tmp_path) == ""


COCO = {"format": "coco", "splits": {"train": {"images": "images", "annotations": "a.json", "count": 2}}}
WRONG: list[tuple[str, dict[str, Any], str]] = [
    ("classification", {"classes": ["dog", "cat"]}, "classes: expected distinct names in sorted order"),
    ("classification", {"classes": ["cat", "d" * 201]}, "which has more than 200 bytes"),
    ("classification", {"classes": ["cat", "cat"]}, "classes: 'cat' is listed twice"),
    ("classification", {"classes": []}, "classes: expected at least one"),
    ("classification", {"classes": "no_such_package:list.txt"}, "install 'no_such_package'"),
    ("classification", {"classes": "timm:no_such_file.txt"}, "found 'timm:no_such_file.txt'"),
    ("classification", {"splits": {}}, "splits: expected at least one"),
    ("classification", {"splits": {"val": {"count": 5, "per_class": [2, 2]}}}, "val.count: expected 4 to 4"),
    ("classification", {"splits": {"val": {"count": 4, "per_class": [3, 2]}}}, "per_class: expected [fewest, most]"),
    ("classification", {"splits": {"val": COUNTED | {"names": "abc"}}}, "names: expected sha256:"),
    ("classification", {"splits": {"val": COUNTED | {"counts": {"cat": 1, "dog": 2}}}}, "sum of counts, 3"),
    ("classification", {"splits": {"val": COUNTED | {"counts": {"cat": 1, "cow": 3}}}}, "exactly the classes"),
    ("perturbed", {"splits": {"test": COUNTED, "val": COUNTED}}, "splits: expected exactly 'test', found test, val"),
    ("corrupted", {"severities": [1, 2, 1]}, "severities: 1 is listed twice"),
    ("corrupted", {"severities": [0, 1]}, "severities: expected some of [1, 2, 3, 4, 5], found [0, 1]"),
    ("corrupted", {"count": 5}, "count: expected 4 to 4 by per_class, found 5"),
    ("textures", {"parts": {"train": 1, "val": 0, "test": 1}}, "parts: expected a number from 1 up for each of train"),
    ("textures", {"splits": 1001}, "splits: expected at most 1000, found 1001"),
    ("textures", {"classes": ["dog", "cat"]}, "classes: expected distinct names in sorted order"),
    ("detection", {"category_ids": [1]}, "category_ids: expected 2 different numbers"),
    ("detection", {"category_ids": [3, 3]}, "category_ids: 3 is listed twice"),
    ("detection", {"format": "coco"}, "names: expected the file of names with format voc"),
    ("detection", {"format": "yolo"}, "format"),
    ("detection", {"overhang": 0}, "overhang: expected more than 0, found"),
    ("detection", {"archive": "own.rar"}, "archive: expected a name that ends in one of"),
    ("detection", {"splits": {"train": COCO["splits"]["train"] | {"count": 0}}}, "count: expected at least 1, found 0"),
    ("detection", {"splits": {"a": COCO["splits"]["train"] | {"without_area": -1}}}, "without_area: expected at least"),
    ("detection", {"splits": {"a": COCO["splits"]["train"] | {"contents": "md5:1"}}}, "contents: expected sha256:"),
    ("segmentation", {"ignore": [9, 9]}, "ignore: 9 is listed twice"),
    ("segmentation", {"ignore": [1]}, "ignore: expected values up to 255 that are no class"),
    ("segmentation", {"ignore": [2], "zero_is_unlabelled": True}, "ignore: expected values"),
    ("segmentation", {"image_suffix": ".gif"}, "image_suffix: expected an end in"),
    ("segmentation", {"splits": {}}, "splits: expected at least one"),
]


def test_contradictions_are_refused(tmp_path: Path) -> None:
    for kind, changes, message in WRONG:
        content = MANIFESTS[kind] | changes
        content["archives"] = content.pop("archives")
        found = said(kind, content, tmp_path)
        assert found.startswith(f"{tmp_path}/own.yaml: ") and message in found, (kind, changes, found)


BAD_MANIFESTS = {
    "kind: [1]\nname: x\n": "own.yaml: kind: expected one of classification, detection, segmentation",
    "kind: {a: 1}\nname: x\n": "own.yaml: kind: expected one of classification",
    "kind: true\n": "own.yaml: kind: expected one of classification",
    "name: x\nname: y\n": "own.yaml: line 2, column 1: not valid YAML (the key 'name' is given twice",
    "name: x\nclasses: 5\n": "classes: expected a list, found int 5",
    "name: x\nclasses: [1, 2]\n": "classes[0]: expected str, found int 1",
    f"name: x\nsplits: {{a: {{count: {'9' * 5000}}}}}\n": "own.yaml: line 2",
    "name: " + "[" * 2000: "own.yaml: line 1: mappings and lists are nested more than 64 deep",
    "name: x\nsplits: [a]\n": "splits: expected a mapping, found list",
    "name: x\nsplits: {1: {}}\n": "splits.1: missing key 'count'",
    "name: x\nclasses: 'timm:../../../etc/passwd'\n": "classes: expected a list, or <package>:<file>",
    "name: x\nclasses: 'os:/etc/passwd'\n": "classes: expected a list, or <package>:<file>",
    "- 1\n": "own.yaml: expected a mapping, found a list",
    "\ufeffname: [1]\n": "name: expected str, found list",
}


def test_manifests_of_wrong_types_are_refused_with_their_name(tmp_path: Path) -> None:
    path = tmp_path / "own.yaml"
    for content, message in BAD_MANIFESTS.items():
        path.write_text(content)
        with pytest.raises(ValueError) as caught:
            load_manifest(path)
        assert "own.yaml" in str(caught.value) and message in str(caught.value), content[:40]


def test_all_wrong_keys_and_types_are_named_at_once(tmp_path: Path) -> None:
    content = {"name": 3, "titel": "T", "source": "S", "terms": "T", "classes": ["ant", "bee"],
               "splits": {"train": {"count": "many", "per_class": [1, 2, 3], "nmaes": "x"}}}  # fmt: skip
    text = said("classification", content, tmp_path)
    for part in ("own.yaml", "titel", "title", "name", "nmaes", "count", "per_class"):
        assert part in text, part


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
    """As in the published metric files and records; a digest that changes makes them those of other data."""
    stated = {
        ("bccd", "detection"): "d6c917267a3ec4e586bef42a2cee6c6f88e4349903dd039a24cf882e0ec19352",
    }
    assert {key: load_manifest(*key).digest for key in stated} == {k: f"sha256:{v}" for k, v in stated.items()}


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
    with pytest.raises(ValueError, match=r"cifar10.yaml is a manifest of classification, .* bccd, coco2017"):
        load_manifest("cifar10", "detection")
    with pytest.raises(ValueError, match="no manifest 'coco': expected one of bccd, coco2017"):
        load_manifest("coco", "detection")
    with pytest.raises(ValueError, match="no manifest 'imagenet': expected one of cifar10, imagenet1k"):
        load_manifest("imagenet")


def test_coco() -> None:
    manifest = load_manifest("coco2017", "detection")
    counts = {name: (split.count, split.objects, split.without_area) for name, split in manifest.splits.items()}
    assert counts == {"train": (118_287, 860_001, 2), "val": (5_000, 36_781, 0)}
    assert manifest.splits["val"].annotations == "annotations/instances_val2017.json"
    assert manifest.masks
    assert (manifest.overhang, manifest.short_polygons, manifest.tolerant) == (3.0, True, True)
    assert set(range(1, 91)) - set(manifest.category_ids) == {12, 26, 29, 30, 45, 66, 68, 69, 71, 83}
    assert list(manifest.classes) == listed_in("mmdet", "datasets/coco.py", "classes")


def test_coco_ids_go_with_their_names() -> None:
    categories = listed_in("torchvision", "models/_meta.py", "_COCO_CATEGORIES")
    manifest = load_manifest("coco2017", "detection")
    assert [categories[number] for number in manifest.category_ids] == list(manifest.classes)


def test_ade20k() -> None:
    manifest = load_manifest("ade20k", "segmentation")
    assert {name: split.count for name, split in manifest.splits.items()} == {"train": 20_210, "val": 2_000}
    assert manifest.zero_is_unlabelled
    assert manifest.allowed == frozenset(range(151))
    assert list(manifest.classes) == listed_in("mmseg", "datasets/ade.py", "classes")


def test_camvid_scores_eleven_classes() -> None:
    manifest = load_manifest("camvid", "segmentation")
    assert (len(manifest.classes), manifest.ignore, manifest.zero_is_unlabelled) == (11, (11,), False)
    assert manifest.allowed == frozenset(range(12))


def test_imagenet_whose_classes_come_without_importing_timm() -> None:
    imagenet = load_manifest("imagenet1k")
    assert (imagenet.splits["train"].count, imagenet.splits["val"].count) == (1_281_167, 50_000)
    assert len(imagenet.classes) == 1000
    assert (imagenet.classes[0], imagenet.classes[-1]) == ("n01440764", "n15075141")
    assert imagenet.splits["train"].expected("n01440764") == (732, 1300)
    code = "import sys; from lska.data.manifest import *; load_manifest('imagenet1k'); print('timm' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout == "False\n"


# --- Names -----------------------------------------------------------------------------------------------------------


def test_names_in_a_list_are_read_whatever_wrote_it(tmp_path: Path) -> None:
    path = tmp_path / "train.txt"
    for content in (b"a 1\nb\n", b"\xef\xbb\xbfa 1\r\nb\r\n\r\n", b"  a 1\n\nb", b"a 1\rb\r"):
        path.write_bytes(content)
        assert read_names(path, inside_problem) == ["a 1", "b"]
    refusals = {
        b"a\nb\na\n": "train.txt: 1 problem(s):\n  line 3: 'a' stands in line 1 already",
        b"a\n../b\n": "train.txt: 1 problem(s):\n  line 2: expected a path inside the folder of the data set",
        "a\nb\n".encode("utf-16"): "train.txt: is in UTF-16, expected UTF-8",
        b"a\ncaf\xe9\n": "train.txt: line 2: the byte 0xe9 is no UTF-8",
        b"a\0b": "train.txt: line 1: has a NUL character",
    }
    for content, message in refusals.items():
        path.write_bytes(content)
        with pytest.raises(FileError) as caught:
            read_names(path, inside_problem)
        assert message in str(caught.value)


def test_hidden_means_what_no_person_put_there() -> None:
    hidden = [
        ".DS_Store", "a/.hidden/b.jpg", "__MACOSX/a/b.jpg", "a/Thumbs.db", "a/thumbs.db", "Desktop.ini", "a/Icon\r",
        ".a.json.0idvpfee.tmp.json", "System Volume Information/x", "$RECYCLE.BIN/x",
    ]  # fmt: skip
    plain = ["a.jpg", "a/b.c/d.jpg", "Icon.png", "Thumbs.db.jpg", "x__MACOSX/a", "desktop.ini.txt", "a..b"]
    assert [name for name in hidden if not is_hidden(name)] == [] and [n for n in plain if is_hidden(n)] == []
    assert name_problem("a") is None
    assert "is hidden" in str(name_problem(".a")) and "has slashes" in str(name_problem("a/b"))
