"""What planned jobs cost: numbers of images, work left, and hours by hand."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from planned import estimator, job, plan

from lska.planning.costs import Costs
from lska.planning.images import count
from lska.planning.progress import states, steps
from lska.planning.work import classifier, predictor, scored_size, training_size
from lska.provenance import project_root
from lska.runs import Run
from lska.weights.pointers import read_pointer

KNOWN = Run("van_tiny", "lka", 23, 42)
"""VAN-B0, whose throughput is in the table."""


@pytest.fixture(autouse=True)
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(project_root())


@pytest.mark.parametrize(
    ("kind", "split", "images"),
    [
        ("classification", "train", 1_281_167),
        ("classification", "val", 50_000),
        ("detection", "train", 118_287),
        ("segmentation", "val", 2_000),
        ("c", "test", 96 * 50_000),  # 19 corruptions at 5 severities, and the clean images
        ("c_bar", "test", 50 * 50_000),
        ("a", "test", 7_500),
        ("sketch", "test", 50_889),
        ("shape_texture", "test", 1_280),
        ("texture_knn", "test", 5_640),
    ],
)
def test_published_sets_have_as_many_images_as_their_manifests_say(kind: str, split: str, images: int) -> None:
    assert count(plan("paper").config, kind, split) == images


@pytest.mark.parametrize(
    ("kind", "split", "images"),
    [
        ("classification", "train", 1500),
        ("detection", "val", 60),
        ("c", "test", 96 * 20),
        ("a", "test", 8 * 20),
        ("r", "test", 8 * 40),
        ("sketch", "test", 10 * 40),
        ("shape_texture", "test", 10 * 6 * 8),
        ("texture_knn", "test", 11 * 3 * 18),
    ],
)
def test_generated_sets_have_as_many_images_as_their_settings_say(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, split: str, images: int
) -> None:
    made = plan("demo")
    monkeypatch.chdir(tmp_path)  # where no record is
    assert count(made.config, kind, split) == images


def test_the_record_of_checked_data_comes_before_the_manifest(project) -> None:
    assert count(project.config(), "classification", "train") == 76
    record = project.config().data_record
    record.write_text(json.dumps({**json.loads(record.read_text()), "splits": {"train": 33, "val": 4}}))
    assert count(project.config(), "classification", "train") == 33


def test_updates_leave_out_what_fills_none() -> None:
    made = plan("paper")
    assert steps(made.config, KNOWN) == 1_281_167 // 512 * 310
    assert steps(made.config, Run("slak_tiny", None, None, 42)) == 1_281_167 // 4096 * 300
    retinanet = made.job("detection/retinanet", str(KNOWN))
    assert steps(made.config, retinanet) == 118_287 // 16 * 12
    assert steps(made.config, made.job("segmentation/semantic_fpn", str(KNOWN))) == 80_000


def test_hours_of_a_pretraining_by_hand() -> None:
    found = estimator(plan("paper")).estimate(job("train", gpus=4, run=str(KNOWN)))
    # 2140 images/s forward on one card: a third of it in training, on 4; 31 validations on one.
    trained = 2502 * 310 * 512 / (2140 / 3 * 4)
    assert found.seconds == pytest.approx(trained + 31 * 50_000 / 2140, rel=1e-3)
    assert found.low < found.seconds and found.hardware == ("NVIDIA GeForce RTX 3090",)


def test_hours_of_a_fine_tuning_by_hand() -> None:
    made = plan("paper")
    found = estimator(made).estimate(job("fine_tune", gpus=8, task="detection/retinanet", run=str(KNOWN)))
    # 168.5 GMACs at 1280x800, at 4:3 and 800 pixels high; ResNet-50's 161.0 GMACs ran at 78.05 images/s on 8 cards.
    cost = 168.5051392 * 1067 * 800 / (1280 * 800)
    assert found.seconds == pytest.approx(118_287 // 16 * 12 * 16 / (78.05 * 161.01 / cost), rel=1e-3)
    assert found.hardware == ("NVIDIA Tesla V100",)


def test_a_pass_costs_all_its_images_for_each_of_its_networks() -> None:
    made, rates = plan("paper"), estimator(plan("paper"))
    one = next(one for one in made.passes if one.item.name == "c" and KNOWN in one.runs)
    works = rates.passing(one)
    assert [work.images for work in works] == [4_800_000] * len(one.runs)
    assert {work.network.kernel for work in works} == {run.kernel for run in one.runs}
    field = next(one for one in made.passes if one.item.name == "receptive_field")
    work = rates.passing(field)[0]
    assert (work.images, work.network.size, work.mode) == (100, (1024, 1024), "training")


def test_what_a_state_holds_is_not_done_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = plan("paper")
    rates = estimator(made)
    whole = rates.training(str(KNOWN))
    monkeypatch.chdir(tmp_path)
    folder = states(made.config, KNOWN)
    folder.mkdir(parents=True)
    (folder / f"state-{2502 * 310 * 3 // 4:08d}.pt").write_bytes(b"")
    left = rates.training(str(KNOWN))
    assert left[0].images == pytest.approx(whole[0].images / 4, rel=1e-5)
    assert left[1].images == 8 * 50_000 and whole[1].images == 31 * 50_000


def test_starts_follow_from_hours_and_attempts() -> None:
    made = plan("paper")
    rates = estimator(made)
    asked = job("train", gpus=4, run=str(KNOWN))
    found = rates.attempts(asked, rates.estimate(asked))
    assert (found.needed, found.allowed, found.hours) == (2, 10, 23.0)
    scored = job("classification", gpus=1, run=str(KNOWN))
    assert rates.attempts(scored, rates.estimate(scored)) is None


def test_what_was_never_measured_has_no_estimate() -> None:
    rates = estimator(plan("paper"))
    assert rates.estimate(job("data", name="imagenet1k")) is None
    assert rates.estimate(job("notebook_table_99")) is None
    assert rates.estimate(job("something_new")) is None


def test_own_records_come_first_and_need_no_counting() -> None:
    made = plan("small")
    sidecar = json.loads(Path("checkpoints/small/van_tiny-lska-k23-s0.json").read_text())

    def refuse(network: object) -> float:
        raise AssertionError("nothing has to be scaled")

    rates = estimator(made)
    rates = type(rates)(rates.plan, rates.known, rates.assumed, refuse)
    work, scoring = rates.training("van_tiny-lska-k23-s0")
    assert work.images == sidecar["images_seen"] and scoring.images == 4 * 10_000
    found = rates.estimate(job("train", run="van_tiny-lska-k23-s0"))
    scored = json.loads(Path("results/small/metrics/classification/van_tiny-lska-k23-s0.json").read_text())
    assert found.seconds == pytest.approx(sidecar["seconds"] + 4 * scored["seconds"])
    assert all("this scale" in source for source in found.sources)


def test_another_kernel_is_scaled_by_what_both_cost() -> None:
    costs = Costs()
    config = plan("paper").config
    small, large = (costs.of(classifier(config, Run("van_tiny", "lka_trivial", k, 0), 224)).macs for k in (7, 65))
    assert large > 1.5 * small
    assert costs.of(classifier(config, KNOWN, 224)).macs == 864_224_000
    assert costs.of(classifier(config, KNOWN, 224)).params == 4_105_800


def test_a_counted_network_equals_its_metric_file(tmp_path: Path) -> None:
    config = plan("paper").config
    networks = [classifier(config, KNOWN, 224)]
    assert [Costs(tmp_path).of(network) for network in networks] == [Costs().of(network) for network in networks]


def test_shrunken_networks_are_counted_as_the_scale_has_them() -> None:
    config = plan("small").config
    counted = Costs().of(classifier(config, Run("van_tiny", "lska", 23, 0), 64))
    weights = read_pointer(Path("checkpoints/small/van_tiny-lska-k23-s0.safetensors")).size
    # The file also holds running statistics of BatchNorm and its header.
    assert 4 * counted.params < weights < 1.02 * 4 * counted.params


def test_sizes_of_images_follow_recipe_and_data() -> None:
    made = plan("paper")
    detector, segmentor = (made.job(task, str(KNOWN)) for task in ("detection/retinanet", "segmentation/semantic_fpn"))
    assert training_size(detector) == scored_size(detector) == (1067, 800)
    assert training_size(segmentor) == (512, 512) and scored_size(segmentor) == (683, 512)
    demo = plan("demo").job("detection/retinanet", "van_tiny-lska-k7-s0")
    assert training_size(demo) == (96, 96)
    assert predictor(demo, (96, 96)) != predictor(detector, (96, 96))
