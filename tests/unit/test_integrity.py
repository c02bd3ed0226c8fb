"""A check of class folders names every difference from their manifest."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path

from PIL import Image
from syrupy.assertion import SnapshotAssertion

from lska.data.manifest import Manifest, make_manifest
from lska.data.preparing import check_class_folders, render_report


def write_root(root: Path, per_class: int = 3) -> Path:
    for split in ("train", "val"):
        for label in ("ant", "bee"):
            folder = root / split / label
            folder.mkdir(parents=True)
            for i in range(per_class):
                Image.new("RGB", (9, 9), (i, len(split), ord(label[0]))).save(folder / f"{i}.jpg")
    return root


def described(root: Path) -> Manifest:
    return make_manifest(root, "insects", title="Insects", source="made here", terms="none")


def test_unchanged_data_pass_with_contents(tmp_path: Path) -> None:
    root = write_root(tmp_path / 'it\'s "data"')
    manifest = described(root)
    (root / "train" / "ant" / "notes.txt").write_text("")
    report = check_class_folders(manifest, root, contents=True)
    assert report.ok and report.digest == manifest.digest
    assert "as its manifest says" in render_report(report)
    assert "train: other entries, ignored (1): 'ant/notes.txt'." in render_report(report)


def more_classes(root: Path) -> None:
    for i in range(13):
        (root / "val" / f"x{i:02}").mkdir()


def few_and_many(root: Path) -> None:
    (root / "train" / "ant" / "0.jpg").unlink()
    for i in (7, 8):
        os.link(root / "train" / "bee" / "1.jpg", root / "train" / "bee" / f"{i}.jpg")


def no_bytes(root: Path) -> None:
    (root / "train" / "ant" / "0.jpg").write_bytes(b"")
    (root / "train" / "bee" / "2.jpg").unlink()
    (root / "train" / "bee" / "2.jpg").symlink_to(root / "gone.jpg")


def truncated(root: Path) -> None:
    path = root / "val" / "ant" / "1.jpg"
    path.write_bytes(path.read_bytes()[:-30])


BROKEN: dict[str, Callable[[Path], object]] = {
    "renamed class": lambda root: (root / "val" / "bee").rename(root / "val" / "wasp"),
    "thirteen more classes": more_classes,
    "too few and too many images": few_and_many,
    "renamed file": lambda root: (root / "train" / "ant" / "0.jpg").rename(root / "train" / "ant" / "zero.jpg"),
    "files without bytes": no_bytes,
    "truncated image": truncated,
    "replaced image": lambda root: (root / "val" / "ant" / "1.jpg").write_bytes(
        (root / "val" / "ant" / "2.jpg").read_bytes()
    ),
    "missing split": lambda root: (root / "val").rename(root / "validation"),
    "missing root": lambda root: root.rename(root.parent / "elsewhere"),
}


def test_every_difference_is_named(tmp_path: Path, snapshot: SnapshotAssertion) -> None:
    """Without reading an image, and with: damage, and other contents, show in the latter only."""
    said = []
    for what, spoil in BROKEN.items():
        root = write_root(tmp_path / what.replace(" ", "_") / "data")
        manifest = described(root)
        spoil(root)
        quick, full = check_class_folders(manifest, root), check_class_folders(manifest, root, contents=True)
        assert not full.ok and all(text in render_report(full) for text in full.findings)
        assert quick.ok == (what in ("truncated image", "replaced image"))
        assert set(quick.findings) <= set(full.findings)
        said += [f"{what}:", *(f"  {text}" for text in full.findings)]
    text = "\n".join(said).replace(str(tmp_path), "TMP")
    assert re.sub("sha256:[0-9a-f]{64}", "sha256:...", text) == snapshot
