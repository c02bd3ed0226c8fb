"""Tables: specs, requirements, states of cells, renderings, and errors that name what is wrong."""

from __future__ import annotations

import csv
import itertools
import json
import re
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from lska.provenance import project_root, write_json
from lska.runs import ATTENTIONS, Run
from lska.tables import TARGETS, build, load_spec, outputs, requirements
from lska.tables.collect import Table, collect
from lska.tables.paper import REFERENCE, read_paper
from lska.tables.render import caption, cell_text, escape_latex, legend, to_csv, to_html, to_latex, to_markdown, write
from lska.tables.specs import SPECS, ColumnSpec, RowSpec, TableSpec, expand
from lska.tables.states import State, compare, pool

PAPER = project_root() / "paper"


@dataclass(frozen=True)
class Scale:
    """What tables need of a configuration."""

    results: Path
    runs: tuple[Run, ...] = ()
    scale: str = "demo"
    caption: str = "demo scale: generated data"
    architecture: Mapping[str, Any] = field(default_factory=dict)


def entry(value: float | None, unit: str, **more: Any) -> dict[str, Any]:
    return {"value": value, "unit": unit, **more}


def put(scale: Scale, task: str, run: Run | str, metrics: Mapping[str, Any], data: str | None = None) -> Path:
    """Write a metric file as `lska.provenance.write_metrics` does, without asking git and the processor."""
    path = scale.results / "metrics" / task / f"{run}.json"
    content = {
        "schema": 1, "task": task, "run": str(run), "scale": scale.scale, "metrics": metrics, "recipe": None,
        "weights": {"md5": None, "origin": "none"}, "code": {"commit": None, "dirty": None}, "detail": {},
        "data": data and {"name": data, "digest": "sha256:" + "0" * 64}, "seconds": 1.0,
        "environment": {"lock": None, "torch": "2", "device": "cpu", "hardware": "Some CPU"},
        "started": "2026-01-01T00:00:00+00:00",
    }  # fmt: skip
    write_json(path, content)
    return path


def grid() -> dict[Run, dict[str, int]]:
    """Params, MACs and FLOPs of all networks that were counted on the official code."""
    attentions = dict(zip(("LKA-trivial", "LSKA-trivial", "LKA", "LSKA"), ATTENTIONS, strict=True))
    names = {"params": "params", "macs": "macs_conv_linear", "flops": "flops_figure1_convention"}
    with (PAPER / "complexity_grid.csv").open() as stream:
        return {
            Run(line["model"].lower().replace("-", "_"), attentions[line["variant"]], int(line["k"]), 0): {
                name: int(line[column]) for name, column in names.items()
            }
            for line in csv.DictReader(stream)
        }


STAGES = {
    "van_tiny": ((32, 64, 160, 256), (3, 3, 5, 2)),
    "van_small": ((64, 128, 320, 512), (2, 2, 4, 2)),
    "van_base": ((64, 128, 320, 512), (3, 3, 12, 3)),
}


def put_required(target: str, scale: Scale, data: str = "shapes") -> list[Path]:
    """Write exactly the metric files that `target` requires, with the true counts and invented measurements."""
    counts = grid()
    paths = []
    for number, (task, run) in enumerate(requirements(load_spec(target), scale)):
        if task == "complexity":
            found = counts.get(run, {"params": 10**7 + number, "macs": 10**9, "flops": 10**9})
            metrics = {name: entry(value, "1") for name, value in found.items()} | stage_metrics(run.model)
        elif task == "classification":
            metrics = {"top1": entry(60 + number / 7, "%", n=1000, standard_error=1.5)}
        elif task == "speed":
            interval = [99.0 + number, 102.5 + number]
            metrics = {"throughput": entry(100.25 + number, "images/s", n=5, interval=interval)}
            metrics |= {"batch_size": entry(32, "1"), "image_size": entry(64, "pixels")}
        else:
            names = ("long_range_dependence", "spatial_adaptability", "channel_adaptability", "scalability")
            metrics = {name: entry(1, "1") for name in names}
        paths.append(put(scale, task, run, metrics, data if task == "classification" else None))
    return paths


def stage_metrics(model: str) -> dict[str, Any]:
    metrics = {}
    for stage, (channels, blocks) in enumerate(zip(*STAGES[model], strict=True), start=1):
        values = {
            "channels": channels, "blocks": blocks, "expansion": 8 if stage < 3 else 4, "stride": 2 ** (stage + 1),
            "embedding_kernel": 7 if stage == 1 else 3, "embedding_stride": 4 if stage == 1 else 2,
        }  # fmt: skip
        metrics |= {f"stage{stage}_{name}": entry(value, "1") for name, value in values.items()}
    return metrics


def demo(tmp_path: Path, **more: Any) -> Scale:
    runs = [Run("van_tiny", attention, kernel, 0) for attention in ATTENTIONS for kernel in (7, 23)]
    runs += [Run(model, attention, 23, 0) for model in ("van_small", "van_base") for attention in ("lka", "lska")]
    return Scale(tmp_path / "results" / "demo", tuple(runs), **more)


TOP1 = ColumnSpec("top-1", "classification", "top1", unit="%", digits=1, tolerance="noise", data="imagenet1k")
ROW = RowSpec("VAN-{attention}", models=("van_tiny",), attentions=("lka",), kernels=(23,))


def one_cell(tmp_path: Path, column: ColumnSpec, printed: str, source: str = "printed", **more: Any) -> TableSpec:
    """A table of one row and column with the paper's value `printed`, empty for unknown."""
    lines = [["table", "row", "column", "value", "unit", "source", "detail"]]
    lines.append(["table_03", "VAN-LKA", column.label, printed, column.unit, source if printed else "null", ""])
    with (tmp_path / "table_03.csv").open("w", newline="") as stream:
        csv.writer(stream).writerows(lines)
    return TableSpec("table_03", "Title", "model", (more.pop("row", ROW),), (column,), "Prose.", "table_03", **more)


def only_cell(spec: TableSpec, scale: Scale, tmp_path: Path) -> Any:
    (cell,) = collect(spec, scale, tmp_path, scale.results).cells
    return cell


# Specs and requirements


@pytest.mark.parametrize("target", TARGETS)
def test_spec_covers_every_entry_of_the_papers_file(target: str, tmp_path: Path) -> None:
    spec = load_spec(target)
    paper = read_paper(PAPER / f"{spec.paper}.csv")
    rows = {row.paper_label for row in expand(spec, Scale(tmp_path))}
    assert {row for row in paper.rows if not row.startswith(REFERENCE)} == rows
    columns = {column for _, column in paper.values}
    shown = {column.paper_label or column.label for column in spec.columns}
    assert shown <= columns
    assert spec.paper != target or shown == columns


def test_unknown_keys_and_wrong_types_are_all_named(tmp_path: Path) -> None:
    text = (SPECS / "table_03.yaml").read_text()
    broken = text.replace("title:", "titel:").replace("    digits: 2\n", "    digits: two\n    colour: red\n", 1)
    (tmp_path / "table_03.yaml").write_text(broken)
    with pytest.raises(ValueError, match=r"(?s)table_03\.yaml.*'titel'.*'title'.*'colour'.*digits.*'two'"):
        load_spec("table_03", tmp_path)


def test_unknown_target_lists_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"'table_99'.*table_01.*table_17"):
        load_spec("table_99")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: RowSpec("{size}", models=("a",)), "size"),
        (lambda: RowSpec("{model}", models=("a",), kernels=(7,), extend=True), "extend needs"),
        (lambda: RowSpec("x", attentions=("lka",)), "attentions need models and kernels"),
        (lambda: RowSpec("x", models=("a",), modules=("b",)), "either models or modules"),
        (lambda: ColumnSpec("x", "t", "m", tolerance="absolute"), "positive margin"),
        (lambda: TableSpec("table_03", "", "", (), (TOP1, TOP1), "", "table_03"), "listed twice: top-1"),
        (lambda: TableSpec("table_03", "", "", (RowSpec("x", columns=("y",)),), (), "", "table_03"), "not exist: y"),
    ],
)
def test_contradictory_specs_are_refused(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_numbers_of_tables_are_roman_as_in_the_paper() -> None:
    numbers = [load_spec(target).number for target in ("table_01", "table_08", "table_17", "figure_06")]
    assert numbers == ["Table I", "Table VIII", "Table XVII", "Figure 6"]


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


def test_requirements_name_modules_where_there_is_no_run(tmp_path: Path) -> None:
    needed = requirements(load_spec("table_01"), Scale(tmp_path))
    assert needed == [("properties", module) for module in ("convolution", "self_attention", "lka", "lska")]


@pytest.mark.parametrize("target", TARGETS)
def test_required_files_are_exactly_those_read(target: str, tmp_path: Path) -> None:
    scale = demo(tmp_path)
    written = put_required(target, scale)
    table = collect(load_spec(target), scale, PAPER, scale.results)
    assert {path for cell in table.cells for path in cell.files} == set(written)
    assert all(str(cell_text(cell)) for cell in table.cells)
    for path in written[:: max(1, len(written) // 3)]:
        path.rename(path.with_suffix(".away"))
        with pytest.raises(FileNotFoundError, match=re.escape(str(path))):
            collect(load_spec(target), scale, PAPER, scale.results)
        path.with_suffix(".away").rename(path)


def test_kernel_sizes_of_the_configuration_extend_the_rows_of_their_model(tmp_path: Path) -> None:
    scale = Scale(tmp_path, (Run("van_base", "lska", 15, 0), Run("van_tiny", "lka", 99, 0)))
    labels = [row.label for row in expand(load_spec("table_08"), scale)]
    kernels = (7, 11, 15, 23, 35, 53)
    assert labels == [f"VAN-{attention}-Base k={kernel}" for attention in ("LKA", "LSKA") for kernel in kernels]


def test_rows_nest_models_attentions_kernels_and_values(tmp_path: Path) -> None:
    row = RowSpec("{head} {model} {attention} {kernel}", models=("van_tiny", "other"), attentions=("lka", "lska"),
                  kernels=(7, 11), values={"head": ("a", "b")})  # fmt: skip
    spec = TableSpec("table_04", "", "", (row,), (), "", "table_04")
    expected = itertools.product(("Tiny", "other"), ("LKA", "LSKA"), ("7", "11"), ("a", "b"))
    found = [row.label for row in expand(spec, Scale(tmp_path))]
    assert found == [f"{head} {model} {attention} {kernel}" for model, attention, kernel, head in expected]


def test_building_a_table_imports_nothing_heavy(tmp_path: Path) -> None:
    scale = demo(tmp_path)
    put_required("table_01", scale)
    code = (
        "import sys; from pathlib import Path; from types import SimpleNamespace as N; from lska import tables\n"
        f"scale = N(scale='demo', caption='', runs=(), results=Path({str(scale.results)!r}))\n"
        "for target in tables.TARGETS: tables.requirements(tables.load_spec(target), scale)\n"
        "early = set(sys.modules)\n"
        f"tables.build('table_01', scale, None, Path({str(PAPER)!r}))\n"
        "heavy = {'torch', 'timm', 'numpy', 'pandas', 'matplotlib', 'jsonschema'}\n"
        "print(sorted(heavy & set(sys.modules)), 'lska.tables.collect' in early)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[] False"
    assert all(path.is_file() for path in outputs("table_01", scale.results))


# States


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


def test_not_run_pending_reference_and_inapplicable_cells(tmp_path: Path) -> None:
    scale = Scale(tmp_path)
    cell = only_cell(one_cell(tmp_path, TOP1, "74.7"), scale, tmp_path)
    assert (cell.state, cell.value, cell.paper, str(cell_text(cell))) == (State.NOT_RUN, None, "74.7", "not run (74.7)")
    row = RowSpec("VAN-LKA", pending="comes later")
    cell = only_cell(one_cell(tmp_path, TOP1, "74.7", row=row), scale, tmp_path)
    assert (cell.state, cell.note) == (State.NOT_RUN, "comes later")
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
    put(scale, "properties", "lka", {name: entry(2, "1") for name in names})
    with pytest.raises(ValueError, match=r"properties/lka\.json.*expected one of 0, 1, found 2"):
        collect(load_spec("table_01"), scale, PAPER, scale.results)


# Faulty files


def test_missing_metric_file_names_the_file_and_the_command(tmp_path: Path) -> None:
    scale = Scale(tmp_path / "a folder", (Run("van_tiny", "lka", 23, 0),), scale="small")
    with pytest.raises(FileNotFoundError) as caught:
        only_cell(one_cell(tmp_path, TOP1, "74.7"), scale, tmp_path)
    path = scale.results / "metrics" / "classification" / "van_tiny-lka-k23-s0.json"
    assert str(caught.value).startswith(f"{path}: ")
    assert f"snakemake --cores 1 --configfile config/small.yaml -- '{path}'" in str(caught.value)


@pytest.mark.parametrize(
    ("change", "field_name"),
    [
        (lambda c: c.update(run="van_tiny-lka-k23-s1"), "'run'"),
        (lambda c: c.update(scale="paper"), "'scale'"),
        (lambda c: c.update(schema=2), "'schema'"),
        (lambda c: c.update(task="speed"), "'task'"),
        (lambda c: c.pop("metrics"), "'metrics.top1'"),
        (lambda c: c["metrics"].pop("top1"), "'metrics.top1'"),
        (lambda c: c["metrics"]["top1"].pop("value"), "'metrics.top1.value'"),
        (lambda c: c["metrics"]["top1"].update(value=None), "'metrics.top1.value'"),
        (lambda c: c["metrics"]["top1"].update(value=True), "'metrics.top1.value'"),
        (lambda c: c["metrics"]["top1"].update(value="74.7"), "'metrics.top1.value'"),
        (lambda c: c["metrics"]["top1"].update(value=float("nan")), "'metrics.top1.value'"),
        (lambda c: c["metrics"]["top1"].update(standard_error="small"), "'metrics.top1.standard_error'"),
        (lambda c: c["metrics"]["top1"].update(unit="1"), "'metrics.top1.unit'"),
        (lambda c: c["data"].pop("name"), "'data.name'"),
        (lambda c: c.pop("environment"), "'environment'"),
    ],
)
def test_malformed_metric_file_names_the_file_and_the_field(change: Any, field_name: str, tmp_path: Path) -> None:
    scale = Scale(tmp_path, (Run("van_tiny", "lka", 23, 0),))
    path = put(scale, "classification", scale.runs[0], {"top1": entry(70.0, "%")}, "shapes")
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=f"{re.escape(str(path))}.*{re.escape(field_name)}"):
        only_cell(one_cell(tmp_path, TOP1, "74.7"), scale, tmp_path)


def test_truncated_metric_file_is_named(tmp_path: Path) -> None:
    scale = Scale(tmp_path, (Run("van_tiny", "lka", 23, 0),))
    path = put(scale, "classification", scale.runs[0], {"top1": entry(70.0, "%")}, "shapes")
    path.write_text(path.read_text()[:40])
    with pytest.raises(ValueError, match=f"{re.escape(str(path))}: not valid JSON"):
        only_cell(one_cell(tmp_path, TOP1, "74.7"), scale, tmp_path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("row,value\na,1\n", "expected the columns table, row"),
        ("table,row,column,value,unit,source,detail\n" + "t,a,b,1,,printed,\n" * 2, "line 3: row 'a', column 'b'"),
    ],
)
def test_faulty_file_of_the_paper_is_named(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "table_03.csv").write_text(text)
    with pytest.raises(ValueError, match=f"table_03.csv.*{message}"):
        read_paper(tmp_path / "table_03.csv")
    with pytest.raises(ValueError, match=r"table_04\.csv: .*cannot be read"):
        read_paper(tmp_path / "table_04.csv")


# Renderings


def small_table(tmp_path: Path) -> Table:
    """A table in which every state occurs."""
    columns = (
        ColumnSpec("Params", "complexity", "params", unit="M", factor=1e-6, measured_on="architecture",
                   tolerance="printed or cut"),
        TOP1,
    )  # fmt: skip
    rows = (
        RowSpec("VAN-{attention} k={kernel}", models=("van_tiny",), attentions=("lka", "lska"), kernels=(7, 23)),
        RowSpec("Net_5% & <b>|x|", columns=("top-1",)),
    )
    scale = demo(tmp_path, caption="demo scale: 100% generated_data & more")
    values = {"lka-k7": 4016200, "lka-k23": 4105800, "lska-k7": 4190000, "lska-k23": 4350000}
    for name, value in values.items():
        put(scale, "complexity", f"van_tiny-{name}-s0", {"params": entry(value, "1")})
        top1 = {"top1": entry(70.25, "%", standard_error=1.5)}
        put(scale, "classification", f"van_tiny-{name}-s0", top1, "shapes")
    lines = [
        "table,row,column,value,unit,source,detail",
        "t,VAN-LKA k=7,Params,4.0,M,printed,",
        "t,VAN-LKA k=7,top-1,74.0,%,printed,",
        "t,VAN-LKA k=23,Params,4.1,M,other-paper:VAN,",
        "t,reference: B0,top-1,75.4,%,other-paper:VAN,",
        "t,VAN-LSKA k=7,Params,4.1,M,computed,",
        "t,VAN-LSKA k=23,Params,4.1,M,derived,",
    ]
    (tmp_path / "table_03.csv").write_text("\n".join(lines) + "\n")
    spec = TableSpec("table_03", "A title", "model", rows, columns, "Prose.", "table_03")
    return collect(spec, scale, tmp_path, scale.results)


MARKDOWN = """\
**Table III. A title. Demo scale: 100% generated\\_data & more. Counts are always those of the paper's own \
architectures, at 224x224 pixels. Measured on shapes.**

| model | Params (M) | top-1 (%) |
| --- | ---: | ---: |
| VAN-LKA k=7 | 4.02 ✓ (4.0) | 70.2 ± 1.5 ○ (74.0) |
| VAN-LKA k=23 | 4.11 ✓ (4.1§) | 70.2 ± 1.5 ○ (?) |
| reference: B0 | (?) | (75.4§) |
| VAN-LSKA k=7 | 4.19 ✓ᶜ (4.1‡) | 70.2 ± 1.5 ○ (?) |
| VAN-LSKA k=23 | 4.35 ✗ (4.1†) | 70.2 ± 1.5 ○ (?) |
| Net\\_5% & \\<b\\>\\|x\\| | n/a | not run (?) |

- Ours, with the paper's value in brackets.
- ± deviation over seeds, or the standard error where there is one seed.
- ✓ reproduced: equal at the printed digits, or within tolerance or noise.
- ✗ deviates: measured as the paper did, with another result.
- ○ other data: measured on other data or a shrunken model; the paper's value is for reference only.
- ᶜ equal to the printed value when ours is cut, not rounded, to its digits.
- (?) no printed value known.
- not run: nothing was trained or measured at this scale.
- reference rows: published elsewhere; nothing is measured here.
- n/a: the row has no such quantity.
- † follows by arithmetic from a printed statement.
- ‡ not printed; counted on the official model code.
- § from another paper: VAN.
"""


def test_markdown_snapshot(tmp_path: Path) -> None:
    assert to_markdown(small_table(tmp_path)) == MARKDOWN


def test_legend_lists_only_what_occurs(tmp_path: Path) -> None:
    scale = demo(tmp_path)
    put_required("table_02", scale)
    lines = legend(collect(load_spec("table_02"), scale, PAPER, scale.results))
    assert [line[0] for line in lines] == ["O", "✓", "‡"]


def test_caption_states_scale_data_and_conditions(tmp_path: Path) -> None:
    scale = demo(tmp_path)
    put_required("table_17", scale)
    text = caption(collect(load_spec("table_17"), scale, PAPER, scale.results))
    assert "Demo scale: generated data." in text
    assert "Measured on shapes." in text
    assert text.endswith("inference speed: cpu (Some CPU), batch size 32, image size 64.")


def test_latex_escapes_everything_and_is_balanced(tmp_path: Path) -> None:
    assert escape_latex(r"\a_b&c%d$e#f{g}h~i^j<k>") == (
        r"\textbackslash{}a\_b\&c\%d\$e\#f\{g\}h\textasciitilde{}i\textasciicircum{}j$<$k$>$"
    )
    text = to_latex(small_table(tmp_path))
    assert text.isascii()
    assert r"Net\_5\% \& $<$b$>$|x| & n/a & not run (?) \\" in text
    bare = re.sub(r"\\[\\{}$%&#_]", "", text)
    assert bare.count("{") == bare.count("}")
    assert bare.count("$") % 2 == 0
    assert re.findall(r"\\begin\{(\w+)\}", text) == re.findall(r"\\end\{(\w+)\}", text)[::-1] == ["table", "tabular"]
    body = text[text.index(r"\toprule") : text.index(r"\bottomrule")]
    rows = [line for line in body.splitlines() if line.endswith(r"\\")]
    assert len(rows) == 7
    assert {len(re.findall(r"(?<!\\)&", row)) for row in rows} == {2}
    assert r"\begin{tabular}{lrr}" in text


def test_csv_is_read_back_by_pandas_with_every_value(tmp_path: Path) -> None:
    import pandas

    table = small_table(tmp_path)
    (tmp_path / "table.csv").write_text(to_csv(table))
    frame = pandas.read_csv(tmp_path / "table.csv", dtype={"paper": str}, keep_default_na=False, na_values=[""])
    assert list(frame.columns[:12]) == [
        "table", "row", "column", "value", "unit", "deviation", "standard_error", "n", "paper", "paper_source", "state",
        "files",
    ]  # fmt: skip
    assert len(frame) == len(table.rows) * len(table.spec.columns)
    for line, cell in zip(frame.to_dict("records"), table.cells, strict=True):
        assert (line["row"], line["column"], line["state"], line["n"]) == (cell.row, cell.column, cell.state, cell.n)
        for name in ("value", "standard_error", "paper"):
            expected = getattr(cell, name)
            assert line[name] == expected or (expected is None and pandas.isna(line[name]))
    assert frame["files"][0].endswith("metrics/complexity/van_tiny-lka-k7-s0.json")


def test_files_in_the_working_folder_are_named_relative_to_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    lines = list(csv.DictReader(to_csv(small_table(tmp_path)).splitlines()))
    assert lines[0]["files"] == "results/demo/metrics/complexity/van_tiny-lka-k7-s0.json"


def test_html_is_well_formed_and_says_where_numbers_come_from(tmp_path: Path) -> None:
    table = small_table(tmp_path)
    figure = ElementTree.fromstring(to_html(table))
    cells = figure.findall(".//td")
    assert ["".join(cell.itertext()).strip() for cell in cells] == [str(cell_text(cell)) for cell in table.cells]
    assert [cell.get("class") for cell in cells] == [str(cell.state).replace(" ", "-") for cell in table.cells]
    assert "van_tiny-lka-k7-s0.json" in cells[0].get("title")
    assert figure.findall(".//tbody/tr/th")[-1].text == "Net_5% & <b>|x|"


def test_every_format_is_written_and_others_are_refused(tmp_path: Path) -> None:
    table = small_table(tmp_path)
    for render, suffix in ((to_markdown, "md"), (to_latex, "tex"), (to_csv, "csv"), (to_html, "html")):
        write(table, tmp_path / f"t.{suffix}")
        assert (tmp_path / f"t.{suffix}").read_text(encoding="utf-8") == render(table)
    with pytest.raises(ValueError, match=r"t\.docx.*\.md, \.tex, \.csv, \.html"):
        write(table, tmp_path / "t.docx")


def test_build_writes_what_was_asked_for_from_another_results_folder(tmp_path: Path) -> None:
    scale = demo(tmp_path)
    put_required("table_03", scale)
    moved = Scale(tmp_path / "nowhere", scale.runs)
    table = build("table_03", moved, [tmp_path / "out" / "t.md"], PAPER, results=scale.results)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["t.md"]
    assert (tmp_path / "out" / "t.md").read_text(encoding="utf-8") == to_markdown(table)
