"""Corrupted sets: layout, choice of images, restarts, interruptions, refusals."""

import json
import logging
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
from lska.data.perturbed import generate
from lska.data.perturbed.clean import chosen_images
from lska.data.perturbed.generate import CorruptionSettings, write_corrupted_set
from lska.data.perturbed.names import FAMILIES, SEVERITIES, severity_folder
from lska.data.synthetic import ClassificationSettings, write_classification_set
from lska.provenance.strict import build

SMALL = CorruptionSettings("c_bar", image_size=32, images=5, severities=(1, 4))
ORIGIN = {"name": "shapes", "digest": "sha256:0"}
FAST = ("sparkles", "brownish_noise")


def files(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


def hidden(root: Path) -> list[Path]:
    return [path for path in root.rglob("*") if path.name.startswith(".")]


def cells(root: Path) -> list[str]:
    return sorted(str(path.relative_to(root)) for path in root.glob("*/*") if not path.name.startswith("."))


@pytest.fixture(scope="module")
def clean(tmp_path_factory: pytest.TempPathFactory) -> Split:
    root = tmp_path_factory.mktemp("sets") / "clean"
    write_classification_set(root, ClassificationSettings(image_size=40, classes=3, train_per_class=1, val_per_class=4))
    return open_split(root, "val")


@pytest.fixture(scope="module")
def small_set(clean: Split, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("sets") / "c_bar"
    counts = write_corrupted_set(clean, root, SMALL, ORIGIN)
    assert counts == {"cells": 20, "images": 5, "written": 100}
    return root


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(FAMILIES, "c_bar", FAST)


def test_the_layout_is_the_published_one(small_set: Path, clean: Split) -> None:
    names = [clean.samples[index].name for index in chosen_images(clean, 5, 0)]
    expected = {
        f"{corruption}/{severity_folder('c_bar', corruption, severity)}/{name}"
        for corruption in FAMILIES["c_bar"]
        for severity in SMALL.severities
        for name in names
    }
    assert set(files(small_set)) == expected | {"settings.json"}
    assert "sparkles/5.00/" in " ".join(expected)
    with Image.open(small_set / min(expected)) as image:
        assert (image.format, image.size, image.mode) == ("JPEG", (32, 32), "RGB")
    split = open_split(small_set / "sparkles", "5.00")
    assert split.classes == clean.classes
    assert len(split) == 5


def test_the_first_family_has_19_corruptions_in_numbered_folders(clean: Split, tmp_path: Path) -> None:
    settings = CorruptionSettings("c", image_size=32, images=1, severities=(2,))
    assert write_corrupted_set(clean, tmp_path / "c", settings, ORIGIN)["written"] == 19
    assert cells(tmp_path / "c") == sorted(f"{corruption}/2" for corruption in FAMILIES["c"])


def test_the_settings_say_what_the_set_was_made_from(small_set: Path) -> None:
    stored = json.loads((small_set / "settings.json").read_text())
    assert stored["origin"] == ORIGIN
    assert stored["kind"] == "corrupted"
    # 32 * 256 / 224 = 36.57
    assert stored["settings"]["resize"] == 37
    assert stored["settings"]["severities"] == [1, 4]
    assert stored["digest"].startswith("sha256:")


def test_every_image_draws_for_itself(clean: Split, tmp_path: Path) -> None:
    for number in range(2):
        (tmp_path / "data/val/grey").mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (32, 32), (128, 128, 128)).save(tmp_path / f"data/val/grey/{number}.png")
    settings = replace(SMALL, images=None, resize=32)
    write_corrupted_set(open_split(tmp_path / "data", "val"), tmp_path / "set", settings, ORIGIN)
    made = files(tmp_path / "set/sparkles")
    # Files that are no JPEGs are renamed.
    assert sorted(made) == ["1.00/grey/0.jpg", "1.00/grey/1.jpg", "5.00/grey/0.jpg", "5.00/grey/1.jpg"]
    assert made["5.00/grey/0.jpg"] != made["5.00/grey/1.jpg"]


def test_the_number_of_workers_does_not_matter(clean: Split, small_set: Path, tmp_path: Path) -> None:
    assert write_corrupted_set(clean, tmp_path / "set", SMALL, ORIGIN, workers=2)["written"] == 100
    assert files(tmp_path / "set") == files(small_set)


def test_a_complete_set_is_left_alone_and_said_so(
    clean: Split, small_set: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(generate, "clean_image", lambda *arguments: pytest.fail("made again"))
    same = replace(SMALL, severities=(4, 1), resize=37)
    with caplog.at_level(logging.INFO, "lska"):
        assert write_corrupted_set(clean, small_set, same, ORIGIN) == {"cells": 20, "images": 5, "written": 0}
    assert f"{small_set} already holds this set of 20 x 5 images" in caplog.text


def test_a_second_call_makes_what_is_missing(clean: Split, small_set: Path, tmp_path: Path, few: None) -> None:
    root = tmp_path / "set"
    write_corrupted_set(clean, root, SMALL, ORIGIN)
    complete, lost = files(root), root / "sparkles/1.00"
    lost.rename(root / "sparkles/.1.00.0a1b2c3d.tmp.00")
    kept = (root / "sparkles/5.00").stat().st_ino
    assert write_corrupted_set(clean, root, SMALL, ORIGIN) == {"cells": 4, "images": 5, "written": 5}
    assert files(root) == complete
    assert hidden(root) == []
    assert (root / "sparkles/5.00").stat().st_ino == kept


@pytest.mark.parametrize("failure", [KeyboardInterrupt, OSError(28, "No space left on device")])
def test_an_interruption_leaves_only_complete_cells(
    clean: Split, small_set: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failure: BaseException
) -> None:
    root, calls, read = tmp_path / "set", [], generate.clean_image

    def interrupted(*arguments) -> np.ndarray:
        calls.append(arguments)
        if len(calls) == 13:
            raise failure
        return read(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(generate, "clean_image", interrupted)
        with pytest.raises(failure if isinstance(failure, type) else type(failure)):
            write_corrupted_set(clean, root, SMALL, ORIGIN)
    # Two corruptions of five images were done, the third was under way.
    first, second = FAMILIES["c_bar"][:2]
    done = [f"{name}/{severity_folder('c_bar', name, s)}" for name in (first, second) for s in SMALL.severities]
    assert cells(root) == sorted(done)
    assert hidden(root) == []
    assert write_corrupted_set(clean, root, SMALL, ORIGIN)["written"] == 80
    assert files(root) == files(small_set)


SCRIPT = """
import sys
from pathlib import Path
from lska.data.folders import open_split
from lska.data.perturbed.generate import CorruptionSettings, write_corrupted_set

if __name__ == "__main__":
    settings = CorruptionSettings("c_bar", image_size=160, severities=(1, 4))
    split = open_split(Path(sys.argv[1]), "val")
    print(write_corrupted_set(split, Path(sys.argv[2]), settings, {}, workers=int(sys.argv[3])))
"""


def test_a_killed_process_leaves_complete_cells_and_no_workers(clean: Split, tmp_path: Path) -> None:
    script, root = tmp_path / "script.py", tmp_path / "set"
    script.write_text(SCRIPT)
    process = subprocess.Popen([sys.executable, str(script), str(clean.root), str(root), "2"], start_new_session=True)
    try:
        deadline = time.monotonic() + 60
        while not cells(root) and time.monotonic() < deadline:
            time.sleep(0.01)
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == -signal.SIGTERM
        while _group_lives(process.pid) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert not _group_lives(process.pid)
    finally:
        if _group_lives(process.pid):
            os.killpg(process.pid, signal.SIGKILL)
    done = cells(root)
    assert 0 < len(done) < 20
    assert {len(list((root / cell).glob("*/*.jpg"))) for cell in done} == {12}
    (root / "sparkles").mkdir(exist_ok=True)
    (root / "sparkles/.1.00.0a1b2c3d.tmp.00").mkdir()
    settings = CorruptionSettings("c_bar", image_size=160, severities=(1, 4))
    assert write_corrupted_set(clean, root, settings, {})["written"] == 12 * (20 - len(done))
    assert len(cells(root)) == 20
    assert hidden(root) == []


def _group_lives(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.parametrize("change", ["settings", "origin"])
def test_a_set_of_other_settings_is_replaced(clean: Split, tmp_path: Path, few: None, change: str) -> None:
    root = tmp_path / "set"
    write_corrupted_set(clean, root, replace(SMALL, severities=SEVERITIES), ORIGIN)
    (root / "notes.txt").write_text("mine")
    settings, origin = (replace(SMALL, seed=1), ORIGIN) if change == "settings" else (SMALL, {"digest": "sha256:1"})
    assert write_corrupted_set(clean, root, settings, origin)["written"] == 20
    assert cells(root) == sorted(f"{name}/{severity_folder('c_bar', name, s)}" for name in FAST for s in (1, 4))
    assert (root / "notes.txt").read_text() == "mine"
    assert json.loads((root / "settings.json").read_text())["origin"] == origin
    assert hidden(root) == []


def test_the_family_is_part_of_the_settings(clean: Split, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(FAMILIES, "c_bar", FAST)
    write_corrupted_set(clean, tmp_path / "set", SMALL, ORIGIN)
    monkeypatch.setitem(FAMILIES, "c", ("contrast",))
    write_corrupted_set(clean, tmp_path / "set", replace(SMALL, family="c"), ORIGIN)
    assert cells(tmp_path / "set") == ["contrast/1", "contrast/4"]


@pytest.mark.parametrize("content", ["holiday.jpg", "settings.json"])
def test_a_root_of_other_origin_is_never_touched(clean: Split, tmp_path: Path, content: str) -> None:
    (tmp_path / content).write_text("mine")
    with pytest.raises(FileExistsError, match="exists and is no generated set"):
        write_corrupted_set(clean, tmp_path, SMALL, ORIGIN)
    assert files(tmp_path) == {content: b"mine"}


def test_a_generated_set_of_another_kind_is_never_touched(clean: Split, tmp_path: Path) -> None:
    former = files(clean.root)
    with pytest.raises(FileExistsError, match="kind 'classification', not 'corrupted'"):
        write_corrupted_set(clean, clean.root, SMALL, ORIGIN)
    assert files(clean.root) == former


@pytest.mark.parametrize("workers", [1, 2])
def test_an_unreadable_image_is_named(tmp_path: Path, workers: int) -> None:
    write_classification_set(
        tmp_path / "clean", ClassificationSettings(image_size=32, classes=2, train_per_class=1, val_per_class=2)
    )
    split = open_split(tmp_path / "clean", "val")
    broken = Path(split.name(2))
    broken.write_bytes(broken.read_bytes()[:200])
    with pytest.raises(DataError, match=broken.name):
        write_corrupted_set(split, tmp_path / "set", replace(SMALL, images=None), ORIGIN, workers)
    assert cells(tmp_path / "set") == []
    broken.unlink()
    with pytest.raises(DataError, match=f"{broken.name}: no such file"):
        write_corrupted_set(split, tmp_path / "set", replace(SMALL, images=None), ORIGIN, workers)


def test_too_few_images_are_refused_before_anything_is_written(clean: Split, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="has 12 images, expected at least 13; lower the setting images"):
        write_corrupted_set(clean, tmp_path / "set", replace(SMALL, images=13), ORIGIN)
    assert not (tmp_path / "set").exists()


def test_settings_come_from_yaml() -> None:
    values = {"family": "c", "image_size": 64, "severities": [5, 1]}
    settings = build(CorruptionSettings, values, "robustness")
    assert settings == CorruptionSettings("c", 64, severities=(1, 5))
    assert (settings.shorter_side, CorruptionSettings("c", 224).shorter_side) == (73, 256)
    assert replace(settings, resize=64).shorter_side == 64


OUT_OF_RANGE: list[tuple[str, object, str]] = [
    ("family", "d", "must be one of c, c_bar, found 'd'"),
    ("image_size", 31, "an integer from 32 to 4096, found 31"),
    ("resize", 47, "an integer from 48 to 8192, found 47"),
    ("images", 0, "an integer from 1 to 10000000, found 0"),
    ("severities", (), "a tuple of at least one severity, found ()"),
    ("severities", [1], "a tuple of at least one severity, found [1]"),
    ("severities", (1, 6), "an integer from 1 to 5, found 6"),
    ("severities", (True,), "an integer from 1 to 5, found True"),
    ("severities", (2, 2), "must be different, found (2, 2)"),
    ("quality", 0, "an integer from 1 to 100, found 0"),
    ("seed", -1, "an integer from 0 to 4294967295, found -1"),
]


def test_settings_out_of_range_are_named() -> None:
    for setting, value, expected in OUT_OF_RANGE:
        with pytest.raises(ValueError) as caught:
            CorruptionSettings(**{"family": "c", "image_size": 48} | {setting: value})
        assert str(caught.value).startswith(f"{setting} must be ")
        assert expected in str(caught.value)
