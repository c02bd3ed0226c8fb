"""Accuracies over several splits of one set of images, as a texture set has them. Imports nothing heavy."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from lska.provenance.metric_files import metric, proportion


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


def accuracy(hits: np.ndarray) -> dict[str, Any]:
    """Share of hits (Q,) in percent; the standard error is binomial, for the gallery as it is."""
    return proportion(int(hits.sum()), len(hits))
