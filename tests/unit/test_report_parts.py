"""Parts of the site that compute something: costs, the graph of rules, scales side by side, notebooks, small words."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from report_helpers import DAG, put_notebook, put_sidecars
from table_helpers import entry, put, put_required

from lska import report
from lska.config import Config, load
from lska.files import write_json
from lska.provenance import digest
from lska.report import costs, rules, scales
from lska.report.gather import gather
from lska.report.notebooks import fragment, render_all
from lska.report.words import duration, hours, minus, unbroken
from lska.runs import Run
from lska.tables.notebooks import NotebookError
from lska.tables.table_formats import build_table

RUN = Run("van_tiny", "lska", 23, 0)


def measured(config: Config, task: str, run: Run, seconds: float, started: str = "2026-01-01T00:00:00+00:00") -> None:
    path = put(config, task, run, {"top1": entry(50.0, "%")}, "shapes")
    content = json.loads(path.read_text())
    write_json(path, {**content, "seconds": seconds, "started": started})


def cost(config: Config, rule: str) -> costs.Cost:
    return next(found for found in costs.costs(gather(config)) if found.rule == rule)


def test_files_of_a_pass_are_one_job_of_the_time_until_the_last(bare: Config) -> None:
    for number, run in enumerate(bare.runs[:4]):
        measured(bare, "robustness/c", run, seconds=10.0 + number, started=f"2026-01-01T00:00:0{number // 2}+00:00")
    found = cost(bare, "robustness_c")
    assert (len(found.jobs), found.results, found.seconds, found.longest) == (2, 4, 11.0 + 13.0, 13.0)


def test_files_of_single_measurements_add_up_even_when_started_together(bare: Config) -> None:
    for run in bare.runs[:3]:
        measured(bare, "classification", run, seconds=20.0)
    assert cost(bare, "classification").seconds == 60.0


def test_cores_are_those_that_the_configuration_gives_the_rule(bare: Config) -> None:
    config = load([Path("config/demo.yaml")], {"training": {"threads": 4}, "evaluation": {"workers": 3}})
    put_sidecars(config)
    measured(config, "classification", RUN, seconds=1800.0)
    assert cost(config, "classification").core_hours == pytest.approx(0.5 * 3)
    assert cost(config, "train").core_hours == pytest.approx(len(config.runs) * 90 / 3600 * 4)
    assert cost(config, "train").gpu_hours == 0


def test_a_training_on_several_gpus_counts_each(bare: Config) -> None:
    put_sidecars(bare, device="cuda:0", processes=8, seconds=3600.0)
    found = costs.costs(gather(bare))
    assert costs.total(found).gpu_hours == 8 * len(bare.runs)
    assert {row.gpu_hours for row in costs.training_rows(gather(bare))} == {8.0}


def test_imported_weights_cost_nothing_here(bare: Config) -> None:
    put_sidecars(bare, origin="imported")
    assert costs.costs(gather(bare)) == []


def test_notebooks_count_as_papermill_timed_them(bare: Config) -> None:
    put_notebook(bare, "table_03")
    put_notebook(bare, "table_04")
    put_notebook(bare, "figure_01")
    assert (cost(bare, "notebook_table_*").seconds, cost(bare, "notebook_figure_*").results) == (3.0, 1)


def test_trainings_follow_the_order_of_the_tables(bare: Config) -> None:
    put_sidecars(bare)
    names = [row.name for row in costs.training_rows(gather(bare))]
    assert names == [str(run) for run in sorted(bare.runs, key=lambda run: run.sort_key)]


def test_jobs_and_edges_are_counted_by_rule() -> None:
    graph = rules.summarized(DAG)
    assert graph["jobs"] == {
        "report": 1, "notebook_table_03": 1, "classification": 2, "train": 2, "data": 1, "complexity": 1,
        "notebook_figure_01": 1, "data (derived)": 1,
    }  # fmt: skip
    assert ["train", "data (derived)"] in graph["edges"] and ["train", "data"] not in graph["edges"]
    assert graph["targets"]["table_03"] == {"classification": 2, "complexity": 1, "train": 2, "data": 1}
    assert rules.behind(graph)["figure_01"] == ["classification", "data\xa0×\xa02", "train"]


def test_edges_that_a_longer_way_implies_are_left_out() -> None:
    jobs, edges = rules.folded(rules.summarized(DAG))
    assert jobs["notebook_table_*"] == 1 and ("train", "classification") in edges
    assert ("data", "classification") not in edges


def test_rules_that_wait_for_each_other_are_drawn_all_the_same() -> None:
    graph = {"jobs": {"one": 1, "two": 1, "three": 1}, "edges": [["one", "two"], ["two", "one"], ["two", "three"]]}
    picture = rules.draw(graph)
    assert len(picture.boxes) == 3 and len(picture.arrows) == 2


@pytest.mark.parametrize(
    ("rule", "name"),
    [
        ("notebook_table_03", "notebook_table_*"),
        ("notebook_figure_s1", "notebook_figure_*"),
        ("notebook_pages", "notebook_pages"),
        ("robustness_c_bar_2", "robustness_*"),
        ("shape_texture_0", "shape_texture"),
        ("complexity_retinanet", "complexity_*"),
        ("complexity", "complexity"),
        ("data (derived)", "data (derived)"),
    ],
)
def test_alike_rules_are_drawn_as_one(rule: str, name: str) -> None:
    assert rules.family(rule) == name


def many() -> dict:
    """A graph of six layers with edges over several of them."""
    names = [f"rule{chr(97 + number)}" for number in range(24)]
    pairs = itertools.combinations(names, 2)
    edges = [[one, other] for one, other in pairs if (ord(one[-1]) * ord(other[-1])) % 7 == 0]
    return {"jobs": dict.fromkeys(names, 3), "edges": edges, "targets": {}}


def test_boxes_stand_apart_and_arrows_go_to_the_right() -> None:
    picture = rules.draw(many())
    for one, other in itertools.combinations(picture.boxes, 2):
        beside = one.x + one.width <= other.x or other.x + other.width <= one.x
        assert beside or abs(one.y - other.y) >= rules.ROW, (one, other)
    for arrow in picture.arrows:
        places = [x for x, _ in arrow.points]
        assert places == sorted(places)
    for box in picture.boxes:
        assert 0 <= box.x <= picture.width - box.width and 0 <= box.y <= picture.height - rules.ROW


def test_arrows_begin_and_end_at_boxes() -> None:
    picture = rules.draw(many())
    starts = {(box.x + box.width, box.y + rules.ROW / 2) for box in picture.boxes}
    ends = {(box.x, box.y + rules.ROW / 2) for box in picture.boxes}
    assert len(picture.arrows) > 20
    assert {arrow.points[0] for arrow in picture.arrows} <= starts
    assert {arrow.points[-1] for arrow in picture.arrows} <= ends


def test_the_drawing_is_the_same_every_time() -> None:
    assert rules.draw(many()) == rules.draw(many())


def test_what_snakemake_complains_of_is_passed_on(bare: Config) -> None:
    Path("Snakefile").unlink()
    Path("Snakefile").write_text("rule broken:\n    nonsense\n")
    with pytest.raises(rules.GraphError, match=r"--d3dag report ended with 1[\s\S]*Snakefile[\s\S]*nonsense"):
        rules.write_graph(bare, [Path("config/demo.yaml")], {})
    assert not report.graph_path(bare.results).exists()


@pytest.fixture
def two_scales(bare: Config) -> Iterator[list[Config]]:
    """Table III at two scales, with other accuracies on other data."""
    small = load([Path("config/small.yaml")])
    for config, data in ((bare, "shapes"), (small, "cifar10")):
        put_required("table_03", config, data)
        build_table("table_03", config)
    measured_at_small = small.metric_path("classification", RUN)
    content = json.loads(measured_at_small.read_text())
    content["metrics"]["top1"]["value"] = 73.05
    write_json(measured_at_small, content)
    build_table("table_03", small)
    yield [bare, small]


def test_a_cell_stands_beside_itself_at_the_other_scale_with_its_data(two_scales: list[Config]) -> None:
    found = scales.scales()
    assert [scale.name for scale in found] == ["demo", "small"]
    assert found[0].caption.startswith("demo scale: generated") and "CIFAR-10" in found[1].caption
    (comparison,) = scales.compare(found)
    lines = {(line.row, line.column): line for line in comparison.lines}
    line = lines["VAN-LSKA-Tiny", "top-1, %"]
    assert [cell.data for cell in line.cells] == ["shapes", "cifar10"]
    assert line.cells[1].value == "73.0 ± 1.5" and line.paper == "75.0"
    assert line.cells[0].value != line.cells[1].value


def test_counts_that_agree_are_told_once_and_others_are_shown(two_scales: list[Config]) -> None:
    (before,) = scales.compare(scales.scales())
    assert before.equal == 24 and all("top-1" in line.column for line in before.lines)
    path = Path("results/small/tables/table_03.csv")
    path.write_text(path.read_text().replace("13.73", "13.99"))
    (after,) = scales.compare(scales.scales())
    assert after.equal < 24
    assert any(line.row == "VAN-LSKA-Small" and "Params" in line.column for line in after.lines)


def test_one_scale_alone_is_compared_with_nothing(bare: Config) -> None:
    assert scales.compare(scales.scales()) == []
    put_required("table_03", bare)
    build_table("table_03", bare)
    assert scales.compare(scales.scales()) == []


def test_the_site_is_made_anew_when_another_scale_changes(two_scales: list[Config]) -> None:
    before = report.other_scales("demo"), report.other_scales("small")
    path = Path("results/small/tables/table_03.csv")
    path.write_text(path.read_text() + "\n")
    assert report.other_scales("demo") != before[0] and report.other_scales("small") == before[1]


def test_a_foreign_table_file_is_named(two_scales: list[Config]) -> None:
    path = Path("results/small/tables/table_03.csv")
    path.write_text("a,b\n1,2\n")
    with pytest.raises(ValueError, match=r"results/small/tables/table_03\.csv: line 1: has no column .*'state'"):
        scales.compare(scales.scales())


def test_a_rendered_notebook_loads_nothing_and_shows_outputs_as_text(bare: Config) -> None:
    html = fragment(put_notebook(bare, "table_03", "a < b <script>alert(1)</script>"))
    assert "<script" not in html and "<link" not in html and "http" not in html
    assert "a &lt; b &lt;script&gt;alert(1)&lt;/script&gt;" in html
    assert "Notebook of table_03" in html


def test_every_executed_notebook_is_rendered_beside_itself(bare: Config) -> None:
    put_notebook(bare, "table_03")
    put_notebook(bare, "figure_s1")
    assert render_all(bare) == [report.rendered_notebook(bare.results, name) for name in ("table_03", "figure_s1")]


def test_rendering_without_notebooks_or_of_other_files_is_refused(bare: Config) -> None:
    with pytest.raises(NotebookError, match="results/demo/notebooks: no executed notebook here"):
        render_all(bare)
    for damaged in ('{"cells": 3}', "{", '{"nbformat": 4, "nbformat_minor": 5, "metadata": {}, "cells": 3}', "[]"):
        put_notebook(bare, "table_03").write_text(damaged)
        with pytest.raises(NotebookError, match=r"table_03\.ipynb: not a notebook"):
            render_all(bare)
    assert not report.rendered_notebook(bare.results, "table_03").exists()


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.04, "0.0 s"), (9.94, "9.9 s"), (35, "35 s"), (600, "10 min"), (3570, "1 h 00 min"), (7500, "2 h 05 min")],
)
def test_durations_are_told_in_fitting_units(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_hours_keep_the_digits_that_count() -> None:
    numbers = (0, 0.0042, 0.028, 1.26, 1234.56)
    assert [hours(number) for number in numbers] == ["0", "< 0.01", "0.03", "1.26", "1,234.6"]


def test_units_of_headings_stay_on_one_line() -> None:
    assert unbroken("Params (exact, M)") == "Params (exact,\xa0M)" and unbroken("model") == "model"
    assert unbroken("top-1 (mean over many corruptions)") == "top-1 (mean over many corruptions)"


def test_only_numbers_get_minus_signs() -> None:
    assert minus("off by -0.27, -3 to 2 (by -1)") == "off by −0.27, −3 to 2 (by −1)"
    assert minus("van_tiny-lska-k23-s0 on 2026-01-02") == "van_tiny-lska-k23-s0 on 2026-01-02"


def test_the_command_makes_each_part(bare: Config, capsys: pytest.CaptureFixture[str]) -> None:
    from lska.cli import main

    put_notebook(bare, "table_03")
    assert main(["report", "notebooks"]) == 0
    assert main(["report"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "results/demo/report/index.html"
    Path("results/demo/notebooks/table_03.ipynb").unlink()
    assert main(["report", "notebooks"]) == 1
    assert "lska: error: results/demo/notebooks: no executed notebook here" in capsys.readouterr().err


def test_the_configuration_has_one_identity(bare: Config) -> None:
    from lska.files import read_yaml
    from lska.workflow import Plan

    values = read_yaml(Path("config/demo.yaml"))
    plan = Plan(values, [Path("config/demo.yaml")], {})
    assert plan.digest == digest(values)
    assert Plan(values, [Path("config/demo.yaml")], {"training": {"threads": 7}}).digest != plan.digest
