"""Generated sets: public layouts, exact labels, held-out instances, folders that are whole or as they were."""

from __future__ import annotations

import csv
import json
import os
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dense_sets import DETECTION, SEGMENTATION
from PIL import Image, JpegImagePlugin
from pycocotools.coco import COCO
from skimage.feature import local_binary_pattern

from lska.data.dtd import TextureSet, check_textures, read_textures
from lska.data.manifest import PARTS
from lska.data.synthetic import labelled
from lska.data.synthetic.dense_scenes import SMALLEST, SPLITS, annotated, dense_scene
from lska.data.synthetic.generated import GeneratedSet, write_set
from lska.data.synthetic.inspection_sets import FAMILIES, FIRST, TextureSettings, instance_parts
from lska.data.synthetic.labelled import (
    AdversarialSettings,
    ClassificationSettings,
    RenditionSettings,
    classification_scene,
    spread,
    write_adversarial_set,
)
from lska.data.synthetic.render import encode_jpeg, render
from lska.data.synthetic.scene import LUMA
from lska.data.synthetic.seeds import HELD_OUT
from lska.data.synthetic.textures import PHOTOS, TEXTURES
from lska.evaluate.inspecting import texture_metrics

SMALL = ClassificationSettings(image_size=32, classes=3, train_per_class=18, val_per_class=7)
TINY = ClassificationSettings(image_size=32, classes=2, train_per_class=3, val_per_class=1)
DRAWN = RenditionSettings(image_size=32, classes=6, kept=3, per_class=6, styles=("sketch", "texture", "flat"))
TEXTURED = TextureSettings(image_size=24, families=("grain", "dots", "weave"), per_part=4, crops=2, splits=2)
CHOSEN = AdversarialSettings(image_size=32, classes=4, kept=3, per_class=3, candidates=30)
REFERENCE = {"run": "van_tiny-lska-k23-s0", "md5": "0" * 32}

Judge = Callable[[list[Image.Image]], np.ndarray]


def files(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


def table(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as stream:
        return list(csv.DictReader(stream))


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image).astype(int)


def made(folder: Path, settings: GeneratedSet) -> Path:
    assert write_set(folder / "set", settings)
    return folder / "set"


@pytest.fixture(scope="module")
def labelled_set(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made(tmp_path_factory.mktemp("labelled"), SMALL)


# --- Any set ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("settings", [TINY, DRAWN, DETECTION, SEGMENTATION, TEXTURED], ids=lambda one: one.kind)
def test_a_set_is_written_once_and_replaced_where_its_settings_change(settings: GeneratedSet, tmp_path: Path) -> None:
    root, other = made(tmp_path, settings), replace(settings, seed=1)
    former = files(root)
    assert not write_set(root, settings) and files(root) == former
    assert write_set(root, other) and json.loads(former["settings.json"])["kind"] == settings.kind
    changed = files(root)
    images = [name for name in former if name.endswith("jpg")]
    assert images and all(former[name] != changed[name] for name in images)
    assert write_set(root, settings) and files(root) == former
    assert [path.name for path in tmp_path.iterdir()] == ["set"]


@pytest.mark.parametrize("present", [False, True])
def test_an_interruption_leaves_nothing_half_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, present: bool
) -> None:
    former, calls = files(made(tmp_path, TINY)) if present else {}, []

    def interrupted(image: np.ndarray, quality: int) -> bytes:
        calls.append(quality)
        if len(calls) == 5:
            raise KeyboardInterrupt
        return encode_jpeg(image, quality)

    with monkeypatch.context() as patch:
        patch.setattr(labelled, "encode_jpeg", interrupted)
        with pytest.raises(KeyboardInterrupt):
            write_set(tmp_path / "set", replace(TINY, seed=1))
    assert files(tmp_path / "set") == former
    assert [path.name for path in tmp_path.iterdir()] == (["set"] if present else [])
    assert write_set(tmp_path / "set", replace(TINY, seed=1))


@pytest.mark.parametrize("content", ["folder", "file", "broken"])
def test_a_root_of_other_origin_is_never_replaced(tmp_path: Path, content: str) -> None:
    root = tmp_path / "photos"
    if content == "file":
        root.write_text("mine")
    else:
        root.mkdir()
        (root / ("settings.json" if content == "broken" else "holiday.jpg")).write_text("mine")
    with pytest.raises(FileExistsError, match="photos exists and is no generated set"):
        write_set(root, TINY)
    assert [path.read_text() for path in (root, *root.rglob("*")) if path.is_file()] == ["mine"]


@pytest.mark.parametrize("mine", ["old copy", "edited", "link"])
def test_files_that_somebody_put_into_a_generated_set_are_never_replaced(tmp_path: Path, mine: str) -> None:
    root = made(tmp_path, TINY)
    path = root / ("labels.csv" if mine == "edited" else "train/arrow/holiday.jpg")
    if mine == "link":
        path.symlink_to(tmp_path / "nowhere")
    else:
        path.write_text("mine")
    if mine == "old copy":
        os.utime(path, (0, 0))
    former = {path: path.lstat().st_mtime_ns for path in root.rglob("*")}
    with pytest.raises(FileExistsError, match=f"later: '{path.relative_to(root)}'; move these elsewhere"):
        write_set(root, replace(TINY, seed=5))
    assert {path: path.lstat().st_mtime_ns for path in root.rglob("*")} == former
    path.unlink()
    assert write_set(root, replace(TINY, seed=5))


# --- Classification --------------------------------------------------------------------------------------------------


def test_folders_labels_and_pictures_agree(labelled_set: Path) -> None:
    rows = table(labelled_set / "labels.csv")
    assert sorted(row["path"] for row in rows) == [path for path in files(labelled_set) if path.endswith(".jpg")]
    assert len(rows) == 3 * (18 + 7)
    for row in rows:
        split, folder, name = row["path"].split("/")
        assert (split, folder) == (row["split"], row["shape"]) and name.startswith(f"{folder}_")
        with Image.open(labelled_set / row["path"]) as image:
            assert (image.format, image.size, image.mode) == ("JPEG", (32, 32), "RGB")
            assert JpegImagePlugin.get_sampling(image) == 0  # chroma at full resolution
            luma = np.asarray(image) @ LUMA / 255
        ground = np.median(np.concatenate([luma[0], luma[-1], luma[:, 0], luma[:, -1]]))
        y, x = np.nonzero(luma > ground + 0.12)
        measured = np.array([x.min(), y.min(), x.max() + 1, y.max() + 1])
        assert np.abs(measured - [int(row[name]) for name in ("x_min", "y_min", "x_max", "y_max")]).max() <= 2, row


def test_instances_are_fresh_and_disjoint_between_splits_and_textures_balanced(labelled_set: Path) -> None:
    rows = table(labelled_set / "labels.csv")
    for category, number in (("shape", "shape_instance"), ("texture", "texture_instance")):
        assert set(Counter((row[category], row[number]) for row in rows).values()) == {1}
        assert all((int(row[number]) >= HELD_OUT) == (row["split"] == "val") for row in rows)
    counts = Counter((row["shape"], row["texture"]) for row in rows if row["split"] == "train")
    shown = np.array([[counts[shape, texture] for texture in TEXTURES] for shape in SMALL.class_names])
    # 18 images over 16 textures leave two extra ones per class; they must not fall on the same textures.
    assert set(shown.ravel()) == {1, 2} and (shown.sum(axis=1) == 18).all() and (shown.sum(axis=0) <= 3 + 2).all()


def test_a_larger_set_contains_the_smaller(labelled_set: Path, tmp_path: Path) -> None:
    larger = files(made(tmp_path, replace(SMALL, classes=(*SMALL.class_names, "mug"), train_per_class=20)))
    assert all(larger[name] == content for name, content in files(labelled_set).items() if name.endswith(".jpg"))


def test_renditions_are_the_clean_sets_validation_scenes_in_styles_that_take_turns(tmp_path: Path) -> None:
    root = made(tmp_path, DRAWN)
    clean = ClassificationSettings(image_size=32, classes=6)
    assert sorted(path.name for path in root.iterdir() if path.is_dir()) == list(DRAWN.class_names)
    for shape in DRAWN.class_names:
        for number, style in enumerate(DRAWN.styles * 2):
            scene = classification_scene(clean, "val", shape, number)
            content = (root / shape / f"{style}_{number:05d}.jpg").read_bytes()
            assert content == encode_jpeg(render(scene, style), DRAWN.quality)
    found = json.loads((root / "settings.json").read_text())["settings"]
    assert (found["classes"], found["kept"]) == (list(clean.class_names), list(DRAWN.class_names))


def test_kept_classes_are_spread_over_the_sorted_names() -> None:
    names = RenditionSettings(classes=10).shape_names
    assert RenditionSettings(classes=10).class_names == RenditionSettings(classes=10, kept=10).class_names == names
    for kept in range(2, 11):
        positions = [names.index(name) for name in RenditionSettings(classes=10, kept=kept).class_names]
        assert len(set(positions)) == kept and max(np.diff(positions)) - min(np.diff(positions)) <= 1
    thousand = tuple(str(number) for number in range(1000))
    assert spread(thousand, 200) == thousand[2::5]


# --- Natural adversarial examples ------------------------------------------------------------------------------------


def by_pixels(pictures: list[Image.Image]) -> np.ndarray:
    """A judge whose answer follows from the pixels alone: everything is the class of the mean brightness."""
    means = np.array([np.asarray(picture).mean() for picture in pictures])
    return 0.9 * np.eye(4)[(means % 4).astype(int)] + 0.025


def scripted(*answers: tuple[float, float, float]) -> Judge:
    """A judge that gives candidate n of every class the nth answer, and the last one to all that follow: the
    probabilities of the right class, of the next kept one, and of the class that the set lacks."""
    names, kept = CHOSEN.shape_names, [CHOSEN.shape_names.index(name) for name in CHOSEN.class_names]
    (dropped,) = set(range(len(names))) - set(kept)
    calls: list[int] = []

    def judge(pictures: list[Image.Image]) -> np.ndarray:
        right, other = kept[len(calls) % 3], kept[(len(calls) + 1) % 3]
        calls.append(len(pictures))
        rows = np.zeros((len(pictures), 4))
        padded = [*answers, *[answers[-1]] * len(pictures)][: len(pictures)]
        rows[:, [right, other, dropped]] = padded
        return rows

    return judge


def numbers(root: Path, shape: str) -> list[int]:
    return [int(path.stem.split("_")[1]) for path in sorted((root / shape).iterdir())]


def test_only_wrong_and_improbable_candidates_are_kept_in_order(tmp_path: Path) -> None:
    answers = (
        *((0.9, 0.05, 0), (0.151, 0.8, 0)),  # right; too probable
        *((0.1, 0.05, 0.8), (0.1, 0.1, 0.8)),  # right among the kept classes; shares the highest probability of them
        *((0.1, 0.7, 0), (0.15, 0.8, 0)),  # kept, the second at the limit
        (0.01, 0.9, 0),
    )
    assert write_adversarial_set(tmp_path / "set", CHOSEN, scripted(*answers), REFERENCE)
    assert {shape: numbers(tmp_path / "set", shape) for shape in CHOSEN.class_names} == dict.fromkeys(
        CHOSEN.class_names, [4, 5, 6]
    )
    facts = json.loads((tmp_path / "set/candidates.json").read_text())
    assert facts == dict.fromkeys(CHOSEN.class_names, {"tried": 7, "kept": 3})
    found = json.loads((tmp_path / "set/settings.json").read_text())
    assert (found["kind"], found["reference"]) == ("adversarial", REFERENCE)


def test_what_is_judged_are_the_stored_pixels_once_for_a_set_and_its_reference(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    judged: dict[bytes, int] = {}

    def judge(pictures: list[Image.Image]) -> np.ndarray:
        judged.update((picture.tobytes(), index) for index, picture in enumerate(pictures))
        return by_pixels(pictures)

    root = tmp_path / "set"
    assert write_adversarial_set(root, CHOSEN, judge, REFERENCE)
    for path in root.glob("*/*.jpg"):
        picture, right = Image.open(path).convert("RGB"), CHOSEN.shape_names.index(path.parent.name)
        assert judged[picture.tobytes()] == int(path.stem.split("_")[1])
        assert by_pixels([picture])[0].argmax() != right
    former = files(root)
    judged.clear()
    assert not write_adversarial_set(root, CHOSEN, judge, REFERENCE) and not judged
    monkeypatch.setattr("lska.data.synthetic.labelled.BATCH", 7)
    assert write_adversarial_set(root, CHOSEN, judge, {"md5": "other"}) and judged
    assert {**files(root), "settings.json": former["settings.json"]} == former


def test_fewer_images_than_wanted_are_told_and_a_class_without_any_is_refused(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    judge = scripted(*[(0.9, 0.05, 0)] * 28, (0.1, 0.8, 0))
    assert write_adversarial_set(tmp_path / "set", CHOSEN, judge, REFERENCE)
    assert f"class {CHOSEN.class_names[0]}: 2 images instead of 3 from 30 candidates" in caplog.text
    former = files(tmp_path / "set")
    with pytest.raises(ValueError, match=r"'arrow': none of 30 candidates .*0\.15.*raise candidates or limit"):
        write_adversarial_set(tmp_path / "set", CHOSEN, scripted((0.9, 0.05, 0)), {"md5": "other"})
    assert files(tmp_path / "set") == former and [path.name for path in tmp_path.iterdir()] == ["set"]
    with pytest.raises(ValueError, match="reference classifier"):
        write_set(tmp_path / "other", CHOSEN)



# --- Detection and segmentation --------------------------------------------------------------------------------------


def test_boxes_masks_and_images_are_those_of_the_scenes(tmp_path: Path) -> None:
    root = made(tmp_path, DETECTION)
    for split in SPLITS:
        coco = COCO(root / "annotations" / f"instances_{split}2017.json")
        names = {number: entry["name"] for number, entry in coco.cats.items()}
        assert names == dict(enumerate(DETECTION.class_names, start=1)) and len(coco.imgs) == DETECTION.count(split)
        for number in range(DETECTION.count(split)):
            scene, found = dense_scene(DETECTION, split, number), coco.loadAnns(coco.getAnnIds(imgIds=[number + 1]))
            for entry, item in zip(found, scene.objects, strict=True):
                assert names[entry["category_id"]] == item.labels.shape
                assert (coco.annToMask(entry).astype(bool) == item.mask).all()
                left, top, width, height = entry["bbox"]
                assert (left, top, left + width, top + height) == item.box
                assert (entry["area"], entry["iscrowd"]) == (item.mask.sum(), 0)
                instances = item.labels.shape_instance, item.labels.texture_instance
                assert {instance >= HELD_OUT for instance in instances} == {split == "val"}
            image = pixels(root / f"{split}2017" / coco.imgs[number + 1]["file_name"])
            assert np.abs(image - render(scene)).mean() < 3  # JPEG
        assert sorted(coco.anns) == list(range(1, len(coco.anns) + 1))


def test_label_maps_are_those_of_the_scenes(tmp_path: Path) -> None:
    root = made(tmp_path, SEGMENTATION)
    assert SEGMENTATION.class_names == ("background", "arrow", "bottle", "circle")
    for number in range(SEGMENTATION.train_images):
        labels = pixels(root / "annotations" / "training" / f"train_{number + 1:08d}.png")
        assert (root / "images" / "training" / f"train_{number + 1:08d}.jpg").is_file()
        expected = np.ones_like(labels)
        for item in dense_scene(SEGMENTATION, "train", number).objects:
            expected[item.mask] = SEGMENTATION.class_names.index(item.labels.shape) + 1
        assert (labels == expected).all() and {1} < set(labels.ravel())
    larger = replace(DETECTION, train_images=900)
    assert (render(dense_scene(larger, "train", 5)) == render(dense_scene(SEGMENTATION, "train", 5))).all()


def test_an_object_that_is_all_but_hidden_is_not_annotated() -> None:
    whole = dense_scene(DETECTION, "train", 0)
    rest = np.zeros_like(whole.objects[0].mask)
    rest[20, 5 : 5 + SMALLEST - 1] = True
    enough = rest.copy()
    enough[21, 5] = True
    objects = tuple(replace(whole.objects[0], mask=mask) for mask in (rest, enough))
    assert [one["area"] for one in annotated(replace(whole, objects=objects), DETECTION.class_names)] == [SMALLEST]


# --- Textures --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def textures(tmp_path_factory: pytest.TempPathFactory) -> TextureSet:
    """The set of the demo's size; read only."""
    return read_textures(made(tmp_path_factory.mktemp("textures"), TextureSettings()))


def test_a_texture_set_has_the_published_layout_and_passes_its_check(textures: TextureSet) -> None:
    demo = TextureSettings()
    assert len(textures) == 11 * 54 == 594 and textures.classes == tuple(sorted(FAMILIES)) == demo.class_names
    assert textures.names[0] == "checkers/checkers_0001.jpg" and textures.names[-1] == "weave/weave_0054.jpg"
    assert check_textures(demo.manifest("textures"), textures.folder, contents=True).ok
    assert not check_textures(replace(demo, splits=2).manifest("textures"), textures.folder).ok
    assert set(FAMILIES) == set(TEXTURES) - set(PHOTOS)


def test_every_split_has_all_images_once_and_no_instance_in_two_parts(textures: TextureSet) -> None:
    rows = table(textures.folder / "instances.csv")
    shown = {row["path"].removeprefix("images/"): (row["texture"], int(row["instance"])) for row in rows}
    assert set(Counter(shown.values()).values()) == {2} and min(number for _, number in shown.values()) == FIRST
    for parts in textures.splits.values():
        assert sorted(index for part in PARTS for index in parts[part]) == list(range(len(textures)))
        seen = [{shown[textures.names[index]] for index in parts[part]} for part in PARTS]
        assert [len(found) for found in seen] == [11 * 9] * 3 and len(set.union(*seen)) == 11 * 27
    for part in PARTS:
        assert len({parts[part].tobytes() for parts in textures.splits.values()}) == 3
    demo = TextureSettings()
    others = instance_parts(replace(demo, seed=1), "dots", 1), instance_parts(demo, "weave", 1)
    assert instance_parts(demo, "dots", 1) not in others


def test_a_texture_statistic_tells_textures_apart_and_pixels_and_colours_do_not(textures: TextureSet) -> None:
    images = np.stack([pixels(textures.folder / "images" / name) for name in textures.names]) / 255

    def top1(features: np.ndarray) -> float:
        given = np.ascontiguousarray(features, dtype=np.float32), textures.targets, textures.splits
        found: dict[str, Any] = texture_metrics(*given)[0]
        return max(found["top1_cosine"]["value"], found["top1_euclidean"]["value"])

    chance, flat = 100 / len(textures.classes), images.reshape(len(textures), -1)
    assert top1(images.mean(axis=(1, 2))) < 2 * chance and top1(flat) < 3 * chance
    assert top1((images @ LUMA).reshape(len(textures), -1)) < 3 * chance
    codes = [local_binary_pattern(np.rint(image @ LUMA * 255).astype(np.uint8), 8, 1, "uniform") for image in images]
    assert top1(np.sqrt([np.bincount(code.astype(int).ravel(), minlength=10) for code in codes])) > 60
    for image in images[::7] * 255:
        luma = image @ LUMA
        quarters = [luma[top : top + 24, left : left + 24] for top in (0, 24) for left in (0, 24)]
        assert np.ptp(luma) > 50 and min(quarter.std() for quarter in quarters) > 3 and 20 < image.mean() < 235
