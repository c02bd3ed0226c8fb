"""One run of the whole demo in a copy of the project, in a folder with an awkward name, shared by the tests here."""

from __future__ import annotations

from pathlib import Path

import pytest
from whole_project import Project, copy_project


@pytest.fixture
def project(tmp_path: Path) -> Project:
    """A fresh copy without results."""
    return copy_project(tmp_path / "project")


@pytest.fixture(scope="session")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A copy in which the whole demo has run."""
    copied = copy_project(tmp_path_factory.mktemp("work") / 'it\'s a "demo" of mine')
    copied.snakemake("--", "all")
    return copied
