"""Pictures of perturbed sets: every part has its place, and one that is not there says so."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image
from tiny_robustness import RobustProject

from lska.data.perturbed.parts import open_parts
from lska.evaluate.robustness import examples


@pytest.fixture
def figures(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """The figures that were saved, as files too."""
    kept: list[Figure] = []
    original = examples.save

    def save(figure: Figure, *rest: Any) -> None:
        kept.append(figure)
        original(figure, *rest)

    monkeypatch.setattr(examples, "save", save)
    return kept


def test_parts_that_are_missing_say_so_in_their_place(robust: RobustProject, figures: list[Figure]) -> None:
    item = robust.item("c")
    examples.draw(item)
    (figure,) = figures
    shown = {number: axes.images[0].get_array() for number, axes in enumerate(figure.axes) if axes.images}
    # Five severities each: Gaussian noise is the first corruption, JPEG compression the fifteenth.
    assert list(shown) == [0, 3, 14 * 5 + 1]
    for pixels, part in zip(shown.values(), open_parts(item)[1:], strict=True):
        assert np.array_equal(pixels, np.asarray(Image.open(part.split.name(0))))
    assert [text.get_text() for axes in figure.axes for text in axes.texts] == ["missing"] * (95 - 3)
    assert "fog" in [text.get_text() for text in figure.texts]
    with Image.open(item.strips) as picture:
        assert min(picture.size) > 500


def test_sets_of_classes_show_some_of_each(robust: RobustProject, figures: list[Figure]) -> None:
    examples.draw(robust.item("r"))
    titles = [axes.get_title() for axes in figures[0].axes]
    assert titles == ["blue"] * 3 + ["green"] * 3 + ["white"] * 3
    assert robust.item("r").strips.is_file()
