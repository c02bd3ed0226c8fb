"""From predictions to metrics: accuracies with their errors, corruption errors, calibration.

Every part of a set of corruptions shows the same images, so means over parts are means over images of a weighted sum of
their errors, and their standard errors come from the spread of that sum over images, not from the number of pictures.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lska.data.perturbed.names import EXTRA, FAMILIES, GROUPS, SEVERITIES, STANDARD
from lska.provenance import metric, proportion

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


@dataclass(frozen=True)
class Outcome:
    """Predictions on `n` images: whether the most probable class is the label, and its probability."""

    correct: np.ndarray
    """bool (n,)."""
    confidence: np.ndarray
    """float (n,), 0 to 1."""


def calibration_error(outcome: Outcome, bins: int = BINS) -> float:
    """Expected calibration error in percent: mean over images of |accuracy - confidence| of their bin of confidence.

    Bins are of equal width and closed above, so that a confidence of 1 lies in the last one.
    """
    place = np.clip(np.ceil(outcome.confidence.astype(np.float64) * bins).astype(int) - 1, 0, bins - 1)
    gaps = np.bincount(place, outcome.correct - outcome.confidence.astype(np.float64), bins)
    return float(100 * np.abs(gaps).sum() / len(place))


def top1(outcome: Outcome) -> dict[str, Any]:
    """Top-1 accuracy in percent with its binomial standard error."""
    return proportion(int(outcome.correct.sum()), len(outcome.correct))


@dataclass(frozen=True)
class Errors:
    """Errors of one network on a set of corruptions, images in the same order in every part."""

    family: str
    cells: Mapping[Cell, Outcome]
    clean: Outcome | None = None

    def complete(self, corruptions: Sequence[str]) -> bool:
        """Whether every severity of `corruptions` is there."""
        return all((corruption, severity) in self.cells for corruption in corruptions for severity in SEVERITIES)

    def mean(self, cells: Sequence[Cell]) -> np.ndarray:
        """Mean error over cells for every image, in percent; float64 (n,)."""
        return 100 * np.mean([~self.cells[cell].correct for cell in cells], axis=0)

    def of(self, corruption: str) -> np.ndarray:
        """Mean error over the five severities for every image, in percent; float64 (n,)."""
        return self.mean([(corruption, severity) for severity in SEVERITIES])


def average(values: np.ndarray, unit: str = "%") -> dict[str, Any]:
    """Mean over images (n,) with its standard error, as a metric entry."""
    error = float(values.std(ddof=1) / len(values) ** 0.5) if len(values) > 1 else None
    return metric(float(values.mean()), unit, n=len(values), standard_error=error)


def corruption_metrics(errors: Errors) -> dict[str, dict[str, Any]]:
    """Metric entries of a set of corruptions; what would be a mean over parts that are not there is null.

    By name: `top1_<corruption>_<severity>`; `top1_<corruption>` and `ece_<corruption>` over the five severities;
    `top1_<group>` over a group of ImageNet-C; `top1_mean_<n>`, `error_mean_<n>` and `ece_mean_<n>` over n corruptions
    (15 and 19, or 10); for ImageNet-C `ce_<corruption>` and `mce_<n>` in percent of AlexNet's error,
    `relative_ce_<corruption>` and `relative_mce_<n>` in percent of AlexNet's increase over its clean error;
    `top1_clean` and `ece_clean`; `top1_present` over whatever parts are there.
    """
    names = FAMILIES[errors.family]
    cells = [(name, level) for name in names for level in SEVERITIES]
    metrics = {
        f"top1_{name}_{level}": top1(errors.cells[name, level]) if (name, level) in errors.cells else metric(None, "%")
        for name, level in cells
    }
    metrics["top1_present"] = average(100 - errors.mean(list(errors.cells)))
    for name in names:
        metrics |= _over(errors, name, (name,))
    if errors.family == "c":
        for group, members in GROUPS.items():
            metrics[f"top1_{group}"] = _accuracy(errors, members)
        for name in names:
            metrics[f"ce_{name}"] = corruption_error(errors, (name,))
            metrics[f"relative_ce_{name}"] = corruption_error(errors, (name,), relative=True)
    for chosen in (STANDARD, STANDARD + EXTRA) if errors.family == "c" else (names,):
        metrics |= _over(errors, f"mean_{len(chosen)}", chosen)
        metrics[f"error_mean_{len(chosen)}"] = _mean_error(errors, chosen)
        if errors.family == "c":
            metrics[f"mce_{len(chosen)}"] = corruption_error(errors, chosen)
            metrics[f"relative_mce_{len(chosen)}"] = corruption_error(errors, chosen, relative=True)
    if errors.clean is not None:
        metrics |= {"top1_clean": top1(errors.clean), "ece_clean": metric(calibration_error(errors.clean), "%")}
    return metrics


def _over(errors: Errors, name: str, corruptions: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Accuracy and calibration error over all severities of `corruptions`."""
    cells = [(corruption, severity) for corruption in corruptions for severity in SEVERITIES]
    whole = errors.complete(corruptions)
    calibration = float(np.mean([calibration_error(errors.cells[cell]) for cell in cells])) if whole else None
    return {f"top1_{name}": _accuracy(errors, corruptions), f"ece_{name}": metric(calibration, "%")}


def _accuracy(errors: Errors, corruptions: Sequence[str]) -> dict[str, Any]:
    if not errors.complete(corruptions):
        return metric(None, "%")
    return average(100 - np.mean([errors.of(name) for name in corruptions], axis=0))


def _mean_error(errors: Errors, corruptions: Sequence[str]) -> dict[str, Any]:
    if not errors.complete(corruptions):
        return metric(None, "%")
    return average(np.mean([errors.of(name) for name in corruptions], axis=0))


def corruption_error(errors: Errors, corruptions: Sequence[str], relative: bool = False) -> dict[str, Any]:
    """(Mean) corruption error in percent of AlexNet's, over all severities (Hendrycks and Dietterich, Section 3).

    CE is a network's error over AlexNet's on the same corruption, summed over severities; with `relative`, both less
    their errors on the clean images. Null where a severity is missing, and the relative one without the clean images.
    """
    if not errors.complete(corruptions) or (relative and errors.clean is None):
        return metric(None, "%")
    base = 100 * ~errors.clean.correct if relative else 0.0
    offset = ALEXNET_CLEAN if relative else 0.0
    terms = [100 * (errors.of(name) - base) / (ALEXNET[name] - offset) for name in corruptions]
    return average(np.mean(terms, axis=0))


def masked_metrics(restricted: Outcome, full: Outcome) -> dict[str, dict[str, Any]]:
    """Metric entries of a set of some classes: outputs restricted to these, and all outputs as in the released script.
    """
    return {
        "top1": top1(restricted),
        "error": _complement(top1(restricted)),
        "ece": metric(calibration_error(restricted), "%"),
        "top1_unmasked": top1(full),
        "error_unmasked": _complement(top1(full)),
        "ece_unmasked": metric(calibration_error(full), "%"),
    }


def plain_metrics(outcome: Outcome) -> dict[str, dict[str, Any]]:
    """Metric entries of a set of all classes."""
    return {
        "top1": top1(outcome),
        "error": _complement(top1(outcome)),
        "ece": metric(calibration_error(outcome), "%"),
    }


def _complement(entry: dict[str, Any]) -> dict[str, Any]:
    return {**entry, "value": 100 - entry["value"]}
