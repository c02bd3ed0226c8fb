"""Figures 4, 5, 7 and 8, from made-up metric files."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from robustness_tables import filled, metric_file
from table_helpers import PAPER, Scale, demo, put_field, put_required

from lska.evaluate.pictures import styled
from lska.models.runs import Run
from lska.tables.collect import Table
from lska.tables.figure_estimate import planted_example
from lska.tables.figure_maps import block_means
from lska.tables.figures import DRAWINGS
from lska.tables.specs import TARGETS
from lska.tables.table_formats import build_table

FIELDS = ("figure_04", "figure_08")
INSIDE = (*FIELDS, "figure_05", "figure_07")
TINY = Run("van_tiny", "lska", 23, 0)


def drawn(table: Table) -> Figure:
    with styled():
        return DRAWINGS[table.spec.drawing](table)


def texts(figure: Figure) -> str:
    return " ".join(text.get_text() for text in figure.findobj(lambda artist: hasattr(artist, "get_text")))


@pytest.mark.parametrize("target", FIELDS)
def test_figures_of_receptive_fields_show_the_trained_maps(target: str, tmp_path: Path) -> None:
    scale = demo(tmp_path)
    figure = drawn(filled(target, scale))
    shown = {axes.get_title(): axes.get_images()[0].get_array() for axes in figure.axes if axes.get_images()}
    attentions = ("LSKA",) if target == "figure_04" else ("LKA", "LSKA")
    names = {f"{name} k={kernel}" for name in attentions for kernel in (7, 23)}
    assert {title for title in shown if title} == names
    with np.load(put_field(scale, TINY)) as maps:
        logarithms = np.log10(maps["trained"].astype(np.float64) + 1)
        assert len(np.unique(maps["untrained"])) == 1
    np.testing.assert_allclose(shown["LSKA k=23"], block_means(logarithms / logarithms.max()))
    assert "shapes" in texts(figure) and "Demo scale" in texts(figure)


@pytest.mark.parametrize("target", FIELDS)
def test_a_map_that_is_missing_names_its_file_and_what_makes_it(target: str, tmp_path: Path) -> None:
    scale = demo(tmp_path)
    table = filled(target, scale)
    field = scale.results / "fields" / f"{TINY}.npz"
    field.unlink()
    message = f"{re.escape(str(field))}: .*{re.escape(str(metric_file(scale, 'receptive_field', TINY)))}"
    with pytest.raises(FileNotFoundError, match=message):
        drawn(table)


@pytest.mark.parametrize("target", INSIDE)
def test_drawings_do_without_a_network(target: str, tmp_path: Path) -> None:
    figure = drawn(filled(target, Scale(tmp_path / "results")))
    said = "no network was measured at this scale" in texts(figure)
    # What the other two show is no measurement.
    assert said == (target in FIELDS)
    assert len([axes for axes in figure.axes if axes.get_images()]) == (0 if target in FIELDS else len(
        [axes for axes in drawn(filled(target, demo(tmp_path))).axes if axes.get_images()]
    ))  # fmt: skip


def test_figure_five_is_drawn_from_the_papers_network_at_every_scale(tmp_path: Path) -> None:
    scale = demo(tmp_path, architecture={"van_tiny": {"embed_dims": [8, 8, 8, 8]}})
    table = filled("figure_05", scale)
    said = texts(drawn(table))
    for channels in (32, 64, 160, 256):
        assert re.search(rf"\b{channels}\b", said)
    assert table.cell("VAN-LSKA-Tiny stage 3", "channels C").paper == "160"


def test_figure_seven_shows_the_numbers_of_its_example(tmp_path: Path) -> None:
    _, result = planted_example()
    said = texts(drawn(filled("figure_07", demo(tmp_path))))
    assert "made up" in said
    for dimensions, score in zip(result.dimensions, result.scores, strict=True):
        assert re.search(rf"\b{dimensions}\b", said) and f"{score:.3g}" in said


@pytest.mark.parametrize("target", INSIDE)
def test_figures_are_written_with_their_numbers(target: str, tmp_path: Path) -> None:
    scale = demo(tmp_path)
    put_required(target, scale)
    files = [tmp_path / f"{target}.png", tmp_path / f"{target}.csv"]
    build_table(target, scale, files, PAPER)
    assert target in TARGETS and all(path.stat().st_size > 500 for path in files)
