"""COCO average precision of boxes and masks (Tables IV and IX), by pycocotools over the whole validation set, and its
bootstrap over the images.

On each bootstrap sample the precision equals pycocotools' on the images of that sample. Detections are matched with
objects image by image, so the matches that pycocotools finds hold in every sample; a sample changes only how often each
image counts. Detections are sorted once, and precision and recall are looked up at the right detections alone: between
two of them recall stands still and precision falls, so nothing else is ever read off the interpolated curve. Detections
of equal score in one image keep their order one by one, each with all its copies.
"""

from __future__ import annotations

import contextlib
import io
import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from scipy.sparse import csr_array

from lska.provenance.metric_files import metric
from lska.provenance.outcomes import RESAMPLES, resample_columns

logger = logging.getLogger(__name__)

AT_ONCE = 100
"""Samples that are taken at a time: 10 MB per array for the 11,000 people of COCO's validation set."""

STATISTICS: Mapping[str, tuple[str, float | None]] = {
    "ap": ("all", None), "ap50": ("all", 0.5), "ap75": ("all", 0.75),
    "ap_small": ("small", None), "ap_medium": ("medium", None), "ap_large": ("large", None),
}  # fmt: skip
"""Range of areas, and IoU threshold (None for the mean over all), of COCOeval's first six statistics, in its order."""


def read_truth(annotations: Path) -> COCO:
    """Parse a COCO annotation file; pycocotools says on standard output what it does, which is kept back."""
    with contextlib.redirect_stdout(io.StringIO()):
        return COCO(str(annotations))


def scored(truth: COCO, results: list[dict[str, Any]], kind: str) -> COCOeval:
    """Matches and statistics of the boxes or masks (`kind`, `box` or `mask`) among `results`."""
    # Detections have the size of their mask where masks are scored, that of their box where boxes are.
    left_out = "segmentation" if kind == "box" else "bbox"
    results = [{key: value for key, value in result.items() if key != left_out} for result in results]
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        if results:
            found = truth.loadRes(results)
        else:
            # No detection at all, which `loadRes` cannot read.
            found = COCO()
            found.dataset = {**truth.dataset, "annotations": []}
            found.createIndex()
        scoring = COCOeval(truth, found, {"box": "bbox", "mask": "segm"}[kind])
        scoring.evaluate()
        scoring.accumulate()
        scoring.summarize()
    logger.debug("%s", said.getvalue())
    return scoring


def average_precision(scoring: COCOeval, kind: str) -> dict[str, dict[str, Any]]:
    """COCO's six average precisions, `<kind>_ap` and so on, as metric entries in percent: averages over IoU 0.5 to 0.95
    but for `ap50` and `ap75`; None where the set has no object of a size (areas up to 32^2, up to 96^2, above)."""
    images = len(scoring.params.imgIds)
    return {
        f"{kind}_{name}": metric(100 * float(value) if value >= 0 else None, "%", n=images)
        for name, value in zip(STATISTICS, scoring.stats, strict=False)
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


# --- Bootstrap -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Ranking:
    """Detections of one category and range of areas on all images, those with the highest scores first.

    `images` int64 (D,) are the places of their images; `right` bool (T, D), by IoU threshold, are matched with an
    object that counts; `counted` (T, D) are right or wrong, the others match a crowd, or an object of another size, or
    are of another size; `objects` int64 (images,) are those that count.
    """

    images: np.ndarray
    right: np.ndarray
    counted: np.ndarray
    objects: np.ndarray


def resampled_precisions(scoring: COCOeval, resamples: int = RESAMPLES) -> dict[str, np.ndarray]:
    """The statistics of `STATISTICS` in percent on every bootstrap sample of the images, (resamples,) each.

    NaN where a sample has no object of the size. Samples are those of `outcomes.resample_counts` of as many images as
    `scoring` has, in the order of their ids.
    """
    parameters = scoring.params
    samples = list(resample_columns(len(parameters.imgIds), resamples, AT_ONCE))
    thresholds, means = np.asarray(parameters.iouThrs), {}
    for area in parameters.areaRngLbl:
        # Mean over the categories that a sample has objects of, (T, samples).
        total, categories = np.zeros((2, len(thresholds), resamples))
        for ranking in rankings(scoring, area):
            drawn = [average_precisions(ranking, counts, parameters.recThrs) for counts in samples]
            found = np.concatenate(drawn, axis=1)
            total += np.nan_to_num(found)
            categories += ~np.isnan(found)
        with np.errstate(invalid="ignore"):
            means[area] = total / categories
    return {
        name: 100 * (means[area].mean(axis=0) if threshold is None else means[area][thresholds == threshold][0])
        for name, (area, threshold) in STATISTICS.items()
    }


def rankings(scoring: COCOeval, area: str) -> Iterator[Ranking]:
    """Every category that has detections or objects, from the matches that `scoring.evaluate()` found; `area` is a
    label of pycocotools' ranges, such as `all`."""
    parameters = scoring.params
    images, areas = len(parameters.imgIds), len(parameters.areaRng)
    place = parameters.areaRngLbl.index(area)
    for category in range(len(parameters.catIds)):
        first = (category * areas + place) * images
        found = [(image, one) for image, one in enumerate(scoring.evalImgs[first : first + images]) if one is not None]
        if not found:
            continue
        where = np.repeat([image for image, _ in found], [len(one["dtScores"]) for _, one in found])
        # Stable, as pycocotools sorts: equal scores stay in the order of the images.
        order = np.argsort(-np.concatenate([one["dtScores"] for _, one in found]), kind="stable")
        matches, ignored = (
            np.concatenate([one[name] for _, one in found], axis=1)[:, order].astype(bool)
            for name in ("dtMatches", "dtIgnore")
        )
        objects = np.zeros(images, dtype=np.int64)
        for image, one in found:
            objects[image] = np.count_nonzero(one["gtIgnore"] == 0)
        yield Ranking(where[order], matches & ~ignored, ~ignored, objects)


def average_precisions(ranking: Ranking, counts: np.ndarray, recalls: np.ndarray) -> np.ndarray:
    """Mean interpolated precision over `recalls` (R,), float64 (T, B), 0 to 1; NaN for samples without an object.
    `counts`, float64 (images, B), says how often each image is in each sample."""
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
        # Right and all detections up to each right one, and the highest precision at that recall or more.
        hits = counts[ranking.images[ends]].cumsum(axis=0)
        with np.errstate(invalid="ignore", divide="ignore"):
            recall = hits / objects
        precision = hits / (seen + np.spacing(1))
        highest = np.maximum.accumulate(precision[::-1], axis=0)[::-1]
        reached = np.searchsorted(recalls, recall, side="right")
        result[threshold] = (highest * np.diff(reached, axis=0, prepend=0)).sum(axis=0) / len(recalls)
    return np.where(objects > 0, result, np.nan)


def _seen(ranking: Ranking, chosen: np.ndarray, ends: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """How many of the `chosen` detections (D,) there are up to each of `ends` (P,), in each sample; float64 (P, B)."""
    detections = np.flatnonzero(chosen)
    segments = np.searchsorted(ends, detections)
    before = segments < len(ends)
    entries = (np.ones(before.sum()), (segments[before], ranking.images[detections[before]]))
    return (csr_array(entries, shape=(len(ends), len(counts))) @ counts).cumsum(axis=0)
