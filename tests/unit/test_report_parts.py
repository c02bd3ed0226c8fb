"""Parts of the site that compute something: costs, what a table needs, scales side by side, notebooks, small words."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path

import pytest
from report_helpers import put_notebook, put_sidecars
from table_helpers import entry, put, put_required

from lska.cli import main
from lska.models.runs import Run
from lska.provenance.files import write_json
from lska.report import costs
from lska.report.gather import gather
from lska.report.pages import all_pages, compare_scales
from lska.report.site import duration, hours, minus, notebook_html, unbroken
from lska.report.site_paths import other_scales, rendered_notebook, tabled_scales
from lska.settings.scale import Config, load
from lska.tables.table_formats import build_table

RUN = Run("van_tiny", "lska", 23, 0)


def measured(config: Config, task: str, run: Run, seconds: float, started: int = 0, **more: object) -> None:
    path = put(config, task, run, {"top1": entry(50.0, "%")}, "shapes")
    started = f"2026-01-01T00:00:0{started}+00:00"
    write_json(path, {**json.loads(path.read_text()), "seconds": seconds, "started": started, **more})


def sums(jobs: list[costs.RecordedJob]) -> tuple[int, float, float]:
    """Results, seconds, and those of the longest job."""
    return sum(job.results for job in jobs), sum(job.seconds for job in jobs), max(job.seconds for job in jobs)


def test_costs_are_summed_by_task_and_a_pass_of_many_runs_counts_once(bare: Config) -> None:
    config = load([Path("config/demo.yaml")], {"training": {"threads": 4}, "evaluation": {"workers": 3}})
    put_sidecars(config)
    for number, run in enumerate(config.runs[:4]):
        measured(config, "robustness/c", run, seconds=10.0 + number, started=number // 2)
    for run in config.runs[:3]:
        measured(config, "classification", run, seconds=600.0)
    measured(config, "detection/retinanet-untrained", RUN, seconds=7.0)
    for target in ("table_03", "table_04", "figure_01"):
        put_notebook(config, target)
    found = costs.recorded_jobs(gather(config))
    assert {task: sums(jobs) for task, jobs in found.items()} == {
        "training": (len(config.runs), 90.0 * len(config.runs), 90.0),
        "classification": (3, 1800.0, 600.0),
        "detection/retinanet": (1, 7.0, 7.0),
        # Of the two runs of a pass, the time until the last is that of the pass.
        "robustness/c": (4, 11.0 + 13.0, 13.0),
        "notebook table": (2, 3.0, 1.5),
        "notebook figure": (1, 1.5, 1.5),
    }
    # Cores are those that the configuration gives a job.
    assert sum(job.core_hours for job in found["classification"]) == pytest.approx(0.5 * 3)
    assert sum(job.core_hours for job in found["training"]) == pytest.approx(len(config.runs) * 90 / 3600 * 4)
    assert {job.gpu_hours for job in found["training"]} == {0} and {job.hardware for job in found["training"]} == {
        "Some Chip"
    }
    names = [job.made for job in costs.recorded_trainings(gather(config))]
    assert names == [str(run) for run in sorted(config.runs, key=lambda run: run.sort_key)]


def test_a_table_needs_networks_the_backbones_of_heads_and_metric_files(bare: Config) -> None:
    put_sidecars(bare)
    put_required("table_04", bare)
    job = next(job for job in bare.fine_tunings if job.task == "detection/retinanet" and job.metrics.exists())
    sidecar = bare.weights_path(job.run).with_suffix(".json")
    control = next(one for one in bare.fine_tunings if one.task == f"{job.task}-untrained" and one.metrics.exists())
    backbone = {"run": str(job.run), "md5": json.loads(sidecar.read_text())["md5"]}
    for one, md5, start in ((job, "d" * 32, backbone), (control, "e" * 32, None)):
        made = {**json.loads(sidecar.read_text()), "md5": md5, "backbone": start}
        write_json(one.weights.with_suffix(".json"), made)
        content = json.loads(one.metrics.read_text())
        write_json(one.metrics, {**content, "weights": {"md5": md5, "origin": "trained"}})
    results = gather(bare)
    page = next(page for page in all_pages(results) if page.name == "workflow.html")
    needs = {target.name: found for target, found in page.content["needs"]}
    assert (needs["table_04"]["network"], needs["table_04"]["fine-tuning"]) == (1, 2)
    table = next(target for target in results.targets if target.name == "table_04")
    files = {path for cell in table.cells for path in cell.files}
    tasks = Counter(results.metrics[path]["task"].removesuffix("-untrained") for path in files)
    assert {task: needs["table_04"][task] for task in tasks} == tasks
    assert page.content["made"]["tuning"] == {"detection/retinanet": 2}
    assert page.content["made"]["training"]["network"] == len(bare.runs)


@pytest.fixture
def two_scales(bare: Config) -> None:
    """Table III at two scales, with other accuracies on other data."""
    assert compare_scales(tabled_scales()) == []
    small = load([Path("config/small.yaml")])
    put_required("table_03", bare)
    build_table("table_03", bare)
    assert compare_scales(tabled_scales()) == []
    put_required("table_03", small, "cifar10")
    path = small.metric_path("classification", RUN)
    content = json.loads(path.read_text())
    content["metrics"]["top1"]["value"] = 73.05
    write_json(path, content)
    build_table("table_03", small)


def test_a_cell_stands_beside_itself_at_the_other_scale_with_its_data(two_scales: None) -> None:
    found = tabled_scales()
    assert [scale.name for scale in found] == ["demo", "small"]
    assert found[0].caption.startswith("demo scale: generated") and "CIFAR-10" in found[1].caption
    (comparison,) = compare_scales(found)
    lines = {(line["row"], line["column"]): line for line in comparison["lines"]}
    line = lines["VAN-LSKA-Tiny", "top-1, %"]
    (demo, data), small = line["cells"]
    assert (data, small, line["paper"]) == ("shapes", ("73.0 ± 1.5", "cifar10"), "75.0") and demo != small[0]
    # Counts that agree are told once.
    assert comparison["equal"] == 24 and all("top-1" in line["column"] for line in comparison["lines"])
    before = other_scales("demo"), other_scales("small")
    path = Path("results/small/tables/table_03.csv")
    path.write_text(path.read_text().replace("13.73", "13.99"))
    assert other_scales("demo") != before[0] and other_scales("small") == before[1]
    (after,) = compare_scales(found)
    assert after["equal"] < 24
    assert any(line["row"] == "VAN-LSKA-Small" and "Params" in line["column"] for line in after["lines"])
    # What is no number is shown as it is, and a cell without a value was not run.
    text = path.read_text()
    path.write_text(re.sub(r"(VAN-LSKA-Tiny,top-1.*?),73\.05,", r"\1,many,", text))
    assert path.read_text() != text
    (odd,) = compare_scales(found)
    assert any(cell and cell[0] == "many" for line in odd["lines"] for cell in line["cells"])
    path.write_text("a,b\n1,2\n")
    with pytest.raises(ValueError, match=r"results/small/tables/table_03\.csv: line 1: has no column .*'state'"):
        compare_scales(found)


def test_a_rendered_notebook_loads_nothing_and_shows_outputs_as_text(bare: Config) -> None:
    html = notebook_html(put_notebook(bare, "table_03", "a < b <script>alert(1)</script>"))
    assert "<script" not in html and "<link" not in html and "http" not in html
    assert "a &lt; b &lt;script&gt;alert(1)&lt;/script&gt;" in html
    assert "Notebook of table_03" in html


def test_the_command_makes_each_part(bare: Config, capsys: pytest.CaptureFixture[str]) -> None:
    put_notebook(bare, "table_03")
    put_notebook(bare, "figure_s1")
    assert main(["report", "notebooks"]) == 0
    assert main(["report"]) == 0
    rendered = [str(rendered_notebook(bare.results, name)) for name in ("table_03", "figure_s1")]
    assert capsys.readouterr().out.splitlines() == [*rendered, "results/demo/report/index.html"]
    for path in (bare.results / "notebooks").iterdir():
        path.unlink()
    assert main(["report", "notebooks"]) == 1
    assert "lska: error: results/demo/notebooks: no executed notebook here" in capsys.readouterr().err


def test_small_words() -> None:
    seconds = (0.04, 9.94, 35, 600, 3570, 7500)
    assert [duration(number) for number in seconds] == ["0.0 s", "9.9 s", "35 s", "10 min", "1 h 00 min", "2 h 05 min"]
    assert [hours(number) for number in (0, 0.0042, 0.028, 1.26, 1234.56)] == ["0", "< 0.01", "0.03", "1.26", "1,234.6"]
    assert unbroken("Params (exact, M)") == "Params (exact,\xa0M)" and unbroken("model") == "model"
    assert unbroken("top-1 (mean over many corruptions)") == "top-1 (mean over many corruptions)"
    assert minus("off by -0.27, -3 to 2 (by -1)") == "off by −0.27, −3 to 2 (by −1)"
    assert minus("van_tiny-lska-k23-s0 on 2026-01-02") == "van_tiny-lska-k23-s0 on 2026-01-02"
