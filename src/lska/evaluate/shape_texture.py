"""How many dimensions of a network's features encode shape, how many texture, and which its decisions follow (paper,
Tables XII and XV). Importing this module imports neither torch nor timm.

Dimensions. Pairs of cue-conflict images share either the shape or the texture. What the features of a pair have in
common over many pairs is what they encode of the shared factor. The estimate is that of Islam et al., Shape or Texture:
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

Shape bias. A classifier decides for the shape or for the texture of an image (Geirhos et al., ImageNet-trained CNNs are
biased towards texture, ICLR 2019; github.com/rgeirhos/texture-vs-shape).
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.sparse import csr_array

from lska.data.cue_conflict import CueConflictSet
from lska.provenance.errors import InputError
from lska.provenance.metric_files import metric, proportion
from lska.provenance.outcomes import RESAMPLES, Outcomes, resample_columns

FACTORS = ("shape", "texture", "residual")
FORMS = ("reference", "printed")

CONFIDENCE = 0.95
"""Share of the bootstrap samples that an interval holds."""

ELEMENTS = 8_000_000
"""Numbers in a temporary array (64 MB), which bounds how many neurons and resamples are taken at a time."""

CONSTANT = 1e-9
"""Least variance of a neuron in a resample, as a share of its variance over all pairs, for a correlation to exist."""

# --- Dimensions ------------------------------------------------------------------------------------------------------


def sharing_pairs(cues: CueConflictSet) -> tuple[np.ndarray, np.ndarray]:
    """Unordered pairs of images that share the shape instance and not the texture instance, int64 (P, 2), sorted; and
    those that share the texture instance and not the shape instance, (Q, 2)."""
    shape, texture = (one[:, None] == one[None, :] for one in (cues.shape_instance, cues.texture_instance))
    return np.argwhere(np.triu(shape & ~texture, 1)), np.argwhere(np.triu(texture & ~shape, 1))


def draw_pairs(pairs: np.ndarray, n: int | None, seed: int) -> np.ndarray:
    """A random sample of `n` of the pairs, each at most once, in their order; all where `n` is None or larger."""
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
    """Both forms of the estimate (`estimates`), and what they are made of.

    `constant` neurons have one value for all images; they belong to N, with a correlation of 0. `pairs` counts those
    that share the shape, and the texture; `correlations`, float64 (N,), are those of each neuron over these pairs, -1
    to 1. `samples`, float64 (resamples, 2) by form, are the scores of shape and texture on bootstrap samples of the
    images; NaN where no pair of a sample shares one of them.
    """

    neurons: int
    constant: int
    pairs: Mapping[str, int]
    correlations: Mapping[str, np.ndarray]
    estimates: Mapping[str, Estimate]
    samples: Mapping[str, np.ndarray]


def dimensions(
    features: np.ndarray, sharing_shape: np.ndarray, sharing_texture: np.ndarray, *, resamples: int = RESAMPLES,
    seed: int = 0,
) -> Dimensions:  # fmt: skip
    """Estimate the dimensions of shape, texture and the residual in both forms, from all pairs that are given.

    A pair has no order: both are taken, so that its two images have one mean and one variance per neuron. Both factors
    count the same in the variance of all images, as the released code draws them evenly. Intervals are percentiles over
    bootstrap samples of the pairs: the uncertainty of having drawn these pairs. That of having these images is larger,
    each being in many pairs; it is in `samples`, in which a pair counts as often as both its images are drawn.

    Args:
        features: (n, N) finite floats, one row per image.
        sharing_shape: int (P, 2), rows of `features`; see `sharing_pairs`. `sharing_texture`, (Q, 2), likewise.

    Raises:
        ValueError: every neuron is constant, or fewer than 2 pairs share a factor.
    """
    factors, (images, neurons) = (sharing_shape, sharing_texture), features.shape
    for factor, pairs in zip(FACTORS, factors, strict=False):
        if len(pairs) < 2:
            raise InputError(
                f"pairs that share the {factor}: expected at least 2, found {len(pairs)}; the set needs several images "
                "of an instance"
            )
    centre, scale = _standard(features, np.unique(np.concatenate(factors)))
    correlations = np.empty((2, neurons))
    scored = functools.partial(_scores, features, centre, scale, factors)
    point = scored(tuple(np.ones((1, len(pairs))) for pairs in factors), correlations)
    drawn = np.concatenate(list(map(scored, _resampled(factors, resamples, seed))), axis=1)
    samples = np.concatenate(list(map(scored, _image_weights(factors, images, resamples))), axis=1)
    estimates, ends = {}, [50 * (1 - CONFIDENCE), 50 * (1 + CONFIDENCE)]
    for i, form in enumerate(FORMS):
        whole, others = (np.insert(part[i], 2, residual_score(form, neurons), axis=1) for part in (point, drawn))
        intervals = (np.percentile(part, ends, axis=0).T.tolist() for part in (others, allocate(others, neurons)))
        estimates[form] = Estimate(
            tuple(whole[0].tolist()), tuple(allocate(whole, neurons)[0].tolist()),
            *(tuple(map(tuple, part)) for part in intervals),
        )  # fmt: skip
    shared = FACTORS[:2]
    return Dimensions(
        neurons, int((scale == 0).sum()), dict(zip(shared, map(len, factors), strict=True)),
        dict(zip(shared, correlations, strict=True)), estimates, dict(zip(FORMS, samples, strict=True)),
    )  # fmt: skip


def allocate(scores: np.ndarray, neurons: int) -> np.ndarray:
    """Dimensions, int64 (..., 3), from scores (..., 3): softmax times `neurons`, rounded down, the rest to the last."""
    powers = np.exp(scores - scores.max(axis=-1, keepdims=True))
    found = np.floor(neurons * powers / powers.sum(axis=-1, keepdims=True)).astype(np.int64)
    found[..., -1] = neurons - found[..., :-1].sum(axis=-1)
    return found


def dimension_metrics(found: Dimensions) -> dict[str, dict[str, Any]]:
    """Metric entries `neurons`, `constant_neurons`, `<factor>_correlation`, the mean over the neurons for shape and
    texture, and those of `estimate_metrics`."""
    entries = {"neurons": metric(found.neurons, "1"), "constant_neurons": metric(found.constant, "1")}
    for factor, values in found.correlations.items():
        entries[f"{factor}_correlation"] = metric(float(values.mean()), "1", n=found.pairs[factor])
    for form, estimate in found.estimates.items():
        entries |= estimate_metrics(form, estimate, found.pairs, found.neurons)
    return entries


def estimate_metrics(
    form: str, estimate: Estimate, pairs: Mapping[str, int], neurons: int
) -> dict[str, dict[str, Any]]:
    """Metric entries of one form for each factor, with intervals and numbers of pairs: `<factor>_dimensions_<form>`,
    `<factor>_share_<form>` in % of N and `<factor>_score_<form>`."""
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


def _image_weights(factors: tuple[np.ndarray, ...], images: int, resamples: int) -> Iterator[tuple[np.ndarray, ...]]:
    """As `_resampled`, with bootstrap samples of the images: how often both images of each pair are in a sample."""
    at_once = max(1, ELEMENTS // max(map(len, factors)))
    for counts in resample_columns(images, resamples, at_once):
        yield tuple((counts[pair[:, 0]] * counts[pair[:, 1]]).T for pair in factors)


def _scores(
    features: np.ndarray, centre: np.ndarray, scale: np.ndarray, factors: tuple[np.ndarray, ...],
    weights: tuple[np.ndarray, ...], correlations: np.ndarray | None = None,
) -> np.ndarray:  # fmt: skip
    """Scores of shape and texture in both forms, (form, sample, factor), for weighted pairs, NaN where all weights of a
    factor are 0; `correlations` is filled.

    Per neuron and sample, the moments over a pair's two images are the mean m, the mean square and the mean product,
    whence variance and covariance; the pair's order takes no part in them.
    """
    total, covariance, printed = 0.0, 0.0, 0.0
    with np.errstate(invalid="ignore"):
        weights = tuple(weight / weight.sum(axis=1, keepdims=True) for weight in weights)
    occurrence = []
    for pair, weight in zip(factors, weights, strict=True):
        # One half at each of a pair's two images: weights of pairs become weights of images.
        places = (np.repeat(np.arange(len(pair)), 2), pair.ravel())
        occurrence.append(weight @ csr_array((np.full(pair.size, 0.5), places), shape=(len(pair), len(features))))
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


# --- Shape bias ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class CueDecisions:
    """Decisions on the n images whose shape and texture are of different categories; those whose cues agree are left
    out, as in the published analysis. `category` int64 (n,) is the place of the shape's category, `shape` and `texture`
    bool (n,) say whether it was decided for that cue."""

    category: np.ndarray
    shape: np.ndarray
    texture: np.ndarray


def decide(probabilities: np.ndarray, groups: Mapping[str, np.ndarray], cues: CueConflictSet) -> CueDecisions:
    """Decisions of a classifier from its softmax outputs (images, classes).

    A category's value is the mean probability of its classes, int (K,) in `groups`, so that large ones have no
    advantage; the largest value decides, the first of equal ones, as in the published benchmark. Classes in no category
    are not considered.
    """
    values = [probabilities[:, members].astype(np.float64).mean(axis=1) for members in groups.values()]
    decided, places = np.argmax(values, axis=0)[cues.conflict], list(groups)
    number = np.array([places.index(name) for name in cues.categories])
    shape, texture = (number[which][cues.conflict] for which in (cues.shape_category, cues.texture_category))
    return CueDecisions(shape, decided == shape, decided == texture)


def bias_metrics(found: CueDecisions, categories: tuple[str, ...]) -> dict[str, dict[str, Any]]:
    """Metric entries in percent: `shape_bias`, the share of shape decisions among those for shape or texture, with its
    binomial standard error, null where there are none; `cue_decisions`, the share of decisions for shape or texture
    among images with a conflict, and `shape_decisions` and `texture_decisions` likewise; `shape_bias_<category>` by the
    shape's category, and `shape_bias_category_mean`, the mean over the categories that have one.
    """
    images, shape, texture = len(found.shape), int(found.shape.sum()), int(found.texture.sum())
    biases = {}
    for i, name in enumerate(categories):
        own = found.category == i
        if own.any():
            biases[f"shape_bias_{name}"] = bias(int(found.shape[own].sum()), int(found.texture[own].sum()))
    return {
        "shape_bias": bias(shape, texture),
        "cue_decisions": proportion(shape + texture, images),
        "shape_decisions": proportion(shape, images),
        "texture_decisions": proportion(texture, images),
        "shape_bias_category_mean": category_mean(biases.values()),
        **biases,
    }


def bias_outcomes(found: CueDecisions, resamples: int = RESAMPLES) -> Outcomes:
    """What is kept: values of every image of `cue_decisions`, `shape_decisions` and `texture_decisions`, 0 or 100;
    bootstrap samples of `shape_bias`, whose denominator depends on the decisions.
    """
    cue, drawn = found.shape | found.texture, []
    images = {"cue_decisions": cue, "shape_decisions": found.shape, "texture_decisions": found.texture}
    with np.errstate(invalid="ignore"):
        for counts in resample_columns(len(cue), resamples):
            drawn.append(100 * (found.shape @ counts) / (cue @ counts))
    return Outcomes({name: 100.0 * values for name, values in images.items()}, {"shape_bias": np.concatenate(drawn)})


def category_mean(biases: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Mean over the entries of categories that have a value."""
    values = [entry["value"] for entry in biases if entry["value"] is not None]
    return metric(float(np.mean(values)) if values else None, "%", n=len(values) or None)


def bias(shape: int, texture: int) -> dict[str, Any]:
    """Share of decisions for the shape among those for either cue; null where there are none."""
    return proportion(shape, shape + texture) if shape + texture else metric(None, "%")
