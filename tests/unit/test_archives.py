"""Archives: what manifests say of them, where they lie, unpacking them safely and reading plain tar files in place."""

from __future__ import annotations

import errno
import hashlib
import io
import logging
import os
import pickle
import re
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml
from archive_sets import SUFFIXES, content, hostile_archives, hostile_tars, pack
from hypothesis import given
from hypothesis import strategies as st
from syrupy.assertion import SnapshotAssertion
from tiny_project import Project

from lska.cli import main
from lska.data import tars, unpack
from lska.data.archives import Archive, inside, packed, read_archives, stem
from lska.data.entries import DataError
from lska.data.folders import Split, list_split, open_split
from lska.data.manifest import BUNDLED, load_manifest, manifest_kind, save_manifest
from lska.data.sources import look
from lska.data.tars import Names
from lska.data.unpack import unpacked
from lska.provenance.files import FileError, WriteError, is_temporary, read_yaml
from lska.settings.perturbed_sets import source_identity
from lska.settings.sections import DataSource

Capture = pytest.CaptureFixture[str]

FILES = {f"outer/{part}/cat/{number}.txt": os.urandom(700) * 9 for part in ("train", "test") for number in range(8)}
IMAGES = {f"{label}/{i}.jpg": f"{label} {i}".encode() * 100 for label in ("cat", "sea bird") for i in (1, 2)}



def plain(message: str, folder: Path) -> str:
    """A message without what differs from machine to machine: the folder, numbers of bytes, the library's own words."""
    told = re.sub(r"(cannot be (?:unpacked|read as a tar archive)) \(.*\): ", r"\1 (...): ", message)
    return re.sub("[0-9,]{6,}", "N", told.replace(str(folder), "TMP"))


# --- In manifests ----------------------------------------------------------------------------------------------------


def test_every_manifest_says_what_it_is_distributed_as_which_does_not_change_what_it_is(tmp_path: Path) -> None:
    def identity(manifest: Path) -> dict[str, object]:
        return source_identity("classification", DataSource("any", "root", str(manifest)))

    for path in BUNDLED.glob("*.yaml"):
        kind = manifest_kind(read_yaml(path), path)
        manifest = load_manifest(path, kind)
        assert manifest.archives == read_archives(path) and all(one.holds for one in manifest.archives)
        # Of ImageNet-C-bar, its authors publish the generator.
        assert bool(manifest.archives) == (path.stem != "imagenet_c_bar")
        text, other = path.read_text(), tmp_path / path.name
        other.write_text(text[: text.index("\narchives:") + 1])
        assert identity(path) == identity(other)
        assert manifest.digest == load_manifest(other, kind).digest
        other.write_text(other.read_text() + "# more\n")
        assert identity(path) != identity(other)


def test_wrong_entries_are_named(tmp_path: Path) -> None:
    wrong: list[tuple[list[dict[str, Any]], str]] = [
        ([{"file": "a.rar"}], "file: expected a name that ends in one of .tar, .tar.gz, .tgz, .zip, found 'a.rar'"),
        ([{"file": "a.zip", "md5": "ABC"}], "md5: expected 32 hexadecimal digits, found 'ABC'"),
        ([{"file": "a.zip", "sha256": "0" * 63}], "sha256: expected 64 hexadecimal digits"),
        ([{"file": "a.zip", "bytes": -1}], "bytes: expected at least 1, found -1"),
        ([{"file": "a.zip", "url": "https://a.org/\x1b[2J"}], "which has control characters"),
        ([{"file": "a.zip", "rename": {"a": "b", "c": "b"}}], "rename: several folders become 'b'"),
        ([{"file": "a.zip", "size": 3}], "size"),
        ([{"url": "https://example.org"}], "file"),
        ([{"file": "a.zip"}] * 2, "archives: 'a.zip' is listed twice"),
    ]
    path = tmp_path / "own.yaml"
    for entries, message in wrong:
        path.write_text(yaml.safe_dump({"name": "own", "archives": entries}, sort_keys=False))
        with pytest.raises(ValueError, match="own.yaml") as caught:
            read_archives(path)
        assert "archives" in str(caught.value) and message in str(caught.value)
    values = read_yaml(BUNDLED / "cifar10.yaml")
    path.write_text(yaml.safe_dump({"archives": values.pop("archives"), **values}, sort_keys=False))
    with pytest.raises(ValueError, match="own.yaml: expected `archives` as the last key, found 'splits'"):
        load_manifest(path)


def test_archives_are_saved_with_a_manifest(tmp_path: Path) -> None:
    made = load_manifest("cifar10")
    assert made.archives[0].rename == {"test": "val"}
    save_manifest(made, tmp_path / "copy.yaml")
    assert load_manifest(tmp_path / "copy.yaml") == made


# --- At a root -------------------------------------------------------------------------------------------------------


def test_an_archive_is_told_from_another_by_size_and_hashes(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    path.write_bytes(b"content")
    md5, sha256 = hashlib.md5(b"content").hexdigest(), hashlib.sha256(b"content").hexdigest()
    assert Archive("a.zip", bytes=7, md5=md5, sha256=sha256).problems(path) == []
    assert Archive("a.zip").problems(path) == [] and not Archive("a.zip").stated
    # A file of another size is not hashed, which can take minutes.
    assert Archive("a.zip", bytes=8, md5="0" * 32).problems(path) == ["expected 8 bytes, found 7"]
    assert Archive("a.zip", md5="0" * 32, sha256="1" * 64).problems(path) == [
        f"expected md5 {'0' * 32}, found {md5}", f"expected sha256 {'1' * 64}, found {sha256}"
    ]  # fmt: skip


def test_an_archive_is_found_by_its_name_in_any_format(tmp_path: Path) -> None:
    names = {"dtd-r1.0.1.tar.gz": "dtd-r1.0.1", "a.TGZ": "a", "b.tar": "b", "c.zip": "c", "d.jpg": "d.jpg"}
    assert {name: stem(name) for name in names} == names
    listed = [Archive("set-master.zip", rename={"test": "val"}), Archive("huge.tar", by_hand=True)]
    assert packed(tmp_path, listed) is None
    (tmp_path / "huge.tar").touch()
    (tmp_path / "other.zip").touch()
    assert packed(tmp_path, listed) is None
    (tmp_path / "set-master.tar.gz").touch()
    assert packed(tmp_path, listed) == (tmp_path / "set-master.tar.gz", listed[0])
    (tmp_path / "b.TAR.GZ").touch()
    assert packed(tmp_path, [Archive("b.TAR.GZ")]) == (tmp_path / "b.TAR.GZ", Archive("b.TAR.GZ"))
    # An archive as the root itself needs no known name.
    assert packed(tmp_path / "other.zip", listed) == (tmp_path / "other.zip", Archive("other.zip"))
    assert packed(tmp_path / "set-master.tar.gz", listed) == (tmp_path / "set-master.tar.gz", listed[0])


@pytest.mark.parametrize("kind", ["link", "pipe"])
def test_a_dangling_link_or_a_pipe_is_no_absence(tmp_path: Path, kind: str) -> None:
    what = {"link": "is a link to gone, which is not there", "pipe": "found a named pipe"}[kind]
    own = tmp_path / "own.yaml"
    own.write_text("name: own\narchives: [{file: set.zip}]\n")
    for name in ("set.zip", "val", "val.tar"):
        root = tmp_path / f"of {name}"
        root.mkdir()
        (root / name).symlink_to("gone") if kind == "link" else os.mkfifo(root / name)
        with pytest.raises(DataError, match=f"{name}: .*{what}"):
            packed(root, [Archive(name)]) if name == "set.zip" else list_split(root, "val")
        assert name != "set.zip" or what in str(look("classification", DataSource("cifar10", str(root), str(own))))


def test_archives_at_a_root_are_compared(project: Project, capsys: Capture) -> None:
    md5 = hashlib.md5(b"a").hexdigest()
    archives = [{"file": "a.zip", "md5": md5, "bytes": 1}, {"file": "b.tar"}, {"file": "c.tar", "md5": md5}]
    Path("colours.yaml").write_text(Path("colours.yaml").read_text() + yaml.safe_dump({"archives": archives}))
    Path("sets").mkdir()
    Path("sets/a.zip").write_bytes(b"a")
    Path("sets/b.tar").write_bytes(b"b")

    def check(root: str) -> tuple[int, str]:
        code = main(["data", "check", "colours.yaml", "--root", root, "--archives"])
        found = capsys.readouterr()
        return code, found.out + found.err

    code, said = check("sets")
    assert code == 0 and "archives of colours at sets: as its manifest says" in said
    assert "a.zip: as stated (bytes, md5)." in said and "c.tar" not in said
    assert f"no source states a size or hash of it; this one has sha256 {hashlib.sha256(b'b').hexdigest()}." in said
    Path("sets/a.zip").write_bytes(b"x")
    code, said = check("sets")
    assert code == 1 and f"a.zip: expected md5 {md5}, found {hashlib.md5(b'x').hexdigest()}" in said
    code, said = check("sets/a.zip")
    assert code == 1 and "b.tar" not in said
    code, said = check("data")
    assert code == 1
    assert "data holds none of the archives that the manifest lists ('a.zip', 'b.tar', 'c.tar')" in said


# --- Unpacked --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_every_format_gives_the_same_files_once(tmp_path: Path, suffix: str) -> None:
    archive, cache = pack(tmp_path / f"set-1.0.1{suffix}", FILES), tmp_path / "cache"
    folder = unpacked(archive, cache)
    assert content(folder) == FILES and folder.name.startswith("set-1.0.1-")
    (folder / "outer/mark").touch()
    assert unpacked(archive, cache) == folder and (folder / "outer/mark").exists()
    # Another arrangement, or another archive by that name, is another folder.
    renamed = unpacked(archive, cache, {"test": "val"})
    assert sorted(path.name for path in (renamed / "outer").iterdir()) == ["train", "val"]
    flat = {name.removeprefix("outer/"): data for name, data in FILES.items()}
    renamed = unpacked(pack(archive, flat), cache, {"test": "val"})
    assert sorted(path.name for path in renamed.iterdir()) == ["train", "val"]
    left = [
        "__MACOSX/._outer", "__MACOSX/outer/._1.txt", ".DS_Store", "outer/.DS_Store", "outer/._1.txt",
        "outer/Thumbs.db", "outer/cat/desktop.ini", "Desktop.ini", "outer/Icon\r", "outer/.1.abcdefgh.tmp.txt",
    ]  # fmt: skip
    folder = unpacked(pack(archive, {"./outer/cat/1.txt": b"1"} | dict.fromkeys(left, b"x")), cache)
    assert content(folder) == {"outer/cat/1.txt": b"1"}
    assert inside(folder) == folder / "outer"


def test_hostile_archives_are_refused_and_leave_nothing(tmp_path: Path, snapshot: SnapshotAssertion) -> None:
    """Members that lead out, links and devices, damage of every sort, and more content than an archive can have."""
    said, cache = [], tmp_path / "cache"
    for what, archive in hostile_archives(tmp_path):
        with pytest.raises(DataError) as caught:
            unpacked(archive, cache)
        message = str(caught.value)
        assert str(archive) in message and message.isprintable(), what
        assert list(cache.iterdir()) == [], what
        if "flipped" not in what:  # where damage shows is up to the library
            said.append(f"{what}: {plain(message, tmp_path)}")
    assert not list(tmp_path.rglob("evil*")) and not Path("/evil.txt").exists()
    assert "\n".join(said) == snapshot


def test_an_archive_without_a_folder_to_be_renamed_is_refused(tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    for name, files, message in (
        ("a.zip", ["train"], "has no folder 'test': expected it to become 'val'"),
        ("b.zip", ["test", "val"], "has both 'test' and 'val': expected one of them"),
    ):
        archive = pack(tmp_path / name, {f"outer/{folder}/1.txt": b"1" for folder in files})
        with pytest.raises(DataError, match=f"{name} {message}"):
            unpacked(archive, cache, {"test": "val"})
        assert list(cache.iterdir()) == []


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_what_does_not_fit_the_disk_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str) -> None:
    class Usage(NamedTuple):
        free: int

    archive, cache = pack(tmp_path / f"a{suffix}", {"zeros": bytes(4_000_000)}), tmp_path / "cache"
    with monkeypatch.context() as patched:
        patched.setattr(shutil, "disk_usage", lambda path: Usage(3_999_999))
        with pytest.raises(DataError, match=r"unpacks to 0\.0 GB .*make room"):
            unpacked(archive, cache)

    def full(*arguments: object, **words: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(shutil, "copyfileobj", full)  # of zip files
    monkeypatch.setattr(tarfile, "copyfileobj", full)
    with pytest.raises(WriteError, match=r"a-.*No space left on device"):
        unpacked(archive, cache)
    assert list(cache.iterdir()) == []


def test_a_killed_unpacking_is_repeated_and_its_leftovers_go(tmp_path: Path) -> None:
    archive, cache = pack(tmp_path / "a.tar", FILES), tmp_path / "cache"
    code = (
        "import os, sys, tarfile; from pathlib import Path; from lska.data import unpack\n"
        "extract = tarfile.TarFile.extractall\n"
        "def killed(*arguments, **words):\n"
        "    extract(*arguments, **words)\n"
        "    os.kill(os.getpid(), 9)\n"
        "tarfile.TarFile.extractall = killed\n"
        "unpack.unpacked(Path(sys.argv[1]), Path(sys.argv[2]))\n"
    )
    assert subprocess.run([sys.executable, "-c", code, str(archive), str(cache)], check=False).returncode == -9
    (leftover,) = cache.iterdir()
    assert is_temporary(leftover) and any(path.is_file() for path in leftover.rglob("*"))
    folder = unpacked(archive, cache)
    assert list(cache.iterdir()) == [folder] and content(folder) == FILES


def test_of_two_unpackings_at_once_one_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archive, cache, extract = pack(tmp_path / "a.tar", FILES), tmp_path / "cache", unpack._extract

    def slower(source: Path, folder: Path) -> None:
        monkeypatch.setattr(unpack, "_extract", extract)
        unpacked(source, cache)
        extract(source, folder)

    monkeypatch.setattr(unpack, "_extract", slower)
    folder = unpacked(archive, cache)
    assert list(cache.iterdir()) == [folder] and content(folder) == FILES


# --- Read in place ---------------------------------------------------------------------------------------------------


def test_hostile_tar_files_are_refused_where_they_are_read_in_place_too(
    tmp_path: Path, snapshot: SnapshotAssertion
) -> None:
    said, place = [], tmp_path / "train.tar"
    for what, data in hostile_tars():
        for where in ("alone", "within"):
            place.write_bytes(data)
            if where == "within":
                pack(place, {"n01.tar": data})
            with pytest.raises(DataError) as caught:
                open_split(tmp_path, "train")
            assert str(place) in str(caught.value) and str(caught.value).isprintable()
            said.append(f"{where}: {what}: {plain(str(caught.value), tmp_path)}")
    inner = io.BytesIO()
    with tarfile.open(fileobj=inner, mode="w") as tar:
        tar.addfile(tarfile.TarInfo("1.jpg"))
    pack(place, {"n01.tar": inner.getvalue(), "n01/1.jpg": b"2"})
    with pytest.raises(DataError, match="its member 'n01/1.jpg' is there twice"):
        open_split(tmp_path, "train")
    assert "\n".join(said) == snapshot


def test_what_macos_adds_is_ignored(tmp_path: Path) -> None:
    more = {"__MACOSX/cat/._1.jpg": b"x", "__MACOSX/cat/1.jpg": b"x", "._n01.tar": b"x", "cat/Thumbs.db": b"x"}
    pack(tmp_path / "train.tar", IMAGES | more)
    split = open_split(tmp_path, "train")
    assert split.classes == ("cat", "sea bird") and len(split) == 4 and split.ignored == 4


def test_index_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    root, cache = tmp_path / "data", tmp_path / "cache"
    pack(root / "train.tar", IMAGES)
    first = open_split(root, "train", cache)
    (saved,) = cache.iterdir()
    assert [path.name for path in root.iterdir()] == ["train.tar"]
    with monkeypatch.context() as patch:
        patch.setattr(tars, "tar_members", None)  # calling it would fail
        again = open_split(root, "train", cache)
    assert [again.read(i) for i in range(4)] == [first.read(i) for i in range(4)] == list(IMAGES.values())
    saved.write_bytes(b"PK rubbish")
    with caplog.at_level(logging.WARNING):
        assert open_split(root, "train", cache).counts() == first.counts()
    assert str(saved) in caplog.text
    pack(root / "train.tar", {"dog/1.jpg": b"d"})
    assert open_split(root, "train", cache).classes == ("dog",)


def test_reading_survives_pickling_and_notices_a_file_that_shrank(tmp_path: Path) -> None:
    pack(tmp_path / "train.tar", IMAGES)
    split = open_split(tmp_path, "train")
    expected = split.read(2)
    copy: Split = pickle.loads(pickle.dumps(split))
    assert copy.read(2) == expected
    assert copy.files._file.fileno() != split.files._file.fileno()
    os.truncate(tmp_path / "train.tar", 600)
    with pytest.raises(DataError, match=r"train\.tar: expected \d+ bytes at byte \d+, found 0"):
        split.read(3)


@given(st.lists(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]))))
def test_packed_names_are_the_names(names: list[str]) -> None:
    packed = Names.of(names)
    assert list(packed) == names and packed[-3:] == names[-3:]
    with pytest.raises(IndexError):
        packed[len(names)]


def test_a_named_pipe_is_no_archive(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.tar")
    with pytest.raises(FileError, match=r"a\.tar: expected a regular file, found a named pipe"):
        unpacked(tmp_path / "a.tar", tmp_path / "cache")
