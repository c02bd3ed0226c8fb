"""From predictions to metrics: accuracies with their errors, corruption errors, calibration; accuracies over splits.

Every part of a set of corruptions shows the same images, so means over parts are means over images of a weighted sum of
their errors, and their standard errors come from the spread of that sum over images, not from the number of pictures.
Importing this module imports neither torch nor timm.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.sparse import csr_array

from lska.data.perturbed.names import EXTRA, FAMILIES, GROUPS, SEVERITIES, STANDARD
from lska.provenance.metric_files import metric, proportion
from lska.provenance.outcomes import RESAMPLES, Outcomes, of_images, resample_columns

ALEXNET = {
    "gaussian_noise": 88.6428, "shot_noise": 89.4468, "impulse_noise": 92.2640, "defocus_blur": 81.9880,
    "glass_blur": 82.6268, "motion_blur": 78.5948, "zoom_blur": 79.8360, "snow": 86.6816, "frost": 82.6572,
    "fog": 81.9324, "brightness": 56.4592, "contrast": 85.3204, "elastic_transform": 64.6056, "pixelate": 71.7840,
    "jpeg_compression": 60.6500, "speckle_noise": 84.5, "gaussian_blur": 78.7, "spatter": 71.8, "saturate": 65.8,
}  # fmt: skip
"""AlexNet's top-1 error on ImageNet-C in percent, mean over the five severities: the unit of corruption errors. The
first 15 as published with all digits (released evaluation code of ImageNet-C's users; they round to
paper/protocol.md, section 5), the last four as there."""

ALEXNET_CLEAN = 43.5
"""AlexNet's top-1 error on the clean validation images in percent (Hendrycks and Dietterich 2019, Table 1)."""

BINS = 15
"""Bins of equal width of the expected calibration error (Guo et al., On Calibration of Modern Neural Networks)."""

Cell = tuple[str, int]
"""A corruption at a severity."""


@dataclass(frozen=True, eq=False)
class Outcome:
    """Predictions on `n` images: whether the most probable class is the label, bool (n,), and its probability (n,)."""

    correct: np.ndarray
    confidence: np.ndarray

    @property
    def gaps(self) -> csr_array:
        """How far each confidence is from right or wrong, in the row of its bin; float64 (BINS, n).

        Bins are of equal width and closed above, so that a confidence of 1 lies in the last one.
        """
        confidence, images = self.confidence.astype(np.float64), np.arange(len(self.correct))
        rows = np.clip(np.ceil(confidence * BINS).astype(int) - 1, 0, BINS - 1)
        return csr_array((self.correct - confidence, (rows, images)), shape=(BINS, len(images)))

    @property
    def calibration_error(self) -> float:
        """Expected calibration error in percent: mean over images of |accuracy - confidence| of their bin."""
        gaps = self.gaps.tocoo()
        return float(100 * np.abs(np.bincount(gaps.row, gaps.data, BINS)).sum() / len(self.correct))


def calibration_samples(outcomes: Sequence[Outcome], resamples: int = RESAMPLES) -> np.ndarray:
    """Calibration errors of predictions on the same n images, on bootstrap samples of these; (outcomes, resamples)."""
    n, binned = len(outcomes[0].correct), [outcome.gaps for outcome in outcomes]
    drawn = [
        [100 / n * np.abs(gaps @ counts).sum(axis=0) for gaps in binned] for counts in resample_columns(n, resamples)
    ]
    return np.concatenate(drawn, axis=1)


# --- Sets of corruptions ---------------------------------------------------------------------------------------------


def corruption_values(
    family: str, cells: Mapping[Cell, Outcome], clean: Outcome | None = None, resamples: int = RESAMPLES
) -> tuple[dict[str, dict[str, Any]], Outcomes]:
    """Metric entries of a set of corruptions, and what is kept so that 50,000 images take less than 3 MB.

    Entries are those of `means_by_image`; `top1_<corruption>_<severity>` and `top1_present` over whatever parts are
    there; `ece_<corruption>` over the five severities and `ece_mean_<n>` over n corruptions; `top1_clean` and
    `ece_clean`. What would be a mean over parts that are not there is null. Kept are the images of all means but
    `ce_<corruption>` and `relative_ce_<corruption>`, which follow from `top1_<corruption>` and `top1_clean`, and of no
    single severity; and bootstrap samples of `ece_mean_<n>` and `ece_clean`, which are no means over images.

    Args:
        cells: predictions by corruption and severity, images in the same order in every one, also in `clean`.
    """
    names, metrics = FAMILIES[family], {}
    for name in names:
        for level in SEVERITIES:
            found = cells.get((name, level))
            metrics[f"top1_{name}_{level}"] = metric(None, "%") if found is None else _top1(found)

    def present(corruptions: Sequence[str]) -> list[Outcome]:
        """All severities of some corruptions; none where one is missing."""
        found = [cells.get((name, level)) for name in corruptions for level in SEVERITIES]
        return [] if None in found else found

    def error(outcomes: Sequence[Outcome]) -> np.ndarray | None:
        return 100 * np.mean([~outcome.correct for outcome in outcomes], axis=0) if outcomes else None

    wrong = {name: error(present((name,))) for name in names}
    without = None if clean is None else 100.0 * ~clean.correct
    means = {"top1_present": 100 - error(list(cells.values())), **means_by_image(family, wrong, without)}
    for name, values in means.items():
        metrics[name] = metric(None, "%") if values is None else of_images(name, values)
    left_out = {f"{kind}ce_{name}" for kind in ("", "relative_") for name in names}
    images = {name: values for name, values in means.items() if values is not None and name not in left_out}

    calibration = {}
    for name in names:
        errors = [outcome.calibration_error for outcome in present((name,))]
        calibration[name] = float(np.mean(errors)) if errors else None
    for name, value in {**calibration, **mean_calibration(family, calibration)}.items():
        metrics[f"ece_{name}"] = metric(value, "%")
    sampled = {f"ece_{name}": present(chosen) for name, chosen in _means(family).items()}
    if clean is not None:
        metrics |= {"top1_clean": _top1(clean), "ece_clean": metric(clean.calibration_error, "%")}
        images["top1_clean"], sampled["ece_clean"] = 100.0 * clean.correct, [clean]
    every = [*cells.values(), *([] if clean is None else [clean])]
    rows, drawn = {id(outcome): row for row, outcome in enumerate(every)}, calibration_samples(every, resamples)
    samples = {name: drawn[[rows[id(one)] for one in some]].mean(axis=0) for name, some in sampled.items() if some}
    return metrics, Outcomes(images, samples)


def means_by_image(
    family: str, wrong: Mapping[str, np.ndarray | None], clean: np.ndarray | None
) -> dict[str, np.ndarray | None]:
    """Value of every image, float64 (n,), of each metric that is the mean of it; None where a part of it is not there.

    By name: `top1_<corruption>` over the five severities; `top1_<group>` over a group of ImageNet-C; `top1_mean_<n>`
    and `error_mean_<n>` over n corruptions (15 and 19, or 10); for ImageNet-C `ce_<corruption>` and `mce_<n>` in
    percent of AlexNet's error, `relative_ce_<corruption>` and `relative_mce_<n>` in percent of AlexNet's increase over
    its clean error: errors over AlexNet's, summed over severities, the relative ones less the errors on clean images
    (Hendrycks and Dietterich, Section 3).

    Args:
        wrong: mean error over the five severities in percent, (n,) by corruption; None where one is missing.
        clean: error on the clean images in percent, (n,); None without them.
    """

    def mean(corruptions: Sequence[str], of: Callable[[str], np.ndarray]) -> np.ndarray | None:
        absent = any(wrong[name] is None for name in corruptions)
        return None if absent else np.mean([of(name) for name in corruptions], axis=0)

    alone, means = {name: (name,) for name in FAMILIES[family]}, _means(family)
    found: dict[str, np.ndarray | None] = {}
    for name, chosen in {**alone, **(GROUPS if family == "c" else {}), **means}.items():
        error = mean(chosen, wrong.__getitem__)
        found[f"top1_{name}"] = None if error is None else 100 - error
        if name in means:
            found[f"error_{name}"] = error
    if family == "c":
        named = {f"ce_{name}": chosen for name, chosen in alone.items()}
        for name, chosen in {**named, **{f"mce_{len(chosen)}": chosen for chosen in means.values()}}.items():
            found[name] = mean(chosen, lambda one: 100 * wrong[one] / ALEXNET[one])
            found[f"relative_{name}"] = None if clean is None else mean(
                chosen, lambda one: 100 * (wrong[one] - clean) / (ALEXNET[one] - ALEXNET_CLEAN)
            )  # fmt: skip
    return found


def mean_calibration(family: str, alone: Mapping[str, float | None]) -> dict[str, float | None]:
    """Calibration errors over n corruptions by `mean_<n>`, from those of each corruption; None where one is missing."""
    found = {name: [alone[one] for one in chosen] for name, chosen in _means(family).items()}
    return {name: None if None in values else float(np.mean(values)) for name, values in found.items()}


def _means(family: str) -> dict[str, tuple[str, ...]]:
    """Corruptions by the names of the means over them."""
    chosen = (STANDARD, STANDARD + EXTRA) if family == "c" else (FAMILIES[family],)
    return {f"mean_{len(names)}": names for names in chosen}


def _top1(outcome: Outcome) -> dict[str, Any]:
    return proportion(int(outcome.correct.sum()), len(outcome.correct))


def plain_values(
    outcomes: Mapping[str, Outcome], resamples: int = RESAMPLES
) -> tuple[dict[str, dict[str, Any]], Outcomes]:
    """Metric entries `top1`, `error` and `ece` of a set without corruptions; kept are the images of the first two and
    bootstrap samples of the last.

    Args:
        outcomes: by the end of the metrics' names: empty, for sets of some classes with outputs restricted to these;
            `_unmasked` for all outputs, as in the released script.
    """
    images: dict[str, np.ndarray] = {}
    for end, outcome in outcomes.items():
        images |= {f"top1{end}": 100.0 * outcome.correct, f"error{end}": 100.0 * ~outcome.correct}
    metrics = {name: of_images(name, values) for name, values in images.items()}
    metrics |= {f"ece{end}": metric(outcome.calibration_error, "%") for end, outcome in outcomes.items()}
    drawn = calibration_samples(list(outcomes.values()), resamples)
    return metrics, Outcomes(images, {f"ece{end}": values for end, values in zip(outcomes, drawn, strict=True)})


# --- Splits of one set of images -------------------------------------------------------------------------------------


def over_splits(name: str, found: Mapping[int, dict[str, Any]], images: int) -> dict[str, dict[str, Any]]:
    """Entries of one distance, whose names start with `name`: of each split as `found`, by number; their mean over so
    many different images; and its deviation."""
    entries = {f"{name}_split{number}": entry for number, entry in found.items()}
    shares = np.array([entry["value"] for entry in found.values()])
    error = float(np.mean([entry["standard_error"] for entry in found.values()]))
    entries[name] = metric(float(shares.mean()), "%", n=images, standard_error=error)
    deviation = float(shares.std(ddof=1)) if len(shares) > 1 else None
    entries[f"{name}_deviation"] = metric(deviation, "%", n=len(shares))
    return entries


def image_values(asked: Mapping[int, np.ndarray], hits: Mapping[int, np.ndarray]) -> np.ndarray:
    """Value of each different query image in percent, float64, in the order of the data set.

    Their mean is that of the splits' accuracies. An image that is asked for in several splits counts in each of them,
    one that happens to be in more splits counts for more; so a value is the mean accuracy plus what the image adds to
    it, m / S sum over its splits of (hit - accuracy) / Q for m images, S splits and Q queries in a split. The spread of
    these values gives the error of a mean of ratios, and of a difference of two networks. With one split a value is 0
    or 100. Query images, (Q,), and hits, bool (Q,), are by split.
    """
    shares = {number: hit.mean() for number, hit in hits.items()}
    images, places = np.unique(np.concatenate([asked[number] for number in hits]), return_inverse=True)
    added = np.concatenate([(hit - shares[number]) / len(hit) for number, hit in hits.items()])
    values = np.mean([*shares.values()]) + len(images) / len(hits) * np.bincount(places, added)
    return 100 * values
