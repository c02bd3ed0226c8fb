"""Tables: specs, what they require, and files that are missing or faulty."""

from __future__ import annotations

import itertools
import json
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
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
    entry,
    every_table,
    one_cell,
    only_cell,
    put,
    put_required,
)

from lska.models.runs import Run
from lska.tables import table_summary
from lska.tables.cell_text import cell_text
from lska.tables.paper_values import REFERENCE, read_paper
from lska.tables.specs import (
    SPECS,
    TARGETS,
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


def test_specs_cover_every_entry_of_the_papers_files(tmp_path: Path) -> None:
    for target in TARGETS:
        spec = load_spec(target)
        paper = read_paper(PAPER / f"{spec.paper}.csv")
        columns = {column for _, column in paper.values}
        shown = {column.paper_label or column.label for column in spec.columns}
        # Which quantity of each data set the paper shows is not known, nor its form, so there are several.
        several = [c for c in spec.columns if c.task.startswith("robustness/") or c.task in INSPECTED]
        beside = {c.paper_label or c.label for c in several} - columns
        assert shown - beside <= columns, target
        assert spec.paper != target or shown - beside == columns - ELSEWHERE.get(target, set()), target
        rows = {row.paper_label for row in expand(spec, Scale(tmp_path))}
        printed = {row for row in paper.rows if not row.startswith(REFERENCE)}
        if target in PARTS:
            assert rows and rows < printed, target
        elif target != "figure_s1":  # by corruption and severity, which no table of the paper is
            assert printed == rows, target


def test_titles_and_headings_name_no_data_set_whose_results_they_may_not_show() -> None:
    """The same titles stand above results on generated data; what was measured on is said by the caption."""
    for spec in map(load_spec, TARGETS):
        for text in (spec.title, *(column.label for column in spec.columns), *(row.label for row in spec.rows)):
            assert not re.search("ImageNet|COCO|ADE20K|DTD", text), text


def test_numbers_of_tables_are_roman_as_in_the_paper() -> None:
    numbers = [load_spec(target).number for target in ("table_01", "table_08", "table_17", "figure_06", "figure_s1")]
    assert numbers == ["Table I", "Table VIII", "Table XVII", "Figure 6", "Figure S1"]


def test_faulty_specs_are_refused(tmp_path: Path, snapshot: SnapshotAssertion) -> None:
    text = (SPECS / "table_03.yaml").read_text()
    broken = text.replace("title:", "titel:").replace("    digits: 2\n", "    digits: two\n    colour: red\n", 1)
    (tmp_path / "table_03.yaml").write_text(broken)
    faulty: dict[str, Callable[[], Any]] = {
        "unknown and missing keys, wrong types": lambda: load_spec("table_03", tmp_path),
        "unknown target": lambda: load_spec("table_99"),
        "unknown variable": lambda: RowSpec("{size}", models=("a",)),
        "columns alike": lambda: TableSpec("table_03", "", "", (), (TOP1, TOP1), "", "table_03"),
        "unknown column": lambda: TableSpec("t", "", "", (RowSpec("x", columns=("y",)),), (), "", "t"),
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
    modules = [("properties", module) for module in ("convolution", "self_attention", "lka", "lska")]
    assert requirements(load_spec("table_01"), scale) == modules


def test_required_files_are_exactly_those_read_and_no_cell_is_blank(tmp_path: Path) -> None:
    scale = demo(tmp_path)
    for target, table in every_table(scale).items():
        needed = {scale.results / "metrics" / task / f"{run}.json" for task, run in requirements(table.spec, scale)}
        assert {path for cell in table.cells for path in cell.files} == needed, target
        assert all(str(cell_text(cell)).strip() for cell in table.cells), target


def test_kernel_sizes_of_the_configuration_extend_the_rows_of_their_model_and_task(tmp_path: Path) -> None:
    scale = Scale(tmp_path, (Run("van_base", "lska", 15, 0), Run("van_tiny", "lka", 99, 0)))
    kernels = (7, 11, 15, 23, 35, 53)
    expected = [f"VAN-{attention}-Base k={kernel}" for attention in ("LKA", "LSKA") for kernel in kernels]
    assert labels("table_08", scale) == expected
    runs = (Run("van_tiny", "lska", 15, 0), Run("van_tiny", "lska", 99, 0))
    for target, task, head in (
        ("table_09", "detection/mask_rcnn", "Mask R-CNN 1x"),
        ("table_11", "segmentation/semantic_fpn", "Semantic FPN"),
    ):
        tuned = labels(target, Scale(tmp_path, runs, fine_tuned={task: runs[:1]}))
        added = set(tuned) - set(labels(target, Scale(tmp_path)))
        assert added == {f"{head} / VAN-{attention}-Tiny k=15" for attention in ("LKA", "LSKA")}


def test_controls_appear_where_they_are_configured_after_the_rows_of_the_paper(tmp_path: Path) -> None:
    scale = demo(tmp_path)
    without = replace(scale, fine_tuned={task: runs for task, runs in DENSE.items() if "untrained" not in task})
    for target, label in (
        ("table_04", "control: RetinaNet 1x / VAN-LSKA-Tiny, untrained backbone"),
        ("table_11", "control: Semantic FPN / VAN-LSKA-Tiny k=23, untrained backbone"),
    ):
        assert labels(target, scale) == [*labels(target, without), label]
    beyond = Scale(tmp_path, fine_tuned={"segmentation/semantic_fpn-untrained": (Run("van_tiny", "lka", 15, 0),)})
    assert labels("table_11", beyond)[-1] == "control: Semantic FPN / VAN-LKA-Tiny k=15, untrained backbone"


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
        "another scale": lambda c, e: c.update(scale="paper"),
        "another schema": lambda c, e: c.update(schema=2),
        "another task": lambda c, e: c.update(task="speed"),
        "edited": lambda c, e: c.update(seal="sha256:" + "0" * 64),
        "no metrics": lambda c, e: c.pop("metrics"),
        "no top-1": lambda c, e: c["metrics"].pop("top1"),
        "no number": lambda c, e: c["metrics"].update(top1=70.0),
        "no value": lambda c, e: e.pop("value"),
        "null": lambda c, e: e.update(value=None),
        "bool": lambda c, e: e.update(value=True),
        "text": lambda c, e: e.update(value="74.7"),
        "not finite": lambda c, e: e.update(value=float("nan")),
        "no interval": lambda c, e: e.update(interval=1),
        "half an interval": lambda c, e: e.update(interval=[1]),
        "error in words": lambda c, e: e.update(standard_error="small"),
        "another unit": lambda c, e: e.update(unit="1"),
        "list of metrics": lambda c, e: c.update(metrics=[]),
        "no environment": lambda c, e: c.pop("environment"),
        "data without a name": lambda c, e: c["data"].pop("name"),
    }
    for name, change in changes.items():
        content = json.loads(sound)
        change(content, content["metrics"]["top1"])
        path.write_text(json.dumps(content))
        found[name] = said(tmp_path, read)
    path.write_text(sound[:40])
    found["cut off"] = said(tmp_path, read)
    assert all(text.startswith("<folder>/a folder/metrics/classification/") for text in found.values())
    assert found == snapshot


def test_faulty_files_of_the_paper_are_named(tmp_path: Path, snapshot: SnapshotAssertion) -> None:
    heads = "table,row,column,value,unit,source,detail\n"
    texts = {"no headings": "row,value\na,1\n", "twice": heads + "t,a,b,1,,printed,\n" * 2}
    found = {"missing": said(tmp_path, lambda: read_paper(tmp_path / "table_03.csv"))}
    for name, text in texts.items():
        (tmp_path / "table_03.csv").write_text(text)
        found[name] = said(tmp_path, lambda: read_paper(tmp_path / "table_03.csv"))
    assert found == snapshot


def test_pictures_are_those_of_the_fine_tuned_runs_that_a_table_reads(tmp_path: Path) -> None:
    scale = demo(tmp_path)
    fpn = "segmentation/semantic_fpn"
    expected = {
        "table_04": [(task, run) for task, runs in DENSE.items() if task.startswith("detection") for run in runs],
        "table_05": [(fpn, TINY), (f"{fpn}-untrained", TINY)],
        "table_14": [("detection/mask_rcnn", TINY), (fpn, TINY)],
        "table_03": [],
    }
    for target, wanted in expected.items():
        paths = sorted(scale.results / "samples" / task / f"{run}.png" for task, run in wanted)
        assert sorted(samples(load_spec(target), scale)) == paths
    elsewhere = samples(load_spec("table_05"), scale, Path("x"))[0]
    assert elsewhere == Path(f"x/samples/{fpn}/{TINY}.png")
    shown = [item.data for item in table_summary.pictures(load_spec("table_05"), scale, Path("x"))]
    assert shown[0].startswith("## Sample predictions") and shown[1] == f"### {fpn}/{TINY}"
    assert shown[2] == f"Not here: drawn by `lska evaluate dense {TINY} --task {fpn}`, which needs the data."
    assert table_summary.pictures(load_spec("table_03"), scale, tmp_path) == []
    perturbed = [item.data for item in table_summary.pictures(load_spec("table_06"), scale, tmp_path)]
    assert perturbed[1:3] == ["### c", "Not here: drawn by `lska data examples c`, which needs the data."]
