"""COCO average precision of boxes and masks (Tables IV and IX), by pycocotools over the whole validation set."""

from __future__ import annotations

import contextlib
import io
import logging
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from pycocotools import mask as rle
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from lska.data.decoding import read_image
from lska.data.dense_sets import DetectionSplit
from lska.evaluate.dense_scores import Predictor
from lska.evaluate.pictures import Instances, detection_sheet
from lska.evaluate.precision import STATISTICS, precisions, resampled_precisions
from lska.provenance.errors import InputError
from lska.provenance.metric_files import metric
from lska.provenance.outcomes import Outcomes
from lska.settings.fine_tunings import FineTuningJob

logger = logging.getLogger(__name__)

_KINDS = {"box": "bbox", "mask": "segm"}


def evaluate_detector(job: FineTuningJob) -> None:
    """Score a detector over the validation set and write its metric file and the picture of sample predictions.

    Raises:
        StaleWeightsError, DataError, ValueError: as `Predictor.open`.
    """
    started, predictor = datetime.now(UTC), Predictor.open(job)
    masks, chosen = job.head == "mask_rcnn", predictor.sampled()
    _check_order(predictor)
    truth, results, shown = read_truth(predictor.split.annotations), [], []
    for index, sample in enumerate(predictor.predictions()):
        found = _arrays(sample.pred_instances, masks)
        results += coco_results(sample.img_id, found, predictor.split.category_ids)
        if index in chosen:
            shown.append((sample.img_id, sample.img_path, found))
    draw_boxes(job, predictor.split, truth, shown)
    metrics: dict[str, Any] = {}
    samples: dict[str, np.ndarray] = {}
    parts: dict[str, np.ndarray] = {}
    for kind in ("box", "mask") if masks else ("box",):
        scoring = scored(truth, results, kind)
        metrics |= average_precision(scoring, kind)
        samples |= {f"{kind}_{name}": values for name, values in resampled_precisions(scoring).items()}
        parts |= {f"{kind}_{name}": values for name, values in precisions(scoring).items()}
    predictor.write(metrics, Outcomes(samples=samples, parts=parts), started, detections=len(results))


def _check_order(predictor: Predictor) -> None:
    """The library numbers classes in the order of the annotation file; ours must be the same."""
    library, ours = list(predictor.loader.dataset.cat_ids), list(predictor.split.category_ids)
    if library != ours:
        raise InputError(
            f"{predictor.split.annotations}: expected the categories in the order of the manifest, {ours}, found "
            f"{library}; order them so"
        )


def _arrays(instances: Any, masks: bool) -> dict[str, np.ndarray]:
    """Boxes (n, 4) as x1, y1, x2, y2 in pixels of the original image, scores, labels, and masks (n, H, W) if any."""
    found = {name: instances[name].cpu().numpy() for name in ("bboxes", "scores", "labels")}
    if masks:
        found["masks"] = instances["masks"].cpu().numpy().astype(bool)
    return found


def coco_results(image: int, found: dict[str, np.ndarray], category_ids: tuple[int, ...]) -> Iterator[dict[str, Any]]:
    """Detections of one image in COCO's result format, boxes as x, y, width, height and masks run-length encoded."""
    for index, (box, score, label) in enumerate(zip(found["bboxes"], found["scores"], found["labels"], strict=True)):
        left, top, right, bottom = map(float, box)
        result = {
            "image_id": image, "category_id": category_ids[int(label)], "score": float(score),
            "bbox": [left, top, right - left, bottom - top],
        }  # fmt: skip
        if "masks" in found:
            result["segmentation"] = rle.encode(np.asfortranarray(found["masks"][index].astype(np.uint8)))
        yield result


def read_truth(annotations: Path) -> COCO:
    """Parse a COCO annotation file; pycocotools says on standard output what it does, which is kept back."""
    with contextlib.redirect_stdout(io.StringIO()):
        return COCO(str(annotations))


def scored(truth: COCO, results: list[dict[str, Any]], kind: str) -> COCOeval:
    """Matches and statistics of the boxes or masks (`kind`, `box` or `mask`) among `results`."""
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        found = truth.loadRes(_for(kind, results)) if results else _nothing(truth)
        scoring = COCOeval(truth, found, _KINDS[kind])
        scoring.evaluate()
        scoring.accumulate()
        scoring.summarize()
    logger.debug("%s", said.getvalue())
    return scoring


def average_precision(scoring: COCOeval, kind: str) -> dict[str, dict[str, Any]]:
    """COCO's six average precisions, `<kind>_ap` and so on, as metric entries in percent.

    Averages over IoU 0.5 to 0.95 but for `ap50` and `ap75`; small, medium and large are areas up to 32^2, up to 96^2,
    and above, in pixels of the original image. None where the set has no object of that size.
    """
    images = len(scoring.params.imgIds)
    return {
        f"{kind}_{name}": metric(100 * float(value) if value >= 0 else None, "%", n=images)
        for name, value in zip(STATISTICS, scoring.stats, strict=False)
    }


def _for(kind: str, results: list[dict[str, Any]]) -> list[dict[str, Any]]:
    # Detections have the size of their mask where masks are scored, that of their box where boxes are.
    left_out = "segmentation" if kind == "box" else "bbox"
    return [{key: value for key, value in result.items() if key != left_out} for result in results]


def _nothing(truth: COCO) -> COCO:
    """No detection at all, which `loadRes` cannot read."""
    empty = COCO()
    empty.dataset = {**truth.dataset, "annotations": []}
    empty.createIndex()
    return empty


def draw_boxes(
    job: FineTuningJob, split: DetectionSplit, truth: COCO, shown: list[tuple[int, str, dict[str, np.ndarray]]]
) -> None:
    """The picture of sample predictions: objects and detections on each of `shown`."""
    label = {category: index for index, category in enumerate(split.category_ids)}
    truths = [_truth(truth, image, label, "masks" in found) for image, _, found in shown]
    images = [read_image(place) for _, place, _ in shown]
    predictions = [
        Instances(found["bboxes"], found["labels"], found["scores"], found.get("masks")) for _, _, found in shown
    ]
    caption = f"{job.config.caption}: {job.task}, {job.run}"
    detection_sheet(images, truths, predictions, split.classes, job.samples, caption)


def _truth(truth: COCO, image: int, label: dict[int, int], masks: bool) -> Instances:
    objects = truth.loadAnns(truth.getAnnIds(imgIds=image))
    boxes = np.array([item["bbox"] for item in objects], dtype=float).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    labels = np.array([label[item["category_id"]] for item in objects], dtype=int)
    outlines = np.stack([truth.annToMask(item) for item in objects]).astype(bool) if masks and objects else None
    return Instances(boxes, labels, masks=outlines)
