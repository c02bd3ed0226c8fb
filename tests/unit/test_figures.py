"""Curves: what is drawn equals the metric files and the paper's values, and nothing is silently left out."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from robustness_tables import value
from table_helpers import PAPER, Scale, demo, filled

from lska.models.runs import Run
from lska.tables.figure_curves import cost_curves, kernel_size_panels, trade_off
from lska.tables.figure_parts import LOOKS, NAMES
from lska.tables.measurements import read_paper

TRAINED = {name: NAMES[name] for name in ("lka_trivial", "lska_trivial", "lka", "lska")}
TINY = Run("van_tiny", "lska", 23, 0)


def markers(axes: Axes, attention: str, hollow: bool = False, crosses: bool = False) -> list[tuple[float, float]]:
    """Places of the markers of an attention; crosses stand for what was not run."""
    colour, marker = LOOKS[attention]
    found = []
    for line in axes.get_lines():
        kind = "x" if crosses else marker
        fits = crosses or (line.get_markerfacecolor() == "none") == hollow
        if fits and to_hex(line.get_color()) == colour and line.get_marker() == kind:
            found += list(zip(*line.get_data(), strict=True))
    return found


def crossed(axes: Axes, attention: str) -> list[float]:
    return [place for place, _ in markers(axes, attention, crosses=True)]


def bars(axes: Axes) -> list[np.ndarray]:
    return [segment for lines in axes.collections for segment in lines.get_segments()]


def test_accuracies_on_other_data_stand_in_a_panel_of_their_own(tmp_path: Path) -> None:
    scale = demo(tmp_path)
    paper, ours = trade_off(filled("figure_01", scale)).axes
    assert "ImageNet-1K" in paper.get_title(loc="left")
    assert "shapes" in ours.get_title(loc="left")
    printed = read_paper(PAPER / "figure_01.csv")
    for attention, name in TRAINED.items():
        runs = {kernel: Run("van_tiny", attention, kernel, 0) for kernel in (7, 11, 23, 35, 53)}
        costs = {kernel: value(scale, "complexity", run, "flops") / 1e9 for kernel, run in runs.items()}
        assert markers(paper, attention) == markers(ours, attention, hollow=True) == []
        expected = [(costs[kernel], value(scale, "classification", runs[kernel], "top1")) for kernel in (7, 23)]
        np.testing.assert_allclose(markers(ours, attention), expected)
        known = [float(printed[f"VAN-Tiny {name} k={k}", "ImageNet-1K top-1"].value) for k in runs]
        assert [height for _, height in markers(paper, attention, hollow=True)] == known
        # What was not run is a cross at its cost, with its kernel size.
        assert crossed(ours, attention) == pytest.approx([costs[kernel] for kernel in (11, 35, 53)])
        small = [text for text in ours.texts if text.get_color() == LOOKS[attention][0] and text.get_fontsize() == 5.5]
        assert [text.get_text() for text in small] == ["11", "35", "53"]


def test_accuracies_on_the_papers_data_share_its_panel(tmp_path: Path) -> None:
    figure = trade_off(filled("figure_01", demo(tmp_path, scale="paper"), "imagenet1k"))
    (axes,) = figure.axes
    assert len(markers(axes, "lska")) == 2
    assert len(markers(axes, "lska", hollow=True)) == 5
    labels = [text for text in axes.texts if text.get_fontsize() == 6.5]
    names = [text.get_text() for text in labels]
    assert sorted(names, key=int) == ["7"] * 4 + ["11"] * 4 + ["23"] * 4 + ["35"] * 4 + ["53"] * 4
    figure.draw_without_rendering()
    boxes = [text.get_window_extent().shrunk(0.9, 0.9) for text in labels]
    assert not any(a.overlaps(b) for a, b in itertools.combinations(boxes, 2))


def test_seeds_give_error_bars(tmp_path: Path) -> None:
    scale = Scale(tmp_path, tuple(Run("van_tiny", "lska", 23, seed) for seed in range(3)))
    (bar,) = bars(trade_off(filled("figure_01", scale)).axes[1])
    accuracies = [value(scale, "classification", run, "top1") for run in scale.runs]
    expected = (np.mean(accuracies) - np.std(accuracies, ddof=1), np.mean(accuracies) + np.std(accuracies, ddof=1))
    assert tuple(bar[:, 1]) == pytest.approx(expected)


def test_panels_over_the_kernel_size(tmp_path: Path) -> None:
    scale = demo(tmp_path)
    paper, ours, params, flops, speed = kernel_size_panels(filled("figure_06", scale)).axes
    sizes = (7, 11, 23, 35, 53, 65)
    for attention in TRAINED:
        counts = [value(scale, "complexity", Run("van_tiny", attention, k, 0), "params") / 1e6 for k in sizes]
        np.testing.assert_allclose(markers(params, attention), list(zip(sizes, counts, strict=True)))
        assert markers(params, attention, hollow=True) == []
        assert len(markers(flops, attention, hollow=True)) == len(markers(paper, attention, hollow=True)) == 5
        runs = [Run("van_tiny", attention, k, 0) for k in (7, 23)]
        rates = [(run.kernel, value(scale, "speed", run, "throughput")) for run in runs]
        np.testing.assert_allclose(markers(speed, attention), rates)
        assert crossed(ours, attention) == crossed(speed, attention) == [11, 35, 53, 65]
    assert speed.get_title(loc="right") == "no printed value known"
    assert [np.ptp(bar[:, 1]) for bar in bars(speed)] == pytest.approx([3.5] * 8)
    # No value of the axis stands beside the crosses of what was not run.
    low, high = speed.spines["left"].get_bounds()
    ticks = speed.get_yticks()
    assert low >= 0 and speed.get_ylim()[0] < low
    assert len(ticks) >= 2 and min(ticks) >= low and max(ticks) <= high
    foot = speed.transAxes.inverted().transform(speed.transData.transform((0, low)))[1]
    heights = [line.get_ydata() for line in speed.get_lines() if line.get_marker() == "x"]
    assert len(heights) == 4 and np.min(heights) > 0 and np.max(heights) < foot


def test_cost_shows_all_designs_and_where_slaks_cross_lkas(tmp_path: Path) -> None:
    table = filled("figure_03", demo(tmp_path))
    figure = cost_curves(table)
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == list(NAMES.values())
    assert "not run" not in {str(cell.state) for cell in table.cells}
    assert "assumed forms" in figure.get_supxlabel()
    for axes in figure.axes:
        assert axes.get_yscale() == "log"
        for attention in LOOKS:
            assert [size for size, _ in markers(axes, attention)] == [7, 11, 23, 35, 53, 65, 77, 89, 101, 113, 125]
