"""Average precision on bootstrap samples: pycocotools on data sets in which images are really repeated agrees."""

from __future__ import annotations

import contextlib
import copy
import io
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools.coco import COCO

from lska.evaluate.box_ap import average_precision, scored
from lska.evaluate.precision import (
    AT_ONCE,
    STATISTICS,
    average_precisions,
    precisions,
    rankings,
    resampled_precisions,
)
from lska.provenance.outcomes import mean_of_parts, resample_counts, standard_error

SIDE = 200
Image = tuple[list[dict[str, Any]], list[dict[str, Any]]]
"""Objects and detections."""


def index(images: Sequence[Image], categories: int = 3) -> tuple[COCO, list[dict[str, Any]]]:
    """Annotations and results of a set that shows `images`."""
    objects: list[dict[str, Any]] = []
    found: list[dict[str, Any]] = []
    for number, (true, detected) in enumerate(images, 1):
        objects += [{**one, "image_id": number, "id": len(objects) + place} for place, one in enumerate(true, 1)]
        found += [{**one, "image_id": number} for one in detected]
    truth = COCO()
    truth.dataset = copy.deepcopy({
        "images": [{"id": number, "width": SIDE, "height": SIDE} for number in range(1, len(images) + 1)],
        "categories": [{"id": number, "name": str(number)} for number in range(1, categories + 1)],
        "annotations": objects,
    })  # fmt: skip
    with contextlib.redirect_stdout(io.StringIO()):
        truth.createIndex()
    return truth, found


def statistics(images: Sequence[Image]) -> np.ndarray:
    """pycocotools' six statistics in percent, NaN for -1."""
    stats = scored(*index(images), "box").stats[:6]
    return np.where(stats < 0, np.nan, 100 * stats)


def weighted(images: Sequence[Image], counts: np.ndarray) -> dict[str, np.ndarray]:
    """Our statistics of each column of `counts` (images, samples), with the numbers taken as samples."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("lska.evaluate.precision.resample_columns", lambda *_: iter([counts.astype(np.float64)]))
        return resampled_precisions(scored(*index(images), "box"))


def repeated(images: Sequence[Image], counts: np.ndarray) -> list[Image]:
    return [image for image, count in zip(images, counts, strict=True) for _ in range(count)]


def scene(generator: np.random.Generator, categories: int = 3) -> Image:
    """Up to five objects of all sizes, some of them crowds, and up to eight detections, most near an object."""
    boxes = np.concatenate(
        [generator.integers(0, 60, (generator.integers(0, 6), 2)), np.zeros((0, 2), int)]
    )
    true = [
        {"category_id": int(generator.integers(1, categories + 1)), "iscrowd": int(generator.random() < 0.15),
         "bbox": [int(x), int(y), *(sides := generator.integers(6, 130, 2).tolist())], "area": sides[0] * sides[1]}
        for x, y in boxes
    ]  # fmt: skip
    found = []
    for number in range(generator.integers(0, 9)):
        near = true[generator.integers(len(true))] if true and generator.random() < 0.7 else None
        box = generator.uniform(5, 120, 4) if near is None else np.array(near["bbox"]) + generator.normal(0, 3, 4)
        category = near["category_id"] if near else int(generator.integers(1, categories + 1))
        # Scores are equal between images, which pycocotools sorts by image, but not within one.
        score = (generator.permutation(9)[0] * 9 + number) / 81
        found.append({"category_id": category, "bbox": np.maximum(box, 1).tolist(), "score": score})
    return true, found


def scenes(count: int, seed: int = 0) -> list[Image]:
    generator = np.random.default_rng(seed)
    return [scene(generator) for _ in range(count)]


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.lists(st.integers(0, 4), min_size=1, max_size=7).filter(any))
def test_integer_weights_are_repeated_images(seed: int, counts: list[int]) -> None:
    images, drawn = scenes(len(counts), seed), np.array(counts)
    ours = weighted(images, drawn[:, None])
    expected = statistics(repeated(images, drawn))
    np.testing.assert_allclose([ours[name][0] for name in STATISTICS], expected, rtol=0, atol=1e-12 * 100)


@pytest.mark.parametrize("seed", range(5))
def test_every_image_once_gives_the_statistics_of_pycocotools(seed: int) -> None:
    images = scenes(30, seed)
    ours = weighted(images, np.ones((30, 1)))
    np.testing.assert_allclose([ours[name][0] for name in STATISTICS], statistics(images), rtol=0, atol=1e-12 * 100)
    assert ours["ap50"][0] > 5, "objects are found"


def test_samples_are_those_of_the_image_counts_and_their_deviation_is_the_error() -> None:
    images = scenes(25)
    scoring = scored(*index(images), "box")
    samples = resampled_precisions(scoring, 2 * AT_ONCE + 7)
    assert {len(values) for values in samples.values()} == {2 * AT_ONCE + 7}
    for number, counts in enumerate(resample_counts(25, resamples=4)):
        expected = statistics(repeated(images, counts))
        np.testing.assert_allclose([samples[name][number] for name in STATISTICS], expected, rtol=0, atol=1e-10)
    # Around the value on all images, by an error that shrinks with their number.
    value = average_precision(scoring, "box")["box_ap50"]["value"]
    error = standard_error(samples["ap50"])
    assert error == pytest.approx(np.std(samples["ap50"], ddof=1))
    assert abs(samples["ap50"].mean() - value) < error
    fourfold = resampled_precisions(scored(*index(images * 4), "box"), 200)
    assert standard_error(fourfold["ap50"]) == pytest.approx(error / 2, rel=0.25)


@pytest.mark.parametrize("images", [scenes(6), [], [*scenes(2), *[scene(np.random.default_rng(3), 1)] * 3]])
def test_statistics_are_the_means_of_the_parts_that_are_kept(images: list[Image]) -> None:
    scoring = scored(*index(images), "box")
    entries = average_precision(scoring, "box")
    for name, parts in precisions(scoring).items():
        assert mean_of_parts(parts) == pytest.approx(entries[f"box_{name}"]["value"], abs=1e-9)


def test_a_difference_within_samples_has_a_smaller_error_than_of_independent_ones() -> None:
    images = scenes(40)
    # Another detector, which misses one detection in ten.
    generator = np.random.default_rng(1)
    other = [(true, [one for one in found if generator.random() > 0.1]) for true, found in images]
    first, second = (resampled_precisions(scored(*index(each), "box"), 300)["ap50"] for each in (images, other))
    unpaired = np.hypot(first.std(ddof=1), second.std(ddof=1))
    assert 0 < (first - second).std(ddof=1) < unpaired / 2


def test_categories_and_sizes_that_a_sample_lacks_are_left_out() -> None:
    small = {"category_id": 1, "bbox": [10, 10, 20, 20], "area": 400, "iscrowd": 0}
    large = {"category_id": 2, "bbox": [10, 10, 120, 120], "area": 14400, "iscrowd": 0}
    images = [([small], [{**small, "score": 0.9}]), ([large], [{**large, "bbox": [10, 10, 60, 60], "score": 0.8}])]
    ours = weighted(images, np.array([[1, 2, 0], [1, 0, 2]]))
    assert ours["ap50"] == pytest.approx([50, 100, 0])
    np.testing.assert_allclose(ours["ap_small"], [100, 100, np.nan])
    np.testing.assert_allclose(ours["ap_large"], [0, np.nan, 0])
    assert np.isnan(ours["ap_medium"]).all() and standard_error(ours["ap_medium"]) is None


def test_without_detections_every_sample_is_zero() -> None:
    images = [(true, []) for true, _ in scenes(10)]
    samples = resampled_precisions(scored(*index(images), "box"), 20)
    assert (samples["ap"] == 0).all() and standard_error(samples["ap"]) == 0


def test_a_ranking_is_sorted_and_knows_what_counts() -> None:
    scoring = scored(*index(scenes(20)), "box")
    (first, *_) = rankings(scoring, "all")
    assert first.right.shape == first.counted.shape == (10, len(first.images)) and len(first.objects) == 20
    assert not (first.right & ~first.counted).any()
    # A stricter threshold makes no detection right.
    assert (first.right[:-1].sum(axis=1) >= first.right[1:].sum(axis=1)).all()
    whole = average_precisions(first, np.ones((20, 1)), scoring.params.recThrs)
    assert whole[:, 0] == pytest.approx(scoring.eval["precision"][:, :, 0, 0, 2].mean(axis=1), abs=1e-12)
