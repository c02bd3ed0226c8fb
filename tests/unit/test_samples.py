"""Sheets of sample predictions: what is drawn where, in which colours, and how large the files are."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.colors import to_hex
from PIL import Image

from lska.data.synthetic import SHAPES, SceneSettings, compose_scene, render
from lska.evaluate import samples
from lska.evaluate.samples import IGNORED, Instances, detection_sheet, segmentation_sheet
from lska.tables.sheets import LIMIT, class_colour

NONE = Instances(np.zeros((0, 4)), np.zeros(0, int), np.zeros(0))
CLASSES = ("cat", "dog", "hen")
BLACK = np.zeros((96, 96, 3), np.uint8)


def one(box: tuple[float, ...], label: int, score: float | None = None, masks: np.ndarray | None = None) -> Instances:
    return Instances(np.array([box], float), np.array([label]), None if score is None else np.array([score]), masks)


def pixels(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path).convert("RGB")).astype(int)


def painted(path: Path, label: int) -> np.ndarray:
    """Where the sheet has exactly the colour of a class."""
    return (pixels(path) == np.round(255 * np.array(class_colour(label)))).all(axis=-1)


def panels(path: Path, colour: tuple[int, int, int] = (0, 0, 0)) -> list[tuple[int, int, int]]:
    """First column, last column and lower edge of each panel of a one-row sheet of square images of one colour."""
    filled = (pixels(path) == colour).all(axis=-1).mean(axis=0) > 0.3
    edges = np.flatnonzero(np.diff(np.concatenate([[0], filled, [0]])))
    rows = np.flatnonzero((pixels(path) == colour).all(axis=-1).mean(axis=1) > 0.3)
    return [(int(a), int(b), int(rows[-1])) for a, b in zip(edges[::2], edges[1::2], strict=True)]


def test_boxes_are_drawn_at_their_pixels_in_the_colour_of_their_class(tmp_path: Path) -> None:
    path = tmp_path / "s.png"
    detection_sheet([BLACK], [one((24, 36, 72, 60), 0)], [one((12, 48, 84, 72), 1, 0.9)], CLASSES, path, "caption")
    places = panels(path)
    for (first, last, low), label, box in zip(places, (0, 1), ((24, 36, 72, 60), (12, 48, 84, 72)), strict=True):
        rows, columns = np.nonzero(painted(path, label)[: low + 1, first:last])
        scale = (last - first) / 96
        found = (columns.min() / scale, columns.max() / scale, 96 - (low - rows.max()) / scale)
        assert found == pytest.approx((box[0], box[2], box[3]), abs=1.0)
    assert not painted(path, 2).any()
    assert not painted(path, 1)[:, slice(*places[0][:2])].any()


def test_low_scores_are_left_out_and_the_sheet_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    remarks: list[str] = []
    monkeypatch.setattr(samples, "_remark", lambda axes, text: remarks.append(text))
    low, high = one((24, 36, 72, 60), 1, 0.29), one((24, 36, 72, 60), 1, 0.3)
    for number, items in enumerate((low, high, NONE)):
        detection_sheet([BLACK], [one((12, 12, 40, 40), 0)], [items], CLASSES, tmp_path / f"{number}.png", "")
        assert painted(tmp_path / f"{number}.png", 1).any() == (items is high)
    assert remarks == ["no score of 0.3 or more"] * 2


def test_only_the_best_predictions_of_a_crowd_are_drawn(tmp_path: Path) -> None:
    boxes = np.array([[4 * i, 4, 4 * i + 3, 90] for i in range(22)], float)
    crowd = Instances(boxes, np.array([2, 0, *[1] * 20]), np.array([0.4, 0.5, *[0.9] * 20]))
    detection_sheet([BLACK], [NONE], [crowd], CLASSES, tmp_path / "s.png", "")
    assert painted(tmp_path / "s.png", 1).any()
    assert not painted(tmp_path / "s.png", 0).any()
    assert not painted(tmp_path / "s.png", 2).any()


def test_names_are_left_out_of_crowded_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names: list[str] = []
    monkeypatch.setattr(samples, "_draw_name", lambda axes, box, text, colour: names.append(text))
    for count in (10, 11):
        boxes = np.array([[8 * i, 4, 8 * i + 6, 90] for i in range(count)], float)
        truth, scores = Instances(boxes, np.zeros(count, int)), np.full(count, 0.75)
        detection_sheet([BLACK], [truth], [Instances(boxes, truth.labels, scores)], CLASSES, tmp_path / "s.png", "")
    assert names == ["cat"] * 10 + ["cat 0.75"] * 10 + ["0.75"] * 11


def test_masks_are_translucent(tmp_path: Path) -> None:
    mask = np.zeros((1, 96, 96), bool)
    mask[0, 40:80, 20:60] = True
    truth = one((20, 40, 60, 80), 0, masks=mask)
    detection_sheet([BLACK + np.uint8(100)], [truth], [NONE], CLASSES, tmp_path / "s.png", "")
    (first, last, low), _ = panels(tmp_path / "s.png", (100, 100, 100))
    scale = (last - first) / 96
    inside = pixels(tmp_path / "s.png")[int(low - 26 * scale), int(first + 50 * scale)]
    assert inside == pytest.approx((100 + 255 * np.array(class_colour(0))) / 2, abs=2)


def test_label_maps_have_the_colours_of_their_classes_and_grey_where_nothing_is_scored(tmp_path: Path) -> None:
    truth, prediction = np.zeros((96, 96), int), np.ones((96, 96), np.uint8)
    truth[:, 24:48], truth[:, 48:] = 2, IGNORED
    segmentation_sheet([BLACK], [truth], [prediction], CLASSES, tmp_path / "s.png", "caption")
    ((first, last, low),) = panels(tmp_path / "s.png")
    grey = (pixels(tmp_path / "s.png") == 217).all(axis=-1)
    drawn = [*(painted(tmp_path / "s.png", label) for label in (0, 1, 2)), grey]
    counts = [int(where[: low + 1].sum()) for where in drawn]
    assert np.array(counts) / (last - first) ** 2 == pytest.approx([0.25, 1.0, 0.25, 0.5], abs=0.02)
    assert all(where[low + 1 :].any() for where in drawn)  # the legend


@pytest.mark.parametrize("size", [(480, 640), (640, 480)])
def test_sheets_stay_small_and_readable(size: tuple[int, int], tmp_path: Path) -> None:
    height, width = size
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, (height, width, 3), dtype=np.uint8) for _ in range(6)]  # nothing compresses worse
    truth = one((0.1 * width, 0.2 * height, 0.9 * width, 0.8 * height), 2)
    detection_sheet(images, [truth] * 6, [NONE] * 6, CLASSES, tmp_path / "d.png", "caption")
    labels = [rng.integers(0, 3, size) for _ in range(6)]
    segmentation_sheet(images, labels, labels, CLASSES, tmp_path / "s.png", "caption")
    for path in (tmp_path / "d.png", tmp_path / "s.png"):
        assert path.stat().st_size <= LIMIT
        assert Image.open(path).width >= 600


def test_small_images_are_enlarged(tmp_path: Path) -> None:
    scenes = [compose_scene(SceneSettings(image_size=96, objects=(2, 4), extent=(0.2, 0.5)), (i,)) for i in range(6)]
    truths = [
        Instances(
            np.array([item.box for item in scene.objects], float),
            np.array([SHAPES.index(item.labels.shape) for item in scene.objects]),
            masks=np.array([item.mask for item in scene.objects]),
        )
        for scene in scenes
    ]
    detection_sheet([render(s) for s in scenes], truths, [NONE] * 6, SHAPES, tmp_path / "s.png", "demo: detection")
    assert Image.open(tmp_path / "s.png").width / 4 > 3 * 96


def test_equal_arguments_give_equal_files_of_any_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import matplotlib

    labels = np.zeros((96, 96), int)
    segmentation_sheet([BLACK], [labels], [labels], CLASSES, tmp_path / "a.png", "caption")
    monkeypatch.setitem(matplotlib.rcParams, "font.size", 20.0)
    segmentation_sheet([BLACK], [labels], [labels], CLASSES, tmp_path / "b.png", "caption")
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_class_colours_are_fixed_and_differ() -> None:
    colours = [to_hex(class_colour(index)) for index in range(60)]
    assert colours[:2] == ["#0072b2", "#e69f00"]
    assert len(set(colours)) == 60
    assert class_colour(60) == class_colour(0)


MAPS = [np.zeros((96, 96), int)]


@pytest.mark.parametrize(
    ("draw", "message"),
    [
        (lambda path: detection_sheet([], [], [], CLASSES, path, ""), r"s\.png: expected images .* found 0 images"),
        (lambda path: detection_sheet([BLACK], [], [NONE], CLASSES, path, ""), "1 images, 0 truths, 1 predictions"),
        (lambda path: detection_sheet([BLACK[..., 0]], [NONE], [NONE], CLASSES, path, ""), r"image 0: .*\(96, 96\)"),
        (lambda path: detection_sheet([BLACK / 255], [NONE], [NONE], CLASSES, path, ""), "uint8 .* found float64"),
        (lambda path: detection_sheet([BLACK], [one((0, 0, 9, 9), 3)], [NONE], CLASSES, path, ""), r"0 to 2.*\[3\]"),
        (
            lambda path: detection_sheet(
                [BLACK], [one((0, 0, 9, 9), 0, masks=np.zeros((1, 9, 8), bool))], [NONE], CLASSES, path, ""
            ),
            r"image's \(96, 96\), found \(9, 8\)",
        ),
        (lambda path: segmentation_sheet([BLACK], [MAPS[0] + 3], MAPS, CLASSES, path, ""), r"image 0: .*found \[3\]"),
        (lambda path: segmentation_sheet([BLACK], MAPS, [MAPS[0][:9]], CLASSES, path, ""), r"found \(9, 96\)"),
    ],
)
def test_faulty_arguments_are_named_and_nothing_is_written(
    draw: Callable[[Path], Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=message):
        draw(tmp_path / "s.png")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "fields",
    [
        {"boxes": np.zeros((2, 4)), "labels": np.zeros(1, int)},
        {"boxes": np.zeros((1, 5)), "labels": np.zeros(1, int)},
        {"boxes": np.zeros((1, 4)), "labels": np.zeros(1, int), "scores": np.zeros(2)},
        {"boxes": np.zeros((1, 4)), "labels": np.zeros(1, int), "masks": np.zeros((9, 9), bool)},
    ],
)
def test_arrays_that_do_not_belong_together_are_refused(fields: dict[str, np.ndarray]) -> None:
    with pytest.raises(ValueError, match=r"expected boxes \(n, 4\).* found boxes"):
        Instances(**fields)


def test_the_file_is_a_palette_png(tmp_path: Path) -> None:
    segmentation_sheet([BLACK], MAPS, MAPS, CLASSES, tmp_path / "new" / "s.png", "a long caption " * 20)
    picture = Image.open(io.BytesIO((tmp_path / "new" / "s.png").read_bytes()))
    assert (picture.format, picture.mode, picture.convert("RGB").getpixel((0, 0))) == ("PNG", "P", (255, 255, 255))
