"""Fixtures of perturbed sets that several files of tests share."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from tiny_project import Project

if TYPE_CHECKING:
    from tiny_robustness import RobustProject

    from lska.robustness import PerturbedSet


@pytest.fixture
def robust(project: Project) -> RobustProject:
    """The tiny project with perturbed sets."""
    from tiny_robustness import make

    return make(project)


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Places of the images that were decoded by passes, in order."""
    from lska.evaluate.robustness import passes

    places: list[str] = []
    original = passes.decode
    monkeypatch.setattr(passes, "decode", lambda data, place: places.append(place) or original(data, place))
    return places


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two fast corruptions of each family are enough for what is recorded of a generated set."""
    from lska.data.perturbed.names import FAMILIES

    monkeypatch.setitem(FAMILIES, "c", ("brightness", "contrast"))
    monkeypatch.setitem(FAMILIES, "c_bar", ("brownish_noise", "sparkles"))


@pytest.fixture
def partial(project: Project) -> PerturbedSet:
    """A set of corruptions of which some parts are missing."""
    from perturbed_sets import write_partial

    return write_partial(project)
