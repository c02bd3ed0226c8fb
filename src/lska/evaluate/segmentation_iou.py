"""mIoU, mean and overall accuracy of segmentors (Tables V and XI), from areas summed over the whole validation set."""

from __future__ import annotations

from dataclasses import dataclass
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


@dataclass(frozen=True)
class Areas:
    """Pixels per image and class, each an int64 array of shape (images, classes)."""

    intersection: np.ndarray
    predicted: np.ndarray
    labelled: np.ndarray


def areas(predicted: np.ndarray, labels: np.ndarray, classes: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Areas in pixels of one image: label maps (H, W) to three arrays (classes,); pixels labelled 255 do not count."""
    valid = labels != IGNORED
    predicted, labels = predicted[valid], labels[valid]
    counts = (np.bincount(part, minlength=classes) for part in (predicted[predicted == labels], predicted, labels))
    return tuple(counts)


def scores(areas: Areas) -> dict[str, np.ndarray]:
    """Shares from summed areas: `miou`, `macc`, `aacc` (scalars), and of each class `iou` and `acc` (classes,), NaN for
    classes without pixels.

    Means leave out classes that neither labels nor predictions show (for `macc`: that no label shows), as mmseg does.
    """
    return _shares(*(part.sum(axis=0) for part in (areas.intersection, areas.predicted, areas.labelled)))


def _shares(hits: np.ndarray, predicted: np.ndarray, labelled: np.ndarray) -> dict[str, np.ndarray]:
    """As `scores`, from areas (..., classes)."""
    with np.errstate(invalid="ignore"):
        iou = hits / (predicted + labelled - hits)
        accuracy = hits / labelled
    return {
        "miou": np.nanmean(iou, axis=-1), "macc": np.nanmean(accuracy, axis=-1),
        "aacc": hits.sum(axis=-1) / labelled.sum(axis=-1), "iou": iou, "acc": accuracy,
    }  # fmt: skip


def resampled(areas: Areas, resamples: int = RESAMPLES) -> dict[str, np.ndarray]:
    """`miou`, `macc` and `aacc` in percent on bootstrap samples of the images, (resamples,) each.

    Summing areas weighted by how often each image is drawn is summing the areas of the drawn images.
    """
    parts = [part.astype(np.float64) for part in (areas.intersection, areas.predicted, areas.labelled)]
    drawn = [
        _shares(*(counts.T @ part for part in parts)) for counts in resample_columns(len(areas.labelled), resamples)
    ]
    return {name: 100 * np.concatenate([found[name] for found in drawn]) for name in ("miou", "macc", "aacc")}


def evaluate_segmentor(job: FineTuningJob) -> None:
    """Score a segmentor over the validation set and write its metric file and the picture of sample predictions.

    Raises:
        StaleWeightsError, DataError, ValueError: as `Predictor.open`.
    """
    measure_dense(job, _score)


def _score(predictor: Predictor, network: nn.Module) -> Values:
    classes, shown, rows = predictor.split.classes, [], []
    for sample, chosen in predictor.predictions(network):
        predicted, labels = (one.data[0].cpu().numpy() for one in (sample.pred_sem_seg, sample.gt_sem_seg))
        rows.append(areas(predicted, labels, len(classes)))
        if chosen:
            shown.append((read_image(sample.img_path), labels, predicted))
    job, total = predictor.job, Areas(*map(np.stack, zip(*rows, strict=True)))
    segmentation_sheet(*zip(*shown, strict=True), classes, job.samples, f"{job.caption}: {job.task}, {job.run}")
    return Values(
        as_metrics(total, classes), Outcomes(samples=resampled(total), parts={"macc": 100 * scores(total)["acc"]})
    )


def as_metrics(total: Areas, classes: tuple[str, ...]) -> dict[str, dict[str, Any]]:
    """Entries of the metric file, in percent; a class without pixels has the value None."""
    found, images = scores(total), len(total.labelled)
    metrics = {name: metric(100 * float(found[name]), "%", n=images) for name in ("miou", "macc", "aacc")}
    for name, value in zip(classes, found["iou"], strict=True):
        metrics[f"iou/{name}"] = metric(None if np.isnan(value) else 100 * float(value), "%")
    return metrics
