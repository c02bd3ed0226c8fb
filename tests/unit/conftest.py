"""Fixtures that several files of tests share."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from tiny_project import Project

if TYPE_CHECKING:
    from proven import Proven
    from table_helpers import Scale
    from tiny_dense import DenseProject
    from tiny_robustness import RobustProject

    from lska.pipeline.products import Plan
    from lska.settings.scale import Config
    from lska.tables.collect import Table


@pytest.fixture
def robust(project: Project) -> RobustProject:
    """The tiny project with perturbed sets."""
    from tiny_robustness import make

    return make(project)


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Places of the images that were decoded by passes, in order."""
    from lska.evaluate import measurement

    places: list[str] = []
    original = measurement.decode
    monkeypatch.setattr(measurement, "decode", lambda data, place: places.append(place) or original(data, place))
    return places


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two fast corruptions of each family are enough for what is recorded of a generated set."""
    from lska.data.perturbed.names import FAMILIES

    monkeypatch.setitem(FAMILIES, "c", ("brightness", "contrast"))
    monkeypatch.setitem(FAMILIES, "c_bar", ("brownish_noise", "sparkles"))


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Plan:
    """The demo's plan in an empty folder."""
    from plan_helpers import plan

    from lska.provenance.metric_files import project_root

    monkeypatch.chdir(project_root())
    found = plan("demo")
    monkeypatch.chdir(tmp_path)
    return found


@pytest.fixture(scope="session")
def proven_project(tmp_path_factory: pytest.TempPathFactory, image_set: Path) -> DenseProject:
    """A project in which a classifier and a segmentor were trained, measured and shown; read only."""
    import proven
    import tiny_dense

    folder = tmp_path_factory.mktemp("proven")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        made = tiny_dense.make(folder, image_set)
        proven.make(made)
    return made


@pytest.fixture
def scale(
    proven_project: DenseProject, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, logging_as_before: None
) -> Proven:
    """A copy of its own of `proven_project`, without data, as the working folder."""
    import proven

    proven.copy(proven_project.base.folder, tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("LSKA_WARM", raising=False)
    return proven.Proven(proven_project.base)


@pytest.fixture
def bare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Config:
    """The demo's configuration in a working folder without results."""
    from report_helpers import link_project

    from lska.settings.scale import load

    monkeypatch.chdir(tmp_path)
    link_project(tmp_path)
    return load([Path("config/demo.yaml")])


@pytest.fixture(scope="session")
def built_site(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Config]:
    """A working folder with invented results of all targets and their site; read only."""
    from report_helpers import full_site

    folder = tmp_path_factory.mktemp("site")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        return folder, full_site()


@pytest.fixture(scope="session")
def every_scale(tmp_path_factory: pytest.TempPathFactory) -> Scale:
    """A scale with invented metric files for all tables and figures; read only."""
    from table_helpers import demo

    return demo(tmp_path_factory.mktemp("every"))


@pytest.fixture(scope="session")
def every(every_scale: Scale) -> dict[str, Table]:
    """All tables and figures of `every_scale`."""
    from table_helpers import every_table

    return every_table(every_scale)
