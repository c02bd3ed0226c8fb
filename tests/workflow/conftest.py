"""A copy of the project, and a clone of a repository that has all of it."""

from __future__ import annotations

import random
import shutil
import subprocess
from pathlib import Path

import pytest
from whole_project import PROJECT, Project, copy_project

IDENTITY = ("-c", "user.name=Tester", "-c", "user.email=tester@example.org")
COMMITS = 5


@pytest.fixture
def project(tmp_path: Path) -> Project:
    """A fresh copy without results."""
    return copy_project(tmp_path / "project")


def git(folder: Path, *arguments: str) -> str:
    """What git answers in a folder; fails the test when it fails."""
    return subprocess.run(["git", *IDENTITY, *arguments], cwd=folder, check=True, capture_output=True, text=True).stdout


@pytest.fixture(scope="session")
def committed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository of everything that the project's git has, committed in arbitrary order."""
    folder = tmp_path_factory.mktemp("origin") / "project"
    listed = git(PROJECT, "ls-files", "-zco", "--exclude-standard").split("\0")
    names = [name for name in listed if (PROJECT / name).is_file()]
    assert len(names) > 500
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(PROJECT / name, folder / name, follow_symlinks=False)
    git(folder, "init", "-q", "-b", "main")
    random.Random(0).shuffle(names)
    for first in range(COMMITS):
        # Some of them lie where git ignores other files.
        git(folder, "add", "--force", "--", *names[first::COMMITS])
        git(folder, "commit", "-qm", f"Part {first}")
    return folder


@pytest.fixture
def clone(committed: Path, tmp_path: Path) -> Project:
    """A clone, without weights and without data."""
    git(tmp_path, "clone", "-q", str(committed), "clone")
    return Project(tmp_path / "clone")
