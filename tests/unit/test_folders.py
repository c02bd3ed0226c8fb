"""Class folders: what is listed, compared with a manifest, refused, and read as a torch data set."""

from __future__ import annotations

import io
import logging
import os
import pickle
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from syrupy.assertion import SnapshotAssertion
from torch.utils.data import DataLoader

from lska.data.entries import DataError
from lska.data.folders import GIVE_UP_AFTER, ImageDataset, Split, check_same_classes, open_split
from lska.data.manifest import Manifest, make_manifest
from lska.data.preparing import check_class_folders, render_report

IMAGES = {"cat/1.jpg": b"1", "cat/10.JPEG": b"10", "cat/2.png": b"2", 'sea bird/a\'b "c".jpg': b"3"}


def write(root: Path, files: dict[str, bytes]) -> Path:
    for name, data in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)
    return root


def test_a_split_lists_its_images_by_class_and_name(tmp_path: Path) -> None:
    root = tmp_path / 'it\'s "a" space'
    write(root / "elsewhere", IMAGES)
    (root / "train").mkdir()
    for label in ("cat", "sea bird"):
        (root / "train" / label).symlink_to(root / "elsewhere" / label)
    undecodable = os.fsdecode(b"caf\xe9.jpg")
    write(root / "elsewhere", {f"sea bird/{undecodable}": b"4"})
    extras = ("cat/.hidden.jpg", "cat/notes.txt", ".DS_Store", "loose.jpg", "cat/Thumbs.db", "cat/.1.jpg.abc.tmp.jpg")
    write(root / "train", dict.fromkeys(extras, b""))
    before = sorted(tmp_path.rglob("*"))
    split = pickle.loads(pickle.dumps(open_split(root, "train")))
    names = [*IMAGES, f"sea bird/{undecodable}"]
    assert list(split.samples) == [(name, int(not name.startswith("cat"))) for name in names]
    assert split.samples[-2:] == [(name, 1) for name in names[-2:]] and split.samples.names == names
    assert [split.read(index) for index in range(5)] == [*IMAGES.values(), b"4"]
    assert [split.size(index) for index in range(5)] == [1, 2, 1, 1, 1]
    assert split.name(0) == f"{root}/train/cat/1.jpg" and split.counts() == {"cat": 3, "sea bird": 2}
    assert sorted(split.ignored) == sorted(extras)
    assert sorted(tmp_path.rglob("*")) == before


def refused(root: Path, split: str = "train") -> str:
    with pytest.raises(DataError) as caught:
        open_split(root, split)
    return str(caught.value)


def test_what_is_no_split_is_named_with_what_to_do(tmp_path: Path, snapshot: SnapshotAssertion) -> None:
    said = [refused(tmp_path / "absent")]
    root = tmp_path / "it's"
    for name, files in {
        "another level": {"data/train/cat/1.jpg": b""},
        "ImageNet": {"ILSVRC2012_img_train.tar": b""},
        "empty class": {"train/cat/1.jpg": b"", "train/owl/notes.txt": b""},
        "nothing": {"train/notes.txt": b""},
        "packed classes": {"train/n01.tar": b"", "train/n02.tar": b""},
        "flat": {"train/1.jpg": b"", "train/2.jpg": b""},
    }.items():
        said.append(f"{name}: {refused(write(root / name, files))}")
    assert "\n".join(said).replace(str(tmp_path), "TMP") == snapshot


def test_what_is_no_regular_file_is_no_image(tmp_path: Path) -> None:
    write(tmp_path, {"train/cat/c.jpg": b""})
    os.mkfifo(tmp_path / "train/cat/a.jpg")
    (tmp_path / "train/cat/b.jpg").symlink_to(tmp_path / "gone.jpg")
    split = open_split(tmp_path, "train")
    assert split.read(2) == b""
    for index, message in enumerate(("expected a regular file, found a named pipe", "is a link to .*gone.jpg")):
        with pytest.raises(DataError, match=f"cat/[ab].jpg: {message}"):
            split.read(index)


def test_splits_with_different_classes_are_refused(tmp_path: Path) -> None:
    write(tmp_path, {f"{place}.jpg": b"" for place in ("train/a/1", "train/b/1", "val/b/1", "val/c/1")})
    train, val = open_split(tmp_path, "train"), open_split(tmp_path, "val")
    check_same_classes(train, train)
    with pytest.raises(DataError, match="Only in train: 'a'. Only in val: 'c'"):
        check_same_classes(train, val)


def test_looking_at_data_imports_neither_torch_nor_timm() -> None:
    code = "import sys; from lska.data.manifest import load_manifest; from lska.data import preparing\n"
    code += "load_manifest('imagenet1k'); print({'torch', 'timm'} & set(sys.modules))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout == "set()\n"


# --- Compared with a manifest ----------------------------------------------------------------------------------------


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


# --- As a torch data set ---------------------------------------------------------------------------------------------


UNREADABLE = (2, 3, 7)


def encoded(shade: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), (shade, 0, 0)).save(buffer, "PNG")
    return buffer.getvalue()


def brightness(image: Image.Image) -> int:
    return int(np.asarray(image)[0, 0, 0])


def written(root: Path, count: int = 12, broken: tuple[int, ...] = UNREADABLE) -> Split:
    """Image i has shade i and class i // 5; the broken ones are cut short."""
    for i in range(count):
        path = root / f"train/c{i // 5:02}/{i:02}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encoded(i)[: 30 if i in broken else None])
    return open_split(root, "train")


EXPECTED = [(i if i not in UNREADABLE else 4 if i < 5 else 8) for i in range(12)]


def test_unreadable_images_are_replaced_by_the_next_and_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    data = ImageDataset(written(tmp_path), brightness, on_error="skip")
    with caplog.at_level(logging.WARNING):
        samples = [data[i] for i in range(len(data))]
    assert samples == [(shade, shade // 5) for shade in EXPECTED]
    # Number 3 is met from 2 and from 3.
    assert data.skipped == 4
    assert f"{tmp_path}/train/c00/02.png" in caplog.text
    assert len([entry for entry in caplog.records if entry.levelname == "WARNING"]) == 4


def test_evaluation_refuses_unreadable_images(tmp_path: Path) -> None:
    data = ImageDataset(written(tmp_path))
    assert data[0][0].getpixel((0, 0)) == (0, 0, 0) and data[11][1] == 2
    with pytest.raises(DataError, match=r"train/c00/02\.png: expected an image, found 30 bytes"):
        data[2]
    assert data.skipped == 0


@pytest.mark.parametrize("run", [GIVE_UP_AFTER - 1, GIVE_UP_AFTER])
def test_gives_up_after_fifty_unreadable_images_in_a_row(tmp_path: Path, run: int) -> None:
    data = ImageDataset(written(tmp_path, 60, tuple(range(run))), brightness, on_error="skip")
    if run < GIVE_UP_AFTER:
        assert data[0][0] == run
    else:
        with pytest.raises(DataError, match="50 unreadable images in a row"):
            data[0]
    assert data.skipped == run


def test_skips_of_workers_are_seen(tmp_path: Path) -> None:
    data = ImageDataset(written(tmp_path), brightness, on_error="skip")
    loader = DataLoader(data, batch_size=2, num_workers=2)
    shades = [shade for images, _ in loader for shade in images.tolist()]
    assert shades == EXPECTED
    assert data.skipped == 4
