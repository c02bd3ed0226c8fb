"""Tables: the state of every cell."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from table_helpers import (
    PAPER,
    TOP1,
    Scale,
    demo,
    entry,
    one_cell,
    only_cell,
    put,
    put_required,
    stage_metrics,
)

from lska.runs import Run
from lska.tables.cell_states import State, compare, pool
from lska.tables.cell_text import cell_text
from lska.tables.collect import collect
from lska.tables.specs import ColumnSpec, RowSpec, TableSpec, load_spec


def with_tolerance(tolerance: str, margin: float = 0.0) -> ColumnSpec:
    return ColumnSpec("x", "t", "m", tolerance=tolerance, margin=margin)


@pytest.mark.parametrize(
    ("tolerance", "margin", "ours", "printed", "error", "state"),
    [
        ("printed", 0, "0.8725", "0.87", None, State.REPRODUCED),
        ("printed", 0, "0.8651", "0.87", None, State.REPRODUCED),
        ("printed", 0, "0.8649", "0.87", None, State.DEVIATES),
        ("printed", 0, "0.9023", "0.90", None, State.REPRODUCED),
        ("printed", 0, "0.9051", "0.90", None, State.DEVIATES),
        ("printed", 0, "0.9051", "0.9", None, State.REPRODUCED),
        ("printed", 0, "26.293", "26.2", None, State.DEVIATES),
        ("printed", 0, "3", "3", None, State.REPRODUCED),
        ("printed or cut", 0, "26.293", "26.2", None, State.REPRODUCED),
        ("printed or cut", 0, "26.293", "26.3", None, State.REPRODUCED),
        ("printed or cut", 0, "26.301", "26.2", None, State.DEVIATES),
        ("printed or cut", 0, "26.199", "26.2", None, State.REPRODUCED),
        ("printed or cut", 0, "26.149", "26.2", None, State.DEVIATES),
        # Two errors of 0.2 make 0.283, two of these 0.566, and half a printed digit is 0.05.
        ("noise", 0, "75.61", "75.0", 0.2, State.REPRODUCED),
        ("noise", 0, "75.62", "75.0", 0.2, State.DEVIATES),
        ("noise", 0.7, "75.74", "75.0", 0.2, State.REPRODUCED),
        ("noise", 0.7, "75.76", "75.0", 0.2, State.DEVIATES),
        ("noise", 0, "75.06", "75.0", None, State.DEVIATES),
        ("absolute", 0.3, "74.66", "75.0", 9.0, State.REPRODUCED),
        ("absolute", 0.3, "74.64", "75.0", 9.0, State.DEVIATES),
    ],
)
def test_comparison(tolerance: str, margin: float, ours: str, printed: str, error: float | None, state: State) -> None:
    assert compare(with_tolerance(tolerance, margin), Decimal(ours), printed, error, error)[0] is state


def test_cut_and_rounded_values_are_told_apart() -> None:
    column = with_tolerance("printed or cut")
    assert "cut, not rounded" in compare(column, Decimal("2.462"), "2.4", None, None)[1]
    assert "cut" not in compare(column, Decimal("4.927"), "4.9", None, None)[1]


def test_paper_value_that_is_no_number_is_named() -> None:
    with pytest.raises(ValueError, match="'about 3'"):
        compare(with_tolerance("printed"), Decimal(3), "about 3", None, None)


def test_pooling_seeds() -> None:
    pooled = pool([70.0, 71.0, 75.0], [1.0, 1.0, 2.0])
    assert pooled.mean == pytest.approx(72.0)
    assert pooled.deviation == pytest.approx(7**0.5)
    # The images are common to all seeds, so their mean squared error of 2 stays; the variance of 7 is shared by three.
    assert pooled.standard_error == pytest.approx((2 + 7 / 3) ** 0.5)
    assert pooled.spread == pytest.approx(3.0)
    single = pool([70.0], [1.5])
    assert (single.mean, single.deviation, single.standard_error, single.spread) == (70.0, None, 1.5, 1.5)
    assert pool([5], [None]).standard_error is None


def test_measured_on_the_papers_data_is_compared(tmp_path: Path) -> None:
    scale = Scale(tmp_path, tuple(Run("van_tiny", "lka", 23, seed) for seed in (0, 1)), scale="paper")
    for run, value in zip(scale.runs, (74.5, 75.1), strict=True):
        put(scale, "classification", run, {"top1": entry(value, "%", n=50000, standard_error=0.19)}, "imagenet1k")
    cell = only_cell(one_cell(tmp_path, TOP1, "74.7"), scale, tmp_path)
    assert (cell.state, cell.n, cell.value) == (State.REPRODUCED, 2, pytest.approx(74.8))
    assert cell.deviation == pytest.approx(0.18**0.5)
    assert cell.standard_error == pytest.approx((0.19**2 + 0.09) ** 0.5)
    assert [path.name for path in cell.files] == ["van_tiny-lka-k23-s0.json", "van_tiny-lka-k23-s1.json"]
    assert only_cell(one_cell(tmp_path, TOP1, "70.0"), scale, tmp_path).state is State.DEVIATES
    unknown = only_cell(one_cell(tmp_path, TOP1, ""), scale, tmp_path)
    assert (unknown.state, unknown.paper, unknown.other_data) == (State.UNKNOWN, None, False)


@pytest.mark.parametrize(("data", "architecture"), [("shapes", {}), ("imagenet1k", {"van_tiny": {"depths": [1]}})])
@pytest.mark.parametrize("printed", ["74.7", "20.0"])
def test_other_data_or_model_is_never_compared(data: str, architecture: Any, printed: str, tmp_path: Path) -> None:
    scale = Scale(tmp_path, (Run("van_tiny", "lka", 23, 0),), architecture=architecture)
    put(scale, "classification", scale.runs[0], {"top1": entry(74.7, "%", standard_error=0.2)}, data)
    cell = only_cell(one_cell(tmp_path, TOP1, printed), scale, tmp_path)
    assert (cell.state, cell.value, cell.paper, cell.data) == (State.OTHER_DATA, 74.7, printed, (data,))
    assert str(cell_text(cell)) == f"74.7 ± 0.2 ○ ({printed})"
    unknown = only_cell(one_cell(tmp_path, TOP1, ""), scale, tmp_path)
    assert (unknown.state, str(cell_text(unknown))) == (State.UNKNOWN, "74.7 ± 0.2 ○ (?)")


def test_not_run_reference_and_inapplicable_cells(tmp_path: Path) -> None:
    scale = Scale(tmp_path)
    cell = only_cell(one_cell(tmp_path, TOP1, "74.7"), scale, tmp_path)
    assert (cell.state, cell.value, cell.paper, str(cell_text(cell))) == (State.NOT_RUN, None, "74.7", "not run (74.7)")
    both = (TOP1, ColumnSpec("other", "t", "m"))
    spec = TableSpec("table_03", "", "", (RowSpec("VAN-LKA", columns=("other",)),), both, "", "table_03")
    assert collect(spec, scale, tmp_path, tmp_path).cell("VAN-LKA", "top-1").state is State.NOT_APPLICABLE
    scale = demo(tmp_path)
    put_required("table_03", scale)
    table = collect(load_spec("table_03"), scale, PAPER, scale.results)
    labels = [row.label for row in table.rows]
    assert labels[2:4] == ["reference: VAN-B0 as published", "VAN-LKA-Small"]
    assert labels[-1] == "reference: VAN-B2 as published"
    reference = table.cell("reference: VAN-B0 as published", "top-1")
    assert (reference.state, reference.value, reference.paper) == (State.REFERENCE, None, "75.4")
    assert table.cell("reference: VAN-B0 as published", "Params").state is State.UNKNOWN


def test_all_printed_counts_come_out_and_the_cut_ones_say_so(tmp_path: Path) -> None:
    scale = demo(tmp_path)
    for target in ("table_03", "table_08", "table_17"):
        put_required(target, scale)
        table = collect(load_spec(target), scale, PAPER, scale.results)
        counts = [cell for cell in table.cells if cell.column not in ("top-1", "inference speed") and cell.files]
        assert {cell.state for cell in counts if cell.paper} == {State.REPRODUCED}
        cut = {(cell.row, cell.column) for cell in counts if "when cut" in cell.note}
        expected = {("VAN-LSKA-Small", "FLOPs"), ("VAN-LSKA-Base", "Params")} if target == "table_03" else set()
        assert cut == expected


def test_text_cells(tmp_path: Path) -> None:
    scale = demo(tmp_path)
    put_required("table_02", scale)
    table = collect(load_spec("table_02"), scale, PAPER, scale.results)
    assert table.cell("VAN-LSKA-Base stage 3", "output size").value == "H/16 x W/16"
    assert table.count() == {State.REPRODUCED: 72}
    wrong = stage_metrics("van_base") | {"stage3_blocks": entry(11, "1"), "stage3_stride": entry(8, "1")}
    put(scale, "complexity", Run("van_base", "lska", 23, 0), wrong)
    table = collect(load_spec("table_02"), scale, PAPER, scale.results)
    deviating = {(cell.row, cell.column) for cell in table.cells if cell.state is State.DEVIATES}
    assert deviating == {("VAN-LSKA-Base stage 3", "blocks L"), ("VAN-LSKA-Base stage 3", "output size")}


def test_yes_and_no_are_compared_as_words(tmp_path: Path) -> None:
    scale = demo(tmp_path)
    put_required("table_01", scale)
    table = collect(load_spec("table_01"), scale, PAPER, scale.results)
    states = [table.cell("Convolution", column.label).state for column in table.spec.columns]
    assert states == [State.DEVIATES] * 3 + [State.UNKNOWN]
    assert {cell.value for cell in table.cells} == {"yes"}
    names = ("long_range_dependence", "spatial_adaptability", "channel_adaptability", "scalability")
    put(scale, "properties", "lka", {name: entry(1, "1") for name in names} | {"scalability": entry(None, "1")})
    table = collect(load_spec("table_01"), scale, PAPER, scale.results)
    cell = table.cell("LKA", "scalability to extremely large kernels")
    assert (cell.state, cell.value, str(cell_text(cell))) == (State.NOT_APPLICABLE, None, "n/a")
    put(scale, "properties", "lka", {name: entry(2, "1") for name in names})
    with pytest.raises(ValueError, match=r"properties/lka\.json.*expected one of 0, 1, found 2"):
        collect(load_spec("table_01"), scale, PAPER, scale.results)
