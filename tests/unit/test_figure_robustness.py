"""Figures S1 and S2: what is drawn equals the metric files, and what is missing shows."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from robustness_tables import edit, filled, metric_file, value, without
from table_helpers import PAPER, Scale, demo, put_required

from lska.data.perturbed.names import FAMILIES, SEVERITIES
from lska.runs import Run
from lska.tables.collect import Table, collect
from lska.tables.curves import LOOKS
from lska.tables.heatmaps import heat_maps
from lska.tables.panels import panels
from lska.tables.specs import load_spec, requirements
from lska.tables.style import styled

TINY = Run("van_tiny", "lska", 23, 0)


def drawn(drawing: Callable[[Table], Figure], table: Table) -> Figure:
    with styled():
        return drawing(table)


def images(figure: Figure) -> dict[str, np.ndarray]:
    """The drawn numbers of each map by the start of its title."""
    maps = [axes for axes in figure.axes if axes.get_images() and axes.get_visible()]
    return {axes.get_title().partition(",")[0]: np.ma.filled(axes.get_images()[0].get_array(), np.nan) for axes in maps}


def test_maps_show_every_corruption_and_severity_of_every_network(tmp_path: Path) -> None:
    scale = demo(tmp_path)
    figure = drawn(heat_maps, filled("figure_s1", scale))
    found = images(figure)
    assert list(found) == ["LKA k=7", "LKA k=23", "LSKA k=7", "LSKA k=23"]
    run = Run("van_tiny", "lka", 23, 0)
    cells = [[value(scale, "robustness/c", run, f"top1_{c}_{s}") for s in SEVERITIES] for c in FAMILIES["c"]]
    np.testing.assert_allclose(found["LKA k=23"], cells)
    axes = next(axes for axes in figure.axes if axes.get_title().startswith("LKA k=23"))
    assert axes.get_title() == f"LKA k=23, mean {np.mean(cells):.1f}"
    assert len(axes.texts) == 95
    labels = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert labels == [name.replace("_", " ") for name in FAMILIES["c"]]


def test_fields_that_are_missing_stay_white(tmp_path: Path) -> None:
    scale = demo(tmp_path)
    put_required("figure_s1", scale)
    edit(metric_file(scale, "robustness/c", TINY), without("fog", "saturate"))
    figure = drawn(heat_maps, collect(load_spec("figure_s1"), scale, PAPER, scale.results))
    missing = np.isnan(images(figure)["LSKA k=23"])
    rows = [FAMILIES["c"].index(name) for name in ("fog", "saturate")]
    assert missing[rows].all() and missing.sum() == 10
    axes = next(axes for axes in figure.axes if axes.get_title().startswith("LSKA k=23"))
    assert axes.get_title() == "LSKA k=23, mean partial"
    assert len(axes.texts) == 85
    assert not np.isnan(images(figure)["LSKA k=7"]).any()


def test_a_map_of_nothing_says_so(tmp_path: Path) -> None:
    figure = drawn(heat_maps, filled("figure_s1", Scale(tmp_path / "results")))
    assert figure.texts[0].get_text() == "no network was measured at this scale"
    assert images(figure) == {}


def test_the_maps_list_the_corruptions_of_imagenet_c() -> None:
    (row,) = load_spec("figure_s1").rows
    assert row.values == {"corruption": FAMILIES["c"], "severity": SEVERITIES}
    scale = Scale(Path("results"), (TINY,))
    assert requirements(load_spec("figure_s1"), scale) == [("robustness/c", TINY)]


def points(axes: Axes, attention: str, kind: str | None = None) -> list[tuple[float, float]]:
    """Markers of an attention, or crosses for what was not run."""
    colour, marker = LOOKS[attention]
    lines = [line for line in axes.get_lines() if to_hex(line.get_color()) == colour]
    wanted = [line for line in lines if line.get_marker() == (kind or marker) and line.get_markerfacecolor() != "none"]
    return [point for line in wanted for point in zip(*line.get_data(), strict=True)]


def test_curves_over_the_kernel_size(tmp_path: Path) -> None:
    scale = demo(tmp_path)
    table = filled("figure_s2", scale)
    figure = drawn(panels, table)
    assert len(figure.axes) == len(table.spec.columns) == 10
    for axes, column in zip(figure.axes, table.spec.columns, strict=True):
        for attention in ("lka", "lska"):
            runs = [Run("van_tiny", attention, kernel, 0) for kernel in (7, 23)]
            expected = [(run.kernel, value(scale, column.task, run, column.metric)) for run in runs]
            np.testing.assert_allclose(points(axes, attention), expected)
            assert [kernel for kernel, _ in points(axes, attention, "x")] == [11, 35, 53]
        bars = [segment for lines in axes.collections for segment in lines.get_segments()]
        assert [np.ptp(bar[:, 1]) for bar in bars] == pytest.approx([2.5] * 4)
        assert column.label in axes.get_title(loc="left")


def test_a_partial_network_is_a_cross_among_the_means_only(tmp_path: Path) -> None:
    scale = demo(tmp_path)
    put_required("figure_s2", scale)
    edit(metric_file(scale, "robustness/c", TINY), without("fog"))
    figure = drawn(panels, collect(load_spec("figure_s2"), scale, PAPER, scale.results))
    mean, noise = figure.axes[0], figure.axes[6]
    assert [kernel for kernel, _ in points(mean, "lska")] == [7]
    assert [kernel for kernel, _ in points(mean, "lska", "x")] == [11, 23, 35, 53]
    assert [kernel for kernel, _ in points(noise, "lska")] == [7, 23]
