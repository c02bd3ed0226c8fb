"""Names in manifests stay inside the data set's folder, and what is listed is listed once."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from test_archives import LOADERS

from lska.data.entries import inside_problem, is_hidden, name_problem, read_names
from lska.data.manifest import kind_of
from lska.files import FileError

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
        LOADERS[kind](path)
    except ValueError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("kind", MANIFESTS)
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


TWICE: dict[str, tuple[str, dict[str, Any], str]] = {
    "classes": ("classification", {"classes": ["cat", "cat"]}, "classes: 'cat' is listed twice"),
    "archives": ("textures", {"archives": [{"file": "a.tar"}] * 2}, "archives: 'a.tar' is listed twice"),
    "archives of detection": ("detection", {"archives": [{"file": "a.tar"}] * 2}, "archives: 'a.tar' is listed twice"),
    "archives of C": ("corrupted", {"archives": [{"file": "a.tar"}] * 2}, "archives: 'a.tar' is listed twice"),
    "severities": ("corrupted", {"severities": [1, 2, 1], "archives": []}, "severities: 1 is listed twice"),
    "category ids": ("detection", {"category_ids": [3, 3]}, "category_ids: 3 is listed twice"),
    "ignored": ("segmentation", {"ignore": [9, 9]}, "ignore: 9 is listed twice"),
    "renamed": (
        "perturbed", {"archives": [{"file": "a.tar", "rename": {"a": "val", "b": "val"}}]},
        "archives[0]: rename: several folders become 'val'",
    ),
    "label maps": (
        "segmentation",
        {"splits": {name: {"images": "i", "labels": f"{dot}l", "count": 1} for name, dot in (("a", ""), ("b", "./"))}},
        "splits.b: has the same images and labels as splits.a",
    ),
    "annotations": (
        "detection",
        {"format": "coco", "splits": {name: {"images": name, "annotations": "a.json", "count": 1} for name in "ab"}},
        "splits.b: has the same annotations and names as splits.a",
    ),
}  # fmt: skip


def test_what_a_manifest_gives_twice_is_refused(tmp_path: Path) -> None:
    for what, (kind, changes, message) in TWICE.items():
        content = MANIFESTS[kind] | changes
        content["archives"] = content.pop("archives")
        assert message in said(kind, content, tmp_path), what


BAD_MANIFESTS = {
    "kind: [1]\nname: x\n": "own.yaml: kind: expected one of classification, detection, segmentation",
    "kind: {a: 1}\nname: x\n": "own.yaml: kind: expected one of classification",
    "kind: true\n": "own.yaml: kind: expected one of classification",
    "name: x\nname: y\n": "own.yaml: line 2, column 1: the key 'name' is given twice",
    "name: x\nclasses: 5\n": "classes: expected a list, found int 5",
    "name: x\nclasses: [1, 2]\n": "classes[0]: expected str, found int 1",
    f"name: x\nsplits: {{a: {{count: {'9' * 5000}}}}}\n": "own.yaml: line 2",
    "name: " + "[" * 2000: "own.yaml: line 1: mappings and lists are nested more than 64 deep",
    "name: x\nsplits: [a]\n": "splits: expected a mapping, found list",
    "name: x\nsplits: {1: {}}\n": "splits, key 1: expected str, found int 1",
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
            LOADERS["classification"](path)
        assert "own.yaml" in str(caught.value) and message in str(caught.value), content[:40]


def test_a_kind_is_one_of_those_that_are_known() -> None:
    assert kind_of({}, Path("a.yaml")) == "classification" and kind_of({"kind": "textures"}, Path("a")) == "textures"


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
