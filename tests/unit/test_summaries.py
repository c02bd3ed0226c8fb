"""What DVC compares: numbers are those of the metric files, and only those that exist."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from proven import edit
from small_scale import copy_small, small_changes
from syrupy.assertion import SnapshotAssertion

from lska.audit.verify import verify_summaries
from lska.claims.summaries import HEADLINES, headlines, summary_files, summary_inputs, summary_needs, write_summaries
from lska.pipeline.products import Plan
from lska.provenance.files import read_yaml
from lska.provenance.metric_files import project_root
from lska.provenance.strict import merge
from lska.settings.scale import Config, load

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


def lines(name: str) -> list[dict[str, str]]:
    return list(csv.DictReader((PLOTS / name).open()))


def written() -> dict[Path, bytes]:
    """Everything that DVC compares, by its path."""
    folders = (SUMMARY.parent, PLOTS)
    return {path: path.read_bytes() for folder in folders for path in folder.rglob("*") if path.is_file()}


def test_the_committed_files_are_those_that_todays_code_makes(small: Config) -> None:
    committed = written()
    assert sorted(map(str, committed)) == sorted(summary_files(small))
    assert list(verify_summaries(small)) == []
    write_summaries(small)
    again = "lska summary --write --config config/small.yaml"
    assert [path for path, content in written().items() if content != committed[path]] == [], again


def test_each_number_is_that_of_its_metric_file_and_only_of_what_was_measured(small: Config) -> None:
    found = json.loads(SUMMARY.read_text())
    for task, name in {
        "classification": "top1", "robustness/c": "top1_mean_19", "detection/retinanet": "box_ap",
        "segmentation/semantic_fpn": "miou", "complexity": "params",
    }.items():  # fmt: skip
        place = found
        for part in task.split("/"):
            place = place[part]
        metrics = json.loads((METRICS / task / f"{RUN}.json").read_text())["metrics"]
        assert place == {metric: metrics[metric]["value"] for metric in HEADLINES[task].values()} and name in place
    assert not {"detection", "segmentation"} & set(json.loads(Path(str(SUMMARY).replace("k23", "k53")).read_text()))
    rows = lines("networks.csv")
    (row,) = (line for line in rows if line["run"] == RUN.replace("k23", "k53"))
    assert row["detection.retinanet.box_ap"] == "" and row["classification.top1"] == "75.86"
    series = [(line["series"], int(line["kernel"])) for line in rows]
    runs = sorted(small.runs, key=lambda run: run.sort_key)
    assert series == [(f"{run.model}-{run.attention}-s{run.seed}", run.kernel) for run in runs]


def test_records_of_trainings_are_told_line_by_line_with_their_validations(small: Config) -> None:
    found = [line for line in lines("detection/retinanet.csv") if line["series"] == RUN]
    records = [json.loads(line) for line in small.training_log(f"detection/retinanet/{RUN}").open()]
    assert [(float(line["loss"]), int(line["update"])) for line in found] == [(r["loss"], r["step"]) for r in records]
    trained = [line for line in lines("classification.csv") if line["series"] == RUN]
    assert [line["epoch"] for line in trained if line["validation_top1"]] == ["0", "1", "2", "3"]


def test_files_of_runs_that_a_scale_no_longer_has_go(small: Config) -> None:
    values = merge(read_yaml(Path("config/small.yaml")), small_changes(lambda run: run.kernel != 53))
    values.pop("segmentation")
    Path("fewer.yaml").write_text(json.dumps(values))
    fewer = load([Path("fewer.yaml")])
    assert [finding.file for finding in verify_summaries(fewer) if "has no such run or training" in finding.text] == [
        PLOTS / "segmentation" / "semantic_fpn.csv",
        *(SUMMARY.parent / f"{run}.json" for run in sorted(small.runs, key=str) if run.kernel == 53),
    ]
    write_summaries(fewer)
    assert sorted(map(str, written())) == sorted(summary_files(fewer))
    assert not any("segmentation" in path.read_text() for path in written())


def test_missing_and_faulty_files_are_named_and_nothing_is_written(small: Config, snapshot: SnapshotAssertion) -> None:
    before, record, metrics = written(), small.training_log(RUN), METRICS / "texture_knn" / f"{RUN}.json"
    edit(METRICS / "classification" / f"{RUN}.json", "metrics.top1.value", lambda value: 70.5, sealed=True)
    sound, found = {path: path.read_text() for path in (record, metrics)}, {}

    def said(path: Path, change: Callable[[str], str] | None) -> str:
        path.unlink() if change is None else path.write_text(change(sound[path]))
        with pytest.raises((ValueError, FileNotFoundError)) as caught:
            write_summaries(small)
        path.write_text(sound[path])
        return str(caught.value)

    damaged = (
        "{", '{"step": true, "epoch": 0, "loss": 2, "learning_rate": 1, "validation_top1": "high"}', "\u0000",
    )  # fmt: skip
    for line in damaged:
        found[line] = said(record, lambda text, line=line: f"{text}{line}\n")
    found["record"] = said(record, None)
    found["metric file"] = said(metrics, None)
    found["edited"] = said(metrics, lambda text: text.replace('"value": ', '"value": 1', 1)).partition(":")[0]
    assert found == snapshot
    assert written() == before


def test_every_task_has_headlines_and_a_summary_never_makes_the_pipeline_measure_or_train(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(project_root())
    file = Path("config/paper.yaml")
    plan = Plan(read_yaml(file), [file], {})
    tasks = {task for listed in summary_needs(plan.config).values() for task, _ in listed}
    assert {"classification", "complexity", "robustness/c", "detection/retinanet"} <= tasks
    assert all(headlines(task) for task in tasks)
    wanted = summary_inputs(plan.config, plan.names("complexity"))
    assert set(wanted) <= {*plan.accuracies(), *plan.files("complexity")}
    assert wanted == summary_inputs(plan.config) and len(wanted) == len(set(wanted)) > 30
    assert headlines("detection/retinanet-untrained") == headlines("detection/retinanet")
