"""Shared fixtures: a small image set, a project that trains on it, and forked processes."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import tiny_dense
import yaml
from served_files import Server, serving
from tiny_dense import DenseProject
from tiny_project import CLASSES, RECIPE, SETTINGS, Project, in_child, write_images


def pytest_configure() -> None:
    """Set what torch reads when it is imported: tensors this small only lose by more threads."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(scope="session")
def image_set(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four classes of 19 training and 6 validation images of 32 pixels; read only."""
    root = tmp_path_factory.mktemp("images") / "colours"
    for label in CLASSES:
        write_images(root, "train", label, 19)
        write_images(root, "val", label, 6)
    return root


@pytest.fixture
def logging_as_before() -> Iterator[None]:
    """Undo what a command does to the logging of its process."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


@pytest.fixture
def project(tmp_path: Path, image_set: Path, monkeypatch: pytest.MonkeyPatch, logging_as_before: None) -> Project:
    """A project in an empty working folder whose `data` is a link to `image_set`."""
    from lska.data.manifest import make_manifest, save_manifest

    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("LSKA_WARM", raising=False)
    Path("data").symlink_to(image_set)
    Path("recipe.yaml").write_text(yaml.safe_dump(RECIPE), encoding="utf-8")
    Path("config.yaml").write_text(yaml.safe_dump(SETTINGS), encoding="utf-8")
    save_manifest(make_manifest(image_set, "colours"), Path("colours.yaml"))
    made = Project(tmp_path, SETTINGS)
    made.prepare(made.config())
    return made


@pytest.fixture(scope="module")
def dense_project(tmp_path_factory: pytest.TempPathFactory, image_set: Path) -> Iterator[DenseProject]:
    """A project with detection and segmentation, shared by the tests of a module, each with scales of its own."""
    folder = tmp_path_factory.mktemp("dense")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.delenv("LSKA_WARM", raising=False)
        yield tiny_dense.make(folder, image_set)


@pytest.fixture
def child() -> Callable[[Callable[[], Any]], int]:
    """Run a function in a forked process; gives its exit code, or minus the signal that ended it."""

    def run(body: Callable[[], Any]) -> int:
        process = in_child(body)
        process.join(120)
        if process.exitcode is None:
            process.kill()
            process.join()
            pytest.fail("the process did not end within two minutes")
        return process.exitcode

    return run


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """A server of files on this machine."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with serving() as found:
        yield found
