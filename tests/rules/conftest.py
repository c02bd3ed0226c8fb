"""One run of every rule, on a few images, in a folder with an awkward name; all tests here read its products."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from whole_project import SCALE, Project, copy_project


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A copy of the project in which `all` has run at the test scale, whose configuration is `scale.yaml` there."""
    copied = copy_project(tmp_path_factory.mktemp("work") / 'it\'s a "test" of mine')
    shutil.copy2(SCALE, copied.root / "scale.yaml")
    copied.snakemake("--configfile", "scale.yaml", "--", "all")
    (copied.root / "ran.json").write_text(json.dumps(copied.ran()), "utf-8")
    return copied


@pytest.fixture
def planned(made: Project, tmp_path: Path) -> Callable[..., dict[str, int]]:
    """Jobs by rule that a dry run would execute, with the configuration as `change` leaves it."""

    def count(*targets: str, change: Callable[[dict[str, Any]], object] | None = None) -> dict[str, int]:
        configuration = made.root / "scale.yaml"
        if change is not None:
            settings = yaml.safe_load(configuration.read_text("utf-8"))
            change(settings)
            configuration = tmp_path / "changed.yaml"
            configuration.write_text(yaml.safe_dump(settings), "utf-8")
        return made.planned("--configfile", str(configuration), "--", *(targets or ("all",)))

    return count
