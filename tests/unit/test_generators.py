"""Settings under `generate` that cannot be kept are refused before anything is planned or made."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from syrupy.assertion import SnapshotAssertion

from lska.data.generators import SETTINGS, generator_settings
from lska.data.roots import unmakeable
from lska.provenance.files import read_yaml
from lska.provenance.metric_files import project_root
from lska.provenance.strict import merge
from lska.settings.scale import from_dict, load


@pytest.fixture(autouse=True)
def folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(project_root())


def read(scale: str, changes: dict[str, Any]) -> None:
    """As planning and preparing do."""
    from_dict(merge(read_yaml(Path(f"config/{scale}.yaml")), changes), "mine.yaml", unmakeable)


def perturbed(name: str, **settings: Any) -> dict[str, Any]:
    return {"robustness": {"sets": {name: {"generate": settings}}}}


def section(name: str, **settings: Any) -> dict[str, Any]:
    return {name: {"data": {"generate": settings}}}


IMPOSSIBLE: list[tuple[str, dict[str, Any]]] = [
    ("small", perturbed("c", images=9)),
    ("demo", perturbed("c", images=501)),
    ("demo", perturbed("c", family="c_bar")),
    ("demo", perturbed("c", resize=47, seed=-1, images=0, severities=[2, 2], quality=0)),
    ("demo", perturbed("c_bar", resize=None, image_size=31, family="d", severities=[1, 6])),
    ("demo", perturbed("a", candidates=19, kept=1, limit=1.5, extent=[0.1, 0.5], ground="black", quality=50)),
    ("demo", perturbed("a", classes=9)),
    ("demo", perturbed("r", classes=12)),
    ("small", {"robustness": {"sets": {"r": {"name": "x", "root": "x", "generate": {}}}}}),
    ("demo", perturbed("r", kept=11, per_class=0)),
    ("demo", perturbed("sketch", styles=["oil"], image_size=8)),
    ("demo", perturbed("sketch", styles=[])),
    ("demo", section("shape_texture", textures_per_shape=31, pose="free", shapes_per_class=0)),
    ("demo", section("shape_texture", textures_per_shape=1)),
    ("demo", section("shape_texture", textures_per_class=50)),
    ("demo", section("texture_knn", crops=4, share=[0.9, 0.6], contrast=[0.0, 0.5], families=["brick", "dots"])),
    ("demo", section("texture_knn", image_sise=4, splits=0, families=12, colour=2)),
    ("demo", section("detection", train_images=1)),
    ("demo", section("detection", train_images=0, classes=99, overlap=1.5, objects=[3, 1])),
    ("demo", section("segmentation", objects=[0, 1], classes=["circle", "cube"], image_size=8)),
    ("demo", {"data": {"generate": {"train_per_class": 1}}}),
    ("demo", {"data": {"generate": {"image_size": 64.0, "classes": True, "textures": ["plaid"], "turn": 270}}}),
    ("demo", {"data": {"generate": {"classes": ["star", "star"], "extent": 0.5, "clutter": "much", "contrast": 0.9}}}),
    ("demo", merge(perturbed("c", quality=0), section("texture_knn", splits=0))),
]


def test_what_cannot_be_kept_is_refused_with_its_file_and_all_problems(snapshot: SnapshotAssertion) -> None:
    said = []
    for scale, changes in IMPOSSIBLE:
        with pytest.raises(ValueError) as caught:
            read(scale, changes)
        said.append(str(caught.value))
    assert "\n".join(said) == snapshot


def test_the_fewest_and_the_most_images_are_accepted() -> None:
    for scale, numbers in (("small", (10, 10_000)), ("demo", (10, 500))):
        for images in numbers:
            read(scale, perturbed("c", images=images))


def test_every_generated_set_of_the_demo_has_its_settings_whatever_their_notation() -> None:
    demo = load([Path("config/demo.yaml")])
    assert {kind for kind, _ in demo.sources} == set(SETTINGS)
    for kind, data in demo.sources:
        assert isinstance(generator_settings(kind, data), SETTINGS[kind])
    with pytest.raises(ValueError, match="unknown kind of data 'depth'; choose from classification"):
        generator_settings("depth", demo.data)
    whole, fraction = (
        from_dict(merge(read_yaml(Path("config/demo.yaml")), {"data": {"generate": values}}), "mine.yaml").data
        for values in ({"turn": 60, "classes": 2}, {"turn": 60.0, "classes": ["bottle", "arrow"]})
    )
    first, second = (generator_settings("classification", data).description() for data in (whole, fraction))
    assert first == second
