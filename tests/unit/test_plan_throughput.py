"""Where measurements come from: the published table, the user's files, trainings in progress, other scales."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from planned import plan

from lska.config import load
from lska.planning.document import Means, knowledge
from lska.planning.progress import states
from lska.planning.records import elsewhere, recorded
from lska.planning.throughput import ELSEWHERE, GIVEN, OWN, assume, given, published
from lska.provenance import project_root
from lska.runs import Run

ENTRY = {
    "hardware": "mine", "mode": "training", "task": "classification", "network": "VAN-B0", "gmacs": 0.5,
    "images_per_second": 800, "gpus": 4, "precision": "bf16", "source": "last night",
}  # fmt: skip


@pytest.fixture
def checkout(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(project_root())


def test_every_published_measurement_names_hardware_and_source() -> None:
    table = published()
    assert {entry.mode for entry in table.entries} == {"training", "inference"}
    for entry in table.entries:
        assert entry.source and entry.hardware.startswith("NVIDIA") and entry.device == "cuda"
    assumed = assume(table.assumptions)
    assert (assumed.training_factor, assumed.gpu_efficiency) == (3.0, 1.0)


def test_a_table_of_ones_own_comes_first(tmp_path: Path, checkout: None) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump({"entries": [ENTRY], "assumptions": {"gpu_efficiency": 0.9}}))
    known, assumed = knowledge(plan("paper").config, Means(throughput=[path]))
    assert known[0].rank == GIVEN and known[0].images_per_second == 200 and known[0].macs == 0.5e9
    assert (assumed.gpu_efficiency, assumed.training_factor) == (0.9, 3.0)


def test_metric_files_and_sidecars_are_measurements(checkout: None) -> None:
    paths = [
        Path("results/small/metrics/speed/van_tiny-lska-k7-s0.json"),
        Path("checkpoints/small/van_tiny-lska-k7-s0.json"),
    ]
    found, _ = given(paths, plan("small").config)
    speed, training = (json.loads(path.read_text()) for path in paths)
    assert [one.mode for one in found] == ["inference", "training"]
    assert found[0].images_per_second == speed["metrics"]["throughput"]["value"]
    assert found[1].images_per_second == training["images_seen"] / training["seconds"]
    assert found[1].network.size == (64, 64) and "depths" in found[1].network.architecture


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("mine.yaml", "entries: [{hardware: x}]", "missing key 'mode'"),
        ("mine.yaml", yaml.safe_dump({"entries": [{**ENTRY, "gmacs": 0}]}), "gmacs must be positive, found 0"),
        ("mine.yaml", "assumptions: {training_factor: 0}", r"mine.yaml: assumptions: 1 .*\n.*training_factor must be"),
        ("mine.yaml", "assumptions: {gpu_efficiency: 2}", "gpu_efficiency is a share, expected at most 1, found 2"),
        ("mine.json", "[1]", "expected a mapping, found a list"),
        ("mine.json", '{"task": "robustness/c", "seconds": 3}', "expected a metric file of `lska evaluate speed`"),
        ("mine.json", "{", "line 1, column 2: not valid JSON"),
        ("mine.json", '{"images_seen": 9, "seconds": 3, "spec": {}, "run": "tiny"}', "damaged .*'tiny' is not"),
        ("mine.json", '{"images_seen": 9, "seconds": "3", "spec": {}}', "damaged"),
        ("mine.json", '{"task": "speed", "run": "van_tiny-lska-k7-s0", "metrics": {"throughput": {}}}', "damaged"),
    ],
)
def test_a_wrong_file_is_named(tmp_path: Path, checkout: None, name: str, text: str, message: str) -> None:
    path = tmp_path / name
    path.write_text(text)
    with pytest.raises(ValueError, match=message) as error:
        given([path], plan("small").config)
    assert str(path) in str(error.value)


def test_wrong_assumptions_are_refused() -> None:
    with pytest.raises(ValueError, match="training_factor must be positive, found 0"):
        assume({"training_factor": 0.0})
    with pytest.raises(ValueError, match="utilisation"):
        assume({"utilisation": 0.3})


def test_hardware_can_be_chosen_by_name(checkout: None) -> None:
    config = plan("paper").config
    known, _ = knowledge(config, Means(hardware="v100"))
    assert {one.hardware for one in known} == {"NVIDIA Tesla V100"}
    with pytest.raises(ValueError, match="no measurement is of 'h100'; there are some of: .*RTX 3090"):
        knowledge(config, Means(hardware="h100"))


def test_records_name_the_scale_and_the_hardware(checkout: None) -> None:
    own = list(recorded(plan("small").config, OWN, "this scale"))
    assert {one.task for one in own} >= {"classification", "speed", "detection/retinanet", "shape_texture"}
    assert all(one.hardware in one.source and "this scale" in one.source for one in own)
    others = list(elsewhere(plan("paper").config, ELSEWHERE))
    assert any("scale small" in one.source for one in others) and {one.device for one in others} == {"cpu"}


def test_a_damaged_record_is_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.chdir(project_root())
    config, run = plan("small").config, Run("van_tiny", "lska", 7, 0)
    content = json.loads(config.weights_path(run).with_suffix(".json").read_text())
    monkeypatch.chdir(tmp_path)
    sidecar = config.weights_path(run).with_suffix(".json")
    sidecar.parent.mkdir(parents=True)
    sidecar.write_text(json.dumps(content))
    assert len(list(recorded(config, OWN, "this scale"))) == 1
    sidecar.write_text(json.dumps({**content, "seconds": "long"}))
    assert list(recorded(config, OWN, "this scale")) == [] and str(sidecar) in caplog.text


def test_the_time_of_a_pass_is_shared_by_its_networks(checkout: None) -> None:
    own = [one for one in recorded(plan("small").config, OWN, "x") if one.task == "shape_texture"]
    files = [json.loads(path.read_text()) for path in Path("results/small/metrics/shape_texture").glob("*.json")]
    passes = [[one for one in files if one["started"] == start] for start in sorted({one["started"] for one in files})]
    assert sum(map(len, passes)) == len(own) == 6
    expected = {len(one) * 1280 / max(file["seconds"] for file in one) for one in passes}
    assert {one.images_per_second for one in own} == expected


def test_a_training_in_progress_tells_its_throughput(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(project_root())
    config, run = plan("paper").config, Run("van_tiny", "lska", 23, 42)
    monkeypatch.chdir(tmp_path)
    log = states(config, run) / "train.jsonl"
    log.parent.mkdir(parents=True)
    lines = [json.dumps({"step": step, "images_per_second": speed}) for step, speed in ((1, 10), (2, 4000), (3, 4400))]
    log.write_text("\n".join([*lines, '{"step": 4, "ima']))
    (one,) = recorded(config, OWN, "this scale")
    assert (one.images_per_second, one.device, one.mode) == (1000.0, "cuda", "training")
    assert one.network.kernel == 23 and "in progress" in one.source


def test_a_fine_tuning_by_another_recipe_is_no_record_of_todays(tmp_path: Path, checkout: None) -> None:
    config = plan("small").config
    path = tmp_path / "sidecar.json"
    content = json.loads(Path("checkpoints/small/detection/retinanet/van_tiny-lska-k23-s0.json").read_text())
    path.write_text(json.dumps(content))
    assert given([path], config)[0][0].task == "detection/retinanet"
    changed = load([Path("config/small.yaml")], {"detection": {"heads": {"retinanet": {"overrides": {"epochs": 35}}}}})
    with pytest.raises(ValueError, match="sidecar of a training"):
        given([path], changed)
