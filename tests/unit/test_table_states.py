"""Tables: the value and the state of every cell."""

from __future__ import annotations

from dataclasses import dataclass, replace
from decimal import Decimal
from pathlib import Path

import numpy as np
import pytest
from robustness_tables import edit, metric_file, value, without
from table_helpers import (
    DENSE,
    PAPER,
    TOP1,
    Scale,
    demo,
    downstream,
    entry,
    every_table,
    filled,
    one_cell,
    only_cell,
    put,
    put_required,
    stage_metrics,
)

from lska.models.runs import Run
from lska.tables.cell_states import State, compare, pool
from lska.tables.cell_text import cell_text, legend
from lska.tables.collect import Table, collect
from lska.tables.specs import ColumnSpec, RowSpec, TableSpec, load_spec

TINY = Run("van_tiny", "lska", 23, 0)


@pytest.fixture(scope="module")
def every(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Table]:
    """All tables and figures of a demo."""
    return every_table(demo(tmp_path_factory.mktemp("every")))


def again(target: str, scale: Scale) -> Table:
    """A table from the metric files as they are."""
    return collect(load_spec(target), scale, PAPER, scale.results)


# Comparing.


def test_comparison() -> None:
    yes, no = State.REPRODUCED, State.DEVIATES
    rows = [
        ("printed", 0, "0.8725", "0.87", None, yes), ("printed", 0, "0.8651", "0.87", None, yes),
        ("printed", 0, "0.8649", "0.87", None, no), ("printed", 0, "0.9023", "0.90", None, yes),
        ("printed", 0, "0.9051", "0.90", None, no), ("printed", 0, "0.9051", "0.9", None, yes),
        ("printed", 0, "26.293", "26.2", None, no), ("printed", 0, "3", "3", None, yes),
        ("printed or cut", 0, "26.293", "26.2", None, yes), ("printed or cut", 0, "26.293", "26.3", None, yes),
        ("printed or cut", 0, "26.301", "26.2", None, no), ("printed or cut", 0, "26.199", "26.2", None, yes),
        ("printed or cut", 0, "26.149", "26.2", None, no),
        # Two errors of 0.2 make 0.283, two of these 0.566, and half a printed digit is 0.05.
        ("noise", 0, "75.61", "75.0", 0.2, yes), ("noise", 0, "75.62", "75.0", 0.2, no),
        ("noise", 0.7, "75.74", "75.0", 0.2, yes), ("noise", 0.7, "75.76", "75.0", 0.2, no),
        ("noise", 0, "75.06", "75.0", None, no),
        ("absolute", 0.3, "74.66", "75.0", 9.0, yes), ("absolute", 0.3, "74.64", "75.0", 9.0, no),
    ]  # fmt: skip
    found = []
    for tolerance, margin, ours, printed, error, _ in rows:
        column = ColumnSpec("x", "t", "m", tolerance=tolerance, margin=margin)
        found.append(compare(column, Decimal(ours), printed, error, error).state)
    assert found == [row[-1] for row in rows]


def test_cut_and_rounded_values_are_told_apart() -> None:
    column = ColumnSpec("x", "t", "m", tolerance="printed or cut")
    for ours, printed, cut in (("2.462", "2.4", True), ("4.927", "4.9", False), ("2.31", "2.4", False)):
        found = compare(column, Decimal(ours), printed, None, None)
        assert (found.cut, "cut, not rounded" in found.note) == (cut, cut)
    with pytest.raises(ValueError, match="'about 3' in column 'x' is not a number"):
        compare(column, Decimal(3), "about 3", None, None)


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


# On the paper's data, and on others.


def test_measured_on_the_papers_data_is_compared(tmp_path: Path) -> None:
    scale = Scale(tmp_path, tuple(Run("van_tiny", "lka", 23, seed) for seed in (0, 1)), scale="paper")
    for run, top1 in zip(scale.runs, (74.5, 75.1), strict=True):
        put(scale, "classification", run, {"top1": entry(top1, "%", n=50000, standard_error=0.19)}, "imagenet1k")
    cell = only_cell(one_cell(tmp_path, TOP1, "74.7"), scale, tmp_path)
    assert (cell.state, cell.n, cell.seeds, cell.value) == (State.REPRODUCED, 2, (0, 1), pytest.approx(74.8))
    assert cell.deviation == pytest.approx(0.18**0.5)
    assert cell.standard_error == pytest.approx((0.19**2 + 0.09) ** 0.5)
    assert [path.name for path in cell.files] == ["van_tiny-lka-k23-s0.json", "van_tiny-lka-k23-s1.json"]
    assert only_cell(one_cell(tmp_path, TOP1, "70.0"), scale, tmp_path).state is State.DEVIATES
    unknown = only_cell(one_cell(tmp_path, TOP1, ""), scale, tmp_path)
    assert (unknown.state, unknown.paper, unknown.other_data) == (State.UNKNOWN, None, False)


def test_other_data_or_model_is_never_compared(tmp_path: Path) -> None:
    for data, architecture in (("shapes", {}), ("imagenet1k", {"van_tiny": {"depths": [1]}})):
        scale = Scale(tmp_path, (Run("van_tiny", "lka", 23, 0),), architecture=architecture)
        put(scale, "classification", scale.runs[0], {"top1": entry(74.7, "%", standard_error=0.2)}, data)
        for printed in ("74.7", "20.0"):
            cell = only_cell(one_cell(tmp_path, TOP1, printed), scale, tmp_path)
            assert (cell.state, cell.value, cell.paper, cell.data) == (State.OTHER_DATA, 74.7, printed, (data,))
            assert str(cell_text(cell)) == f"74.7 ± 0.2 ○ ({printed})"
        unknown = only_cell(one_cell(tmp_path, TOP1, ""), scale, tmp_path)
        assert (unknown.state, str(cell_text(unknown))) == (State.UNKNOWN, "74.7 ± 0.2 ○ (?)")


def test_an_ap_on_coco_is_compared_and_one_on_other_data_is_not(tmp_path: Path) -> None:
    run, row = Run("van_base", "lka", 23, 0), "RetinaNet 1x / VAN-LKA-Base"
    scale = Scale(tmp_path, fine_tuned={"detection/retinanet": (run,)}, scale="paper")
    put_required("table_04", scale)
    found = []
    for data, ap in (("coco2017", 44.1), ("coco2017", 43.9), ("scenes", 44.5)):
        metrics = {f"box_ap{name}": entry(ap, "%") for name in ("", "50", "75", "_medium", "_large")}
        put(scale, "detection/retinanet", run, metrics | {"box_ap_small": entry(None, "%")}, data)
        table = again("table_04", scale)
        found.append(table.cell(row, "AP").state)
        assert table.cell(row, "APS").state is State.NOT_APPLICABLE
        assert table.cell(row, "AP50").state is State.UNKNOWN
    assert found == [State.REPRODUCED, State.DEVIATES, State.OTHER_DATA]


def test_all_devices_behind_a_value_are_named(tmp_path: Path) -> None:
    runs = tuple(Run("van_tiny", "lka", 23, seed) for seed in (0, 1, 2))
    scale = Scale(tmp_path, runs)
    column = ColumnSpec("speed", "speed", "throughput", unit="images/s", conditions=("batch_size",))
    for run, device in zip(runs, ("Some CPU", "Another CPU", "Some CPU"), strict=True):
        path = put(scale, "speed", run, {"throughput": entry(9.0, "images/s"), "batch_size": entry(32, "1")})
        edit(path, lambda content, name=device: content["environment"].update(hardware=name))
    cell = only_cell(one_cell(tmp_path, column, ""), scale, tmp_path)
    assert cell.conditions == "cpu (Some CPU), batch size 32; cpu (Another CPU), batch size 32"


# Counts and words.


def test_all_printed_counts_come_out_and_the_cut_ones_say_so(tmp_path: Path, every: dict[str, Table]) -> None:
    tables = every | {target: filled(target, Scale(tmp_path)) for target in ("table_04", "table_05")}
    numbers = {"table_03": 24, "table_04": 28, "table_05": 28, "table_06": 12, "table_08": 20, "table_09": 40,
               "table_11": 20, "table_17": 92}  # fmt: skip
    cut, found = set(), {}
    for target in numbers:
        columns = {c.label for c in tables[target].spec.columns if c.measured_on == "architecture"}
        counts = [cell for cell in tables[target].cells if cell.column in columns and cell.files and cell.paper]
        assert {cell.state for cell in counts} <= {State.REPRODUCED, State.CONTROL}, target
        found[target] = len([cell for cell in counts if cell.state is State.REPRODUCED])
        cut |= {(target, cell.row, cell.column) for cell in counts if cell.cut}
    assert found == numbers
    assert cut == {
        ("table_03", "VAN-LSKA-Small", "FLOPs"), ("table_03", "VAN-LSKA-Base", "Params"),
        ("table_05", "Semantic FPN / VAN-LSKA-Base", "FLOPs"),
    }  # fmt: skip


def test_cut_counts_with_norms_give_all_printed_savings_of_table_v() -> None:
    counts = downstream()
    savings = []
    for model in ("van_tiny", "van_small", "van_base"):
        lka, lska = (
            counts["semantic_fpn", Run(model, attention, 23, 0)]["flops_high_2048x1024"] // 10**9
            for attention in ("lka", "lska")
        )
        savings.append(round(100 * (lka - lska) / lka, 2))
    assert savings == [0.49, 0.36, 1.05]


def test_text_cells(tmp_path: Path) -> None:
    scale = demo(tmp_path)
    table = filled("table_02", scale)
    assert table.cell("VAN-LSKA-Base stage 3", "output size").value == "H/16 x W/16"
    assert table.count() == {State.REPRODUCED: 72}
    wrong = stage_metrics("van_base") | {"stage3_blocks": entry(11, "1"), "stage3_stride": entry(8, "1")}
    put(scale, "complexity", Run("van_base", "lska", 23, 0), wrong)
    deviating = {(cell.row, cell.column) for cell in again("table_02", scale).cells if cell.state is State.DEVIATES}
    assert deviating == {("VAN-LSKA-Base stage 3", "blocks L"), ("VAN-LSKA-Base stage 3", "output size")}


def test_yes_and_no_are_compared_as_words(tmp_path: Path) -> None:
    scale = demo(tmp_path)
    table = filled("table_01", scale)
    states = [table.cell("Convolution", column.label).state for column in table.spec.columns]
    assert states == [State.DEVIATES] * 3 + [State.UNKNOWN]
    assert {cell.value for cell in table.cells} == {"yes"}
    names = ("long_range_dependence", "spatial_adaptability", "channel_adaptability", "scalability")
    put(scale, "properties", "lka", {name: entry(1, "1") for name in names} | {"scalability": entry(None, "1")})
    cell = again("table_01", scale).cell("LKA", "scalability to extremely large kernels")
    assert (cell.state, cell.value, str(cell_text(cell))) == (State.NOT_APPLICABLE, None, "n/a")
    put(scale, "properties", "lka", {name: entry(2, "1") for name in names})
    with pytest.raises(ValueError, match=r"properties/lka\.json.*expected one of 0, 1, found 2"):
        again("table_01", scale)


# What is not there.


def test_not_run_reference_and_inapplicable_cells(tmp_path: Path, every: dict[str, Table]) -> None:
    scale = Scale(tmp_path)
    cell = only_cell(one_cell(tmp_path, TOP1, "74.7"), scale, tmp_path)
    assert (cell.state, cell.value, cell.paper, str(cell_text(cell))) == (State.NOT_RUN, None, "74.7", "not run (74.7)")
    lines = ["table,row,column,value,unit,source,detail", "t,reference: B0,top-1,75.4,%,other-paper:VAN,"]
    (tmp_path / "table_03.csv").write_text("\n".join(lines) + "\n")
    both = (TOP1, ColumnSpec("other", "t", "m"))
    spec = TableSpec("table_03", "", "", (RowSpec("VAN-LKA", columns=("other",)),), both, "", "table_03")
    table = collect(spec, scale, tmp_path, tmp_path)
    assert [cell.state for cell in table.cells] == [
        State.REFERENCE, State.UNKNOWN, State.NOT_APPLICABLE, State.NOT_RUN,
    ]  # fmt: skip
    labels = [row.label for row in every["table_03"].rows]
    assert labels[2:4] == ["reference: VAN-B0 as published", "VAN-LKA-Small"]
    assert labels[-1] == "reference: VAN-B2 as published"
    cell = every["table_16"].cell("reference: PVTv2-B1 as published by STL", "C, mean top-1 of 19")
    assert (cell.state, cell.value, cell.paper, cell.paper_source) == (State.REFERENCE, None, "51.7", "other-paper:STL")


def test_what_was_not_measured_names_task_and_network(tmp_path: Path, every: dict[str, Table]) -> None:
    for target, row, column, note in (
        ("table_04", "Mask R-CNN 1x / VAN-LKA-Base", "APb", "detection/mask_rcnn of van_base-lka-k23"),
        ("table_14", "ConvNeXt-T", "C, mean top-1 of 19", "robustness/c of convnext_tiny"),
        ("table_15", "DeiT", "shape dimensions", "shape_texture of deit_small_patch16_224"),
    ):
        cell = every[target].cell(row, column)
        assert (cell.state, cell.note) == (State.NOT_RUN, f"scale demo has no {note}")
    assert every["table_04"].cell("Mask R-CNN 1x / VAN-LKA-Base", "FLOPs (exact)").state is State.REPRODUCED

    @dataclass(frozen=True)
    class Perturbed(Scale):
        """Fewer runs on the perturbed sets than are trained; one of another paper."""

        def runs_of(self, task: str) -> tuple[Run, ...]:
            return self.runs[-1:] if task.startswith("robustness/") else super().runs_of(task)

    plain = demo(tmp_path)
    scale = Perturbed(plain.results, (*plain.runs, Run("convnext_tiny", None, None, 0)), fine_tuned=DENSE)
    table = filled("table_16", scale)
    assert table.cell("VAN-LSKA-Tiny", "A, top-1").state is State.NOT_RUN
    cell = table.cell("ConvNeXt-T", "A, top-1")
    assert (cell.state, cell.n, cell.files[0].name) == (State.UNKNOWN, 1, "convnext_tiny-s0.json")


def test_each_detector_has_its_own_columns(every: dict[str, Table]) -> None:
    table = every["table_04"]
    boxes, masks = ("AP", "AP50", "AP75", "APS", "APM", "APL"), ("APb", "APb50", "APb75", "APm", "APm50", "APm75")
    for row in table.rows:
        found = {cell.column for cell in row.cells if cell.state is State.NOT_APPLICABLE}
        assert found == set(masks if "RetinaNet" in row.label else boxes), row.label
    retina = table.cell("RetinaNet 1x / VAN-LSKA-Tiny", "AP").files
    mask = table.cell("Mask R-CNN 1x / VAN-LSKA-Tiny", "APm").files
    assert [path.parent.name for path in (*retina, *mask)] == ["retinanet", "mask_rcnn"]


def test_a_control_is_no_entry_of_the_paper(every: dict[str, Table]) -> None:
    row = "control: Semantic FPN / VAN-LSKA-Tiny, untrained backbone"
    control, counts = (every["table_05"].cell(row, column) for column in ("mIoU", "Params (exact)"))
    assert (control.state, cell_text(control).mark, cell_text(control).paper) == (State.CONTROL, "", "")
    assert [path.parent.name for path in control.files] == ["semantic_fpn-untrained"]
    assert (counts.state, [path.parent.name for path in counts.files]) == (State.CONTROL, ["semantic_fpn"])


def test_what_a_printed_value_counts_is_said_beside_ours(every: dict[str, Table]) -> None:
    merged, sparse = (every["table_14"].cell(row, "Params") for row in ("RepLKNet-31T", "SLaK-T"))
    assert "after the small kernels are merged" in merged.note
    assert (sparse.state, sparse.paper) == (State.OTHER_DATA, "30.0")
    assert sparse.note == ("counted with all weights, 50.7 M; SLaK counts those that its sparse training leaves "
                           "other than zero, printed as 30 M")  # fmt: skip
    assert f"SLaK-T, Params: {sparse.note}." in legend(every["table_14"])


def test_a_mean_without_all_its_parts_is_partial_and_says_what_is_missing(tmp_path: Path) -> None:
    scale = demo(tmp_path)
    put_required("table_10", scale)
    edit(metric_file(scale, "robustness/c", TINY), without("fog", "snow"))
    table = again("table_10", scale)
    partial = [cell for cell in table.cells if cell.state is State.PARTIAL]
    assert {cell.row for cell in partial} == {"VAN-LSKA-Tiny k=23"} and len(partial) == 4
    for cell in partial:
        assert cell.note == "missing: fog 1, 2, 3, 4, 5; snow 1, 2, 3, 4, 5"
        assert (cell.value, cell_text(cell).ours, cell.data) == (None, "partial", ("shapes",))
        assert cell.files == (metric_file(scale, "robustness/c", TINY),)
    edit(metric_file(scale, "robustness/a", TINY), lambda content: content["metrics"]["top1"].update(value=None))
    with pytest.raises(ValueError, match=r"robustness/a/van_tiny-lska-k23-s0\.json: field 'metrics\.top1'"):
        again("table_10", scale)


def test_no_decision_for_a_cue_and_one_split_of_textures_have_no_value(tmp_path: Path) -> None:
    scale = demo(tmp_path)
    for target in ("table_12", "table_13"):
        put_required(target, scale)
    edit(metric_file(scale, "shape_texture", TINY), lambda c: c["metrics"]["shape_bias"].update(value=None))
    spread = {f"top1_{kind}_deviation": entry(None, "%") for kind in ("cosine", "euclidean")}
    edit(metric_file(scale, "texture_knn", TINY), lambda content: content["metrics"].update(spread))
    row = "VAN-LSKA-Tiny k=23"
    cells = [again("table_12", scale).cell(row, "shape bias")]
    cells += [again("table_13", scale).cell(row, f"deviation, {name}") for name in ("cosine", "Euclidean")]
    assert {(cell.value, cell.state, str(cell_text(cell))) for cell in cells} == {(None, State.NOT_APPLICABLE, "n/a")}


# Values are those of the metric files.


def test_every_value_is_that_of_its_metric_file(tmp_path: Path) -> None:
    scale = demo(tmp_path)
    measured = ("robustness/", "shape_texture", "texture_knn", "receptive_field", "classification")
    found = {}
    for target in ("table_06", "table_07", "table_10", "table_12", "table_13", "table_14", "table_15", "table_16"):
        table = filled(target, scale)
        for row in table.rows:
            if row.source is None or row.source.attention is None:
                continue
            run = Run(row.source.model, row.source.attention, row.source.kernel, 0)
            for cell, column in zip(row.cells, table.spec.columns, strict=True):
                if column.task.startswith(measured):
                    assert (cell.value is not None) == (run in scale.runs), (target, cell.row, cell.column)
                if column.task.startswith(measured) and run in scale.runs:
                    assert cell.value == pytest.approx(value(scale, column.task, run, column.metric))
                    assert (cell.unit, cell.data, cell.seeds) == (column.unit, ("shapes",), (0,))
                    found[target] = found.get(target, 0) + 1
    assert found == {"table_06": 60, "table_07": 24, "table_10": 44, "table_12": 40, "table_13": 16, "table_14": 12,
                     "table_15": 70, "table_16": 30}  # fmt: skip


def test_several_seeds_are_averaged(tmp_path: Path) -> None:
    runs = tuple(Run("van_tiny", "lska", 23, seed) for seed in (0, 1))
    scale = Scale(tmp_path / "results", runs)
    cell = filled("table_16", scale).cell("VAN-LSKA-Tiny", "R, top-1")
    values = [value(scale, "robustness/r", run, "top1") for run in runs]
    assert (cell.n, cell.value) == (2, pytest.approx(np.mean(values)))
    assert cell.deviation == pytest.approx(np.std(values, ddof=1))


def test_a_printed_value_would_be_compared_on_its_own_data_only(tmp_path: Path) -> None:
    scale = Scale(tmp_path, (Run("van_tiny", "lka", 23, 0),))
    column = next(column for column in load_spec("table_06").columns if column.label == "C, mean top-1 of 19")
    for data, printed, state in (
        ("imagenet_c", "45.2", State.REPRODUCED), ("imagenet_c", "49.9", State.DEVIATES),
        ("shapes_c", "45.2", State.OTHER_DATA), ("imagenet_c", "", State.UNKNOWN),
    ):  # fmt: skip
        put(scale, "robustness/c", scale.runs[0], {"top1_mean_19": entry(45.6, "%", standard_error=0.2)}, data)
        spec = one_cell(tmp_path, replace(column, paper_label=None), printed)
        assert only_cell(spec, scale, tmp_path).state is state
