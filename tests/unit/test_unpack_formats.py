"""Compressed and zipped archives are unpacked as safely as plain tar files."""

from __future__ import annotations

import errno
import gzip
import io
import os
import shutil
import struct
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from lska.data import entries, unpack
from lska.data.archives import inside
from lska.data.entries import DataError
from lska.data.unpack import unpacked
from lska.files import FileError, WriteError

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


NAMES = {
    "../evil.txt": "leads out of its folder",
    "outer/../../evil.txt": "leads out of its folder",
    "__MACOSX/../../evil.txt": "leads out of its folder",
    "outer/..": "leads out of its folder",
    "/evil.txt": "is absolute",
    "..\\evil.txt": "has a backslash",
    "C:/evil.txt": "begins with a drive",
    "outer/evil\n.txt": "has control characters",
    "outer/evil\x1b[2J.txt": "has control characters",
    "outer/good.txt": "is there twice",
    "./outer//good.txt": "is there twice",
    "outer/good.txt/evil.txt": "needs a folder where the file",
    "outer": "is a file and a folder",
}
TYPES = {
    tarfile.SYMTYPE: "a symbolic link", tarfile.LNKTYPE: "a hard link", tarfile.FIFOTYPE: "a named pipe",
    tarfile.CHRTYPE: "a device", tarfile.BLKTYPE: "a device", tarfile.GNUTYPE_SPARSE: "a sparse file",
    b"Q": "of the unknown type b'Q'",
}  # fmt: skip


def hostile_tar(path: Path, *members: tarfile.TarInfo) -> Path:
    """A tar file with a sound member before `members`, each of four bytes where its type has any."""
    with tarfile.open(path, "w" if path.suffix == ".tar" else "w:gz") as archive:
        for member in (tarfile.TarInfo("outer/good.txt"), *members):
            member.size = 4 if member.isreg() else 0
            archive.addfile(member, io.BytesIO(b"good"))
    return path


def of_type(kind: bytes) -> tarfile.TarInfo:
    member = tarfile.TarInfo("outer/evil")
    member.type, member.linkname = kind, "outer/good.txt"
    return member


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_names_that_no_sound_archive_has_are_refused(tmp_path: Path, suffix: str) -> None:
    found = {}
    for number, name in enumerate(NAMES):
        archive = tmp_path / f"{number}{suffix}"
        if suffix == ".zip":
            with zipfile.ZipFile(archive, "w") as packed:
                for member in ("outer/good.txt", name):
                    packed.writestr(member, b"evil")
        else:
            hostile_tar(archive, tarfile.TarInfo(name))
        said = refused(archive, tmp_path / "cache")
        assert said.startswith(f"{archive} cannot be used safely: its member ")
        assert len(said.splitlines()) == 1 and said.isprintable()
        found[name] = next((problem for problem in NAMES.values() if problem in said), said)
    assert found == NAMES
    assert not list(tmp_path.rglob("evil*")) and not Path("/evil.txt").exists()


@pytest.mark.parametrize("suffix", [".tar", ".tar.gz"])
def test_what_is_neither_file_nor_folder_is_refused(tmp_path: Path, suffix: str) -> None:
    for kind, words in TYPES.items():
        archive = hostile_tar(tmp_path / f"a{suffix}", of_type(kind))
        assert f"its member 'outer/evil' is {words}; get a sound copy" in refused(archive, tmp_path / "cache")


@pytest.mark.parametrize(("mode", "words"), [(0o120777, "a symbolic link"), (0o010644, "neither file nor folder")])
def test_what_is_neither_file_nor_folder_in_a_zip_file_is_refused(tmp_path: Path, mode: int, words: str) -> None:
    archive = tmp_path / "a.zip"
    with zipfile.ZipFile(archive, "w") as packed:
        entry = zipfile.ZipInfo("outer/evil")
        entry.external_attr = mode << 16
        packed.writestr(entry, "/etc/passwd")
    assert f"its member 'outer/evil' is {words}" in refused(archive, tmp_path / "cache")


def test_a_name_with_a_nul_in_a_zip_file_is_refused(tmp_path: Path) -> None:
    archive = pack(tmp_path / "a.zip", {"outer/good.txt": b"good"})
    archive.write_bytes(archive.read_bytes().replace(b"outer/good.txt", b"outer/g\0od.txt"))
    assert "has control characters" in refused(archive, tmp_path / "cache")


@pytest.mark.parametrize("suffix", [".tar.gz", ".zip"])
def test_an_archive_that_holds_too_much_is_refused_before_it_is_unpacked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str
) -> None:
    monkeypatch.setattr(unpack, "_write", None)  # calling it would fail
    large = pack(tmp_path / f"large{suffix}", {"a/zeros": bytes(entries.SMALL)})
    said = refused(large, tmp_path / "cache")
    assert f"{large}: its {large.stat().st_size:,} bytes hold 100,001,024 bytes" in said
    assert "expected at most 100 times its size (or 100,000,000 bytes" in said
    monkeypatch.setattr(entries, "SMALL", 100_000)
    many = pack(tmp_path / f"many{suffix}", {f"a/{number}": b"" for number in range(20_000)})
    if suffix == ".tar.gz":  # in a zip file, names alone take more than a hundredth
        assert "bytes in the first" in refused(many, tmp_path / "cache")


def test_what_a_header_states_is_not_believed(tmp_path: Path) -> None:
    """A name of eight gigabytes, sizes below zero, numbers of thousands of digits, and a hundred thousand headers."""
    cache = tmp_path / "cache"
    long_name = tarfile.TarInfo("././@LongLink")
    long_name.type, long_name.size = tarfile.GNUTYPE_LONGNAME, 8**11 - 1
    negative = bytearray(tarfile.TarInfo("outer/evil").tobuf(tarfile.GNU_FORMAT))
    negative[124:136] = b"\xff" * 11 + b"\0"
    digits = tarfile.TarInfo("outer/evil")
    digits.pax_headers = {"GNU.sparse.size": "9" * 5000, "GNU.sparse.numblocks": "1", "GNU.sparse.offset": "9" * 5000}
    pax = tarfile.TarInfo("x")
    pax.type = tarfile.XHDTYPE
    contents = [
        long_name.tobuf(tarfile.GNU_FORMAT), _summed(negative), digits.tobuf(tarfile.PAX_FORMAT),
        pax.tobuf(tarfile.GNU_FORMAT) * 20_000,
    ]  # fmt: skip
    for content in contents:
        archive = tmp_path / "a.tar"
        archive.write_bytes(content + bytes(1024))
        assert str(archive) in refused(archive, cache)
        assert "a.tar" in refused(_compressed(archive), cache)


def test_an_archive_without_members_is_refused(tmp_path: Path) -> None:
    archive = tmp_path / "a.tar"
    archive.write_bytes(bytes(10240))
    with zipfile.ZipFile(tmp_path / "a.zip", "w"):
        pass
    for empty in (archive, _compressed(archive), tmp_path / "a.zip"):
        assert f"{empty} holds no files" in refused(empty, tmp_path / "cache")


def _summed(header: bytearray) -> bytes:
    """A header with the checksum of what is in it."""
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header[:512])
    return bytes(header)


def _compressed(archive: Path) -> Path:
    path = archive.with_name("a.tar.gz")
    path.write_bytes(gzip.compress(archive.read_bytes()))
    return path


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_what_macos_and_windows_add_is_no_data(tmp_path: Path, suffix: str) -> None:
    names = [
        "__MACOSX/._outer", "__MACOSX/outer/._1.txt", ".DS_Store", "outer/.DS_Store", "outer/._1.txt",
        "outer/Thumbs.db", "outer/cat/desktop.ini", "Desktop.ini", "outer/Icon\r", "outer/.1.txt.abcdefgh.tmp.txt",
    ]  # fmt: skip
    archive = pack(tmp_path / f"a{suffix}", {"outer/cat/1.txt": b"1"} | dict.fromkeys(names, b"x"))
    folder = unpacked(archive, tmp_path / "cache")
    assert content(folder) == {"outer/cat/1.txt": b"1"}
    assert inside(folder) == folder / "outer"


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_what_does_not_fit_the_disk_is_not_begun(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str
) -> None:
    class Usage(NamedTuple):
        free: int

    archive = pack(tmp_path / f"a{suffix}", {"zeros": bytes(4_000_000)})
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(3_999_999))
    monkeypatch.setattr(unpack, "_write", None)  # calling it would fail
    said = refused(archive, tmp_path / "cache")
    assert "unpacks to 0.0 GB" in said and "make room" in said and "get a sound copy" in said


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
    both = pack(tmp_path / "both.zip", {"outer/test/1.txt": b"1", "outer/val/1.txt": b"2"})
    with pytest.raises(DataError, match="both.zip has both 'test' and 'val': expected one of them"):
        unpacked(both, tmp_path / "cache", {"test": "val"})


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_full_disk_is_told_with_file_and_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str
) -> None:
    def full(stream: object, name: str, size: int) -> Iterator[bytes]:
        yield b"some"
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(unpack, "_chunks", full)
    with pytest.raises(WriteError, match=r"0\.txt: cannot be written in the folder .*cat \(No space left on device\)"):
        unpacked(pack(tmp_path / f"a{suffix}"), tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []


def test_a_named_pipe_is_no_archive(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.tar")
    with pytest.raises(FileError, match=r"a\.tar: expected a regular file, found a named pipe"):
        unpacked(tmp_path / "a.tar", tmp_path / "cache")
