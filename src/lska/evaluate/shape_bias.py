"""Shape bias of classifiers: decisions for the shape or for the texture of cue-conflict images.

Geirhos et al., ImageNet-trained CNNs are biased towards texture, ICLR 2019 (github.com/rgeirhos/texture-vs-shape).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lska.data.cue_conflict import CueConflictSet, imagenet_categories
from lska.data.entries import shown_names
from lska.provenance.errors import InputError
from lska.provenance.metric_files import metric, proportion
from lska.provenance.outcomes import RESAMPLES, Outcomes, resample_columns


@dataclass(frozen=True, eq=False)
class CategoryMapping:
    """Which of a network's classes belong to each category; classes in none are not considered."""

    classes: int
    """How many classes the network has."""
    categories: tuple[str, ...]
    members: tuple[np.ndarray, ...]
    """int (K,) for each category: indices of its classes."""


def imagenet_mapping(classes: Sequence[str]) -> CategoryMapping:
    """The published 16 categories for a network whose outputs are the ImageNet synsets `classes`, in any order.

    Raises:
        ValueError: a synset of the mapping is not among the classes.
    """
    groups = imagenet_categories()
    return _mapping(classes, tuple(groups), tuple(groups.values()))


def identity_mapping(classes: Sequence[str], categories: Sequence[str]) -> CategoryMapping:
    """Each category is the class of its name, as in generated sets; `categories` are those of the cue-conflict set.

    Raises:
        ValueError: a category is not among the classes.
    """
    names = tuple(sorted(categories))
    return _mapping(classes, names, tuple((name,) for name in names))


def _mapping(
    classes: Sequence[str], categories: tuple[str, ...], groups: tuple[tuple[str, ...], ...]
) -> CategoryMapping:
    place = {name: index for index, name in enumerate(classes)}
    missing = [name for group in groups for name in group if name not in place]
    if missing or len(place) < len(classes):
        problem = f"lack {shown_names(missing)}" if missing else "have names that occur twice"
        raise InputError(
            f"the network's {len(classes):,} classes {problem}; expected one class for every name in the mapping: the "
            "cue-conflict set belongs to other training data"
        )
    return CategoryMapping(len(classes), categories, tuple(np.array([place[name] for name in g]) for g in groups))


def decisions(probabilities: np.ndarray, mapping: CategoryMapping) -> np.ndarray:
    """The category of each image, int64 (n,) into `mapping.categories`, from softmax outputs (n, classes).

    A category's value is the mean probability of its classes, so that large ones have no advantage; the largest value
    decides, the first of equal ones, as in the published benchmark.

    Raises:
        ValueError: not as many columns as the mapping has classes, or values that are no probabilities.
    """
    if probabilities.ndim != 2 or probabilities.shape[1] != mapping.classes:
        raise InputError(f"probabilities: expected (images, {mapping.classes}), found {probabilities.shape}")
    # A comparison with NaN is false.
    if not ((probabilities >= 0) & (probabilities <= 1)).all():
        raise InputError("probabilities: expected values from 0 to 1; pass the softmax of the network's outputs")
    values = [probabilities[:, members].astype(np.float64).mean(axis=1) for members in mapping.members]
    return np.argmax(values, axis=0)


@dataclass(frozen=True, eq=False)
class ShapeBias:
    """Decisions on the images whose shape and texture are of different categories.

    Arrays are int64 (categories,), by category of the shape.
    """

    categories: tuple[str, ...]
    images: np.ndarray
    shape: np.ndarray
    """Decisions for the shape."""
    texture: np.ndarray
    """Decisions for the texture."""


def shape_bias(decided: np.ndarray, mapping: CategoryMapping, cues: CueConflictSet) -> ShapeBias:
    """Count the decisions (n,), indices into `mapping.categories`, for the shape and for the texture of each image.

    Images whose cues agree are left out, as in the published analysis.

    Raises:
        ValueError: not one decision per image, a category of the set that the mapping lacks, or no conflict at all.
    """
    category, shape, texture = _choices(decided, mapping, cues)
    chosen = (np.ones_like(shape), shape, texture)
    return ShapeBias(
        mapping.categories, *(np.bincount(category[which], minlength=len(mapping.categories)) for which in chosen)
    )


def _choices(
    decided: np.ndarray, mapping: CategoryMapping, cues: CueConflictSet
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of every image with a conflict, in order: category of its shape, whether it was decided for shape, for texture.
    """
    _check(decided, mapping, cues)
    number = np.array([mapping.categories.index(name) for name in cues.categories])
    shape, texture = (number[which][cues.conflict] for which in (cues.shape_category, cues.texture_category))
    kept = decided[cues.conflict]
    return shape, kept == shape, kept == texture


def bias_outcomes(
    decided: np.ndarray, mapping: CategoryMapping, cues: CueConflictSet, resamples: int = RESAMPLES
) -> Outcomes:
    """What is kept of the arguments of `shape_bias`, images without a conflict left out.

    Values of every image of `cue_decisions`, `shape_decisions` and `texture_decisions`, 0 or 100; bootstrap samples of
    `shape_bias`, whose denominator depends on the decisions.
    """
    _, shape, texture = _choices(decided, mapping, cues)
    images = {"cue_decisions": shape | texture, "shape_decisions": shape, "texture_decisions": texture}
    with np.errstate(invalid="ignore"):
        drawn = [
            100 * (shape @ counts) / ((shape | texture) @ counts) for counts in resample_columns(len(shape), resamples)
        ]
    return Outcomes(
        {name: 100.0 * values for name, values in images.items()}, {"shape_bias": np.concatenate(drawn)}
    )


def _check(decided: np.ndarray, mapping: CategoryMapping, cues: CueConflictSet) -> None:
    if decided.shape != (len(cues),):
        raise InputError(
            f"decisions: expected one for each of the {len(cues):,} images of {cues.root}, found an array "
            f"{decided.shape}; they belong to another set"
        )
    unknown = sorted(set(cues.categories) - set(mapping.categories))
    if unknown:
        raise InputError(
            f"{cues.root} has categories that are not among the decisions: {shown_names(unknown)}; expected only "
            f"{shown_names(mapping.categories)}: choose the mapping that belongs to the set"
        )
    if not cues.conflict.any():
        raise InputError(f"{cues.root}: expected images whose shape and texture differ in category, found none")


def bias_metrics(found: ShapeBias) -> dict[str, dict[str, Any]]:
    """Metric entries in percent: `shape_bias`, the share of shape decisions among those for shape or texture, with its
    binomial standard error, null where there are none; `cue_decisions`, the share of decisions for shape or texture
    among images with a conflict, and `shape_decisions` and `texture_decisions` likewise; `shape_bias_<category>` by the
    shape's category, and `shape_bias_category_mean`, the mean over the categories that have one.
    """
    images, shape, texture = (int(values.sum()) for values in (found.images, found.shape, found.texture))
    biases = {
        name: bias(int(found.shape[i]), int(found.texture[i]))
        for i, name in enumerate(found.categories)
        if found.images[i]
    }
    return {
        "shape_bias": bias(shape, texture),
        "cue_decisions": proportion(shape + texture, images),
        "shape_decisions": proportion(shape, images),
        "texture_decisions": proportion(texture, images),
        "shape_bias_category_mean": category_mean(biases.values()),
        **{f"shape_bias_{name}": entry for name, entry in biases.items()},
    }


def category_mean(biases: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Mean over the entries of categories that have a value."""
    values = [entry["value"] for entry in biases if entry["value"] is not None]
    return metric(float(np.mean(values)) if values else None, "%", n=len(values) or None)


def bias(shape: int, texture: int) -> dict[str, Any]:
    """Share of decisions for the shape among those for either cue; null where there are none."""
    return proportion(shape, shape + texture) if shape + texture else metric(None, "%")
