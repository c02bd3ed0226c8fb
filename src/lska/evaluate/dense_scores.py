"""Scores of fine-tuned detectors (Tables IV and IX) and segmentors (Tables V and XI) over the whole validation set."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import init_default_scope
from pycocotools import mask as rle
from pycocotools.coco import COCO
from torch import nn

from lska.data.decoding import IGNORED, read_image
from lska.data.dense_sets import DetectionSplit, SegmentationSplit
from lska.evaluate.box_ap import average_precision, precisions, read_truth, resampled_precisions, scored
from lska.evaluate.measurement import Subject, Values, check_origin, measure, open_weights, vouched_sidecar
from lska.evaluate.pictures import Instances, detection_sheet, segmentation_sheet
from lska.models.openmmlab import build_dense_network, use
from lska.provenance.errors import InputError
from lska.provenance.metric_files import metric
from lska.provenance.outcomes import RESAMPLES, Outcomes, resample_columns
from lska.provenance.progress_bar import Bar
from lska.provenance.sidecars import imported, own_normalization
from lska.settings.tasks import FineTuningJob
from lska.train.dense_loading import validation_loader
from lska.train.fine_tuner import open_splits
from lska.train.loading import Loader
from lska.train.mm_configs import configuration

SAMPLES = 6
"""Images of the picture with sample predictions."""


def evaluate_dense(job: FineTuningJob) -> None:
    """Score a fine-tuned network over the validation set, and write its metric file and the picture of sample
    predictions; raises as `Predictor.open`."""
    predictor = Predictor.open(job)
    score = {"detection": _score_detector, "segmentation": _score_segmentor}[job.kind]

    def values(subjects: list[Subject], device: torch.device) -> Iterator[Values]:
        found = score(predictor, subjects[0].network)
        yield dataclasses.replace(found, detail={"backbone": predictor.sidecar.get("backbone"), **found.detail})

    measure(job, [predictor.subject], values, job.data.identity())


def build_dense(job: FineTuningJob, settings: dict[str, Any]) -> nn.Module:
    """The network of a model configuration, without pretrained weights."""
    init_default_scope(use(job.kind))
    return revert_sync_batchnorm(build_dense_network(settings))


@dataclass(frozen=True)
class Predictor:
    """The validation images of a fine-tuning, and the network that it left."""

    job: FineTuningJob
    sidecar: dict[str, Any]
    settings: Any
    """The library's configuration."""
    split: DetectionSplit | SegmentationSplit
    loader: Loader

    @classmethod
    def open(cls, job: FineTuningJob) -> Predictor:
        """Open the validation set of `job`, after checking that its weights are those of the configuration.

        Raises:
            StaleWeightsError: weights or sidecar are missing, or not those of the configuration.
            DataError, ValueError: the data set is missing or differs from its record.
        """
        sidecar = vouched_sidecar(job.weights, f"lska train {job.run} --task {job.task}")
        splits = open_splits(job, "val")
        if imported(sidecar):
            own = own_normalization(sidecar, str(job.weights.with_suffix(".json")))
            job = dataclasses.replace(job, normalization=own)
        else:
            check_origin(sidecar, job.weights, job.spec(), job.data.identity())
        settings = configuration(job, splits)
        init_default_scope(use(job.kind))
        return cls(job, sidecar, settings, splits["val"], validation_loader(job, settings["val_dataset"]))

    def __len__(self) -> int:
        return len(self.loader.dataset)

    def subject(self, device: torch.device) -> Subject:
        """The network with its weights."""
        job, network = self.job, build_dense(self.job, self.settings["model"])
        layout = job.recipe.channels_last
        return open_weights(str(job.run), network, job.weights, self.sidecar, job.pixels, device, channels_last=layout)

    def predictions(self, network: nn.Module) -> Iterator[tuple[Any, bool]]:
        """The library's data sample of every validation image, in order, with progress; and whether it is one of those
        that the picture of sample predictions shows, spread evenly over the set."""
        shown = set(np.linspace(0, len(self) - 1, min(SAMPLES, len(self))).astype(int).tolist())
        done = 0
        with Bar(total=len(self), unit="images") as bar:
            for batch in self.loader:
                # Entered for the network alone: around a yield it would be that of who takes the predictions too.
                with torch.inference_mode():
                    samples = network.test_step(batch)
                bar.update(len(samples))
                for sample in samples:
                    yield sample, done in shown
                    done += 1


# --- Detection -------------------------------------------------------------------------------------------------------


def _score_detector(predictor: Predictor, network: nn.Module) -> Values:
    job, split = predictor.job, predictor.split
    # The library numbers classes in the order of the annotation file; ours must be the same.
    if (library := list(predictor.loader.dataset.cat_ids)) != list(split.category_ids):
        raise InputError(
            f"{split.annotations}: expected the categories in the order of the manifest, {list(split.category_ids)}, "
            f"found {library}; order them so"
        )
    kinds = ("box", "mask") if job.head == "mask_rcnn" else ("box",)
    truth, results, shown = read_truth(split.annotations), [], []
    for sample, chosen in predictor.predictions(network):
        found = {name: sample.pred_instances[name].cpu().numpy() for name in ("bboxes", "scores", "labels")}
        if "mask" in kinds:
            found["masks"] = sample.pred_instances["masks"].cpu().numpy().astype(bool)
        results += coco_results(sample.img_id, found, split.category_ids)
        if chosen:
            predicted = Instances(found["bboxes"], found["labels"], found["scores"], found.get("masks"))
            there = _truth(truth, sample.img_id, split.category_ids, "mask" in kinds)
            shown.append((read_image(sample.img_path), there, predicted))
    detection_sheet(*zip(*shown, strict=True), split.classes, job.samples, f"{job.caption}: {job.task}, {job.run}")
    metrics, samples, parts = {}, {}, {}
    for kind in kinds:
        scoring = scored(truth, results, kind)
        metrics |= average_precision(scoring, kind)
        samples |= {f"{kind}_{name}": values for name, values in resampled_precisions(scoring).items()}
        parts |= {f"{kind}_{name}": values for name, values in precisions(scoring).items()}
    return Values(metrics, Outcomes(samples=samples, parts=parts), {"detections": len(results)})


def coco_results(image: int, found: dict[str, np.ndarray], category_ids: tuple[int, ...]) -> Iterator[dict[str, Any]]:
    """Detections of one image in COCO's result format: `found` has `bboxes` (n, 4) as x1, y1, x2, y2 in pixels of the
    original image, `scores`, `labels`, and `masks` (n, H, W) if any."""
    for index, (box, score, label) in enumerate(zip(found["bboxes"], found["scores"], found["labels"], strict=True)):
        left, top, right, bottom = map(float, box)
        result = {
            "image_id": image, "category_id": category_ids[int(label)], "score": float(score),
            "bbox": [left, top, right - left, bottom - top],
        }  # fmt: skip
        if "masks" in found:
            result["segmentation"] = rle.encode(np.asfortranarray(found["masks"][index].astype(np.uint8)))
        yield result


def _truth(truth: COCO, image: int, category_ids: tuple[int, ...], masks: bool) -> Instances:
    objects = truth.loadAnns(truth.getAnnIds(imgIds=image))
    boxes = np.array([item["bbox"] for item in objects], dtype=float).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    labels = np.array([category_ids.index(item["category_id"]) for item in objects], dtype=int)
    outlines = np.stack([truth.annToMask(item) for item in objects]).astype(bool) if masks and objects else None
    return Instances(boxes, labels, masks=outlines)


# --- Segmentation ----------------------------------------------------------------------------------------------------


def _score_segmentor(predictor: Predictor, network: nn.Module) -> Values:
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
    (images, 3, classes): summing areas weighted by how often each image is drawn is summing those of the drawn images.
    """
    parts = images.astype(np.float64).swapaxes(0, 1)
    drawn = [
        shares(np.stack([counts.T @ part for part in parts])) for counts in resample_columns(len(images), resamples)
    ]
    return {name: 100 * np.concatenate([found[name] for found in drawn]) for name in ("miou", "macc", "aacc")}


def class_metrics(images: np.ndarray, classes: tuple[str, ...]) -> dict[str, dict[str, Any]]:
    """Metric entries in percent from `areas` of each image; a class without pixels has the value None."""
    found = shares(images.sum(axis=0))
    metrics = {name: metric(100 * float(found[name]), "%", n=len(images)) for name in ("miou", "macc", "aacc")}
    for name, value in zip(classes, found["iou"], strict=True):
        metrics[f"iou/{name}"] = metric(None if np.isnan(value) else 100 * float(value), "%")
    return metrics
