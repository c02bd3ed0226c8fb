"""`lska data import`: where pointers have a place, what they decide, and how git and DVC see them."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from archive_sets import pack
from importing_helpers import Capture, Served, archive, error, imported, manifest, repository, run, served

from lska.cli import main

__all__ = ["archive", "repository", "served"]  # fixtures

pytestmark = pytest.mark.usefixtures("logging_as_before")


@pytest.mark.parametrize(
    ("root", "message"),
    [
        ("../elsewhere", "lies outside the project"),
        ("data/link", "lies outside the project"),
        ("data/a/b", "data/a/b/things.tar.gz.dvc is no place for a pointer that git keeps: choose a folder"),
        ("src", "src/things.tar.gz.dvc is no place for a pointer that git keeps: choose a folder directly below data/"),
    ],
)
def test_a_root_without_place_for_a_pointer_is_refused(
    repository: Path, archive: Path, capsys: Capture, root: str, message: str
) -> None:
    manifest(archive, "md5")
    Path("data").mkdir()
    outside = repository.parent / "outside"
    outside.mkdir()
    Path("data/link").symlink_to(outside)
    assert imported(archive, "--root", root) == 1
    said = error(capsys)
    assert message in said
    if "outside" in message:
        assert "put the archive there by hand" in said and "lska data check NAME" in said
    assert not list(outside.iterdir()) and not Path(root, "things.tar.gz").exists()


def test_a_folder_that_is_no_project_is_told(
    tmp_path: Path, archive: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    monkeypatch.chdir(tmp_path)
    manifest(archive, "md5")
    assert imported(archive) == 1
    assert "is in no project with DVC" in error(capsys)
    assert not Path("data").exists()


@pytest.mark.parametrize(
    ("known", "message"), [(("md5",), "is not things.tar.gz: expected md5"), ((), "there already")]
)
def test_a_file_of_the_same_name_that_may_be_another_is_not_taken(
    repository: Path, archive: Path, capsys: Capture, known: tuple[str, ...], message: str
) -> None:
    manifest(archive, *known)
    place = Path("data/things/things.tar.gz")
    place.parent.mkdir(parents=True)
    place.write_bytes(b"mine")
    assert imported(archive) == 1
    assert message in error(capsys)
    assert place.read_bytes() == b"mine" and not place.with_name("things.tar.gz.dvc").exists()


def test_a_committed_pointer_decides_what_is_the_right_archive(
    repository: Path, archive: Path, served: Served, capsys: Capture
) -> None:
    """In a clone of a project whose pointers are committed, without its data."""
    manifest(archive)
    assert imported(served.address) == 0
    Path("data/things/things.tar.gz").unlink()
    before = Path("data/things/things.tar.gz.dvc").read_text()
    archive.write_bytes(archive.read_bytes() + b"changed upstream")
    assert imported(served.address) == 1
    assert "expected md5" in error(capsys)
    archive.write_bytes(archive.read_bytes().removesuffix(b"changed upstream"))
    assert imported(served.address) == 0
    assert Path("data/things/things.tar.gz").is_file()
    assert Path("data/things/things.tar.gz.dvc").read_text() == before


def test_pointers_are_pulled_alone_where_a_lab_commits_them(
    repository: Path, archive: Path, served: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest(archive, "md5")
    assert imported(served.address) == 0
    run("dvc", "remote", "add", "--quiet", "lab", str(tmp_path / "remote"))
    run("dvc", "push", "--quiet", "--remote", "lab", "data/things/things.tar.gz.dvc")
    run("git", "add", "--all")
    run("git", "commit", "--quiet", "--message", "ours")
    run("git", "clone", "--quiet", str(repository), str(tmp_path / "clone"))
    monkeypatch.chdir(tmp_path / "clone")
    assert [path.name for path in Path("data/things").iterdir()] == ["things.tar.gz.dvc"]
    run("dvc", "pull", "--quiet", "--remote", "lab", "data/things/things.tar.gz.dvc")
    assert Path("data/things/things.tar.gz").read_bytes() == archive.read_bytes()


@pytest.mark.parametrize("name", ["val.tar", "bccd.tar"])
def test_archives_of_ones_own_go_by_the_names_that_the_layouts_have(
    repository: Path, tmp_path: Path, name: str
) -> None:
    own = pack(tmp_path / "own" / name, {"val/cat/1.jpg": b"1"})
    data = {"val.tar": "cifar10", "bccd.tar": "bccd"}[name]
    assert main(["data", "import", data, "--from", str(own)]) == 0
    assert Path(f"data/{data}/{name}").is_file() and Path(f"data/{data}/{name}.dvc").is_file()


def test_what_git_ignores(repository: Path) -> None:
    def ignored(path: str) -> bool:
        return subprocess.run(["git", "check-ignore", "--quiet", path], check=False).returncode == 0

    paths: dict[str, Callable[[str], object]] = {
        "data/things/things.tar.gz": lambda path: Path(path).touch(),
        "data/things/train/cat/1.jpg": lambda path: Path(path).touch(),
        "data/loose.tar": lambda path: Path(path).touch(),
        "data/link": lambda path: Path(path).symlink_to("/tmp"),
    }
    for path, make in paths.items():
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        make(path)
        assert ignored(path), path
    assert not ignored("data/things/things.tar.gz.dvc")
    # Neither git nor DVC goes into folders of images.
    assert ignored("data/things/train")
    assert run("git", "status", "--porcelain", "data") == ""
