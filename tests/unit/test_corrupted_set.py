"""Corrupted sets: layout, choice of clean images, restarts, interruptions, refusals."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lska.data.entries import DataError
from lska.data.folders import Split, open_split
from lska.data.perturbed import corrupted_set
from lska.data.perturbed.corrupted_set import (
    CorruptionSettings,
    chosen_images,
    clean_image,
    corrupted_name,
    write_corrupted_set,
)
from lska.data.perturbed.names import FAMILIES, SEVERITIES, severity_folder
from lska.data.synthetic.generated import write_set
from lska.data.synthetic.labelled import ClassificationSettings
from lska.provenance.strict import build

SMALL = CorruptionSettings("c_bar", image_size=32, images=5, severities=(1, 4))
ORIGIN = {"name": "shapes", "digest": "sha256:0"}


def files(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


def cells(root: Path) -> list[str]:
    return sorted(str(path.relative_to(root)) for path in root.glob("*/*") if not path.name.startswith("."))


def hidden(root: Path) -> list[Path]:
    return [path for path in root.rglob("*") if path.name.startswith(".")]


def folders(names: tuple[str, ...], severities: tuple[int, ...] = SMALL.severities) -> list[str]:
    return sorted(f"{name}/{severity_folder('c_bar', name, level)}" for name in names for level in severities)


@pytest.fixture(scope="module")
def clean(tmp_path_factory: pytest.TempPathFactory) -> Split:
    root = tmp_path_factory.mktemp("sets") / "clean"
    write_set(root, ClassificationSettings(image_size=40, classes=3, train_per_class=1, val_per_class=4))
    return open_split(root, "val")


@pytest.fixture(scope="module")
def small_set(clean: Split, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("sets") / "c_bar"
    assert write_corrupted_set(clean, root, SMALL, ORIGIN) == 100
    return root


def write_images(folder: Path, **names: list[str]) -> Split:
    """A split `val` with black images of 32 pixels by class."""
    for label, images in names.items():
        (folder / "val" / label).mkdir(parents=True)
        for name in images:
            Image.new("RGB", (32, 32)).save(folder / "val" / label / name)
    return open_split(folder, "val")


def test_the_layout_is_the_published_one_and_a_complete_set_left_alone(
    small_set: Path, clean: Split, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [clean.samples[index].name for index in chosen_images(clean, 5, 0)]
    expected = {f"{cell}/{name}" for cell in folders(FAMILIES["c_bar"]) for name in names}
    assert set(files(small_set)) == expected | {"settings.json"} and "sparkles/5.00/" in " ".join(expected)
    with Image.open(small_set / min(expected)) as image:
        assert (image.format, image.size, image.mode) == ("JPEG", (32, 32), "RGB")
    stored = json.loads((small_set / "settings.json").read_text())
    assert (stored["origin"], stored["kind"]) == (ORIGIN, "corrupted")
    # 32 * 256 / 224 = 36.57
    assert (stored["settings"]["resize"], stored["settings"]["severities"]) == (37, [1, 4])
    monkeypatch.setattr(corrupted_set, "clean_image", lambda *arguments: pytest.fail("made again"))
    values = {"family": "c_bar", "image_size": 32, "images": 5, "severities": [4, 1], "resize": 37}
    assert write_corrupted_set(clean, small_set, build(CorruptionSettings, values, "x"), ORIGIN) == 0


def test_an_interruption_leaves_complete_cells_and_a_second_call_makes_the_rest(
    clean: Split, small_set: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, calls = tmp_path / "set", []

    def interrupted(*arguments) -> np.ndarray:
        calls.append(arguments)
        if len(calls) == 13:
            raise KeyboardInterrupt
        return clean_image(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(corrupted_set, "clean_image", interrupted)
        with pytest.raises(KeyboardInterrupt):
            write_corrupted_set(clean, root, SMALL, ORIGIN)
    # Two corruptions of five images were done, the third was under way.
    assert cells(root) == folders(FAMILIES["c_bar"][:2]) and hidden(root) == []
    (root / "sparkles/.1.00.0a1b2c3d.tmp.00").mkdir(parents=True)  # as a killed process leaves it
    kept = (root / cells(root)[0]).stat().st_ino
    assert write_corrupted_set(clean, root, SMALL, ORIGIN) == 80
    assert files(root) == files(small_set) and hidden(root) == []
    assert (root / cells(root)[0]).stat().st_ino == kept


SCRIPT = """
import sys
from pathlib import Path
from lska.data.folders import open_split
from lska.data.perturbed.corrupted_set import CorruptionSettings, write_corrupted_set

if __name__ == "__main__":
    settings = CorruptionSettings("c_bar", image_size=32, images=5, severities=(1, 4))
    origin = {"name": "shapes", "digest": "sha256:0"}
    write_corrupted_set(open_split(Path(sys.argv[1]), "val"), Path(sys.argv[2]), settings, origin, workers=2)
"""


def test_killed_processes_leave_complete_cells_and_the_same_bytes_in_the_end(
    clean: Split, small_set: Path, tmp_path: Path
) -> None:
    script, root = tmp_path / "script.py", tmp_path / "set"
    script.write_text(SCRIPT)
    process = subprocess.Popen([sys.executable, str(script), str(clean.root), str(root)], start_new_session=True)

    def group_lives() -> bool:
        try:
            os.killpg(process.pid, 0)
        except ProcessLookupError:
            return False
        return True

    deadline = time.monotonic() + 60
    try:
        while not cells(root) and time.monotonic() < deadline:
            time.sleep(0.002)
        process.send_signal(signal.SIGTERM)
        process.wait(30)
        while group_lives() and time.monotonic() < deadline:
            time.sleep(0.05)
        assert not group_lives()
    finally:
        if group_lives():
            os.killpg(process.pid, signal.SIGKILL)
    done = {name: content for name, content in files(root).items() if "/." not in name}
    assert len(done) > 5 and all(files(small_set)[name] == content for name, content in done.items())
    write_corrupted_set(clean, root, SMALL, ORIGIN)
    assert files(root) == files(small_set) and hidden(root) == []


@pytest.mark.parametrize("change", ["settings", "origin"])
def test_a_set_of_other_settings_is_replaced(
    clean: Split, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    monkeypatch.setitem(FAMILIES, "c_bar", fast := ("sparkles", "brownish_noise"))
    write_corrupted_set(clean, tmp_path, replace(SMALL, severities=SEVERITIES), ORIGIN)
    (tmp_path / "notes.txt").write_text("mine")
    settings, origin = (replace(SMALL, seed=1), ORIGIN) if change == "settings" else (SMALL, {"digest": "sha256:1"})
    assert write_corrupted_set(clean, tmp_path, settings, origin) == 20
    assert cells(tmp_path) == folders(fast) and (tmp_path / "notes.txt").read_text() == "mine"
    assert json.loads((tmp_path / "settings.json").read_text())["origin"] == origin and hidden(tmp_path) == []


def test_a_root_of_other_origin_is_never_touched(clean: Split, tmp_path: Path) -> None:
    (tmp_path / "settings.json").write_text("mine")
    with pytest.raises(FileExistsError, match="exists and is no generated set"):
        write_corrupted_set(clean, tmp_path, SMALL, ORIGIN)
    assert files(tmp_path) == {"settings.json": b"mine"}
    former = files(clean.root)
    with pytest.raises(FileExistsError, match="kind 'classification', not 'corrupted'"):
        write_corrupted_set(clean, clean.root, SMALL, ORIGIN)
    assert files(clean.root) == former


def test_images_are_resized_and_cropped_as_published(tmp_path: Path) -> None:
    (tmp_path / "val/a").mkdir(parents=True)
    ramp = np.repeat(np.arange(0, 240, 2, dtype=np.uint8)[None, :, None], 60, axis=0).repeat(3, axis=2)
    Image.fromarray(ramp).save(tmp_path / "val/a/wide.png")
    split = open_split(tmp_path, "val")
    cropped = clean_image(split, 0, shorter_side=40, image_size=32)
    # 120 x 60 becomes 80 x 40, of which columns 24 to 55 stay: 36 to 83 of the original.
    assert cropped.shape == (32, 32, 3)
    assert [cropped[0, 0, 0], cropped[0, -1, 0]] == pytest.approx([2 * 36.25, 2 * 82.75], abs=2)
    assert (clean_image(split, 0, shorter_side=60, image_size=60) == ramp[:, 30:90]).all()
    assert (replace(SMALL, image_size=224).shorter_side, replace(SMALL, resize=64).shorter_side) == (256, 64)


def test_images_are_spread_over_the_classes_and_more_contain_the_fewer(clean: Split, tmp_path: Path) -> None:
    for images in (1, 2, 3, 7, 12):
        chosen = chosen_images(clean, images, seed=3)
        assert chosen == sorted(set(chosen)) and set(chosen) <= set(chosen_images(clean, min(images + 1, 12), seed=3))
        counts = np.bincount([clean.samples[index].target for index in chosen], minlength=3)
        assert counts.sum() == images and counts.max() - counts.min() <= 1
    assert chosen_images(clean, None, seed=0) == list(range(12))
    assert len({tuple(chosen_images(clean, 3, seed)) for seed in range(8)}) > 3
    split = write_images(tmp_path, a=["0.png"], b=[f"{number}.png" for number in range(9)])
    assert [split.samples[index].target for index in chosen_images(split, 6, 0)] == [0, 1, 1, 1, 1, 1]


def test_names_and_numbers_that_cannot_be_kept_are_refused(clean: Split, tmp_path: Path) -> None:
    kept = ["a/ILSVRC2012_val_00000293.JPEG", "a/1.jpg", "a/2.jpeg", "a b/x.y.JPG"]
    assert [corrupted_name(name) for name in kept] == kept
    assert [corrupted_name(name) for name in ("a.b/x.y.png", "a/1.webp")] == ["a.b/x.y.jpg", "a/1.jpg"]
    with pytest.raises(DataError, match=r"several images would become a/one.jpg; rename or remove all but one"):
        chosen_images(write_images(tmp_path / "data", a=["one.jpg", "one.png"]), None, 0)
    with pytest.raises(DataError, match="has 12 images, expected at least 13; lower the setting images"):
        write_corrupted_set(clean, tmp_path / "set", replace(SMALL, images=13), ORIGIN)
    assert not (tmp_path / "set").exists()
