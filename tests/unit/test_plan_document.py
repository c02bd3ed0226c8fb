"""The plan as a whole: its JSON form, its text, storage, and what the command refuses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from planned import plan

from lska.cli import main
from lska.planning import document as planning
from lska.planning.dag import Job, PlanningError, Request, planned_jobs
from lska.planning.document import Means, kind_of, make, uses_gpus
from lska.planning.storage import amounts, missing_roots
from lska.planning.text import WIDTH, duration, render, size
from lska.provenance import project_root, validate

RUN = "van_tiny-lka-k23-s42"
WEIGHTS = (f"checkpoints/paper/{RUN}.safetensors", f"checkpoints/paper/{RUN}.json")
TUNED = f"checkpoints/paper/detection/retinanet/{RUN}.safetensors"
SCORED = f"results/paper/metrics/classification/{RUN}.json"
RECORD = "results/paper/data/imagenet1k.json"

JOBS = [
    Job(0, "all", {}, (SCORED,), (), 1, 0, "", (3, 4)),
    Job(1, "data", {"name": "imagenet1k"}, (), (RECORD,), 1, 0, "Missing output files: x"),
    Job(2, "train", {"run": RUN}, (RECORD,), WEIGHTS, 36, 4, "Missing output files: x", (1,)),
    Job(3, "classification", {"run": RUN}, WEIGHTS, (SCORED,), 8, 1, "Missing output files: x", (2,)),
    Job(4, "fine_tune", {"task": "detection/retinanet", "run": RUN}, WEIGHTS, (TUNED,), 40, 8, "", (2,)),
    Job(5, "fetch", {"weights": RUN}, (), ("checkpoints/paper/other.safetensors",), 1, 0, "Missing output files: x"),
]
"""One network of the paper from its data to a detector, and one that is fetched."""


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The plan of `JOBS`."""
    return planned(monkeypatch)


def planned(monkeypatch: pytest.MonkeyPatch, jobs: list[Job] | None = None, **means: Any) -> dict[str, Any]:
    monkeypatch.chdir(project_root())
    monkeypatch.setattr(planning, "planned_jobs", lambda request, project: JOBS if jobs is None else jobs)
    return make(Request([Path("config/paper.yaml")], {}), Means(**means), Path.cwd())


def test_jobs_are_counted_by_what_they_do(made: dict[str, Any]) -> None:
    kinds = {kind: cost["jobs"] for kind, cost in made["kinds"].items() if cost["jobs"]}
    assert kinds == {"fetch": 1, "data": 1, "training": 1, "fine-tuning": 1, "evaluation": 1}
    assert made["totals"]["jobs"] == 5 and made["totals"]["unknown"] == 2
    assert [rule["rule"] for rule in made["rules"]] == ["fetch", "data", "train", "fine_tune", "classification"]


def test_gpu_hours_are_seconds_times_gpus_and_unknown_jobs_are_in_none(made: dict[str, Any]) -> None:
    by_id = {job["id"]: job for job in made["jobs"]}
    assert by_id[1]["estimate"] is None and by_id[5]["estimate"] is None
    expected = sum(by_id[id]["gpus"] * by_id[id]["estimate"]["seconds"] for id in (2, 3, 4)) / 3600
    assert made["totals"]["gpu_hours"]["value"] == pytest.approx(expected)
    assert made["kinds"]["training"]["gpu_hours"]["value"] == pytest.approx(155.4, abs=0.1)
    assert sum(one["gpu_hours"]["value"] for one in made["hardware"]) == pytest.approx(expected)


def test_the_wall_time_of_a_chain_is_its_length(made: dict[str, Any]) -> None:
    spent = {job["id"]: job["estimate"]["seconds"] for job in made["jobs"] if job["estimate"]}
    assert [wall["gpus"] for wall in made["wall"]] == [8, 16, 32]
    assert made["critical_path"]["value"] == pytest.approx(spent[2] + max(spent[3], spent[4]))
    # The detector needs all 8 GPUs, so that scoring has to wait for it or go before.
    assert made["wall"][0]["seconds"]["value"] == pytest.approx(spent[2] + spent[3] + spent[4])
    assert made["wall"][1]["seconds"]["value"] == pytest.approx(made["critical_path"]["value"])


def test_reasons_are_counted_without_the_names_that_differ(made: dict[str, Any]) -> None:
    reasons = {rule["rule"]: rule["reasons"] for rule in made["rules"]}
    assert reasons == {
        "fetch": {"missing": 1}, "data": {"not checked yet": 1}, "train": {"never trained": 1},
        "fine_tune": {"never trained": 1}, "classification": {"never measured": 1},
    }  # fmt: skip


def test_too_few_gpus_are_said_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    made = planned(monkeypatch, gpus=4)
    assert made["wall"][0]["seconds"] is None and made["wall"][0]["unfit"] == [4]
    assert "wall time at 4 GPUs" in render(made)
    assert "not possible: 1 job asking for up to 8; lower `gpus`" in render(made)


def test_too_few_starts_are_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(project_root())
    monkeypatch.setattr(planning, "planned_jobs", lambda request, project: JOBS)
    request = Request([Path("config/paper.yaml")], {"training": {"hours": 1, "attempts": 3}})
    made = make(request, Means(), Path.cwd())
    assert made["over_budget"] == [2]
    assert "1 job with more starts than allowed, up to 39 of 1 h where 3 are" in render(made)


def test_weights_and_states_follow_from_exact_parameters(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(project_root())
    found = {one.what: one for one in amounts(plan("paper"), JOBS, lambda network: 1000)}
    assert found["weights"].bytes == 2 * 4 * 1000
    assert found["training states"].bytes == 2 * 2 * 4 * 1000 * 3
    averaged = plan("paper", {"training": {"overrides": {"switches": {"averaging": "corrected"}}}})
    found = {one.what: one for one in amounts(averaged, JOBS, lambda network: 1000)}
    assert found["training states"].bytes == 2 * 4 * 1000 * (4 + 3)


def test_predictions_take_twenty_bytes_for_each_image_and_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(project_root())
    made = plan("paper")
    one = next(one for one in made.passes if one.item.name == "a")
    job = Job(0, one.name, {}, (), tuple(map(str, one.outputs)), 8, 1, "")
    found = {amount.what: amount for amount in amounts(made, [job], lambda network: 0)}
    # Outputs restricted to the set's classes, and those that are not.
    assert found["predictions"].bytes == 7500 * 2 * 20 * len(one.runs)


def test_data_that_are_not_here_name_their_setting(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(project_root())
    names = ("imagenet1k", "imagenet_c", "coco2017", "dtd")
    jobs = [Job(0, "data", {"name": name}, (), (f"results/paper/data/{name}.json",), 1, 0, "") for name in names]
    (tmp_path / "train2017").mkdir()
    made = plan("paper", {"detection": {"data": {"root": str(tmp_path)}}})
    settings = {one.name: one.setting for one in missing_roots(made, jobs)}
    assert settings == {
        "imagenet1k": "data.root", "imagenet_c": "robustness.sets.c.root", "dtd": "texture_knn.data.root"
    }  # fmt: skip
    generated = Job(0, "data", {"name": "shapes"}, (), ("results/demo/data/shapes.json",), 1, 0, "")
    assert missing_roots(plan("demo"), [generated]) == []


def test_the_text_fits_a_terminal_and_names_what_it_rests_on(made: dict[str, Any]) -> None:
    text = render(made, jobs=True)
    assert max(map(len, text.splitlines())) <= WIDTH
    for part in (
        "Target all: 5 jobs", "NVIDIA Tesla V100", "VAN paper", "never trained", "data.root: data/imagenet1k",
        "keeps 100 % of its throughput", "nothing like it was measured: 2 of the jobs",
        f"train {RUN}: 38.9 hours on 4 GPUs, 2 starts; never trained",
    ):  # fmt: skip
        assert part in " ".join(text.split()), part


def test_nothing_to_do_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    made = planned(monkeypatch, [])
    assert "Target all: nothing to do" in render(made) and made["totals"]["jobs"] == 0
    assert made["wall"][0]["seconds"]["value"] == 0


@pytest.mark.parametrize(
    ("rule", "kind"),
    [
        ("fetch", "fetch"), ("data", "data"), ("robustness_c_0", "evaluation"), ("complexity_retinanet", "counting"),
        ("notebook_table_03", "tables"), ("speed", "evaluation"), ("claims", "other"),
    ],
)  # fmt: skip
def test_every_rule_has_a_kind(rule: str, kind: str) -> None:
    assert kind_of(rule, ["robustness_c_0"]) == kind


def test_scales_say_whether_they_use_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(project_root())
    assert [uses_gpus(plan(scale).config) for scale in ("demo", "small", "paper")] == [False, False, True]
    assert uses_gpus(plan("demo", {"robustness": {"evaluation": {"gpus": 1}}}).config)


def test_the_json_form_keeps_its_schema(made: dict[str, Any]) -> None:
    validate(json.loads(json.dumps(made)), "plan", "the plan")
    with pytest.raises(ValueError, match=r"jobs\[0\].gpus"):
        validate({**made, "jobs": [{**made["jobs"][0], "gpus": -1}]}, "plan", "the plan")
    with pytest.raises(ValueError, match="'totals' is a required property"):
        validate({key: value for key, value in made.items() if key != "totals"}, "plan", "the plan")


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(1.2, "1 second"), (119, "119 seconds"), (120, "2.0 minutes"), (7200, "2.0 hours"), (86400 * 54, "54.0 days")],
)
def test_durations_have_a_unit_that_suits_them(seconds: float, text: str) -> None:
    assert duration(seconds) == text


@pytest.mark.parametrize(("number", "text"), [(12, "12 B"), (13_545_272, "13.5 MB"), (None, "unknown")])
def test_sizes_have_a_unit_that_suits_them(number: int | None, text: str) -> None:
    assert size(number) == text


def test_a_folder_without_a_snakefile_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no Snakefile"):
        planned_jobs(Request([Path("config/demo.yaml")], {}), tmp_path)


def test_what_snakemake_says_against_a_target_is_passed_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], logging_as_before: None
) -> None:
    (tmp_path / "Snakefile").write_text('rule all:\n    output: "a.txt"\n    shell: "touch a.txt"\n')
    (tmp_path / "mine.yaml").write_text("{}")
    with pytest.raises(PlanningError, match="No rule to produce table_99"):
        planned_jobs(Request([tmp_path / "mine.yaml"], {}, ["table_99"]), tmp_path)
    monkeypatch.chdir(tmp_path)
    assert main(["plan", "--config", "mine.yaml"]) == 1
    assert "lska: error: mine.yaml" in capsys.readouterr().err


@pytest.mark.parametrize("number", ["0", "-2", "many"])
def test_a_number_of_gpus_is_positive(capsys: pytest.CaptureFixture[str], number: str) -> None:
    with pytest.raises(SystemExit):
        main(["plan", f"--gpus={number}"])
    assert f"expected a whole number from 1 to 1,000,000, found '{number}'" in capsys.readouterr().err


def test_jobs_and_their_order_come_from_snakemake(tmp_path: Path) -> None:
    (tmp_path / "Snakefile").write_text(
        'rule b:\n    input: "a.txt"\n    output: "b {run}.txt"\n    threads: 3\n'
        '    resources: gpu=2\n    shell: "touch"\n'
        'rule a:\n    output: "a.txt"\n    shell: "touch"\n'
    )
    (tmp_path / "mine.yaml").write_text("{}")
    before = sorted(path.name for path in tmp_path.iterdir())
    jobs = planned_jobs(Request([tmp_path / "mine.yaml"], {"k": {"v": 1.5}}, ["b x.txt"]), tmp_path)
    (first,) = (job for job in jobs if job.rule == "a")
    (second,) = (job for job in jobs if job.rule == "b")
    assert second.needs == (first.id,) and first.needs == ()
    assert (second.wildcards, second.threads, second.gpus) == ({"run": "x"}, 3, 2)
    assert second.outputs == ("b x.txt",) and "b x.txt" in second.reason
    assert sorted(path.name for path in tmp_path.iterdir()) == before
    scaled = planned_jobs(Request([tmp_path / "mine.yaml"], {}, ["b x.txt"], cores=2), tmp_path)
    assert {job.rule: job.threads for job in scaled} == {"a": 1, "b": 2}
