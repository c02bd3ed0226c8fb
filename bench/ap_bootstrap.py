"""Bootstrap of average precision at the size of COCO's validation set: ours against pycocotools on every sample.

    python bench/ap_bootstrap.py --json bench/results/ap_bootstrap.json

Objects and detections are made up, as many as a detector leaves on COCO 2017's validation images: every object is found
three times, more or less well, and the other detections are anywhere. Both contenders start from the same matches.
pycocotools is asked for a few samples and its time extrapolated; on these, its six statistics are compared with ours.
Two minutes on one core.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import io
import os
import platform
import resource
import statistics
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from lska.evaluate.box_ap import STATISTICS, resampled_precisions
from lska.provenance.files import write_json
from lska.provenance.metric_files import code_version, environment
from lska.provenance.outcomes import resample_counts

WIDTH, HEIGHT = 640, 480


def index(content: dict[str, Any]) -> COCO:
    """pycocotools' index of annotations in memory."""
    made = COCO()
    made.dataset = content
    made.createIndex()
    return made


def boxes(generator: np.random.Generator, count: int) -> np.ndarray:
    """x, y, width, height, float (count, 4): sides from 8 to 400 pixels, two fifths of the areas below 32 x 32."""
    sides = np.exp(generator.uniform(np.log(8), np.log(400), (count, 1)) + generator.normal(0, 0.3, (count, 2)))
    sides = np.clip(sides, 4, (WIDTH, HEIGHT))
    return np.concatenate([generator.uniform(0, 1, (count, 2)) * ((WIDTH, HEIGHT) - sides), sides], axis=1)


def make_objects(options: argparse.Namespace, generator: np.random.Generator) -> list[dict[str, Any]]:
    """Annotations; categories are as unequal as COCO's, where a third of the objects are people."""
    shares = 1 / np.arange(1, options.categories + 1) ** 1.1
    categories = generator.choice(options.categories, options.objects, p=shares / shares.sum()) + 1
    images = generator.integers(1, options.images + 1, options.objects)
    crowds = generator.random(options.objects) < 0.01
    return [
        {"id": number, "image_id": int(image), "category_id": int(category), "bbox": box.tolist(),
         "area": float(box[2] * box[3]), "iscrowd": int(crowd)}
        for number, (image, category, box, crowd) in enumerate(
            zip(images, categories, boxes(generator, options.objects), crowds, strict=True), 1)
    ]  # fmt: skip


def make_detections(
    options: argparse.Namespace, objects: list[dict[str, Any]], generator: np.random.Generator
) -> list[dict[str, Any]]:
    """Every object is found a few times, more or less well and with scores to match; the rest is anywhere."""
    per_image = options.detections // options.images
    by_image: dict[int, list[dict[str, Any]]] = {}
    for one in objects:
        by_image.setdefault(one["image_id"], []).append(one)
    found = []
    for image in range(1, options.images + 1):
        near = by_image.get(image, []) * 3
        for one in near[:per_image]:
            shift = abs(generator.normal(0, 0.15))
            x, y, w, h = one["bbox"]
            box = [x + shift * w * generator.normal(), y + shift * h * generator.normal(), w, h]
            found.append((image, one["category_id"], box, np.exp(-3 * shift) * generator.random() ** 0.5))
        count = max(0, per_image - len(near))
        categories = generator.integers(1, options.categories + 1, count)
        for box, category in zip(boxes(generator, count), categories, strict=True):
            found.append((image, int(category), box.tolist(), 0.5 * generator.random() ** 3))
    names = ("image_id", "category_id", "bbox", "score")
    return [dict(zip(names, one, strict=True)) for one in found]


def matched(options: argparse.Namespace) -> COCOeval:
    """Made-up objects and detections, matched by pycocotools."""
    generator = np.random.default_rng(0)
    objects = make_objects(options, generator)
    images = [{"id": number, "width": WIDTH, "height": HEIGHT} for number in range(1, options.images + 1)]
    categories = [{"id": number, "name": str(number)} for number in range(1, options.categories + 1)]
    truth = index({"images": images, "annotations": objects, "categories": categories})
    scoring = COCOeval(truth, truth.loadRes(make_detections(options, objects, generator)), "bbox")
    scoring.evaluate()
    return scoring


def drawn(scoring: COCOeval, counts: np.ndarray) -> Iterator[Any]:
    """The matches of one sample as pycocotools would have found them, images that are drawn twice being there twice."""
    chosen = np.repeat(np.arange(len(counts)), counts)
    for first in range(0, len(scoring.evalImgs), len(counts)):
        yield from (scoring.evalImgs[first + image] for image in chosen)


def by_pycocotools(scoring: COCOeval, counts: np.ndarray) -> np.ndarray:
    """Its first six statistics, in percent, on the images of one sample.

    Only what they need is asked for, precision at 100 detections per image: a third of its usual work.
    """
    everything, parameters = scoring.evalImgs, copy.copy(scoring.params)
    parameters.maxDets = [parameters.maxDets[-1]]
    scoring.evalImgs = list(drawn(scoring, counts))
    scoring.accumulate(parameters)
    scoring.evalImgs = everything
    found = []
    for area, threshold in STATISTICS.values():
        chosen = slice(None) if threshold is None else parameters.iouThrs == threshold
        values = scoring.eval["precision"][chosen][..., parameters.areaRngLbl.index(area), 0]
        found.append(100 * values[values > -1].mean())
    return np.array(found)


def compare(options: argparse.Namespace) -> dict[str, Any]:
    """Processor seconds of both, which other work hardly changes, and how far their statistics differ."""
    with contextlib.redirect_stdout(io.StringIO()):
        start = time.process_time()
        scoring = matched(options)
        matching = time.process_time() - start
        start = time.process_time()
        samples = resampled_precisions(scoring, options.resamples)
        ours = time.process_time() - start
        theirs, differences = [], []
        for number, counts in enumerate(resample_counts(options.images, resamples=options.asked)):
            start = time.process_time()
            expected = by_pycocotools(scoring, counts)
            theirs.append(time.process_time() - start)
            found = np.array([samples[name][number] for name in STATISTICS])
            differences.append(float(np.abs(found - expected).max()))
    each = statistics.median(theirs)
    return {
        "matching_seconds": matching, "ours_seconds": ours, "pycocotools_seconds_per_sample": theirs,
        "pycocotools_seconds_extrapolated": each * options.resamples,
        "ratio": each * options.resamples / ours, "largest_difference": max(differences),
        "standard_errors": {name: float(values.std(ddof=1)) for name, values in samples.items()},
        "detections": sum(len(one["dtScores"]) for one in scoring.evalImgs if one is not None) // 4,
        "peak_memory_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }  # fmt: skip


def parse_options() -> argparse.Namespace:
    """Settings from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=5000)
    parser.add_argument("--categories", type=int, default=80)
    parser.add_argument("--objects", type=int, default=36_781, help="as in COCO's validation set")
    parser.add_argument("--detections", type=int, default=500_000)
    parser.add_argument("--resamples", type=int, default=1000)
    parser.add_argument("--asked", type=int, default=5, help="samples that pycocotools is asked for")
    parser.add_argument("--json", type=Path, help="write the results to this file")
    return parser.parse_args()


def main() -> None:
    """Measure, print and write the file that was asked for."""
    options = parse_options()
    load_before = os.getloadavg()
    found = compare(options)
    for name, value in found.items():
        print(f"{name}: {value}")
    if options.json:
        settings = {name: str(value) if isinstance(value, Path) else value for name, value in vars(options).items()}
        loads = {"before": load_before, "after": os.getloadavg()}
        machine = {"cores": os.cpu_count(), "system": platform.platform(), "load_average": loads}
        about = {"environment": environment("cpu"), "code": code_version()}
        write_json(options.json, {"settings": settings, "machine": machine, "result": found} | about)


if __name__ == "__main__":
    main()
