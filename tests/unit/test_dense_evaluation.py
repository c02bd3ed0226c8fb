"""Average precision and mIoU: by hand, against the libraries' own, on bootstrap samples, and to metric files."""

from __future__ import annotations

import contextlib
import copy
import io
import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import tiny_dense
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image as Picture
from pycocotools.coco import COCO
from tiny_dense import DenseProject

from lska.evaluate import box_ap
from lska.evaluate.box_ap import (
    AT_ONCE,
    STATISTICS,
    average_precision,
    precisions,
    resampled_precisions,
    scored,
)
from lska.evaluate.dense_scores import Predictor, areas, class_metrics, coco_results, resampled, shares
from lska.evaluate.measurement import StaleWeightsError
from lska.provenance.metric_files import file_md5, validate
from lska.provenance.outcomes import RESAMPLES, mean_of_parts, read_outcomes, resample_counts, standard_error

SIDE = 200
Image = tuple[list[dict[str, Any]], list[dict[str, Any]]]
"""Objects and detections."""


def index(images: Sequence[Image], categories: int = 3) -> tuple[COCO, list[dict[str, Any]]]:
    """Annotations and results of a set that shows `images`."""
    objects: list[dict[str, Any]] = []
    found: list[dict[str, Any]] = []
    for number, (true, detected) in enumerate(images, 1):
        objects += [{**one, "image_id": number, "id": len(objects) + place} for place, one in enumerate(true, 1)]
        found += [{**one, "image_id": number} for one in detected]
    truth = COCO()
    truth.dataset = copy.deepcopy({
        "images": [{"id": number, "width": SIDE, "height": SIDE} for number in range(1, len(images) + 1)],
        "categories": [{"id": number, "name": str(number)} for number in range(1, categories + 1)],
        "annotations": objects,
    })  # fmt: skip
    with contextlib.redirect_stdout(io.StringIO()):
        truth.createIndex()
    return truth, found


# Average precision


def thing(x: int, y: int, width: int, height: int, **more: Any) -> dict[str, Any]:
    return {"category_id": 1, "bbox": [x, y, width, height], "area": width * height, "iscrowd": 0, **more}


def test_precision_by_hand() -> None:
    def precision(true: list[dict[str, Any]], found: list[dict[str, Any]], kind: str = "box") -> dict[str, Any]:
        entries = average_precision(scored(*index([(true, found)]), kind), kind)
        return {name.removeprefix(f"{kind}_"): entry["value"] for name, entry in entries.items()}

    # One object is small (400 pixels), one medium (2,500); there is no large one.
    pair = [thing(10, 10, 20, 20), thing(40, 40, 50, 50)]
    corners = {"bboxes": np.array([[10, 10, 30, 30], [40, 40, 90, 90.0]]), "scores": np.array([0.9, 0.8]),
               "labels": np.zeros(2, int)}  # fmt: skip
    perfect = precision(pair, list(coco_results(1, corners, (1,))))
    assert perfect.pop("ap_large") is None and perfect == pytest.approx(dict.fromkeys(perfect, 100))
    # Intersection 62 of union 100: above the thresholds 0.5, 0.55 and 0.6.
    part = precision([thing(0, 0, 10, 10)], [thing(0, 0, 10, 6.2, score=1.0)])
    assert (part["ap50"], part["ap75"], part["ap"]) == (pytest.approx(100), 0, pytest.approx(30))
    none = precision([thing(0, 0, 10, 10)], [])
    assert none["ap"] == none["ap50"] == 0 and none["ap_large"] is None
    mask = np.zeros((1, SIDE, SIDE), dtype=bool)
    mask[0, :10, :8] = True
    outlined = [thing(0, 0, 10, 10, segmentation=[[0, 0, 10, 0, 10, 10, 0, 10]])]
    found = {"bboxes": np.array([[0, 0, 10, 10.0]]), "scores": np.ones(1), "labels": np.zeros(1, int), "masks": mask}
    results = list(coco_results(1, found, (1,)))
    # Four fifths of the object: above seven of ten thresholds, 0.5 to 0.8.
    assert precision(outlined, results)["ap"] == pytest.approx(100)
    assert precision(outlined, results, "mask")["ap"] == pytest.approx(70)


def statistics(images: Sequence[Image]) -> np.ndarray:
    """pycocotools' six statistics in percent, NaN for -1."""
    stats = scored(*index(images), "box").stats[:6]
    return np.where(stats < 0, np.nan, 100 * stats)


def weighted(images: Sequence[Image], counts: np.ndarray) -> dict[str, np.ndarray]:
    """Our statistics of each column of `counts` (images, samples), with the numbers taken as samples."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(box_ap, "resample_columns", lambda *_: iter([counts.astype(np.float64)]))
        return resampled_precisions(scored(*index(images), "box"), counts.shape[1])


def repeated(images: Sequence[Image], counts: np.ndarray) -> list[Image]:
    return [image for image, count in zip(images, counts, strict=True) for _ in range(count)]


def scene(generator: np.random.Generator, categories: int = 3) -> Image:
    """Up to five objects of all sizes, some of them crowds, and up to eight detections, most near an object."""
    boxes = np.concatenate([generator.integers(0, 60, (generator.integers(0, 6), 2)), np.zeros((0, 2), int)])
    true = [
        {"category_id": int(generator.integers(1, categories + 1)), "iscrowd": int(generator.random() < 0.15),
         "bbox": [int(x), int(y), *(sides := generator.integers(6, 130, 2).tolist())], "area": sides[0] * sides[1]}
        for x, y in boxes
    ]  # fmt: skip
    found = []
    for number in range(generator.integers(0, 9)):
        near = true[generator.integers(len(true))] if true and generator.random() < 0.7 else None
        box = generator.uniform(5, 120, 4) if near is None else np.array(near["bbox"]) + generator.normal(0, 3, 4)
        category = near["category_id"] if near else int(generator.integers(1, categories + 1))
        # Scores are equal between images, which pycocotools sorts by image, but not within one.
        score = (generator.permutation(9)[0] * 9 + number) / 81
        found.append({"category_id": category, "bbox": np.maximum(box, 1).tolist(), "score": score})
    return true, found


def scenes(count: int, seed: int = 0) -> list[Image]:
    generator = np.random.default_rng(seed)
    return [scene(generator) for _ in range(count)]


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.lists(st.integers(0, 4), min_size=1, max_size=7).filter(any))
def test_integer_weights_are_repeated_images(seed: int, counts: list[int]) -> None:
    images, drawn = scenes(len(counts), seed), np.array(counts)
    ours, expected = weighted(images, drawn[:, None]), statistics(repeated(images, drawn))
    np.testing.assert_allclose([ours[name][0] for name in STATISTICS], expected, rtol=0, atol=1e-10)


def test_samples_are_those_of_the_image_counts_and_their_deviation_is_the_error() -> None:
    images = scenes(25)
    scoring = scored(*index(images), "box")
    samples, entries = resampled_precisions(scoring, 2 * AT_ONCE + 7), average_precision(scoring, "box")
    assert {len(values) for values in samples.values()} == {2 * AT_ONCE + 7}
    for number, counts in enumerate(resample_counts(25, resamples=4)):
        expected = statistics(repeated(images, counts))
        np.testing.assert_allclose([samples[name][number] for name in STATISTICS], expected, rtol=0, atol=1e-10)
    for name, parts in precisions(scoring).items():
        assert mean_of_parts(parts) == pytest.approx(entries[f"box_{name}"]["value"], abs=1e-9)
    # Around the value on all images, by an error that shrinks with their number.
    error = standard_error(samples["ap50"])
    assert abs(samples["ap50"].mean() - entries["box_ap50"]["value"]) < error
    fourfold = resampled_precisions(scored(*index(images * 4), "box"), 200)
    assert standard_error(fourfold["ap50"]) == pytest.approx(error / 2, rel=0.25)
    # Another detector, which misses one detection in ten: a difference within samples has a smaller error.
    generator = np.random.default_rng(1)
    other = [(true, [one for one in found if generator.random() > 0.1]) for true, found in images]
    second = resampled_precisions(scored(*index(other), "box"), 2 * AT_ONCE + 7)["ap50"]
    unpaired = np.hypot(error, second.std(ddof=1))
    assert 0 < (samples["ap50"] - second).std(ddof=1) < unpaired / 2


# Segmentation


def test_areas_of_an_image_by_hand() -> None:
    labels, predicted = np.array([[0, 0, 1], [1, 255, 255]]), np.array([[0, 1, 1], [1, 0, 2]])
    total = areas(predicted, labels, 3)
    assert total.tolist() == [[1, 2, 0], [1, 3, 0], [2, 2, 0]]
    found, metrics = shares(total), class_metrics(total[None], ("sky", "pole", "car"))
    assert found["iou"][:2] == pytest.approx([1 / 2, 2 / 3]) and np.isnan(found["iou"][2])
    assert found["miou"] == pytest.approx(7 / 12) and found["aacc"] == 0.75 and found["macc"] == 0.75
    assert metrics["iou/sky"]["value"] == 50 and metrics["iou/car"]["value"] is None
    assert metrics["miou"] == {"value": pytest.approx(700 / 12), "unit": "%", "n": 1}


def random_maps(images: int) -> list[tuple[np.ndarray, np.ndarray]]:
    generator = np.random.default_rng(0)
    return [
        (generator.integers(0, 4, (20, 30)), generator.choice([0, 1, 2, 255], (20, 30))) for _ in range(images)
    ]


def areas_of(maps: Sequence[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
    return np.stack([areas(predicted, labels, 4) for predicted, labels in maps])


def test_scores_equal_those_of_mmseg() -> None:
    from lska.models.openmmlab import use

    use("segmentation")
    from mmseg.evaluation import IoUMetric

    maps = random_maps(5)
    pairs = [IoUMetric.intersect_and_union(torch.tensor(one), torch.tensor(labels), 4, 255) for one, labels in maps]
    expected = IoUMetric.total_area_to_metrics(*(sum(part) for part in zip(*pairs, strict=True)), metrics=["mIoU"])
    mine = shares(areas_of(maps).sum(axis=0))
    assert mine["iou"] == pytest.approx(expected["IoU"], nan_ok=True)
    assert mine["aacc"] == pytest.approx(float(expected["aAcc"]))
    assert mine["miou"] == pytest.approx(np.nanmean(expected["IoU"]))
    assert mine["macc"] == pytest.approx(np.nanmean(expected["Acc"]))


def test_samples_are_the_scores_of_the_images_that_were_drawn() -> None:
    total = areas_of(random_maps(12))
    samples = resampled(total, 5)
    for number, counts in enumerate(resample_counts(12, resamples=5)):
        drawn = np.repeat(np.arange(12), counts)
        expected = shares(total[drawn].sum(axis=0))
        for name, found in samples.items():
            assert found[number] == pytest.approx(100 * float(expected[name]), rel=1e-12)
    # Four times as many images halve the error; where all are alike there is none.
    every = (total, np.tile(total, (4, 1, 1)), np.repeat(total[:1], 12, axis=0))
    error, more, same = (standard_error(resampled(each)["aacc"]) for each in every)
    assert more == pytest.approx(error / 2, rel=0.15) and same < 1e-10 < error < 5


# Metric files


@pytest.fixture(scope="module")
def evaluated(dense_project: DenseProject) -> dict[str, Any]:
    """Jobs of all heads, fine-tuned and evaluated through the command line."""
    jobs = {head: dense_project.trained(head) for head in tiny_dense.RECIPES}
    for job in jobs.values():
        assert dense_project.command("evaluate", "dense", str(job.run), "--task", job.task) == 0
    return jobs


def test_the_metric_files_name_everything(evaluated: dict[str, Any], logging_as_before: None) -> None:
    classes = ("background", "arrow", "bottle", "circle")
    for head, job in evaluated.items():
        content = json.loads(job.metrics.read_text())
        validate(content, "metrics", str(job.metrics))
        kinds = {"retinanet": ["box"], "mask_rcnn": ["box", "mask"], "semantic_fpn": []}[head]
        expected = {f"{kind}_{suffix}" for kind in kinds for suffix in STATISTICS}
        if head == "semantic_fpn":
            expected = {"miou", "macc", "aacc"} | {f"iou/{name}" for name in classes}
        assert set(content["metrics"]) == expected
        assert content["weights"] == {"md5": file_md5(job.weights), "origin": "trained"}
        outcomes = read_outcomes(job.outcomes, content["outcomes"])
        assert set(outcomes.samples) == {n for n in expected if not n.startswith("iou/")} and not outcomes.images
        for name, samples in outcomes.samples.items():
            entry = content["metrics"][name]
            assert samples.shape == (RESAMPLES,)
            error = None if entry["value"] is None else pytest.approx(standard_error(samples), rel=1e-5, abs=1e-6)
            assert entry.get("standard_error") == error
        assert content["recipe"] == job.digest() and content["data"] == job.data.identity()
        assert content["detail"]["backbone"]["md5"] == file_md5(job.backbone)
        assert content["detail"]["preprocessing"] == job.pixels.to_dict()
        with Picture.open(job.samples) as picture:
            assert picture.format == "PNG" and picture.width > 300


def test_precision_equals_that_of_mmdet(evaluated: dict[str, Any]) -> None:
    from mmdet.evaluation import CocoMetric

    job, kinds = evaluated["mask_rcnn"], {"bbox": "box", "segm": "mask"}
    predictor = Predictor.open(job)
    library = CocoMetric(ann_file=str(predictor.split.annotations), metric=list(kinds))
    library.dataset_meta = {"classes": predictor.split.classes}
    for sample, _ in predictor.predictions(predictor.subject(torch.device("cpu")).network):
        assert not torch.is_inference_mode_enabled(), "the mode is that of the network, not of who takes predictions"
        library.process({}, [sample.to_dict()])
    expected, mine = library.evaluate(len(predictor)), json.loads(job.metrics.read_text())["metrics"]
    for theirs, ours in kinds.items():
        for suffix, name in {"mAP": "ap", "mAP_50": "ap50", "mAP_m": "ap_medium"}.items():
            # The library rounds to three decimals, and writes -1 where there is no object of a size.
            value = mine[f"{ours}_{name}"]["value"]
            rounded = -1 if value is None else pytest.approx(value / 100, abs=6e-4)
            assert expected[f"coco/{theirs}_{suffix}"] == rounded


def test_weights_of_another_recipe_are_refused(dense_project: DenseProject, evaluated: dict[str, Any]) -> None:
    changed = {"detection": {"heads": {"retinanet": {"overrides": {"epochs": 4}}}}}
    with pytest.raises(StaleWeightsError, match="trained with other settings than today's .epochs 3 -> 4."):
        Predictor.open(dense_project.job("retinanet", changed))
