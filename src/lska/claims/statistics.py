"""Telling a difference from noise.

Where every measured quantity has several seeds, the spread between trainings decides (Welch). Where one has a single
seed, the spread over images does: networks are scored on the same images, so the values of an image are compared with
each other, which removes what makes an image easy or hard for all. The error of a compound quantity, such as a quotient
of two metrics, follows from its derivatives (the delta method). One seed says nothing about the spread between
trainings; the basis of each test says on what it rests. Observations that do not differ from each other at all, as
whole numbers may over a few seeds, do not show that there is no error: it is not known then.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from lska.claims.claim_evidence import Evidence, Pairing
from lska.claims.predicates import Comparison, Quantity

CONFIDENCE = 0.95

STEP = 1e-6
"""Relative step of the numerical derivatives."""

LEAST = 1e-3
"""Values closer to zero than this have the step of this one: a smaller one would be lost in rounding."""


@dataclass(frozen=True)
class Difference:
    """What a comparison comes to: `value` is positive (for < and >) or zero (for =) if the claim is right.

    `left` and `right` are its sides. `standard_error` is 0 for counts and None where no error is known. `freedom` are
    the degrees of freedom of its t distribution, infinite for a normal one, None without a test. `p` is the two-sided
    probability of so large a difference by chance where there is none; only for < and >, since = asks whether the
    difference is small, not whether it is there.
    """

    left: float
    right: float
    value: float
    standard_error: float | None
    freedom: float | None
    p: float | None
    basis: str

    @property
    def exact(self) -> bool:
        """Whether it has no sampling error at all."""
        return self.standard_error == 0 and self.freedom is None

    def interval(self, confidence: float = CONFIDENCE) -> tuple[float, float] | None:
        """Ends of the two-sided confidence interval; None for counts and where no error is known."""
        from scipy.stats import t

        if self.freedom is None or self.standard_error is None:
            return None
        reach = float(t.ppf((1 + confidence) / 2, self.freedom)) * self.standard_error
        return self.value - reach, self.value + reach


def difference(comparison: Comparison, evidence: Mapping[Quantity, Evidence]) -> Difference:
    """Evaluate a comparison and its error from the evidence of all its quantities.

    Raises:
        ZeroDivisionError: a quotient has a denominator of zero.
    """
    parts = [evidence[quantity] for quantity in comparison.quantities]
    values = {part.quantity: part.value for part in parts}
    found = (*comparison.sides(values), comparison.difference(values))
    measured = [part for part in parts if not part.quantity.counted]
    if not measured:
        return Difference(*found, 0.0, None, None, "counted")
    slopes = {part.quantity: _slope(comparison, values, part.quantity) for part in measured}
    error, freedom, basis = _over_seeds(measured, slopes) or _over_images(measured, slopes)
    p = None
    if error is not None and comparison.sign != "=":
        from scipy.stats import t

        p = float(2 * t.sf(abs(found[-1]) / error, freedom))
        # Two networks' shares of right images, and nothing else.
        alike = len(measured) == 2 and measured[0].pairing == measured[1].pairing
        if comparison.bare and alike and all(one.binary for one in measured):
            p, basis = mcnemar(measured[0].outcomes, measured[1].outcomes), f"{basis}; exact McNemar test"
    return Difference(*found, error, freedom, p, basis)


def mcnemar(one: np.ndarray, other: np.ndarray) -> float:
    """Two-sided p of the exact McNemar test: among images that one network alone gets right, half each by chance.

    Args:
        one, other: values (n,) of the same images, larger where right.
    """
    from scipy.stats import binomtest

    first, second = int((one > other).sum()), int((one < other).sum())
    return float(binomtest(first, first + second).pvalue) if first + second else 1.0


def _slope(comparison: Comparison, values: Mapping[Quantity, float], quantity: Quantity) -> float:
    """Derivative of the difference with respect to one quantity."""
    step = STEP * max(abs(values[quantity]), LEAST)
    above, below = (comparison.difference({**values, quantity: values[quantity] + move}) for move in (step, -step))
    return (above - below) / (2 * step)


_Test = tuple[float | None, float | None, str]
"""Standard error, degrees of freedom and basis of a `Difference`."""


def _over_seeds(measured: Sequence[Evidence], slopes: Mapping[Quantity, float]) -> _Test | None:
    """Welch's t-test, with the degrees of freedom of Welch and Satterthwaite; None where seeds are too few or alike."""
    counts = [len(part.values) for part in measured]
    if min(counts) < 2:
        return None
    shares = [slopes[part.quantity] ** 2 * float(np.var(part.values, ddof=1)) / len(part.values) for part in measured]
    variance = sum(shares)
    if _negligible(variance, measured, slopes):
        return None
    freedom = variance**2 / sum(share**2 / (count - 1) for share, count in zip(shares, counts, strict=True))
    return math.sqrt(variance), freedom, f"Welch's test over seeds ({', '.join(map(str, sorted(set(counts))))} each)"


def _over_images(measured: Sequence[Evidence], slopes: Mapping[Quantity, float]) -> _Test:
    """Paired over images within each group of a pairing; groups, and quantities without outcomes, are taken as
    independent."""
    groups: dict[Pairing | Quantity, list[Evidence]] = {}
    for part in measured:
        groups.setdefault(part.pairing or part.quantity, []).append(part)
    variances = [_variance(parts, slopes) for parts in groups.values()]
    if None in variances:
        return None, None, "no error is known"
    basis = "; ".join(dict.fromkeys(map(_basis, groups.values())))
    if _negligible(sum(variances), measured, slopes):
        return None, None, f"{basis}: without any spread, so no error is known"
    return math.sqrt(sum(variances)), math.inf, basis


def _negligible(variance: float, measured: Sequence[Evidence], slopes: Mapping[Quantity, float]) -> bool:
    """Whether a variance is that of the derivatives' rounding alone."""
    return math.sqrt(variance) <= STEP * max(abs(slopes[part.quantity] * part.value) for part in measured)


def _variance(parts: list[Evidence], slopes: Mapping[Quantity, float]) -> float | None:
    """Variance of a group's share in the difference; None where it is not known."""
    first = parts[0]
    if first.pairing is None:
        return None if first.standard_error is None else (slopes[first.quantity] * first.standard_error) ** 2
    influence = sum(slopes[part.quantity] * part.outcomes for part in parts)
    defined = influence[np.isfinite(influence)]
    # Where a metric is not defined on most samples, the others are no picture of all.
    if len(defined) < max(2, len(influence) / 2):
        return None
    return float(np.var(defined, ddof=1)) / (len(defined) if first.pairing.kind == "images" else 1)


def _basis(parts: list[Evidence]) -> str:
    pairing, counts = parts[0].pairing, sorted({len(part.values) for part in parts})
    seeds = " to ".join(map(str, dict.fromkeys((counts[0], counts[-1]))))
    trained = "one seed" if counts[-1] == 1 else f"means over {seeds} seeds, whose spread is left out"
    if pairing is None:
        timed = parts[0].quantity.task == "speed"
        return "error of repeated timing" if timed else f"unpaired errors of the metric files, {trained}"
    if pairing.kind == "images":
        return f"paired over {pairing.length:,} images, {trained}"
    images = f" of {pairing.images:,} images" if pairing.images else ""
    return f"paired over {pairing.length:,} bootstrap samples{images}, {trained}"
