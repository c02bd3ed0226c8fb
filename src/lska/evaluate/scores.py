"""From predictions to metrics: accuracies with their errors, corruption errors, calibration; accuracies over splits.

Every part of a set of corruptions shows the same images, so means over parts are means over images of a weighted sum of
their errors, and their standard errors come from the spread of that sum over images, not from the number of pictures.
Importing this module imports neither torch nor timm.
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
"""A corruption at a severity."""


@dataclass(frozen=True)
class Outcome:
    """Predictions on `n` images: whether the most probable class is the label, and its probability."""

    correct: np.ndarray
    """bool (n,)."""
    confidence: np.ndarray
    """float (n,), 0 to 1."""

    def gaps(self, bins: int) -> tuple[np.ndarray, np.ndarray]:
        """Bin of each image's confidence, int64 (n,), and how far that is from right or wrong, float64 (n,).

        Bins are of equal width and closed above, so that a confidence of 1 lies in the last one.
        """
        confidence = self.confidence.astype(np.float64)
        place = np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)
        return place, self.correct - confidence


def calibration_error(outcome: Outcome, bins: int = BINS) -> float:
    """Expected calibration error in percent: mean over images of |accuracy - confidence| of their bin of confidence."""
    place, gaps = outcome.gaps(bins)
    return float(100 * np.abs(np.bincount(place, gaps, bins)).sum() / len(place))


def calibration_samples(outcomes: Sequence[Outcome], resamples: int = RESAMPLES, bins: int = BINS) -> np.ndarray:
    """Calibration errors of predictions on the same n images, on bootstrap samples of these; (outcomes, resamples)."""
    n, binned = len(outcomes[0].correct), []
    for outcome in outcomes:
        place, gaps = outcome.gaps(bins)
        binned.append(csr_array((gaps, (place, np.arange(n))), shape=(bins, n)))
    drawn = [
        [100 / n * np.abs(gaps @ counts).sum(axis=0) for gaps in binned] for counts in resample_columns(n, resamples)
    ]
    return np.concatenate(drawn, axis=1)


# --- Sets of corruptions ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Errors:
    """Errors of one network on a set of corruptions, images in the same order in every part."""

    family: str
    cells: Mapping[Cell, Outcome]
    clean: Outcome | None = None

    def present(self, corruptions: Sequence[str]) -> list[Cell]:
        """All severities of `corruptions`; none where one is missing."""
        cells = [(corruption, severity) for corruption in corruptions for severity in SEVERITIES]
        return cells if all(cell in self.cells for cell in cells) else []

    def mean(self, cells: Sequence[Cell]) -> np.ndarray | None:
        """Mean error over cells for every image, in percent; float64 (n,), None without cells."""
        return 100 * np.mean([~self.cells[cell].correct for cell in cells], axis=0) if cells else None


def image_means(errors: Errors) -> dict[str, np.ndarray | None]:
    """Value of every image, float64 (n,), of each metric that is the mean of it: those of `means_by_image`, and
    `top1_present` over whatever parts are there.
    """
    wrong = {name: errors.mean(errors.present((name,))) for name in FAMILIES[errors.family]}
    clean = None if errors.clean is None else 100.0 * ~errors.clean.correct
    return {"top1_present": 100 - errors.mean(list(errors.cells)), **means_by_image(errors.family, wrong, clean)}


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

    def mean(corruptions: Sequence[str], of: Any) -> np.ndarray | None:
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


def corruption_metrics(errors: Errors) -> dict[str, dict[str, Any]]:
    """Metric entries of a set of corruptions; what would be a mean over parts that are not there is null.

    Those of `image_means`, and by name: `top1_<corruption>_<severity>`; `ece_<corruption>` over the five severities and
    `ece_mean_<n>` over n corruptions; `top1_clean` and `ece_clean`.
    """
    names, metrics = FAMILIES[errors.family], {}
    for cell in ((name, level) for name in names for level in SEVERITIES):
        entry = _top1(errors.cells[cell]) if cell in errors.cells else metric(None, "%")
        metrics[f"top1_{cell[0]}_{cell[1]}"] = entry
    for name, values in image_means(errors).items():
        metrics[name] = metric(None, "%") if values is None else of_images(name, values)
    calibration = {}
    for name in names:
        found = [calibration_error(errors.cells[cell]) for cell in errors.present((name,))]
        calibration[name] = float(np.mean(found)) if found else None
    for name, value in {**calibration, **mean_calibration(errors.family, calibration)}.items():
        metrics[f"ece_{name}"] = metric(value, "%")
    if errors.clean is not None:
        metrics |= {"top1_clean": _top1(errors.clean), "ece_clean": metric(calibration_error(errors.clean), "%")}
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
    left_out = {f"{kind}ce_{name}" for kind in ("", "relative_") for name in FAMILIES[errors.family]}
    images = {
        name: values for name, values in image_means(errors).items() if values is not None and name not in left_out
    }
    outcomes: dict[Any, Outcome] = dict(errors.cells)
    sampled: dict[str, list[Any]] = {
        f"ece_{name}": errors.present(chosen) for name, chosen in _means(errors.family).items()
    }
    if errors.clean is not None:
        images["top1_clean"] = 100.0 * errors.clean.correct
        outcomes["clean"], sampled["ece_clean"] = errors.clean, ["clean"]
    rows = {cell: row for row, cell in enumerate(outcomes)}
    drawn = calibration_samples(list(outcomes.values()), resamples)
    samples = {name: drawn[[rows[cell] for cell in cells]].mean(axis=0) for name, cells in sampled.items() if cells}
    return Outcomes(images, samples)


def _means(family: str) -> dict[str, tuple[str, ...]]:
    """Corruptions by the names of the means over them."""
    chosen = (STANDARD, STANDARD + EXTRA) if family == "c" else (FAMILIES[family],)
    return {f"mean_{len(names)}": names for names in chosen}


def _top1(outcome: Outcome) -> dict[str, Any]:
    return proportion(int(outcome.correct.sum()), len(outcome.correct))


# --- Other sets ------------------------------------------------------------------------------------------------------


def plain_metrics(outcomes: Mapping[str, Outcome]) -> dict[str, dict[str, Any]]:
    """Metric entries `top1`, `error` and `ece` of a set without corruptions.

    Args:
        outcomes: by the end of the metrics' names: empty, for sets of some classes with outputs restricted to these;
            `_unmasked` for all outputs, as in the released script.
    """
    entries = {}
    for end, outcome in outcomes.items():
        entries |= {name: of_images(name, values) for name, values in _right_and_wrong(outcome, end).items()}
        entries[f"ece{end}"] = metric(calibration_error(outcome), "%")
    return entries


def plain_outcomes(outcomes: Mapping[str, Outcome], resamples: int = RESAMPLES) -> Outcomes:
    """What is kept of the arguments of `plain_metrics`: top-1 and error of every image, bootstrap samples of `ece`."""
    images = {name: v for end, outcome in outcomes.items() for name, v in _right_and_wrong(outcome, end).items()}
    drawn = calibration_samples(list(outcomes.values()), resamples)
    return Outcomes(images, {f"ece{end}": values for end, values in zip(outcomes, drawn, strict=True)})


def _right_and_wrong(outcome: Outcome, end: str) -> dict[str, np.ndarray]:
    return {f"top1{end}": 100.0 * outcome.correct, f"error{end}": 100.0 * ~outcome.correct}


# --- Splits of one set of images -------------------------------------------------------------------------------------


def over_splits(name: str, found: Mapping[int, dict[str, Any]], images: int) -> dict[str, dict[str, Any]]:
    """Entries of one distance: of each split, their mean over so many different images, and its deviation.

    Args:
        name: start of the metrics' names.
        found: entries of the splits by their numbers.
    """
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
    or 100.

    Args:
        asked: query images, (Q,) by split.
        hits: bool (Q,) by split.
    """
    shares = {number: hit.mean() for number, hit in hits.items()}
    images, places = np.unique(np.concatenate([asked[number] for number in hits]), return_inverse=True)
    added = np.concatenate([(hit - shares[number]) / len(hit) for number, hit in hits.items()])
    values = np.mean([*shares.values()]) + len(images) / len(hits) * np.bincount(places, added)
    return 100 * values
