"""Tables: specs, what they require, and files that are missing or faulty."""

from __future__ import annotations

import itertools
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from table_helpers import (
    INSPECTED,
    PAPER,
    STAGES,
    TOP1,
    Scale,
    demo,
    entry,
    one_cell,
    only_cell,
    put,
    put_required,
)

from lska.runs import Run
from lska.tables.cell_text import cell_text
from lska.tables.collect import collect
from lska.tables.paper_values import REFERENCE, read_paper
from lska.tables.specs import SPECS, TARGETS, ColumnSpec, RowSpec, TableSpec, expand, load_spec, outputs, requirements

ELSEWHERE = {"table_14": {"FLOPs (MACs, merged)"}}
"""Columns of the paper's files with nothing but counts of networks that are not here."""

PARTS = ("figure_04", "figure_05")
"""Figures that show one attention, or one size of network, of their table."""


@pytest.mark.parametrize("target", TARGETS)
def test_spec_covers_every_entry_of_the_papers_file(target: str, tmp_path: Path) -> None:
    spec = load_spec(target)
    paper = read_paper(PAPER / f"{spec.paper}.csv")
    columns = {column for _, column in paper.values}
    shown = {column.paper_label or column.label for column in spec.columns}
    # Which quantity of each data set the paper shows is not known, nor its form, so there are several; and controls.
    several = [c for c in spec.columns if c.task.startswith("robustness/") or c.task in INSPECTED]
    beside = {c.paper_label or c.label for c in several} - columns
    assert shown - beside <= columns
    assert spec.paper != target or shown - beside == columns - ELSEWHERE.get(target, set())
    rows = {row.paper_label for row in expand(spec, Scale(tmp_path))}
    printed = {row for row in paper.rows if not row.startswith(REFERENCE)}
    if target in PARTS:
        assert rows and rows < printed
    elif target != "figure_s1":  # by corruption and severity, which no table of the paper is
        assert printed == rows


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
        (lambda: RowSpec("x", control=True), "control rows need models"),
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
        "import sys; from pathlib import Path; from types import SimpleNamespace as N; from lska.tables import specs\n"
        f"scale = N(scale='demo', caption='', runs_of=lambda task: (), results=Path({str(scale.results)!r}))\n"
        "for target in specs.TARGETS: specs.requirements(specs.load_spec(target), scale)\n"
        "early = set(sys.modules)\n"
        "from lska.tables.table_formats import build_table\n"
        f"build_table('table_01', scale, None, Path({str(PAPER)!r}))\n"
        "heavy = {'torch', 'timm', 'numpy', 'pandas', 'matplotlib', 'jsonschema'}\n"
        "print(sorted(heavy & set(sys.modules)), 'lska.tables.collect' in early)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[] False"
    assert all(path.is_file() for path in outputs("table_01", scale.results))


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
        (lambda c: c["metrics"]["top1"].update(value=float("nan")), "expected a finite number, found 'NaN'"),
        (lambda c: c["metrics"]["top1"].update(interval=1), "'metrics.top1.interval'"),
        (lambda c: c.update(metrics=[]), "'metrics'"),
        (lambda c: c.update(detail="x"), "'detail'"),
        (lambda c: c.update(environment=["cpu"]), "'environment'"),
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
    with pytest.raises(ValueError, match=f"{re.escape(str(path))}: line \\d, column .*: not valid JSON"):
        only_cell(one_cell(tmp_path, TOP1, "74.7"), scale, tmp_path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("row,value\na,1\n", "expected the headings table,row"),
        ("table,row,column,value,unit,source,detail\n" + "t,a,b,1,,printed,\n" * 2, "line 3: row 'a', column 'b'"),
    ],
)
def test_faulty_file_of_the_paper_is_named(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "table_03.csv").write_text(text)
    with pytest.raises(ValueError, match=f"table_03.csv.*{message}"):
        read_paper(tmp_path / "table_03.csv")
    with pytest.raises(ValueError, match=r"table_04\.csv: no such file"):
        read_paper(tmp_path / "table_04.csv")


@pytest.mark.parametrize("target", TARGETS)
def test_titles_and_headings_name_no_data_set_whose_results_they_may_not_show(target: str) -> None:
    """The same titles stand above results on generated data; what was measured on is said by the caption."""
    spec = load_spec(target)
    for text in (spec.title, *(column.label for column in spec.columns), *(row.label for row in spec.rows)):
        assert not re.search("ImageNet|COCO|ADE20K|DTD", text), text
