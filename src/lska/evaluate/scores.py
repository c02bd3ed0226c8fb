"""From predictions to metrics: accuracies with their errors, corruption errors, calibration.

Every part of a set of corruptions shows the same images, so means over parts are means over images of a weighted sum of
their errors, and their standard errors come from the spread of that sum over images, not from the number of pictures.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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
    place, gaps = _gaps(outcome, bins)
    return float(100 * np.abs(np.bincount(place, gaps, bins)).sum() / len(place))


def _gaps(outcome: Outcome, bins: int) -> tuple[np.ndarray, np.ndarray]:
    """Bin of each image's confidence, int64 (n,), and how far its confidence is from right or wrong, float64 (n,)."""
    confidence = outcome.confidence.astype(np.float64)
    place = np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)
    return place, outcome.correct - confidence


def calibration_samples(outcomes: Sequence[Outcome], resamples: int = RESAMPLES, bins: int = BINS) -> np.ndarray:
    """Calibration errors of predictions on the same n images, on bootstrap samples of these; (outcomes, resamples)."""
    n = len(outcomes[0].correct)
    binned = []
    for outcome in outcomes:
        place, gaps = _gaps(outcome, bins)
        binned.append(csr_array((gaps, (place, np.arange(n))), shape=(bins, n)))
    return np.concatenate(
        [
            [100 / n * np.abs(gaps @ counts).sum(axis=0) for gaps in binned]
            for counts in resample_columns(n, resamples)
        ],
        axis=1,
    )


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


def image_means(errors: Errors) -> dict[str, np.ndarray | None]:
    """Value of every image, float64 (n,), of each metric that is the mean of it: those of `means_by_image`, and
    `top1_present` over whatever parts are there.
    """
    wrong = {name: errors.of(name) if errors.complete((name,)) else None for name in FAMILIES[errors.family]}
    clean = None if errors.clean is None else 100.0 * ~errors.clean.correct
    return {"top1_present": 100 - errors.mean(list(errors.cells)), **means_by_image(errors.family, wrong, clean)}


def means_by_image(
    family: str, wrong: Mapping[str, np.ndarray | None], clean: np.ndarray | None
) -> dict[str, np.ndarray | None]:
    """Value of every image, float64 (n,), of each metric that is the mean of it; None where a part of it is not there.

    By name: `top1_<corruption>` over the five severities; `top1_<group>` over a group of ImageNet-C; `top1_mean_<n>`
    and `error_mean_<n>` over n corruptions (15 and 19, or 10); for ImageNet-C `ce_<corruption>` and `mce_<n>` in
    percent of AlexNet's error, `relative_ce_<corruption>` and `relative_mce_<n>` in percent of AlexNet's increase over
    its clean error.

    Args:
        wrong: mean error over the five severities in percent, (n,) by corruption; None where one is missing.
        clean: error on the clean images in percent, (n,); None without them.
    """
    names, means = FAMILIES[family], _means(family)
    groups, found = GROUPS if family == "c" else {}, {}
    for name, chosen in {**{name: (name,) for name in names}, **groups, **means}.items():
        error = _mean_error(wrong, chosen)
        found[f"top1_{name}"] = None if error is None else 100 - error
        if name in means:
            found[f"error_{name}"] = error
    if family == "c":
        alone = {f"ce_{name}": (name,) for name in names}
        for name, chosen in {**alone, **{f"mce_{len(chosen)}": chosen for chosen in means.values()}}.items():
            found[name] = _corruption_error(wrong, chosen)
            found[f"relative_{name}"] = None if clean is None else _corruption_error(wrong, chosen, clean)
    return found


def corruption_metrics(errors: Errors) -> dict[str, dict[str, Any]]:
    """Metric entries of a set of corruptions; what would be a mean over parts that are not there is null.

    Those of `image_means`, and by name: `top1_<corruption>_<severity>`; `ece_<corruption>` over the five severities and
    `ece_mean_<n>` over n corruptions; `top1_clean` and `ece_clean`.
    """
    names = FAMILIES[errors.family]
    cells = [(name, level) for name in names for level in SEVERITIES]
    metrics = {
        f"top1_{name}_{level}": top1(errors.cells[name, level]) if (name, level) in errors.cells else metric(None, "%")
        for name, level in cells
    }
    for name, values in image_means(errors).items():
        metrics[name] = metric(None, "%") if values is None else of_images(name, values)
    calibration = {}
    for name in names:
        parts = _cells(errors, (name,))
        calibration[name] = float(np.mean([calibration_error(errors.cells[c]) for c in parts])) if parts else None
    for name, value in {**calibration, **mean_calibration(errors.family, calibration)}.items():
        metrics[f"ece_{name}"] = metric(value, "%")
    if errors.clean is not None:
        metrics |= {"top1_clean": top1(errors.clean), "ece_clean": metric(calibration_error(errors.clean), "%")}
    return metrics


def mean_calibration(family: str, alone: Mapping[str, float | None]) -> dict[str, float | None]:
    """Calibration errors over n corruptions by `mean_<n>`, from those of each corruption; None where one is missing."""
    found = {name: [alone[one] for one in chosen] for name, chosen in _means(family).items()}
    return {name: None if None in values else float(np.mean(values)) for name, values in found.items()}


def corruption_outcomes(errors: Errors, resamples: int = RESAMPLES) -> Outcomes:
    """What is kept of a set of corruptions, so that 50,000 images take less than 3 MB.

    Values of every image of all `image_means` but `ce_<corruption>` and `relative_ce_<corruption>`, which follow from
    `top1_<corruption>` and `top1_clean`; of no single severity. Bootstrap samples of `ece_mean_<n>` and `ece_clean`,
    which are no means over images.
    """
    left_out = tuple(f"{kind}ce_{name}" for kind in ("", "relative_") for name in FAMILIES[errors.family])
    images = {
        name: values for name, values in image_means(errors).items() if values is not None and name not in left_out
    }
    outcomes, clean = dict(errors.cells), {}
    if errors.clean is not None:
        images["top1_clean"] = 100.0 * errors.clean.correct
        outcomes, clean = {**outcomes, None: errors.clean}, {"ece_clean": [None]}
    means = {f"ece_{name}": _cells(errors, chosen) for name, chosen in _means(errors.family).items()}
    rows = {cell: row for row, cell in enumerate(outcomes)}
    drawn = calibration_samples(list(outcomes.values()), resamples)
    chosen = {name: [rows[cell] for cell in cells] for name, cells in {**means, **clean}.items() if cells}
    return Outcomes(images, {name: drawn[parts].mean(axis=0) for name, parts in chosen.items()})


def _means(family: str) -> dict[str, tuple[str, ...]]:
    """Corruptions by the names of the means over them."""
    chosen = (STANDARD, STANDARD + EXTRA) if family == "c" else (FAMILIES[family],)
    return {f"mean_{len(names)}": names for names in chosen}


def _cells(errors: Errors, corruptions: Sequence[str]) -> list[Cell]:
    """All severities of `corruptions`; none where one is missing."""
    cells = [(corruption, severity) for corruption in corruptions for severity in SEVERITIES]
    return cells if errors.complete(corruptions) else []


def _mean_error(wrong: Mapping[str, np.ndarray | None], corruptions: Sequence[str]) -> np.ndarray | None:
    """Error of every image in percent, (n,)."""
    found = [wrong[name] for name in corruptions]
    return None if any(one is None for one in found) else np.mean(found, axis=0)


def _corruption_error(
    wrong: Mapping[str, np.ndarray | None], corruptions: Sequence[str], clean: np.ndarray | None = None
) -> np.ndarray | None:
    """Each image's part in the (mean) corruption error, in percent of AlexNet's, over all severities (Hendrycks and
    Dietterich, Section 3); (n,).

    CE is a network's error over AlexNet's on the same corruption, summed over severities; the relative one has both
    less their errors on the `clean` images. None where a severity is missing.
    """
    if any(wrong[name] is None for name in corruptions):
        return None
    base, offset = (0.0, 0.0) if clean is None else (clean, ALEXNET_CLEAN)
    return np.mean([100 * (wrong[name] - base) / (ALEXNET[name] - offset) for name in corruptions], axis=0)


def masked_metrics(restricted: Outcome, full: Outcome) -> dict[str, dict[str, Any]]:
    """Metric entries of a set of some classes: outputs restricted to these, and all outputs as in the released script.
    """
    return plain_metrics(restricted) | plain_metrics(full, "_unmasked")


def plain_metrics(outcome: Outcome, end: str = "") -> dict[str, dict[str, Any]]:
    """Metric entries of a set of all classes; `end` of their names."""
    return {
        **{name: of_images(name, values) for name, values in _right_and_wrong(outcome, end).items()},
        f"ece{end}": metric(calibration_error(outcome), "%"),
    }


def _right_and_wrong(outcome: Outcome, end: str) -> dict[str, np.ndarray]:
    """Values of every image in percent."""
    return {f"top1{end}": 100.0 * outcome.correct, f"error{end}": 100.0 * ~outcome.correct}


def plain_outcomes(outcomes: Mapping[str, Outcome], resamples: int = RESAMPLES) -> Outcomes:
    """What is kept of a set without corruptions: top-1 and error of every image, bootstrap samples of `ece`.

    Args:
        outcomes: by the end of the metrics' names, empty or `_unmasked`.
    """
    images = {name: v for end, outcome in outcomes.items() for name, v in _right_and_wrong(outcome, end).items()}
    drawn = calibration_samples(list(outcomes.values()), resamples)
    return Outcomes(images, {f"ece{end}": values for end, values in zip(outcomes, drawn, strict=True)})
