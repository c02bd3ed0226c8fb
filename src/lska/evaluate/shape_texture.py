"""How many dimensions of a network's features encode shape, how many texture (paper, Tables XII and XV).

Pairs of cue-conflict images share either the shape or the texture. What the features of a pair have in common over
many pairs is what they encode of the shared factor. The estimate is that of Islam et al., Shape or Texture:
Understanding Discriminative Features in CNNs, ICLR 2021 (after Esser et al., CVPR 2020). Three scores, of shape,
texture and the residual, become dimensions by a softmax times N, the number of neurons, rounded down; the residual
takes what is left over. There are two forms (paper/protocol.md, section 7):

- `reference`, as in the released code of Islam et al.: the covariance between the two images of a pair, summed over the
  neurons, over the summed variance of all images; the residual's score is 1. Each score lies between about 0 and 1 and
  is the share of the variance that the factor explains. Softmax flattens it: where neither factor is encoded, each
  still gets N / (2 + e), 21 % of N; a factor that explains everything gets 42 %.
- `printed`, as the text says: the sum over the neurons of the correlation between the two images of a pair, from -N to
  N; so the softmax is all or nothing. The text does not say what the residual's score is; N, the largest possible one,
  is taken, as the 1 of the other form is.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.sparse import csr_array

from lska.data.cue_conflict import CueConflictSet
from lska.provenance.errors import InputError
from lska.provenance.metric_files import metric
from lska.provenance.outcomes import Outcomes, resample_columns

FACTORS = ("shape", "texture", "residual")
FORMS = ("reference", "printed")

ELEMENTS = 8_000_000
"""Numbers in a temporary array (64 MB), which bounds how many neurons and resamples are taken at a time."""

CONSTANT = 1e-9
"""Least variance of a neuron in a resample, as a share of its variance over all pairs, for a correlation to exist."""


def shape_pairs(cues: CueConflictSet) -> np.ndarray:
    """Unordered pairs of images that share the shape instance and not the texture instance; int64 (P, 2), sorted."""
    return _sharing(cues.shape_instance, cues.texture_instance)


def texture_pairs(cues: CueConflictSet) -> np.ndarray:
    """Unordered pairs of images that share the texture instance and not the shape instance; int64 (P, 2), sorted."""
    return _sharing(cues.texture_instance, cues.shape_instance)


def _sharing(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    alike = (one[:, None] == one[None, :]) & (other[:, None] != other[None, :])
    return np.argwhere(np.triu(alike, 1))


def draw_pairs(pairs: np.ndarray, n: int | None, seed: int) -> np.ndarray:
    """A random sample of `n` of the pairs, each at most once, in their order; all where `n` is None or larger."""
    if n is not None and n < 2:
        raise InputError(f"n: expected at least 2 pairs to be drawn, found {n}")
    if n is None or n >= len(pairs):
        return pairs
    return pairs[np.sort(np.random.default_rng(seed).choice(len(pairs), n, replace=False))]


@dataclass(frozen=True)
class Estimate:
    """One form of the estimate; all tuples are in the order of `FACTORS`, intervals are (low, high)."""

    scores: tuple[float, ...]
    dimensions: tuple[int, ...]
    score_intervals: tuple[tuple[float, float], ...]
    dimension_intervals: tuple[tuple[float, float], ...]


@dataclass(frozen=True, eq=False)
class Dimensions:
    """Both forms of the estimate, and what they are made of."""

    neurons: int
    constant: int
    """Neurons with one value for all images. They belong to N, with a correlation of 0."""
    pairs: Mapping[str, int]
    """Number of pairs that share the shape, and the texture."""
    correlations: Mapping[str, np.ndarray]
    """float64 (N,) by shared factor: correlation of each neuron over the pairs, -1 to 1."""
    estimates: Mapping[str, Estimate]
    """By form."""
    samples: Mapping[str, np.ndarray]
    """float64 (resamples, 2) by form: scores of shape and texture on bootstrap samples of the images; NaN where no pair
    of a sample shares one of them."""


def dimensions(
    features: np.ndarray,
    sharing_shape: np.ndarray,
    sharing_texture: np.ndarray,
    *,
    resamples: int = 1000,
    seed: int = 0,
    confidence: float = 0.95,
    printed_residual: float | None = None,
) -> Dimensions:
    """Estimate the dimensions of shape, texture and the residual in both forms, from all pairs that are given.

    A pair has no order: both are taken, so that its two images have one mean and one variance per neuron. Both factors
    count the same in the variance of all images, as the released code draws them evenly. Intervals are percentiles over
    bootstrap samples of the pairs: the uncertainty of having drawn these pairs. That of having these images is larger,
    each being in many pairs; it is in `samples`, in which a pair counts as often as both its images are drawn.

    Args:
        features: (n, N) floats, one row per image.
        sharing_shape: int (P, 2), rows of `features`; see `shape_pairs`. `sharing_texture`, (Q, 2), likewise.
        printed_residual: score of the residual in the printed form, None for N.

    Raises:
        ValueError: features are not finite, or equal for all images; fewer than 2 pairs share a factor; no resamples.
    """
    pairs = {"shape": sharing_shape, "texture": sharing_texture}
    _check(features, pairs, resamples)
    factors = tuple(pairs.values())
    centre, scale = _standard(features, np.unique(np.concatenate(factors)))
    neurons = features.shape[1]
    correlations = np.empty((2, neurons))
    scored = functools.partial(_scores, features, centre, scale, factors)
    point = scored(tuple(np.ones((1, len(pair))) for pair in factors), correlations)
    samples = list(map(scored, _resampled(factors, resamples, seed)))
    images = list(map(scored, _image_weights(factors, len(features), resamples)))
    estimates = _estimates(point, samples, printed_residual, neurons, confidence)
    drawn = dict(zip(FORMS, np.concatenate(images, axis=1), strict=True))
    counts, constant = {name: len(pair) for name, pair in pairs.items()}, int((scale == 0).sum())
    return Dimensions(neurons, constant, counts, dict(zip(pairs, correlations, strict=True)), estimates, drawn)


def allocate(scores: np.ndarray, neurons: int) -> np.ndarray:
    """Dimensions, int64 (..., 3), from scores (..., 3): softmax times `neurons`, rounded down, the rest to the last."""
    powers = np.exp(scores - scores.max(axis=-1, keepdims=True))
    found = np.floor(neurons * powers / powers.sum(axis=-1, keepdims=True)).astype(np.int64)
    found[..., -1] = neurons - found[..., :-1].sum(axis=-1)
    return found


def dimension_metrics(found: Dimensions) -> dict[str, dict[str, Any]]:
    """Metric entries, for each form and factor: `<factor>_dimensions_<form>`, `<factor>_share_<form>` in % of N and
    `<factor>_score_<form>`, with intervals and the number of pairs; for shape and texture `<factor>_correlation`, the
    mean over the neurons; `neurons` and `constant_neurons`.
    """
    entries = {"neurons": metric(found.neurons, "1"), "constant_neurons": metric(found.constant, "1")}
    for factor, values in found.correlations.items():
        entries[f"{factor}_correlation"] = metric(float(values.mean()), "1", n=found.pairs[factor])
    for form, estimate in found.estimates.items():
        entries |= estimate_metrics(form, estimate, found.pairs, found.neurons)
    return entries


def estimate_metrics(
    form: str, estimate: Estimate, pairs: Mapping[str, int], neurons: int
) -> dict[str, dict[str, Any]]:
    """The entries of `metrics` that belong to one form."""
    entries = {}
    for i, factor in enumerate(FACTORS):
        n = pairs.get(factor, sum(pairs.values()))
        value, (low, high), share = estimate.dimensions[i], estimate.dimension_intervals[i], 100 / neurons
        shares, scores = (share * low, share * high), estimate.score_intervals[i]
        entries[f"{factor}_dimensions_{form}"] = metric(value, "1", n=n, interval=(low, high))
        entries[f"{factor}_share_{form}"] = metric(share * value, "%", n=n, interval=shares)
        entries[f"{factor}_score_{form}"] = metric(estimate.scores[i], "1", n=n, interval=scores)
    return entries


def residual_score(form: str, neurons: int) -> float:
    """Score of the residual: the largest that a factor can have."""
    return 1.0 if form == "reference" else float(neurons)


def dimension_outcomes(found: Dimensions) -> Outcomes:
    """What is kept: all scores, dimensions and shares on the samples, but for the residual's score, a constant."""
    samples = {}
    for form, drawn in found.samples.items():
        scores = np.insert(drawn, 2, found.estimates[form].scores[2], axis=1)
        defined = ~np.isnan(drawn).any(axis=1)
        counts = np.full(scores.shape, np.nan)
        counts[defined] = allocate(scores[defined], found.neurons)
        for i, factor in enumerate(FACTORS):
            samples[f"{factor}_dimensions_{form}"] = counts[:, i]
            samples[f"{factor}_share_{form}"] = 100 / found.neurons * counts[:, i]
            if factor != "residual":
                samples[f"{factor}_score_{form}"] = scores[:, i]
    return Outcomes(samples=samples)


def _check(features: np.ndarray, pairs: Mapping[str, np.ndarray], resamples: int) -> None:
    if resamples < 1:
        raise InputError(f"resamples: expected at least 1 bootstrap sample, found {resamples}")
    if features.ndim != 2:
        raise InputError(f"features: expected an array (images, neurons), found {features.shape}")
    if not np.isfinite(features).all():
        broken = int((~np.isfinite(features)).any(axis=1).sum())
        raise InputError(
            f"features: expected finite numbers, found others for {broken:,} of {len(features):,} images; the weights "
            "of the network are of no use"
        )
    for factor, pair in pairs.items():
        if pair.ndim != 2 or pair.shape[1:] != (2,) or len(pair) < 2:
            raise InputError(
                f"pairs that share the {factor}: expected at least 2 rows of 2 images, found an array {pair.shape}; "
                "the set needs several images of an instance"
            )
        if pair.min() < 0 or pair.max() >= len(features):
            raise InputError(
                f"pairs that share the {factor}: expected images from 0 to {len(features) - 1}, found "
                f"{pair.min()} to {pair.max()}; the features belong to another set"
            )


def _standard(features: np.ndarray, used: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and deviation (N,) of each neuron over the images in `used`; a deviation of 0 where it is constant."""
    centre, scale = np.empty((2, features.shape[1]))
    step = max(1, ELEMENTS // len(used))
    for first in range(0, features.shape[1], step):
        part = features[used, first : first + step].astype(np.float64)
        chosen = slice(first, first + step)
        centre[chosen] = part.mean(axis=0)
        scale[chosen] = np.where(np.ptp(part, axis=0) == 0, 0, part.std(axis=0))
    if not scale.any():
        raise InputError("features: every neuron has one value for all images; the network tells none of them apart")
    return centre, scale


def _resampled(factors: tuple[np.ndarray, ...], resamples: int, seed: int) -> Iterator[tuple[np.ndarray, ...]]:
    """Bootstrap samples, some at a time: for each factor how often each pair is in each sample, (samples, P)."""
    # A stream each, so that the samples are the same ones however many are taken at a time.
    streams = [np.random.default_rng([seed, number]) for number in range(len(factors))]
    even = [np.full(len(pair), 1 / len(pair)) for pair in factors]
    step = max(1, ELEMENTS // max(map(len, factors)))
    for first in range(0, resamples, step):
        rows = min(step, resamples - first)
        yield tuple(
            stream.multinomial(len(share), share, rows).astype(np.float64)
            for stream, share in zip(streams, even, strict=True)
        )


def _image_weights(
    factors: tuple[np.ndarray, ...], images: int, resamples: int
) -> Iterator[tuple[np.ndarray, ...]]:
    """As `_resampled`, with bootstrap samples of the images: how often both images of each pair are in a sample."""
    at_once = max(1, ELEMENTS // max(map(len, factors)))
    for counts in resample_columns(images, resamples, at_once):
        yield tuple((counts[pair[:, 0]] * counts[pair[:, 1]]).T for pair in factors)


def _scores(
    features: np.ndarray,
    centre: np.ndarray,
    scale: np.ndarray,
    factors: tuple[np.ndarray, ...],
    weights: tuple[np.ndarray, ...],
    correlations: np.ndarray | None = None,
) -> np.ndarray:
    """Scores of shape and texture in both forms, (form, sample, factor), for weighted pairs, NaN where all weights of a
    factor are 0; `correlations` is filled.

    Per neuron and sample, the moments over a pair's two images are the mean m, the mean square and the mean product,
    whence variance and covariance; the pair's order takes no part in them.
    """
    total, covariance, printed = 0.0, 0.0, 0.0
    with np.errstate(invalid="ignore"):
        weights = tuple(weight / weight.sum(axis=1, keepdims=True) for weight in weights)
    occurrence = [weight @ _halves(pair, len(features)) for pair, weight in zip(factors, weights, strict=True)]
    step = max(1, ELEMENTS // max(map(len, factors)))
    for first in range(0, features.shape[1], step):
        chosen = slice(first, first + step)
        deviation = scale[chosen]
        values = (features[:, chosen] - centre[chosen]) / np.where(deviation == 0, np.inf, deviation)
        mean = np.stack([images @ values for images in occurrence], axis=1)
        square = np.stack([images @ values**2 for images in occurrence], axis=1)
        products = [w @ (values[p[:, 0]] * values[p[:, 1]]) for p, w in zip(factors, weights, strict=True)]
        common, variance = np.stack(products, axis=1) - mean**2, square - mean**2
        correlation = np.divide(common, variance, out=np.zeros_like(common), where=~(variance <= CONSTANT))
        if correlations is not None:
            correlations[:, chosen] = correlation[0]
        total = total + (square.mean(axis=1) - mean.mean(axis=1) ** 2) @ deviation**2
        covariance = covariance + common @ deviation**2
        printed = printed + correlation.sum(axis=2)
    return np.stack([covariance / total[:, None], printed])


def _halves(pairs: np.ndarray, images: int) -> csr_array:
    """(P, n) with one half at each of a pair's two images, so that weights of pairs become weights of images."""
    rows = np.repeat(np.arange(len(pairs)), 2)
    return csr_array((np.full(2 * len(pairs), 0.5), (rows, pairs.ravel())), shape=(len(pairs), images))


def _estimates(
    point: np.ndarray, samples: list[np.ndarray], printed_residual: float | None, neurons: int, confidence: float
) -> dict[str, Estimate]:
    """Both forms from their scores (form, 1, 2) and those of bootstrap samples, each (form, samples, 2)."""
    residual = {form: residual_score(form, neurons) for form in FORMS}
    if printed_residual is not None:
        residual["printed"] = printed_residual
    return {
        form: _estimate(point[i], [sample[i] for sample in samples], residual[form], neurons, confidence)
        for i, form in enumerate(FORMS)
    }


def _estimate(
    point: np.ndarray, samples: list[np.ndarray], residual: float, neurons: int, confidence: float
) -> Estimate:
    """One form from its scores (1, 2) and those of bootstrap samples, each (samples, 2)."""
    scores, *others = (np.insert(part, 2, residual, axis=1) for part in (point, *samples))
    found = allocate(scores, neurons)[0]
    drawn, ends = np.concatenate(others), [50 * (1 - confidence), 50 * (1 + confidence)]
    intervals = (np.percentile(part, ends, axis=0).T.tolist() for part in (drawn, allocate(drawn, neurons)))
    return Estimate(tuple(scores[0].tolist()), tuple(found.tolist()), *(tuple(map(tuple, part)) for part in intervals))
