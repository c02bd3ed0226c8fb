"""The plan as a whole: its JSON form and schema, its text, bounds of the wall time, and what the command refuses."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator
from syrupy.assertion import SnapshotAssertion

from lska.cli import main
from lska.pipeline import plan_report
from lska.pipeline.dry_run import DryRun, PlanningError, SnakemakeJob, planned_jobs
from lska.pipeline.plan_report import (
    WIDTH,
    JobPlan,
    PlanReport,
    WallBound,
    job_kind,
    longest_chain,
    make_report,
    render_plan,
    report_schema,
    size_text,
    time_text,
    wall_bound,
)
from lska.pipeline.throughput import TimeEstimate
from lska.provenance.metric_files import project_root

RUN = "van_tiny-lka-k23-s42"
WEIGHTS = (f"checkpoints/paper/{RUN}.safetensors", f"checkpoints/paper/{RUN}.json")
TUNED = f"checkpoints/paper/detection/retinanet/{RUN}.safetensors"
SCORED = f"results/paper/metrics/classification/{RUN}.json"
RECORD = "results/paper/data/imagenet1k.json"

JOBS = [
    SnakemakeJob(0, "all", {}, (SCORED,), (), 1, 0, "", (3, 4)),
    SnakemakeJob(1, "data", {"name": "imagenet1k"}, (), (RECORD,), 1, 0, "Missing output files: x"),
    SnakemakeJob(2, "train", {"run": RUN}, (RECORD,), WEIGHTS, 36, 4, "Missing output files: x", (1,)),
    SnakemakeJob(3, "classification", {"run": RUN}, WEIGHTS, (SCORED,), 8, 1, "Missing output files: x", (2,)),
    SnakemakeJob(4, "fine_tune", {"task": "detection/retinanet", "run": RUN}, WEIGHTS, (TUNED,), 40, 8, "", (2,)),
    SnakemakeJob(5, "fetch", {"weights": RUN}, (), ("checkpoints/o.safetensors",), 1, 0, "Missing output files: x"),
]  # fmt: skip
"""One network of the paper from its data to a detector, and one that is fetched."""


def report(
    monkeypatch: pytest.MonkeyPatch, jobs: list[SnakemakeJob] = JOBS, changes: dict[str, object] | None = None,
    gpus: int | None = None,
) -> PlanReport:  # fmt: skip
    monkeypatch.chdir(project_root())
    monkeypatch.setattr(plan_report, "planned_jobs", lambda asked, project: jobs)
    return make_report(DryRun([Path("config/paper.yaml")], changes or {}), Path.cwd(), gpus)


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> PlanReport:
    """The plan of `JOBS`."""
    return report(monkeypatch)


def test_jobs_are_counted_by_what_they_do(made: PlanReport) -> None:
    kinds = {kind: cost.jobs for kind, cost in made.kinds.items() if cost.jobs}
    assert kinds == {"fetch": 1, "data": 1, "training": 1, "fine-tuning": 1, "evaluation": 1}
    assert made.totals.jobs == 5 and made.totals.unknown == 2
    # Reasons are counted without the names that differ.
    assert {rule.rule: rule.reasons for rule in made.rules} == {
        "fetch": {"missing": 1}, "data": {"not checked yet": 1}, "train": {"never trained": 1},
        "fine_tune": {"never trained": 1}, "classification": {"never measured": 1},
    }  # fmt: skip
    names = ("fetch", "data", "complexity_retinanet", "notebook_table_03", "speed", "claims", "robustness_c_0")
    assert [job_kind(name) for name in names] == [
        "fetch", "data", "counting", "tables", "evaluation", "other", "other",
    ]  # fmt: skip
    assert job_kind("robustness_c_0", a_pass=True) == "evaluation"


def test_gpu_hours_are_seconds_times_gpus_and_unknown_jobs_are_in_none(made: PlanReport) -> None:
    by_id = {job.id: job for job in made.jobs}
    assert by_id[1].estimate is None and by_id[5].estimate is None
    expected = sum(by_id[id].gpus * by_id[id].estimate.seconds for id in (2, 3, 4)) / 3600
    assert made.totals.gpu_hours.value == pytest.approx(expected)
    assert made.kinds["training"].gpu_hours.value == pytest.approx(155.4, abs=0.1)
    assert sum(one.gpu_hours.value for one in made.hardware.values()) == pytest.approx(expected)


def test_the_wall_time_is_no_less_than_the_longest_chain_and_all_work_spread(made: PlanReport) -> None:
    spent = {job.id: job.estimate.seconds for job in made.jobs if job.estimate}
    chain = spent[2] + max(spent[3], spent[4])
    work = 4 * spent[2] + spent[3] + 8 * spent[4]
    assert [wall.gpus for wall in made.wall] == [8, 16, 32]
    assert made.critical_path.value == pytest.approx(chain)
    assert [wall.seconds.value for wall in made.wall] == [pytest.approx(max(chain, work / n)) for n in (8, 16, 32)]


def timed(number: int, seconds: float, gpus: int, threads: int, needs: list[int]) -> JobPlan:
    estimate = TimeEstimate(seconds, seconds, seconds, ())
    return JobPlan(number, "x", "other", {}, "", "", needs, gpus, threads, ["o"], estimate, None)


def test_bounds_by_hand() -> None:
    jobs = [timed(number, 10.0, 1, 2, []) for number in range(5)]
    assert wall_bound(jobs, 2, None).seconds.value == 25.0
    assert wall_bound(jobs, 10, None).seconds.value == 10.0
    assert wall_bound(jobs, 10, 4).seconds.value == 25.0
    assert wall_bound([timed(0, 1.0, 8, 1, []), timed(1, 1.0, 2, 1, [])], 4, None) == WallBound(4, None, None, [0])
    assert longest_chain([timed(0, 5.0, 1, 1, []), timed(1, 7.0, 1, 1, []), timed(2, 5.0, 1, 1, [0])]) == 10.0
    assert longest_chain([]) == 0.0


@given(st.lists(st.tuples(st.floats(0, 100), st.integers(0, 4), st.integers(1, 8)), max_size=12), st.data())
def test_no_order_of_the_jobs_beats_the_bound(shapes: list[tuple[float, int, int]], data: st.DataObject) -> None:
    """Against jobs started one by one as soon as they fit, in the order of their numbers."""
    gpus, cores = data.draw(st.integers(4, 9)), data.draw(st.integers(8, 16))
    jobs = [timed(n, *shape, sorted(data.draw(st.sets(st.integers(0, n - 1), max_size=3))) if n else [])
            for n, shape in enumerate(shapes)]  # fmt: skip
    ends: dict[int, tuple[float, float]] = {}
    for job in jobs:
        moments = sorted({0.0, *(end for _, end in ends.values())})
        for start in (moment for moment in moments if all(ends[need][1] <= moment for need in job.needs)):
            busy = [jobs[n] for n, (begun, end) in ends.items() if end > start]  # also those that begin later
            if sum(one.gpus for one in busy) + job.gpus <= gpus and sum(o.threads for o in busy) + job.threads <= cores:
                break
        ends[job.id] = (start, start + job.estimate.seconds)
    assert wall_bound(jobs, gpus, cores).seconds.value <= max((end for _, end in ends.values()), default=0.0) + 1e-9


def test_the_text(monkeypatch: pytest.MonkeyPatch, snapshot: SnapshotAssertion) -> None:
    """As a summary with a line per job, for too few GPUs and starts, and where there is nothing to do."""
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    texts = {
        "with jobs": render_plan(report(monkeypatch), jobs=True),
        "too few GPUs and starts": render_plan(
            report(monkeypatch, changes={"training": {"hours": 1, "attempts": 3}}, gpus=4)
        ),
        "nothing to do": render_plan(report(monkeypatch, [])),
    }
    assert max(len(line) for text in texts.values() for line in text.splitlines()) <= WIDTH
    assert texts == snapshot


def test_numbers_have_a_unit_that_suits_them() -> None:
    seconds = {1.2: "1 second", 119: "119 seconds", 120: "2.0 minutes", 7200: "2.0 hours", 86400 * 54: "54.0 days",
               86400 * 200: "200 days"}  # fmt: skip
    assert {value: time_text(value) for value in seconds} == seconds
    sizes = {12: "12 B", 13_545_272: "13.5 MB", 2e15: "2000.0 TB", None: "unknown"}
    assert {value: size_text(value) for value in sizes} == sizes


def test_data_that_are_not_here_name_their_setting(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    names = ("imagenet1k", "imagenet_c", "coco2017", "dtd")
    jobs = [replace(JOBS[1], id=number, wildcards={"name": name}, outputs=(f"results/paper/data/{name}.json",))
            for number, name in enumerate(names)]  # fmt: skip
    (tmp_path / "train2017").mkdir()
    made = report(monkeypatch, jobs, {"detection": {"data": {"root": str(tmp_path)}}})
    settings = {one.name: one.setting for one in made.missing_data}
    assert settings == {
        "imagenet1k": "data.root", "imagenet_c": "robustness.sets.c.root", "dtd": "texture_knn.data.root"
    }  # fmt: skip


def test_without_gpus_the_cores_of_this_machine_count_and_threads_are_scaled_down(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 3)
    made = report(monkeypatch, [replace(JOBS[1], threads=8)])
    assert [(wall.gpus, wall.cores) for wall in made.wall] == [(0, 3)] and made.jobs[0].threads == 3


def test_the_json_form_keeps_its_schema(made: PlanReport, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "--schema"]) == 0
    schema = json.loads(capsys.readouterr().out)
    assert schema == report_schema()
    validator, document = Draft202012Validator(schema), json.loads(json.dumps(asdict(made)))
    assert not list(validator.iter_errors(document))
    document["jobs"][0]["kind"] = "dreaming"
    del document["totals"]
    assert len(list(validator.iter_errors(document))) == 2
    assert "in the project's terms" in schema["$defs"]["JobPlan"]["properties"]["reason"]["description"]


def test_what_snakemake_says_against_a_target_is_passed_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], logging_as_before: None
) -> None:
    with pytest.raises(ValueError, match="no Snakefile"):
        planned_jobs(DryRun([Path("config/demo.yaml")], {}), tmp_path)
    (tmp_path / "Snakefile").write_text('rule all:\n    output: "a.txt"\n    shell: "touch a.txt"\n')
    (tmp_path / "mine.yaml").write_text("{}")
    with pytest.raises(PlanningError, match="No rule to produce table_99"):
        planned_jobs(DryRun([tmp_path / "mine.yaml"], {}, ["table_99"]), tmp_path)
    monkeypatch.chdir(tmp_path)
    assert main(["plan", "--config", "mine.yaml"]) == 1
    assert "lska: error: mine.yaml" in capsys.readouterr().err


def test_jobs_and_their_order_come_from_snakemake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "Snakefile").write_text(
        'rule b:\n    input: "results/a.txt"\n    output: "results/b {run}.txt"\n    threads: 3\n'
        '    resources: gpu=2\n    shell: "touch"\n'
        'rule a:\n    output: "results/a.txt"\n    shell: "touch"\n'
    )
    (tmp_path / "mine.yaml").write_text("{}")
    before = sorted(path.name for path in tmp_path.iterdir())
    asked = DryRun([tmp_path / "mine.yaml"], {"k": {"v": 1.5}}, ["results/b x.txt"])
    jobs = {job.rule: job for job in planned_jobs(asked, tmp_path)}
    assert jobs["b"].needs == [jobs["a"].id] and jobs["a"].needs == []
    assert (jobs["b"].wildcards, jobs["b"].threads, jobs["b"].gpus) == ({"run": "x"}, 3, 2)
    assert jobs["b"].outputs == ["results/b x.txt"] and "b x.txt" in jobs["b"].reason
    assert sorted(path.name for path in tmp_path.iterdir()) == before
    (tmp_path / "results").mkdir()
    for name in ("a.txt", "b x.txt"):
        (tmp_path / "results" / name).touch()
    with monkeypatch.context() as patch:
        patch.setattr(os, "access", lambda *asked: False)  # as in a checkout that may only be read
        assert planned_jobs(asked, tmp_path) == []
    for changes, rules in (({"forced": ["b"]}, ["b"]), ({"from_nothing": True}, ["a", "b"])):
        assert sorted(job.rule for job in planned_jobs(replace(asked, **changes), tmp_path)) == rules
