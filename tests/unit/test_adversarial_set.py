"""The generated set of natural adversarial examples: what is kept, in which order, and what a failure leaves."""

import json
import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lska.data.synthetic import (
    HELD_OUT,
    AdversarialSettings,
    ClassificationSettings,
    adversarial,
    adversarial_scene,
    classification_scene,
    is_held_out,
    render,
    write_adversarial_set,
)

SMALL = AdversarialSettings(image_size=32, classes=4, per_class=3, candidates=30)
REFERENCE = {"run": "van_tiny-lska-k23-s0", "md5": "0" * 32}
NAMES = SMALL.class_names

Judge = Callable[[list[Image.Image]], np.ndarray]


def table(right: list[float], best: list[float], size: int = 4) -> Judge:
    """A judge that gives candidate n of each class, class after class, probability `right[n]`, the next `best[n]`."""
    calls: list[int] = []

    def judge(pictures: list[Image.Image]) -> np.ndarray:
        index, rest = len(calls), [(1 - r - b) / (size - 2) for r, b in zip(right, best, strict=True)]
        calls.append(len(pictures))
        rows = np.repeat(np.array(rest)[:, None], size, axis=1)
        rows[:, index], rows[:, (index + 1) % size] = right, best
        return rows[: len(pictures)]

    return judge


def by_pixels(pictures: list[Image.Image]) -> np.ndarray:
    """A judge whose answer follows from the pixels alone: everything is the class of the mean brightness."""
    means = np.array([np.asarray(picture).mean() for picture in pictures])
    scores = np.eye(len(NAMES))[(means % len(NAMES)).astype(int)]
    return 0.9 * scores + 0.1 / len(NAMES)


def files(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


def numbers(root: Path, shape: str) -> list[int]:
    return [int(path.stem.split("_")[1]) for path in sorted((root / shape).iterdir())]


def test_only_wrong_and_improbable_candidates_are_kept_in_order(tmp_path: Path) -> None:
    #        right        too probable  wrong and improbable, at the limit too   not reached
    right = [0.90, 0.145, 0.20, 0.151, 0.10, 0.02, 0.15, *([0.01] * 23)]
    best = [0.05, 0.144, 0.70, 0.800, 0.70, 0.90, 0.80, *([0.90] * 23)]
    settings = replace(SMALL, classes=8)
    names = settings.class_names
    judge = table(right, best, size=8)
    counts = write_adversarial_set(tmp_path / "set", settings, judge, REFERENCE)
    assert counts == {"classes": 8, "kept": 24, "candidates": 8 * 7, "written": 24}
    assert [path.name for path in sorted((tmp_path / "set").iterdir()) if path.is_dir()] == list(names)
    for shape in names:
        assert numbers(tmp_path / "set", shape) == [4, 5, 6]
    facts = json.loads((tmp_path / "set/candidates.json").read_text())
    assert facts == {shape: {"tried": 7, "kept": 3} for shape in names}


def test_the_right_class_may_not_share_the_highest_probability(tmp_path: Path) -> None:
    judge = table([0.25] * 29 + [0.1], [0.25] * 29 + [0.5])
    write_adversarial_set(tmp_path / "set", replace(SMALL, limit=0.3), judge, REFERENCE)
    assert numbers(tmp_path / "set", NAMES[0]) == [29]


def test_a_candidate_is_wrong_among_the_kept_classes_alone(tmp_path: Path) -> None:
    settings = replace(SMALL, classes=4, kept=2)
    dropped = [NAMES.index(name) for name in NAMES if name not in settings.class_names]
    kept = [NAMES.index(name) for name in settings.class_names]
    calls: list[int] = []

    def judge(pictures: list[Image.Image]) -> np.ndarray:
        right = kept[len(calls)]
        other = kept[1 - len(calls)]
        calls.append(len(pictures))
        rows = np.zeros((len(pictures), 4))
        # Taken for a class that the set lacks: once restricted to the kept ones, the first candidate would be right.
        rows[:, dropped[0]], rows[:, right], rows[:, other] = 0.8, 0.05, 0.15
        rows[0, right], rows[0, other] = 0.15, 0.05
        return rows

    write_adversarial_set(tmp_path / "set", settings, judge, REFERENCE)
    assert sorted(path.name for path in (tmp_path / "set").iterdir() if path.is_dir()) == list(settings.class_names)
    for shape in settings.class_names:
        assert numbers(tmp_path / "set", shape) == [1, 2, 3]


def test_what_is_judged_are_the_stored_pixels(tmp_path: Path) -> None:
    judged: dict[bytes, int] = {}

    def judge(pictures: list[Image.Image]) -> np.ndarray:
        judged.update((picture.tobytes(), index) for index, picture in enumerate(pictures))
        assert {(picture.mode, picture.size) for picture in pictures} == {("RGB", (32, 32))}
        return by_pixels(pictures)

    write_adversarial_set(tmp_path / "set", SMALL, judge, REFERENCE)
    lossless = 0
    for path in (tmp_path / "set").glob("*/*.jpg"):
        picture = Image.open(path).convert("RGB")
        number, right = int(path.stem.split("_")[1]), NAMES.index(path.parent.name)
        assert judged[picture.tobytes()] == number
        probabilities = by_pixels([picture])[0]
        assert probabilities.argmax() != right and probabilities[right] <= SMALL.limit
        lossless += picture.tobytes() == render(adversarial_scene(SMALL, path.parent.name, number)).tobytes()
    assert lossless == 0


def test_equal_arguments_give_equal_bytes_whatever_the_batch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = write_adversarial_set(tmp_path / "first", SMALL, by_pixels, REFERENCE)
    monkeypatch.setattr(adversarial, "BATCH", 7)
    assert write_adversarial_set(tmp_path / "second", SMALL, by_pixels, REFERENCE) == first
    assert files(tmp_path / "second") == files(tmp_path / "first")


def test_a_class_without_a_kept_image_is_named_and_nothing_remains(tmp_path: Path) -> None:
    calls: list[int] = []

    def judge(pictures: list[Image.Image]) -> np.ndarray:
        calls.append(len(pictures))
        right = len(calls) > 1  # the first class is always taken for the second
        return np.repeat(np.eye(4)[[1 if right else 3]], len(pictures), axis=0)

    with pytest.raises(ValueError, match=rf"'{NAMES[1]}': none of 30 candidates .*0\.15.*raise candidates or limit"):
        write_adversarial_set(tmp_path / "set", SMALL, judge, REFERENCE)
    assert list(tmp_path.iterdir()) == []


def test_fewer_images_than_wanted_are_kept_with_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    judge = table([0.9] * 28 + [0.1] * 2, [0.05] * 28 + [0.8] * 2)
    with caplog.at_level(logging.WARNING, "lska"):
        counts = write_adversarial_set(tmp_path / "set", SMALL, judge, REFERENCE)
    assert (counts["kept"], counts["candidates"]) == (8, 120)
    assert f"class {NAMES[0]}: 2 images instead of 3 from 30 candidates" in caplog.text


@pytest.mark.parametrize("present", [False, True])
def test_an_exception_in_the_judge_leaves_nothing_half_written(tmp_path: Path, present: bool) -> None:
    root = tmp_path / "set"
    if present:
        write_adversarial_set(root, SMALL, by_pixels, REFERENCE)
    former, calls = files(root), []

    def judge(pictures: list[Image.Image]) -> np.ndarray:
        calls.append(len(pictures))
        if len(calls) == 3:
            raise RuntimeError("out of memory")
        return by_pixels(pictures)

    with pytest.raises(RuntimeError, match="out of memory"):
        write_adversarial_set(root, replace(SMALL, seed=1), judge, REFERENCE, overwrite=True)
    assert len(calls) == 3
    assert files(root) == former
    assert [path.name for path in tmp_path.iterdir()] == (["set"] if present else [])


def test_a_written_set_is_not_judged_again_and_another_reference_refused(tmp_path: Path) -> None:
    def never(pictures: list[Image.Image]) -> np.ndarray:
        pytest.fail("judged again")

    first = write_adversarial_set(tmp_path / "set", SMALL, by_pixels, REFERENCE)
    assert first["written"] == first["kept"] > 0
    assert write_adversarial_set(tmp_path / "set", SMALL, never, REFERENCE) == first | {"written": 0}
    with pytest.raises(FileExistsError, match="reference: .*not .*other"):
        write_adversarial_set(tmp_path / "set", SMALL, never, {"md5": "other"})
    found = json.loads((tmp_path / "set/settings.json").read_text())
    assert (found["kind"], found["reference"]) == ("adversarial", REFERENCE)
    written = write_adversarial_set(tmp_path / "set", SMALL, by_pixels, {"md5": "other"}, overwrite=True)["written"]
    assert written == first["kept"]


@pytest.mark.parametrize(
    ("probabilities", "expected"),
    [
        (lambda count: np.full((count, 3), 1 / 3), r"shape \(30, 4\), found \(30, 3\)"),
        (lambda count: np.full((count - 1, 4), 1 / 4), r"shape \(30, 4\), found \(29, 4\)"),
        (lambda count: np.tile([2.0, -1.0, 0.5, -0.5], (count, 1)), "apply a softmax"),
        (lambda count: np.ones((count, 4)), "apply a softmax"),
        (lambda count: np.full((count, 4), np.nan), "found nan to nan"),
    ],
)
def test_a_judge_that_gives_no_probabilities_is_refused(
    tmp_path: Path, probabilities: Callable[[int], np.ndarray], expected: str
) -> None:
    with pytest.raises(ValueError, match=expected):
        write_adversarial_set(tmp_path / "set", SMALL, lambda pictures: probabilities(len(pictures)), REFERENCE)
    assert list(tmp_path.iterdir()) == []


def test_an_empty_reference_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="reference is empty"):
        write_adversarial_set(tmp_path / "set", SMALL, by_pixels, {})


def test_candidates_are_held_out_new_and_harder_than_the_clean_set() -> None:
    settings = AdversarialSettings()
    clean = ClassificationSettings(image_size=48)
    shares, lighter = [], 0
    for number in range(20):
        scene = adversarial_scene(settings, "star", number)
        item, usual = scene.objects[0], classification_scene(clean, "val", "star", number).objects[0]
        for name in ("shape_instance", "texture_instance"):
            assert is_held_out(getattr(item.labels, name))
            assert getattr(item.labels, name) > HELD_OUT + 1_000_000 * 16 > getattr(usual.labels, name)
        assert scene.background.texture is not None
        shares.append(item.mask.sum() / usual.mask.sum())
        lighter += sum(scene.background.paint.mean) > sum(item.paint.mean)
    assert np.mean(shares) < 0.9
    assert 0 < lighter < 20


@pytest.mark.parametrize(
    ("setting", "value", "expected"),
    [
        ("classes", 1, "an integer from 2 to 16, found 1"),
        ("kept", 1, "an integer from 2 to 10, found 1"),
        ("per_class", 0, "an integer from 1 to 1000000, found 0"),
        ("candidates", 19, "an integer from 20 to 1000000, found 19"),
        ("limit", 1.5, "a number from 0.0 to 1.0, found 1.5"),
        ("extent", (0.1, 0.5), "a number from 0.3 to 0.95, found 0.1"),
        ("clutter", float("nan"), "a number from 0.0 to 1.0, found nan"),
        ("ground", "black", "one of darker, lighter, either, found 'black'"),
        ("quality", 50, "an integer from 90 to 100, found 50"),
    ],
)
def test_settings_out_of_range_are_named(setting: str, value: object, expected: str) -> None:
    with pytest.raises(ValueError, match=f"^{setting} .*{expected}"):
        AdversarialSettings(**{setting: value})


def test_whole_numbers_are_the_same_setting_as_fractions() -> None:
    whole, fraction = AdversarialSettings(turn=60, limit=0), AdversarialSettings(turn=60.0, limit=0.0)
    assert json.dumps(whole.description()) == json.dumps(fraction.description())
