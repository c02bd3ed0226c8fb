"""Average precision and mIoU: by hand, against the libraries' own metrics, and from weights to metric files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_dense
import torch
from PIL import Image
from tiny_dense import DenseProject

from lska.evaluate.box_ap import average_precision, coco_results, read_truth, scored
from lska.evaluate.segmentation_iou import Areas, areas, as_metrics, resampled, scores
from lska.provenance.metric_files import file_md5, validate
from lska.provenance.outcomes import RESAMPLES, read_outcomes, resample_counts, standard_error


def annotations(folder: Path, boxes: list[list[float]]) -> Path:
    """One image of 100 pixels with `boxes` (x, y, width, height) of category 7."""
    objects = [
        {"id": i + 1, "image_id": 1, "category_id": 7, "bbox": box, "area": box[2] * box[3], "iscrowd": 0}
        for i, box in enumerate(boxes)
    ]
    content = {
        "images": [{"id": 1, "width": 100, "height": 100, "file_name": "a.jpg"}],
        "categories": [{"id": 7, "name": "thing"}], "annotations": objects,
    }  # fmt: skip
    path = folder / "instances.json"
    path.write_text(json.dumps(content))
    return path


def values(metrics: dict[str, dict[str, Any]]) -> dict[str, float | None]:
    return {name: entry["value"] for name, entry in metrics.items()}


def found(*boxes: list[float], scores: list[float]) -> dict[str, np.ndarray]:
    """Detections of label 0 with corners `boxes`."""
    return {
        "bboxes": np.array(boxes, dtype=float).reshape(-1, 4), "scores": np.array(scores),
        "labels": np.zeros(len(boxes), dtype=int),
    }  # fmt: skip


def precision(path: Path, results: list[dict[str, Any]], kind: str = "box") -> dict[str, float | None]:
    return values(average_precision(scored(read_truth(path), results, kind), kind))


def test_a_perfect_detection_has_full_precision(tmp_path: Path) -> None:
    path = annotations(tmp_path, [[10, 10, 20, 20], [40, 40, 50, 50]])
    results = list(coco_results(1, found([10, 10, 30, 30], [40, 40, 90, 90], scores=[0.9, 0.8]), (7,)))
    # One object is small (400 pixels), one medium (2,500); there is no large one.
    found_values = precision(path, results)
    assert found_values.pop("box_ap_large") is None
    names = ("box_ap", "box_ap50", "box_ap75", "box_ap_small", "box_ap_medium")
    assert found_values == pytest.approx(dict.fromkeys(names, 100))


def test_a_box_that_overlaps_by_three_fifths_counts_at_three_of_ten_thresholds(tmp_path: Path) -> None:
    path = annotations(tmp_path, [[0, 0, 10, 10]])
    # Intersection 62 of union 100: above the thresholds 0.5, 0.55 and 0.6.
    metrics = precision(path, list(coco_results(1, found([0, 0, 10, 6.2], scores=[1.0]), (7,))))
    assert metrics["box_ap50"] == pytest.approx(100) and metrics["box_ap75"] == 0
    assert metrics["box_ap"] == pytest.approx(30)


def test_without_detections_precision_is_zero(tmp_path: Path) -> None:
    metrics = precision(annotations(tmp_path, [[0, 0, 10, 10]]), [])
    assert metrics["box_ap"] == metrics["box_ap50"] == 0 and metrics["box_ap_large"] is None


def test_masks_are_scored_by_their_pixels(tmp_path: Path) -> None:
    path = annotations(tmp_path, [[0, 0, 10, 10]])
    content = json.loads(path.read_text())
    content["annotations"][0]["segmentation"] = [[0, 0, 10, 0, 10, 10, 0, 10]]
    path.write_text(json.dumps(content))
    mask = np.zeros((1, 100, 100), dtype=bool)
    mask[0, :10, :8] = True
    results = list(coco_results(1, {**found([0, 0, 10, 10], scores=[1.0]), "masks": mask}, (7,)))
    assert precision(path, results)["box_ap"] == pytest.approx(100)
    # Four fifths of the object: above seven of ten thresholds, 0.5 to 0.8.
    assert precision(path, results, "mask")["mask_ap"] == pytest.approx(70)


def test_areas_of_an_image_by_hand() -> None:
    labels = np.array([[0, 0, 1], [1, 255, 255]])
    predicted = np.array([[0, 1, 1], [1, 0, 2]])
    hits, seen, labelled = areas(predicted, labels, 3)
    assert (hits.tolist(), seen.tolist(), labelled.tolist()) == ([1, 2, 0], [1, 3, 0], [2, 2, 0])
    found = scores(Areas(*(part[None] for part in (hits, seen, labelled))))
    assert found["iou"][:2] == pytest.approx([1 / 2, 2 / 3]) and np.isnan(found["iou"][2])
    assert found["miou"] == pytest.approx(7 / 12) and found["aacc"] == 0.75 and found["macc"] == 0.75


def random_areas(images: int, classes: int) -> tuple[Areas, list[tuple[np.ndarray, np.ndarray]]]:
    generator = np.random.default_rng(0)
    maps = [
        (generator.integers(0, classes, (20, 30)), generator.choice([*range(classes - 1), 255], (20, 30)))
        for _ in range(images)
    ]
    rows = [areas(predicted, labels, classes) for predicted, labels in maps]
    return Areas(*(np.stack(part) for part in zip(*rows, strict=True))), maps


def test_scores_equal_those_of_mmseg() -> None:
    from lska.models.openmmlab import use

    use("segmentation")
    from mmseg.evaluation import IoUMetric

    total, maps = random_areas(images=5, classes=4)
    pairs = [
        IoUMetric.intersect_and_union(torch.tensor(predicted), torch.tensor(labels), 4, 255)
        for predicted, labels in maps
    ]
    summed = (sum(part) for part in zip(*pairs, strict=True))
    expected = IoUMetric.total_area_to_metrics(*summed, metrics=["mIoU"])
    mine = scores(total)
    assert mine["iou"] == pytest.approx(expected["IoU"], nan_ok=True)
    assert mine["aacc"] == pytest.approx(float(expected["aAcc"]))
    assert mine["miou"] == pytest.approx(np.nanmean(expected["IoU"]))
    assert mine["macc"] == pytest.approx(np.nanmean(expected["Acc"]))


def test_samples_are_the_scores_of_the_images_that_were_drawn() -> None:
    total, _ = random_areas(images=12, classes=4)
    samples = resampled(total, 5)
    for number, counts in enumerate(resample_counts(12, resamples=5)):
        drawn = np.repeat(np.arange(12), counts)
        expected = scores(Areas(*(part[drawn] for part in vars(total).values())))
        for name, found in samples.items():
            assert found[number] == pytest.approx(100 * float(expected[name]), rel=1e-12)


def errors_of(total: Areas) -> dict[str, float]:
    return {name: standard_error(samples) for name, samples in resampled(total).items()}


def test_standard_errors_come_from_differences_between_images() -> None:
    total, _ = random_areas(images=30, classes=4)
    errors = errors_of(total)
    assert errors == errors_of(total) and all(0 < error < 5 for error in errors.values())
    same = Areas(*(np.repeat(part[:1], 30, axis=0) for part in vars(total).values()))
    assert all(error < 1e-10 for error in errors_of(same).values())
    # Four times as many images halve the error.
    more = Areas(*(np.tile(part, (4, 1)) for part in vars(total).values()))
    assert errors_of(more)["aacc"] == pytest.approx(errors["aacc"] / 2, rel=0.15)


def test_a_difference_of_miou_within_samples_has_a_smaller_error_than_of_independent_ones() -> None:
    _, maps = random_areas(images=40, classes=4)
    generator, both = np.random.default_rng(1), []
    # The second network is right on a few more pixels of the same images.
    for share in (0.5, 0.55):
        easy = [generator.uniform(share, share + 0.4) for _ in maps]
        rows = [
            areas(np.where(np.random.default_rng(i).random(labels.shape) < e, labels % 4, predicted), labels, 4)
            for i, ((predicted, labels), e) in enumerate(zip(maps, sorted(easy), strict=True))
        ]
        both.append(resampled(Areas(*(np.stack(part) for part in zip(*rows, strict=True))))["miou"])
    unpaired = np.hypot(*(samples.std(ddof=1) for samples in both))
    assert 0 < (both[1] - both[0]).std(ddof=1) < unpaired / 2


def test_a_class_without_pixels_has_no_value() -> None:
    one = np.array([[4, 0]])
    metrics = as_metrics(Areas(one, one, one), ("sky", "pole"))
    assert metrics["iou/sky"]["value"] == 100 and metrics["iou/pole"]["value"] is None
    assert metrics["miou"]["value"] == 100 and metrics["miou"]["n"] == 1


@pytest.fixture(scope="module")
def evaluated(dense_project: DenseProject) -> dict[str, Any]:
    """Jobs of all heads, fine-tuned and evaluated through the command line."""
    jobs = {head: dense_project.trained(head) for head in tiny_dense.RECIPES}
    for job in jobs.values():
        assert dense_project.command("evaluate", "dense", str(job.run), "--task", job.task) == 0
    return jobs


@pytest.mark.parametrize("head", tiny_dense.RECIPES)
def test_the_metric_file_names_everything(evaluated: dict[str, Any], head: str, logging_as_before: None) -> None:
    job = evaluated[head]
    content = json.loads(job.metrics.read_text())
    validate(content, "metrics", str(job.metrics))
    names = set(content["metrics"])
    kinds = {"retinanet": ["box"], "mask_rcnn": ["box", "mask"], "semantic_fpn": []}[head]
    suffixes = ("ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large")
    expected = {f"{kind}_{suffix}" for kind in kinds for suffix in suffixes}
    if head == "semantic_fpn":
        classes = ("background", "arrow", "bottle", "circle")
        expected = {"miou", "macc", "aacc"} | {f"iou/{name}" for name in classes}
    assert names == expected
    assert content["weights"] == {"md5": file_md5(job.weights), "origin": "trained"}
    outcomes = read_outcomes(job.outcomes, content["outcomes"])
    assert set(outcomes.samples) == {name for name in expected if not name.startswith("iou/")} and not outcomes.images
    for name, samples in outcomes.samples.items():
        entry = content["metrics"][name]
        assert samples.shape == (RESAMPLES,)
        error = None if entry["value"] is None else standard_error(samples)
        assert entry.get("standard_error") == (error if error is None else pytest.approx(error, rel=1e-5, abs=1e-6))
    assert content["recipe"] == job.digest() and content["data"] == job.config.data_identity(job.data)
    assert content["detail"]["backbone"]["md5"] == file_md5(job.backbone)
    with Image.open(job.samples) as picture:
        assert picture.format == "PNG" and picture.width > 300


@pytest.mark.parametrize("head", ["retinanet", "mask_rcnn"])
def test_precision_equals_that_of_mmdet(evaluated: dict[str, Any], head: str) -> None:
    from mmdet.evaluation import CocoMetric

    from lska.evaluate.dense_scores import Predictor

    job = evaluated[head]
    predictor = Predictor.open(job)
    kinds = {"bbox": "box", "segm": "mask"} if head == "mask_rcnn" else {"bbox": "box"}
    library = CocoMetric(ann_file=str(predictor.split.annotations), metric=list(kinds))
    library.dataset_meta = {"classes": predictor.split.classes}
    for sample in predictor.predictions():
        assert not torch.is_inference_mode_enabled(), (
            "the mode is that of the network, not of who takes its predictions"
        )
        library.process({}, [sample.to_dict()])
    expected = library.evaluate(len(predictor))
    mine = values(json.loads(job.metrics.read_text())["metrics"])
    for theirs, ours in kinds.items():
        for suffix, name in {"mAP": "ap", "mAP_50": "ap50", "mAP_m": "ap_medium"}.items():
            # The library rounds to three decimals, and writes -1 where there is no object of a size.
            value = mine[f"{ours}_{name}"]
            assert expected[f"coco/{theirs}_{suffix}"] == (
                -1 if value is None else pytest.approx(value / 100, abs=6e-4)
            )


def test_weights_of_another_recipe_are_refused(dense_project: DenseProject, evaluated: dict[str, Any]) -> None:
    from lska.evaluate.accuracy import StaleWeightsError
    from lska.evaluate.dense_scores import Predictor

    changed = {"detection": {"heads": {"retinanet": {"overrides": {"epochs": 4}}}}}
    with pytest.raises(StaleWeightsError, match="trained otherwise than today .epochs 3 -> 4."):
        Predictor.open(dense_project.job("retinanet", changed))
