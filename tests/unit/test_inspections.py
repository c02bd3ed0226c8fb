"""Looking inside, from checkpoints to metric files: what is written is what the parts give on the same images."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_inspection
import torch
from PIL import Image
from tiny_inspection import InspectionProject, metrics_of
from tiny_project import Project
from tiny_robustness import RUNS, members_of, network, publish

from lska.data.cue_conflict import read_cue_conflict
from lska.data.decoding import decode
from lska.data.dtd import read_textures
from lska.data.entries import DataError
from lska.data.folders import Split, open_split
from lska.evaluate import inspecting, receptive_field, shape_bias, shape_texture
from lska.evaluate.accuracy import StaleWeightsError
from lska.evaluate.inspecting import measure_inspection
from lska.evaluate.members import Member
from lska.evaluate.neighbours import texture_hits
from lska.evaluate.scoring_passes import cut, normalized
from lska.evaluate.splits import accuracy
from lska.models.features import features
from lska.models.pretrained import save_weights
from lska.provenance.files import write_json
from lska.provenance.metric_files import file_md5, validate
from lska.provenance.outcomes import RESAMPLES, outcomes_path, read_outcomes, standard_error
from lska.settings.inspections import TASKS, InspectionJob
from lska.tables.specs import TARGETS, load_spec

CPU = torch.device("cpu")


@pytest.fixture
def inspected(project: Project) -> InspectionProject:
    return tiny_inspection.make(project)


def values(job: InspectionJob, run: Any) -> dict[str, float | None]:
    return {name: entry["value"] for name, entry in metrics_of(job, run)["metrics"].items()}


def batch(member: Member, encoded: list[bytes]) -> torch.Tensor:
    """Images as the network's validation images were."""
    how = member.preprocessing(stored=False)
    pixels = torch.stack([cut(how.geometry)(decode(data, "")) for data in encoded])
    return normalized(pixels, how, member.channels_last)


@pytest.mark.parametrize("task", TASKS)
def test_metric_files_are_valid_and_have_what_every_table_names(inspected: InspectionProject, task: str) -> None:
    job = inspected.job(task)
    measure_inspection(job, RUNS)
    named = {column.metric for target in TARGETS for column in load_spec(target).columns if column.task == task}
    for run in RUNS:
        content = metrics_of(job, run)
        validate(content, "metrics", str(job.metrics(run)))
        assert named and named <= set(content["metrics"])
        sidecar = json.loads(job.config.weights_path(run).with_suffix(".json").read_text())
        assert content["weights"] == {"md5": sidecar["md5"], "origin": "trained"}
        assert (content["task"], content["run"], content["recipe"]) == (task, str(run), sidecar["recipe"])
        assert content["data"] == job.config.data_identity(job.data)
        assert content["detail"]["protocol"] == job.protocol()
        assert all(path.exists() for path in job.outputs(run))
        outcomes = read_outcomes(outcomes_path(job.metrics(run)), content["outcomes"])
        for name, images in outcomes.images.items():
            assert images.mean() == pytest.approx(content["metrics"][name]["value"], rel=1e-5), name
        for name, samples in outcomes.samples.items():
            entry = content["metrics"][name]
            error = pytest.approx(standard_error(samples), rel=1e-4, abs=1e-6)
            assert entry.get("standard_error") == (error if isinstance(entry["value"], float) else None)
            assert len(samples) == (20 if task == "shape_texture" else RESAMPLES)
        shown = {name for name in named if not name.endswith("_deviation") and not name.startswith("residual_score")}
        assert shown <= {*outcomes.images, *outcomes.samples}
    for column in (c for target in TARGETS for c in load_spec(target).columns if c.task == task):
        assert content["metrics"][column.metric]["unit"] == column.unit
    assert len({str(values(job, run)) for run in RUNS}) == 3, "every network has numbers of its own"


@pytest.mark.parametrize("changes", [{}, {"stage": 3, "pooled": False, "pairs": 30}], ids=str)
def test_dimensions_and_bias_are_those_of_the_features(inspected: InspectionProject, changes: dict[str, Any]) -> None:
    job = inspected.job("shape_texture", {"shape_texture": changes})
    measure_inspection(job, RUNS)
    cues = read_cue_conflict(Path(job.data.root))
    pairs = [
        shape_texture.draw_pairs(found, job.section.pairs, 3)
        for found in (shape_texture.shape_pairs(cues), shape_texture.texture_pairs(cues))
    ]
    images = [cues.read(index) for index in range(len(cues))]
    classes = sorted(path.name for path in Path("made/shapes/val").iterdir())
    mapping = shape_bias.identity_mapping(classes, cues.categories)
    for run, member in zip(RUNS, members_of(job.config, *RUNS), strict=True):
        prepared = batch(member, images)
        found = features(member.network, prepared, job.section.stage, job.section.pooled).numpy()
        direct = shape_texture.dimension_metrics(shape_texture.dimensions(found, *pairs, resamples=20, seed=3))
        with torch.inference_mode():
            probabilities = member.network(prepared).softmax(dim=1).numpy()
        decided = shape_bias.decisions(probabilities, mapping)
        direct |= shape_bias.bias_metrics(shape_bias.shape_bias(decided, mapping, cues))
        assert set(direct) == set(values(job, run))
        for name, entry in metrics_of(job, run)["metrics"].items():
            assert entry["value"] == pytest.approx(direct[name]["value"], rel=1e-3, abs=1e-3)
            assert entry.get("n") == direct[name].get("n")
    # 12 shapes with 4 textures each have 6 pairs each.
    assert len(pairs[0]) == (30 if changes else 72)


@pytest.mark.parametrize("reading", ["as_stored", "enlarged"])
def test_cue_conflict_images_are_taken_as_they_are_or_enlarged_and_cropped(
    inspected: InspectionProject, monkeypatch: pytest.MonkeyPatch, reading: str
) -> None:
    crop = {"training": {"overrides": {"test_crop": 0.8}}}
    publish(inspected.config(crop), RUNS[0])
    seen: list[torch.Tensor] = []
    monkeypatch.setattr(
        inspecting, "normalized", lambda images, *how: (seen.append(images), normalized(images, *how))[1]
    )
    job = inspected.job("shape_texture", crop, {"stored_images": reading})
    measure_inspection(job, RUNS[:1])
    image = decode(read_cue_conflict(Path(job.data.root)).read(0), "")
    if reading == "enlarged":
        image = image.resize((40, 40), Image.Resampling.BILINEAR).crop((4, 4, 36, 36))
    assert np.array_equal(seen[0][0].permute(1, 2, 0).numpy(), np.asarray(image))
    assert metrics_of(job, RUNS[0])["detail"]["stored_images"] == reading


@pytest.mark.parametrize("runs", [RUNS[:1], RUNS], ids=["one", "three"])
def test_images_are_decoded_once_for_all_networks(
    inspected: InspectionProject, monkeypatch: pytest.MonkeyPatch, runs: Any
) -> None:
    decoded: list[str] = []
    original = inspecting.decode
    monkeypatch.setattr(inspecting, "decode", lambda data, place: (decoded.append(place), original(data, place))[1])
    job = inspected.job("shape_texture")
    measure_inspection(job, runs)
    assert len(decoded) == len(set(decoded)) == 48
    assert [run for run in RUNS if job.metrics(run).exists()] == list(runs)


def test_networks_measured_together_and_alone_have_the_same_numbers_and_outcomes(inspected: InspectionProject) -> None:
    for task in TASKS:
        job = inspected.job(task)
        measure_inspection(job, RUNS)
        together = values(job, RUNS[1]), metrics_of(job, RUNS[1])["outcomes"]
        measure_inspection(job, RUNS[1:2])
        assert (values(job, RUNS[1]), metrics_of(job, RUNS[1])["outcomes"]) == together


def test_nearest_textures_are_those_of_the_features(inspected: InspectionProject) -> None:
    job = inspected.job("texture_knn", {"texture_knn": {"gallery": ["train", "val"], "query": "test"}})
    measure_inspection(job, RUNS)
    textures = read_textures(Path(job.data.root))
    images = [textures.images.read(index) for index in range(len(textures))]
    for run, member in zip(RUNS, members_of(job.config, *RUNS), strict=True):
        found, written = features(member.network, batch(member, images)).numpy(), values(job, run)
        for distance in ("cosine", "euclidean"):
            parts = {"gallery": ("train", "val"), "query": "test", "distance": distance}
            hits = [texture_hits(found, textures.targets, split, **parts) for split in textures.splits.values()]
            direct = [accuracy(hit)["value"] for hit in hits]
            assert [written[f"top1_{distance}_split{number}"] for number in (1, 2)] == direct
            assert written[f"top1_{distance}"] == pytest.approx(np.mean(direct))
        assert metrics_of(job, run)["detail"]["gallery"] == ["train", "val"]


def ordered(job: InspectionJob, member: Member) -> tuple[Split, Any]:
    split = open_split(Path(job.config.data.root), "val")
    return split, receptive_field.erf_images(split, 5, 64, member.own.mean, member.own.deviation)


def test_both_maps_are_written_and_the_control_is_a_network_built_anew(inspected: InspectionProject) -> None:
    from lska.train.classifier import build_network

    job = inspected.job("receptive_field")
    measure_inspection(job, RUNS)
    for run, member in zip(RUNS, members_of(job.config, *RUNS), strict=True):
        written = values(job, run)
        fresh = build_network(job.config, run, 4).eval()
        with np.load(job.field(run)) as maps:
            assert set(maps) == {"trained", "untrained"}
            for name, made, suffix in (("trained", member.network, ""), ("untrained", fresh, "_untrained")):
                _, images = ordered(job, member)
                direct = receptive_field.mean_contribution(made, images, CPU)
                assert (maps[name].dtype, maps[name].shape, direct.used) == (np.float32, (64, 64), 5)
                np.testing.assert_allclose(maps[name], direct.scores, rtol=1e-4, atol=1e-12)
                ratios = receptive_field.ratios(direct.scores)
                assert {f"{key}{suffix}": entry["value"] for key, entry in ratios.items()}.items() <= written.items()


def test_weights_decide_the_map_of_the_trained_network_only(inspected: InspectionProject) -> None:
    job, run = inspected.job("receptive_field"), RUNS[0]
    maps = []
    for seed in (0, 5):
        path = job.config.weights_path(run)
        save_weights(network(job.config, run, seed), path)
        sidecar = json.loads(path.with_suffix(".json").read_text())
        write_json(path.with_suffix(".json"), sidecar | {"md5": file_md5(path)})
        measure_inspection(job, [run])
        with np.load(job.field(run)) as found:
            maps.append(dict(found))
    assert np.array_equal(maps[0]["untrained"], maps[1]["untrained"])
    assert not np.allclose(maps[0]["trained"], maps[1]["trained"])


def test_images_that_are_skipped_are_replaced(inspected: InspectionProject, monkeypatch: pytest.MonkeyPatch) -> None:
    original, calls = receptive_field.contribution, []

    def sometimes(network: Any, image: torch.Tensor) -> np.ndarray:
        calls.append(image)
        scores = original(network, image)
        return np.full_like(scores, np.nan) if len(calls) in (2, 3) else scores

    monkeypatch.setattr(receptive_field, "contribution", sometimes)
    job = inspected.job("receptive_field")
    measure_inspection(job, RUNS[:1])
    content = metrics_of(job, RUNS[0])
    assert len(calls) == (5 + 2) + 5
    assert content["detail"]["skipped"] == {"trained": 2, "untrained": 0}
    assert {entry["n"] for entry in content["metrics"].values()} == {5}


@pytest.mark.parametrize("normalization", ["imagenet", "recipe"])
def test_pixels_are_normalised_as_the_section_says(
    inspected: InspectionProject, monkeypatch: pytest.MonkeyPatch, normalization: str
) -> None:
    seen: list[torch.Tensor] = []
    original = receptive_field.contribution
    monkeypatch.setattr(
        receptive_field, "contribution", lambda network, image: (seen.append(image), original(network, image))[1]
    )
    job = inspected.job("receptive_field", {"receptive_field": {"normalization": normalization}})
    measure_inspection(job, RUNS[:1])
    means = {"imagenet": (0.485, 0.456, 0.406), "recipe": (0.5, 0.5, 0.5)}
    deviations = {"imagenet": (0.229, 0.224, 0.225), "recipe": (0.5, 0.5, 0.5)}
    split = open_split(Path(job.config.data.root), "val")
    (first,) = receptive_field.erf_images(split, 1, 64, means[normalization], deviations[normalization])
    assert torch.equal(seen[0], first)


@pytest.mark.parametrize(("task", "kind"), [("shape_texture", "png"), ("texture_knn", "jpg")])
def test_data_that_changed_since_their_record_are_refused(inspected: InspectionProject, task: str, kind: str) -> None:
    job = inspected.job(task)
    file = sorted(Path(job.data.root).rglob(f"*.{kind}"))[0]
    file.write_bytes(file.read_bytes() + b" ")
    with pytest.raises(DataError, match=f"{job.data.root} is not the set that {job.record} records"):
        measure_inspection(job, RUNS)
    assert not any(path.exists() for run in RUNS for path in job.outputs(run))


@pytest.mark.parametrize("task", TASKS)
def test_data_without_a_record_are_refused(inspected: InspectionProject, task: str) -> None:
    job = inspected.job(task)
    job.record.unlink()
    with pytest.raises(ValueError, match=f"{job.record} is missing or damaged .no such file.*lska data prepare"):
        measure_inspection(job, RUNS)
    assert not any(path.exists() for run in RUNS for path in job.outputs(run))


@pytest.mark.parametrize("task", TASKS)
def test_weights_of_another_configuration_are_refused(inspected: InspectionProject, task: str) -> None:
    with pytest.raises(StaleWeightsError):
        measure_inspection(inspected.job(task, {"training": {"overrides": {"epochs": 5}}}), RUNS)


@pytest.mark.parametrize("task", TASKS)
def test_the_command_measures_the_runs_given_or_all(inspected: InspectionProject, task: str) -> None:
    job = inspected.job(task)
    assert inspected.command("evaluate", task, "--checkpoints", str(RUNS[0])) == 0
    assert [job.metrics(run).exists() for run in RUNS] == [True, False, False]
    assert inspected.command("evaluate", task) == 0
    assert all(path.exists() for run in RUNS for path in job.outputs(run))


def test_networks_of_other_classes_have_dimensions_and_no_shape_bias(
    inspected: InspectionProject, caplog: pytest.LogCaptureFixture
) -> None:
    job = inspected.job("shape_texture", {"shape_texture": {"data": {"generate": {"classes": 5}}}})
    from lska.data.inspected_sets import prepare_inspected

    prepare_inspected(job)
    measure_inspection(job, RUNS[:1])
    found = metrics_of(job, RUNS[0])["metrics"]
    assert found["shape_bias"]["value"] is None and found["cue_decisions"]["value"] is None
    assert found["neurons"]["value"] > 0 and found["shape_dimensions_reference"]["value"] is not None
    assert f"{job.data.root} shows no classes of these networks" in caplog.text
