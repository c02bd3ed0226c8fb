"""Every kind of broken segmentation data is named by the complete check, and sound data pass."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import yaml
from dense_sets import copied, findings, write_ade
from PIL import Image

from lska.config import DataSource

Damage = Callable[[Path, Path], None]


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> DataSource:
    return write_ade(tmp_path_factory.mktemp("sets"))


@pytest.fixture
def data(sound: DataSource, tmp_path: Path) -> DataSource:
    return copied(sound, tmp_path)


def save(path: Path, array: np.ndarray) -> None:
    Image.fromarray(array).save(path)


def altered(path: Path, value: int) -> None:
    labels = np.array(Image.open(path))
    labels[3, 4] = value
    save(path, labels)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def test_sound_data_pass(data: DataSource, tmp_path: Path) -> None:
    assert findings("segmentation", data, tmp_path) == ""


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda image, label: label.unlink(), "images without label map (1): {image}"),
        (lambda image, label: image.unlink(), "label maps without image (1): {label}"),
        (lambda image, label: label.unlink(), "5 pairs of image and label map, expected 6 (1 too few)"),
        (lambda image, label: cut(image), "unreadable images (1): {image}: expected an image, found "),
        (lambda image, label: cut(label), "unreadable label maps (1): {label}: expected a label map, found "),
        (lambda image, label: label.write_bytes(b"no"), "{label}: expected a label map, found 2 bytes that cannot be"),
        (
            lambda image, label: (label.unlink(), os.mkfifo(label)),
            "{label}: expected a regular file, found a named pipe",
        ),
        (
            lambda image, label: (image.unlink(), os.mkfifo(image)),
            "{image}: expected a regular file, found a named pipe",
        ),
        (lambda image, label: image.rename(image.with_suffix(".JPG")), "5 pairs of image and label map, expected 6"),
        (
            lambda image, label: save(label, np.ones((40, 39), np.uint8)),
            "label maps of another size than their image (1): {label} is 39x40, the image 40x40",
        ),
        (lambda image, label: altered(label, 5), "label maps with values that are no class (1): {label}: 5"),
        (lambda image, label: altered(label, 255), "label maps with values that are no class (1): {label}: 255"),
        (
            lambda image, label: save(label, np.ones((40, 40, 3), np.uint8)),
            "cannot be used (Pillow's mode RGB, stored as RGB; save it as PNG with one channel",
        ),
    ],
)
def test_broken_pairs_are_named(data: DataSource, tmp_path: Path, damage: Damage, message: str) -> None:
    root = Path(data.root)
    image = root / "images" / "training" / "train_00000002.jpg"
    label = root / "annotations" / "training" / "train_00000002.png"
    damage(image, label)
    found = findings("segmentation", data, tmp_path)
    assert message.format(image=image, label=label) in found
    assert all(line.startswith("train: ") for line in found.splitlines())


def test_unlabelled_pixels_and_palettes_pass(data: DataSource, tmp_path: Path) -> None:
    folder = Path(data.root) / "annotations" / "training"
    altered(folder / "train_00000001.png", 0)
    labels = Image.open(folder / "train_00000002.png").copy()
    labels.putpalette(list(range(256)) * 3)
    labels.save(folder / "train_00000002.png")
    assert labels.mode == "P"
    assert findings("segmentation", data, tmp_path) == ""


def test_values_to_be_ignored_pass_where_the_manifest_lists_them(data: DataSource, tmp_path: Path) -> None:
    altered(Path(data.root) / "annotations" / "training" / "train_00000001.png", 255)
    own = tmp_path / "own.yaml"
    own.write_text(yaml.safe_dump(yaml.safe_load(Path(data.manifest or "").read_text()) | {"ignore": [255]}))
    assert "no class" in findings("segmentation", data, tmp_path)
    assert findings("segmentation", DataSource(data.name, data.root, str(own)), tmp_path) == ""


def test_a_missing_folder_is_named(data: DataSource, tmp_path: Path) -> None:
    folder = Path(data.root) / "annotations" / "validation"
    folder.rename(folder.with_name("valid"))
    assert findings("segmentation", data, tmp_path) == (
        f"val: {folder} is missing: expected a folder; restore it or correct the data root"
    )
