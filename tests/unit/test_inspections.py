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
from tiny_project import Project, fresh, networks
from tiny_robustness import CPU, RUNS, members_of, publish

from lska.data.checking import prepare_inspected
from lska.data.cue_conflict import read_cue_conflict
from lska.data.dtd import read_textures
from lska.data.entries import DataError
from lska.data.folders import open_split
from lska.evaluate import measurement, receptive_field, shape_texture
from lska.evaluate.inspecting import category_classes, measure_inspection, texture_metrics
from lska.evaluate.measurement import StaleWeightsError, Subject
from lska.models.scoring import features
from lska.provenance.metric_files import outcomes_path, validate
from lska.provenance.outcomes import RESAMPLES, read_outcomes, standard_error
from lska.settings.recipes import IMAGENET_DEVIATION, IMAGENET_MEAN
from lska.settings.tasks import INSPECTIONS, InspectionJob
from lska.tables.specs import TARGETS, load_spec
from lska.train.loading import test_transform as validation_transform


@pytest.fixture
def inspected(project: Project) -> InspectionProject:
    return tiny_inspection.make(project)


def values(job: InspectionJob, run: Any) -> dict[str, float | None]:
    return {name: entry["value"] for name, entry in metrics_of(job, run)["metrics"].items()}


def batch(subject: Subject, files: list[Path]) -> torch.Tensor:
    """Images as the network's validation images were."""
    return torch.stack([validation_transform(subject.own)(Image.open(file).convert("RGB")) for file in files])


@pytest.mark.parametrize("task", INSPECTIONS)
def test_metric_files_have_what_every_table_names_whoever_is_measured_with_them(
    inspected: InspectionProject, task: str
) -> None:
    job = inspected.job(task)
    assert inspected.command("evaluate", task) == 0
    columns = [column for target in TARGETS for column in load_spec(target).columns if column.task == task]
    named = {column.metric for column in columns}
    for run in RUNS:
        content = metrics_of(job, run)
        validate(content, "metrics", str(job.metrics(run)))
        assert named and named <= set(content["metrics"])
        assert all(content["metrics"][column.metric]["unit"] == column.unit for column in columns)
        sidecar = json.loads(job.weights_path(run).with_suffix(".json").read_text())
        assert content["weights"] == {"md5": sidecar["md5"], "origin": "trained"}
        assert (content["task"], content["run"], content["recipe"]) == (task, str(run), sidecar["recipe"])
        assert content["data"] == job.data.identity()
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
    assert len({str(values(job, run)) for run in RUNS}) == 3, "every network has numbers of its own"
    together = values(job, RUNS[1]), metrics_of(job, RUNS[1])["outcomes"]
    for run in RUNS:
        job.metrics(run).unlink()
    assert inspected.command("evaluate", task, "--checkpoints", str(RUNS[1])) == 0
    assert (values(job, RUNS[1]), metrics_of(job, RUNS[1])["outcomes"]) == together
    assert [job.metrics(run).exists() for run in RUNS] == [False, True, False]


@pytest.mark.parametrize("changes", [{}, {"stage": 3, "pooled": False, "pairs": 30}], ids=str)
def test_dimensions_and_bias_are_those_of_the_features(
    inspected: InspectionProject, changes: dict[str, Any], decoded: list[str]
) -> None:
    job = inspected.job("shape_texture", {"shape_texture": changes})
    measure_inspection(job, networks(job, RUNS))
    assert len(decoded) == len(set(decoded)) == 48
    cues = read_cue_conflict(Path(job.data.root))
    pairs = [shape_texture.draw_pairs(one, job.section.pairs, 3) for one in shape_texture.sharing_pairs(cues)]
    # 12 shapes with 4 textures each have 6 pairs each.
    assert len(pairs[0]) == (30 if changes else 72)
    groups = category_classes(cues, tuple(sorted(path.name for path in Path("made/shapes/val").iterdir())))
    for run, subject in zip(RUNS, members_of(job.config, *RUNS), strict=True):
        prepared = batch(subject, [cues.name(index) for index in range(len(cues))])
        found = features(subject.network, prepared, job.section.stage, job.section.pooled)[0].numpy()
        direct = shape_texture.dimension_metrics(shape_texture.dimensions(found, *pairs, resamples=20, seed=3))
        with torch.inference_mode():
            probabilities = subject.network(prepared).softmax(dim=1).numpy()
        direct |= shape_texture.bias_metrics(shape_texture.decide(probabilities, groups, cues), tuple(groups))
        assert set(direct) == set(values(job, run))
        for name, entry in metrics_of(job, run)["metrics"].items():
            assert entry["value"] == pytest.approx(direct[name]["value"], rel=1e-3, abs=1e-3)
            assert entry.get("n") == direct[name].get("n")


@pytest.mark.parametrize("reading", ["as_stored", "enlarged"])
def test_cue_conflict_images_are_taken_as_they_are_or_enlarged_and_cropped(
    inspected: InspectionProject, monkeypatch: pytest.MonkeyPatch, reading: str
) -> None:
    crop, seen, original = {"training": {"overrides": {"test_crop": 0.8}}}, [], measurement.normalized
    publish(inspected.config(crop), RUNS[0])
    monkeypatch.setattr(measurement, "normalized", lambda images, *how: seen.append(images) or original(images, *how))
    job = inspected.job("shape_texture", crop, {"stored_images": reading})
    measure_inspection(job, networks(job, RUNS[:1]))
    image = Image.open(read_cue_conflict(Path(job.data.root)).name(0)).convert("RGB")
    if reading == "enlarged":
        image = image.resize((40, 40), Image.Resampling.BILINEAR).crop((4, 4, 36, 36))
    assert np.array_equal(seen[0][0].permute(1, 2, 0).numpy(), np.asarray(image))
    assert metrics_of(job, RUNS[0])["detail"]["stored_images"] == reading


def test_networks_of_other_classes_have_dimensions_and_no_shape_bias(
    inspected: InspectionProject, caplog: pytest.LogCaptureFixture
) -> None:
    job = inspected.job("shape_texture", {"shape_texture": {"data": {"generate": {"classes": 5}}}})
    prepare_inspected(job)
    measure_inspection(job, networks(job, RUNS[:1]))
    found = values(job, RUNS[0])
    assert found["shape_bias"] is found["cue_decisions"] is None
    assert found["neurons"] > 0 and found["shape_dimensions_reference"] is not None
    assert "shows no classes of these networks: no shape bias" in caplog.text


def test_nearest_textures_are_those_of_the_features(inspected: InspectionProject) -> None:
    parts = {"gallery": ("train", "val"), "query": "test"}
    job = inspected.job("texture_knn", {"texture_knn": {"gallery": ["train", "val"], "query": "test"}})
    measure_inspection(job, networks(job, RUNS))
    textures = read_textures(Path(job.data.root))
    files = [textures.folder / "images" / name for name in textures.names]
    for run, subject in zip(RUNS, members_of(job.config, *RUNS), strict=True):
        found = features(subject.network, batch(subject, files))[0].numpy()
        direct, _ = texture_metrics(found, textures.targets, textures.splits, **parts)
        assert values(job, run) == {name: entry["value"] for name, entry in direct.items()}
        assert metrics_of(job, run)["detail"]["gallery"] == ["train", "val"]


def by_hand(job: InspectionJob, network: Any, mean: Any, deviation: Any) -> receptive_field.Contribution:
    split = open_split(Path(job.clean.root), "val")
    images = receptive_field.erf_images(split, 64, mean, deviation)
    return receptive_field.mean_contribution(network, images, CPU, 5)


def test_both_maps_are_written_and_the_control_is_a_network_built_anew(
    inspected: InspectionProject, monkeypatch: pytest.MonkeyPatch
) -> None:
    for normalization in ("recipe", "imagenet"):
        job = inspected.job("receptive_field", {"receptive_field": {"normalization": normalization}})
        measure_inspection(job, networks(job, RUNS[:2]))
        for run, subject in zip(RUNS[:2], members_of(job.config, *RUNS[:2]), strict=True):
            pixels = (subject.own.mean, subject.own.deviation)
            if normalization == "imagenet":
                pixels = (IMAGENET_MEAN, IMAGENET_DEVIATION)
            detail, untrained = metrics_of(job, run)["detail"], fresh(job.config, run, 4).eval()
            assert detail["normalization"] == {"mean": list(pixels[0]), "deviation": list(pixels[1])}
            assert detail["preprocessing"] == (detail["normalization"] if normalization == "recipe" else {})
            with np.load(job.field(run)) as maps:
                assert set(maps) == {"trained", "untrained"}
                for name, made, suffix in (("trained", subject.network, ""), ("untrained", untrained, "_untrained")):
                    direct = by_hand(job, made, *pixels)
                    assert (maps[name].dtype, maps[name].shape, len(direct.maps)) == (np.float32, (64, 64), 5)
                    np.testing.assert_allclose(maps[name], direct.scores, rtol=1e-4, atol=1e-12)
                    ratios = receptive_field.ratios(direct.scores)
                    expected = {f"{key}{suffix}": entry["value"] for key, entry in ratios.items()}
                    assert expected.items() <= values(job, run).items()
    original, calls = receptive_field.contribution, []

    def sometimes(network: Any, image: torch.Tensor) -> np.ndarray:
        calls.append(image)
        scores = original(network, image)
        return np.full_like(scores, np.nan) if len(calls) in (2, 3) else scores

    monkeypatch.setattr(receptive_field, "contribution", sometimes)
    measure_inspection(job, networks(job, RUNS[:1]))
    content = metrics_of(job, RUNS[0])
    assert len(calls) == (5 + 2) + 5 and content["detail"]["skipped"] == {"trained": 2, "untrained": 0}
    assert {entry["n"] for entry in content["metrics"].values()} == {5}


def test_data_that_changed_or_have_no_record_and_weights_of_another_recipe_are_refused(
    inspected: InspectionProject,
) -> None:
    for task, kind in (("shape_texture", "png"), ("texture_knn", "jpg"), ("receptive_field", None)):
        job = inspected.job(task)
        with pytest.raises(StaleWeightsError):
            other = inspected.job(task, {"training": {"overrides": {"epochs": 5}}})
            measure_inspection(other, networks(other, RUNS))
        if kind is not None:
            file = sorted(Path(job.data.root).rglob(f"*.{kind}"))[0]
            file.write_bytes(file.read_bytes() + b" ")
            with pytest.raises(DataError, match=f"{job.data.root} is not the set that {job.record} records"):
                measure_inspection(job, networks(job, RUNS))
        job.record.unlink()
        with pytest.raises(ValueError, match=f"{job.record} is missing or damaged .no such file.*lska data prepare"):
            measure_inspection(job, networks(job, RUNS))
        assert not any(path.exists() for run in RUNS for path in job.outputs(run))

