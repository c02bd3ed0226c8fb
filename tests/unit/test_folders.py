"""Class folders, tar files and ImageNet's archives: every layout gives the same split, every defect its message."""

from __future__ import annotations

import ast
import io
import os
import re
import shlex
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from lska.data.decoding import decode
from lska.data.entries import DataError
from lska.data.folders import check_same_classes, open_split

IMAGES = {"cat": ["1.jpg", "10.JPEG", "2.png"], "sea bird": ['a\'b "c".jpg']}


def encoded(shade: int = 0, mode: str = "RGB", kind: str = "JPEG") -> bytes:
    buffer = io.BytesIO()
    Image.new(mode, (8, 6), shade).save(buffer, kind)
    return buffer.getvalue()


def members(split: str = "") -> dict[str, bytes]:
    prefix = f"{split}/" if split else ""
    names = [f"{prefix}{label}/{file}" for label, files in IMAGES.items() for file in files]
    return {name: encoded(20 * place) for place, name in enumerate(names)}


def write_folder(root: Path, files: dict[str, bytes]) -> Path:
    for name, data in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return root


def tar_bytes(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def of_class(label: str) -> dict[str, bytes]:
    return {name.partition("/")[2]: data for name, data in members().items() if name.startswith(f"{label}/")}


def folders(root: Path) -> Path:
    return write_folder(root, members("train"))


def symlinks(root: Path) -> Path:
    write_folder(root / "elsewhere", members())
    (root / "data" / "train").mkdir(parents=True)
    for label in IMAGES:
        (root / "data" / "train" / label).symlink_to(root / "elsewhere" / label)
    (root / "link").symlink_to(root / "data")
    return root / "link"


def archive(name: str, files: Callable[[], dict[str, bytes]]) -> Callable[[Path], Path]:
    def make(root: Path) -> Path:
        write_folder(root, {name: tar_bytes(files())})
        return root / name if name == "all.tar" else root

    return make


LAYOUTS = {
    "folders": folders,
    "symlinks": symlinks,
    "tar with the split's name": archive("train.tar", lambda: members("train")),
    "tar of class folders": archive("train.tar", members),
    "tar made of .": archive("train.tar", lambda: {f"./{name}": data for name, data in members().items()}),
    "tar with one more folder": archive("train.tar", lambda: members("pets/train")),
    "whole set in one tar": archive("all.tar", lambda: members("train") | {"val/dog/1.jpg": b"other", "README": b"?"}),
    "tar of tars": archive(
        "ILSVRC2012_img_train.tar", lambda: {f"{label}.tar": tar_bytes(of_class(label)) for label in IMAGES}
    ),
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("folder", ["plain", 'it\'s "a" space'])
def test_every_layout_gives_the_same_split(tmp_path: Path, layout: str, folder: str) -> None:
    root = LAYOUTS[layout](tmp_path / folder)
    before = sorted(tmp_path.rglob("*"))
    split = open_split(root, "train")
    assert split.classes == ("cat", "sea bird")
    assert list(split.samples) == [("cat/1.jpg", 0), ("cat/10.JPEG", 0), ("cat/2.png", 0), ('sea bird/a\'b "c".jpg', 1)]
    assert [split.read(index) for index in range(len(split))] == list(members().values())
    assert [split.size(index) for index in range(len(split))] == [len(data) for data in members().values()]
    assert split.name(3).startswith(str(root)) and split.name(3).endswith('sea bird/a\'b "c".jpg')
    assert split.counts() == {"cat": 3, "sea bird": 1}
    assert split.ignored == 0
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_read_only_root(tmp_path: Path) -> None:
    root = folders(tmp_path / "data")
    for path in (root, root / "train", root / "train" / "cat"):
        path.chmod(0o555)
    assert len(open_split(root, "train")) == 4
    for path in (root, root / "train", root / "train" / "cat"):
        path.chmod(0o755)


EXTRAS = {
    "train/cat/.hidden.jpg": b"", "train/cat/notes.txt": b"", "train/.DS_Store": b"", "train/loose.jpg": b"",
    "train/cat/Thumbs.db": b"", "train/cat/.1.jpg.abcdefgh.tmp.jpg": b"",
}  # fmt: skip


@pytest.mark.parametrize("packed", [False, True])
def test_entries_that_are_no_images_are_counted(tmp_path: Path, packed: bool) -> None:
    files = members("train") | EXTRAS
    write_folder(tmp_path, {"train.tar": tar_bytes(files)} if packed else files)
    split = open_split(tmp_path, "train")
    assert len(split) == 4
    assert split.ignored == len(EXTRAS)
    assert {name.rpartition("/")[2] for name in split.ignored_names} == {name.rpartition("/")[2] for name in EXTRAS}


def refused(root: Path, split: str = "train") -> str:
    with pytest.raises(DataError) as caught:
        open_split(root, split)
    return str(caught.value)


def test_missing_root_and_split_are_named(tmp_path: Path) -> None:
    assert f"data root '{tmp_path / 'absent'}' cannot be read" in refused(tmp_path / "absent")
    folders(tmp_path)
    text = refused(tmp_path, "val")
    assert "no 'val' split" in text and "found 'train'" in text and "val.tar" in text


@pytest.mark.parametrize("packed", [False, True])
def test_empty_class_folders_are_named(tmp_path: Path, packed: bool) -> None:
    write_folder(tmp_path / "data", members("train"))
    (tmp_path / "data" / "train" / "owl").mkdir()
    root = tmp_path / "data"
    if packed:
        root = tmp_path / "packed"
        root.mkdir()
        with tarfile.open(root / "train.tar", "w") as tar:
            tar.add(tmp_path / "data" / "train", "train")
    assert "class folders without images (1 of 3): 'owl'" in refused(root)


def test_empty_split_and_still_packed_classes(tmp_path: Path) -> None:
    (tmp_path / "train").mkdir()
    assert "no class folders" in refused(tmp_path) and "0 images" in refused(tmp_path)
    write_folder(tmp_path, {"train/n01.tar": b"", "train/n02.tar": b""})
    text = refused(tmp_path)
    assert "found 0 images, 2 tar files" in text
    subprocess.run(["bash", "-n", "-c", text.partition("Unpack one folder per class: ")[2]], check=True)


@pytest.mark.parametrize("packed", [False, True])
def test_flat_imagenet_validation_set_is_told_how_to_sort_it(tmp_path: Path, packed: bool) -> None:
    files = {f"ILSVRC2012_val_0000000{i}.JPEG": encoded(i) for i in (1, 2, 3)}
    root = tmp_path / "it's here"
    packed_files = {"ILSVRC2012_img_val.tar": tar_bytes(files)}
    write_folder(root, packed_files if packed else {f"val/{name}": data for name, data in files.items()})
    text = refused(root, "val")
    assert "found 3 images" in text and "ILSVRC2012_val_00000001.JPEG" in text
    assert ("valprep.sh" in text) != packed
    command = shlex.split(re.search("`(.*)`", text)[1])
    assert command[:2] == ["python", "-c"]
    call = ast.parse(command[2]).body[1].value
    assert call.args[0].value == str(root) and call.keywords[0].value.value == "val"


@pytest.mark.parametrize("packed", [False, True])
def test_flat_images_are_sorted_by_a_label_file(tmp_path: Path, packed: bool) -> None:
    files = {"x 1.jpg": encoded(1), "y,2.jpg": encoded(2), "z.jpg": encoded(3)}
    write_folder(tmp_path, {"val.tar": tar_bytes(files)} if packed else {f"val/{k}": v for k, v in files.items()})
    labels = tmp_path / "val_labels.csv"
    assert str(labels) in refused(tmp_path, "val")
    labels.write_text('file,class\nz.jpg,ant\n"y,2.jpg",bee\nx 1.jpg,bee\n', encoding="utf-8")
    split = open_split(tmp_path, "val")
    assert list(split.samples) == [("ant/z.jpg", 0), ("bee/x 1.jpg", 1), ("bee/y,2.jpg", 1)]
    assert [split.read(i) for i in range(3)] == [files["z.jpg"], files["x 1.jpg"], files["y,2.jpg"]]
    labels.write_text("file,class\nz.jpg,ant\ngone.jpg,bee\n", encoding="utf-8")
    text = refused(tmp_path, "val")
    assert "Images without a line: 'x 1.jpg', 'y,2.jpg'" in text and "Lines without an image: 'gone.jpg'" in text


def test_a_label_file_is_read_whatever_wrote_it_and_refused_with_its_line(tmp_path: Path) -> None:
    write_folder(tmp_path, {f"val/{name}.jpg": b"" for name in "ab"})
    labels = tmp_path / "val_labels.csv"
    plain = b"file,class\na.jpg,ant\nb.jpg,bee\n"
    sound = [
        b"\xef\xbb\xbf" + plain, plain.replace(b"\n", b"\r\n"), plain + b"\n\n", plain[:-1],
        b"class,file,note\nant,a.jpg,\nbee, b.jpg ,x\n", b'"file","class"\n"a.jpg","ant"\n"b.jpg","bee"\n',
    ]  # fmt: skip
    for content in sound:
        labels.write_bytes(content)
        assert list(open_split(tmp_path, "val").samples) == [("ant/a.jpg", 0), ("bee/b.jpg", 1)], content
    refusals = {
        b"name,label\n": "line 1: has no column 'file', has no column 'class'",
        b"": "line 1: has no column 'file'",
        b"file,class,class\n": "line 1: has 'class' twice",
        plain + b"a.jpg,bee\n": "line 4: file 'a.jpg' stands in line 2 already",
        plain + b"a.jpg,ant\n": "line 4: file 'a.jpg' stands in line 2 already",
        plain.replace(b",bee", b""): "line 3: expected 2 fields, found 1",
        plain.replace(b"bee", b""): "line 3: nothing stands in column 'class'",
        plain.replace(b"\nb", b",x\nb"): "line 2: expected 2 fields, found 3",
        plain + b"caf\xe9.jpg,ant\n": "line 4: the byte 0xe9 is no UTF-8",
        plain.decode().encode("utf-16"): "is in UTF-16, expected UTF-8",
        plain.replace(b"bee", b"../bee"): "line 3: class: expected the name of a file or folder, found '../bee'",
        plain.replace(b"bee", b"a/bee"): "line 3: class: expected the name of a file or folder, found 'a/bee'",
        plain.replace(b",", b";"): "line 1: has no column 'file'",
    }
    for content, message in refusals.items():
        labels.write_bytes(content)
        text = refused(tmp_path, "val")
        assert str(labels) in text and message in text, content
    labels.unlink()
    os.mkfifo(labels)
    assert f"{labels}: expected a regular file, found a named pipe" in refused(tmp_path, "val")
    labels.unlink()
    labels.symlink_to("gone.csv")
    assert f"{labels}: is a link to gone.csv, which is not there" in refused(tmp_path, "val")


def test_what_is_no_regular_file_is_no_image(tmp_path: Path) -> None:
    write_folder(tmp_path, {f"train/cat/{name}.jpg": b"" for name in "abc"})
    for name in "ab":
        (tmp_path / f"train/cat/{name}.jpg").unlink()
    os.mkfifo(tmp_path / "train/cat/a.jpg")
    (tmp_path / "train/cat/b.jpg").symlink_to(tmp_path / "gone.jpg")
    split = open_split(tmp_path, "train")
    assert split.read(2) == b""
    for index, message in enumerate(("expected a regular file, found a named pipe", "is a link to .*gone.jpg")):
        with pytest.raises(DataError, match=f"cat/[ab].jpg: {message}"):
            split.read(index)


def test_splits_with_different_classes_are_refused(tmp_path: Path) -> None:
    write_folder(tmp_path, {f"{place}.jpg": b"" for place in ("train/a/1", "train/b/1", "val/b/1", "val/c/1")})
    train, val = open_split(tmp_path, "train"), open_split(tmp_path, "val")
    check_same_classes(train, train)
    with pytest.raises(DataError, match="Only in train: 'a'. Only in val: 'c'"):
        check_same_classes(train, val)


def test_undecodable_file_names_survive(tmp_path: Path) -> None:
    name = os.fsdecode(b"caf\xe9.jpg")
    write_folder(tmp_path, {f"train/cat/{name}": b"data"})
    split = open_split(tmp_path, "train")
    assert split.samples[0].name == f"cat/{name}" and split.read(0) == b"data"


@pytest.mark.parametrize(
    "data", [b"", b"<html>", encoded()[:-40], encoded(kind="PNG")[:-30], encoded(kind="PNG")[:40], encoded()[:2]]
)
def test_damaged_images_are_named(data: bytes) -> None:
    with pytest.raises(DataError, match=rf"^/data/x\.jpg: expected an image, found {len(data)} bytes") as caught:
        decode(data, "/data/x.jpg")
    assert " at 0x" not in str(caught.value)


def test_folders_does_not_import_torch() -> None:
    code = "import sys, lska.data.folders, lska.data.manifest, lska.data.integrity; print('torch' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout == "False\n"
