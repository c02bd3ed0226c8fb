"""Texture sets in DTD's layout: reading their splits, and naming everything that is wrong with them."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image
from syrupy.assertion import SnapshotAssertion
from torchvision.datasets import DTD

from lska.data.dtd import check_textures, read_textures
from lska.data.entries import DataError
from lska.data.manifest import PARTS, TextureManifest, available, load_manifest

CLASSES = ("banded", "polka-dotted", "zigzagged")
NUMBERS = (2, 4, 7, 11)
"""File numbers of each class; DTD's have gaps too."""
SPLITS = {1: {"train": (7, 2), "val": (4,), "test": (11,)}, 2: {"train": (2, 4), "val": (11,), "test": (7,)}}
MANIFEST = TextureManifest("small", "", "", "", CLASSES, {"train": 2, "val": 1, "test": 1}, 2)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A small set in a folder `dtd`, whose parent is returned."""
    for label in CLASSES:
        folder = tmp_path / "dtd/images" / label
        folder.mkdir(parents=True)
        for number in NUMBERS:
            Image.new("RGB", (9, 8), (number, 0, 0)).save(folder / f"{label}_{number:04d}.jpg")
    (tmp_path / "dtd/labels").mkdir()
    for split, parts in SPLITS.items():
        for part, numbers in parts.items():
            lines = [f"{label}/{label}_{number:04d}.jpg\n" for label in CLASSES for number in numbers]
            labels(tmp_path, part, split).write_text("".join(lines))
    return tmp_path


def labels(root: Path, part: str, split: int) -> Path:
    return root / "dtd/labels" / f"{part}{split}.txt"


def append(root: Path, part: str, line: str) -> None:
    with labels(root, part, 1).open("a") as stream:
        stream.write(line)


def findings(root: Path, contents: bool = False) -> str:
    return "\n".join(check_textures(MANIFEST, root, contents).findings)


# Manifest


def test_the_bundled_manifest_is_that_of_the_published_set() -> None:
    manifest = load_manifest("dtd", "textures")
    assert available("textures") == ("dtd",)
    assert (len(manifest.classes), manifest.count / 47, manifest.count, manifest.splits) == (47, 120, 5640, 10)
    assert manifest.parts == {"train": 40, "val": 40, "test": 40}
    assert manifest.classes[0] == "banded" and manifest.classes[30] == "polka-dotted"


# Reading


def test_every_split_is_read_as_torchvision_reads_it(root: Path) -> None:
    (root / "outer").mkdir()
    (root / "outer/dtd").symlink_to(root)
    textures = read_textures(root)
    for number, parts in textures.splits.items():
        for part, indices in parts.items():
            other = DTD(str(root / "outer"), split=part, partition=number)
            assert [textures.names[i] for i in indices] == [f"{p.parent.name}/{p.name}" for p in other._image_files]
            assert textures.targets[indices].tolist() == other._labels


DAMAGE: dict[str, Callable[[Path], object]] = {
    "missing image": lambda root: (root / "dtd/images/banded/banded_0004.jpg").unlink(),
    "two parts": lambda root: append(root, "test", "banded/banded_0002.jpg\n"),
    "twice": lambda root: append(root, "test", "banded/banded_0011.jpg\n"),
    "unknown class": lambda root: append(root, "val", "plaid/plaid_0001.jpg\n"),
    "no path": lambda root: append(root, "val", "banded_0004.jpg\n"),
    "missing file": lambda root: labels(root, "test", 2).unlink(),
    "empty file": lambda root: labels(root, "test", 2).write_text("\n"),
    "named pipe": lambda root: (labels(root, "test", 2).unlink(), os.mkfifo(labels(root, "test", 2))),
    "Latin-1": lambda root: labels(root, "test", 2).write_bytes(b"\ncaf\xe9/1.jpg\n"),
    "no text": lambda root: labels(root, "test", 2).write_bytes(b"\xff\xfe\x00"),
}


def test_what_is_wrong_with_the_splits_is_named(root: Path, tmp_path: Path, snapshot: SnapshotAssertion) -> None:
    said = []
    for what, damage in DAMAGE.items():
        copy = Path(shutil.copytree(root / "dtd", tmp_path / what.replace(" ", "_") / "dtd")).parent
        assert not findings(copy)
        damage(copy)
        with pytest.raises(DataError, match=r"labels does not describe splits[\s\S]*restore the files") as caught:
            read_textures(copy)
        found = findings(copy)
        assert all(line.strip() in found for line in str(caught.value).splitlines()[1:-1])
        said.append(f"{what}: {found}")
    assert "\n".join(said).replace(str(tmp_path), "TMP") == snapshot


def test_a_root_of_something_else_is_refused_with_what_lies_there(root: Path) -> None:
    with pytest.raises(DataError, match="does not hold a texture set: .*found 'banded', "):
        read_textures(root / "dtd/images")
    for path in (root / "dtd/labels").iterdir():
        path.unlink()
    with pytest.raises(DataError, match="labels holds no split: expected train1.txt, val1.txt, test1.txt, found none"):
        read_textures(root)


# Check


def test_counts_are_compared_and_damage_is_found(root: Path) -> None:
    (root / "dtd/images/plaid").mkdir()
    Image.new("RGB", (8, 8)).save(root / "dtd/images/plaid/plaid_0001.jpg")
    text = labels(root, "val", 1).read_text()
    labels(root, "val", 1).write_text(text.replace("banded/banded_0004.jpg\n", ""))
    for part in PARTS:
        labels(root, part, 2).rename(labels(root, part, 5))
    folder = root / "dtd/images/banded"
    (folder / "banded_0002.jpg").write_bytes(b"")
    whole = (folder / "banded_0004.jpg").read_bytes()
    (folder / "banded_0004.jpg").write_bytes(whole[: len(whole) // 2])
    found = findings(root, contents=True)
    assert "images: class folders that are not in the manifest (1): 'plaid'." in found
    assert "images: 13 images, expected 12 (1 too many)." in found
    assert "images: files without bytes (1): 'banded/banded_0002.jpg'." in found
    assert f"images: images that cannot be decoded (2): {folder}/banded_0002.jpg: expected an image, found 0" in found
    assert "labels: missing splits (1): split 2." in found
    assert "labels: splits that are not in the manifest (1): split 5." in found
    assert "too few images in a part (1): val1.txt has 0 of banded, expected 1." in found


def test_the_listing_changes_with_images_and_with_splits(root: Path) -> None:
    before = read_textures(root).listing()
    assert len(before) == 12 + 6 and before == read_textures(root / "dtd").listing()
    path = labels(root, "train", 1)
    path.write_text("".join(reversed(path.read_text().splitlines(keepends=True))))
    changed = read_textures(root).listing()
    assert [line.split()[1] for line, old in zip(changed, before, strict=True) if line != old] == ["train1.txt"]
    Image.new("RGB", (64, 64)).save(root / "dtd/images/banded/banded_0002.jpg")
    assert sum(a != b for a, b in zip(read_textures(root).listing(), changed, strict=True)) == 1
