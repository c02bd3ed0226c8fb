"""mIoU, mean and overall accuracy of segmentors (Tables V and XI), from areas summed over the whole validation set."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np

from lska.data.dense_files import IGNORED
from lska.evaluate.dense import Predictor, read_image
from lska.evaluate.samples import segmentation_sheet
from lska.finetuning import FineTuningJob
from lska.provenance import metric

RESAMPLES = 200
"""Bootstrap samples of the validation images behind the standard errors."""


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
    """Shares from summed areas: `miou`, `macc`, `aacc` (scalars) and `iou` (classes,), NaN for classes without pixels.

    Means leave out classes that neither labels nor predictions show (for `macc`: that no label shows), as mmseg does.
    """
    hits, predicted, labelled = (a.sum(axis=0) for a in (areas.intersection, areas.predicted, areas.labelled))
    with np.errstate(invalid="ignore"):
        iou = hits / (predicted + labelled - hits)
        accuracy = hits / labelled
    return {
        "miou": np.nanmean(iou), "macc": np.nanmean(accuracy), "aacc": hits.sum() / labelled.sum(), "iou": iou,
    }  # fmt: skip


def standard_errors(areas: Areas, seed: int = 0) -> dict[str, float]:
    """Standard errors of `miou`, `macc` and `aacc` by bootstrap over the images."""
    generator, images = np.random.default_rng(seed), len(areas.labelled)
    drawn: dict[str, list[float]] = {"miou": [], "macc": [], "aacc": []}
    for _ in range(RESAMPLES):
        # How often each image is drawn; summing weighted areas is summing the areas of the drawn images.
        weights = generator.multinomial(images, np.full(images, 1 / images))[:, None]
        sample = scores(Areas(*(weights * part for part in (areas.intersection, areas.predicted, areas.labelled))))
        for name, values in drawn.items():
            values.append(float(sample[name]))
    return {name: float(np.std(values, ddof=1)) for name, values in drawn.items()}


def evaluate(job: FineTuningJob) -> None:
    """Score a segmentor over the validation set and write its metric file and the picture of sample predictions.

    Raises:
        StaleWeightsError, DataError, ValueError: as `Predictor.open`.
    """
    started, predictor = datetime.now(UTC), Predictor.open(job)
    classes, shown, chosen = predictor.split.classes, [], predictor.sampled()
    rows = []
    for index, sample in enumerate(predictor.predictions()):
        predicted = sample.pred_sem_seg.data[0].cpu().numpy()
        labels = sample.gt_sem_seg.data[0].cpu().numpy()
        rows.append(areas(predicted, labels, len(classes)))
        if index in chosen:
            shown.append((read_image(sample.img_path), labels, predicted))
    total = Areas(*(np.stack(part) for part in zip(*rows, strict=True)))
    draw(job, shown, classes)
    predictor.write(as_metrics(total, classes), started)


def as_metrics(total: Areas, classes: tuple[str, ...]) -> dict[str, dict[str, Any]]:
    """Entries of the metric file, in percent; a class without pixels has the value None."""
    found, errors, images = scores(total), standard_errors(total), len(total.labelled)
    metrics = {
        name: metric(100 * float(found[name]), "%", n=images, standard_error=100 * errors[name]) for name in errors
    }
    for name, value in zip(classes, found["iou"], strict=True):
        metrics[f"iou/{name}"] = metric(None if np.isnan(value) else 100 * float(value), "%")
    return metrics


def draw(job: FineTuningJob, shown: list[tuple[Any, Any, Any]], classes: tuple[str, ...]) -> None:
    """The picture of sample predictions: image, labels and prediction of each of `shown`."""
    images, truths, predictions = (list(part) for part in zip(*shown, strict=True))
    segmentation_sheet(
        images, truths, predictions, classes, job.samples, f"{job.config.caption}: {job.task}, {job.run}"
    )
