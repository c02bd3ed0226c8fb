"""Looking inside networks: what `lska evaluate shape_texture`, `texture_knn` and `receptive_field` do."""

from __future__ import annotations

import functools
import itertools
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lska.data.archives import open_classification
from lska.data.cue_conflict import CueConflictSet, imagenet_categories, read_cue_conflict
from lska.data.dtd import open_textures
from lska.data.preparing import verify as verify_classification
from lska.data.preparing import verify_inspected
from lska.evaluate import receptive_field, shape_texture
from lska.evaluate.measurement import Frame, Shard, Subject, Values, measure, open_run, shared_batches, training_classes
from lska.evaluate.neighbours import pooled_features, texture_metrics
from lska.models.runs import Run
from lska.models.scoring import features
from lska.provenance.files import atomic_path
from lska.provenance.metric_files import file_md5, metric
from lska.provenance.outcomes import Outcomes
from lska.settings.recipes import IMAGENET_DEVIATION, IMAGENET_MEAN
from lska.settings.tasks import ClassifierJob, InspectionJob
from lska.train.classifier import build_network

logger = logging.getLogger(__name__)


def measure_inspection(job: InspectionJob, networks: Sequence[ClassifierJob]) -> None:
    """Measure `networks` and write a metric file for each.

    Raises:
        DataError: the data were not prepared, were changed since, or hold an unreadable image.
        StaleWeightsError, ValueError: a checkpoint is missing, damaged or of another architecture.
    """
    classes, frame = training_classes(job.clean), Frame.of(job, job.data.identity())
    look = {"shape_texture": _shape_texture, "texture_knn": _texture_knn, "receptive_field": _receptive_field}[job.name]

    def values(subjects: list[Subject], device: torch.device) -> Iterator[Values]:
        for metrics, outcomes, detail in look(job, subjects, classes, device):
            yield Values(metrics, outcomes, {"protocol": job.protocol(), **detail})

    measure(frame, [functools.partial(open_run, network, len(classes)) for network in networks], values)


Found = Iterator[tuple[dict[str, dict[str, Any]], Outcomes, dict[str, Any]]]
"""Metric entries of each network, what is kept of its images, and facts beside them."""


def _shape_texture(
    job: InspectionJob, subjects: list[Subject], classes: tuple[str, ...], device: torch.device
) -> Found:
    """Dimensions in both forms and shape bias; images are decoded once for all subjects."""
    section, cues = job.section, read_cue_conflict(Path(job.data.root))
    verify_inspected(job, cues)
    pairs = [
        shape_texture.draw_pairs(found, section.pairs, section.seed) for found in shape_texture.sharing_pairs(cues)
    ]
    groups = category_classes(cues, classes)
    neurons: list[list[np.ndarray]] = [[] for _ in subjects]
    probabilities: list[list[np.ndarray]] = [[] for _ in subjects]
    shard = Shard(cues, range(len(cues)), subjects, stored=job.stored_images == "as_stored")
    with torch.inference_mode():
        for _, _, inputs in shared_batches([shard], section.evaluation.batch_size, section.evaluation.workers, device):
            for rows, shares, (subject, images) in zip(neurons, probabilities, inputs, strict=True):
                found, logits = features(subject.network, images, section.stage, section.pooled)
                rows.append(found.cpu().numpy())
                shares.append(logits.softmax(dim=1).cpu().numpy())
    for rows, shares in zip(neurons, probabilities, strict=True):
        resampling = {"resamples": section.resamples, "seed": section.seed}
        dimensions = shape_texture.dimensions(np.concatenate(rows), *pairs, **resampling)
        metrics, outcomes = shape_texture.dimension_metrics(dimensions), shape_texture.dimension_outcomes(dimensions)
        if groups is None:
            metrics |= {name: metric(None, "%") for name in ("shape_bias", "cue_decisions")}
        else:
            decided = shape_texture.decide(np.concatenate(shares), groups, cues)
            metrics |= shape_texture.bias_metrics(decided, tuple(groups))
            kept = shape_texture.bias_outcomes(decided, section.resamples)
            outcomes = Outcomes(kept.images, {**outcomes.samples, **kept.samples})
        yield metrics, outcomes, {"images": len(cues), "stored_images": job.stored_images}


def category_classes(cues: CueConflictSet, classes: tuple[str, ...]) -> dict[str, np.ndarray] | None:
    """Which of a network's `classes` belong to each category, int (K,): the class of its name, as in generated sets, or
    the published ones of ImageNet's 16 categories.

    None for networks that were trained on other classes: their features have dimensions, their decisions no bias.
    """
    groups = {name: (name,) for name in cues.categories}
    if not set(cues.categories) <= set(classes):
        groups = imagenet_categories()
        if not (set(cues.categories) <= set(groups) and set(itertools.chain(*groups.values())) <= set(classes)):
            logger.warning("%s shows no classes of these networks: no shape bias", cues.root)
            return None
    return {name: np.array([classes.index(one) for one in members]) for name, members in groups.items()}


def _texture_knn(job: InspectionJob, subjects: list[Subject], classes: tuple[str, ...], device: torch.device) -> Found:
    """Nearest-neighbour accuracy per split and over splits."""
    section, textures = job.section, open_textures(job.data, job.data.cache)
    verify_inspected(job, textures)
    detail = {"gallery": list(section.gallery), "query": section.query, "classes": len(textures.classes)}
    means = section.evaluation
    for found in pooled_features(subjects, textures.images, means.batch_size, means.workers, device):
        metrics, outcomes = texture_metrics(
            found, textures.targets, textures.splits, gallery=section.gallery, query=section.query, device=device
        )
        yield metrics, outcomes, detail


def _receptive_field(
    job: InspectionJob, subjects: list[Subject], classes: tuple[str, ...], device: torch.device
) -> Found:
    """Area ratios of the trained network and, as a control, of the same network before training."""
    section, split = job.section, open_classification(job.data, "val")
    verify_classification(job.data, split)
    for subject in subjects:
        logger.info("%s: effective receptive field", subject.name)
        run = Run.parse(subject.name)
        fresh = build_network(run, subject.architecture, len(classes)).eval().to(device)
        mean, deviation = subject.own.mean, subject.own.deviation
        if section.normalization == "imagenet":
            mean, deviation = IMAGENET_MEAN, IMAGENET_DEVIATION
        fields, metrics, samples = {}, {}, {}
        for name, network in (("trained", subject.network), ("untrained", fresh)):
            # All of the set: where images are skipped, the next ones take their place.
            images = receptive_field.erf_images(split, section.size, mean, deviation)
            found = receptive_field.mean_contribution(network, images, device, section.images)
            fields[name], end = found, "" if name == "trained" else "_untrained"
            # Of the map as it is kept, so that they follow from it to the last digit.
            ratios = receptive_field.ratios(found.scores.astype(np.float32), len(found.maps))
            metrics |= {f"{ratio}{end}": entry for ratio, entry in ratios.items()}
            drawn = receptive_field.resampled_ratios(found.maps)
            samples |= {f"{ratio}{end}": values for ratio, values in drawn.items()}
        with atomic_path(job.field(subject.name)) as temporary, temporary.open("wb") as stream:
            np.savez_compressed(stream, **{name: found.scores.astype(np.float32) for name, found in fields.items()})
        used = {"mean": list(mean), "deviation": list(deviation)}
        detail = {
            "size": section.size,
            "skipped": {name: found.skipped for name, found in fields.items()},
            "field": file_md5(job.field(subject.name)),
            # Of the network's own preprocessing, the part that was used; and all that was taken.
            "preprocessing": {} if section.normalization == "imagenet" else used,
            "normalization": used,
        }
        yield metrics, Outcomes(samples=samples), detail
