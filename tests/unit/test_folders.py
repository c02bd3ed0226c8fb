"""Class folders: what is listed, how flat images are sorted, and a message for every defect."""

from __future__ import annotations

import io
import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image
from syrupy.assertion import SnapshotAssertion

from lska.data.decoding import decode
from lska.data.entries import DataError
from lska.data.folders import check_same_classes, open_split

IMAGES = {"cat/1.jpg": b"1", "cat/10.JPEG": b"10", "cat/2.png": b"2", 'sea bird/a\'b "c".jpg': b"3"}


def write(root: Path, files: dict[str, bytes]) -> Path:
    for name, data in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)
    return root


def test_a_split_lists_its_images_by_class_and_name(tmp_path: Path) -> None:
    root = tmp_path / 'it\'s "a" space'
    write(root / "elsewhere", IMAGES)
    (root / "train").mkdir()
    for label in ("cat", "sea bird"):
        (root / "train" / label).symlink_to(root / "elsewhere" / label)
    undecodable = os.fsdecode(b"caf\xe9.jpg")
    write(root / "elsewhere", {f"sea bird/{undecodable}": b"4"})
    extras = ("cat/.hidden.jpg", "cat/notes.txt", ".DS_Store", "loose.jpg", "cat/Thumbs.db", "cat/.1.jpg.abc.tmp.jpg")
    write(root / "train", dict.fromkeys(extras, b""))
    before = sorted(tmp_path.rglob("*"))
    split = pickle.loads(pickle.dumps(open_split(root, "train")))
    names = [*IMAGES, f"sea bird/{undecodable}"]
    assert list(split.samples) == [(name, int(not name.startswith("cat"))) for name in names]
    assert split.samples[-2:] == [(name, 1) for name in names[-2:]] and split.samples.names == names
    assert [split.read(index) for index in range(5)] == [*IMAGES.values(), b"4"]
    assert [split.size(index) for index in range(5)] == [1, 2, 1, 1, 1]
    assert split.name(0) == f"{root}/train/cat/1.jpg" and split.counts() == {"cat": 3, "sea bird": 2}
    assert sorted(split.ignored) == sorted(extras)
    assert sorted(tmp_path.rglob("*")) == before


def refused(root: Path, split: str = "train") -> str:
    with pytest.raises(DataError) as caught:
        open_split(root, split)
    return str(caught.value)


def test_what_is_no_split_is_named_with_what_to_do(tmp_path: Path, snapshot: SnapshotAssertion) -> None:
    said = [refused(tmp_path / "absent")]
    root = tmp_path / "it's"
    for name, files in {
        "another level": {"data/train/cat/1.jpg": b""},
        "ImageNet": {"ILSVRC2012_img_train.tar": b""},
        "empty class": {"train/cat/1.jpg": b"", "train/owl/notes.txt": b""},
        "nothing": {"train/notes.txt": b""},
        "packed classes": {"train/n01.tar": b"", "train/n02.tar": b""},
        "flat": {"train/1.jpg": b"", "train/2.jpg": b""},
    }.items():
        said.append(f"{name}: {refused(write(root / name, files))}")
    assert "\n".join(said).replace(str(tmp_path), "TMP") == snapshot


def test_what_is_no_regular_file_is_no_image(tmp_path: Path) -> None:
    write(tmp_path, {"train/cat/c.jpg": b""})
    os.mkfifo(tmp_path / "train/cat/a.jpg")
    (tmp_path / "train/cat/b.jpg").symlink_to(tmp_path / "gone.jpg")
    split = open_split(tmp_path, "train")
    assert split.read(2) == b""
    for index, message in enumerate(("expected a regular file, found a named pipe", "is a link to .*gone.jpg")):
        with pytest.raises(DataError, match=f"cat/[ab].jpg: {message}"):
            split.read(index)


def test_splits_with_different_classes_are_refused(tmp_path: Path) -> None:
    write(tmp_path, {f"{place}.jpg": b"" for place in ("train/a/1", "train/b/1", "val/b/1", "val/c/1")})
    train, val = open_split(tmp_path, "train"), open_split(tmp_path, "val")
    check_same_classes(train, train)
    with pytest.raises(DataError, match="Only in train: 'a'. Only in val: 'c'"):
        check_same_classes(train, val)


def test_damaged_images_are_named() -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 6)).save(buffer, "PNG")
    for data in (b"", b"<html>", buffer.getvalue()[:-30], buffer.getvalue()[:40]):
        with pytest.raises(DataError, match=rf"^/data/x\.jpg: expected an image, found {len(data)} bytes") as caught:
            decode(data, "/data/x.jpg")
        assert " at 0x" not in str(caught.value)


def test_folders_does_not_import_torch() -> None:
    code = "import sys, lska.data.folders, lska.data.manifest, lska.data.preparing; print('torch' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout == "False\n"
