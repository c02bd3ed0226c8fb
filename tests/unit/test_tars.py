"""Tar archives: damage is noticed, the index is kept where asked, and reading survives pickling."""

from __future__ import annotations

import io
import logging
import os
import pickle
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_unpack_formats import NAMES, TYPES, hostile_tar, of_type

from lska.data import tars
from lska.data.folders import DataError, Split, open_split
from lska.data.tars import Names


def members() -> dict[str, bytes]:
    return {f"{label}/{i}.jpg": f"{label} {i}".encode() * 100 for label in ("cat", "sea bird") for i in (1, 2)}


def tar_bytes(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def write(root: Path, files: dict[str, bytes]) -> Path:
    root.mkdir(exist_ok=True)
    for name, data in files.items():
        (root / name).write_bytes(data)
    return root


def refused(root: Path) -> str:
    with pytest.raises(DataError) as caught:
        open_split(root, "train")
    return str(caught.value)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda data: data[: len(data) // 2],  # cut inside an image
        lambda data: data[: data.rindex(b"ustar") + 100],  # cut inside a header
        lambda data: data[: data.rindex(b"ustar")] + b"XXXXXXXX" + data[data.rindex(b"ustar") + 8 :],
        lambda data: b"\x1f\x8b" + data,
        lambda data: b"",
    ],
)
def test_damaged_archives_are_refused(tmp_path: Path, spoil: Callable[[bytes], bytes]) -> None:
    write(tmp_path, {"train.tar": spoil(tar_bytes(members()))})
    text = refused(tmp_path)
    assert f"{tmp_path}/train.tar cannot be read as a tar archive" in text and "get it again" in text


def test_damaged_inner_archive_is_named(tmp_path: Path) -> None:
    inner = {"n01.tar": tar_bytes(members()), "n02.tar": tar_bytes(members())[:1500]}
    write(tmp_path, {"ILSVRC2012_img_train.tar": tar_bytes(inner)})
    assert "ILSVRC2012_img_train.tar:n02.tar cannot be read" in refused(tmp_path)


@pytest.mark.parametrize("place", ["alone", "within"])
def test_members_are_refused_where_they_are_read_in_place_too(tmp_path: Path, place: str) -> None:
    refusals = {}
    for name, message in (*NAMES.items(), *TYPES.items()):
        member = of_type(name) if isinstance(name, bytes) else tarfile.TarInfo(name)
        archive = hostile_tar(tmp_path / "train.tar", member)
        if place == "within":
            inner = archive.read_bytes()
            archive.write_bytes(tar_bytes({"n01.tar": inner}))
        said = refused(tmp_path)
        assert said.startswith(f"{archive} cannot be used safely: its member ")
        refusals[name] = message if message in said else said
    assert refusals == {**NAMES, **TYPES}


def test_two_tar_files_within_of_one_name_are_refused(tmp_path: Path) -> None:
    inner = tar_bytes({"1.jpg": b"1"})
    write(tmp_path, {"train.tar": tar_bytes({"n01.tar": inner, "n01/1.jpg": b"2"})})
    assert "its member 'n01/1.jpg' is there twice" in refused(tmp_path)


def test_what_macos_adds_is_ignored_where_tar_files_are_read_in_place(tmp_path: Path) -> None:
    more = {"__MACOSX/cat/._1.jpg": b"x", "__MACOSX/cat/1.jpg": b"x", "._n01.tar": b"x", "cat/Thumbs.db": b"x"}
    write(tmp_path, {"train.tar": tar_bytes(members() | more)})
    split = open_split(tmp_path, "train")
    assert split.classes == ("cat", "sea bird") and len(split) == 4 and split.ignored == 4


def test_a_named_pipe_is_no_archive(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "train.tar")
    assert f"{tmp_path}/train.tar: expected a regular file, found a named pipe" in refused(tmp_path)


def test_index_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    root, cache = write(tmp_path / "data", {"train.tar": tar_bytes(members())}), tmp_path / "cache"
    first = open_split(root, "train", cache)
    (saved,) = cache.iterdir()
    assert [path.name for path in root.iterdir()] == ["train.tar"]
    with monkeypatch.context() as patch:
        patch.setattr(tars, "tar_entries", None)  # calling it would fail
        again = open_split(root, "train", cache)
    assert [again.read(i) for i in range(4)] == [first.read(i) for i in range(4)]
    saved.write_bytes(b"PK rubbish")
    with caplog.at_level(logging.WARNING):
        assert open_split(root, "train", cache).counts() == first.counts()
    assert str(saved) in caplog.text
    write(root, {"train.tar": tar_bytes({"dog/1.jpg": b"d"})})
    assert open_split(root, "train", cache).classes == ("dog",)


def test_archive_that_shrinks_while_in_use_is_named(tmp_path: Path) -> None:
    write(tmp_path, {"train.tar": tar_bytes(members())})
    split = open_split(tmp_path, "train")
    os.truncate(tmp_path / "train.tar", 600)
    with pytest.raises(DataError, match=r"train\.tar: expected \d+ bytes at byte \d+, found 0"):
        split.read(3)


def test_pickles_open_their_own_descriptor(tmp_path: Path) -> None:
    write(tmp_path, {"train.tar": tar_bytes(members())})
    split = open_split(tmp_path, "train")
    expected = split.read(2)
    copy: Split = pickle.loads(pickle.dumps(split))
    assert copy.read(2) == expected
    assert copy.files.reader._file.fileno() != split.files.reader._file.fileno()


@given(st.lists(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]))))
def test_packed_names_are_the_names(names: list[str]) -> None:
    packed = Names.of(names)
    assert list(packed) == names and packed[-3:] == names[-3:]
    with pytest.raises(IndexError):
        packed[len(names)]
