"""Figures as a reader sees them: nothing overlaps or is cut off, fonts are embedded, colours are told apart without
colour, and the small print says what bars are and how many seeds there are."""

from __future__ import annotations

import itertools
import re
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.transforms import Bbox
from table_helpers import DENSE, PAPER, Scale, demo, put_required

from lska.runs import ATTENTIONS, Run
from lska.tables.collect import Table, collect
from lska.tables.curves import FOOTER_LETTERS, LOOKS, WIDTH, balanced
from lska.tables.figures import DRAWINGS, draw
from lska.tables.panels import panels
from lska.tables.specs import TARGETS, load_spec
from lska.tables.style import styled

FIGURES = [target for target in TARGETS if target.startswith("figure")]
SVG = "{http://www.w3.org/2000/svg}"
SMALLEST = 5.0
"""Points: the least that print shows at the width of a page."""


def seeds(tmp_path: Path) -> Scale:
    runs = [Run("van_tiny", name, k, s) for name in ATTENTIONS for k in (7, 11, 23, 35, 53) for s in (0, 1, 2)]
    return Scale(tmp_path / "results" / "demo", tuple(runs), fine_tuned=DENSE)


def filled(target: str, scale: Scale, data: str = "shapes") -> Table:
    put_required(target, scale, data)
    return collect(load_spec(target), scale, PAPER, scale.results)


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


def box(text: Text) -> Bbox:
    """Extent of a text; the letters of a line do not fill its height."""
    extent = text.get_window_extent()
    return extent.shrunk(0.98, 0.75)


@pytest.mark.parametrize("make", [demo, seeds, Scale], ids=["demo", "several seeds", "nothing run"])
@pytest.mark.parametrize("target", FIGURES)
def test_no_text_is_cut_off_or_lies_on_another(target: str, make: object, tmp_path: Path) -> None:
    figure = drawn(filled(target, make(tmp_path)))
    texts = shown(figure)
    page = figure.bbox.padded(1.5)
    outside = [text.get_text() for text in texts if not _within(box(text), page)]
    assert outside == []
    boxes = [(text.get_text(), box(text)) for text in texts if not text.get_rotation() % 90]
    overlaps = [(a, b) for (a, one), (b, other) in itertools.combinations(boxes, 2) if one.overlaps(other)]
    assert overlaps == []
    assert len(texts) > 1


def _within(inner: Bbox, outer: Bbox) -> bool:
    return inner.x0 >= outer.x0 and inner.x1 <= outer.x1 and inner.y0 >= outer.y0 and inner.y1 <= outer.y1


@pytest.mark.parametrize("target", FIGURES)
def test_texts_can_be_read_at_the_width_of_a_page(target: str, tmp_path: Path) -> None:
    figure = drawn(filled(target, demo(tmp_path)))
    assert figure.get_figwidth() == WIDTH
    assert min(text.get_fontsize() for text in shown(figure)) >= SMALLEST


@pytest.mark.parametrize("target", FIGURES)
def test_text_is_text_with_embedded_outline_fonts(target: str, tmp_path: Path) -> None:
    table = filled(target, demo(tmp_path))
    draw(table, [tmp_path / "f.pdf", tmp_path / "f.svg"])
    pdf = (tmp_path / "f.pdf").read_bytes()
    assert b"/FontFile2" in pdf and b"/CIDFontType2" in pdf and b"/Type3" not in pdf
    title = f"{table.spec.number}. {table.spec.title}"
    assert f"/Title ({title})".encode() in pdf
    root = ElementTree.fromstring((tmp_path / "f.svg").read_bytes())
    assert root.find(f"{SVG}title").text == title
    words = " ".join("".join(text.itertext()) for text in root.iter(f"{SVG}text"))
    assert "Demo scale: generated data." in words
    fonts = {re.search("font-family: ([^;]*)", text.get("style"))[1] for text in root.iter(f"{SVG}text")}
    assert fonts and all(font.endswith("sans-serif") for font in fonts)


def test_attentions_are_told_apart_without_colour_and_by_colour_blind_readers() -> None:
    assert len({marker for _, marker in LOOKS.values()}) == len(LOOKS)
    # Vienot, Brettel and Mollon 1999: what a reader without the long- or the middle-wave cones sees, in linear RGB.
    blind = {
        "protanopia": [[0.11238, 0.88762, 0], [0.11238, 0.88762, 0], [0.00401, -0.00401, 1]],
        "deuteranopia": [[0.29275, 0.70725, 0], [0.29275, 0.70725, 0], [-0.02234, 0.02234, 1]],
    }
    linear = {name: np.array(to_rgb(colour)) ** 2.2 for name, (colour, _) in LOOKS.items()}
    for matrix in blind.values():
        seen = {name: (np.array(matrix) @ value).clip(0, 1) ** (1 / 2.2) for name, value in linear.items()}
        distances = [np.abs(seen[a] - seen[b]).max() for a, b in itertools.combinations(seen, 2)]
        assert min(distances) > 0.09


def small_print(figure: Figure) -> str:
    return " ".join(figure.get_supxlabel().split())


def test_the_small_print_says_what_bars_are(tmp_path: Path) -> None:
    one = small_print(drawn(filled("figure_01", demo(tmp_path / "one"))))
    assert one.endswith("Bars: standard error over the images of one seed.")
    several = small_print(drawn(filled("figure_06", seeds(tmp_path / "several"))))
    assert several.endswith(
        "Bars: sample standard deviation over 3 seeds, quartiles of repeated measurements (inference speed)."
    )
    assert "Bars" not in small_print(drawn(filled("figure_03", demo(tmp_path / "counts"))))


def test_fields_name_the_seed_whose_map_is_shown(tmp_path: Path) -> None:
    assert "Trained networks, seed 0." in small_print(drawn(filled("figure_08", seeds(tmp_path))))


def test_a_made_up_example_is_not_said_to_be_measured(tmp_path: Path) -> None:
    words = small_print(drawn(filled("figure_07", demo(tmp_path))))
    assert "The activations are made up" in words
    assert "Measured on" not in words


def test_no_value_of_an_axis_stands_beside_the_crosses_of_what_was_not_run(tmp_path: Path) -> None:
    speed = panels(filled("figure_06", demo(tmp_path))).axes[-1]
    low, high = speed.spines["left"].get_bounds()
    ticks = speed.get_yticks()
    assert low >= 0 and speed.get_ylim()[0] < low
    assert len(ticks) >= 2 and min(ticks) >= low and max(ticks) <= high
    foot = speed.transAxes.inverted().transform(speed.transData.transform((0, low)))[1]
    crosses = [line.get_ydata() for line in speed.get_lines() if line.get_marker() == "x"]
    assert len(crosses) == 4 and np.min(crosses) > 0 and np.max(crosses) < foot


def test_a_panel_without_any_value_says_so(tmp_path: Path) -> None:
    figure = panels(filled("figure_s2", Scale(tmp_path)))
    assert all("not run at this scale" in [text.get_text() for text in axes.texts] for axes in figure.axes)


def test_lines_of_the_small_print_are_few_and_about_equally_long() -> None:
    text = "word " * 41
    lines = balanced(text)
    assert " ".join(lines) == text.strip()
    assert len(lines) == 2 and max(map(len, lines)) <= FOOTER_LETTERS
    assert abs(len(lines[0]) - len(lines[1])) <= 10
    assert balanced("") == []
