"""Settings under `generate` that cannot be kept are refused before anything is planned or made."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from lska.data.generators import SETTINGS, check_generators, generator_settings
from lska.provenance.files import read_yaml
from lska.provenance.metric_files import project_root
from lska.provenance.strict import merge
from lska.settings.scale import from_dict, load


@pytest.fixture(autouse=True)
def folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(project_root())


def read(scale: str, changes: dict[str, Any]) -> None:
    """As planning and preparing do."""
    check_generators(from_dict(merge(read_yaml(Path(f"config/{scale}.yaml")), changes), "mine.yaml"), "mine.yaml")


def c(**settings: Any) -> dict[str, Any]:
    return perturbed("c", **settings)


def perturbed(name: str, **settings: Any) -> dict[str, Any]:
    return {"robustness": {"sets": {name: {"generate": settings}}}}


def section(name: str, **settings: Any) -> dict[str, Any]:
    return {name: {"data": {"generate": settings}}}


IMPOSSIBLE: list[tuple[str, dict[str, Any], str]] = [
    ("small", c(images=9), "sets.c.generate.images: 9 images cannot show each of the 10 classes of cifar10"),
    ("demo", perturbed("c_bar", images=9), "sets.c_bar.generate.images: 9 images cannot show each of the 10 classes"),
    ("demo", c(images=501), "sets.c.generate.images: shapes has 500 validation images, found 501; lower it"),
    ("small", c(images=10_001), "sets.c.generate.images: cifar10 has 10000 validation images, found 10001"),
    ("demo", c(resize=47), "robustness.sets.c.generate: resize must be an integer from 48 to 8192, found 47"),
    ("demo", c(family="c_bar"), "robustness.sets.c.generate.family: expected 'c', as the set is called, found 'c_bar'"),
    ("demo", c(seed=-1), "robustness.sets.c.generate: seed must be an integer from 0 to 4294967295, found -1"),
    ("demo", perturbed("a", candidates=19), "robustness.sets.a.generate: candidates must be an integer from 20 to"),
    ("demo", perturbed("a", classes=9), "sets.a.generate.classes: the networks are trained on the 10 classes"),
    ("demo", perturbed("r", classes=12), "sets.r.generate.classes: the networks are trained on the 10 classes"),
    ("small", {"robustness": {"sets": {"r": {"name": "x", "root": "x", "generate": {}}}}}, "classes of cifar10"),
    ("demo", perturbed("r", kept=11), "robustness.sets.r.generate: kept must be an integer from 2 to 10, found 11"),
    ("demo", perturbed("sketch", styles=["oil"]), "robustness.sets.sketch.generate: styles has unknown 'oil'"),
    ("demo", section("shape_texture", textures_per_shape=1), "textures_per_shape: no two images would share a shape"),
    ("demo", section("shape_texture", textures_per_class=50), "textures_per_class: 480 images are too few to show 500"),
    ("demo", section("texture_knn", crops=4), "texture_knn.data.generate: crops must divide per_part, 18,"),
    ("demo", section("texture_knn", image_sise=4), "image_sise"),
    ("demo", section("detection", train_images=1), "detection.data.generate.train_images: 1 training images are"),
    ("demo", section("segmentation", objects=[0, 1]), "segmentation.data.generate: objects"),
    ("demo", {"data": {"generate": {"train_per_class": 1}}}, "data.generate.train_per_class: 10 training images are"),
    ("demo", {"data": {"generate": {"image_size": 23}}}, "data.generate: image_size must be an integer from 24 to"),
]


def test_what_cannot_be_kept_is_refused_with_its_file() -> None:
    for scale, changes, expected in IMPOSSIBLE:
        with pytest.raises(ValueError) as caught:
            read(scale, changes)
        assert str(caught.value).startswith("mine.yaml: ") and expected in str(caught.value)


def test_wrong_settings_of_several_sets_are_named_at_once() -> None:
    changes = merge(c(quality=0), section("texture_knn", splits=0))
    with pytest.raises(ValueError, match=r"(?s)2 problem.*sets\.c\.generate: quality.*texture_knn.*splits"):
        read("demo", changes)


def test_the_fewest_and_the_most_images_are_accepted() -> None:
    for scale, numbers in (("small", (10, 10_000)), ("demo", (10, 500))):
        for images in numbers:
            read(scale, c(images=images))


def test_every_generated_set_of_the_demo_has_its_settings() -> None:
    demo = load([Path("config/demo.yaml")])
    assert {kind for kind, _ in demo.sources} == set(SETTINGS)
    for kind, data in demo.sources:
        assert isinstance(generator_settings(kind, data), SETTINGS[kind])
    with pytest.raises(ValueError, match="unknown kind of data 'depth'; choose from classification"):
        generator_settings("depth", demo.data)
