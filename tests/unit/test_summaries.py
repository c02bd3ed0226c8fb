"""What DVC compares: numbers are those of the metric files, and only those that exist."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
from proven import edit
from small_scale import copy_small

from lska import summaries
from lska.audit.verify import verify_summaries
from lska.cli import main
from lska.config import Config, load
from lska.files import read_yaml
from lska.headlines import HEADLINES, headlines
from lska.provenance import project_root
from lska.runs import Run
from lska.strict import merge
from lska.summaries.contents import write
from lska.tables import TARGETS, load_spec
from lska.workflow import Plan

RUN = "van_tiny-lska-k23-s0"
METRICS = Path("results/small/metrics")
SUMMARY = Path(f"results/small/summary/{RUN}.json")
PLOTS = Path("results/small/plots")


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Config:
    """The small scale as the working folder."""
    copy_small(tmp_path)
    monkeypatch.chdir(tmp_path)
    return load([Path("config/small.yaml")])


def lines(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(path.open()))


def written() -> dict[Path, bytes]:
    """Everything that DVC compares, by its path."""
    folders = (SUMMARY.parent, PLOTS)
    return {path: path.read_bytes() for folder in folders for path in folder.rglob("*") if path.is_file()}


def test_the_committed_files_are_those_that_todays_code_makes(small: Config) -> None:
    committed = written()
    assert sorted(map(str, committed)) == sorted(summaries.outputs(small))
    write(small)
    again = "lska summary --write --config config/small.yaml"
    assert [path for path, content in written().items() if content != committed[path]] == [], again


def test_each_number_is_that_of_its_metric_file(small: Config) -> None:
    found = json.loads(SUMMARY.read_text())
    for task, value in {
        "classification": found["classification"]["top1"],
        "robustness/c": found["robustness"]["c"]["top1_mean_19"],
        "detection/retinanet": found["detection"]["retinanet"]["box_ap"],
        "segmentation/semantic_fpn": found["segmentation"]["semantic_fpn"]["miou"],
        "complexity": found["complexity"]["params"],
    }.items():
        metrics = json.loads((METRICS / task / f"{RUN}.json").read_text())["metrics"]
        assert value in [metrics[name]["value"] for name in HEADLINES[task].values()], task


def test_a_run_has_no_number_of_what_it_was_not_measured_for(small: Config) -> None:
    found = json.loads((SUMMARY.parent / "van_tiny-lska-k53-s0.json").read_text())
    assert "detection" not in found and "segmentation" not in found
    row = next(line for line in lines(PLOTS / "networks.csv") if line["run"] == "van_tiny-lska-k53-s0")
    assert row["detection.retinanet.box_ap"] == "" and row["classification.top1"] == "72.45"


def test_a_number_that_a_metric_file_lacks_is_left_out(small: Config) -> None:
    edit(METRICS / "robustness" / "c" / f"{RUN}.json", "metrics.mce_15.value", lambda value: None, sealed=True)
    write(small)
    assert list(json.loads(SUMMARY.read_text())["robustness"]["c"]) == ["top1_mean_19"]
    assert "null" not in SUMMARY.read_text()


def test_a_changed_metric_changes_the_number_of_its_run_alone(small: Config) -> None:
    before = written()
    edit(METRICS / "classification" / f"{RUN}.json", "metrics.top1.value", lambda value: 70.5, sealed=True)
    write(small)
    changed = {path for path, content in written().items() if content != before[path]}
    assert changed == {SUMMARY, PLOTS / "networks.csv"}
    assert json.loads(SUMMARY.read_text())["classification"]["top1"] == 70.5


def test_series_by_kernel_size_are_in_the_order_of_tables(small: Config) -> None:
    found = [(line["series"], int(line["kernel"])) for line in lines(PLOTS / "networks.csv")]
    assert found == [(f"van_tiny-{name}-s0", k) for name in ("lka", "lska") for k in (7, 23, 53)]


def test_records_of_trainings_are_told_line_by_line(small: Config) -> None:
    found = [line for line in lines(PLOTS / "detection" / "retinanet.csv") if line["series"] == RUN]
    records = [json.loads(line) for line in small.training_log(f"detection/retinanet/{RUN}").open()]
    assert [float(line["loss"]) for line in found] == [record["loss"] for record in records]
    assert [int(line["update"]) for line in found] == [record["step"] for record in records]
    assert set(found[0]) == {"series", "update", "epoch", "loss", "learning_rate"}


def test_validation_is_told_where_a_record_has_it(small: Config) -> None:
    found = [line for line in lines(PLOTS / "classification.csv") if line["series"] == RUN]
    validated = [line for line in found if line["validation_top1"]]
    assert [line["epoch"] for line in validated] == ["0", "1", "2", "3"]
    top1 = json.loads((METRICS / "classification" / f"{RUN}.json").read_text())["metrics"]["top1"]["value"]
    assert float(validated[-1]["validation_top1"]) == pytest.approx(top1, abs=0.1)


def test_files_of_runs_that_a_scale_no_longer_has_go(small: Config) -> None:
    runs = [{"model": "van_tiny", "attention": ["lka", "lska"], "kernel": [7, 23], "seed": 0}]
    sections = ("robustness", "shape_texture", "texture_knn", "receptive_field")
    changes = {"runs": runs, "segmentation": None} | {name: {"runs": runs} for name in sections}
    values = {**merge(read_yaml(Path("config/small.yaml")), changes)}
    values.pop("segmentation")
    Path("fewer.yaml").write_text(json.dumps(values))
    fewer = load([Path("fewer.yaml")])
    assert [finding.file for finding in verify_summaries(fewer) if "has no such run or training" in finding.text] == [
        PLOTS / "segmentation" / "semantic_fpn.csv",
        *(SUMMARY.parent / f"van_tiny-{name}-k53-s0.json" for name in ("lka", "lska")),
    ]
    write(fewer)
    assert sorted(map(str, written())) == sorted(summaries.outputs(fewer))
    assert not any("segmentation" in path.read_text() for path in written())


def test_a_missing_metric_file_is_named_and_nothing_is_written(
    small: Config, capsys: pytest.CaptureFixture[str]
) -> None:
    before, gone = written(), METRICS / "texture_knn" / f"{RUN}.json"
    edit(METRICS / "classification" / f"{RUN}.json", "metrics.top1.value", lambda value: 70.5, sealed=True)
    gone.unlink()
    assert main(["summary", "--write", "--config", "config/small.yaml"]) == 1
    said = capsys.readouterr().err
    assert f"lska: error: {gone}: metric file missing" in said and "--configfile config/small.yaml" in said
    assert written() == before


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("{", "line 1, column 2: not valid JSON"), ("[]", "expected a mapping, found a list"),
        ('{"step": 1, "epoch": 0, "loss": 2}', "expected numbers for 'learning_rate'"),
        ('{"step": "1", "epoch": 0, "loss": 2, "learning_rate": 1}', "expected numbers for 'step'"),
        ("[" * 100_000, "nested more than 64 deep"), ("\u0000", "has a NUL character"),
    ],  # fmt: skip
)
def test_a_damaged_record_is_named_and_nothing_is_written(small: Config, line: str, problem: str) -> None:
    before, path = written(), small.training_log(RUN)
    path.write_text(path.read_text() + line + "\n")
    with pytest.raises(ValueError, match=rf"{path}: (line 227: )?.*{problem}"):
        write(small)
    path.unlink()
    with pytest.raises(FileNotFoundError, match=f"{path}: the record of a training is missing; restore it"):
        write(small)
    assert written() == before


def test_an_edited_metric_file_is_refused(small: Config) -> None:
    before = written()
    path = METRICS / "texture_knn" / f"{RUN}.json"
    edit(path, "metrics.top1_cosine.value", lambda value: value + 1)
    with pytest.raises(ValueError, match=f"{path}: field 'seal'"):
        write(small)
    assert written() == before


def test_every_task_of_every_scale_has_headlines_that_its_tables_show(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(project_root())
    specs = [load_spec(target) for target in TARGETS]
    columns = [(row, column) for spec in specs for row in spec.rows for column in spec.columns]
    shown = {(column.task, column.metric) for _, column in columns}
    shown |= {
        (column.task.format(head=head), column.metric)
        for row, column in columns if "{head}" in column.task for head in row.values.get("head", ())
    }  # fmt: skip
    for scale in ("demo", "small", "paper"):
        config = load([Path(f"config/{scale}.yaml")])
        tasks = {task for listed in summaries.needs(config).values() for task, _ in listed}
        assert {"classification", "complexity", "robustness/c", "detection/retinanet"} <= tasks
        for task in tasks:
            assert headlines(task), task
    # No table of the paper has a top-5 accuracy.
    chosen = {(task, metric) for task, names in HEADLINES.items() for metric in names.values()}
    assert chosen - shown == {("classification", "top5")}


def test_a_control_has_the_headlines_of_its_task_and_throughput_has_none() -> None:
    assert headlines("detection/retinanet-untrained") == headlines("detection/retinanet")
    with pytest.raises(KeyError):
        headlines("speed")


def test_what_the_rule_needs_is_measured_anyway(monkeypatch: pytest.MonkeyPatch) -> None:
    """A summary never makes the pipeline measure, count or train anything."""
    monkeypatch.chdir(project_root())
    for scale in ("demo", "small", "paper"):
        file = Path(f"config/{scale}.yaml")
        plan = Plan(read_yaml(file), [file], {})
        wanted = summaries.inputs(plan.config, plan.names("complexity"))
        assert set(wanted) <= {*plan.accuracies(), *plan.files("complexity")}
        assert wanted == summaries.inputs(plan.config) and len(wanted) == len(set(wanted)) > 30


def test_every_run_and_control_of_the_demo_has_a_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(project_root())
    config = load([Path("config/demo.yaml")])
    listed = summaries.needs(config)
    assert set(config.runs) <= set(listed) and not set(config.references) & set(listed)
    control = ("detection/retinanet-untrained", Run.parse(RUN))
    assert control in listed[Run.parse(RUN)]
    assert "results/demo/plots/detection/retinanet-untrained.csv" in summaries.outputs(config)
