"""Maps of receptive fields and of corruptions: what is drawn where, and that its numbers are those of the maps."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from table_helpers import PAPER, demo, edit, filled, metric_file, put_field, value, without

from lska.data.perturbed.names import FAMILIES, SEVERITIES
from lska.evaluate.pictures import styled
from lska.evaluate.receptive_field import area_ratio, scaled
from lska.models.runs import Run
from lska.tables.collect import Table, collect
from lska.tables.figure_maps import BLOCKS, OUTLINE, block_means, corruption_maps, field_maps, receptive_fields
from lska.tables.specs import load_spec

TINY = Run("van_tiny", "lska", 23, 0)


def gaussian(size: int, deviation: float, height: float = 1.0) -> np.ndarray:
    profile = np.exp(-((np.arange(size) - size // 2) ** 2) / (2 * deviation**2))
    return height * np.outer(profile, profile)


def panels(figure: Figure) -> list[Axes]:
    return [axes for axes in figure.axes if axes.get_images() and axes.get_visible()]


def squares(axes: Axes) -> list[Rectangle]:
    return [patch for patch in axes.patches if to_hex(patch.get_edgecolor()) == OUTLINE]


def test_fields_lie_in_a_grid_with_the_squares_and_numbers_of_their_maps() -> None:
    size = 120
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


def test_block_means_keep_sums_and_bound_the_size() -> None:
    values = np.random.default_rng(0).random((257, 257))
    means = block_means(values)
    assert means.shape == (129, 129) and max(means.shape) <= BLOCKS
    assert means[0, 1] == pytest.approx(values[:2, 2:4].mean()) and means[-1, -1] == pytest.approx(values[-1, -1])


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
    (row,) = load_spec("figure_s1").rows
    assert row.values == {"corruption": FAMILIES["c"], "severity": SEVERITIES}
    labels = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert labels == [name.replace("_", " ") for name in FAMILIES["c"]]
    # What is missing stays white.
    edit(metric_file(scale, "robustness/c", TINY), without("fog", "saturate"))
    figure, found = corruptions(collect(load_spec("figure_s1"), scale, PAPER, scale.results))
    missing = np.isnan(found["LSKA k=23, mean partial"])
    assert missing[[FAMILIES["c"].index(name) for name in ("fog", "saturate")]].all() and missing.sum() == 10
    assert [len(axes.texts) for axes in panels(figure)] == [95] * 3 + [85]


def test_figures_of_receptive_fields_show_the_trained_maps_and_name_one_that_is_missing(tmp_path: Path) -> None:
    scale = demo(tmp_path)
    table = filled("figure_08", scale)
    figure = receptive_fields(table)
    found = {axes.get_title(): axes.get_images()[0].get_array() for axes in panels(figure)}
    assert {title for title in found if title} == {
        f"{name} k={kernel}" for name in ("LKA", "LSKA") for kernel in (7, 23)
    }
    with np.load(put_field(scale, TINY)) as kept:
        np.testing.assert_allclose(found["LSKA k=23"], block_means(scaled(kept["trained"].astype(np.float64))))
    assert "shapes" in figure.get_supxlabel() and "Demo scale" in figure.get_supxlabel()
    (scale.results / "fields" / f"{TINY}.npz").unlink()
    with pytest.raises(FileNotFoundError, match=rf"fields/{TINY}\.npz: .*receptive_field/{TINY}\.json"):
        receptive_fields(table)
