"""Archives: what manifests say of them, where they lie, and unpacking them safely."""

from __future__ import annotations

import errno
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tarfile
import threading
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml
from archive_sets import SUFFIXES, content, hostile_archives, pack
from syrupy.assertion import SnapshotAssertion
from tiny_project import Project

from lska.cli import main
from lska.data.archives import Archive, inside, packed, stem, unpacked
from lska.data.entries import DataError
from lska.data.manifest import load_manifest
from lska.provenance.files import FileError, WriteError, is_temporary, read_yaml
from lska.settings.schema import MANIFESTS
from lska.settings.tasks import ScaleData

Capture = pytest.CaptureFixture[str]

FILES = {f"outer/{part}/cat/{number}.txt": os.urandom(700) * 9 for part in ("train", "test") for number in range(8)}


# --- In manifests ----------------------------------------------------------------------------------------------------


def test_every_manifest_says_what_it_is_distributed_as_which_does_not_change_what_it_is(tmp_path: Path) -> None:
    def identity(manifest: Path) -> dict[str, object]:
        data = {"name": "any", "root": "root", "manifest": str(manifest), "kind": "classification"}
        return ScaleData(**data, record=Path("record"), cache=Path("cache")).made_of()

    for path in MANIFESTS.glob("*.yaml"):
        manifest = load_manifest(path, None)
        # Of ImageNet-C-bar, its authors publish the generator.
        assert bool(manifest.archives) == (path.stem != "imagenet_c_bar")
        assert all(one.holds for one in manifest.archives)
        text, other = path.read_text(), tmp_path / path.name
        other.write_text(text[: text.index("\narchives:") + 1])
        assert identity(path) == identity(other)
        assert manifest.digest == load_manifest(other, None).digest
        other.write_text(other.read_text() + "# more\n")
        assert identity(path) != identity(other)


def test_wrong_entries_are_named_at_once(tmp_path: Path, snapshot: SnapshotAssertion) -> None:
    values = read_yaml(MANIFESTS / "cifar10.yaml")
    listed: list[dict[str, Any]] = [
        {"file": "a.rar"}, {"file": "a.zip", "md5": "ABC", "bytes": -1, "size": 3}, {"file": "a.zip", "sha256": "0"},
        {"file": "a.zip", "url": "https://a.org/\x1b[2J"}, {"file": "a.zip", "rename": {"a": "b", "c": "b"}},
        {"url": "https://example.org"},
    ]  # fmt: skip
    path, said = tmp_path / "own.yaml", []
    for changed in (
        {**values, "archives": listed},
        {**values, "archives": [{"file": "a.zip"}] * 2},
        {"archives": values.pop("archives"), **values},
    ):
        path.write_text(yaml.safe_dump(changed, sort_keys=False))
        with pytest.raises(ValueError, match="own.yaml") as caught:
            load_manifest(path)
        said.append(str(caught.value).replace(str(tmp_path), "TMP"))
    assert "\n".join(said) == snapshot


# --- At a root -------------------------------------------------------------------------------------------------------


def test_an_archive_is_told_from_another_by_size_and_hashes(tmp_path: Path) -> None:
    path, sha256 = tmp_path / "a.zip", hashlib.sha256(b"content").hexdigest()
    path.write_bytes(b"content")
    assert Archive("a.zip", bytes=7, sha256=sha256).problems(path) == []
    # A file of another size is not hashed, which can take minutes.
    assert Archive("a.zip", bytes=8, md5="0" * 32).problems(path) == ["expected 8 bytes, found 7"]
    assert Archive("a.zip", sha256="1" * 64).problems(path) == [f"expected sha256 {'1' * 64}, found {sha256}"]


def test_an_archive_is_found_by_its_name_in_any_format(tmp_path: Path) -> None:
    names = {"dtd-r1.0.1.tar.gz": "dtd-r1.0.1", "a.TGZ": "a", "b.tar": "b", "c.zip": "c", "d.jpg": "d.jpg"}
    assert {name: stem(name) for name in names} == names
    listed = [Archive("set-master.zip", rename={"test": "val"}), Archive("huge.tar", by_hand=True)]
    (tmp_path / "huge.tar").touch()
    (tmp_path / "other.zip").touch()
    assert packed(tmp_path, listed) is None
    (tmp_path / "set-master.tar.gz").touch()
    assert packed(tmp_path, listed) == (tmp_path / "set-master.tar.gz", listed[0])
    # An archive as the root itself needs no known name.
    assert packed(tmp_path / "other.zip", listed) == (tmp_path / "other.zip", Archive("other.zip"))
    assert packed(tmp_path / "set-master.tar.gz", listed) == (tmp_path / "set-master.tar.gz", listed[0])


def test_a_dangling_link_or_a_pipe_is_no_absence(tmp_path: Path) -> None:
    (tmp_path / "set.zip").symlink_to("gone")
    os.mkfifo(tmp_path / "a.tar")
    assert all(packed(tmp_path, [Archive(name)]) for name in ("set.zip", "a.tar"))
    for name, what in (("set.zip", "is a link to gone, which is not there"), ("a.tar", "found a named pipe")):
        with pytest.raises(FileError, match=f"{name}: .*{what}"):
            unpacked(tmp_path / name, tmp_path / "cache")


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
    code, said = check("sets/a.zip")
    assert code == 1 and f"a.zip: expected md5 {md5}, found {hashlib.md5(b'x').hexdigest()}" in said
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
    assert content(unpacked(archive, cache, into="val")) == {f"val/{name}": data for name, data in FILES.items()}
    left = ["__MACOSX/._outer", ".DS_Store", "outer/._1.txt", "outer/Thumbs.db", "outer/Icon\r", "__MACOSX/../x"]
    folder = unpacked(pack(archive, {"./outer/cat/1.txt": b"1"} | dict.fromkeys(left[:5], b"x")), cache)
    assert content(folder) == {"outer/cat/1.txt": b"1"}
    assert inside(folder) == folder / "outer"


def test_hostile_archives_are_refused_and_leave_nothing(tmp_path: Path, snapshot: SnapshotAssertion) -> None:
    """Members that lead out, links and devices, and damage of every sort."""
    said, cache = [], tmp_path / "cache"
    for what, archive in hostile_archives(tmp_path):
        with pytest.raises(DataError) as caught:
            unpacked(archive, cache)
        message = str(caught.value)
        assert str(archive) in message and message.isprintable(), what
        assert [path.name for path in cache.iterdir()] == [".unpacking.lock"], what
        said.append(f"{what}: {re.sub(r'unpacked .*: it', 'unpacked (...): it', message)}")
    for name, folders in (("a.zip", ["train"]), ("b.zip", ["test", "val"])):
        archive = pack(tmp_path / name, {f"outer/{folder}/1.txt": b"1" for folder in folders})
        with pytest.raises(DataError) as caught:
            unpacked(archive, cache, {"test": "val"})
        said.append(f"to be renamed: {caught.value}")
    assert not list(tmp_path.rglob("evil*")) and not Path("/evil.txt").exists()
    assert "\n".join(said).replace(str(tmp_path), "TMP") == snapshot


@pytest.mark.parametrize("suffix", [".tar", ".zip"])
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
    with pytest.raises(WriteError, match=r"No space left on device"):
        unpacked(archive, cache)
    assert [path.name for path in cache.iterdir()] == [".unpacking.lock"]


def test_a_killed_unpacking_is_repeated_and_its_leftovers_go(tmp_path: Path) -> None:
    archive, cache = pack(tmp_path / "a.tar", FILES), tmp_path / "cache"
    code = (
        "import os, sys, tarfile; from pathlib import Path; from lska.data.archives import unpacked\n"
        "extract = tarfile.TarFile.extractall\n"
        "def killed(*arguments, **words):\n"
        "    extract(*arguments, **words)\n"
        "    os.kill(os.getpid(), 9)\n"
        "tarfile.TarFile.extractall = killed\n"
        "unpacked(Path(sys.argv[1]), Path(sys.argv[2]))\n"
    )
    assert subprocess.run([sys.executable, "-c", code, str(archive), str(cache)], check=False).returncode == -9
    assert any(is_temporary(path) for path in cache.iterdir())
    folder = unpacked(archive, cache)
    assert [path for path in cache.iterdir() if path.is_dir()] == [folder] and content(folder) == FILES


def test_two_unpackings_at_once_give_one_folder(tmp_path: Path) -> None:
    archive, found = pack(tmp_path / "a.tar", FILES), []
    threads = [threading.Thread(target=lambda: found.append(unpacked(archive, tmp_path / "cache"))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 4 and len(set(found)) == 1 and content(found[0]) == FILES
