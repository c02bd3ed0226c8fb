"""Cue-conflict sets: the published layout read and checked, and the generated set in the same layout."""

from __future__ import annotations

import contextlib
import re
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from cue_sets import write_names
from PIL import Image
from syrupy.assertion import SnapshotAssertion

from lska.data.cue_conflict import (
    Instance,
    check_cue_conflict,
    imagenet_categories,
    read_cue_conflict,
)
from lska.data.entries import DataError
from lska.data.manifest import packaged_classes
from lska.data.synthetic.generated import write_set
from lska.data.synthetic.inspection_sets import (
    GROUND,
    CueConflictSettings,
    class_texture,
    combinations,
    cue_conflict_scene,
)
from lska.data.synthetic.render import render
from lska.data.synthetic.seeds import HELD_OUT

FEW = ("cat/cat10-dog1.png", "cat/cat2-dog3.png", "cat/cat2-cat1.png", "dog/dog1-cat1.png")
SMALL = CueConflictSettings(image_size=32, classes=4, shapes_per_class=3, textures_per_class=2, textures_per_shape=4)


# Reading


def test_names_become_categories_and_instances_sorted_by_number(tmp_path: Path) -> None:
    write_names(tmp_path, FEW)
    (tmp_path / "settings.json").write_text("{}")
    (tmp_path / "cat/.DS_Store").write_text("x")
    cues = read_cue_conflict(tmp_path)
    assert cues.names == ("cat/cat2-cat1.png", "cat/cat2-dog3.png", "cat/cat10-dog1.png", "dog/dog1-cat1.png")
    assert cues.categories == ("cat", "dog")
    assert cues.shapes == (Instance("cat", 2), Instance("cat", 10), Instance("dog", 1))
    assert [str(texture) for texture in cues.textures] == ["cat1", "dog1", "dog3"]
    assert cues.shape_category.tolist() == [0, 0, 0, 1]
    assert cues.texture_category.tolist() == [0, 1, 1, 0]
    assert cues.shape_instance.tolist() == [0, 0, 1, 2]
    assert cues.texture_instance.tolist() == [0, 2, 1, 0]
    assert cues.conflict.tolist() == [False, True, True, True]
    assert cues.read(3) == (tmp_path / "dog/dog1-cat1.png").read_bytes()


def test_what_is_wrong_with_a_set_is_named(tmp_path: Path, snapshot: SnapshotAssertion) -> None:
    """By listing it, as evaluation does, and by the complete check, which decodes every image too."""
    rng, said = np.random.default_rng(0), []
    pictures = {name: rng.integers(0, 255, (8, 8, 3), dtype=np.uint8) for name in FEW}

    def judged(root: Path) -> None:
        listed = ""
        with contextlib.suppress(DataError):
            listed = read_cue_conflict(root) and "listed"
        findings = check_cue_conflict(root, ("cat", "dog"), 2)[0].findings
        told = "\n  ".join([f"{root}: {listed or 'refused'}", *findings]).replace(str(tmp_path), "TMP")
        said.append(re.sub(r"found \d+ bytes", "found N bytes", told))

    for number, more in enumerate(
        ("", "dog/cat3-dog1.png", "cat/cat3-dog1.jpg", "cat/cat-dog1.png", "cat/cat02-dog3.png", "cow/cow1-dog1.png",
         "cat/cat1-cow1.png")
    ):  # fmt: skip
        root = tmp_path / str(number)
        for name in (*FEW, *([more] if more else [])):
            (root / name).parent.mkdir(exist_ok=True, parents=True)
            picture = pictures.get(name, rng.integers(0, 255, (8, 8, 3), dtype=np.uint8))
            Image.fromarray(picture).save(root / name, format="PNG")
        if more:
            judged(root)
    root = tmp_path / "0"
    report, facts, contents = check_cue_conflict(root, ("cat", "dog"), 2)
    assert (not report.ok) == (contents is None)
    assert facts == {
        "images": 4, "categories": 2, "shape_instances": 3, "texture_instances": 3, "without_conflict": 1,
    }  # fmt: skip
    (root / FEW[0]).write_bytes((root / FEW[0]).read_bytes()[:60])
    (root / FEW[1]).write_bytes(b"")
    (root / FEW[3]).write_bytes((root / FEW[2]).read_bytes())
    judged(root)
    for name in FEW[1:]:
        (root / name).unlink()
    judged(root)
    judged(tmp_path / "absent")
    (tmp_path / "empty").mkdir()
    judged(tmp_path / "empty")
    assert "\n".join(said) == snapshot


# The 16 categories


def test_the_categories_are_groups_of_imagenet_synsets_without_overlap() -> None:
    synsets = packaged_classes("timm:data/_info/imagenet_synsets.txt", "this test")
    groups = imagenet_categories()
    members = [name for group in groups.values() for name in group]
    assert len(members) == len(set(members)) == 207
    assert set(members) <= set(synsets)
    # The published lists of class indices, by their length where they are long.
    indices = {category: [synsets.index(name) for name in group] for category, group in groups.items()}
    assert {category: len(group) for category, group in indices.items() if len(group) > 8} == {"bird": 49, "dog": 109}
    assert {category: group for category, group in indices.items() if len(group) <= 8} == {
        "airplane": [404], "bear": [294, 295, 296, 297], "bicycle": [444, 671], "boat": [472, 554, 625, 814, 914],
        "bottle": [440, 720, 737, 898, 899, 901, 907], "car": [436, 511, 817], "cat": [281, 282, 283, 284, 285, 286],
        "chair": [423, 559, 765, 857], "clock": [409, 530, 892], "elephant": [385, 386], "keyboard": [508, 878],
        "knife": [499], "oven": [766], "truck": [555, 569, 656, 675, 717, 734, 864, 867],
    }  # fmt: skip
    breeds = set(range(152, 269)) - {192, 204, 227, 242, 251, 258, 260, 264}
    assert indices["dog"] == sorted(breeds)
    birds = [8, *range(10, 17), 18, 19, 20, 22, 23, 24, *range(80, 84), *range(87, 97), 98, 99, 100]
    assert indices["bird"] == [*birds, *range(127, 134), *range(135, 146)]


# The generated set


@pytest.fixture(scope="module")
def small_set(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("cues") / "small"
    assert write_set(root, SMALL)
    return root


def test_the_generated_set_reads_as_the_published_one(small_set: Path) -> None:
    assert check_cue_conflict(small_set, SMALL.class_names, SMALL.per_class)[0].ok
    cues = read_cue_conflict(small_set)
    assert len(cues.shapes) == 12 and len(cues.textures) == 8
    assert {cues.names[i] for i in range(12)} == {f"arrow/{p.name}" for p in (small_set / "arrow").iterdir()}
    with Image.open(cues.name(0)) as image:
        assert (image.format, image.size, image.mode) == ("PNG", (32, 32), "RGB")


def test_the_defaults_give_the_published_numbers_per_class() -> None:
    plan = combinations(CueConflictSettings(classes=16))
    assert len(plan) == len(set(plan)) == 1280
    assert len({item[:2] for item in plan}) == 160 and len({item[2:] for item in plan}) == 48
    assert sum(shape == texture for shape, _, texture, _ in plan) == 80
    assert set(Counter((shape, texture) for shape, _, texture, _ in plan).values()) == {5}
    assert set(Counter(item[2:] for item in plan).values()) == {26, 27}
    for shape in {item[:2] for item in plan}:
        assert len({texture for *one, texture, _ in plan if tuple(one) == shape}) == 8


def test_a_shape_keeps_its_pose_and_a_texture_its_colours_on_neutral_grey() -> None:
    settings = CueConflictSettings(image_size=48, classes=6)
    scenes = {item: cue_conflict_scene(settings, item) for item in combinations(settings)[::7]}
    by_shape: dict[tuple, list] = {}
    by_texture: dict[tuple, list] = {}
    for item, scene in scenes.items():
        (shown,) = scene.objects
        assert shown.labels.shape == item[0] and shown.labels.texture == class_texture(item[2])
        assert min(shown.labels.shape_instance, shown.labels.texture_instance) >= HELD_OUT
        by_shape.setdefault(item[:2], []).append(shown.coverage.tobytes())
        by_texture.setdefault(item[2:], []).append(shown.paint)
        pixels = render(scene)
        assert (pixels[shown.coverage == 0] == round(255 * GROUND)).all()
        luma = pixels @ [0.299, 0.587, 0.114] / 255
        assert luma[shown.mask].mean() - GROUND > 0.25
    for groups in (by_shape, by_texture):
        assert all(len(set(values)) == 1 for values in groups.values())
        assert len({values[0] for values in groups.values()}) == len(groups)
        assert any(len(values) > 1 for values in groups.values())


def test_each_image_may_have_a_pose_of_its_own() -> None:
    settings = CueConflictSettings(image_size=48, classes=4, pose="image")
    plan = [item for item in combinations(settings) if item[:2] == ("arrow", 1)]
    posed = [cue_conflict_scene(settings, item).objects[0] for item in plan]
    fixed = [cue_conflict_scene(replace(settings, pose="shape"), item).objects[0] for item in plan]
    assert len({item.coverage.tobytes() for item in posed}) == len(plan) == 8
    assert [(item.labels, item.paint) for item in posed] == [(item.labels, item.paint) for item in fixed]
