"""Tables: specs, what they require, the value and the state of every cell, and files that are missing or faulty."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from syrupy.assertion import SnapshotAssertion
from table_helpers import (
    DENSE,
    INSPECTED,
    PAPER,
    STAGES,
    TOP1,
    Scale,
    demo,
    edit,
    entry,
    filled,
    metric_file,
    one_cell,
    only_cell,
    put,
    put_required,
    stage_metrics,
    without,
)

from lska.models.runs import Run
from lska.tables import table_summary
from lska.tables.cell_text import cell_text, legend
from lska.tables.collect import State, Table, collect, compare, pool
from lska.tables.measurements import REFERENCE, read_paper
from lska.tables.specs import (
    SPECS,
    TARGETS,
    ColumnSpec,
    RowSpec,
    TableSpec,
    expand,
    load_spec,
    outputs,
    requirements,
    samples,
)

ELSEWHERE = {"table_14": {"FLOPs (MACs, merged)"}}
"""Columns of the paper's files with nothing but counts of networks that are not here."""

PARTS = ("figure_04", "figure_05")
"""Figures that show one attention, or one size of network, of their table."""

TINY = Run("van_tiny", "lska", 23, 0)


def said(tmp_path: Path, make: Callable[[], Any]) -> str:
    """The message that `make` fails with, without this machine's paths."""
    with pytest.raises((ValueError, FileNotFoundError)) as caught:
        make()
    return str(caught.value).replace(str(tmp_path), "<folder>").replace(str(SPECS), "<specs>")


def labels(target: str, scale: Scale) -> list[str]:
    return [row.label for row in expand(load_spec(target), scale)]


# Specs and what they require.


def test_specs_cover_every_entry_of_the_papers_files(tmp_path: Path) -> None:
    for target in TARGETS:
        spec = load_spec(target)
        paper = read_paper(PAPER / f"{spec.paper}.csv")
        columns = {column for _, column in paper}
        shown = {column.paper_label or column.label for column in spec.columns}
        # Which quantity of each data set the paper shows is not known, nor its form, so there are several.
        several = [c for c in spec.columns if c.task.startswith("robustness/") or c.task in INSPECTED]
        beside = {c.paper_label or c.label for c in several} - columns
        assert shown - beside <= columns, target
        assert spec.paper != target or shown - beside == columns - ELSEWHERE.get(target, set()), target
        rows = {row.paper_label for row in expand(spec, Scale(tmp_path))}
        printed = {row for row, _ in paper if not row.startswith(REFERENCE)}
        if target in PARTS:
            assert rows and rows < printed, target
        elif target != "figure_s1":  # by corruption and severity, which no table of the paper is
            assert printed == rows, target
        # The same titles stand above results on generated data; what was measured on is said by the caption.
        for text in (spec.title, *(column.label for column in spec.columns), *(row.label for row in spec.rows)):
            assert not re.search("ImageNet|COCO|ADE20K|DTD", text), text
    numbers = [load_spec(target).number for target in ("table_01", "table_08", "table_17", "figure_06", "figure_s1")]
    assert numbers == ["Table I", "Table VIII", "Table XVII", "Figure 6", "Figure S1"]


def test_faulty_specs_and_files_of_the_paper_are_refused(tmp_path: Path, snapshot: SnapshotAssertion) -> None:
    text = (SPECS / "table_03.yaml").read_text()
    broken = text.replace("title:", "titel:").replace("    digits: 2\n", "    digits: two\n    colour: red\n", 1)
    (tmp_path / "table_03.yaml").write_text(broken)
    heads = "table,row,column,value,unit,source,detail\n"
    (tmp_path / "heads.csv").write_text("row,value\na,1\n")
    (tmp_path / "twice.csv").write_text(heads + "t,a,b,1,,printed,\n" * 2)
    faulty: dict[str, Callable[[], Any]] = {
        "unknown and missing keys, wrong types": lambda: load_spec("table_03", tmp_path),
        "unknown target": lambda: load_spec("table_99"),
        "unknown variable": lambda: RowSpec("{size}", models=("a",)),
        "columns alike": lambda: TableSpec("table_03", "", "", (), (TOP1, TOP1), "", "table_03"),
        "unknown column": lambda: TableSpec("t", "", "", (RowSpec("x", columns=("y",)),), (), "", "t"),
        "unknown trend": lambda: TableSpec("t", "", "", (), (), "", "t", trend=("y",)),
        "paper: missing": lambda: read_paper(tmp_path / "missing.csv"),
        "paper: no headings": lambda: read_paper(tmp_path / "heads.csv"),
        "paper: twice": lambda: read_paper(tmp_path / "twice.csv"),
    }
    assert {name: said(tmp_path, make) for name, make in faulty.items()} == snapshot


def test_requirements_are_counts_of_all_rows_and_measurements_of_the_configured_runs(tmp_path: Path) -> None:
    seeds = tuple(Run("van_tiny", "lska", 23, seed) for seed in (1, 0))
    scale = Scale(tmp_path, (*seeds, Run("van_tiny", "lska", 9, 0)))
    needed = requirements(load_spec("table_03"), scale)
    counts = {("complexity", Run(m, a, 23, 0)) for m in STAGES for a in ("lka", "lska")}
    assert set(needed) == counts | {("classification", run) for run in seeds}
    assert len(needed) == len(set(needed))
    # One measurement of speed is enough for all seeds, while each seed has an accuracy.
    speed = [run for task, run in requirements(load_spec("table_17"), scale) if task == "speed"]
    assert sorted(map(str, speed)) == ["van_tiny-lska-k23-s0", "van_tiny-lska-k9-s0"]


def test_required_files_are_those_read_with_their_values(every: dict[str, Table], every_scale: Scale) -> None:
    for target, table in every.items():
        needed = {
            every_scale.results / f"metrics/{task}/{run}.json" for task, run in requirements(table.spec, every_scale)
        }
        assert {path for cell in table.cells for path in cell.files} == needed, target
        assert all(str(cell_text(cell)).strip() for cell in table.cells), target
        columns, found = {column.label: column for column in table.spec.columns}, 0
        for row in table.rows:
            for cell in row.cells if row.source else ():
                if isinstance(cell.value, float) and cell.files:
                    (path,) = cell.files
                    name = columns[cell.column].metric.format(**row.source.values)
                    kept = json.loads(path.read_text())["metrics"][name]["value"]
                    assert cell.value == pytest.approx(kept * columns[cell.column].factor, rel=1e-12)
                    found += 1
        assert found or target in ("table_01", "figure_02"), target


def test_kernel_sizes_of_the_configuration_extend_the_rows_of_their_model_and_task(tmp_path: Path) -> None:
    scale = Scale(tmp_path, (Run("van_base", "lska", 15, 0), Run("van_tiny", "lka", 99, 0)))
    kernels = (7, 11, 15, 23, 35, 53)
    expected = [f"VAN-{attention}-Base k={kernel}" for attention in ("LKA", "LSKA") for kernel in kernels]
    assert labels("table_08", scale) == expected
    runs = (Run("van_tiny", "lska", 15, 0), Run("van_tiny", "lska", 99, 0))
    tuned = labels("table_09", Scale(tmp_path, runs, fine_tuned={"detection/mask_rcnn": runs[:1]}))
    added = set(tuned) - set(labels("table_09", Scale(tmp_path)))
    assert added == {f"Mask R-CNN 1x / VAN-{attention}-Tiny k=15" for attention in ("LKA", "LSKA")}


def test_controls_appear_where_they_are_configured_after_the_rows_of_the_paper(tmp_path: Path) -> None:
    scale = demo(tmp_path)
    without = replace(scale, fine_tuned={task: runs for task, runs in DENSE.items() if "untrained" not in task})
    label = "control: RetinaNet 1x / VAN-LSKA-Tiny, untrained backbone"
    assert labels("table_04", scale) == [*labels("table_04", without), label]
    beyond = Scale(tmp_path, fine_tuned={"segmentation/semantic_fpn-untrained": (Run("van_tiny", "lka", 15, 0),)})
    assert labels("table_11", beyond)[-1] == "control: Semantic FPN / VAN-LKA-Tiny k=15, untrained backbone"


def test_building_a_table_imports_nothing_heavy(tmp_path: Path) -> None:
    scale = demo(tmp_path)
    put_required("table_01", scale)
    code = (
        "import sys; from pathlib import Path; from types import SimpleNamespace as N; from lska.tables import specs\n"
        "scale = N(scale='demo', caption='', architecture=(), runs_of=lambda task: ())\n"
        f"scale.results = Path({str(scale.results)!r})\n"
        "for target in specs.TARGETS: specs.requirements(specs.load_spec(target), scale)\n"
        "from lska.tables.table_formats import build_table\n"
        f"build_table('table_01', scale, None, Path({str(PAPER)!r}))\n"
        "print(sorted({'torch', 'timm', 'numpy', 'pandas', 'matplotlib', 'jsonschema'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
    assert all(path.is_file() for path in outputs("table_01", scale.results))


def test_faulty_metric_files_are_named_with_the_field(tmp_path: Path, snapshot: SnapshotAssertion) -> None:
    scale = Scale(tmp_path / "a folder", (Run("van_tiny", "lka", 23, 0),), scale="small")
    spec = one_cell(tmp_path, TOP1, "74.7")

    def read() -> Any:
        return only_cell(spec, scale, tmp_path)

    found = {"missing": said(tmp_path, read)}
    path = put(scale, "classification", scale.runs[0], {"top1": entry(70.0, "%")}, "shapes")
    sound = path.read_text()
    changes: dict[str, Callable[[dict[str, Any], dict[str, Any]], Any]] = {
        "another run": lambda c, e: c.update(run="van_tiny-lka-k23-s1"),
        "another schema": lambda c, e: c.update(schema=2),
        "edited": lambda c, e: c.update(seal="sha256:" + "0" * 64),
        "no metrics": lambda c, e: c.pop("metrics"),
        "no top-1": lambda c, e: c["metrics"].pop("top1"),
        "null": lambda c, e: e.update(value=None),
        "bool": lambda c, e: e.update(value=True),
        "not finite": lambda c, e: e.update(value=float("nan")),
        "half an interval": lambda c, e: e.update(interval=[1]),
        "another unit": lambda c, e: e.update(unit="1"),
        "list of metrics": lambda c, e: c.update(metrics=[]),
        "no environment": lambda c, e: c.pop("environment"),
    }
    for name, change in changes.items():
        content = json.loads(sound)
        change(content, content["metrics"]["top1"])
        path.write_text(json.dumps(content))
        found[name] = said(tmp_path, read)
    path.write_text(sound[:40])
    found["cut off"] = said(tmp_path, read)
    assert found == snapshot


def test_pictures_are_those_of_the_fine_tuned_runs_that_a_table_reads(tmp_path: Path) -> None:
    scale, fpn = demo(tmp_path), "segmentation/semantic_fpn"
    for target, wanted in {"table_14": [("detection/mask_rcnn", TINY), (fpn, TINY)], "table_03": []}.items():
        paths = sorted(scale.results / "samples" / task / f"{run}.png" for task, run in wanted)
        assert sorted(samples(load_spec(target), scale)) == paths
    shown = [item.data for item in table_summary.pictures(load_spec("table_05"), scale, Path("x"))]
    assert shown[0].startswith("## Sample predictions") and shown[1] == f"### {fpn}/{TINY}"
    assert shown[2] == f"Not here: drawn by `lska evaluate dense {TINY} --task {fpn}`, which needs the data."
    perturbed = [item.data for item in table_summary.pictures(load_spec("table_06"), scale, tmp_path)]
    assert perturbed[1:3] == ["### c", "Not here: drawn by `lska data examples c`, which needs the data."]


# The value and the state of every cell.


def again(target: str, scale: Scale) -> Table:
    """A table from the metric files as they are."""
    return collect(load_spec(target), scale, PAPER, scale.results)


def test_comparison() -> None:
    yes, no, cut = (State.REPRODUCED, False), (State.DEVIATES, False), (State.REPRODUCED, True)
    rows = [
        ("printed", 0, "0.8725", "0.87", None, yes), ("printed", 0, "0.8649", "0.87", None, no),
        ("printed", 0, "0.9051", "0.9", None, yes), ("printed", 0, "26.293", "26.2", None, no),
        ("printed or cut", 0, "26.293", "26.2", None, cut), ("printed or cut", 0, "26.293", "26.3", None, yes),
        ("printed or cut", 0, "26.301", "26.2", None, no), ("printed or cut", 0, "26.199", "26.2", None, yes),
        # Two errors of 0.2 make 0.283, two of these 0.566, and half a printed digit is 0.05.
        ("noise", 0, "75.61", "75.0", 0.2, yes), ("noise", 0, "75.62", "75.0", 0.2, no),
        ("noise", 0.7, "75.74", "75.0", 0.2, yes), ("noise", 0.7, "75.76", "75.0", 0.2, no),
        ("noise", 0, "75.06", "75.0", None, no),
        ("absolute", 0.3, "74.66", "75.0", 9.0, yes), ("absolute", 0.3, "74.64", "75.0", 9.0, no),
    ]  # fmt: skip
    for tolerance, margin, ours, printed, error, expected in rows:
        column = ColumnSpec("x", "t", "m", tolerance=tolerance, margin=margin)
        state, _, cut = compare(column, Decimal(ours), printed, error, error)
        assert (state, cut) == expected, (tolerance, margin, ours, printed)
    with pytest.raises(ValueError, match="'about 3' in column 'x' is not a number"):
        compare(column, Decimal(3), "about 3", None, None)


def test_pooling_seeds() -> None:
    # The images are common to all seeds, so their mean squared error of 2 stays; the variance of 7 is shared by three.
    assert pool([70.0, 71.0, 75.0], [1.0, 1.0, 2.0]) == pytest.approx((72.0, 7**0.5, (2 + 7 / 3) ** 0.5, 3.0))
    assert pool([70.0], [1.5]) == (70.0, None, 1.5, 1.5)
    assert pool([5], [None]).standard_error is None


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
    assert (unknown.state, unknown.paper, unknown.other_data) == (State.MEASURED, None, False)


def test_other_data_or_model_is_never_compared(tmp_path: Path) -> None:
    for data, architecture in (("shapes", {}), ("imagenet1k", {"van_tiny": {"depths": [1]}})):
        scale = Scale(tmp_path, (Run("van_tiny", "lka", 23, 0),), architecture=architecture)
        put(scale, "classification", scale.runs[0], {"top1": entry(74.7, "%", standard_error=0.2)}, data)
        cell = only_cell(one_cell(tmp_path, TOP1, "74.7"), scale, tmp_path)
        assert (cell.state, cell.value, cell.paper, cell.data) == (State.OTHER_DATA, 74.7, "74.7", (data,))
        assert str(cell_text(cell)) == "74.7 ± 0.2 ○ (74.7)"
        unknown = only_cell(one_cell(tmp_path, TOP1, ""), scale, tmp_path)
        assert (unknown.state, str(cell_text(unknown))) == (State.MEASURED, "74.7 ± 0.2 ○ (?)")


def test_all_devices_behind_a_value_are_named(tmp_path: Path) -> None:
    scale = Scale(tmp_path, tuple(Run("van_tiny", "lka", 23, seed) for seed in (0, 1, 2)))
    column = ColumnSpec("speed", "classification", "throughput", unit="images/s", conditions=("batch_size",))
    for run, device in zip(scale.runs, ("Some CPU", "Another CPU", "Some CPU"), strict=True):
        path = put(scale, "classification", run, {"throughput": entry(9.0, "images/s"), "batch_size": entry(32, "1")})
        edit(path, lambda content, name=device: content["environment"].update(hardware=name))
    cell = only_cell(one_cell(tmp_path, column, ""), scale, tmp_path)
    assert cell.conditions == "cpu (Some CPU), batch size 32; cpu (Another CPU), batch size 32"


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


def test_cells_of_words(tmp_path: Path) -> None:
    scale = demo(tmp_path)
    table = filled("table_02", scale)
    assert table.cell("VAN-LSKA-Base stage 3", "output size").value == "H/16 x W/16"
    assert table.count() == {State.REPRODUCED: 72}
    wrong = stage_metrics("van_base") | {"stage3_blocks": entry(11, "1"), "stage3_stride": entry(8, "1")}
    put(scale, "complexity", Run("van_base", "lska", 23, 0), wrong)
    deviating = {(cell.row, cell.column) for cell in again("table_02", scale).cells if cell.state is State.DEVIATES}
    assert deviating == {("VAN-LSKA-Base stage 3", "blocks L"), ("VAN-LSKA-Base stage 3", "output size")}
    table = filled("table_01", scale)
    states = [table.cell("Convolution", column.label).state for column in table.spec.columns]
    assert states == [State.DEVIATES] * 3 + [State.MEASURED]
    assert {cell.value for cell in table.cells} == {"yes"}
    names = ("long_range_dependence", "spatial_adaptability", "channel_adaptability", "scalability")
    put(scale, "properties", "lka", {name: entry(2, "1") for name in names})
    with pytest.raises(ValueError, match=r"properties/lka\.json.*expected one of 0, 1, found 2"):
        again("table_01", scale)


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
    cell = every["table_04"].cell("Mask R-CNN 1x / VAN-LKA-Base", "APb")
    assert (cell.state, cell.note) == (State.NOT_RUN, "scale demo has no detection/mask_rcnn of van_base-lka-k23")
    assert every["table_04"].cell("Mask R-CNN 1x / VAN-LKA-Base", "FLOPs (exact)").state is State.REPRODUCED


def test_controls_and_what_counts_otherwise_are_not_compared(every: dict[str, Table]) -> None:
    row = "control: Semantic FPN / VAN-LSKA-Tiny, untrained backbone"
    control, counts = (every["table_05"].cell(row, column) for column in ("mIoU", "Params (exact)"))
    assert (control.state, cell_text(control).mark, cell_text(control).paper) == (State.CONTROL, "", "")
    assert [path.parent.name for path in control.files] == ["semantic_fpn-untrained"]
    assert (counts.state, [path.parent.name for path in counts.files]) == (State.CONTROL, ["semantic_fpn"])
    sparse = every["table_14"].cell("SLaK-T", "Params")
    assert (sparse.state, sparse.paper) == (State.OTHER_DATA, "30.0")
    assert sparse.note.startswith("counted with all weights, 50.7 M; SLaK counts those that its sparse training")
    assert f"SLaK-T, Params: {sparse.note}." in legend(every["table_14"])


def test_a_mean_without_all_its_parts_is_partial_and_says_what_is_missing(tmp_path: Path) -> None:
    scale = demo(tmp_path)
    put_required("table_10", scale)
    edit(metric_file(scale, "robustness/c", TINY), without("fog", "snow"))
    partial = [cell for cell in again("table_10", scale).cells if cell.state is State.PARTIAL]
    assert {cell.row for cell in partial} == {"VAN-LSKA-Tiny k=23"} and len(partial) == 4
    for cell in partial:
        assert cell.note == "missing: fog 1, 2, 3, 4, 5; snow 1, 2, 3, 4, 5"
        assert (cell.value, cell_text(cell).ours, cell.data) == (None, "partial", ("shapes",))
        assert cell.files == (metric_file(scale, "robustness/c", TINY),)
    edit(metric_file(scale, "robustness/a", TINY), lambda content: content["metrics"]["top1"].update(value=None))
    with pytest.raises(ValueError, match=r"robustness/a/van_tiny-lska-k23-s0\.json: field 'metrics\.top1'"):
        again("table_10", scale)
