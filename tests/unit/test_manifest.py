"""Manifests are read strictly, stand for their data by a digest, and a check names every difference."""

from __future__ import annotations

import dataclasses
import io
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
import yaml
from PIL import Image

from lska.data.check import check, render
from lska.data.folders import DataError
from lska.data.manifest import Manifest, SplitManifest, available, load_manifest, make_manifest, save_manifest

CIFAR10 = Path(__file__).resolve().parents[3] / "shared" / "data" / "cifar10"


def write_root(root: Path, per_class: int = 3) -> Path:
    for split in ("train", "val"):
        for label in ("ant", "bee"):
            folder = root / split / label
            folder.mkdir(parents=True)
            for i in range(per_class):
                Image.new("RGB", (9, 9), (i, len(split), ord(label[0]))).save(folder / f"{i}.jpg")
    return root


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write_root(tmp_path / 'it\'s "data"')


@pytest.fixture
def manifest(root: Path) -> Manifest:
    return make_manifest(root, "insects", title="Insects", source="made here", terms="none")


def test_imagenet_manifest() -> None:
    imagenet = load_manifest("imagenet1k")
    assert (imagenet.splits["train"].count, imagenet.splits["val"].count) == (1_281_167, 50_000)
    assert len(imagenet.classes) == 1000
    assert (imagenet.classes[0], imagenet.classes[-1]) == ("n01440764", "n15075141")
    assert imagenet.splits["train"].expected("n01440764") == (732, 1300)


def test_loading_imagenet_does_not_import_timm() -> None:
    code = (
        "import sys; from lska.data.manifest import load_manifest as f; f('imagenet1k'); print('timm' in sys.modules)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout == "False\n"


@pytest.mark.skipif(not CIFAR10.is_dir(), reason=f"needs the CIFAR-10 archives at {CIFAR10}")
def test_cifar10_archives_are_what_the_manifest_says() -> None:
    report = check(load_manifest("cifar10"), CIFAR10)
    assert report.findings == ()
    assert report.notes[0].startswith("train: 50,000 images in 10 classes")


def test_saved_manifests_come_back_equal(manifest: Manifest, tmp_path: Path) -> None:
    uneven = dataclasses.replace(
        manifest, splits={"train": SplitManifest(count=3, per_class=(1, 2), counts={"ant": 1, "bee": 2})}
    )
    for original in (manifest, uneven):
        save_manifest(original, tmp_path / "a b.yaml")
        assert load_manifest(tmp_path / "a b.yaml") == original


def test_digest_goes_by_the_data_and_not_by_the_wording(manifest: Manifest) -> None:
    reworded = dataclasses.replace(manifest, title="Other", source="elsewhere", terms="some")
    assert reworded.digest == manifest.digest
    fewer = {**manifest.splits, "val": dataclasses.replace(manifest.splits["val"], names=None)}
    for change in ({"name": "b"}, {"classes": ("ant", "bug")}, {"splits": fewer}):
        assert dataclasses.replace(manifest, **change).digest != manifest.digest


def test_folder_and_archive_have_the_same_manifest(root: Path, manifest: Manifest, tmp_path: Path) -> None:
    for split in ("train", "val"):
        with tarfile.open(tmp_path / f"{split}.tar", "w") as tar:
            tar.add(root / split, split)
    assert make_manifest(tmp_path, "insects").digest == manifest.digest


WRONG = """
name: 3
titel: T
source: S
terms: T
classes: [ant, bee]
splits:
  train: {count: many, per_class: [1, 2, 3], nmaes: x}
"""


def test_all_wrong_keys_and_types_are_named_at_once(tmp_path: Path) -> None:
    path = tmp_path / "wrong.yaml"
    path.write_text(WRONG)
    with pytest.raises(ValueError) as caught:
        load_manifest(path)
    text = str(caught.value)
    for part in (str(path), "'titel'", "missing key 'title'", "name: ", "'nmaes'", "count: ", "per_class: "):
        assert part in text, part


GOOD = {
    "name": "a", "title": "A", "source": "S", "terms": "T", "classes": ["ant", "bee"],
    "splits": {"val": {"count": 4, "per_class": [2, 2]}},
}  # fmt: skip


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"classes": ["bee", "ant"]}, "classes: expected distinct names in sorted order"),
        ({"classes": ["ant", "b" * 201]}, r"classes\[1\]: .* which has more than 200 bytes"),
        ({"classes": ["ant", "ant"]}, "classes: 'ant' is listed twice"),
        ({"classes": "no_such_package:list.txt"}, "install 'no_such_package'"),
        ({"classes": "timm:no_such_file.txt"}, "found 'timm:no_such_file.txt'"),
        ({"splits": {}}, "splits: expected at least one"),
        ({"splits": {"val": {"count": 5, "per_class": [2, 2]}}}, "val.count: expected 4 to 4 by per_class, found 5"),
        ({"splits": {"val": {"count": 4, "per_class": [3, 2]}}}, r"per_class: expected \[fewest, most\]"),
        ({"splits": {"val": {"count": 4, "per_class": [2, 2], "names": "abc"}}}, "names: expected sha256:"),
        ({"splits": {"val": {"count": 4, "per_class": [1, 3], "counts": {"ant": 1, "bee": 2}}}}, "sum of counts, 3"),
        ({"splits": {"val": {"count": 4, "per_class": [1, 3], "counts": {"ant": 1, "cow": 3}}}}, "exactly the classes"),
    ],
)
def test_contradictions_are_refused(tmp_path: Path, change: dict[str, object], message: str) -> None:
    path = tmp_path / "m.yaml"
    path.write_text(yaml.safe_dump(GOOD))
    assert load_manifest(path).splits["val"].count == 4
    path.write_text(yaml.safe_dump(GOOD | change))
    with pytest.raises(ValueError, match=message):
        load_manifest(path)


def test_a_manifest_by_any_ending_and_what_cannot_be_read_is_told(tmp_path: Path) -> None:
    for name in ("m.yml", "m.YAML"):
        (tmp_path / name).write_text(yaml.safe_dump(GOOD))
        assert load_manifest(tmp_path / name).splits["val"].count == 4
    (tmp_path / "link.yaml").symlink_to("gone")
    os.mkfifo(tmp_path / "pipe.yaml")
    for name, what in (("link", "is a link to gone, which is not there"), ("pipe", "found a named pipe")):
        with pytest.raises(ValueError, match=f"{name}.yaml: .*{what}"):
            load_manifest(tmp_path / f"{name}.yaml")


def test_unknown_manifest_lists_the_known_ones() -> None:
    assert {"cifar10", "imagenet1k"} <= set(available())
    with pytest.raises(DataError, match="no manifest 'imagenet': expected one of .*cifar10.*imagenet1k"):
        load_manifest("imagenet")


def test_unchanged_data_pass_with_contents(root: Path, manifest: Manifest) -> None:
    (root / "train" / "ant" / "notes.txt").write_text("")
    report = check(manifest, root, contents=True)
    assert report.ok and report.digest == manifest.digest
    text = render(report)
    assert "as its manifest says" in text
    assert "train: other entries, ignored (1): 'ant/notes.txt'." in text


def findings(manifest: Manifest, root: Path, contents: bool = False) -> list[str]:
    report = check(manifest, root, contents)
    assert not report.ok and all(text in render(report) for text in report.findings)
    return list(report.findings)


def test_missing_and_unexpected_classes(root: Path, manifest: Manifest) -> None:
    (root / "val" / "bee").rename(root / "val" / "wasp")
    assert findings(manifest, root) == [
        "val: missing classes (1 of 2): 'bee'.",
        "val: class folders that are not in the manifest (1): 'wasp'.",
    ]


def test_long_lists_are_cut_and_counted(root: Path, manifest: Manifest) -> None:
    for i in range(13):
        (root / "val" / f"x{i:02}").mkdir()
    unexpected, empty = findings(manifest, root)
    assert unexpected.endswith("'x09' and 3 more.") and "not in the manifest (13): 'x00'" in unexpected
    assert "class folders without images (13)" in empty


def test_too_few_and_too_many_images(root: Path, manifest: Manifest) -> None:
    (root / "train" / "ant" / "0.jpg").unlink()
    for i in (7, 8):
        os.link(root / "train" / "bee" / "1.jpg", root / "train" / "bee" / f"{i}.jpg")
    assert findings(manifest, root) == [
        "train: 7 images, expected 6 (1 too many).",
        "train: classes with too few images (1): ant has 2 of 3.",
        "train: classes with too many images (1): bee has 5 instead of 3.",
    ]


def test_renamed_file(root: Path, manifest: Manifest) -> None:
    (root / "train" / "ant" / "0.jpg").rename(root / "train" / "ant" / "zero.jpg")
    (text,) = findings(manifest, root)
    assert text.startswith("train: the file names differ although the counts agree")
    assert manifest.splits["train"].names in text


def test_empty_and_dangling_files(root: Path, manifest: Manifest) -> None:
    (root / "train" / "ant" / "0.jpg").write_bytes(b"")
    (root / "train" / "bee" / "2.jpg").unlink()
    (root / "train" / "bee" / "2.jpg").symlink_to(root / "gone.jpg")
    expected = ["train: files without bytes (1): 'ant/0.jpg'.", "train: files that cannot be opened (1): 'bee/2.jpg'."]
    assert findings(manifest, root) == expected
    *others, damaged = findings(manifest, root, contents=True)
    assert others == expected and damaged.startswith("train: images that cannot be decoded (2): ")
    assert f"{root}/train/ant/0.jpg: expected an image, found 0 bytes" in damaged
    assert f"{root}/train/bee/2.jpg: is a link to {root}/gone.jpg, which is not there" in damaged


def test_truncated_and_replaced_images_show_in_the_contents_only(root: Path, manifest: Manifest) -> None:
    whole = (root / "val" / "ant" / "1.jpg").read_bytes()
    (root / "val" / "ant" / "1.jpg").write_bytes(whole[:-30])
    assert check(manifest, root).ok
    (damaged,) = findings(manifest, root, contents=True)
    assert damaged.startswith(f"val: images that cannot be decoded (1): {root}/val/ant/1.jpg: expected an image")
    (root / "val" / "ant" / "1.jpg").write_bytes((root / "val" / "ant" / "2.jpg").read_bytes())
    (text,) = findings(manifest, root, contents=True)
    assert text.startswith("val: the contents differ") and manifest.splits["val"].contents in text


def test_missing_root_is_reported_once_and_a_missing_split_beside_the_rest(root: Path, manifest: Manifest) -> None:
    (text,) = findings(manifest, root / "absent")
    assert str(root / "absent") in text
    (root / "val").rename(root / "validation")
    (root / "train" / "ant" / "0.jpg").unlink()
    texts = findings(manifest, root)
    assert len(texts) == 3 and "has no 'val' split" in texts[2] and texts[1].endswith("ant has 2 of 3.")


def test_check_of_an_archive(manifest: Manifest, tmp_path: Path) -> None:
    for split in ("train", "val"):
        with tarfile.open(tmp_path / f"{split}.tar", "w") as tar:
            tar.addfile(tarfile.TarInfo(f"{split}/ant/0.jpg"), io.BytesIO())
    texts = findings(manifest, tmp_path)
    assert texts[:4] == [
        "train: missing classes (1 of 2): 'bee'.",
        "train: 1 images, expected 6 (5 too few).",
        "train: classes with too few images (1): ant has 1 of 3.",
        "train: files without bytes (1): 'ant/0.jpg'.",
    ]
