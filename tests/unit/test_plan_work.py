"""What planned jobs have to do and cost: numbers of images, work left, hours by hand, counts, bytes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from planned import estimate, job, plan

from lska.models.runs import Run
from lska.pipeline import estimate as estimates
from lska.pipeline.dry_run import SnakemakeJob
from lska.pipeline.estimate import attempts_of, cost_of, count_classifier, count_head, estimate_of, storage_of
from lska.pipeline.throughput import known_throughputs
from lska.pipeline.workload import (
    classifier,
    images_in,
    predictor,
    scored_size,
    states_of,
    training_size,
    updates_of,
    workloads,
)
from lska.provenance.metric_files import project_root
from lska.provenance.pointers import read_pointer

KNOWN = Run("van_tiny", "lka", 23, 42)
"""VAN-B0, whose throughput is in the table."""

SETS = {
    "paper": {
        ("classification", "train"): 1_281_167, ("classification", "val"): 50_000, ("detection", "train"): 118_287,
        # 19 corruptions at 5 severities, and the clean images; 10 without them.
        ("segmentation", "val"): 2_000, ("c", "test"): 96 * 50_000, ("c_bar", "test"): 50 * 50_000,
        ("a", "test"): 7_500, ("sketch", "test"): 50_889, ("shape_texture", "test"): 1_280,
        ("texture_knn", "test"): 5_640,
    },
    "demo": {
        ("classification", "train"): 1500, ("detection", "val"): 60, ("c", "test"): 96 * 20, ("a", "test"): 8 * 20,
        ("r", "test"): 8 * 40, ("sketch", "test"): 10 * 40, ("shape_texture", "test"): 10 * 6 * 8,
        ("texture_knn", "test"): 11 * 3 * 18,
    },
}  # fmt: skip
"""Images by what a set serves and split: published sets by their manifests, generated ones by their settings."""


@pytest.fixture(autouse=True)
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(project_root())


def test_sets_have_as_many_images_as_manifests_and_settings_say(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = {scale: plan(scale).config for scale in SETS}
    counted = {"paper": {place: images_in(found["paper"], *place) for place in SETS["paper"]}}
    monkeypatch.chdir(tmp_path)  # where no record is
    counted["demo"] = {place: images_in(found["demo"], *place) for place in SETS["demo"]}
    assert counted == SETS
    monkeypatch.chdir(project_root())
    assert images_in(plan("paper", {"data": {"name": "mine"}}).config, "classification", "val") is None


def test_the_record_of_checked_data_comes_before_the_manifest(project) -> None:
    assert images_in(project.config(), "classification", "train") == 76
    record = project.config().data_record
    record.write_text(json.dumps({**json.loads(record.read_text()), "splits": {"train": 33, "val": 4}}))
    assert images_in(project.config(), "classification", "train") == 33


def test_updates_leave_out_what_fills_none() -> None:
    made = plan("paper")
    assert updates_of(made.config, KNOWN) == 1_281_167 // 512 * 310
    assert updates_of(made.config, Run("slak_tiny", None, None, 42)) == 1_281_167 // 4096 * 300
    assert updates_of(made.config, made.job("detection/retinanet", str(KNOWN))) == 118_287 // 16 * 12
    assert updates_of(made.config, made.job("segmentation/semantic_fpn", str(KNOWN))) == 80_000


def test_hours_by_hand() -> None:
    made = plan("paper")
    found = estimate(made, job("train", gpus=4, run=str(KNOWN)))
    # 2140 images/s forward on one card: a third of it in training, on 4; 31 validations on one.
    trained = 2502 * 310 * 512 / (2140 / 3 * 4)
    assert found.seconds == pytest.approx(trained + 31 * 50_000 / 2140, rel=1e-3)
    assert found.low < found.seconds and found.hardware == ("NVIDIA GeForce RTX 3090",)
    found = estimate(made, job("fine_tune", gpus=8, task="detection/retinanet", run=str(KNOWN)))
    # 168.5 GMACs at 1280x800, at 4:3 and 800 pixels high; ResNet-50's 161.0 GMACs ran at 78.05 images/s on 8 cards.
    cost = 168.5051392 * 1067 * 800 / (1280 * 800)
    assert found.seconds == pytest.approx(118_287 // 16 * 12 * 16 / (78.05 * 161.01 / cost), rel=1e-3)
    assert found.hardware == ("NVIDIA Tesla V100",)
    found = estimate(made, job("dense", gpus=1, task="segmentation/semantic_fpn", run=str(KNOWN)))
    assert found.hardware == ("NVIDIA Tesla V100",) and 10 < found.seconds < 60
    found = estimate(made, job("classification", gpus=1, run=str(KNOWN)))
    assert found.seconds == pytest.approx(50_000 / 2140, rel=1e-3)
    protocol = made.config.speed
    assert estimate(made, job("speed", "a", "b")).seconds == 2 * protocol.repeats * protocol.seconds


def test_a_pass_costs_all_its_images_for_each_of_its_networks() -> None:
    made = plan("paper")
    one = next(one for one in made.passes if one.item.name == "c" and KNOWN in one.runs)
    works = workloads(made, job(one.name))
    assert [work.images for work in works] == [4_800_000] * len(one.runs)
    assert {work.network.name for work in works} == {str(run).removesuffix("-s42") for run in one.runs}
    field = next(one for one in made.passes if one.item.name == "receptive_field")
    work = workloads(made, job(field.name))[0]
    assert (work.images, work.network.size, work.mode) == (100, (1024, 1024), "training")


def test_what_a_state_holds_is_not_done_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = plan("paper")
    whole = workloads(made, job("train", run=str(KNOWN)))
    folder = states_of(made.config, KNOWN)
    monkeypatch.setattr(estimates, "project_root", lambda: Path.cwd())
    for name in ("data", "src", "config"):
        (tmp_path / name).symlink_to(project_root() / name)
    monkeypatch.chdir(tmp_path)
    folder.mkdir(parents=True)
    (folder / f"state-{2502 * 310 * 3 // 4:08d}.pt").write_bytes(b"")
    left = workloads(made, job("train", run=str(KNOWN)))
    assert left[0].images == pytest.approx(whole[0].images / 4, rel=1e-5)
    assert left[1].images == 8 * 50_000 and whole[1].images == 31 * 50_000


def test_starts_follow_from_hours_and_attempts() -> None:
    made = plan("paper")
    for asked, starts in (
        (job("train", gpus=4, run=str(KNOWN)), (2, 10, 23.0)),
        (job("fine_tune", gpus=8, task="detection/retinanet", run=str(KNOWN)), (1, 6, 23.0)),
        (job(next(one.name for one in made.passes if one.item.name == "c"), gpus=8), (1, 6, 23.0)),
    ):
        found = attempts_of(made, asked, estimate(made, asked))
        assert (found.needed, found.hours) == (starts[0], starts[2]) and found.allowed > 1, asked.rule
    scored = job("classification", gpus=1, run=str(KNOWN))
    assert attempts_of(made, scored, estimate(made, scored)) is None


def test_what_was_never_measured_has_no_estimate() -> None:
    made = plan("paper")
    for asked in (job("data", name="imagenet1k"), job("notebook_table_99", "x.ipynb"), job("something_new"),
                  job("complexity", "results/paper/metrics/complexity/other-s0.json")):  # fmt: skip
        assert estimate_of(made, asked, *known_throughputs(made.config)) is None


def test_notebooks_and_counts_take_as_long_as_their_namesakes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = plan("paper")
    monkeypatch.chdir(tmp_path)
    for scale, seconds in (("demo", 3), ("small", 5), ("mine", 9)):
        notebook = {"metadata": {"papermill": {"duration": seconds}}}
        counted = {"seconds": seconds / 100}
        for name, content in (("notebooks/table_03.ipynb", notebook), ("metrics/complexity/van-s0.json", counted)):
            path = tmp_path / "results" / scale / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(content))
    found = estimate_of(made, job("notebook_table_03", "t.csv", "results/paper/notebooks/table_03.ipynb"), [], None)
    assert (found.seconds, found.low, found.high) == (5, 3, 9)
    found = estimate_of(made, job("complexity", "results/paper/metrics/complexity/van-s42.json"), [], None)
    assert (found.seconds, found.low, found.high) == (0.05, 0.03, 0.09)


def test_own_records_come_first_and_need_no_counting(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(network: object) -> float:
        raise AssertionError("nothing has to be scaled")

    monkeypatch.setattr(estimates, "cost_of", refuse)
    made, run = plan("small"), "van_tiny-lska-k23-s0"
    sidecar = json.loads(Path(f"checkpoints/small/{run}.json").read_text())
    work, scoring = workloads(made, job("train", run=run))
    assert work.images == sidecar["images_seen"] and scoring.images == 4 * 10_000
    found = estimate(made, job("train", run=run))
    scored = json.loads(Path(f"results/small/metrics/classification/{run}.json").read_text())
    assert found.seconds == pytest.approx(sidecar["seconds"] + 4 * scored["seconds"])
    assert all("this scale" in source for source in found.sources)


def test_networks_are_counted_once_and_as_their_scale_has_them() -> None:
    config = plan("paper").config
    small, large = (cost_of(classifier(config, Run("van_tiny", "lka_trivial", k, 0), 224)).macs for k in (7, 65))
    assert large > 1.5 * small
    known = classifier(config, KNOWN, 224)
    assert (cost_of(known).macs, cost_of(known).params) == (864_224_000, 4_105_800)
    assert count_classifier(known) == cost_of(known)
    counted = cost_of(classifier(plan("small").config, Run("van_tiny", "lska", 23, 0), 64))
    weights = read_pointer(Path("checkpoints/small/van_tiny-lska-k23-s0.safetensors")).size
    # The file also holds running statistics of BatchNorm and its header.
    assert 4 * counted.params < weights < 1.02 * 4 * counted.params


@pytest.mark.slow
def test_a_counted_detector_equals_its_metric_file() -> None:
    made = plan("paper")
    network = predictor(made.job("detection/retinanet", str(KNOWN)), (1280, 800))
    assert count_head(network) == cost_of(network)
    demo = plan("demo").job("detection/retinanet", "van_tiny-lska-k7-s0")
    assert cost_of(predictor(demo, (96, 96))).params < cost_of(network).params / 10


def test_sizes_of_images_follow_recipe_and_data() -> None:
    made = plan("paper")
    detector, segmentor = (made.job(task, str(KNOWN)) for task in ("detection/retinanet", "segmentation/semantic_fpn"))
    assert training_size(detector) == scored_size(detector) == (1067, 800)
    assert training_size(segmentor) == (512, 512) and scored_size(segmentor) == (683, 512)
    demo = plan("demo").job("detection/retinanet", "van_tiny-lska-k7-s0")
    assert training_size(demo) == (96, 96)
    assert predictor(demo, (96, 96)) != predictor(detector, (96, 96))


def test_bytes_follow_from_parameters_images_and_pointers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(estimates, "cost_of", lambda network: estimates.NetworkCost(1000, 0.0))
    made, tuned = plan("paper"), job("fine_tune", task="detection/retinanet", run=str(KNOWN))
    jobs = [job("train", run=str(KNOWN)), tuned, job("data", name="imagenet1k")]

    def amounts(of: object, jobs: list[SnakemakeJob]) -> dict[str, int | None]:
        return {one.what: one.bytes for one in storage_of(of, jobs)}

    assert amounts(made, jobs) == {"weights": 2 * 4 * 1000, "training states": 2 * 2 * 4 * 1000 * 3}
    averaged = plan("paper", {"training": {"overrides": {"switches": {"averaging": "corrected"}}}})
    assert amounts(averaged, jobs)["training states"] == 2 * 4 * 1000 * (4 + 3)
    one = next(one for one in made.passes if one.item.name == "a")
    # Outputs restricted to the set's classes, and those that are not.
    assert amounts(made, [job(one.name)]) == {"predictions": 7500 * 2 * 20 * len(one.runs)}
    assert amounts(made, [job("x", "results/paper/fields/a.npz")]) == {"contribution maps": 2 * 4 * 1024**2}
    fetched = "van_tiny-lska-k23-s0"
    size = read_pointer(Path(f"checkpoints/small/{fetched}.safetensors")).size
    assert amounts(plan("small"), [job("fetch", weights=fetched)]) == {"weights from DVC": size}
    assert amounts(plan("demo"), [job("data", name="shapes")]) == {"generated data": None}
