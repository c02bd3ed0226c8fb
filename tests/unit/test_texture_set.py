"""The generated texture set: its layout, its splits, and that no image can be found again in another part."""

from __future__ import annotations

import csv
import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from skimage.feature import local_binary_pattern

from lska.data.dtd import TextureSet, check_textures, read_textures
from lska.data.manifest import PARTS
from lska.data.synthetic import TEXTURES, TextureSettings, texture_image, texture_set, textures, write_texture_set
from lska.data.synthetic.scene import LUMA
from lska.data.synthetic.texture_set import FAMILIES, FIRST, instance_parts
from lska.evaluate.neighbours import texture_metrics

SMALL = TextureSettings(image_size=24, families=("grain", "dots", "weave"), per_part=4, crops=2, splits=2)
DEMO = TextureSettings()


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> TextureSet:
    """The set of the demo's size; read only."""
    root = tmp_path_factory.mktemp("textures") / "set"
    write_texture_set(root, DEMO)
    return read_textures(root)


@pytest.fixture(scope="module")
def pixels(demo: TextureSet) -> np.ndarray:
    """All images of the set, float32 (n, 48, 48, 3) in [0, 1]."""
    files = [demo.folder / "images" / name for name in demo.names]
    return np.stack([np.asarray(Image.open(file), dtype=np.float32) / 255 for file in files])


def files(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


def instances(root: Path) -> dict[str, tuple[str, int]]:
    """Family and instance of every image, by `<class>/<file>`."""
    with (root / "instances.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    return {row["path"].removeprefix("images/"): (row["texture"], int(row["instance"])) for row in rows}


def top1(demo: TextureSet, features: np.ndarray) -> float:
    """Better of the two distances, in percent."""
    found, _ = texture_metrics(np.ascontiguousarray(features, dtype=np.float32), demo.targets, demo.splits)
    return max(found["top1_cosine"]["value"], found["top1_euclidean"]["value"])


# Layout


def test_the_set_has_the_published_layout_and_passes_its_check(demo: TextureSet) -> None:
    assert len(demo) == 11 * 54 == 594 and demo.classes == tuple(sorted(FAMILIES)) == DEMO.class_names
    assert demo.names[0] == "checkers/checkers_0001.jpg" and demo.names[-1] == "weave/weave_0054.jpg"
    report = check_textures(DEMO.manifest("textures"), demo.folder, contents=True)
    assert report.ok and report.manifest == "textures"
    assert not check_textures(replace(DEMO, splits=2).manifest("textures"), demo.folder).ok


def test_images_have_the_size_asked_for_and_depend_on_nothing_but_their_own_key(tmp_path: Path) -> None:
    write_texture_set(tmp_path / "a", SMALL)
    larger = replace(SMALL, per_part=8, splits=5, families=("dots", "grain", "waves"))
    write_texture_set(tmp_path / "b", larger)
    for family in ("dots", "grain"):
        for number in range(1, 13):
            name = f"images/{family}/{family}_{number:04d}.jpg"
            assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
            assert Image.open(tmp_path / "a" / name).size == (24, 24)
    images = [texture_image(SMALL, "dots", number).tobytes() for number in range(12)]
    assert len(set(images)) == 12
    assert images[0] != texture_image(replace(SMALL, seed=1), "dots", 0).tobytes()


def test_equal_settings_give_equal_bytes_with_any_number_of_workers(tmp_path: Path) -> None:
    write_texture_set(tmp_path / "one", SMALL)
    write_texture_set(tmp_path / "two", SMALL, workers=2)
    assert files(tmp_path / "one") == files(tmp_path / "two")


def test_a_finished_set_is_left_alone_and_another_one_only_replaced_when_asked(tmp_path: Path) -> None:
    root = tmp_path / "set"
    counts = {"classes": 3, "images": 36, "splits": 2}
    assert write_texture_set(root, SMALL) == counts | {"written": 36}
    former = files(root)
    assert write_texture_set(root, SMALL, overwrite=True) == counts | {"written": 0}
    with pytest.raises(FileExistsError, match=r"other settings \(crops: 2, not 4\)"):
        write_texture_set(root, replace(SMALL, crops=4))
    assert files(root) == former
    assert write_texture_set(root, replace(SMALL, crops=4), overwrite=True)["written"] == 36
    assert json.loads((root / "settings.json").read_text())["settings"]["crops"] == 4


def test_an_interruption_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(texture_set, "_write_labels", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_texture_set(tmp_path / "set", SMALL)
    assert list(tmp_path.iterdir()) == []


# Splits


def test_no_instance_occurs_in_two_parts_of_a_split(demo: TextureSet) -> None:
    shown = instances(demo.folder)
    assert set(Counter(shown.values()).values()) == {DEMO.crops}
    for parts in demo.splits.values():
        seen = [{shown[demo.names[index]] for index in parts[part]} for part in PARTS]
        assert [len(found) for found in seen] == [11 * 9] * 3
        assert not seen[0] & seen[1] and not seen[0] & seen[2] and not seen[1] & seen[2]


def test_every_split_has_all_images_once_and_is_another_one(demo: TextureSet) -> None:
    for parts in demo.splits.values():
        assert sorted(index for part in PARTS for index in parts[part]) == list(range(len(demo)))
    for part in PARTS:
        assert len({demo.splits[number][part].tobytes() for number in demo.splits}) == DEMO.splits
    assert instance_parts(DEMO, "dots", 1) != instance_parts(replace(DEMO, seed=1), "dots", 1)
    assert instance_parts(DEMO, "dots", 1) != instance_parts(DEMO, "weave", 1)


def test_families_are_those_drawn_anew_for_every_instance() -> None:
    assert set(FAMILIES) == set(TEXTURES) - set(textures._PHOTOS)
    with pytest.raises(ValueError, match=r"families has unknown 'brick'; choose from checkers, .*weave$"):
        TextureSettings(families=("brick", "dots"))


def test_instances_are_new_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn, original = [], texture_set.texture_field
    monkeypatch.setattr(
        texture_set, "texture_field", lambda *given: drawn.append((given[0], given[1])) or original(*given)
    )
    for number in range(6):
        texture_image(SMALL, "dots", number)
    assert drawn == [("dots", FIRST + instance) for instance in (0, 0, 1, 1, 2, 2)]


# The task


def test_pixels_and_colours_do_not_give_the_texture_away(demo: TextureSet, pixels: np.ndarray) -> None:
    chance = 100 / len(demo.classes)
    assert top1(demo, pixels.mean(axis=(1, 2))) < 2 * chance
    assert top1(demo, pixels.reshape(len(demo), -1)) < 3 * chance
    assert top1(demo, (pixels @ LUMA).reshape(len(demo), -1)) < 3 * chance


def test_a_simple_texture_statistic_does(demo: TextureSet, pixels: np.ndarray) -> None:
    codes = [local_binary_pattern(np.rint(image @ LUMA * 255).astype(np.uint8), 8, 1, "uniform") for image in pixels]
    histograms = np.stack([np.bincount(code.astype(int).ravel(), minlength=10) for code in codes])
    assert top1(demo, np.sqrt(histograms)) > 60


@pytest.mark.parametrize("family", FAMILIES)
def test_textures_fill_the_image_with_contrast_and_without_clipping(family: str) -> None:
    for number in range(8):
        image = texture_image(DEMO, family, number)
        assert image.shape == (48, 48, 3) and image.dtype == np.uint8
        luma = image @ LUMA
        quarters = [luma[top : top + 24, left : left + 24] for top in (0, 24) for left in (0, 24)]
        assert np.ptp(luma) > 50 and min(quarter.std() for quarter in quarters) > 3
        assert 20 < image.mean() < 235


# Settings


@pytest.mark.parametrize(
    ("setting", "value", "expected"),
    [
        ("families", 12, "an integer from 2 to 11, found 12"),
        ("families", ("dots",), "at least 2 different names"),
        ("image_size", 8, "an integer from 16 to 4096, found 8"),
        ("per_part", 0, "an integer from 1 to 3333, found 0"),
        ("crops", 0, "an integer from 1 to 18, found 0"),
        ("crops", 4, "divide per_part, 18, since all images of an instance lie in one part, found 4"),
        ("splits", 0, "an integer from 1 to 1000, found 0"),
        ("share", (0.9, 0.6), "the smaller number first"),
        ("share", (0.9, 1.1), "a number from 0.1 to 1.0, found 1.1"),
        ("contrast", (0.0, 0.5), "a number from 0.1 to 1.0, found 0.0"),
        ("colour", 2, "a number from 0.0 to 1.0, found 2"),
        ("quality", 50, "an integer from 90 to 100, found 50"),
        ("seed", -1, "an integer from 0 to 4294967295, found -1"),
    ],
)
def test_settings_out_of_range_are_named(setting: str, value: object, expected: str) -> None:
    with pytest.raises(ValueError, match=f"^{setting} .*{expected}"):
        TextureSettings(**{setting: value})


def test_equal_numbers_of_other_types_are_one_setting() -> None:
    settings = TextureSettings(colour=0, share=(1, 1), families=11)
    assert settings.description() == TextureSettings(colour=0.0, share=(1.0, 1.0), families=FAMILIES).description()
