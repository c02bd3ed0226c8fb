"""What manifests know of archives, and the check of those that lie at a root."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest
import yaml
from tiny_project import Project

from lska.cli import main
from lska.data.archives import Archive, inside, packed, read_archives, stem
from lska.data.dense_manifest import load_dense_manifest
from lska.data.dtd import load_texture_manifest
from lska.data.entries import DataError
from lska.data.folders import list_split
from lska.data.manifest import BUNDLED, Manifest, kind_of, load_manifest, save_manifest
from lska.data.perturbed.manifests import load_corrupted_manifest, load_perturbed_manifest
from lska.data.sources import look
from lska.files import read_yaml
from lska.robustness import source_identity
from lska.sections import DataSource

Capture = pytest.CaptureFixture[str]

LOADERS = {
    "classification": load_manifest,
    "detection": lambda path: load_dense_manifest("detection", path),
    "segmentation": lambda path: load_dense_manifest("segmentation", path),
    "textures": load_texture_manifest,
    "corrupted": load_corrupted_manifest,
    "perturbed": load_perturbed_manifest,
}
BUNDLED_NAMES = sorted(path.stem for path in BUNDLED.glob("*.yaml"))


@pytest.mark.parametrize("name", BUNDLED_NAMES)
def test_every_manifest_says_what_it_is_distributed_as(name: str) -> None:
    path = BUNDLED / f"{name}.yaml"
    manifest = LOADERS[kind_of(read_yaml(path), path)](path)
    assert manifest.archives == read_archives(path)
    # Of ImageNet-C-bar, its authors publish the generator.
    assert bool(manifest.archives) == (name != "imagenet_c_bar")
    assert all(one.holds for one in manifest.archives)


@pytest.mark.parametrize("name", BUNDLED_NAMES)
def test_where_data_can_be_had_does_not_change_what_they_are(name: str, tmp_path: Path) -> None:
    path, other = BUNDLED / f"{name}.yaml", tmp_path / f"{name}.yaml"
    text = path.read_text()
    other.write_text(text[: text.index("\narchives:") + 1])
    assert identity(path) == identity(other)
    load = LOADERS[kind_of(read_yaml(path), path)]
    assert load(path).digest == load(other).digest
    other.write_text(other.read_text() + "# more\n")
    assert identity(path) != identity(other)


def identity(manifest: Path) -> dict[str, object]:
    return source_identity(DataSource("any", "root", str(manifest)))


def test_archives_stand_last_in_a_manifest(tmp_path: Path) -> None:
    values = read_yaml(BUNDLED / "cifar10.yaml")
    moved = {"archives": values.pop("archives"), **values}
    (tmp_path / "moved.yaml").write_text(yaml.safe_dump(moved, sort_keys=False))
    with pytest.raises(ValueError, match="moved.yaml: expected `archives` as the last key, found 'splits'"):
        load_manifest(tmp_path / "moved.yaml")


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"file": "a.rar"}, r"archives\[0\]: file: expected a name that ends in one of .tar, .*found 'a.rar'"),
        ({"file": "a.zip", "md5": "ABC"}, r"md5: expected 32 hexadecimal digits, found 'ABC'"),
        ({"file": "a.zip", "sha256": "0" * 63}, "sha256: expected 64 hexadecimal digits"),
        ({"file": "a.zip", "bytes": -1}, "bytes: expected at least 1, found -1"),
        ({"file": "a.zip", "url": "https://a.org/\x1b[2J"}, "url: .*which has control characters"),
        ({"file": "a.zip", "size": 3}, r"archives\[0\]: unknown key 'size'"),
        ({"url": "https://example.org"}, r"archives\[0\]: missing key 'file'"),
    ],
)
def test_wrong_entries_are_named(tmp_path: Path, entry: dict[str, object], message: str) -> None:
    path = tmp_path / "own.yaml"
    path.write_text(yaml.safe_dump({"name": "own", "archives": [entry]}, sort_keys=False))
    with pytest.raises(ValueError, match=message):
        read_archives(path)


def test_archives_are_saved_with_a_manifest(tmp_path: Path) -> None:
    made = load_manifest("cifar10")
    assert made.archives[0].rename == {"test": "val"}
    save_manifest(made, tmp_path / "copy.yaml")
    assert load_manifest(tmp_path / "copy.yaml") == made
    assert isinstance(made, Manifest)


def test_an_archive_is_told_from_another_by_size_and_hashes(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    path.write_bytes(b"content")
    md5, sha256 = hashlib.md5(b"content").hexdigest(), hashlib.sha256(b"content").hexdigest()
    assert Archive("a.zip", bytes=7, md5=md5, sha256=sha256).problems(path) == []
    assert Archive("a.zip").problems(path) == [] and not Archive("a.zip").known
    assert Archive("a.zip", bytes=8).problems(path) == ["expected 8 bytes, found 7"]
    # A file of another size is not hashed, which can take minutes.
    assert Archive("a.zip", bytes=8, md5="0" * 32).problems(path) == ["expected 8 bytes, found 7"]
    assert Archive("a.zip", md5="0" * 32, sha256="1" * 64).problems(path) == [
        f"expected md5 {'0' * 32}, found {md5}", f"expected sha256 {'1' * 64}, found {sha256}"
    ]  # fmt: skip


def test_names_without_their_suffix() -> None:
    names = {"dtd-r1.0.1.tar.gz": "dtd-r1.0.1", "a.TGZ": "a", "b.tar": "b", "c.zip": "c", "d.jpg": "d.jpg"}
    assert {name: stem(name) for name in names} == names


def test_an_archive_is_found_by_its_name_in_any_format(tmp_path: Path) -> None:
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


@pytest.mark.parametrize(("name", "what"), [("set.tar.gz", "is a link to"), ("set.zip", "found a named pipe")])
def test_a_dangling_link_or_a_pipe_is_no_absent_archive(tmp_path: Path, name: str, what: str) -> None:
    link = name == "set.tar.gz"
    (tmp_path / name).symlink_to("gone") if link else os.mkfifo(tmp_path / name)
    data = DataSource("cifar10", str(tmp_path), str(tmp_path / "own.yaml"))
    (tmp_path / "own.yaml").write_text(f"name: own\narchives: [{{file: {name}}}]\n")
    with pytest.raises(DataError, match=f"{name}: .*{what}"):
        packed(tmp_path, [Archive(name)])
    assert what in str(look("classification", data))


@pytest.mark.parametrize("name", ["val", "val.tar"])
def test_a_dangling_link_or_a_pipe_is_no_absent_split(tmp_path: Path, name: str) -> None:
    (tmp_path / name).symlink_to("gone")
    with pytest.raises(DataError, match=f"{name}: is a link to gone, which is not there"):
        list_split(tmp_path, "val")
    (tmp_path / name).unlink()
    os.mkfifo(tmp_path / name)
    with pytest.raises(DataError, match=f"{name}: expected a regular file, found a named pipe"):
        list_split(tmp_path, "val")


def test_the_folder_around_everything_is_looked_through(tmp_path: Path) -> None:
    (tmp_path / "outer/inner").mkdir(parents=True)
    assert inside(tmp_path) == tmp_path / "outer"
    (tmp_path / "README").touch()
    assert inside(tmp_path) == tmp_path


@pytest.fixture
def root(project: Project) -> Path:
    """A manifest with three archives, of which two lie at the root."""
    folder = Path("sets")
    folder.mkdir()
    (folder / "a.zip").write_bytes(b"a")
    (folder / "b.tar").write_bytes(b"b")
    md5 = hashlib.md5(b"a").hexdigest()
    archives = [{"file": "a.zip", "md5": md5, "bytes": 1}, {"file": "b.tar"}, {"file": "c.tar", "md5": md5}]
    text = Path("colours.yaml").read_text() + yaml.safe_dump({"archives": archives})
    Path("colours.yaml").write_text(text)
    return folder


def check(root: Path, capsys: Capture) -> tuple[int, str]:
    code = main(["data", "check", "colours.yaml", "--root", str(root), "--archives"])
    found = capsys.readouterr()
    return code, found.out + found.err


def test_archives_at_a_root_are_compared(root: Path, capsys: Capture) -> None:
    code, said = check(root, capsys)
    assert code == 0
    assert "archives of colours at sets: as its manifest says" in said
    assert "a.zip: as stated (bytes, md5)." in said
    sha256 = hashlib.sha256(b"b").hexdigest()
    assert f"b.tar: no source states a size or hash of it; this one has sha256 {sha256}." in said
    assert "c.tar" not in said
    (root / "a.zip").write_bytes(b"x")
    code, said = check(root, capsys)
    assert code == 1
    assert f"a.zip: expected md5 {hashlib.md5(b'a').hexdigest()}, found {hashlib.md5(b'x').hexdigest()}" in said
    assert "it is damaged or of another version, get it again." in said
    code, said = check(root / "a.zip", capsys)
    assert code == 1 and "b.tar" not in said


def test_a_root_without_archives_is_told(root: Path, capsys: Capture) -> None:
    code, said = check(Path("data"), capsys)
    assert code == 1
    assert "data holds none of the archives that the manifest lists ('a.zip', 'b.tar', 'c.tar')" in said
