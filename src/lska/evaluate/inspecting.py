"""Looking inside networks: what `lska evaluate shape_texture`, `texture_knn` and `receptive_field` do.

Nearest textures (paper, Table XIII): how often the nearest image by a network's features is of the same texture. The
paper names K = 1, the backbone's features and the validation set of DTD, but neither the split, the gallery, the
distance nor the pooling. Here: pooled last features, gallery the training part, both usual distances, every split.
"""

from __future__ import annotations

import dataclasses
import itertools
import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lska.data.archives import open_classification
from lska.data.cue_conflict import CueConflictSet, imagenet_categories, read_cue_conflict
from lska.data.dtd import Splits, open_textures
from lska.data.preparing import verify as verify_classification
from lska.data.preparing import verify_inspected
from lska.evaluate import receptive_field, shape_texture
from lska.evaluate.measurement import (
    Network,
    Shard,
    Subject,
    Values,
    measure,
    openers,
    shared_batches,
    training_classes,
)
from lska.evaluate.scores import image_values, over_splits
from lska.models.scoring import features
from lska.provenance.errors import InputError
from lska.provenance.files import atomic_path
from lska.provenance.metric_files import file_md5, metric, proportion
from lska.provenance.outcomes import Outcomes
from lska.settings.recipes import IMAGENET_DEVIATION, IMAGENET_MEAN
from lska.settings.schema import Evaluation
from lska.settings.tasks import InspectionJob

logger = logging.getLogger(__name__)

DISTANCES = ("cosine", "euclidean")

BLOCK = 1024
"""Rows of the query that are compared with the gallery at a time: 30 MB of distances for DTD."""

PAIRS = 16384
"""Pairs whose exact distance is taken at a time."""


def measure_inspection(job: InspectionJob, networks: Sequence[Network]) -> None:
    """Measure `networks` and write a metric file for each.

    Raises:
        DataError: the data were not prepared, were changed since, or hold an unreadable image.
        StaleWeightsError, ValueError: a checkpoint is missing, damaged or of another architecture.
    """
    classes = training_classes(job.clean)
    look = {"shape_texture": _shape_texture, "texture_knn": _texture_knn, "receptive_field": _receptive_field}[job.name]

    def values(subjects: list[Subject], device: torch.device) -> Iterator[Values]:
        for found in look(job, subjects, classes, device):
            yield dataclasses.replace(found, detail={"protocol": job.protocol(), **found.detail})

    measure(job, openers(networks, len(classes)), values, job.data.identity())


def responses(
    subjects: Sequence[Subject], images: Any, evaluation: Evaluation, device: torch.device, stage: int | None = None,
    pooled: bool = True, stored: bool = False,
) -> list[tuple[np.ndarray, np.ndarray]]:  # fmt: skip
    """Features of all `images` by every subject, float32 (n, D), as `scoring.features` gives them, and probabilities of
    its classes, float32 (n, classes).

    Every image is decoded once, and cut and normalised as each subject's validation images were; `stored` ones of the
    input size are taken as they are. Raises ValueError where features are not finite.
    """
    found: list[tuple[list[np.ndarray], list[np.ndarray]]] = [([], []) for _ in subjects]
    shard = Shard(images, range(len(images)), subjects, stored)
    for _, _, inputs in shared_batches([shard], evaluation.batch_size, evaluation.workers, device):
        with torch.inference_mode():
            for (rows, probabilities), (subject, batch) in zip(found, inputs, strict=True):
                neurons, logits = features(subject.network, batch, stage, pooled)
                rows.append(neurons.cpu().numpy())
                probabilities.append(logits.softmax(dim=1).cpu().numpy())
    whole = [(np.concatenate(rows), np.concatenate(probabilities)) for rows, probabilities in found]
    for subject, (rows, _) in zip(subjects, whole, strict=True):
        if not np.isfinite(rows).all():
            raise InputError(
                f"{subject.name}: the network's features are not finite; its weights (MD5 {subject.sidecar['md5']}) "
                "are of no use: train it again, or leave it out"
            )
    return whole


# --- Shape and texture -----------------------------------------------------------------------------------------------


def _shape_texture(
    job: InspectionJob, subjects: list[Subject], classes: tuple[str, ...], device: torch.device
) -> Iterator[Values]:
    """Dimensions in both forms and shape bias."""
    section, cues = job.section, read_cue_conflict(Path(job.data.root))
    verify_inspected(job, cues)
    pairs = [
        shape_texture.draw_pairs(found, section.pairs, section.seed) for found in shape_texture.sharing_pairs(cues)
    ]
    groups = category_classes(cues, classes)
    stored = job.stored_images == "as_stored"
    for rows, probabilities in responses(
        subjects, cues, section.evaluation, device, section.stage, section.pooled, stored
    ):
        dimensions = shape_texture.dimensions(rows, *pairs, resamples=section.resamples, seed=section.seed)
        metrics, outcomes = shape_texture.dimension_metrics(dimensions), shape_texture.dimension_outcomes(dimensions)
        if groups is None or probabilities.shape[1] != len(classes):
            metrics |= {name: metric(None, "%") for name in ("shape_bias", "cue_decisions")}
        else:
            decided = shape_texture.decide(probabilities, groups, cues)
            metrics |= shape_texture.bias_metrics(decided, tuple(groups))
            kept = shape_texture.bias_outcomes(decided, section.resamples)
            outcomes = Outcomes(kept.images, {**outcomes.samples, **kept.samples})
        yield Values(metrics, outcomes, {"images": len(cues), "stored_images": job.stored_images})


def category_classes(cues: CueConflictSet, classes: tuple[str, ...]) -> dict[str, np.ndarray] | None:
    """Which of a network's `classes` belong to each category, int (K,): the class of its name, as in generated sets, or
    the published ones of ImageNet's 16 categories.

    None for networks that were trained on other classes: their features have dimensions, their decisions no bias.
    """
    groups: Mapping[str, Sequence[str]] = {name: (name,) for name in cues.categories}
    if not set(cues.categories) <= set(classes):
        groups = imagenet_categories()
        if not (set(cues.categories) <= set(groups) and set(itertools.chain(*groups.values())) <= set(classes)):
            logger.warning("%s shows no classes of these networks: no shape bias", cues.root)
            return None
    return {name: np.array([classes.index(one) for one in members]) for name, members in groups.items()}


# --- Nearest textures ------------------------------------------------------------------------------------------------


def _texture_knn(
    job: InspectionJob, subjects: list[Subject], classes: tuple[str, ...], device: torch.device
) -> Iterator[Values]:
    """Nearest-neighbour accuracy per split and over splits."""
    section, textures = job.section, open_textures(job.data, job.data.cache)
    verify_inspected(job, textures)
    detail = {"gallery": list(section.gallery), "query": section.query, "classes": len(textures.classes)}
    for rows, _ in responses(subjects, textures.images, section.evaluation, device):
        found = texture_metrics(
            rows, textures.targets, textures.splits, gallery=section.gallery, query=section.query, device=device
        )
        yield Values(*found, detail)


def texture_metrics(
    rows: np.ndarray, targets: np.ndarray, splits: Splits, *, gallery: Sequence[str] = ("train",), query: str = "val",
    device: torch.device | None = None,
) -> tuple[dict[str, dict[str, Any]], Outcomes]:  # fmt: skip
    """Metric entries of a texture set: `top1_<distance>_split<n>`, their mean `top1_<distance>` and its deviation; and
    the values of every query image for the means.

    The splits sort the same images, so they are not independent. The mean's standard error is therefore the mean of the
    splits' binomial ones, its upper bound; `top1_<distance>_deviation` is the sample deviation over splits (null for a
    single one), and `n` of the mean the number of different query images.

    Args:
        rows: features, float32 (n, D).
        targets: class index of every image, (n,).
        gallery: parts that neighbours are looked for in; ("train", "test") is everything that is not queried.
        device: where distances are computed; the CPU where None.
    """
    entries, values, tensor = {}, {}, torch.from_numpy(rows).to(device or "cpu")
    for distance in DISTANCES:
        hits = {}
        for number, parts in splits.items():
            searched, asked = np.concatenate([parts[part] for part in gallery]), parts[query]
            found = nearest(tensor[torch.from_numpy(searched)], tensor[torch.from_numpy(asked)], distance)
            hits[number] = targets[searched[found.cpu().numpy()]] == targets[asked]
        name = f"top1_{distance}"
        values[name] = image_values({number: parts[query] for number, parts in splits.items()}, hits)
        shares = {number: proportion(int(hit.sum()), len(hit)) for number, hit in hits.items()}
        entries |= over_splits(name, shares, len(values[name]))
    return entries, Outcomes(images=values)


def nearest(gallery: torch.Tensor, query: torch.Tensor, distance: str = "cosine") -> torch.Tensor:
    """Row of `gallery` (G, D) that is nearest to each row of `query` (Q, D), int64 (Q,), on the tensors' device.

    The search is exact in 64-bit arithmetic, for cosine that of the rows scaled to length 1. Products of matrices leave
    the rows that their rounding cannot tell apart, and of those the differences are squared and summed, in the same
    order of additions for any block and device. Of equal distances the smallest row counts.

    Raises:
        ValueError: for cosine, a row of zeros, which has no direction.
    """
    gallery, query = (_rows(rows, distance) for rows in (gallery, query))
    lengths, found = gallery.square().sum(dim=1), []
    # Sums of D products err by at most about D eps of the sum of their sizes; twice, since minimum and rival both do.
    unit = 2 * (gallery.shape[1] + 4) * torch.finfo(torch.float64).eps
    for block in query.split(BLOCK):
        products = torch.addmm(lengths, block, gallery.T, alpha=-2)
        margin = unit * (block.square().sum(dim=1).sqrt() + lengths.max().sqrt()).square()
        rivals = products <= (products.amin(dim=1) + margin)[:, None]
        rows, columns = rivals.nonzero(as_tuple=True)
        pairs = zip(rows.split(PAIRS), columns.split(PAIRS), strict=True)
        exact = torch.cat([_sums((block[row] - gallery[column]).square()) for row, column in pairs])
        least = torch.full_like(margin, torch.inf).scatter_reduce(0, rows, exact, "amin")
        winners = exact == least[rows]
        places = torch.full_like(margin, len(gallery), dtype=torch.int64)
        found.append(places.scatter_reduce(0, rows[winners], columns[winners], "amin"))
    return torch.cat(found)


def _rows(rows: torch.Tensor, distance: str) -> torch.Tensor:
    """Rows in 64-bit precision, for cosine of length 1: |a - b|^2 = 2 - 2 cos then, which keeps the order."""
    rows = rows.double()
    if distance == "euclidean":
        return rows
    lengths = _sums(rows.square()).sqrt()
    if not lengths.all():
        raise InputError("cosine: features that are all zero have no direction; the network is of no use")
    return rows / lengths[:, None]


def _sums(values: torch.Tensor) -> torch.Tensor:
    """Sums of the rows of (n, D), by halves: torch's own sum may order its additions by n and by the device."""
    while values.shape[1] > 1:
        half = values.shape[1] // 2
        values = torch.cat([values[:, :half] + values[:, half : 2 * half], values[:, 2 * half :]], dim=1)
    return values[:, 0]


# --- Receptive fields ------------------------------------------------------------------------------------------------


def _receptive_field(
    job: InspectionJob, subjects: list[Subject], classes: tuple[str, ...], device: torch.device
) -> Iterator[Values]:
    """Area ratios of the trained network and, as a control, of the same network before training."""
    section, split = job.section, open_classification(job.data, "val")
    verify_classification(job.data, split)
    for subject in subjects:
        logger.info("%s: effective receptive field", subject.name)
        fresh = subject.fresh().eval().to(device)
        imagenet = section.normalization == "imagenet"
        mean = IMAGENET_MEAN if imagenet else subject.own.mean
        deviation = IMAGENET_DEVIATION if imagenet else subject.own.deviation
        maps, skipped, metrics, samples = {}, {}, {}, {}
        for name, end, network in (("trained", "", subject.network), ("untrained", "_untrained", fresh)):
            # All of the set: where images are skipped, the next ones take their place.
            images = receptive_field.erf_images(split, section.size, mean, deviation)
            found = receptive_field.mean_contribution(network, images, device, section.images)
            # Metrics are those of the map as it is kept, so that they follow from it to the last digit.
            maps[name], skipped[name] = found.scores.astype(np.float32), found.skipped
            ratios = receptive_field.ratios(maps[name], len(found.maps))
            metrics |= {f"{ratio}{end}": entry for ratio, entry in ratios.items()}
            drawn = receptive_field.resampled_ratios(found.maps)
            samples |= {f"{ratio}{end}": values for ratio, values in drawn.items()}
        with atomic_path(job.field(subject.name)) as temporary, temporary.open("wb") as stream:
            np.savez_compressed(stream, **maps)
        used = {"mean": list(mean), "deviation": list(deviation)}
        detail = {
            "size": section.size,
            "skipped": skipped,
            "field": file_md5(job.field(subject.name)),
            # Of the network's own preprocessing, the part that was used; and all that was taken.
            "preprocessing": {} if imagenet else used,
            "normalization": used,
        }
        yield Values(metrics, Outcomes(samples=samples), detail)
