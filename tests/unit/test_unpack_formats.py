"""Compressed and zipped archives are unpacked as safely as plain tar files."""

from __future__ import annotations

import gzip
import io
import os
import shutil
import struct
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from lska.data import unpack
from lska.data.folders import DataError
from lska.data.unpack import unpacked

SUFFIXES = (".tar", ".tar.gz", ".tgz", ".zip")
FILES = {f"outer/{part}/cat/{number}.txt": os.urandom(700) * 9 for part in ("train", "test") for number in range(8)}


def pack(path: Path, files: dict[str, bytes] = FILES) -> Path:
    """An archive of the format that its suffix says."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, data in files.items():
                archive.writestr(name, data)
        return path
    with tarfile.open(path, "w" if path.suffix == ".tar" else "w:gz") as archive:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return path


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def refused(archive: Path, cache: Path) -> str:
    """What is said about an archive, after making sure that nothing is left of it."""
    with pytest.raises(DataError) as caught:
        unpacked(archive, cache)
    assert list(cache.iterdir()) == []
    return str(caught.value)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_every_format_gives_the_same_files_once(tmp_path: Path, suffix: str) -> None:
    archive, cache = pack(tmp_path / f"set-1.0.1{suffix}"), tmp_path / "cache"
    folder = unpacked(archive, cache)
    assert content(folder) == FILES
    assert folder.name.startswith("set-1.0.1-")
    (folder / "outer/mark").touch()
    assert unpacked(archive, cache) == folder and (folder / "outer/mark").exists()


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_an_archive_cut_off_anywhere_is_refused(tmp_path: Path, suffix: str) -> None:
    whole = pack(tmp_path / f"whole{suffix}").read_bytes()
    # Inside the first entry, at a third, near the end, and without the last byte that matters.
    last = len(whole.rstrip(b"\0")) if suffix == ".tar" else len(whole) - 1
    for length in (100, len(whole) // 3, last - 600, last):
        archive = tmp_path / f"cut{suffix}"
        archive.write_bytes(whole[:length])
        assert "cut" in refused(archive, tmp_path / "cache")


@pytest.mark.parametrize("suffix", [".tar.gz", ".zip"])
def test_a_flipped_byte_is_noticed(tmp_path: Path, suffix: str) -> None:
    whole = pack(tmp_path / f"bad{suffix}").read_bytes()
    # Damage shows in the compressed stream, in what comes of it, or only in the checksum.
    for place in (len(whole) // 3, len(whole) // 2, len(whole) * 2 // 3):
        archive = tmp_path / f"bad{place}{suffix}"
        archive.write_bytes(whole[:place] + bytes([whole[place] ^ 0xFF]) + whole[place + 1 :])
        assert "it is damaged or incomplete; get it again" in refused(archive, tmp_path / "cache")


def test_a_compressed_tar_file_that_ends_early_inside_is_refused(tmp_path: Path) -> None:
    plain = pack(tmp_path / "a.tar").read_bytes()
    archive = tmp_path / "a.tar.gz"
    archive.write_bytes(gzip.compress(plain[: len(plain) // 1024 * 512]))
    assert "a.tar.gz" in refused(archive, tmp_path / "cache")


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("name", ["../evil.txt", "outer/../../evil.txt", "/evil-lska.txt"])
def test_an_entry_outside_is_refused(tmp_path: Path, suffix: str, name: str) -> None:
    archive = pack(tmp_path / f"a{suffix}", {"outer/good.txt": b"good", name: b"evil"})
    if suffix != ".zip" and name.startswith("/"):
        # As `tar` does, a leading slash is dropped.
        assert "evil-lska.txt" in content(unpacked(archive, tmp_path / "cache"))
    else:
        assert "cannot be unpacked safely" in refused(archive, tmp_path / "cache")
    assert not list(tmp_path.rglob("evil.txt")) and not Path("/evil-lska.txt").exists()


@pytest.mark.parametrize("suffix", [".tar", ".tar.gz"])
@pytest.mark.parametrize("target", ["/etc/passwd", "../../outside"])
def test_links_out_of_the_folder_are_refused(tmp_path: Path, suffix: str, target: str) -> None:
    archive = tmp_path / f"a{suffix}"
    with tarfile.open(archive, "w" if suffix == ".tar" else "w:gz") as tar:
        member = tarfile.TarInfo("outer/link")
        member.type, member.linkname = tarfile.SYMTYPE, target
        tar.addfile(member)
    assert "cannot be unpacked safely" in refused(archive, tmp_path / "cache")


def test_a_link_in_a_zip_file_becomes_no_link(tmp_path: Path) -> None:
    archive = tmp_path / "a.zip"
    with zipfile.ZipFile(archive, "w") as packed:
        entry = zipfile.ZipInfo("outer/link")
        entry.external_attr = 0o120777 << 16
        packed.writestr(entry, "/etc/passwd")
    link = unpacked(archive, tmp_path / "cache") / "outer/link"
    assert not link.is_symlink() and link.read_text() == "/etc/passwd"


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_what_does_not_fit_the_disk_is_not_begun(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str
) -> None:
    class Usage(NamedTuple):
        free: int

    archive = pack(tmp_path / f"a{suffix}", {"zeros": bytes(4_000_000)})
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(3_999_999))
    monkeypatch.setattr(Path, "mkdir", _only_the_cache(Path.mkdir, tmp_path / "cache"))
    said = refused(archive, tmp_path / "cache")
    assert "unpacks to 0.0 GB" in said and "make room" in said and "get a sound copy" in said


def _only_the_cache(mkdir: Callable[..., None], cache: Path) -> Callable[..., None]:
    def guarded(path: Path, *arguments: object, **options: object) -> None:
        assert path == cache, f"{path} was begun"
        mkdir(path, *arguments, **options)

    return guarded


def test_a_zip_file_that_lies_about_its_size_is_stopped(tmp_path: Path) -> None:
    archive = pack(tmp_path / "a.zip", {"zeros": bytes(1_000_000)})
    data = bytearray(archive.read_bytes())
    # The uncompressed size in the central directory, which is what is believed.
    place = data.rindex(b"PK\x01\x02") + 24
    data[place : place + 4] = struct.pack("<I", 1000)
    archive.write_bytes(data)
    assert "cannot be unpacked" in refused(archive, tmp_path / "cache")


def test_an_encrypted_zip_file_is_told(tmp_path: Path) -> None:
    archive = pack(tmp_path / "a.zip", {"a.txt": b"secret"})
    data = bytearray(archive.read_bytes())
    for mark, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        data[data.index(mark) + offset] |= 1
    archive.write_bytes(data)
    assert "encrypted" in refused(archive, tmp_path / "cache")


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("outer", ["outer", ""])
def test_folders_get_the_names_that_are_asked_for(tmp_path: Path, suffix: str, outer: str) -> None:
    files = {name.removeprefix("outer/") if not outer else name: data for name, data in FILES.items()}
    archive = pack(tmp_path / f"a{suffix}", files)
    folder = unpacked(archive, tmp_path / "cache", {"test": "val"})
    assert sorted(path.name for path in (folder / outer).iterdir()) == ["train", "val"]
    # Another arrangement is another folder.
    assert unpacked(archive, tmp_path / "cache") != folder


def test_an_archive_without_a_folder_to_be_renamed_is_refused(tmp_path: Path) -> None:
    archive = pack(tmp_path / "a.zip", {"outer/train/1.txt": b"1"})
    with pytest.raises(DataError, match="a.zip has no folder 'test': expected it to become 'val'"):
        unpacked(archive, tmp_path / "cache", {"test": "val"})
    assert list((tmp_path / "cache").iterdir()) == []


def test_an_interrupted_zip_file_leaves_nothing_that_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archive, cache = pack(tmp_path / "a.zip"), tmp_path / "cache"

    def interrupted(packed: zipfile.ZipFile, folder: Path) -> None:
        packed.extract(packed.namelist()[0], folder)
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(zipfile.ZipFile, "extractall", interrupted)
        with pytest.raises(KeyboardInterrupt):
            unpacked(archive, cache)
    assert list(cache.iterdir()) == []
    assert content(unpacked(archive, cache)) == FILES


def test_a_full_disk_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(packed: zipfile.ZipFile, folder: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(unpack.zipfile.ZipFile, "extractall", full)
    assert "No space left on device" in refused(pack(tmp_path / "a.zip"), tmp_path / "cache")
