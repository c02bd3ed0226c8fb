"""Looking inside networks: metric files hold what the parts give on the same images, and nearest rows are exact."""

from __future__ import annotations

import json
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_inspection
import torch
from PIL import Image
from sklearn.neighbors import NearestNeighbors
from tiny_inspection import InspectionProject, metrics_of
from tiny_project import Project, fresh, networks
from tiny_robustness import CPU, RUNS, members_of, publish
from torch import nn

from lska.data.checking import prepare_inspected
from lska.data.cue_conflict import read_cue_conflict
from lska.data.dtd import read_textures
from lska.data.entries import DataError
from lska.data.folders import open_split
from lska.evaluate import inspecting, measurement, receptive_field, shape_texture
from lska.evaluate.inspecting import (
    DISTANCES,
    category_classes,
    measure_inspection,
    nearest,
    responses,
    texture_metrics,
)
from lska.evaluate.measurement import StaleWeightsError, Subject
from lska.evaluate.scores import image_values
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


def test_nearest_textures_are_those_of_the_features(inspected: InspectionProject, decoded: list[str]) -> None:
    parts = {"gallery": ("train", "val"), "query": "test"}
    job = inspected.job("texture_knn", {"texture_knn": {"gallery": ["train", "val"], "query": "test"}})
    measure_inspection(job, networks(job, RUNS))
    textures = read_textures(Path(job.data.root))
    files, subjects = [textures.folder / "images" / name for name in textures.names], members_of(job.config, *RUNS)
    assert len(decoded) == len(files), "every image is decoded once"
    for run, subject in zip(RUNS, subjects, strict=True):
        found = features(subject.network, batch(subject, files))[0].numpy()
        direct, _ = texture_metrics(found, textures.targets, textures.splits, **parts)
        assert values(job, run) == {name: entry["value"] for name, entry in direct.items()}
        assert metrics_of(job, run)["detail"]["gallery"] == ["train", "val"]
    nn.init.constant_(subjects[0].network.patch_embed1.proj.weight, torch.nan)
    with pytest.raises(ValueError, match="lska-k7-s0: the network's features are not finite; .*train it again"):
        responses(subjects, textures.images, job.means, CPU)


def by_hand(job: InspectionJob, network: Any, mean: Any, deviation: Any) -> receptive_field.Contribution:
    split = open_split(Path(job.clean.root), "val")
    images = receptive_field.erf_images(split, 64, mean, deviation)
    return receptive_field.mean_contribution(network, images, CPU, 5)


def test_both_maps_are_written_and_the_control_is_a_network_built_anew(
    inspected: InspectionProject, monkeypatch: pytest.MonkeyPatch
) -> None:
    for normalization in ("recipe", "imagenet"):
        job = inspected.job("receptive_field", {"receptive_field": {"normalization": normalization}})
        run = RUNS[1]
        measure_inspection(job, networks(job, [run]))
        (subject,) = members_of(job.config, run)
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


# Nearest rows


def exact(gallery: torch.Tensor, query: torch.Tensor, distance: str) -> list[int]:
    """Nearest rows by exact arithmetic, the smallest of equal ones."""
    rows = [[[Fraction(value) for value in row] for row in part.tolist()] for part in (gallery, query)]
    score = {"euclidean": _squared, "cosine": _turned}[distance]
    return [min(range(len(rows[0])), key=lambda index: (score(rows[0][index], q), index)) for q in rows[1]]


def _squared(gallery: list[Fraction], query: list[Fraction]) -> Fraction:
    return sum((a - b) ** 2 for a, b in zip(gallery, query, strict=True))


def _turned(gallery: list[Fraction], query: list[Fraction]) -> Fraction:
    """What grows with the angle: minus the signed square of the cosine, times the query's squared length."""
    product = sum(a * b for a, b in zip(gallery, query, strict=True))
    return -product * abs(product) / sum(a * a for a in gallery)


def normal(rows: int, columns: int, seed: int) -> torch.Tensor:
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("distance", DISTANCES)
def test_random_rows_have_the_neighbours_that_scikit_learn_finds(distance: str) -> None:
    for rows, columns in ((1, 5), (1500, 64), (40, 257)):
        gallery, query = normal(rows, columns, 1) + 0.2, normal(1100, columns, 2)
        brute = NearestNeighbors(n_neighbors=1, algorithm="brute", metric=distance).fit(gallery.double().numpy())
        expected = brute.kneighbors(query.double().numpy(), return_distance=False)[:, 0]
        assert (nearest(gallery, query, distance).numpy() == expected).all()
    assert nearest(normal(5, 3, 0), torch.empty(0, 3), distance).shape == (0,)


@pytest.mark.parametrize("distance", DISTANCES)
@pytest.mark.parametrize("offset", [1.0, 1000.0])
def test_near_ties_are_told_apart_as_exact_arithmetic_does(distance: str, offset: float) -> None:
    """Rows that differ in their last bits only, where products of matrices in 32 bits say nothing."""
    step = float(np.spacing(np.float32(offset)))
    generator = torch.Generator().manual_seed(3)
    gallery, query = (
        offset + step * torch.randint(0, 4, (rows, 12), generator=generator).float() for rows in (60, 40)
    )
    expected = exact(gallery, query, distance)
    assert nearest(gallery, query, distance).tolist() == expected
    products = query @ gallery.T - (gallery.square().sum(dim=1) / 2 if distance == "euclidean" else 0)
    assert products.argmax(dim=1).tolist() != expected
    for scale in (1e-30, 1e30):
        few = normal(50, 16, 4), normal(30, 16, 5)
        assert torch.equal(nearest(*(rows * scale for rows in few), distance), nearest(*few, distance))


@pytest.mark.parametrize("distance", DISTANCES)
def test_blocks_change_nothing_and_of_equal_rows_the_first_counts(
    monkeypatch: pytest.MonkeyPatch, distance: str
) -> None:
    distinct = normal(9, 11, 6)
    gallery, query = distinct[torch.arange(40) % 9], normal(20, 11, 7)
    expected = nearest(distinct, query, distance)
    assert torch.equal(nearest(gallery, query, distance), expected)
    largest, original = [], inspecting._sums
    monkeypatch.setattr(inspecting, "_sums", lambda rows: largest.append(len(rows)) or original(rows))
    for block, pairs in ((1, 1), (3, 2), (7, 1000), (50, 5)):
        monkeypatch.setattr(inspecting, "BLOCK", block)
        monkeypatch.setattr(inspecting, "PAIRS", pairs)
        largest.clear()
        assert torch.equal(nearest(gallery, query, distance), expected)
        assert max(largest) <= max(len(gallery), pairs), "memory is bounded"
        assert nearest(gallery, gallery, distance).tolist() == [index % 9 for index in range(40)]


def test_a_row_of_zeros_has_no_direction() -> None:
    with pytest.raises(ValueError, match="all zero have no direction"):
        nearest(torch.tensor([[1.0], [0.0]]), normal(2, 1, 0), "cosine")
    assert nearest(torch.tensor([[1.0], [0.0]]), torch.tensor([[0.1]]), "euclidean").tolist() == [1]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device on this machine")
@pytest.mark.parametrize("distance", DISTANCES)
def test_a_gpu_finds_the_same_rows(distance: str) -> None:
    gallery = (1000 + torch.randint(0, 3, (1500, 12), generator=torch.Generator().manual_seed(1)) / 8192).float()
    query = normal(1200, 12, 2) / 8192 + 1000
    assert torch.equal(nearest(gallery.cuda(), query.cuda(), distance).cpu(), nearest(gallery, query, distance))


# Accuracy from them

FEATURES = np.array([[1, 0], [0, 1], [9, 1], [1, 9], [4, 5], [0.5, 0.6]], dtype=np.float32)
TEXTURES = np.array([0, 1, 0, 1, 1, 0], dtype=np.int32)
SPLITS = {
    1: {"train": np.array([0, 1]), "val": np.array([2, 3, 4]), "test": np.array([5])},
    2: {"train": np.array([2, 4]), "val": np.array([0, 1, 5]), "test": np.array([3])},
}


def test_metrics_hold_every_split_their_mean_and_its_deviation() -> None:
    found, outcomes = texture_metrics(FEATURES, TEXTURES, SPLITS)
    names = ("_split1", "_split2", "", "_deviation")
    assert set(found) == {f"top1_{distance}{name}" for distance in DISTANCES for name in names}
    shares = [found[f"top1_cosine_split{number}"]["value"] for number in (1, 2)]
    assert shares == pytest.approx([100, 200 / 3])
    assert found["top1_euclidean_split2"]["value"] == pytest.approx(100 / 3)
    assert found["top1_cosine_split2"]["n"] == 3
    assert found["top1_cosine_split2"]["standard_error"] == pytest.approx(100 * (2 / 9 / 3) ** 0.5)
    assert found["top1_cosine"]["value"] == pytest.approx(np.mean(shares)) and found["top1_cosine"]["n"] == 6
    assert found["top1_cosine_deviation"] == {"value": pytest.approx(np.std(shares, ddof=1)), "unit": "%", "n": 2}
    errors = [found[f"top1_cosine_split{number}"]["standard_error"] for number in (1, 2)]
    assert found["top1_cosine"]["standard_error"] == pytest.approx(np.mean(errors))
    assert outcomes.images["top1_cosine"].mean() == pytest.approx(found["top1_cosine"]["value"])
    single, alone = texture_metrics(FEATURES, TEXTURES, {1: SPLITS[1]})
    assert set(alone.images["top1_cosine"]) <= {0, 100} and single["top1_cosine_deviation"]["value"] is None
    # Image 4, (4, 5), lies nearest to image 5 of the other class, which only the part `test` has.
    wider, _ = texture_metrics(FEATURES, TEXTURES, {1: SPLITS[1]}, gallery=("train", "test"))
    assert (single["top1_cosine"]["value"], wider["top1_cosine"]["value"]) == (100, pytest.approx(200 / 3))


def crossed_splits(images: int, number: int, seed: int = 0) -> dict[int, np.ndarray]:
    """Random thirds of the images, one for each split."""
    generator = np.random.default_rng(seed)
    return {split: generator.permutation(images)[: images // 3] for split in range(1, number + 1)}


def test_values_of_images_have_the_mean_over_splits_and_their_spread_is_its_error() -> None:
    number, images, generator = 10, 300, np.random.default_rng(0)
    errors, means = [], []
    for trial in range(300):
        asked = crossed_splits(images, number, trial)
        right = generator.random(images) < 0.6
        values = image_values(asked, {split: right[places] for split, places in asked.items()})
        queried = np.unique(np.concatenate(list(asked.values())))
        # An image that is right adds to the mean, one that is wrong takes from it.
        assert ((values > values.mean()) == right[queried]).all()
        assert values.mean() == pytest.approx(100 * np.mean([right[places].mean() for places in asked.values()]))
        errors.append(values.std(ddof=1) / len(values) ** 0.5)
        means.append(values.mean())
    assert np.mean(errors) == pytest.approx(np.std(means), rel=0.12)
    # That an image is in more splits than another is no error where all are alike.
    alike = {split: np.ones(images // 3, bool) for split in range(1, number + 1)}
    assert image_values(asked, alike).std() < 1e-9
    better = right | (generator.random(images) < 0.05)
    other = image_values(asked, {split: better[places] for split, places in asked.items()})
    assert 0 < (other - values).std(ddof=1) < np.hypot(values.std(ddof=1), other.std(ddof=1)) / 2
