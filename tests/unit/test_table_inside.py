"""Tables VII, XII, XIII and XV, and Figures 4, 5, 7 and 8, from made-up metric files."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from robustness_tables import edit, filled, metric_file, value
from table_helpers import PAPER, Scale, demo, put_field, put_required

from lska.evaluate.neighbours import texture_metrics
from lska.evaluate.pictures import styled
from lska.runs import Run
from lska.tables import TARGETS, build, load_spec
from lska.tables.collect import Table, collect
from lska.tables.figure_estimate import planted_example
from lska.tables.figure_maps import block_means
from lska.tables.figures import DRAWINGS
from lska.tables.paper import REFERENCE, read_paper
from lska.tables.render import cell_text
from lska.tables.states import State

TABLES = {"table_07": "receptive_field", "table_12": "shape_texture", "table_13": "texture_knn",
          "table_15": "shape_texture"}  # fmt: skip
FIELDS = ("figure_04", "figure_08")
INSIDE = (*FIELDS, "figure_05", "figure_07")
TINY = Run("van_tiny", "lska", 23, 0)


def drawn(table: Table) -> Figure:
    with styled():
        return DRAWINGS[table.spec.drawing](table)


def texts(figure: Figure) -> str:
    return " ".join(text.get_text() for text in figure.findobj(lambda artist: hasattr(artist, "get_text")))


@pytest.mark.parametrize("target", TABLES)
def test_every_row_and_column_of_the_papers_file_is_there(target: str, tmp_path: Path) -> None:
    paper, table = read_paper(PAPER / f"{target}.csv"), filled(target, demo(tmp_path))
    rows = {row.source.paper_label for row in table.rows if row.source} | {row.label for row in table.rows}
    assert set(paper.rows) <= rows
    columns = {column.paper_label or column.label for column in table.spec.columns}
    assert {column for _, column in paper.values} <= columns
    assert {cell.state for cell in table.cells} == {State.UNKNOWN, State.NOT_RUN}, "the paper's values are not known"
    assert not [row for row in paper.rows if row.startswith(REFERENCE)]


@pytest.mark.parametrize(("target", "task"), TABLES.items())
def test_every_value_is_that_of_its_metric_file(target: str, task: str, tmp_path: Path) -> None:
    scale = demo(tmp_path)
    table, found = filled(target, scale), set()
    for row in table.rows:
        run = row.source and row.source.attention and Run(row.source.model, row.source.attention, row.source.kernel, 0)
        for cell, column in zip(row.cells, table.spec.columns, strict=True):
            if run in scale.runs:
                assert cell.value == pytest.approx(value(scale, task, run, column.metric))
                assert (cell.unit, cell.data) == (column.unit, ("shapes",))
                found.add(run)
            else:
                assert (cell.value, cell.state) == (None, State.NOT_RUN)
    kernels = {("lka", 7), ("lka", 23), ("lska", 7), ("lska", 23)}
    assert {(run.attention, run.kernel) for run in found if run.model == "van_tiny"} == kernels - (
        {("lka", 7)} if target == "table_15" else set()
    )
    assert len(found) == (7 if target == "table_15" else 4)


@pytest.mark.parametrize("target", ["table_12", "table_15"])
def test_no_decision_for_a_cue_is_no_shape_bias(target: str, tmp_path: Path) -> None:
    scale = demo(tmp_path)
    put_required(target, scale)
    path = metric_file(scale, "shape_texture", TINY)
    edit(path, lambda content: content["metrics"]["shape_bias"].update(value=None))
    table = collect(load_spec(target), scale, PAPER, scale.results)
    cell = table.cell("VAN-LSKA-Tiny k=23", "shape bias")
    assert cell.value is None and cell.state is State.NOT_APPLICABLE and str(cell_text(cell))
    edit(path, lambda content: content["metrics"]["shape_score_reference"].update(value=None))
    with pytest.raises(ValueError, match=re.escape(str(path))):
        collect(load_spec(target), scale, PAPER, scale.results)


def test_textures_with_one_split_have_no_deviation(tmp_path: Path) -> None:
    scale = demo(tmp_path)
    put_required("table_13", scale)
    split = {"train": np.arange(3), "val": np.array([3])}
    single, _ = texture_metrics(np.eye(4, dtype=np.float32), np.arange(4) % 2, {1: split})
    edit(metric_file(scale, "texture_knn", TINY), lambda content: content.update(metrics=single))
    table = collect(load_spec("table_13"), scale, PAPER, scale.results)
    for distance in ("cosine", "Euclidean"):
        cell = table.cell("VAN-LSKA-Tiny k=23", f"deviation, {distance}")
        assert cell.value is None and cell.state is State.NOT_APPLICABLE and str(cell_text(cell))
        assert table.cell("VAN-LSKA-Tiny k=23", f"1-NN top-1, {distance}").value in (0, 100)


def test_networks_of_other_papers_say_why_they_are_missing(tmp_path: Path) -> None:
    table = filled("table_15", demo(tmp_path))
    notes = {label: table.cell(label, "shape dimensions").note for label in ("SLaK-T", "PVT", "RepLKNet-31T", "DeiT")}
    assert notes["SLaK-T"] == "scale demo has no shape_texture of slak_tiny"
    assert notes["DeiT"] == "scale demo has no shape_texture of deit_small_patch16_224"


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
    build(target, scale, files, PAPER)
    assert target in TARGETS and all(path.stat().st_size > 500 for path in files)
