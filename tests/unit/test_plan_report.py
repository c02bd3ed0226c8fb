"""The plan: hours by hand and from records, bounds of the wall time, reasons, its text, wrong files."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path
from statistics import median

import pytest
import yaml
from plan_helpers import plan
from syrupy.assertion import SnapshotAssertion

from lska.models.runs import Run
from lska.pipeline import plan_report
from lska.pipeline.dry_run import PlanningError, SnakemakeJob, planned_jobs
from lska.pipeline.estimate import (
    OWN,
    PUBLISHED,
    Assumptions,
    PlannedNetwork,
    Throughput,
    Throughputs,
    Workload,
    expected_seconds,
    images_in,
    known_throughputs,
    updates_of,
    workloads,
)
from lska.pipeline.plan_report import JobPlan, PlanReport, longest_chain, make_report, render_plan, wall_seconds
from lska.provenance.metric_files import outcomes_path, project_root

RUN = "van_tiny-lka-k23-s42"
KNOWN = Run.parse(RUN)
"""VAN-B0, whose throughput is in the table."""
WEIGHTS = (f"checkpoints/paper/{RUN}.safetensors", f"checkpoints/paper/{RUN}.json")
TUNED = f"checkpoints/paper/detection/retinanet/{RUN}.safetensors"
SCORED = f"results/paper/metrics/classification/{RUN}.json"
RECORD = "results/paper/data/imagenet1k.json"
WHY = "Missing output files: x"
JOBS = [
    SnakemakeJob(0, "all", {}, (SCORED,), (), 1, 0, "", (3, 4)),
    SnakemakeJob(1, "data", {"name": "imagenet1k"}, (), (RECORD,), 1, 0, WHY),
    SnakemakeJob(2, "train", {"run": RUN}, (RECORD,), WEIGHTS, 36, 4, WHY, (1,)),
    SnakemakeJob(3, "classification", {"run": RUN}, WEIGHTS, (SCORED,), 8, 1, WHY, (2,)),
    SnakemakeJob(4, "fine_tune", {"task": "detection/retinanet", "run": RUN}, WEIGHTS, (TUNED,), 40, 8, "", (2,)),
    SnakemakeJob(5, "notebook_table_03", {}, (SCORED,), ("t.csv",), 1, 0, f"{WHY}, y; Updated input files: z"),
]  # fmt: skip
"""One network of the paper from its data to a detector, and a table."""


@pytest.fixture(autouse=True)
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(project_root())


@pytest.fixture
def report(monkeypatch: pytest.MonkeyPatch):
    """The plan of jobs at paper scale on a machine of three cores."""

    def make(jobs: list[SnakemakeJob] = JOBS, gpus: int | None = None) -> PlanReport:
        monkeypatch.setattr(plan_report, "planned_jobs", lambda *asked: jobs)
        monkeypatch.setattr(os, "cpu_count", lambda: 3)
        return make_report([Path("config/paper.yaml")], {}, (), gpus)

    return make


def job(rule: str, **wildcards: str) -> SnakemakeJob:
    return SnakemakeJob(0, rule, wildcards, (), ("out",), 1, 0, WHY)


def test_hours_by_hand() -> None:
    made, known = plan("paper"), known_throughputs(plan("paper").config)

    def seconds(rule: str, **wildcards: str) -> list[float]:
        return [known.spent(work)[0] for work in workloads(made, job(rule, **wildcards))]

    # 2140 images/s forward on one card: a third of it in training, on 4; 31 validations on one.
    updates = 1_281_167 // 512 * 310
    assert seconds("train", run=RUN) == pytest.approx([updates * 512 / (2140 / 3 * 4), 31 * 50_000 / 2140], rel=1e-3)
    assert seconds("classification", run=RUN) == pytest.approx([50_000 / 2140], rel=1e-3)
    # 168.5 GMACs at 1280x800, at 4:3 and 800 pixels high; ResNet-50's 161.0 GMACs ran at 78.05 images/s on 8 cards.
    cost = 168.5051392 * 1067 * 800 / (1280 * 800)
    expected = 118_287 // 16 * 12 * 16 / (78.05 * 161.01 / cost)
    assert seconds("fine_tune", task="detection/retinanet", run=RUN) == pytest.approx([expected], rel=1e-3)
    (scored,) = workloads(made, job("dense", task="segmentation/semantic_fpn", run=RUN))
    assert (scored.images, scored.network.pixels) == (2000, 683 * 512)
    assert updates_of(made.job("segmentation/semantic_fpn", RUN)) == (0, 80_000)
    # 19 corruptions at 5 severities and the clean images, for each network of a pass.
    one = next(one for one in made.passes if one.item.name == "c" and KNOWN in one.runs)
    assert [work.images for work in workloads(made, job(one.name))] == [96 * 50_000] * len(one.runs)
    field = workloads(made, job(next(one.name for one in made.passes if one.item.name == "receptive_field")))[0]
    assert (field.images, field.network.pixels, field.mode) == (100, 1024**2, "training")
    assert workloads(made, job("data", name="imagenet1k")) == workloads(made, job("something_new")) == []


def test_sets_have_as_many_images_as_records_and_manifests_say(project) -> None:
    images = project.config().images
    assert images_in(images, "train") == 76
    images.record.write_text(json.dumps({"splits": {"train": 33, "val": 4}}))
    assert images_in(images, "train") == 33
    os.chdir(project_root())
    assert {kind: images_in(data, "test") for kind, data in plan("paper").config.sources[3:]} == {
        "c": 96 * 50_000, "c_bar": 50 * 50_000, "a": 7_500, "r": 30_000, "sketch": 50_889, "shape_texture": 1_280,
        "texture_knn": 5_640,
    }  # fmt: skip
    assert images_in(plan("paper", {"data": {"name": "mine"}}).config.images, "val") is None


def test_own_records_come_first_and_need_no_scaling() -> None:
    made, run = plan("small"), "van_tiny-lska-k23-s0"
    known = known_throughputs(made.config)

    def logged_seconds(name: str) -> tuple[float, str]:
        """Of its images at the median of the speeds that it logged, and where it ran."""
        lines = Path(f"results/small/training/{name}.jsonl").read_text().splitlines()
        sidecar = json.loads(Path(f"checkpoints/small/{name}.json").read_text())
        speed = median(json.loads(line)["images_per_second"] for line in lines)
        return sidecar["images_seen"] / speed, sidecar["environment"]["hardware"]

    scored = json.loads(Path(f"results/small/metrics/classification/{run}.json").read_text())
    training, scoring = (known.spent(work) for work in workloads(made, job("train", run=run)))
    seconds, hardware = logged_seconds(run)
    assert (training[0], scoring[0]) == pytest.approx((seconds, 4 * scored["seconds"]))
    assert training[1] == f"trainings of this scale, {hardware}"
    tuned = job("fine_tune", task="detection/retinanet", run=run)
    (fine,) = (known.spent(work)[0] for work in workloads(made, tuned))
    assert fine == pytest.approx(logged_seconds(f"detection/retinanet/{run}")[0], rel=0.02)


def test_scores_of_other_weights_tell_nothing_of_todays_network(elsewhere: Path) -> None:
    config, run = plan("small").config, Run("van_tiny", "lska", 23, 0)
    sidecar, path = config.weights_path(run).with_suffix(".json"), config.metric_path("classification", run)
    for place in (sidecar, path, outcomes_path(path), config.images.record):
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(project_root() / place, place)
    (one,) = known_throughputs(config).measured[:1]
    assert (one.rank, one.mode) == (OWN, "inference")
    sidecar.write_text(json.dumps(json.loads(sidecar.read_text()) | {"md5": "0" * 32}))
    assert {one.rank for one in known_throughputs(config).measured} == {PUBLISHED}


SMALL, LARGE = (PlannedNetwork(f"van_{size}-lka-k23", "{}", 224 * 224) for size in ("tiny", "base"))
WORK = Workload("inference", ("classification", "speed"), 1000, LARGE, 1)


def measured(speed: float, **changes: object) -> Throughput:
    one = Throughput("inference", "speed", "cuda", "fp32", speed, "someone", PUBLISHED, SMALL)
    return replace(one, **changes)


def spent(work: Workload, *known: Throughput, **assumed: float):
    return Throughputs(list(known), Assumptions(**assumed)).spent(work)


def test_which_measurement_counts_and_how_it_is_scaled() -> None:
    same = replace(WORK, network=SMALL)
    assert spent(same, measured(100.0)) == (10.0, "someone")
    # An unnamed network of twice the multiply-adds is twice as fast here; of two, the closer one counts.
    seconds, source = spent(
        same, measured(100.0, network=None, macs=2 * 864_224_000), measured(1.0, network=None, macs=1e13)
    )
    assert seconds == pytest.approx(5.0) and source == "someone; scaled by multiply-adds"
    work = replace(same, mode="training", devices=4)
    assert spent(work, measured(100.0))[0] == pytest.approx(10.0 * 3 / 4)
    seconds, source = spent(work, measured(100.0), training_factor=2.0, gpu_efficiency=0.5)
    assert seconds == pytest.approx(10.0) and "training taken as 2 forward passes" in source
    trained = measured(40.0, mode="training", precision="bf16")
    assert spent(work, measured(999.0), trained)[0] == pytest.approx(1000 / 999 * 3 / 4)
    assert spent(replace(work, precision="bf16"), measured(999.0), trained)[1] == "someone"
    assert "precision not known" in spent(same, measured(1.0, precision="unknown"))[1]
    # Scoring is no slower than training. That of another network tells nothing; any measurement of scoring counts more.
    trained = replace(trained, precision="fp32")
    assert spent(same, trained) == (25.0, "someone; scoring taken as slow as training")
    both = (replace(trained, rank=OWN), measured(100.0, network=LARGE))
    assert spent(same, *both)[1] == "someone; scaled by multiply-adds"
    # A processor tells nothing of a GPU, a shrunken network nothing of a whole one.
    other = SMALL._replace(architecture='{"depths": [1]}')
    for useless in (
        replace(trained, network=LARGE), measured(1.0, device="cpu"), measured(1.0, network=other, macs=None)
    ):  # fmt: skip
        assert spent(same, useless) is None
    for better, worse in (
        ({"rank": OWN}, {"rank": PUBLISHED}), ({"task": "classification"}, {"task": "speed"}),
        ({"precision": "fp32"}, {"precision": "unknown"}), ({"precision": "unknown"}, {"precision": "amp"}),
    ):  # fmt: skip
        assert spent(same, measured(999.0, **worse), measured(100.0, **better))[0] == 10.0, better


def test_a_network_that_nobody_counted_is_counted_and_heads_take_the_median(tmp_path: Path, here: None) -> None:
    work = replace(WORK, network=SMALL)
    entry = measured(100.0, network=None, macs=864_224_000)
    assert spent(work, entry)[0] == pytest.approx(10.0)
    os.chdir(tmp_path)  # where no metric file is
    assert spent(work, entry)[0] == pytest.approx(10.0)
    os.chdir(project_root())
    detector = PlannedNetwork("swin_tiny_patch4_window7_224", "{}", 1280 * 800, "retinanet")
    table = [one for one in known_throughputs(plan("paper").config).measured if one.task == "detection/retinanet"]
    assert spent(Workload("inference", ("detection/retinanet",), 100, detector, 1), *table)[0] > 0


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the project's configuration and no results."""
    (tmp_path / "config").symlink_to(project_root() / "config")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_damaged_records_and_configurations_of_other_scales_tell_nothing(elsewhere: Path) -> None:
    config, run = plan("small").config, Run("van_tiny", "lska", 7, 0)
    places = {"training": config.weights_path(run).with_suffix(".json"), "inference": config.metric_path("speed", run)}
    losses = config.training_log(run)
    losses.parent.mkdir(parents=True)
    losses.write_bytes((project_root() / losses).read_bytes())
    whole = {mode: json.loads((project_root() / path).read_text()) for mode, path in places.items()}
    log = config.classifier(run).states / "train.jsonl"
    log.mkdir(parents=True)
    for damage in ({}, {"seconds": "long"}):
        for mode, path in places.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps({**whole[mode], **damage}))
        found = {one.mode for one in known_throughputs(config).measured if one.rank == OWN}
        assert found == (set() if damage else set(places)), damage
    (elsewhere / "config").unlink()
    (elsewhere / "config").mkdir()
    (elsewhere / "config" / "mine.yaml").write_text("scale: mine\n")
    (elsewhere / "results" / "mine").mkdir(parents=True)
    assert {one.rank for one in known_throughputs(config).measured} == {PUBLISHED}


def test_a_training_in_progress_tells_its_throughput_and_is_not_done_again(elsewhere: Path) -> None:
    made = plan("paper")
    folder = made.config.classifier(KNOWN).states
    folder.mkdir(parents=True)
    lines = [json.dumps({"step": step, "images_per_second": speed}) for step, speed in ((1, 10), (2, 4000), (3, 4400))]
    # One without a speed, and one that is being written.
    (folder / "train.jsonl").write_text("\n".join([*lines, '{"step": 4}', '{"step": 5, "ima']))
    (one,) = [one for one in known_throughputs(made.config).measured if one.rank == OWN]
    assert (one.rate, one.device, one.mode) == (1000.0, "cuda", "training")
    assert one.network == PlannedNetwork("van_tiny-lka-k23", "{}", 224 * 224) and "in progress" in one.source
    updates = 2502 * 310
    (folder / f"state-{updates * 3 // 4:08d}.pt").write_bytes(b"")
    training, scoring = workloads(made, job("train", run=RUN))
    assert training.images == pytest.approx(updates * 512 / 4, rel=1e-5) and scoring.images == 8 * 50_000


ENTRY = {
    "hardware": "mine", "mode": "training", "task": "classification", "network": "VAN-B0", "gmacs": 0.5,
    "images_per_second": 800, "gpus": 4, "precision": "bf16", "source": "last night",
}  # fmt: skip


def test_a_table_of_ones_own_counts_and_a_wrong_one_is_named(tmp_path: Path, snapshot: SnapshotAssertion) -> None:
    config, path, told = plan("paper").config, tmp_path / "mine.yaml", {}
    path.write_text(yaml.safe_dump({"entries": [ENTRY], "assumptions": {"gpu_efficiency": 0.9}}))
    known = known_throughputs(config, [path])
    (one,) = [one for one in known.measured if one.rank == 0]
    assert (one.rate, one.macs, known.assumed.gpu_efficiency) == (200, 0.5e9, 0.9)
    for name, text in {
        "missing keys": "entries: [{hardware: x}]", "no cost": yaml.safe_dump({"entries": [{**ENTRY, "gmacs": 0}]}),
        "unknown assumption": "assumptions: {training_factor: 0, utilisation: 0.3}", "cut": "{",
    }.items():  # fmt: skip
        path.write_text(text)
        with pytest.raises(ValueError) as error:
            known_throughputs(config, [path])
        told[name] = str(error.value).replace(str(tmp_path), "<folder>")
    assert told == snapshot


def timed(number: int, seconds: float, gpus: int, threads: int, needs: list[int]) -> JobPlan:
    return JobPlan(number, "x", {}, (), ("o",), threads, gpus, "", needs, seconds)


def test_bounds_by_hand() -> None:
    jobs = [timed(number, 10.0, 1, 2, []) for number in range(5)]
    assert [wall_seconds(jobs, *machine) for machine in ((2, None), (10, None), (10, 4))] == [25.0, 10.0, 25.0]
    assert wall_seconds([timed(0, 1.0, 8, 1, []), timed(1, 1.0, 2, 1, [])], 4, None) is None
    assert longest_chain([timed(0, 5.0, 1, 1, []), timed(1, 7.0, 1, 1, []), timed(2, 5.0, 1, 1, [0])]) == 10.0


def test_jobs_are_counted_with_costs_and_reasons(report) -> None:
    made = report()
    assert {name: (cost.jobs, cost.unknown, cost.reasons) for name, cost in made.rules.items()} == {
        "classification": (1, 0, {"never measured": 1}), "data": (1, 1, {"not checked yet": 1}),
        "fine_tune": (1, 0, {"never trained": 1}), "train": (1, 0, {"never trained": 1}),
        "notebook": (1, 1, {"Missing output files; Updated input files": 1}),
    }  # fmt: skip
    spent = {job.id: job.seconds for job in made.jobs if job.seconds}
    work = 4 * spent[2] + spent[3] + 8 * spent[4]
    chain = spent[2] + max(spent[3], spent[4])
    assert made.totals.gpu_hours == pytest.approx(work / 3600)
    assert made.rules["train"].gpu_hours == pytest.approx(155.4, abs=0.1)
    assert made.wall == {gpus: pytest.approx(max(chain, work / gpus)) for gpus in (8, 16, 32)}
    assert made.missing_data == {"imagenet1k": "data.root: data/imagenet1k"}
    alone = report([replace(JOBS[1], threads=8)])
    assert (list(alone.wall), alone.cores, alone.jobs[0].threads) == ([0], 3, 3)


def test_what_nothing_tells_of_is_said_first(report, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan_report, "known_throughputs", lambda *asked: Throughputs([], Assumptions()))
    made = report()
    assert made.unmeasured == {"classification": 1, "fine_tune": 1, "train": 1}
    assert " ".join(render_plan(made).split()).partition("Nothing was started. ")[2].startswith(
        "Not known is how long these jobs take, as nothing like them was measured: 1 classification, 1 fine_tune, "
        "1 train. Run one of each and plan again. wall time of all others, lower bounds: "
    )
    assert "Not known" not in render_plan(report([]))


def test_seconds_are_expected_by_family_of_what_is_to_be_done() -> None:
    made = plan("paper")
    known, found = known_throughputs(made.config), expected_seconds(made)
    # Of each network that has to be scored, the mean.
    scored = [job("classification", run=str(run)) for run in made.config.runs]
    each = [sum(known.spent(work)[0] for work in workloads(made, one)) for one in scored]
    assert found["classification"] == pytest.approx(sum(each) / len(each))
    assert {"train", "fine_tune", "dense", "robustness_c"} <= found.keys() and "data" not in found


def test_the_text(report, snapshot: SnapshotAssertion) -> None:
    """With a line per job, for too few GPUs, and where there is nothing to do."""
    asked = {"jobs": (report(), True), "few": (report(gpus=4),), "none": (report([]),)}
    assert {name: render_plan(*given) for name, given in asked.items()} == snapshot


def test_jobs_and_their_order_come_from_snakemake(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no Snakefile"):
        planned_jobs(tmp_path, [Path("config/demo.yaml")], {})
    (tmp_path / "Snakefile").write_text(
        'rule b:\n    input: "results/a.txt"\n    output: "results/b {run}.txt"\n    threads: 3\n'
        '    resources: gpu=2\n    shell: "touch"\n'
        'rule a:\n    output: "results/a.txt"\n    shell: "touch"\n'
    )
    (tmp_path / "mine.yaml").write_text("{}")
    before = sorted(path.name for path in tmp_path.iterdir())
    asked = tmp_path, [tmp_path / "mine.yaml"], {"k": {"v": 1.5}}
    jobs = {job.rule: job for job in planned_jobs(*asked, ["results/b x.txt"])}
    assert jobs["b"].needs == [jobs["a"].id] and jobs["a"].needs == []
    assert (jobs["b"].wildcards, jobs["b"].threads, jobs["b"].gpus) == ({"run": "x"}, 3, 2)
    assert jobs["b"].outputs == ["results/b x.txt"] and "b x.txt" in jobs["b"].reason
    assert sorted(path.name for path in tmp_path.iterdir()) == before
    with pytest.raises(PlanningError, match="table_99"):
        planned_jobs(*asked, ["table_99"])
