"""mIoU, mean and overall accuracy of segmentors (Tables V and XI), from areas summed over the whole validation set."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import nn

from lska.data.decoding import IGNORED, read_image
from lska.evaluate.dense_scores import Predictor, measure_dense
from lska.evaluate.measurement import Values
from lska.evaluate.pictures import segmentation_sheet
from lska.provenance.metric_files import metric
from lska.provenance.outcomes import RESAMPLES, Outcomes, resample_columns
from lska.settings.tasks import FineTuningJob


def areas(predicted: np.ndarray, labels: np.ndarray, classes: int) -> np.ndarray:
    """Pixels of one image by class, int64 (3, classes): of the intersection, predicted, labelled; from label maps
    (H, W), of which pixels labelled 255 do not count."""
    valid = labels != IGNORED
    predicted, labels = predicted[valid], labels[valid]
    parts = (predicted[predicted == labels], predicted, labels)
    return np.stack([np.bincount(part, minlength=classes) for part in parts])


def shares(total: np.ndarray) -> dict[str, np.ndarray]:
    """From summed areas (3, ..., classes): `miou`, `macc`, `aacc` (...), and of each class `iou` and `acc`
    (..., classes), NaN for classes without pixels.

    Means leave out classes that neither labels nor predictions show (for `macc`: that no label shows), as mmseg does.
    """
    hits, predicted, labelled = total
    with np.errstate(invalid="ignore"):
        iou = hits / (predicted + labelled - hits)
        accuracy = hits / labelled
    return {
        "miou": np.nanmean(iou, axis=-1), "macc": np.nanmean(accuracy, axis=-1),
        "aacc": hits.sum(axis=-1) / labelled.sum(axis=-1), "iou": iou, "acc": accuracy,
    }  # fmt: skip


def resampled(images: np.ndarray, resamples: int = RESAMPLES) -> dict[str, np.ndarray]:
    """`miou`, `macc` and `aacc` in percent on bootstrap samples of the images, (resamples,) each, from `areas` of each,
    (images, 3, classes).

    Summing areas weighted by how often each image is drawn is summing the areas of the drawn images.
    """
    parts = images.astype(np.float64).swapaxes(0, 1)
    drawn = [
        shares(np.stack([counts.T @ part for part in parts])) for counts in resample_columns(len(images), resamples)
    ]
    return {name: 100 * np.concatenate([found[name] for found in drawn]) for name in ("miou", "macc", "aacc")}


def evaluate_segmentor(job: FineTuningJob) -> None:
    """Score a segmentor over the validation set and write its metric file and the picture of sample predictions;
    raises as `Predictor.open`."""
    measure_dense(job, _score)


def _score(predictor: Predictor, network: nn.Module) -> Values:
    job, classes, shown, rows = predictor.job, predictor.split.classes, [], []
    for sample, chosen in predictor.predictions(network):
        predicted, labels = (one.data[0].cpu().numpy() for one in (sample.pred_sem_seg, sample.gt_sem_seg))
        rows.append(areas(predicted, labels, len(classes)))
        if chosen:
            shown.append((read_image(sample.img_path), labels, predicted))
    segmentation_sheet(*zip(*shown, strict=True), classes, job.samples, f"{job.caption}: {job.task}, {job.run}")
    images = np.stack(rows)
    outcomes = Outcomes(samples=resampled(images), parts={"macc": 100 * shares(images.sum(axis=0))["acc"]})
    return Values(class_metrics(images, classes), outcomes)


def class_metrics(images: np.ndarray, classes: tuple[str, ...]) -> dict[str, dict[str, Any]]:
    """Metric entries in percent from `areas` of each image; a class without pixels has the value None."""
    found = shares(images.sum(axis=0))
    metrics = {name: metric(100 * float(found[name]), "%", n=len(images)) for name in ("miou", "macc", "aacc")}
    for name, value in zip(classes, found["iou"], strict=True):
        metrics[f"iou/{name}"] = metric(None if np.isnan(value) else 100 * float(value), "%")
    return metrics
