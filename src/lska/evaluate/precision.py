"""COCO's average precision on bootstrap samples of the images, equal to pycocotools' on the images of each sample.

Detections are matched with objects image by image, so the matches that pycocotools finds hold in every sample; a sample
changes only how often each image counts. Detections are sorted once, and precision and recall are looked up at the
right detections alone: between two of them recall stands still and precision falls, so nothing else is ever read off
the interpolated curve. Detections of equal score in one image keep their order one by one, each with all its copies.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from pycocotools.cocoeval import COCOeval
from scipy.sparse import csr_array

from lska.provenance.outcomes import RESAMPLES, resample_columns

AT_ONCE = 100
"""Samples that are taken at a time: 10 MB per array for the 11,000 people of COCO's validation set."""

STATISTICS: Mapping[str, tuple[str, float | None]] = {
    "ap": ("all", None), "ap50": ("all", 0.5), "ap75": ("all", 0.75),
    "ap_small": ("small", None), "ap_medium": ("medium", None), "ap_large": ("large", None),
}  # fmt: skip
"""Range of areas, and IoU threshold (None for the mean over all), of COCOeval's first six statistics, in its order."""


@dataclass(frozen=True, eq=False)
class Ranking:
    """Detections of one category and range of areas on all images, those with the highest scores first."""

    images: np.ndarray
    """int64 (D,): place of each detection's image."""
    right: np.ndarray
    """bool (T, D) by IoU threshold: matched with an object that counts."""
    counted: np.ndarray
    """bool (T, D): right or wrong. The others match a crowd, or an object of another size, or are of another size."""
    objects: np.ndarray
    """int64 (images,): objects that count."""


def rankings(scoring: COCOeval, area: str) -> Iterator[Ranking]:
    """Every category that has detections or objects, from the matches that `scoring.evaluate()` found.

    Args:
        area: a label of pycocotools' ranges, such as `all`.
    """
    parameters = scoring.params
    images, areas = len(parameters.imgIds), len(parameters.areaRng)
    place = parameters.areaRngLbl.index(area)
    for category in range(len(parameters.catIds)):
        first = (category * areas + place) * images
        matched = scoring.evalImgs[first : first + images]
        found = [(image, one) for image, one in enumerate(matched) if one is not None]
        if found:
            yield _ranking(found, images)


def _ranking(found: list[tuple[int, dict]], images: int) -> Ranking:
    lengths = [len(one["dtScores"]) for _, one in found]
    scores = np.concatenate([one["dtScores"] for _, one in found])
    # Stable, as pycocotools sorts: equal scores stay in the order of the images.
    order = np.argsort(-scores, kind="stable")
    matches, ignored = (
        np.concatenate([one[name] for _, one in found], axis=1)[:, order].astype(bool)
        for name in ("dtMatches", "dtIgnore")
    )
    objects = np.zeros(images, dtype=np.int64)
    for image, one in found:
        objects[image] = np.count_nonzero(one["gtIgnore"] == 0)
    return Ranking(np.repeat([image for image, _ in found], lengths)[order], matches & ~ignored, ~ignored, objects)


def average_precisions(ranking: Ranking, counts: np.ndarray, recalls: np.ndarray) -> np.ndarray:
    """Mean interpolated precision over `recalls` (R,), float64 (T, B), 0 to 1; NaN for samples without an object.

    Args:
        counts: float64 (images, B), how often each image is in each sample.
    """
    objects = ranking.objects @ counts
    always, places = ranking.counted.all(axis=0), np.flatnonzero(ranking.right.any(axis=0))
    # Most detections count at every threshold or at none: they are summed up once.
    shared = _seen(ranking, always, places, counts)
    result = np.zeros((len(ranking.right), counts.shape[1]))
    for threshold, (right, counted) in enumerate(zip(ranking.right, ranking.counted, strict=True)):
        ends = np.flatnonzero(right)
        if not len(ends):
            continue
        seen, sometimes = shared[np.searchsorted(places, ends)], counted & ~always
        if sometimes.any():
            seen += _seen(ranking, sometimes, ends, counts)
        hits = counts[ranking.images[ends]].cumsum(axis=0)
        result[threshold] = _area(hits, seen, objects, recalls)
    return np.where(objects > 0, result, np.nan)


def _seen(ranking: Ranking, chosen: np.ndarray, ends: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """How many of the `chosen` detections (D,) there are up to each of `ends` (P,), in each sample; float64 (P, B)."""
    detections = np.flatnonzero(chosen)
    segments = np.searchsorted(ends, detections)
    before = segments < len(ends)
    entries = (np.ones(before.sum()), (segments[before], ranking.images[detections[before]]))
    return (csr_array(entries, shape=(len(ends), len(counts))) @ counts).cumsum(axis=0)


def _area(hits: np.ndarray, seen: np.ndarray, objects: np.ndarray, recalls: np.ndarray) -> np.ndarray:
    """Mean over `recalls` (R,) of the highest precision at that recall or more, (B,).

    `hits` and `seen` (P, B) are the right and all detections up to each right one, `objects` (B,) those to be found.
    """
    with np.errstate(invalid="ignore", divide="ignore"):
        recall = hits / objects
    precision = hits / (seen + np.spacing(1))
    highest = np.maximum.accumulate(precision[::-1], axis=0)[::-1]
    reached = np.searchsorted(recalls, recall, side="right")
    return (highest * np.diff(reached, axis=0, prepend=0)).sum(axis=0) / len(recalls)


def resampled_precisions(scoring: COCOeval, resamples: int = RESAMPLES) -> dict[str, np.ndarray]:
    """The statistics of `STATISTICS` in percent on every bootstrap sample of the images, (resamples,) each.

    NaN where a sample has no object of the size. Samples are those of `outcomes.resample_counts` of as many images as
    `scoring` has, in the order of their ids.
    """
    samples = list(resample_columns(len(scoring.params.imgIds), resamples, AT_ONCE))
    means = {area: _means(scoring, area, samples) for area in scoring.params.areaRngLbl}
    thresholds = np.asarray(scoring.params.iouThrs)
    return {
        name: 100 * (means[area].mean(axis=0) if threshold is None else means[area][thresholds == threshold][0])
        for name, (area, threshold) in STATISTICS.items()
    }


def precisions(scoring: COCOeval) -> dict[str, np.ndarray]:
    """What the statistics of `STATISTICS` are the means of, in percent: mean precision over recalls by IoU threshold
    and category, (T, K), or (1, K) for one threshold; NaN for categories without objects of the size.
    """
    # -1 in all recalls of a category that has no objects; the last limit is that of the most detections.
    found = scoring.eval["precision"][..., -1].mean(axis=1)
    found = np.where(found < 0, np.nan, 100 * found)
    thresholds, areas = np.asarray(scoring.params.iouThrs), scoring.params.areaRngLbl
    return {
        name: found[slice(None) if threshold is None else thresholds == threshold, :, areas.index(area)]
        for name, (area, threshold) in STATISTICS.items()
    }


def _means(scoring: COCOeval, area: str, samples: list[np.ndarray]) -> np.ndarray:
    """Mean over the categories that a sample has objects of, (T, samples)."""
    shape = (len(scoring.params.iouThrs), sum(counts.shape[1] for counts in samples))
    total, categories = np.zeros(shape), np.zeros(shape)
    for ranking in rankings(scoring, area):
        found = np.concatenate(
            [average_precisions(ranking, counts, scoring.params.recThrs) for counts in samples], axis=1
        )
        total += np.nan_to_num(found)
        categories += ~np.isnan(found)
    with np.errstate(invalid="ignore"):
        return total / categories
