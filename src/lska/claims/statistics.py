"""Telling a difference from noise.

Where every measured quantity has several seeds, the spread between trainings decides (Welch). Where one has a single
seed, the spread over images does: networks are scored on the same images, so the values of an image are compared with
each other, which removes what makes an image easy or hard for all. The error of a compound quantity, such as a quotient
of two metrics, follows from its derivatives (the delta method). One seed says nothing about the spread between
trainings; the basis of each test says on what it rests.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from lska.claims.evidence import Evidence, Group
from lska.claims.predicates import Comparison, Quantity

CONFIDENCE = 0.95

STEP = 1e-6
"""Relative step of the numerical derivatives."""


@dataclass(frozen=True)
class Difference:
    """What a comparison comes to: `value` is positive (for < and >) or zero (for =) if the claim is right.

    `left` and `right` are its sides. `standard_error` is 0 for counts and None where no error is known. `low` and
    `high` are the ends of the confidence interval of `CONFIDENCE`, `p` the two-sided probability of so large a
    difference by chance.
    """

    left: float
    right: float
    value: float
    standard_error: float | None
    low: float | None
    high: float | None
    p: float | None
    basis: str

    @property
    def exact(self) -> bool:
        """Whether it has no sampling error at all."""
        return self.standard_error == 0 and self.p is None


def difference(comparison: Comparison, evidence: Mapping[Quantity, Evidence]) -> Difference:
    """Evaluate a comparison and its error from the evidence of all its quantities."""
    parts = [evidence[quantity] for quantity in comparison.quantities]
    values = {part.quantity: part.value for part in parts}
    found = (*comparison.sides(values), comparison.difference(values))
    measured = [part for part in parts if not part.quantity.counted]
    if not measured:
        return Difference(*found, 0.0, None, None, None, "counted")
    slopes = {part.quantity: _slope(comparison, values, part.quantity) for part in measured}
    if all(len(part.values) > 1 for part in measured):
        return Difference(*found, *_over_seeds(found[-1], measured, slopes))
    return Difference(*found, *_over_images(found[-1], comparison, measured, slopes))


_Test = tuple[float | None, float | None, float | None, float | None, str]
"""The last fields of a `Difference`, from `standard_error` on."""


def _slope(comparison: Comparison, values: Mapping[Quantity, float], quantity: Quantity) -> float:
    """Derivative of the difference with respect to one quantity."""
    step = STEP * max(abs(values[quantity]), STEP)
    ends = (comparison.difference({**values, quantity: values[quantity] + sign * step}) for sign in (1, -1))
    above, below = ends
    return (above - below) / (2 * step)


def _over_seeds(found: float, measured: Sequence[Evidence], slopes: Mapping[Quantity, float]) -> _Test:
    """Welch's t-test, with the degrees of freedom of Welch and Satterthwaite."""
    from scipy.stats import t

    shares = {
        part.quantity: slopes[part.quantity] ** 2 * float(np.var(part.values, ddof=1)) / len(part.values)
        for part in measured
    }
    variance = sum(shares.values())
    seeds = ", ".join(map(str, sorted({len(part.values) for part in measured})))
    basis = f"Welch's test over seeds ({seeds} each)"
    if variance == 0:
        return 0.0, found, found, float(found == 0), basis
    freedom = variance**2 / sum(shares[part.quantity] ** 2 / (len(part.values) - 1) for part in measured)
    error = math.sqrt(variance)
    reach = float(t.ppf((1 + CONFIDENCE) / 2, freedom)) * error
    return error, found - reach, found + reach, float(2 * t.sf(abs(found) / error, freedom)), basis


def _over_images(
    found: float, comparison: Comparison, measured: Sequence[Evidence], slopes: Mapping[Quantity, float]
) -> _Test:
    """Paired over images within each group; groups, and quantities without outcomes, are taken as independent."""
    from scipy.stats import norm

    variances, bases = [], []
    for group, parts in _by_group(measured).items():
        variance = _variance(group, parts, slopes)
        if variance is None:
            return None, None, None, None, "no error is known"
        variances.append(variance)
        bases.append(_basis(group, parts))
    error = math.sqrt(sum(variances))
    basis = "; ".join(dict.fromkeys(bases))
    reach = float(norm.ppf((1 + CONFIDENCE) / 2)) * error
    p = float(2 * norm.sf(abs(found) / error)) if error else float(found == 0)
    if _is_mcnemar(comparison, measured, slopes):
        p, basis = mcnemar(measured[0].outcomes, measured[1].outcomes), f"{basis}; exact McNemar test"
    return error, found - reach, found + reach, p, basis


def _by_group(measured: Sequence[Evidence]) -> dict[Group | Quantity, list[Evidence]]:
    groups: dict[Group | Quantity, list[Evidence]] = {}
    for part in measured:
        groups.setdefault(part.quantity if part.group is None else part.group, []).append(part)
    return groups


def _variance(group: Group | Quantity, parts: list[Evidence], slopes: Mapping[Quantity, float]) -> float | None:
    """Variance of the group's share in the difference."""
    if isinstance(group, Quantity):
        error = parts[0].standard_error
        return None if error is None else (slopes[group] * error) ** 2
    influence = sum(slopes[part.quantity] * part.outcomes for part in parts)
    influence = influence[np.isfinite(influence)]  # samples in which a metric is not defined
    if len(influence) < 2:
        return None
    return float(np.var(influence, ddof=1)) / (len(influence) if group.kind == "images" else 1)


def _basis(group: Group | Quantity, parts: list[Evidence]) -> str:
    seeds = max(len(part.values) for part in parts)
    trained = "one seed" if seeds == 1 else f"means over up to {seeds} seeds"
    if isinstance(group, Quantity):
        timed = group.task == "speed"
        return "error of repeated timing" if timed else f"unpaired errors of the metric files, {trained}"
    if group.kind == "images":
        return f"paired over {group.length:,} images, {trained}"
    images = f" of {parts[0].n:,} images" if parts[0].n else ""
    return f"paired over {group.length:,} bootstrap samples{images}, {trained}"


def _is_mcnemar(comparison: Comparison, measured: Sequence[Evidence], slopes: Mapping[Quantity, float]) -> bool:
    """Whether two networks' shares of right images are compared, and nothing else."""
    plain = len(measured) == 2 and comparison.sign != "=" and all(part.binary for part in measured)
    if not plain or measured[0].group != measured[1].group:
        return False
    values = {part.quantity: part.value for part in measured}
    bare = abs(abs(comparison.difference(values)) - abs(measured[0].value - measured[1].value)) < 1e-9
    return bare and np.allclose(sorted(slopes.values()), [-1, 1], atol=1e-6)


def mcnemar(one: np.ndarray, other: np.ndarray) -> float:
    """Two-sided p of the exact McNemar test: among images that one network alone gets right, half each by chance.

    Args:
        one, other: values (n,) of the same images, larger where right.
    """
    from scipy.stats import binomtest

    first, second = int((one > other).sum()), int((one < other).sum())
    return float(binomtest(first, first + second).pvalue) if first + second else 1.0
