"""Tar files of data sets are unpacked safely, completely or not at all, and again whenever that is needed."""

from __future__ import annotations

import itertools
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import pytest
from dense_sets import write_ade

from lska.config import DataSource
from lska.data import unpack
from lska.data.dense import open_segmentation, prepare, verify
from lska.data.folders import DataError
from lska.data.unpack import unpacked
from lska.files import is_temporary


@pytest.fixture(scope="module")
def ade(tmp_path_factory: pytest.TempPathFactory) -> DataSource:
    return write_ade(tmp_path_factory.mktemp("sets"))


def pack(root: Path, archive: Path, prefix: str) -> Path:
    archive.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(archive, "w") as tar:
        tar.add(root, prefix)
    return archive


def as_archive(ade: DataSource, tmp_path: Path) -> DataSource:
    pack(Path(ade.root), tmp_path / "root" / "regions.tar", "inner")
    own = tmp_path / "own.yaml"
    own.write_text(Path(ade.manifest or "").read_text() + "archive: regions.tar\nfolder: inner\n")
    return DataSource(ade.name, str(tmp_path / "root"), str(own))


def test_an_archive_is_unpacked_once_and_again_when_the_cache_is_gone(ade: DataSource, tmp_path: Path) -> None:
    data, cache, record = as_archive(ade, tmp_path), tmp_path / "cache", tmp_path / "record.json"
    prepare("segmentation", data, record, cache)
    first = open_segmentation(data, "train", cache)
    assert first.labels.is_relative_to(cache)
    inode = first.labels.stat().st_ino
    assert open_segmentation(data, "train", cache).labels.stat().st_ino == inode
    for path in sorted(cache.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    again = open_segmentation(data, "train", cache)
    assert again == first
    verify("segmentation", data, record, again)


def test_a_tar_file_may_be_the_root_itself(ade: DataSource, tmp_path: Path) -> None:
    data = as_archive(ade, tmp_path)
    alone = DataSource(data.name, f"{data.root}/regions.tar", data.manifest)
    assert open_segmentation(alone, "val", tmp_path / "cache").count == 3


def test_a_replaced_archive_is_unpacked_anew(tmp_path: Path) -> None:
    content = tmp_path / "content"
    content.mkdir()
    for text in ("one", "three"):
        (content / "a.txt").write_text(text)
        folder = unpacked(pack(content, tmp_path / "a.tar", "x"), tmp_path / "cache")
        assert (folder / "x" / "a.txt").read_text() == text


def test_an_interrupted_unpacking_leaves_nothing_that_counts(
    ade: DataSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive, cache = pack(Path(ade.root), tmp_path / "a.tar", "x"), tmp_path / "cache"
    write, written = unpack._write, itertools.count()

    def interrupted(*arguments: Any) -> None:
        if next(written) == 7:
            raise KeyboardInterrupt
        write(*arguments)

    with monkeypatch.context() as patched:
        patched.setattr(unpack, "_write", interrupted)
        with pytest.raises(KeyboardInterrupt):
            unpacked(archive, cache)
    assert list(cache.iterdir()) == []
    folder = unpacked(archive, cache)
    expected = {str(path.relative_to(ade.root)) for path in Path(ade.root).rglob("*")}
    assert {str(path.relative_to(folder / "x")) for path in (folder / "x").rglob("*")} == expected


def test_a_killed_unpacking_is_repeated_and_its_leftovers_go(ade: DataSource, tmp_path: Path) -> None:
    archive, cache = pack(Path(ade.root), tmp_path / "a.tar", "x"), tmp_path / "cache"
    code = (
        "import os, sys; from pathlib import Path; from lska.data import unpack\n"
        "write = unpack._write\n"
        "def killed(content, folder, name, size):\n"
        "    write(content, folder, name, size)\n"
        "    if size > 0: os.kill(os.getpid(), 9)\n"
        "unpack._write = killed\n"
        "unpack.unpacked(Path(sys.argv[1]), Path(sys.argv[2]))\n"
    )
    result = subprocess.run([sys.executable, "-c", code, str(archive), str(cache)], check=False)
    assert result.returncode == -9
    (leftover,) = cache.iterdir()
    assert is_temporary(leftover) and any(path.is_file() for path in leftover.rglob("*"))
    folder = unpacked(archive, cache)
    assert list(cache.iterdir()) == [folder]
    assert sum(path.is_file() for path in folder.rglob("*")) == sum(p.is_file() for p in Path(ade.root).rglob("*"))


def test_of_two_unpackings_at_once_one_is_kept(
    ade: DataSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive, cache = pack(Path(ade.root), tmp_path / "a.tar", "x"), tmp_path / "cache"
    extract = unpack._extract

    def slower(source: Path, folder: Path) -> None:
        monkeypatch.setattr(unpack, "_extract", extract)
        unpacked(source, cache)
        extract(source, folder)

    monkeypatch.setattr(unpack, "_extract", slower)
    folder = unpacked(archive, cache)
    assert list(cache.iterdir()) == [folder]
    assert (folder / "x" / "settings.json").is_file()


def test_a_truncated_archive_is_refused(ade: DataSource, tmp_path: Path) -> None:
    archive = pack(Path(ade.root), tmp_path / "a.tar", "x")
    archive.write_bytes(archive.read_bytes()[: archive.stat().st_size // 1024 * 512])
    with pytest.raises(DataError, match="a.tar"):
        unpacked(archive, tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []
