"""Figures: curves are those of the metric files and the paper's values, nothing overlaps or is cut off; fonts are
embedded, and the small print says what bars are and how many seeds there are."""

from __future__ import annotations

import itertools
import re
from pathlib import Path
from xml.etree import ElementTree

import matplotlib
import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.text import Text
from table_helpers import DENSE, PAPER, Scale, demo, filled, value

from lska.evaluate.pictures import styled
from lska.models.runs import ATTENTIONS, Run
from lska.tables.collect import Table
from lska.tables.figure_curves import cost_curves, kernel_size_panels, trade_off
from lska.tables.figure_parts import FOOTER_LETTERS, LOOKS, NAMES, WIDTH, balanced
from lska.tables.figures import DARK_INK, DARK_PAGE, DRAWINGS, draw_figure, following_scheme
from lska.tables.measurements import read_paper
from lska.tables.specs import TARGETS

TRAINED = {name: NAMES[name] for name in ("lka_trivial", "lska_trivial", "lka", "lska")}
FIGURES = [target for target in TARGETS if target.startswith("figure")]
SVG = "{http://www.w3.org/2000/svg}"
SMALLEST = 5.0
"""Points: the least that print shows at the width of a page."""
SAID = {
    "figure_01": ("Bars: standard error over the images of one seed.", "sample standard deviation over 3 seeds"),
    "figure_06": ("quartiles of repeated measurements (inference speed).", "deviation over 3 seeds, quartiles"),
    "figure_07": ("The activations are made up", "The activations are made up"),
    "figure_08": ("Trained networks, seed 0.", "Trained networks, seed 0."),
}
"""In the small print with one seed and with several."""


# Curves.


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


# Files.


def seeds(tmp_path: Path) -> Scale:
    runs = [Run("van_tiny", name, k, s) for name in ATTENTIONS for k in (7, 11, 23, 35, 53) for s in (0, 1, 2)]
    return Scale(tmp_path / "results" / "demo", tuple(runs), fine_tuned=DENSE)


def drawn(table: Table) -> Figure:
    with styled():
        figure = DRAWINGS[table.spec.drawing](table)
        figure.draw_without_rendering()
    return figure


def shown(figure: Figure) -> list[Text]:
    """Every text that is drawn; axes keep labels of ticks beyond their ends, which are not."""
    texts = {id(text): text for text in figure.findobj(Text)}
    for panel in figure.axes:
        hidden = [] if panel.get_visible() else panel.findobj(Text)
        for axis in (panel.xaxis, panel.yaxis):
            low, high = sorted(axis.get_view_interval())
            places = axis.get_majorticklocs() if panel.axison else []
            fits = [low <= place <= high for place in places]
            labels = axis.get_majorticklabels()
            hidden += [label for label, fit in itertools.zip_longest(labels, fits[: len(labels)]) if not fit]
            hidden += axis.get_minorticklabels()
        for text in hidden:
            texts.pop(id(text), None)
    return [text for text in texts.values() if text.get_visible() and text.get_text().strip()]


CASES = [
    *((target, demo) for target in FIGURES), ("figure_01", seeds), ("figure_06", seeds), ("figure_01", Scale),
    ("figure_04", Scale), ("figure_s1", Scale),
]  # fmt: skip
"""Networks with one seed, with several, and none."""


@pytest.mark.parametrize(("target", "make"), CASES)
def test_every_text_can_be_read(target: str, make: object, tmp_path: Path) -> None:
    figure = drawn(filled(target, make(tmp_path)))
    texts, page = shown(figure), figure.bbox.padded(1.5).extents
    assert len(texts) > 1 and figure.get_figwidth() == WIDTH
    assert min(text.get_fontsize() for text in texts) >= SMALLEST
    # The letters of a line do not fill its height.
    boxes = [(text, text.get_window_extent().shrunk(0.98, 0.75)) for text in texts]
    cut = [text.get_text() for text, box in boxes if (box.min < page[:2]).any() or (box.max > page[2:]).any()]
    assert cut == []
    level = [(text.get_text(), box) for text, box in boxes if not text.get_rotation() % 90]
    assert [(a, b) for (a, one), (b, other) in itertools.combinations(level, 2) if one.overlaps(other)] == []
    small_print = " ".join(figure.get_supxlabel().split())
    if make is not Scale:
        assert SAID.get(target, ("", ""))[make is seeds] in small_print
    assert ("Bars" in small_print) == (make is not Scale and target in ("figure_01", "figure_06", "figure_s2"))
    assert target != "figure_07" or "Measured on" not in small_print


@pytest.mark.parametrize("target", ["figure_06", "figure_07"])
def test_files_are_equal_byte_for_byte_and_hold_text_in_outline_fonts(
    target: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = filled(target, demo(tmp_path, caption="demo scale: some caption"))
    first, second = ([tmp_path / folder / f"f.{kind}" for kind in ("png", "pdf", "svg")] for folder in ("a", "b"))
    draw_figure(table, first)
    monkeypatch.setitem(matplotlib.rcParams, "font.size", 17.0)
    draw_figure(table, second)
    assert matplotlib.rcParams["font.size"] == 17.0
    for one, other in zip(first, second, strict=True):
        assert one.read_bytes() == other.read_bytes(), one.suffix
    pdf, svg = first[1].read_bytes(), first[2].read_text()
    assert not re.search(r"dc:date|20\d\d-\d\d-\d\d", svg)
    assert b"CreationDate" not in pdf
    assert b"/FontFile2" in pdf and b"/CIDFontType2" in pdf and b"/Type3" not in pdf
    title = f"{table.spec.number}. {table.spec.title}"
    assert f"/Title ({title})".encode() in pdf
    root = ElementTree.fromstring(svg)
    assert root.find(f"{SVG}title").text == title
    assert ">Demo scale: some caption" in svg
    fonts = {re.search("font-family: ([^;]*)", text.get("style"))[1] for text in root.iter(f"{SVG}text")}
    assert fonts and all(font.endswith("sans-serif") for font in fonts)


def test_in_a_dark_scheme_greys_turn_and_colours_and_numbers_on_maps_stay() -> None:
    drawn = "".join(f'<path style="fill: {fill}; stroke: #808080"/>' for fill in ("#ffffff", "#fffffe", "#009e73"))
    found = following_scheme(f"<svg><defs></defs>{drawn}<image/></svg>")
    assert found.replace(re.search("\n  <style>.*</style>", found)[0], "").count(drawn) == 1
    rules = dict(re.findall(r'\[style\*="(.*?)"\] { (.*?) !important; }', found))
    assert rules["fill: #ffffff"] == f"fill: #{DARK_PAGE.hex()}" and f"svg {{ fill: #{DARK_INK.hex()}; }}" in found
    # In the middle between white and black, in the middle between page and ink.
    middle = [round((page + ink) / 2) for page, ink in zip(DARK_PAGE, DARK_INK, strict=True)]
    assert np.abs(np.array(middle) - list(bytes.fromhex(rules["stroke: #808080"][-6:]))).max() <= 1
    assert not [rule for rule in rules if "#fffffe" in rule or "#009e73" in rule]


def test_unknown_formats_and_drawings_are_refused_and_nothing_is_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"f\.gif.*\.png, \.pdf, \.svg"):
        draw_figure(filled("figure_03", demo(tmp_path)), [tmp_path / "f.png", tmp_path / "f.gif"])
    with pytest.raises(ValueError, match="table_03: drawing: expected one of trade_off"):
        draw_figure(filled("table_03", demo(tmp_path)), [tmp_path / "f.png"])
    assert not list(tmp_path.glob("f.*"))


def test_lines_of_the_small_print_are_few_and_about_equally_long() -> None:
    lines = balanced("word " * 41)
    assert [len(line.split()) for line in lines] in ([20, 21], [21, 20]) and max(map(len, lines)) <= FOOTER_LETTERS
    assert balanced("") == []
