"""From measurements to seconds: where they come from, which of them counts, scaling, and what the source says."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from planned import plan
from syrupy.assertion import SnapshotAssertion

from lska.models.runs import Run
from lska.pipeline.throughput import (
    ELSEWHERE,
    GIVEN,
    OWN,
    PUBLISHED,
    Assumptions,
    Throughput,
    TimeEstimate,
    estimated,
    known_throughputs,
)
from lska.pipeline.workload import PlannedNetwork, Workload, states_of
from lska.provenance.metric_files import project_root
from lska.settings.scale import load

SMALL = PlannedNetwork("van_tiny-lska-k7", "{}", (224, 224))
LARGE = PlannedNetwork("van_base-lska-k7", "{}", (224, 224))
MACS = {SMALL: 1e9, LARGE: 4e9}
WORK = Workload("inference", ("classification", "speed"), 1000, LARGE, 1)

ENTRY = {
    "hardware": "mine", "mode": "training", "task": "classification", "network": "VAN-B0", "gmacs": 0.5,
    "images_per_second": 800, "gpus": 4, "precision": "bf16", "source": "last night",
}  # fmt: skip


def measured(speed: float, **changes: object) -> Throughput:
    one = Throughput("inference", "speed", "card", "cuda", "fp32", speed, "someone", PUBLISHED, SMALL)
    return replace(one, **changes)


def seconds(work: Workload, *known: Throughput, assumed: Assumptions | None = None) -> TimeEstimate | None:
    return estimated(work, known, assumed or Assumptions(), MACS.__getitem__)


def test_images_by_rate_scaled_by_multiply_adds() -> None:
    # 100 images/s at 1 GMAC are 25 at 4 GMACs: 1,000 images take 40 s.
    found = seconds(WORK, measured(100.0))
    assert found == TimeEstimate(40.0, 40.0, 40.0, ("someone; scaled by multiply-adds",), ("card",))


def test_the_same_network_is_taken_as_it_is_and_counts_nothing() -> None:
    def refuse(network: PlannedNetwork) -> float:
        raise AssertionError("counting takes seconds and is not needed")

    known = [measured(50.0, network=LARGE), measured(100.0)]
    assert estimated(WORK, known, Assumptions(), refuse) == TimeEstimate(20.0, 20.0, 20.0, ("someone",), ("card",))


def test_a_training_costs_three_forward_passes_divided_among_its_gpus() -> None:
    work = replace(WORK, mode="training", devices=4)
    assert seconds(work, measured(100.0)).seconds == pytest.approx(40.0 * 3 / 4)
    assumed = Assumptions(training_factor=2.0, gpu_efficiency=0.5)
    found = seconds(work, measured(100.0), assumed=assumed)
    assert found.seconds == pytest.approx(40.0 * 2 / (4 * 0.5))
    assert "training taken as 2 forward passes" in found.sources[0]


def test_a_measured_training_needs_no_factor_and_says_nothing_of_scoring() -> None:
    known = [measured(100.0), measured(40.0, mode="training", source="a training")]
    found = seconds(replace(WORK, mode="training"), *known)
    assert found.seconds == 1000 / (40.0 / 4) and found.sources == ("a training; scaled by multiply-adds",)
    assert seconds(WORK, known[1]) is None


def test_the_closest_network_decides_and_the_others_give_the_range() -> None:
    # 0.1, 0.4 and 0.2 TMAC/s; the one with 5 GMACs is closest to 4.
    known = [measured(100.0), measured(80.0, network=None, macs=5e9), measured(20.0, network=None, macs=10e9)]
    found = seconds(WORK, *known)
    assert (found.seconds, found.low, found.high) == (10.0, 10.0, 40.0)


def test_the_more_trusted_measurement_counts_alone() -> None:
    for better, worse in (
        ({"rank": OWN}, {"rank": ELSEWHERE}),
        ({"rank": ELSEWHERE}, {"rank": PUBLISHED}),
        ({"task": "classification"}, {"task": "speed"}),
        ({"precision": "fp32"}, {"precision": "unknown"}),
        ({"precision": "unknown"}, {"precision": "amp"}),
        ({"rank": OWN, "precision": "amp"}, {"rank": PUBLISHED, "precision": "fp32"}),
    ):
        found = seconds(WORK, measured(999.0, **worse), measured(100.0, **better))
        assert found.seconds == found.low == found.high == 40.0, better


def test_a_processor_tells_nothing_of_a_gpu() -> None:
    assert seconds(WORK, measured(100.0, device="cpu")) is None
    assert seconds(replace(WORK, devices=0), measured(100.0)) is None
    assert seconds(replace(WORK, devices=0), measured(100.0, device="cpu")).seconds == 40.0


def test_estimates_add_up_with_each_source_once() -> None:
    one = TimeEstimate(1.0, 0.5, 2.0, ("a",), ("card",))
    assert one + replace(one, sources=("a", "b")) == TimeEstimate(2.0, 1.0, 4.0, ("a", "b"), ("card",))


def test_doubts_are_named() -> None:
    work = replace(WORK, precision="bf16", mode="training")
    assert "measured with fp32, needed is bf16" in seconds(work, measured(1.0, mode="training")).sources[0]
    assert "precision not known" in seconds(WORK, measured(1.0, precision="unknown")).sources[0]
    amp = seconds(work, measured(1.0, mode="training", precision="amp")).sources[0]
    assert amp == "someone; scaled by multiply-adds"


@pytest.fixture
def checkout(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(project_root())


def test_every_published_measurement_names_hardware_and_source(checkout: None) -> None:
    known, assumed = known_throughputs(plan("paper").config)
    table = [one for one in known if one.rank == PUBLISHED]
    assert {one.mode for one in table} == {"training", "inference"}
    assert all(one.source and one.hardware.startswith("NVIDIA") and one.device == "cuda" for one in table)
    assert (assumed.training_factor, assumed.gpu_efficiency) == (3.0, 1.0)


def test_a_table_of_ones_own_comes_first(tmp_path: Path, checkout: None) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump({"entries": [ENTRY], "assumptions": {"gpu_efficiency": 0.9}}))
    known, assumed = known_throughputs(plan("paper").config, [path])
    assert known[0].rank == GIVEN and known[0].images_per_second == 200 and known[0].macs == 0.5e9
    assert (assumed.gpu_efficiency, assumed.training_factor) == (0.9, 3.0)


def test_metric_files_and_sidecars_are_measurements(checkout: None) -> None:
    paths = [Path("results/small/metrics/speed/van_tiny-lska-k7-s0.json"),
             Path("checkpoints/small/van_tiny-lska-k7-s0.json")]  # fmt: skip
    found = [one for one in known_throughputs(plan("small").config, paths)[0] if one.rank == GIVEN]
    speed, training = (json.loads(path.read_text()) for path in paths)
    assert [one.mode for one in found] == ["inference", "training"]
    assert found[0].images_per_second == speed["metrics"]["throughput"]["value"]
    assert found[1].images_per_second == training["images_seen"] / training["seconds"]
    assert found[1].network.size == (64, 64) and "depths" in found[1].network.architecture


def test_wrong_files_of_the_user_are_named(tmp_path: Path, checkout: None, snapshot: SnapshotAssertion) -> None:
    config, told = plan("small").config, {}
    metrics = json.loads(Path("results/small/metrics/speed/van_tiny-lska-k7-s0.json").read_text())
    sidecar = json.loads(Path("checkpoints/small/van_tiny-lska-k7-s0.json").read_text())
    dense = json.loads(Path("checkpoints/small/detection/retinanet/van_tiny-lska-k23-s0.json").read_text())
    for name, text in {
        "missing keys.yaml": "entries: [{hardware: x}]",
        "no cost.yaml": yaml.safe_dump({"entries": [{**ENTRY, "gmacs": 0}]}),
        "no factor.yaml": "assumptions: {training_factor: 0}",
        "no share.yaml": "assumptions: {gpu_efficiency: 2}",
        "unknown assumption.yaml": "assumptions: {utilisation: 0.3}",
        "list.json": "[1]",
        "cut.json": "{",
        "robustness.json": json.dumps({**metrics, "task": "robustness/c"}),
        "another run.json": json.dumps({**sidecar, "run": "tiny"}),
        "seconds as text.json": json.dumps({**sidecar, "seconds": "3"}),
        "no number.json": json.dumps({**metrics, "metrics": {"throughput": {}}}),
        "another recipe.json": json.dumps({**dense, "recipe": "sha256:" + "0" * 64}),
    }.items():
        path = tmp_path / name
        path.write_text(text)
        with pytest.raises(ValueError) as error:
            known_throughputs(config, [path])
        told[name] = str(error.value).replace(str(tmp_path), "<folder>")
        assert name in told[name]
    assert told == snapshot


def test_hardware_can_be_chosen_by_name(checkout: None) -> None:
    config = plan("paper").config
    known, _ = known_throughputs(config, hardware="v100")
    assert {one.hardware for one in known} == {"NVIDIA Tesla V100"}
    with pytest.raises(ValueError, match="no measurement is of 'h100'; there are some of: .*RTX 3090"):
        known_throughputs(config, hardware="h100")


def test_records_name_the_scale_and_the_hardware(checkout: None) -> None:
    own = [one for one in known_throughputs(plan("small").config)[0] if one.rank == OWN]
    assert {one.task for one in own} >= {"classification", "speed", "detection/retinanet", "shape_texture"}
    assert all(one.hardware in one.source and "this scale" in one.source for one in own)
    others = [one for one in known_throughputs(plan("paper").config)[0] if one.rank == ELSEWHERE]
    assert any("scale small" in one.source for one in others) and {one.device for one in others} == {"cpu"}


def test_the_time_of_a_pass_is_shared_by_its_networks(checkout: None) -> None:
    own = [one for one in known_throughputs(plan("small").config)[0] if (one.rank, one.task) == (OWN, "shape_texture")]
    files = [json.loads(path.read_text()) for path in Path("results/small/metrics/shape_texture").glob("*.json")]
    passes = [[one for one in files if one["started"] == start] for start in sorted({one["started"] for one in files})]
    assert sum(map(len, passes)) == len(own) == 6
    expected = {len(one) * 1280 / max(file["seconds"] for file in one) for one in passes}
    assert {one.images_per_second for one in own} == expected


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the project's configuration and no results."""
    (tmp_path / "config").symlink_to(project_root() / "config")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_damaged_records_are_passed_over(elsewhere: Path) -> None:
    config, run = plan("small").config, Run("van_tiny", "lska", 7, 0)
    places = {"training": config.weights_path(run).with_suffix(".json"), "inference": config.metric_path("speed", run)}
    whole = {mode: json.loads((project_root() / path).read_text()) for mode, path in places.items()}
    for damage in ({}, {"seconds": "long"}, {"run": "tiny"}):
        for mode, path in places.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps({**whole[mode], **damage}))
        found = {one.mode for one in known_throughputs(config)[0] if one.rank == OWN}
        assert found == (set() if damage else set(places)), damage


def test_a_training_in_progress_tells_its_throughput(elsewhere: Path, caplog: pytest.LogCaptureFixture) -> None:
    config, run = plan("paper").config, Run("van_tiny", "lska", 23, 42)
    log = states_of(config, run) / "train.jsonl"
    log.parent.mkdir(parents=True)
    lines = [json.dumps({"step": step, "images_per_second": speed}) for step, speed in ((1, 10), (2, 4000), (3, 4400))]
    # A line that is whole and no JSON, one without a speed, and one that is being written.
    log.write_text("\n".join([*lines, "{step", '{"step": 4}', '{"step": 5, "ima']))
    (one,) = [one for one in known_throughputs(config)[0] if one.rank == OWN]
    assert (one.images_per_second, one.device, one.mode) == (1000.0, "cuda", "training")
    assert one.network.name == "van_tiny-lska-k23" and "in progress" in one.source
    assert "train.jsonl: line 4" in caplog.text
    log.unlink()
    log.mkdir()
    assert not [one for one in known_throughputs(config)[0] if one.rank == OWN]
    assert "train.jsonl: expected a regular file, found a folder; it is not used" in caplog.text


def test_a_scale_whose_configuration_is_wrong_tells_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "config").mkdir()
    (tmp_path / "config" / "mine.yaml").write_text("scale: mine\n")
    (tmp_path / "results" / "mine").mkdir(parents=True)
    config = load([project_root() / "config" / "paper.yaml"])
    monkeypatch.chdir(tmp_path)
    assert {one.rank for one in known_throughputs(config)[0]} == {PUBLISHED}


def test_a_fine_tuning_by_another_recipe_is_no_record_of_todays(checkout: None) -> None:
    path, changes = Path("config/small.yaml"), {"detection": {"heads": {"retinanet": {"overrides": {"epochs": 35}}}}}
    tasks = [{one.task for one in known_throughputs(config)[0] if (one.rank, one.mode) == (OWN, "training")}
             for config in (load([path]), load([path], changes))]  # fmt: skip
    assert tasks[0] - tasks[1] == {"detection/retinanet"}
