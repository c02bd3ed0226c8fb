"""Sheets of pictures: what is drawn where, in which colours, and how large the files are."""

from __future__ import annotations

from pathlib import Path

import matplotlib
import numpy as np
import pytest
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from PIL import Image
from tiny_robustness import RobustProject

from lska.data.perturbed.parts import open_parts
from lska.evaluate import pictures
from lska.evaluate.pictures import (
    IGNORED,
    LIMIT,
    Instances,
    class_colour,
    detection_sheet,
    draw_examples,
    segmentation_sheet,
)

NONE = Instances(np.zeros((0, 4)), np.zeros(0, int), np.zeros(0))
CLASSES = ("cat", "dog", "hen")
BLACK = np.zeros((96, 96, 3), np.uint8)


@pytest.fixture
def figures(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """The figures that were saved, as files too."""
    kept: list[Figure] = []
    save = pictures._save
    monkeypatch.setattr(pictures, "_save", lambda figure, *rest: (kept.append(figure), save(figure, *rest)))
    return kept


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


def texts(figure: Figure) -> list[str]:
    return [text.get_text() for axes in figure.axes for text in axes.texts]


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


def test_low_scores_are_left_out_and_the_sheet_says_so(tmp_path: Path, figures: list[Figure]) -> None:
    low, high = one((24, 36, 72, 60), 1, 0.29), one((24, 36, 72, 60), 1, 0.3)
    for items in (low, high, NONE):
        detection_sheet([BLACK], [one((12, 12, 40, 40), 0)], [items], CLASSES, tmp_path / "s.png", "")
        assert painted(tmp_path / "s.png", 1).any() == (items is high)
        assert ("no score of 0.3 or more" in texts(figures[-1])) == (items is not high)


def test_of_a_crowd_only_the_best_are_drawn_and_without_names(tmp_path: Path, figures: list[Figure]) -> None:
    for count, shown in ((10, ["cat"] * 10 + ["cat 0.75"] * 10), (11, ["0.75"] * 11)):
        boxes = np.array([[8 * i, 4, 8 * i + 6, 90] for i in range(count)], float)
        truth, scores = Instances(boxes, np.zeros(count, int)), np.full(count, 0.75)
        detection_sheet([BLACK], [truth], [Instances(boxes, truth.labels, scores)], CLASSES, tmp_path / "s.png", "")
        assert texts(figures[-1]) == shown
    boxes = np.array([[4 * i, 4, 4 * i + 3, 90] for i in range(22)], float)
    crowd = Instances(boxes, np.array([2, 0, *[1] * 20]), np.array([0.4, 0.5, *[0.9] * 20]))
    detection_sheet([BLACK], [NONE], [crowd], CLASSES, tmp_path / "s.png", "")
    assert [painted(tmp_path / "s.png", label).any() for label in range(3)] == [False, True, False]


def test_masks_are_translucent(tmp_path: Path) -> None:
    mask = np.zeros((1, 96, 96), bool)
    mask[0, 40:80, 20:60] = True
    truth, prediction = one((20, 40, 60, 80), 0, masks=mask), one((20, 40, 60, 80), 0, 0.2, mask)
    detection_sheet([BLACK + np.uint8(100)], [truth], [prediction], CLASSES, tmp_path / "s.png", "")
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


def test_sheets_stay_small_and_readable(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, (480, 640, 3), dtype=np.uint8) for _ in range(6)]  # nothing compresses worse
    detection_sheet(images, [one((64, 96, 576, 384), 2)] * 6, [NONE] * 6, CLASSES, tmp_path / "s.png", "caption")
    assert (tmp_path / "s.png").stat().st_size <= LIMIT
    assert Image.open(tmp_path / "s.png").width >= 600


def test_equal_arguments_give_equal_files_of_any_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = ([BLACK] * 6, [np.zeros((96, 96), int)] * 6, [np.zeros((96, 96), int)] * 6, CLASSES)
    segmentation_sheet(*arguments, tmp_path / "a.png", "a long caption " * 20)
    monkeypatch.setitem(matplotlib.rcParams, "font.size", 20.0)
    segmentation_sheet(*arguments, tmp_path / "new" / "b.png", "a long caption " * 20)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "new" / "b.png").read_bytes()
    picture = Image.open(tmp_path / "a.png")
    assert (picture.format, picture.mode, picture.convert("RGB").getpixel((0, 0))) == ("PNG", "P", (255, 255, 255))
    assert picture.width / 6 > 2 * 96  # small images are enlarged


def test_class_colours_are_fixed_and_differ() -> None:
    colours = [to_hex(class_colour(index)) for index in range(60)]
    assert colours[:2] == ["#0072b2", "#e69f00"] and len(set(colours)) == 60 and class_colour(60) == class_colour(0)
    with pictures.styled():
        assert not Figure().text(0, 0, r"from 5 $\no{ to $6").get_parse_math(), "dollar signs are no formulas"


def test_of_corruptions_parts_that_are_missing_say_so_in_their_place(
    robust: RobustProject, figures: list[Figure]
) -> None:
    item = robust.item("c")
    draw_examples(item)
    (figure,) = figures
    shown = {number: axes.images[0].get_array() for number, axes in enumerate(figure.axes) if axes.images}
    # Five severities each: Gaussian noise is the first corruption, JPEG compression the fifteenth.
    assert list(shown) == [0, 3, 14 * 5 + 1]
    for found, part in zip(shown.values(), open_parts(item)[1:], strict=True):
        assert np.array_equal(found, np.asarray(Image.open(part.split.name(0))))
    assert texts(figure) == ["missing"] * (95 - 3)
    assert "fog" in [text.get_text() for text in figure.texts]
    with Image.open(item.strips) as picture:
        assert min(picture.size) > 500


def test_sets_of_classes_show_some_of_each(robust: RobustProject, figures: list[Figure]) -> None:
    draw_examples(robust.item("r"))
    assert [axes.get_title() for axes in figures[0].axes] == ["blue"] * 3 + ["green"] * 3 + ["white"] * 3
    assert robust.item("r").strips.is_file()
