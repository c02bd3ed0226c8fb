"""The figure of effective receptive fields: what is drawn where, and that its numbers are those of the maps."""

from __future__ import annotations

import io
from collections.abc import Mapping

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from lska.evaluate.receptive_field import area_ratio, scaled
from lska.tables.fields import BLOCKS, OUTLINE, block_means, percent, receptive_fields
from lska.tables.style import styled

Maps = Mapping[tuple[str, int], np.ndarray]


def gaussian(size: int, deviation: float, height: float = 1.0) -> np.ndarray:
    profile = np.exp(-((np.arange(size) - size // 2) ** 2) / (2 * deviation**2))
    return height * np.outer(profile, profile)


def maps(size: int = 128) -> Maps:
    return {
        (attention, kernel): gaussian(size, spread * kernel)
        for attention, spread in (("lska", 0.5), ("lka", 0.4))
        for kernel in (23, 7, 65)
    }


def panels(figure: Figure) -> list[Axes]:
    return [axes for axes in figure.axes if axes.get_images()]


def squares(axes: Axes) -> list[Rectangle]:
    return [patch for patch in axes.patches if to_hex(patch.get_edgecolor()) == OUTLINE]


def test_kernel_sizes_go_across_and_attentions_down() -> None:
    with styled():
        figure = receptive_fields(maps())
        figure.draw_without_rendering()
    titles = [axes.get_title() for axes in panels(figure)]
    assert titles == [f"{name} k={kernel}" for name in ("LKA", "LSKA") for kernel in (7, 23, 65)]
    corners = np.round([axes.get_position().min for axes in panels(figure)], 3)
    lefts, tops = corners.T.tolist()
    assert lefts[:3] == sorted(set(lefts[:3])) == lefts[3:]
    assert len(set(tops)) == 2
    assert tops[0] > tops[3]


def test_squares_and_numbers_are_those_of_the_map() -> None:
    given = maps(120)
    for axes in panels(receptive_fields(given)):
        name, kernel = axes.get_title().split(" k=")
        scores = given[name.lower(), int(kernel)]
        expected = [area_ratio(scores, threshold) for threshold in (0.5, 0.99)]
        assert [square.get_width() for square in squares(axes)] == [side for side, _ in expected]
        assert [f"r = {percent(share)} %" for _, share in expected] == [
            line.partition(": ")[2] for line in axes.get_xlabel().splitlines()
        ]
        for square, (side, _) in zip(squares(axes), expected, strict=True):
            assert square.get_height() == side
            # The pixel (60, 60) lies from 60 to 61; all squares but the whole map have it in their middle.
            assert square.get_xy() == ((0, 0) if side == 120 else (60.5 - side / 2, 60.5 - side / 2))


def test_shares_have_three_digits() -> None:
    assert [percent(share) for share in (100.0, 42.0, 42.04, 6.25, 0.5)] == ["100", "42.0", "42.0", "6.25", "0.500"]


def test_maps_share_a_scale_and_are_each_divided_by_their_maximum() -> None:
    figure = receptive_fields({("lka", 7): gaussian(64, 8), ("lska", 7): gaussian(64, 8, height=1e-4)})
    faint, strong = (axes.get_images()[0] for axes in panels(figure))
    assert (faint.norm.vmin, faint.norm.vmax) == (strong.norm.vmin, strong.norm.vmax) == (0, 1)
    for image, height in ((faint, 1.0), (strong, 1e-4)):
        np.testing.assert_allclose(image.get_array(), scaled(gaussian(64, 8, height)))
    bars = [axes for axes in figure.axes if axes.get_label() == "<colorbar>"]
    assert len(bars) == 1
    assert bars[0].get_ylabel() == "log10(score + 1) / maximum"


def test_places_of_missing_networks_stay_empty() -> None:
    given = {key: scores for key, scores in maps(64).items() if key != ("lka", 23)}
    figure = receptive_fields(given)
    assert len(panels(figure)) == 5
    empty = [axes for axes in figure.axes if not axes.get_images() and axes.get_label() != "<colorbar>"]
    assert len(empty) == 1
    assert not empty[0].axison


def test_small_print_gives_caption_and_size() -> None:
    words = " ".join(receptive_fields(maps(64), "Demo scale: untrained networks").get_supxlabel().split())
    assert words.startswith("Demo scale: untrained networks Colour: log10(score + 1)")
    assert "maps of 64 pixels a side" in words


def test_without_maps_the_figure_says_so() -> None:
    figure = receptive_fields({}, "Paper scale")
    assert "no network was measured at this scale" in [text.get_text() for text in figure.texts]
    assert figure.get_supxlabel() == "Paper scale"


def test_unknown_attention_is_refused() -> None:
    with pytest.raises(ValueError, match="maps: expected attentions among lka_trivial.*found slka"):
        receptive_fields({("slka", 7): gaussian(64, 8)})


@pytest.mark.parametrize(("size", "blocks"), [(256, 256), (1024, 256), (257, 129), (1000, 250), (5, 5)])
def test_block_means_keep_sums_and_bound_the_size(size: int, blocks: int) -> None:
    values = np.random.default_rng(0).random((size, size))
    means, side = block_means(values), -(-size // BLOCKS)
    assert means.shape == (blocks, blocks)
    assert means[0, 1] == pytest.approx(values[:side, side : 2 * side].mean())
    last = side * (blocks - 1)
    assert means[-1, -1] == pytest.approx(values[last:, last:].mean())


def test_equal_maps_give_equal_bytes() -> None:
    def drawn() -> bytes:
        with styled():
            buffer = io.BytesIO()
            receptive_fields(maps(64)).savefig(buffer, format="svg", metadata={"Date": None})
        return buffer.getvalue()

    assert drawn() == drawn()
