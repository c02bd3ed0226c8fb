"""Figures: what is drawn equals the metric files and the paper's values, and nothing is silently left out."""

from __future__ import annotations

import csv
import itertools
import json
import re
from pathlib import Path

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from table_helpers import PAPER, STAGES, Scale, demo, put_required

from lska.runs import Run
from lska.tables.collect import Table, collect
from lska.tables.curves import LOOKS, NAMES
from lska.tables.diagram import designs
from lska.tables.figures import DRAWINGS, draw
from lska.tables.panels import cost, panels
from lska.tables.paper_values import read_paper
from lska.tables.specs import TARGETS, expand, load_spec
from lska.tables.style import styled
from lska.tables.table_formats import build_table
from lska.tables.tradeoff import trade_off

TRAINED = {name: NAMES[name] for name in ("lka_trivial", "lska_trivial", "lka", "lska")}
FIGURES = [target for target in TARGETS if target.startswith("figure")]


def filled(target: str, scale: Scale, data: str = "shapes") -> Table:
    put_required(target, scale, data)
    return collect(load_spec(target), scale, PAPER, scale.results)


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


def metric(scale: Scale, task: str, run: Run, name: str) -> float:
    content = json.loads((scale.results / "metrics" / task / f"{run}.json").read_text())
    return content["metrics"][name]["value"]


@pytest.mark.parametrize("target", FIGURES)
def test_numbers_beside_a_figure_equal_the_metric_files(target: str, tmp_path: Path) -> None:
    scale = demo(tmp_path)
    put_required(target, scale)
    build_table(target, scale, [tmp_path / "numbers.csv"], PAPER)
    spec = load_spec(target)
    columns, rows = {column.label: column for column in spec.columns}, {row.label: row for row in expand(spec, scale)}
    lines = [line for line in csv.DictReader((tmp_path / "numbers.csv").open()) if line["files"]]
    assert len(lines) > 20 or len(lines) == {"figure_04": 12, "figure_05": 12, "figure_07": 8}.get(target, 0)
    for line in lines:
        column = columns[line["column"]]
        name = column.metric.format(**rows[line["row"]].values)
        value = json.loads(Path(line["files"]).read_text())["metrics"][name]["value"]
        assert float(line["value"]) == pytest.approx(value * column.factor, rel=1e-12)


def test_accuracies_on_other_data_stand_in_a_panel_of_their_own(tmp_path: Path) -> None:
    scale = demo(tmp_path)
    figure = trade_off(filled("figure_01", scale))
    paper, ours = figure.axes
    assert "ImageNet-1K" in paper.get_title(loc="left")
    assert "shapes" in ours.get_title(loc="left")
    printed = read_paper(PAPER / "figure_01.csv")
    for attention, name in TRAINED.items():
        assert markers(paper, attention) == markers(ours, attention, hollow=True) == []
        expected = [
            (metric(scale, "complexity", run, "flops") / 1e9, metric(scale, "classification", run, "top1"))
            for run in (Run("van_tiny", attention, kernel, 0) for kernel in (7, 23))
        ]
        np.testing.assert_allclose(markers(ours, attention), expected)
        hollow = markers(paper, attention, hollow=True)
        accuracies = [printed.get(f"VAN-Tiny {name} k={k}", "ImageNet-1K top-1").value for k in (7, 11, 23, 35, 53)]
        assert [height for _, height in hollow] == [float(value) for value in accuracies]


def test_missing_networks_are_crosses_with_their_kernel_size(tmp_path: Path) -> None:
    scale = demo(tmp_path)
    ours = trade_off(filled("figure_01", scale)).axes[1]
    for attention, colour in ((name, LOOKS[name][0]) for name in TRAINED):
        crosses = markers(ours, attention, crosses=True)
        places = [metric(scale, "complexity", Run("van_tiny", attention, k, 0), "flops") / 1e9 for k in (11, 35, 53)]
        assert [place for place, _ in crosses] == pytest.approx(places)
        assert all(0 < height < 0.3 for _, height in crosses)
        small = [text for text in ours.texts if text.get_color() == colour and text.get_fontsize() == 5.5]
        assert [text.get_text() for text in small] == ["11", "35", "53"]


def test_accuracies_on_the_papers_data_share_its_panel(tmp_path: Path) -> None:
    figure = trade_off(filled("figure_01", demo(tmp_path, scale="paper"), "imagenet1k"))
    (axes,) = figure.axes
    assert len(markers(axes, "lska")) == 2
    assert len(markers(axes, "lska", hollow=True)) == 5
    labels = [text.get_text() for text in axes.texts if text.get_fontsize() == 6.5]
    assert sorted(labels, key=int) == ["7"] * 4 + ["11"] * 4 + ["23"] * 4 + ["35"] * 4 + ["53"] * 4


def test_kernel_sizes_stand_apart_from_each_other(tmp_path: Path) -> None:
    figure = trade_off(filled("figure_01", demo(tmp_path)))
    figure.draw_without_rendering()
    texts = [text for text in figure.axes[0].texts if text.get_text()]
    boxes = [text.get_window_extent() for text in texts]
    overlaps = [(a, b) for a, b in itertools.combinations(boxes, 2) if a.shrunk(0.9, 0.9).overlaps(b)]
    assert len(texts) == 20
    assert not overlaps


def test_panels_over_the_kernel_size(tmp_path: Path) -> None:
    scale = demo(tmp_path)
    figure = panels(filled("figure_06", scale))
    paper, ours, params, flops, speed = figure.axes
    sizes = (7, 11, 23, 35, 53, 65)
    for attention in TRAINED:
        counts = [metric(scale, "complexity", Run("van_tiny", attention, k, 0), "params") / 1e6 for k in sizes]
        np.testing.assert_allclose(markers(params, attention), list(zip(sizes, counts, strict=True)))
        assert markers(params, attention, hollow=True) == []
        assert len(markers(flops, attention, hollow=True)) == len(markers(paper, attention, hollow=True)) == 5
        runs = [Run("van_tiny", attention, k, 0) for k in (7, 23)]
        rates = [(run.kernel, metric(scale, "speed", run, "throughput")) for run in runs]
        np.testing.assert_allclose(markers(speed, attention), rates)
        for axes in (ours, speed):
            assert [place for place, _ in markers(axes, attention, crosses=True)] == [11, 35, 53, 65]
    assert speed.get_title(loc="right") == "no printed value known"
    bars = [segment for lines in speed.collections for segment in lines.get_segments()]
    assert all(np.ptp(bar[:, 1]) == pytest.approx(3.5) for bar in bars)
    assert len(bars) == 8


def test_cost_shows_all_designs_and_where_slaks_cross_lkas(tmp_path: Path) -> None:
    table = filled("figure_03", demo(tmp_path))
    figure = cost(table)
    (legend,) = figure.legends
    texts = [text.get_text() for text in legend.get_texts()]
    assert texts == list(NAMES.values())
    assert "not run" not in {str(cell.state) for cell in table.cells}
    assert "assumed forms" in figure.get_supxlabel()
    for axes in figure.axes:
        assert axes.get_yscale() == "log"
        for attention in LOOKS:
            assert [size for size, _ in markers(axes, attention)] == [7, 11, 23, 35, 53, 65, 77, 89, 101, 113, 125]


def test_designs_show_the_taps_of_the_models_own_kernels(tmp_path: Path) -> None:
    table = filled("figure_02", Scale(tmp_path, (Run("van_tiny", "lska", 15, 0),)))
    assert table.cell("k=23", "LSKA-trivial").value == "DW 1x23; DW 23x1; 1x1"
    assert table.cell("k=15", "LSKA").state == "no printed value known"
    assert {str(cell.state) for cell in table.cells if cell.row != "k=15"} == {"reproduced"}
    figure = designs(table)
    (axes,) = figure.axes
    taps = [patch for patch in axes.patches if type(patch) is Rectangle and patch.get_linewidth() == 0]
    per_design = {name: [p for p in taps if to_hex(p.get_facecolor()) == LOOKS[name][0]] for name in TRAINED}
    # Dense kernels are one rectangle each; the dilated ones 7x7, and 1x7 with 7x1, squares.
    assert {name: len(found) for name, found in per_design.items()} == {
        "lka_trivial": 1, "lska_trivial": 2, "lka": 1 + 49, "lska": 2 + 14,
    }  # fmt: skip
    pixel = per_design["lska"][-1].get_width()
    assert [round(p.get_width() / pixel) for p in per_design["lska_trivial"]] == [23, 1]
    assert [round(p.get_height() / pixel) for p in per_design["lska_trivial"]] == [1, 23]
    columns = sorted({round(p.get_x() / pixel, 3) for p in per_design["lka"][1:]})
    assert np.diff(columns) == pytest.approx([3] * 6)
    lists = [text.get_text() for text in axes.texts if text.get_text().startswith("k=15")]
    assert lists[-1] == "k=15:  1×3, 3×1, 1×7 d2, 7×1 d2"


@pytest.mark.parametrize("target", FIGURES)
def test_figures_are_equal_byte_for_byte_and_carry_the_caption(target: str, tmp_path: Path) -> None:
    table = filled(target, demo(tmp_path, caption="demo scale: some caption"))
    first, second = ([tmp_path / folder / f"f.{kind}" for kind in ("png", "pdf", "svg")] for folder in ("a", "b"))
    draw(table, first)
    draw(table, second)
    for one, other in zip(first, second, strict=True):
        assert one.read_bytes() == other.read_bytes(), one.suffix
    text = first[2].read_text()
    assert ">Demo scale: some caption" in text
    assert not re.search(r"dc:date|20\d\d-\d\d-\d\d", text)
    assert b"CreationDate" not in first[1].read_bytes()


@pytest.mark.parametrize("target", FIGURES)
def test_figures_without_any_run_are_drawn_all_the_same(target: str, tmp_path: Path) -> None:
    scale = Scale(tmp_path)
    table = filled(target, scale)
    draw(table, [tmp_path / "f.png"])
    assert (tmp_path / "f.png").read_bytes().startswith(b"\x89PNG")
    if target == "figure_06":
        figure = panels(table)
        assert [len(markers(axes, "lska", crosses=True)) for axes in figure.axes] == [6, 0, 0, 6]


def test_seeds_give_error_bars(tmp_path: Path) -> None:
    scale = Scale(tmp_path, tuple(Run("van_tiny", "lska", 23, seed) for seed in range(3)))
    table = filled("figure_01", scale)
    axes = trade_off(table).axes[1]
    (bar,) = [segment for lines in axes.collections for segment in lines.get_segments()]
    accuracies = [metric(scale, "classification", run, "top1") for run in scale.runs]
    expected = (np.mean(accuracies) - np.std(accuracies, ddof=1), np.mean(accuracies) + np.std(accuracies, ddof=1))
    assert tuple(bar[:, 1]) == pytest.approx(expected)


def test_unknown_formats_and_drawings_are_refused_and_nothing_is_written(tmp_path: Path) -> None:
    table = filled("figure_03", demo(tmp_path))
    with pytest.raises(ValueError, match=r"f\.gif.*\.png, \.pdf, \.svg"):
        draw(table, [tmp_path / "f.png", tmp_path / "f.gif"])
    assert not list(tmp_path.glob("f.*"))
    table = filled("table_03", demo(tmp_path))
    with pytest.raises(ValueError, match="table_03: drawing: expected one of trade_off"):
        draw(table, [tmp_path / "f.png"])


def test_drawing_leaves_matplotlibs_settings_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import matplotlib

    table = filled("figure_03", demo(tmp_path))
    monkeypatch.setitem(matplotlib.rcParams, "font.size", 17.0)
    draw(table, [tmp_path / "styled.svg"])
    assert matplotlib.rcParams["font.size"] == 17.0
    monkeypatch.setitem(matplotlib.rcParams, "font.size", 10.0)
    draw(table, [tmp_path / "plain.svg"])
    assert (tmp_path / "styled.svg").read_bytes() == (tmp_path / "plain.svg").read_bytes()


def test_every_drawing_is_used_by_a_spec() -> None:
    assert {load_spec(target).drawing for target in FIGURES} == set(DRAWINGS)
    assert set(STAGES) >= {model for target in FIGURES for row in load_spec(target).rows for model in row.models}


def test_dollar_signs_in_captions_are_no_formulas() -> None:
    with styled():
        figure = Figure()
        text = figure.text(0, 0, r"from 5 $\no{ to $6")
        figure.draw_without_rendering()
        assert not text.get_parse_math()
