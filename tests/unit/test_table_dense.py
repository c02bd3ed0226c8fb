"""Tables of detection and segmentation: counts, runs of each task, controls, and pictures of sample predictions."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from table_helpers import DENSE, PAPER, TOP1, Scale, demo, downstream, entry, put, put_required

from lska.finetuning import FineTuningJob
from lska.runs import Run
from lska.tables import table_summary
from lska.tables.cell_states import State
from lska.tables.cell_text import caption, cell_text
from lska.tables.collect import collect
from lska.tables.specs import TARGETS, ColumnSpec, RowSpec, TableSpec, expand, load_spec, requirements, samples
from lska.tables.table_formats import to_html, to_markdown

DETECTION, SEGMENTATION = ("table_04", "table_09"), ("table_05", "table_11")
TINY = Run("van_tiny", "lska", 23, 0)


@pytest.mark.parametrize("target", [*DETECTION, *SEGMENTATION])
def test_all_counts_of_the_paper_agree_with_the_complete_counts(target: str, tmp_path: Path) -> None:
    scale = Scale(tmp_path)
    put_required(target, scale)
    table = collect(load_spec(target), scale, PAPER, scale.results)
    counted = [cell for cell in table.cells if cell.files and cell.paper]
    assert {cell.state for cell in counted} == {State.REPRODUCED}
    assert len(counted) == {"table_04": 28, "table_05": 28, "table_09": 40, "table_11": 20}[target]
    cut = {(cell.row, cell.column) for cell in counted if "when cut" in cell.note}
    assert cut == ({("Semantic FPN / VAN-LSKA-Base", "FLOPs")} if target == "table_05" else set())


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


@pytest.mark.parametrize("target", [*DETECTION, *SEGMENTATION])
def test_only_fine_tuned_runs_are_measured_and_the_others_say_why(target: str, tmp_path: Path) -> None:
    scale = demo(tmp_path)
    put_required(target, scale)
    spec = load_spec(target)
    fine_tuned = {(task, run) for task, run in requirements(spec, scale) if task.startswith(("det", "seg"))}
    kinds = "segmentation" if target in SEGMENTATION else "detection"
    expected = {(task, run) for task, runs in DENSE.items() if task.startswith(kinds) for run in runs}
    assert fine_tuned == {(task, run) for task, run in expected if target != "table_05" or run.kernel == 23}
    missing = [cell for cell in collect(spec, scale, PAPER, scale.results).cells if cell.state is State.NOT_RUN]
    assert missing
    assert all(cell.note.startswith(f"scale demo has no {kinds}/") for cell in missing)


def test_a_row_that_is_not_fine_tuned_names_task_and_network(tmp_path: Path) -> None:
    scale = demo(tmp_path)
    put_required("table_04", scale)
    table = collect(load_spec("table_04"), scale, PAPER, scale.results)
    cell = table.cell("Mask R-CNN 1x / VAN-LKA-Base", "APb")
    assert (cell.state, str(cell_text(cell))) == (State.NOT_RUN, "not run (46.6)")
    assert cell.note == "scale demo has no detection/mask_rcnn of van_base-lka-k23"
    assert table.cell("Mask R-CNN 1x / VAN-LKA-Base", "FLOPs (exact)").state is State.REPRODUCED
    assert "has no detection/mask_rcnn of van_base-lka-k23" in to_html(table)


def test_each_detector_has_its_own_columns(tmp_path: Path) -> None:
    scale = demo(tmp_path)
    put_required("table_04", scale)
    table = collect(load_spec("table_04"), scale, PAPER, scale.results)
    boxes, masks = ("AP", "AP50", "AP75", "APS", "APM", "APL"), ("APb", "APb50", "APb75", "APm", "APm50", "APm75")
    for row in table.rows:
        found = {cell.column for cell in row.cells if cell.state is State.NOT_APPLICABLE}
        assert found == set(masks if "RetinaNet" in row.label else boxes), row.label
    retina = table.cell("RetinaNet 1x / VAN-LSKA-Tiny", "AP").files
    mask = table.cell("Mask R-CNN 1x / VAN-LSKA-Tiny", "APm").files
    assert [path.parent.name for path in (*retina, *mask)] == ["retinanet", "mask_rcnn"]


def test_an_ap_on_coco_is_compared_and_one_on_other_data_is_not(tmp_path: Path) -> None:
    run, row = Run("van_base", "lka", 23, 0), "RetinaNet 1x / VAN-LKA-Base"
    scale = Scale(tmp_path, fine_tuned={"detection/retinanet": (run,)}, scale="paper")
    found = {}
    for data, value in (("coco2017", 44.1), ("coco2017", 43.9), ("scenes", 44.5)):
        put_required("table_04", scale, data)
        metrics = {name: entry(value, "%") for name in ("box_ap", "box_ap50", "box_ap75", "box_ap_medium")}
        metrics |= {"box_ap_small": entry(None, "%"), "box_ap_large": entry(value, "%")}
        put(scale, "detection/retinanet", run, metrics, data)
        table = collect(load_spec("table_04"), scale, PAPER, scale.results)
        found[data, value] = table.cell(row, "AP").state
        assert table.cell(row, "APS").state is State.NOT_APPLICABLE
        assert table.cell(row, "AP50").state is State.UNKNOWN
    assert list(found.values()) == [State.REPRODUCED, State.DEVIATES, State.OTHER_DATA]


@pytest.mark.parametrize(
    ("target", "task", "head"),
    [
        ("table_09", "detection/mask_rcnn", "Mask R-CNN 1x"),
        ("table_11", "segmentation/semantic_fpn", "Semantic FPN"),
    ],
)
def test_kernel_sizes_that_are_fine_tuned_extend_the_rows_of_their_task(
    target: str, task: str, head: str, tmp_path: Path
) -> None:
    runs = (Run("van_tiny", "lska", 15, 0), Run("van_tiny", "lska", 99, 0))
    scale = Scale(tmp_path, runs, fine_tuned={task: runs[:1]})
    labels = [row.label for row in expand(load_spec(target), scale)]
    added = set(labels) - {row.label for row in expand(load_spec(target), Scale(tmp_path))}
    assert added == {f"{head} / VAN-{attention}-Tiny k=15" for attention in ("LKA", "LSKA")}


def test_controls_appear_where_they_are_configured_after_the_rows_of_the_paper(tmp_path: Path) -> None:
    scale = demo(tmp_path)
    without = replace(scale, fine_tuned={task: runs for task, runs in DENSE.items() if "untrained" not in task})
    for target, label in (
        ("table_04", "control: RetinaNet 1x / VAN-LSKA-Tiny, untrained backbone"),
        ("table_05", "control: Semantic FPN / VAN-LSKA-Tiny, untrained backbone"),
        ("table_09", "control: RetinaNet 1x / VAN-LSKA-Tiny k=23, untrained backbone"),
        ("table_11", "control: Semantic FPN / VAN-LSKA-Tiny k=23, untrained backbone"),
    ):
        rows = [row.label for row in expand(load_spec(target), scale)]
        assert rows == [*(row.label for row in expand(load_spec(target), without)), label]


def test_a_control_of_a_kernel_size_beyond_the_papers_gets_a_row(tmp_path: Path) -> None:
    scale = Scale(tmp_path, fine_tuned={"segmentation/semantic_fpn-untrained": (Run("van_tiny", "lka", 15, 0),)})
    controls = [row.label for row in expand(load_spec("table_11"), scale) if row.spec.control]
    assert controls == ["control: Semantic FPN / VAN-LKA-Tiny k=15, untrained backbone"]


def test_a_control_is_no_entry_of_the_paper(tmp_path: Path) -> None:
    scale = demo(tmp_path)
    put_required("table_05", scale)
    put(scale, "segmentation/semantic_fpn", TINY, {"miou": entry(41.0, "%", standard_error=1.5)}, "scenes")
    put(scale, "segmentation/semantic_fpn-untrained", TINY, {"miou": entry(12.0, "%", standard_error=0.5)}, "scenes")
    table = collect(load_spec("table_05"), scale, PAPER, scale.results)
    trained = table.cell("Semantic FPN / VAN-LSKA-Tiny", "mIoU")
    control = table.cell("control: Semantic FPN / VAN-LSKA-Tiny, untrained backbone", "mIoU")
    assert (str(cell_text(trained)), trained.state) == ("41.0 ± 1.5 ○ (?)", State.UNKNOWN)
    assert (str(cell_text(control)), control.state) == ("12.0 ± 0.5", State.CONTROL)
    assert [path.parent.name for path in control.files] == ["semantic_fpn-untrained"]
    counts = table.cell(control.row, "Params (exact)")
    assert (counts.state, [path.parent.name for path in counts.files]) == (State.CONTROL, ["semantic_fpn"])
    assert "- control rows: fine-tuned in the same way from a random backbone; no entry of the paper." in (
        to_markdown(table).splitlines()
    )
    assert '<tr class="control">' in to_html(table)
    assert f" control | {len(table.spec.columns)} |" in table_summary.states(table)


def test_several_seeds_of_a_task_are_pooled(tmp_path: Path) -> None:
    runs = tuple(Run("van_tiny", "lska", 23, seed) for seed in (1, 0))
    scale = Scale(tmp_path, fine_tuned={"segmentation/semantic_fpn": runs})
    put_required("table_05", scale)
    for run, value in zip(runs, (40.0, 42.0), strict=True):
        put(scale, "segmentation/semantic_fpn", run, {"miou": entry(value, "%")}, "ade20k")
    cell = collect(load_spec("table_05"), scale, PAPER, scale.results).cell("Semantic FPN / VAN-LSKA-Tiny", "mIoU")
    assert (cell.value, cell.n, cell.deviation) == (41.0, 2, pytest.approx(2**0.5))


def test_captions_state_the_sizes_that_costs_are_counted_at(tmp_path: Path) -> None:
    scale = demo(tmp_path)
    sizes = {"table_04": "1280x800", "table_05": "512x512 and 2048x1024", "table_09": "1280x800", "table_11": "512x512"}
    for target, size in sizes.items():
        put_required(target, scale)
        table = collect(load_spec(target), scale, PAPER, scale.results)
        assert f"architectures, at {size} pixels. Measured on shapes." in caption(table)


def test_reference_rows_before_any_row_have_every_column(tmp_path: Path) -> None:
    lines = ["table,row,column,value,unit,source,detail", "t,reference: B0,top-1,75.4,%,other-paper:VAN,"]
    (tmp_path / "table_03.csv").write_text("\n".join(lines) + "\n")
    columns = (TOP1, ColumnSpec("other", "t", "m"))
    spec = TableSpec("table_03", "", "", (RowSpec("VAN", columns=("other",)),), columns, "", "table_03")
    (first, _) = collect(spec, Scale(tmp_path), tmp_path, tmp_path).rows
    assert [cell.state for cell in first.cells] == [State.REFERENCE, State.UNKNOWN]


def test_pictures_are_those_of_the_fine_tuned_runs_that_a_table_reads(tmp_path: Path) -> None:
    scale = demo(tmp_path)
    folder = scale.results / "samples"
    expected = {
        "table_04": [(task, run) for task, runs in DENSE.items() if task.startswith("detection") for run in runs],
        "table_05": [("segmentation/semantic_fpn", TINY), ("segmentation/semantic_fpn-untrained", TINY)],
        "table_14": [("detection/mask_rcnn", TINY), ("segmentation/semantic_fpn", TINY)],
    }
    for target, wanted in expected.items():
        found = samples(load_spec(target), scale)
        assert sorted(found) == sorted(folder / task / f"{run}.png" for task, run in wanted)
    assert samples(load_spec("table_05"), scale, Path("x"))[0] == Path(
        f"x/samples/segmentation/semantic_fpn/{TINY}.png"
    )
    others = [target for target in TARGETS if target not in (*DETECTION, *SEGMENTATION, "table_14")]
    assert [samples(load_spec(target), scale) for target in others] == [[] for _ in others]


def test_pictures_lie_where_the_evaluation_puts_them(tmp_path: Path) -> None:
    class OneTask(Scale):
        fine_tunings = ()

    scale = OneTask(Path("results/demo"), fine_tuned=DENSE)
    (path,) = samples(load_spec("table_05"), replace(scale, fine_tuned={"segmentation/semantic_fpn": (TINY,)}))
    assert FineTuningJob(scale, "segmentation/semantic_fpn", TINY).samples == path


def test_a_missing_picture_is_named(tmp_path: Path) -> None:
    path = tmp_path / "samples" / "detection" / "retinanet" / f"{TINY}.png"
    _, heading, note = table_summary.sheets([path], tmp_path / "samples")
    assert "Not here" in note.data and str(path.stem) in heading.data
    assert table_summary.sheets([], tmp_path) == []
