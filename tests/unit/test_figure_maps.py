"""Maps of receptive fields and of corruptions: what is drawn where, and that its numbers are those of the maps."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from robustness_tables import edit, filled, metric_file, value, without
from table_helpers import PAPER, Scale, demo

from lska.data.perturbed.names import FAMILIES, SEVERITIES
from lska.evaluate.pictures import styled
from lska.evaluate.receptive_field import area_ratio, scaled
from lska.models.runs import Run
from lska.tables.collect import Table, collect
from lska.tables.figure_maps import BLOCKS, OUTLINE, block_means, corruption_maps, field_maps
from lska.tables.specs import load_spec, requirements

TINY = Run("van_tiny", "lska", 23, 0)


def gaussian(size: int, deviation: float, height: float = 1.0) -> np.ndarray:
    profile = np.exp(-((np.arange(size) - size // 2) ** 2) / (2 * deviation**2))
    return height * np.outer(profile, profile)


def panels(figure: Figure) -> list[Axes]:
    return [axes for axes in figure.axes if axes.get_images() and axes.get_visible()]


def squares(axes: Axes) -> list[Rectangle]:
    return [patch for patch in axes.patches if to_hex(patch.get_edgecolor()) == OUTLINE]


@pytest.mark.parametrize("size", [120, 64])
def test_fields_lie_in_a_grid_with_the_squares_and_numbers_of_their_maps(size: int) -> None:
    spreads = (("lska", 0.5), ("lka", 0.4))
    maps = {(name, kernel): gaussian(size, spread * kernel) for name, spread in spreads for kernel in (23, 7, 65)}
    del maps["lka", 23]
    with styled():
        figure = field_maps(maps, "Demo scale: untrained networks")
        figure.draw_without_rendering()
    found = panels(figure)
    places = [("LKA", 7), ("LKA", 65), ("LSKA", 7), ("LSKA", 23), ("LSKA", 65)]
    assert [axes.get_title() for axes in found] == [f"{name} k={kernel}" for name, kernel in places]
    lefts, bottoms = np.round([axes.get_position().min for axes in found], 3).T.tolist()
    assert lefts[:2] == [lefts[2], lefts[4]] and lefts[2] < lefts[3] < lefts[4]
    assert bottoms[0] == bottoms[1] > bottoms[2] == bottoms[3] == bottoms[4]
    (empty,) = [axes for axes in figure.axes if not axes.get_images() and axes.get_label() != "<colorbar>"]
    assert not empty.axison
    for axes, (name, kernel) in zip(found, places, strict=True):
        expected = [area_ratio(maps[name.lower(), kernel], threshold) for threshold in (0.5, 0.99)]
        shares = [f"r = {share:#.3g}".removesuffix(".") + " %" for _, share in expected]
        assert [line.partition(": ")[2] for line in axes.get_xlabel().splitlines()] == shares
        for square, (side, _) in zip(squares(axes), expected, strict=True):
            assert square.get_width() == square.get_height() == side
            # The pixel in the middle lies half a pixel after it; all squares but the whole map are around that.
            assert square.get_xy() == ((0, 0) if side == size else ((size + 1 - side) / 2,) * 2)
    words = " ".join(figure.get_supxlabel().split())
    assert words.startswith("Demo scale: untrained networks Colour: log10(score + 1)")
    assert f"maps of {size} pixels a side" in words


def test_fields_share_a_scale_and_are_each_divided_by_their_maximum() -> None:
    figure = field_maps({("lka", 7): gaussian(64, 8), ("lska", 7): gaussian(64, 8, height=1e-4)}, "")
    strong, faint = (axes.get_images()[0] for axes in panels(figure))
    assert (faint.norm.vmin, faint.norm.vmax) == (strong.norm.vmin, strong.norm.vmax) == (0, 1)
    for image, height in ((strong, 1.0), (faint, 1e-4)):
        np.testing.assert_allclose(image.get_array(), scaled(gaussian(64, 8, height)))
    (bar,) = [axes for axes in figure.axes if axes.get_label() == "<colorbar>"]
    assert bar.get_ylabel() == "log10(score + 1) / maximum"


@pytest.mark.parametrize(("size", "blocks"), [(256, 256), (1024, 256), (257, 129), (1000, 250), (5, 5)])
def test_block_means_keep_sums_and_bound_the_size(size: int, blocks: int) -> None:
    values = np.random.default_rng(0).random((size, size))
    means, side = block_means(values), -(-size // BLOCKS)
    assert means.shape == (blocks, blocks)
    assert means[0, 1] == pytest.approx(values[:side, side : 2 * side].mean())
    last = side * (blocks - 1)
    assert means[-1, -1] == pytest.approx(values[last:, last:].mean())


def corruptions(table: Table) -> tuple[Figure, dict[str, np.ndarray]]:
    """The figure, and the drawn numbers of each map by its title."""
    with styled():
        figure = corruption_maps(table)
    found = {axes.get_title(): np.ma.filled(axes.get_images()[0].get_array(), np.nan) for axes in panels(figure)}
    return figure, found


def test_maps_show_every_corruption_and_severity_of_every_network(tmp_path: Path) -> None:
    scale = demo(tmp_path)
    figure, found = corruptions(filled("figure_s1", scale))
    cells = [[value(scale, "robustness/c", TINY, f"top1_{c}_{s}") for s in SEVERITIES] for c in FAMILIES["c"]]
    names = [title.partition(",")[0] for title in found]
    assert names == ["LKA k=7", "LKA k=23", "LSKA k=7", "LSKA k=23"]
    np.testing.assert_allclose(found[f"LSKA k=23, mean {np.mean(cells):.1f}"], cells)
    assert [len(axes.texts) for axes in panels(figure)] == [95] * 4
    labels = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert labels == [name.replace("_", " ") for name in FAMILIES["c"]]
    # What is missing stays white.
    edit(metric_file(scale, "robustness/c", TINY), without("fog", "saturate"))
    figure, found = corruptions(collect(load_spec("figure_s1"), scale, PAPER, scale.results))
    missing = np.isnan(found["LSKA k=23, mean partial"])
    assert missing[[FAMILIES["c"].index(name) for name in ("fog", "saturate")]].all() and missing.sum() == 10
    assert [len(axes.texts) for axes in panels(figure)] == [95] * 3 + [85]


def test_a_map_of_nothing_says_so(tmp_path: Path) -> None:
    figure, found = corruptions(filled("figure_s1", Scale(tmp_path / "results")))
    assert figure.texts[0].get_text() == "no network was measured at this scale" and not found


def test_the_maps_list_the_corruptions_of_imagenet_c() -> None:
    (row,) = load_spec("figure_s1").rows
    assert row.values == {"corruption": FAMILIES["c"], "severity": SEVERITIES}
    assert requirements(load_spec("figure_s1"), Scale(Path("results"), (TINY,))) == [("robustness/c", TINY)]
