"""Does a claim hold at a scale? A verdict for each, with the numbers, runs and seeds behind it.

from lska.settings.scale import load
from lska.claims.verdicts import judge_claims
results = judge_claims(load([Path("config/demo.yaml")]))

Two spreads tell a difference from noise. That over images: networks are scored on the same images, so the values of an
image are compared with each other, which removes what makes an image easy or hard for all. That between trainings: two
or three seeds of one network say little about it, so it is taken as the same for all networks that a scale has of a
task, and pooled over those with several seeds. Both count, for networks with one seed too; where none has several, that
over images alone. The basis of each test says on what it rests. The error of a compound quantity, such as a quotient of
two metrics, follows from its derivatives (the delta method). Observations that do not differ from each other at all, as
whole numbers may over a few seeds, do not show that there is no error: it is not known then.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from lska.claims.listing import CLAIMS, Claim, Comparison, Quantity, claim_runs, parse, read_claims, repeated_runs
from lska.models.runs import Run
from lska.provenance.metric_files import outcomes_path
from lska.provenance.outcomes import Outcomes, read_outcomes
from lska.tables.measurements import Measurement, MetricFolder, measurement_of

if TYPE_CHECKING:
    from lska.settings.scale import Config

PAIRED = ("images", "samples")
"""Kinds of outcomes that two networks are compared by, item by item."""
MEDIAN_ERROR = 1.2533 / 1.349
"""Standard error of a median times sqrt(n), in units of the distance of the quartiles, for normal observations."""
CONFIDENCE = 0.95
POWER = 0.8
"""Probability with which a difference has to be found that a test is said to see."""
STEP = 1e-6
"""Relative step of the numerical derivatives."""
LEAST = 1e-3
"""Values closer to zero than this have the step of this one: a smaller one would be lost in rounding."""
ALIKE = 1e-9
"""Relative difference that counts as none: decimal fractions have no exact binary form."""
PRINTED_STEPS = {"params": 1e5, "flops": 1e8}
"""Counts are printed in steps of 0.1 M parameters and 0.1 GFLOPs."""


class Verdict(StrEnum):
    """Every claim has exactly one."""

    HOLDS = "holds"
    CONTRADICTED = "contradicted"
    ROUNDING = "differs only by the paper's rounding"
    NOISE = "within noise"
    NOT_RUN = "not run"
    DISAGREE = "the paper's own numbers disagree"


MARKS = {
    Verdict.HOLDS: "✓", Verdict.CONTRADICTED: "✗", Verdict.ROUNDING: "≈", Verdict.NOISE: "~", Verdict.NOT_RUN: "–",
    Verdict.DISAGREE: "!",
}  # fmt: skip

MEANING = {
    Verdict.HOLDS: "every comparison comes out as stated: counts exactly, measurements beyond chance (5 %)",
    Verdict.CONTRADICTED: "a comparison comes out against it: counts exactly, measurements beyond chance (5 %)",
    Verdict.ROUNDING: "the paper calculated with rounded or cut counts; with exact counts the number is another",
    Verdict.NOISE: "a measured difference is too close to the limit to tell, given its error, or no error is known",
    Verdict.NOT_RUN: "something that the statement needs was not measured at this scale, or cannot be compared",
    Verdict.DISAGREE: "the paper's numbers contradict the statement, or each other; what ours say stands beside it",
}


class Unavailable(Exception):
    """A quantity that a scale does not have; the text says why."""


class Pairing(NamedTuple):
    """What makes outcomes comparable item by item: the same task, images, protocol and kind of outcomes."""

    task: str
    data: str
    """Digest of the data set."""
    protocol: str
    kind: str
    """`images`: one value per image, whose mean is the metric; `samples`: one value per bootstrap sample."""
    length: int
    images: int | None = None
    """Number of images behind the outcomes, where the metric files tell it: fewer where a network skipped some, whose
    samples are others."""


def deviations(values: Mapping[Run, float]) -> dict[Run, float]:
    """How far the runs of networks with several seeds are from the mean over their network's seeds."""
    seeds: dict[Run, list[float]] = {}
    for run, value in values.items():
        seeds.setdefault(run.with_seed(0), []).append(value)
    means = {network: math.fsum(found) / len(found) for network, found in seeds.items() if len(found) > 1}
    return {run: value - means[run.with_seed(0)] for run, value in values.items() if run.with_seed(0) in means}


def networks_and_freedom(runs: Collection[Run]) -> tuple[int, int]:
    """The number of their networks, and that of the degrees of freedom of deviations from these networks' means."""
    networks = len({run.with_seed(0) for run in runs})
    return networks, len(runs) - networks


@dataclass(frozen=True, eq=False)
class Evidence:
    """A quantity as measured at a scale, in the unit of its metric files.

    `value` is the mean over seeds and `values` has one entry per seed. `outcomes` (length of the pairing,) are means
    over seeds too. Where there are none, `standard_error` may be known from the metric files alone; both None: unknown.
    `deviations` are those of the metric at all trainings of the scale's networks with several seeds.
    """

    quantity: Quantity
    runs: tuple[Run, ...]
    values: tuple[float, ...]
    unit: str
    n: int | None
    standard_error: float | None
    deviations: Mapping[Run, float]
    pairing: Pairing | None
    outcomes: np.ndarray | None
    data: tuple[str, ...]
    devices: tuple[str, ...]
    files: tuple[Path, ...]

    @property
    def value(self) -> float:
        """Mean over seeds."""
        return math.fsum(self.values) / len(self.values)

    @property
    def binary(self) -> bool:
        """Whether each image is right or wrong (0 or 100), and one seed measured."""
        of_images = self.pairing is not None and self.pairing.kind == "images"
        return of_images and bool(np.isin(self.outcomes, (0, 100)).all())


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

    def detectable(self, power: float = POWER) -> float | None:
        """The smallest difference that such a test finds with the probability `power`; None where there is no test."""
        from scipy.stats import t

        if self.p is None:
            return None
        return float(t.ppf((1 + CONFIDENCE) / 2, self.freedom) + t.ppf(power, self.freedom)) * self.standard_error


@dataclass(frozen=True)
class Judgement:
    """One comparison with what it comes to."""

    comparison: Comparison
    tolerance: float
    difference: Difference
    unit: str
    verdict: Verdict


@dataclass(frozen=True)
class Result:
    """A claim at a scale."""

    claim: Claim
    measured: Verdict
    """What our numbers say; never `DISAGREE`."""
    outcomes: tuple[Judgement, ...]
    evidence: tuple[Evidence, ...]
    missing: tuple[str, ...]
    """What was not measured, or why it cannot be compared."""

    @property
    def verdict(self) -> Verdict:
        """`measured`, unless the paper contradicts itself."""
        return Verdict.DISAGREE if self.claim.paper_numbers == "disagree" else self.measured

    @property
    def basis(self) -> str:
        """What the tests rest on."""
        return "; ".join(dict.fromkeys(outcome.difference.basis for outcome in self.outcomes))


def judge_claims(config: Config, path: Path = CLAIMS) -> tuple[Result, ...]:
    """Judge every claim of the list `path` by the metric files of a scale.

    Raises:
        ValueError: the list or a metric file is faulty; names file and field.
    """
    claims, measured = read_claims(path), Numbers(config)
    found: dict[Quantity, Evidence | str] = {}
    for quantity in dict.fromkeys(quantity for claim in claims for quantity in claim.quantities):
        try:
            found[quantity] = measured.evidence(quantity)
        except Unavailable as reason:
            found[quantity] = str(reason)
    shrunken = set(config.architecture)
    return tuple(judge_claim(claim, {one: found[one] for one in claim.quantities}, shrunken) for claim in claims)


def judge_claim(claim: Claim, found: Mapping[Quantity, Evidence | str], shrunken: Iterable[str] = ()) -> Result:
    """The verdict on one claim.

    Args:
        found: evidence of each of its quantities, or why there is none.
        shrunken: models whose architecture is not the paper's, which published numbers say nothing about.
    """
    evidence = {quantity: part for quantity, part in found.items() if isinstance(part, Evidence)}
    missing = [part for part in found.values() if isinstance(part, str)]
    # Numbers that the paper or others published are compared with nothing else than what they are of.
    measured = [part for part in evidence.values() if not part.quantity.counted] if claim.data else []
    others = sorted({name for part in measured for name in part.data} - {claim.data})
    small = sorted({run.model for part in measured for run in part.runs} & set(shrunken))
    if others:
        missing.append(f"compares with numbers published for {claim.data}; measured here: {', '.join(others)}")
    if small:
        missing.append(f"compares with published numbers; shrunken here: {', '.join(small)}")
    if not claim.comparisons:
        missing.append(claim.note)
    able, undefined = [], []
    for one, tolerance in zip(claim.comparisons, claim.tolerances, strict=True):
        if not all(quantity in evidence for quantity in one.quantities):
            continue
        timed = (evidence[quantity].devices for quantity in one.quantities if quantity.task == "speed")
        devices = dict.fromkeys(name for names in timed for name in names)
        if len(devices) > 1:
            undefined.append(f"{one.text}: speeds of different hardware ({', '.join(devices)})")
            continue
        try:
            able.append((one, tolerance, difference(one, evidence)))
        except ZeroDivisionError:
            undefined.append(f"{one.text}: divides by zero")
    tests = sum(not gap.exact for _, _, gap in able)
    outcomes = []
    for one, tolerance, gap in () if claim.data and missing else able:
        verdict = _verdict(one, gap, tolerance, tests)
        if verdict is Verdict.CONTRADICTED and claim.paper_numbers == "agree when rounded":
            verdict = Verdict.ROUNDING if _within_rounding(one, evidence, tolerance) else verdict
        outcomes.append(Judgement(one, tolerance, gap, _unit(one, evidence), verdict))
    missing += undefined
    verdict = combine([outcome.verdict for outcome in outcomes], complete=not missing)
    return Result(claim, verdict, tuple(outcomes), tuple(evidence.values()), tuple(dict.fromkeys(missing)))


def combine(verdicts: Iterable[Verdict], complete: bool) -> Verdict:
    """All comparisons have to hold: a contradicted one decides, then what is missing, then the paper's rounding."""
    found = set(verdicts)
    if Verdict.CONTRADICTED in found:
        return Verdict.CONTRADICTED
    if not complete or not found:
        return Verdict.NOT_RUN
    return next((one for one in (Verdict.ROUNDING, Verdict.NOISE) if one in found), Verdict.HOLDS)


def _verdict(comparison: Comparison, found: Difference, tolerance: float, tests: int) -> Verdict:
    """One comparison. One of several is contradicted only beyond what chance gives all of them (Bonferroni)."""
    if found.exact:
        slack = ALIKE * max(abs(found.left), abs(found.right), tolerance)
        right = abs(found.value) <= tolerance + slack if comparison.sign == "=" else found.value > slack
        return Verdict.HOLDS if right else Verdict.CONTRADICTED
    if found.standard_error is None:
        return Verdict.NOISE
    chance = 1 - CONFIDENCE
    if comparison.sign == "=":
        if max(map(abs, found.interval())) <= tolerance:
            return Verdict.HOLDS
        low, high = found.interval(1 - chance / tests)
        return Verdict.CONTRADICTED if low > tolerance or high < -tolerance else Verdict.NOISE
    if found.value > 0:
        return Verdict.HOLDS if found.p < chance else Verdict.NOISE
    return Verdict.CONTRADICTED if found.p < chance / tests else Verdict.NOISE


def _within_rounding(comparison: Comparison, evidence: Mapping[Quantity, Evidence], tolerance: float) -> bool:
    """Whether a comparison of counts would come out if each were at most one printed step larger or smaller."""
    ranges = []
    for quantity in comparison.quantities:
        step = PRINTED_STEPS.get(quantity.metric.partition("_")[0])
        if step is None or not quantity.counted:
            return False
        # Those of detectors and segmentors are printed in whole GFLOPs.
        step *= 10 if "/" in quantity.task and step == PRINTED_STEPS["flops"] else 1
        value = evidence[quantity].value
        ranges.append([(quantity, value + move) for move in (-step, 0, step)])
    found = [comparison.difference(dict(values)) for values in itertools.product(*ranges)]
    return max(found) > 0 if comparison.sign != "=" else min(found) <= tolerance and max(found) >= -tolerance


def _unit(comparison: Comparison, evidence: Mapping[Quantity, Evidence]) -> str:
    """Unit of a plain difference of one metric; a compound expression names its own."""
    units = {evidence[quantity].unit for quantity in comparison.quantities}
    plain = not any(symbol in comparison.text for symbol in (" * ", " / "))
    return units.pop() if plain and len(units) == 1 and units != {"1"} else ""


# The numbers behind a claim.


class Numbers:
    """A scale's metric files as evidence."""

    def __init__(self, config: Config) -> None:
        self.config, self.folder = config, MetricFolder(config.scale, config.results)
        self.deviations = functools.cache(self._deviations)

    def evidence(self, quantity: Quantity) -> Evidence:
        """Read the metric files and outcomes of a quantity.

        Raises:
            Unavailable: the scale has no such run, or it was not measured (yet), or the metric has no value.
            ValueError: a file is faulty; names it.
        """
        runs = claim_runs(quantity, self.config)
        if not runs:
            raise Unavailable(f"scale {self.config.scale} has no {quantity.task} of {quantity.network}")
        found, contents, paired = [], {}, []
        for run in runs:
            path = self.folder.path(quantity.task, run)
            try:
                contents[path] = content = self.folder.read(quantity.task, run)
            except FileNotFoundError as error:
                raise Unavailable(f"{quantity.task} of {run}: not measured yet") from error
            found.append(measurement_of(content, quantity.metric, path, nullable=True))
            if found[-1].value is None:
                raise Unavailable(f"{quantity}: without a value in {path.as_posix()}")
            paired.append(_outcomes(quantity, content, path))
        pairings = {pairing for pairing, _ in paired}
        pairing = pairings.pop() if len(pairings) == 1 else None
        hardware = (str(content["environment"].get("hardware", "unknown")) for content in contents.values())
        return Evidence(
            quantity=quantity,
            runs=runs,
            values=tuple(float(one.value) for one in found),
            unit=found[0].unit,
            n=next((one.n for one in found if one.n is not None), None),
            standard_error=_sampling_error(quantity, found),
            deviations={} if quantity.counted else self.deviations(quantity.task, quantity.metric),
            pairing=pairing,
            outcomes=None if pairing is None else np.mean([values for _, values in paired], axis=0),
            data=tuple(dict.fromkeys(one.data for one in found if one.data is not None)),
            devices=tuple(dict.fromkeys(hardware)),
            files=tuple(contents),
        )

    def difference(self, predicate: str) -> tuple[Difference, list[Evidence]]:
        """What a predicate of one comparison comes to, and its quantities in the order in which they stand.

        Raises:
            Unavailable: a quantity was not measured (yet).
            ValueError: the predicate or a metric file is faulty.
        """
        (comparison,) = parse(predicate)
        evidence = {quantity: self.evidence(quantity) for quantity in comparison.quantities}
        return difference(comparison, evidence), list(evidence.values())

    def _deviations(self, task: str, metric: str) -> dict[Run, float]:
        """Those of all networks of a task, as far as they are measured."""
        values = {}
        for run in repeated_runs(task, self.config):
            with contextlib.suppress(FileNotFoundError):
                value = self.folder.measurement(task, run, metric, nullable=True).value
                if value is not None:
                    values[run] = float(value)
        return deviations(values)


def _outcomes(quantity: Quantity, content: Mapping[str, Any], path: Path) -> tuple[Pairing | None, np.ndarray]:
    """The outcomes of one seed; no pairing where its metric file has none of the metric."""
    kept = read_outcomes(outcomes_path(path), content["outcomes"]) if content.get("outcomes") else Outcomes()
    for kind in PAIRED:
        values = getattr(kept, kind).get(quantity.metric)
        if values is not None:
            detail, data = content.get("detail", {}), content["data"] or {}
            # `n` of a metric is that of its observations, for dimensions of pairs of images.
            observed = detail.get("images", content["metrics"][quantity.metric].get("n"))
            images = len(values) if kind == "images" else observed
            protocol, digest = str(detail.get("protocol", "")), str(data.get("digest"))
            return Pairing(quantity.task, digest, protocol, kind, len(values), images), values
    return None, np.empty(0)


def _sampling_error(quantity: Quantity, found: Sequence[Measurement]) -> float | None:
    """That of the metric files, which seeds on the same images do not reduce; None where one is not known."""
    if quantity.counted:
        return 0.0
    errors = [
        MEDIAN_ERROR * (one.interval[1] - one.interval[0]) / math.sqrt(one.n)
        if quantity.task == "speed" and one.interval and one.n
        else one.standard_error
        for one in found
    ]
    return None if None in errors else math.sqrt(sum(error**2 for error in errors) / len(errors))


# A difference and its error.


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
    slopes = {}
    for quantity in (part.quantity for part in measured):
        step = STEP * max(abs(values[quantity]), LEAST)
        above, below = (comparison.difference({**values, quantity: values[quantity] + move}) for move in (step, -step))
        slopes[quantity] = (above - below) / (2 * step)
    images, basis = _over_images(measured, slopes)
    error, freedom = images, None if images is None else math.inf
    between = _over_seeds(measured, slopes)
    if between:
        seeds, freedom, trained = between
        basis = trained if images is None else f"{trained}, and {basis}"
        # What differs between seeds on single images is in both, so the sum is rather too large.
        error = math.hypot(seeds, images or 0.0)
        freedom *= (error / seeds) ** 4
    elif images is not None and any(part.quantity.task != "speed" for part in measured):
        basis = f"{basis}, {_left_out(measured)}"
    p = None
    if error is not None and comparison.sign != "=":
        from scipy.stats import t

        p = float(2 * t.sf(abs(found[-1]) / error, freedom))
        # Two networks' shares of right images, and nothing else.
        alike = len(measured) == 2 and measured[0].pairing == measured[1].pairing
        if not between and comparison.bare and alike and all(one.binary for one in measured):
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


def _over_seeds(measured: Sequence[Evidence], slopes: Mapping[Quantity, float]) -> tuple[float, float, str] | None:
    """Standard error, degrees of freedom (Satterthwaite) and words; None where seeds are too few or alike.

    Metrics of one network and task are of the same trainings, and are added up before their spread is taken; tasks are
    taken as independent.
    """
    tasks: dict[str, dict[str, list[Evidence]]] = {}
    for part in measured:
        tasks.setdefault(part.quantity.task, {}).setdefault(part.quantity.network, []).append(part)
    variances, freedoms, counts = [], [], set()
    for networks in tasks.values():
        every = [part for parts in networks.values() for part in parts]
        runs = [run for run in every[0].deviations if all(run in part.deviations for part in every)]
        count, freedom = networks_and_freedom(runs)
        if not freedom:
            return None
        variance = 0.0
        for parts in networks.values():
            added = [math.fsum(slopes[part.quantity] * part.deviations[run] for part in parts) for run in runs]
            variance += math.fsum(value**2 for value in added) / freedom / len(parts[0].values)
        variances.append(variance)
        freedoms.append(freedom)
        counts.add(count)
    total = sum(variances)
    if _negligible(total, measured, slopes):
        return None
    freedom = total**2 / sum(one**2 / degrees for one, degrees in zip(variances, freedoms, strict=True))
    said = " and ".join(f"{count} network{'s' if count > 1 else ''}" for count in sorted(counts))
    return math.sqrt(total), freedom, f"spread over the seeds of {said}"


def _left_out(measured: Sequence[Evidence]) -> str:
    """What is said of the trainings where their spread does not count."""
    counts = sorted({len(part.values) for part in measured})
    seeds = " to ".join(map(str, dict.fromkeys((counts[0], counts[-1]))))
    return "one seed" if counts[-1] == 1 else f"means over {seeds} seeds, whose spread is left out"


def _over_images(measured: Sequence[Evidence], slopes: Mapping[Quantity, float]) -> tuple[float | None, str]:
    """Standard error and words: paired over images within each group of a pairing; groups, and quantities without
    outcomes, are taken as independent."""
    groups: dict[Pairing | Quantity, list[Evidence]] = {}
    for part in measured:
        groups.setdefault(part.pairing or part.quantity, []).append(part)
    variance, bases = 0.0, []
    for parts in groups.values():
        first, pairing = parts[0], parts[0].pairing
        if pairing is None:
            if first.standard_error is None:
                return None, "no error is known"
            variance += (slopes[first.quantity] * first.standard_error) ** 2
            timed = first.quantity.task == "speed"
            bases.append("error of repeated timing" if timed else "unpaired errors of the metric files")
            continue
        influence = sum(slopes[part.quantity] * part.outcomes for part in parts)
        defined = influence[np.isfinite(influence)]
        # Where a metric is not defined on most samples, the others are no picture of all.
        if len(defined) < max(2, len(influence) / 2):
            return None, "no error is known"
        spread = float(np.var(defined, ddof=1))
        if pairing.kind == "images":
            variance += spread / len(defined)
            bases.append(f"paired over {pairing.length:,} images")
        else:
            variance += spread
            images = f" of {pairing.images:,} images" if pairing.images else ""
            bases.append(f"paired over {pairing.length:,} bootstrap samples{images}")
    basis = "; ".join(dict.fromkeys(bases))
    if _negligible(variance, measured, slopes):
        return None, f"{basis}: without any spread, so no error is known"
    return math.sqrt(variance), basis


def _negligible(variance: float, measured: Sequence[Evidence], slopes: Mapping[Quantity, float]) -> bool:
    """Whether a variance is that of the derivatives' rounding alone."""
    return math.sqrt(variance) <= STEP * max(abs(slopes[part.quantity] * part.value) for part in measured)
