"""Tables VI, X, XIV and XVI: values and states of their cells."""

from __future__ import annotations

import csv
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from robustness_tables import edit, filled, metric_file, value, without
from table_helpers import PAPER, Scale, demo, entry, one_cell, only_cell, put, put_required

from lska.files import read_yaml
from lska.provenance import project_root
from lska.runs import Run
from lska.tables.cell_states import State
from lska.tables.cell_text import cell_text, legend
from lska.tables.collect import Cell, collect
from lska.tables.specs import load_spec
from lska.tables.table_formats import to_markdown
from lska.workflow import Plan

TABLES = ("table_06", "table_10", "table_14", "table_16")
TINY = Run("van_tiny", "lska", 23, 0)


@dataclass(frozen=True)
class Perturbed(Scale):
    """A scale with fewer runs on the perturbed sets than it trains."""

    measured: tuple[Run, ...] = ()

    def runs_of(self, task: str) -> tuple[Run, ...]:
        return self.measured if task.startswith("robustness/") else super().runs_of(task)


COLUMNS = {
    "C, mean top-1 of 19": ("c", "top1_mean_19"), "C, mCE of 15": ("c", "mce_15"), "C, mCE of 19": ("c", "mce_19"),
    "C-bar, mean top-1": ("c_bar", "top1_mean_10"), "C-bar, mean error": ("c_bar", "error_mean_10"),
    "A, top-1": ("a", "top1"), "A, top-1 unmasked": ("a", "top1_unmasked"), "R, top-1": ("r", "top1"),
    "R, top-1 unmasked": ("r", "top1_unmasked"), "Sketch, top-1": ("sketch", "top1"),
    "C, relative mCE of 15": ("c", "relative_mce_15"),
}  # fmt: skip


@pytest.mark.parametrize("target", TABLES)
def test_every_value_is_that_of_its_metric_file(target: str, tmp_path: Path) -> None:
    scale = demo(tmp_path)
    table = filled(target, scale)
    found = 0
    for row in table.rows:
        run = row.source and row.source.attention and Run(row.source.model, row.source.attention, row.source.kernel, 0)
        for cell in row.cells:
            if cell.column in COLUMNS and run in scale.runs:
                name, metric = COLUMNS[cell.column]
                assert cell.value == pytest.approx(value(scale, f"robustness/{name}", run, metric))
                assert (cell.state, cell.standard_error, cell.data) == (State.UNKNOWN, 1.25, ("shapes",))
                found += 1
    shown = [column.label for column in table.spec.columns if column.label in COLUMNS]
    assert len(shown) == {"table_06": 10, "table_10": 11, "table_14": 1, "table_16": 5}[target]
    assert found == len(shown) * (4 if target == "table_10" else 6)


def test_the_parameters_beside_robustness_are_compared(tmp_path: Path) -> None:
    table = filled("table_06", demo(tmp_path))
    for label in ("Params (exact)", "FLOPs (exact)"):
        assert {row.cells[0].state for row in table.rows} == {State.REPRODUCED}
        assert table.cell("VAN-LSKA-Tiny", label).paper is not None


@pytest.mark.parametrize("label", [label for label, (name, _) in COLUMNS.items() if name == "c"])
def test_a_mean_without_all_its_parts_is_partial_and_says_what_is_missing(label: str, tmp_path: Path) -> None:
    scale = demo(tmp_path)
    put_required("table_10", scale)
    edit(metric_file(scale, "robustness/c", TINY), without("fog", "snow"))
    table = collect(load_spec("table_10"), scale, PAPER, scale.results)
    cell = table.cell("VAN-LSKA-Tiny k=23", label)
    assert (cell.state, cell.value) == (State.PARTIAL, None)
    assert cell.note == "missing: fog 1, 2, 3, 4, 5; snow 1, 2, 3, 4, 5"
    assert cell_text(cell).ours == "partial"
    assert cell.files == (metric_file(scale, "robustness/c", TINY),) and cell.data == ("shapes",)
    others = [other for other in table.cells if other.column == label and other.row != cell.row]
    assert State.PARTIAL not in {other.state for other in others}
    line = next(line for line in to_markdown(table).splitlines() if line.startswith("| VAN-LSKA-Tiny k=23"))
    assert line.count("partial") == 4


def test_only_means_over_parts_may_be_null(tmp_path: Path) -> None:
    scale = demo(tmp_path)
    put_required("table_06", scale)
    edit(metric_file(scale, "robustness/a", TINY), lambda content: content["metrics"]["top1"].update(value=None))
    with pytest.raises(ValueError, match=r"robustness/a/van_tiny-lska-k23-s0\.json: field 'metrics\.top1\.value'"):
        collect(load_spec("table_06"), scale, PAPER, scale.results)


def test_what_is_trained_and_not_measured_is_not_run(tmp_path: Path) -> None:
    plain = demo(tmp_path)
    scale = Perturbed(plain.results, plain.runs, fine_tuned=plain.fine_tuned, measured=(TINY,))
    table = filled("table_14", scale)
    tiny, small = (table.cell(f"VAN-LSKA-{size}", "C, mean top-1 of 19") for size in ("Tiny", "Small"))
    assert tiny.value is not None
    assert (small.state, small.note) == (State.NOT_RUN, "scale demo has no robustness/c of van_small-lska-k23")
    assert table.cell("VAN-LSKA-Small", "top-1").value is not None


@pytest.mark.parametrize("target", ["table_14", "table_16"])
def test_networks_of_other_papers_are_not_run_and_say_why(target: str, tmp_path: Path) -> None:
    table = filled(target, demo(tmp_path))
    label = "C, mean top-1 of 19"
    for row in ("ConvNeXt-T", "Swin-T", "RepLKNet-31T", "SLaK-T"):
        assert table.cell(row, label).state is State.NOT_RUN
    assert table.cell("ConvNeXt-T", label).note == "scale demo has no robustness/c of convnext_tiny"
    assert table.cell("SLaK-T", label).note == "scale demo has no robustness/c of slak_tiny"


def test_what_a_printed_value_counts_is_said_beside_ours(tmp_path: Path) -> None:
    table = filled("table_14", demo(tmp_path))
    merged, sparse = table.cell("RepLKNet-31T", "Params"), table.cell("SLaK-T", "Params")
    assert "after the small kernels are merged" in merged.note
    assert (sparse.state, sparse.paper) == (State.OTHER_DATA, "30.0")
    assert sparse.note == ("counted with all weights, 50.7 M; SLaK counts those that its sparse training leaves "
                                "other than zero, printed as 30 M")  # fmt: skip
    assert any(line.startswith("SLaK-T, Params: counted with all weights, 50.7 M") for line in legend(table))


def test_other_peoples_measurements_stand_as_reference_rows_with_their_source(tmp_path: Path) -> None:
    table = filled("table_16", demo(tmp_path))
    labels = [row.label for row in table.rows]
    assert labels.index("reference: Swin-T as published by STL") == labels.index("Swin-T") + 2
    cell = table.cell("reference: PVTv2-B1 as published by STL", "C, mean top-1 of 19")
    assert (cell.state, cell.value, cell.paper, cell.paper_source) == (State.REFERENCE, None, "51.7", "other-paper:STL")
    assert table.cell("reference: ConvNeXt-T as published", "C, mCE of 15").paper == "53.2"


def test_networks_of_other_papers_are_measured_where_a_scale_trains_them(tmp_path: Path) -> None:
    scale = demo(tmp_path)
    scale = replace(scale, runs=(*scale.runs, Run("convnext_tiny", None, None, 0)))
    cell = filled("table_16", scale).cell("ConvNeXt-T", "A, top-1")
    assert (cell.state, cell.n) == (State.UNKNOWN, 1)
    assert cell.files[0].name == "convnext_tiny-s0.json"


def test_values_of_other_publications_are_references(tmp_path: Path) -> None:
    table = filled("table_14", demo(tmp_path))
    rows = [row for row in table.rows if row.source is None]
    assert len(rows) >= 4 and all(row.label.startswith("reference: ") for row in rows)
    assert all(cell.value is None for row in rows for cell in row.cells)
    assert State.REFERENCE in {cell.state for row in rows for cell in row.cells}


def test_kernel_sizes_that_the_paper_lacks_have_rows_where_they_are_measured(tmp_path: Path) -> None:
    runs = (Run("van_tiny", "lska", 9, 0), Run("van_tiny", "lska", 15, 0))
    scale = Perturbed(tmp_path / "results", runs, measured=runs[:1])
    labels = [row.label for row in filled("table_10", scale).rows]
    assert "VAN-LSKA-Tiny k=9" in labels and "VAN-LSKA-Tiny k=15" not in labels


def test_several_seeds_are_averaged(tmp_path: Path) -> None:
    runs = tuple(Run("van_tiny", "lska", 23, seed) for seed in (0, 1))
    scale = Scale(tmp_path / "results", runs)
    cell = filled("table_16", scale).cell("VAN-LSKA-Tiny", "R, top-1")
    values = [value(scale, "robustness/r", run, "top1") for run in runs]
    assert (cell.n, cell.value) == (2, pytest.approx(np.mean(values)))
    assert cell.deviation == pytest.approx(np.std(values, ddof=1))


@pytest.mark.parametrize(
    ("data", "printed", "state"),
    [
        ("imagenet_c", "45.2", State.REPRODUCED),
        ("imagenet_c", "49.9", State.DEVIATES),
        ("shapes_c", "45.2", State.OTHER_DATA),
        ("imagenet_c", "", State.UNKNOWN),
    ],
)
def test_a_printed_value_would_be_compared_on_its_own_data_only(
    data: str, printed: str, state: State, tmp_path: Path
) -> None:
    scale = Scale(tmp_path, (Run("van_tiny", "lka", 23, 0),))
    column = next(column for column in load_spec("table_06").columns if column.label == "C, mean top-1 of 19")
    put(scale, "robustness/c", scale.runs[0], {"top1_mean_19": entry(45.6, "%", standard_error=0.2)}, data)
    spec = one_cell(tmp_path, replace(column, paper_label=None), printed)
    assert only_cell(spec, scale, tmp_path).state is state


def test_every_run_of_every_set_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(project_root())
    made = Plan(read_yaml(Path("config/demo.yaml")), [Path("config/demo.yaml")], {})
    files = [path for path in made.accuracies() if "/robustness/" in path]
    assert len(files) == len(set(files)) == 2 * 5 * 21
    ten = [path for path in made.metrics("table_10") if "/robustness/" in path]
    assert len(ten) == 10 * 5 and all("van_tiny-l" in path for path in ten)
    six = [path for path in made.metrics("table_06") if "/robustness/" in path]
    assert len(six) == 6 * 5 and all("-k23-" in path for path in six)
    shown = [path for target in (*TABLES, "figure_s1", "figure_s2") for path in made.metrics(target)]
    assert not [path for path in (*shown, *made.accuracies()) if "resnet18" in path]


def test_the_csv_of_a_table_names_state_and_reason(tmp_path: Path) -> None:
    from lska.tables.table_formats import build_table

    scale = demo(tmp_path)
    put_required("table_16", scale)
    edit(metric_file(scale, "robustness/c", TINY), without("fog"))
    build_table("table_16", scale, [tmp_path / "table.csv"], PAPER)
    with (tmp_path / "table.csv").open() as stream:
        lines = {(line["row"], line["column"]): line for line in csv.DictReader(stream)}
    line = lines["VAN-LSKA-Tiny", "C, mCE of 15"]
    assert (line["state"], line["value"]) == ("partial", "") and "fog 1, 2, 3, 4, 5" in line["note"]
    assert lines["PVT", "A, top-1"]["state"] == "not run"


def test_cells_are_never_blank(tmp_path: Path) -> None:
    def blank(cell: Cell) -> bool:
        return not str(cell_text(cell)).strip()

    for target in TABLES:
        assert not [cell for cell in filled(target, demo(tmp_path)).cells if blank(cell)]
