"""How the numbers of a metric file follow from what is kept beside them and from each other.

The formulas are those that the evaluations write by; here stands which number follows by which of them. Some numbers
follow from nothing that is kept, such as a throughput. Importing this module imports neither torch nor timm.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from lska.data.perturbed.names import FAMILIES, SEVERITIES
from lska.evaluate import receptive_field, shape_texture
from lska.evaluate.scores import mean_calibration, means_by_image, over_splits
from lska.provenance.metric_files import metric, proportion
from lska.provenance.outcomes import Outcomes, mean_of_parts, of_images, standard_error

Entry = Mapping[str, Any]

FIELDS = ("value", "n", "standard_error", "interval")
"""Numbers of a metric's entry."""


@dataclass(frozen=True)
class Kept:
    """A metric file's entries, and what lies behind them as far as it is kept."""

    task: str
    metrics: Mapping[str, Entry]
    outcomes: Outcomes = field(default_factory=Outcomes)
    beside: str = "its outcomes"
    """Name of the file of outcomes."""
    images: int | None = None
    """Images that were measured on, by the record of the data; None where it does not say."""
    maps: Mapping[str, np.ndarray] = field(default_factory=dict)
    """Contribution maps (S, S), `trained` and `untrained`."""

    def value(self, name: str) -> float | int | None:
        """Value of a metric, None where it has none."""
        return self.metrics.get(name, {}).get("value")


@dataclass(frozen=True)
class Derived:
    """What some numbers of one metric have to be.

    `fields` maps of `FIELDS` to what `source` (a plural) gives, None for a field that the entry must not have.
    `bounds`, both included, are those of a value that is not known more closely. Where not `whole`, the value is only
    one of several that fit.
    """

    metric: str
    source: str
    fields: Mapping[str, Any] = field(default_factory=dict)
    bounds: tuple[float, float] | None = None
    whole: bool = True


def derive(kept: Kept) -> Iterator[Derived]:
    """Everything that follows; a number may follow in several ways.

    Raises:
        ValueError: what is kept has shapes that do not fit the task.
    """
    for name, values in kept.outcomes.images.items():
        entry = of_images(name, values)
        # The error of textures is that of the splits, in which an image may be several times.
        fields = [field for field in FIELDS if field != "standard_error" or kept.task != "texture_knn"]
        yield Derived(name, f"the images in {kept.beside}", {field: entry.get(field) for field in fields})
    for name, samples in kept.outcomes.samples.items():
        source = f"the bootstrap samples in {kept.beside}"
        found, value, error = samples[~np.isnan(samples)], kept.value(name), standard_error(samples)
        if len(found) and name not in kept.outcomes.parts:
            # Calibration errors are convex in how often each image counts, so that samples have larger ones on average,
            # and on few images the value may lie below all of them.
            least = 0.0 if name.startswith("ece") else float(found.min())
            yield Derived(name, source, bounds=(least, float(found.max())))
        # As `with_errors` writes them.
        if error is not None and isinstance(value, float):
            yield Derived(name, source, {"standard_error": error})
    for name, parts in kept.outcomes.parts.items():
        yield Derived(name, f"the parts in {kept.beside}", {"value": mean_of_parts(parts)})
    if (rule := _TASKS.get(kept.task.partition("/")[0])) is not None:
        yield from rule(kept)


def _same(name: str, source: str, entry: Entry) -> Derived:
    return Derived(name, source, {field: entry.get(field) for field in FIELDS})


def _share(name: str, entry: Entry) -> Iterator[Derived]:
    """A share of `n` images whose hits are not kept."""
    value, n = entry["value"], entry.get("n")
    if value is None or n is None:
        yield Derived(name, "an entry without value or n", {"standard_error": None})
    elif not 0 <= value <= 100:
        yield Derived(name, "shares", bounds=(0.0, 100.0))
    else:
        nearest = proportion(round(value * n / 100), n)
        yield Derived(name, f"shares of {n:,}", {"value": nearest["value"]}, whole=False)
        yield Derived(name, "its value and n", {"standard_error": nearest["standard_error"]})


def _of_set(kept: Kept) -> Iterator[Derived]:
    """Numbers of images, where a metric is of all images of the set."""
    for name, entry in kept.metrics.items() if kept.images is not None else ():
        # Calibration errors state none.
        if "n" in entry or (name in kept.outcomes.samples and not name.startswith("ece")):
            yield Derived(name, "the records of its data", {"n": kept.images})


def _corruptions(kept: Kept) -> Iterator[Derived]:
    yield from _of_set(kept)
    family, images = kept.task.rpartition("/")[2], kept.outcomes.images
    if not images or family not in FAMILIES:
        return
    wrong = {name: 100 - images[f"top1_{name}"] if f"top1_{name}" in images else None for name in FAMILIES[family]}
    clean = 100 - images["top1_clean"] if "top1_clean" in images else None
    for name, values in means_by_image(family, wrong, clean).items():
        entry = metric(None, "%") if values is None else of_images(name, values)
        yield _same(name, f"the images of the corruptions in {kept.beside}", entry)
    for corruption in FAMILIES[family]:
        whole, names = f"top1_{corruption}", [f"top1_{corruption}_{level}" for level in SEVERITIES]
        cells = {name: kept.metrics[name] for name in names if name in kept.metrics}
        for name, entry in cells.items():
            yield from _share(name, entry)
        values = {name: entry["value"] for name, entry in cells.items()}
        if whole in images and len(values) == len(SEVERITIES) and None not in values.values():
            # Of single severities no image is kept, but their mean is known.
            rest = len(SEVERITIES) * float(images[whole].mean()) - sum(values.values())
            source = f"the other severities and the images of {whole} in {kept.beside}"
            for name, value in values.items():
                yield Derived(name, source, {"value": rest + value}, whole=False)
    alone = {name: kept.value(f"ece_{name}") for name in FAMILIES[family]}
    for name, value in mean_calibration(family, alone).items():
        yield Derived(f"ece_{name}", "the calibration errors of the corruptions", {"value": value})


def _textures(kept: Kept) -> Iterator[Derived]:
    """Shares of splits, their means and deviations."""
    for name, values in kept.outcomes.images.items():
        splits = {
            int(number): entry
            for split, entry in kept.metrics.items()
            if split.startswith(f"{name}_split") and (number := split.rpartition("_split")[2]).isdecimal()
        }
        for number, entry in splits.items():
            yield from _share(f"{name}_split{number}", entry)
        if splits and all("standard_error" in entry for entry in splits.values()):
            entries = over_splits(name, splits, len(values))
            for summary in (name, f"{name}_deviation"):
                yield _same(summary, "the splits", entries[summary])


def _shape_texture(kept: Kept) -> Iterator[Derived]:
    yield from _shape_bias(kept)
    pairs = {factor: kept.metrics.get(f"{factor}_correlation", {}).get("n") for factor in ("shape", "texture")}
    neurons = kept.value("neurons")
    if not neurons or None in pairs.values():
        return
    for form in shape_texture.FORMS:
        drawn = [kept.outcomes.samples.get(f"{factor}_dimensions_{form}") for factor in shape_texture.FACTORS]
        if not any(one is None for one in drawn) and np.isfinite(total := sum(drawn)).any():
            yield Derived("neurons", f"the dimensions in {kept.beside}", {"value": int(total[np.isfinite(total)][0])})
        yield from _estimate(kept, form, pairs, neurons)
    for factor in pairs:
        if (mean := kept.value(f"{factor}_correlation")) is not None:
            source = "the mean correlation and the number of neurons"
            yield Derived(f"{factor}_score_printed", source, {"value": mean * neurons}, whole=False)


def _estimate(kept: Kept, form: str, pairs: Mapping[str, int], neurons: int) -> Iterator[Derived]:
    """Dimensions and shares of one form from its scores, and the residual's score."""
    residual = shape_texture.residual_score(form, neurons)
    fixed = {"value": residual, "interval": [residual, residual]}
    yield Derived(f"residual_score_{form}", f"the {form} forms", fixed)
    scored, counted = (
        [kept.metrics.get(f"{factor}_{kind}_{form}", {}) for factor in shape_texture.FACTORS]
        for kind in ("score", "dimensions")
    )
    scores = tuple(entry.get("value") for entry in scored)
    intervals = [tuple(entry.get("interval") for entry in entries) for entries in (scored, counted)]
    if None in (*scores, *intervals[0], *intervals[1]):
        return
    dimensions = shape_texture.allocate(np.array(scores, dtype=np.float64), neurons).tolist()
    estimate = shape_texture.Estimate(scores, tuple(dimensions), *intervals)
    for name, entry in shape_texture.estimate_metrics(form, estimate, pairs, neurons).items():
        kinds = {"_dimensions_": ("value",), "_share_": ("value", "interval"), "_score_": ()}
        follow = next(fields for kind, fields in kinds.items() if kind in name)
        yield Derived(name, "scores, neurons and pairs", {field: entry[field] for field in ("n", *follow)})


def _shape_bias(kept: Kept) -> Iterator[Derived]:
    """The bias from the decisions on each image, and what is known of those of categories."""
    biases = {name: entry for name, entry in kept.metrics.items() if name.startswith("shape_bias_")}
    mean = biases.pop("shape_bias_category_mean", None)
    for name, entry in biases.items():
        yield from _share(name, entry)
    if mean is not None:
        yield _same("shape_bias_category_mean", "the categories", shape_texture.category_mean(biases.values()))
    decided = [kept.outcomes.images.get(f"{name}_decisions") for name in ("shape", "texture")]
    if not any(one is None for one in decided):
        entry = shape_texture.bias(*(int(np.count_nonzero(one)) for one in decided))
        fields = {"value": entry["value"], "n": entry.get("n")}
        yield Derived("shape_bias", f"the decisions in {kept.beside}", fields)


def _receptive_field(kept: Kept) -> Iterator[Derived]:
    for end, name in (("", "trained"), ("_untrained", "untrained")):
        alike = kept.metrics.get(f"area_ratio_{receptive_field.THRESHOLDS[0]}{end}", {}).get("n")
        for ratio, entry in receptive_field.ratios(kept.maps[name]).items() if name in kept.maps else ():
            yield Derived(f"{ratio}{end}", "the contribution maps", {"value": entry["value"]})
            yield Derived(f"{ratio}{end}", "the other ratios", {"n": alike}, whole=False)


def _segmentation(kept: Kept) -> Iterator[Derived]:
    yield from _of_set(kept)
    classes = [entry["value"] for name, entry in kept.metrics.items() if name.startswith("iou/")]
    if classes:
        yield Derived("miou", "the classes", {"value": mean_of_parts(np.array(classes, dtype=np.float64))})


def _speed(kept: Kept) -> Iterator[Derived]:
    """The median of an odd number of throughputs is that of the median time; quartiles lie around it."""
    entry = kept.metrics.get("throughput", {})
    batch, latency = kept.value("batch_size"), kept.value("latency")
    if entry.get("n", 0) % 2 and batch and latency:
        expected = {"value": 1000 * batch / latency}
        yield Derived("throughput", "batch size and latency", expected, whole=False)
    if entry.get("interval") and entry["value"] is not None:
        low, high = entry["interval"]
        around = [min(low, entry["value"]), max(high, entry["value"])]
        yield Derived("throughput", "quartiles around its median", {"interval": around}, whole=False)
        yield Derived("latency", "the throughputs", {"n": entry.get("n")}, whole=False)


_TASKS: Mapping[str, Callable[[Kept], Iterator[Derived]]] = {
    "classification": _of_set, "detection": _of_set, "segmentation": _segmentation, "robustness": _corruptions,
    "texture_knn": _textures, "shape_texture": _shape_texture, "receptive_field": _receptive_field, "speed": _speed,
}  # fmt: skip
"""Rules by the start of a task's name."""


def fits(found: Any, expected: Any, precision: float) -> bool:
    """Whether a number, an interval or None is the expected one, but for rounding where it is no whole number.

    Args:
        precision: relative, and absolute for numbers below 1.
    """
    if isinstance(expected, list | tuple):
        return isinstance(found, list | tuple) and all(map(lambda a, b: fits(a, b, precision), found, expected))
    if found is None or expected is None:
        return found is expected
    if isinstance(expected, int):
        return found == expected
    return math.isclose(found, expected, rel_tol=precision, abs_tol=precision)
