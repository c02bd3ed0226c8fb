"""Looking inside networks: what `lska evaluate shape_texture`, `texture_knn` and `receptive_field` do."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from lska.data.cue_conflict import CueConflictSet, imagenet_categories, read_cue_conflict
from lska.data.decoding import decode
from lska.data.inspected_sets import verify_inspected
from lska.data.preparing import verify as verify_classification
from lska.data.sources import open_classification, open_textures
from lska.evaluate import receptive_field, shape_bias, shape_texture
from lska.evaluate.members import Member, open_run
from lska.evaluate.neighbours import pooled_features, texture_metrics
from lska.evaluate.robustness import training_classes
from lska.evaluate.scoring_passes import cut, normalized
from lska.models.features import responses
from lska.models.runs import Run
from lska.models.threads import use_threads
from lska.provenance.files import atomic_path
from lska.provenance.metric_files import file_md5, metric, write_metrics
from lska.provenance.outcomes import Outcomes, with_errors
from lska.provenance.sidecars import Geometry
from lska.settings.inspections import InspectionJob
from lska.settings.recipes import IMAGENET_DEVIATION, IMAGENET_MEAN, Triple
from lska.train.classifier import build_network

logger = logging.getLogger(__name__)

Metrics = dict[str, dict[str, Any]]
Result = tuple[Metrics, Outcomes, dict[str, Any]]
"""Metric entries of one network, what is kept of its images, and facts beside them."""


def measure_inspection(job: InspectionJob, runs: Sequence[Run]) -> None:
    """Measure the networks of `runs` and write a metric file for each.

    Raises:
        DataError: the data were not prepared, were changed since, or hold an unreadable image.
        StaleWeightsError, ValueError: a checkpoint is missing, damaged or of another architecture.
    """
    use_threads(job.section.evaluation.threads)
    started, device = datetime.now(UTC), torch.device("cuda" if job.section.evaluation.gpus else "cpu")
    classes = training_classes(job.config)
    members = [open_run(job.config, run, len(classes), device) for run in runs]
    found: Iterator[Result] = _MEASURES[job.name](job, members, classes, device)
    for member, result in zip(members, found, strict=True):
        _write(job, member, result, started, device)


def _write(job: InspectionJob, member: Member, result: Result, started: datetime, device: torch.device) -> None:
    metrics, outcomes, detail = result
    write_metrics(
        job.metrics(member.run),
        task=job.task,
        run=str(member.run),
        scale=job.config.scale,
        metrics=with_errors(metrics, outcomes),
        weights={"md5": member.sidecar["md5"], "origin": member.sidecar["origin"]},
        recipe=member.sidecar.get("recipe"),
        data=job.config.data_identity(job.data),
        device=str(device),
        started=started,
        extra={"protocol": job.protocol(), "preprocessing": member.own.to_dict(), **detail},
        outcomes=outcomes,
    )


def _shape_texture(
    job: InspectionJob, members: Sequence[Member], classes: tuple[str, ...], device: torch.device
) -> Iterator[Result]:
    """Dimensions in both forms and shape bias; images are decoded once for all members."""
    section = job.section
    cues = read_cue_conflict(Path(job.data.root))
    verify_inspected(job, cues)
    pairs = [
        shape_texture.draw_pairs(found, section.pairs, section.seed)
        for found in (shape_texture.shape_pairs(cues), shape_texture.texture_pairs(cues))
    ]
    mapping = _mapping(cues, classes)
    for found, probabilities in _responses(job, members, cues, device):
        dimensions = shape_texture.dimensions(found, *pairs, resamples=section.resamples, seed=section.seed)
        metrics, kept = shape_texture.dimension_metrics(dimensions), shape_texture.dimension_outcomes(dimensions)
        biases, decided = _bias(cues, probabilities, mapping, section.resamples)
        outcomes = Outcomes(decided.images, {**kept.samples, **decided.samples})
        yield metrics | biases, outcomes, {"images": len(cues), "stored_images": job.config.stored_images}


def _bias(
    cues: CueConflictSet, probabilities: np.ndarray, mapping: shape_bias.CategoryMapping | None, resamples: int
) -> tuple[Metrics, Outcomes]:
    """Shape bias of class probabilities (n, classes); null where no class stands for a category."""
    if mapping is None:
        return {"shape_bias": metric(None, "%"), "cue_decisions": metric(None, "%")}, Outcomes()
    decided = shape_bias.decisions(probabilities, mapping)
    metrics = shape_bias.bias_metrics(shape_bias.shape_bias(decided, mapping, cues))
    return metrics, shape_bias.bias_outcomes(decided, mapping, cues, resamples)


def _mapping(cues: CueConflictSet, classes: tuple[str, ...]) -> shape_bias.CategoryMapping | None:
    """Categories that are classes themselves, as in generated sets, or the published 16 of ImageNet.

    None for networks that were trained on other classes: their features have dimensions, their decisions no bias.
    """
    if set(cues.categories) <= set(classes):
        return shape_bias.identity_mapping(classes, cues.categories)
    groups = imagenet_categories()
    if set(cues.categories) <= set(groups) and set(itertools.chain(*groups.values())) <= set(classes):
        return shape_bias.imagenet_mapping(classes)
    logger.warning("%s shows no classes of these networks: no shape bias", cues.root)
    return None


def _responses(
    job: InspectionJob, members: Sequence[Member], cues: CueConflictSet, device: torch.device
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Features (n, N) and class probabilities (n, classes) of each member, in the order of the images."""
    section, size = job.section, job.section.evaluation.batch_size
    rows: list[list[tuple[np.ndarray, np.ndarray]]] = [[] for _ in members]
    with tqdm(total=len(cues), unit="image", disable=None) as bar, torch.inference_mode():
        for first in range(0, len(cues), size):
            indices = range(first, min(first + size, len(cues)))
            images = [decode(cues.read(index), str(cues.place(index))) for index in indices]
            for member, kept in zip(members, rows, strict=True):
                how = member.preprocessing(stored=job.config.stored_images == "as_stored")
                batch = normalized(_stack(images, how.geometry).to(device), how, member.channels_last)
                found, logits = responses(member.network, batch, section.stage, section.pooled)
                kept.append((found.cpu().numpy(), logits.softmax(dim=1).cpu().numpy()))
            bar.update(len(indices))
    for kept in rows:
        found, probabilities = zip(*kept, strict=True)
        yield np.concatenate(found), np.concatenate(probabilities)


def _stack(images: Sequence[Any], geometry: Geometry) -> torch.Tensor:
    """uint8 (B, 3, size, size)."""
    transform = cut(geometry)
    return torch.stack([transform(image) for image in images])


def _texture_knn(
    job: InspectionJob, members: Sequence[Member], classes: tuple[str, ...], device: torch.device
) -> Iterator[Result]:
    """Nearest-neighbour accuracy per split and over splits."""
    section, textures = job.section, open_textures(job.data, job.config.work / "cache")
    verify_inspected(job, textures)
    evaluation = section.evaluation
    every = pooled_features(
        members, textures.images, batch_size=evaluation.batch_size, workers=evaluation.workers, device=device
    )
    detail = {"gallery": list(section.gallery), "query": section.query, "classes": len(textures.classes)}
    for found in every:
        metrics, outcomes = texture_metrics(
            found, textures.targets, textures.splits, gallery=section.gallery, query=section.query, device=device
        )
        yield metrics, outcomes, detail


def _receptive_field(
    job: InspectionJob, members: Sequence[Member], classes: tuple[str, ...], device: torch.device
) -> Iterator[Result]:
    """Area ratios of the trained network and, as a control, of the same network before training."""
    split = open_classification(job.config, "val")
    verify_classification(job.config, split)
    for member in members:
        logger.info("%s: effective receptive field", member.run)
        fresh = build_network(job.config, member.run, len(classes), 0.0, member.architecture).eval().to(device)
        maps = {
            name: receptive_field.mean_contribution(
                network, _images(job, split, member), device, job.section.images, keep=True
            )
            for name, network in (("trained", member.network), ("untrained", fresh))
        }
        _save_maps(job.field(member.run), {name: found.scores for name, found in maps.items()})
        metrics: Metrics = {}
        samples: dict[str, np.ndarray] = {}
        for end, found in (("", maps["trained"]), ("_untrained", maps["untrained"])):
            # Of the map as it is kept, so that they follow from it to the last digit.
            ratios = receptive_field.ratios(found.scores.astype(np.float32), found.used)
            metrics |= {f"{name}{end}": entry for name, entry in ratios.items()}
            samples |= {f"{name}{end}": drawn for name, drawn in receptive_field.resampled_ratios(found.maps).items()}
        detail = {"size": job.section.size, "skipped": {name: found.skipped for name, found in maps.items()}}
        detail |= {"field": file_md5(job.field(member.run)), **_pixels_detail(job, member)}
        yield metrics, Outcomes(samples=samples), detail


def _images(job: InspectionJob, split: Any, member: Member) -> Iterator[torch.Tensor]:
    mean, deviation = _pixels(job, member)
    # All of the set: where images are skipped, the next ones take their place.
    return receptive_field.erf_images(split, None, job.section.size, mean, deviation)


def _pixels(job: InspectionJob, member: Member) -> tuple[Triple, Triple]:
    if job.section.normalization == "imagenet":
        return IMAGENET_MEAN, IMAGENET_DEVIATION
    return member.own.mean, member.own.deviation


def _pixels_detail(job: InspectionJob, member: Member) -> dict[str, Any]:
    """What metric files say of the pixels: of the network's own preprocessing, the part that was used, and all that was
    taken.
    """
    used = dict(zip(("mean", "deviation"), map(list, _pixels(job, member)), strict=True))
    return {"preprocessing": {} if job.section.normalization == "imagenet" else used, "normalization": used}


def _save_maps(path: Path, maps: dict[str, np.ndarray]) -> None:
    """Contribution maps as float32 arrays of a NumPy archive."""
    with atomic_path(path) as temporary, temporary.open("wb") as stream:
        np.savez_compressed(stream, **{name: scores.astype(np.float32) for name, scores in maps.items()})


_MEASURES: dict[str, Callable[..., Iterator[Result]]] = {
    "shape_texture": _shape_texture,
    "texture_knn": _texture_knn,
    "receptive_field": _receptive_field,
}
