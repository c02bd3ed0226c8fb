"""Every kind of broken segmentation data is named by the complete check, and sound data pass."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import yaml
from dense_sets import copied, findings, write_ade
from PIL import Image
from syrupy.assertion import SnapshotAssertion

from lska.settings.scale import DataSource

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


DAMAGE: dict[str, Damage] = {
    "no label map": lambda image, label: label.unlink(),
    "no image": lambda image, label: image.unlink(),
    "cut image": lambda image, label: cut(image),
    "cut label map": lambda image, label: cut(label),
    "a pipe as label map": lambda image, label: (label.unlink(), os.mkfifo(label)),
    "another suffix": lambda image, label: image.rename(image.with_suffix(".JPG")),
    "another size": lambda image, label: save(label, np.ones((40, 39), np.uint8)),
    "value 255": lambda image, label: altered(label, 255),
    "colours": lambda image, label: save(label, np.ones((40, 40, 3), np.uint8)),
    "no folder": lambda image, label: label.parent.rename(label.parent.with_name("train")),
}


def test_broken_pairs_are_named(sound: DataSource, tmp_path: Path, snapshot: SnapshotAssertion) -> None:
    said = []
    assert findings("segmentation", sound, tmp_path) == ""
    for what, damage in DAMAGE.items():
        data = copied(sound, tmp_path / what)
        root = Path(data.root)
        damage(root / "images/training/train_00000002.jpg", root / "annotations/training/train_00000002.png")
        found = findings("segmentation", data, tmp_path)
        assert all(line.startswith("train: ") for line in found.splitlines())
        said.append(f"{what}: {found}")
    text = "\n".join(said).replace(str(tmp_path), "TMP")
    assert re.sub(r"found \d{3} bytes", "found N bytes", text) == snapshot


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
    assert findings("segmentation", DataSource(data.name, data.root, str(own)), tmp_path) == ""
