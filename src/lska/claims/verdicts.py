"""Does a claim hold at a scale? A verdict for each, with the numbers, runs and seeds behind it.

from lska.settings.scale import load
from lska.claims.verdicts import judge_claims
results = judge_claims(load([Path("config/demo.yaml")]))
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING

from lska.claims.claim_evidence import CONFIDENCE, Difference, Evidence, Unavailable, difference, evidence_of
from lska.claims.listing import CLAIMS, Claim, Comparison, Quantity, read_claims
from lska.tables.measurements import MetricFolder

if TYPE_CHECKING:
    from lska.settings.scale import Config

ROUNDING = 1e-9
"""Relative difference that counts as none: decimal fractions have no exact binary form."""


class Verdict(StrEnum):
    """Every claim has exactly one."""

    HOLDS = "holds"
    FAILS = "fails"
    NOISE = "within noise"
    NOT_RUN = "not run"
    DISAGREE = "the paper's own numbers disagree"


MARKS = {Verdict.HOLDS: "✓", Verdict.FAILS: "✗", Verdict.NOISE: "~", Verdict.NOT_RUN: "–", Verdict.DISAGREE: "!"}

MEANING = {
    Verdict.HOLDS: "every comparison comes out as stated: counts exactly, measurements beyond chance (5 %)",
    Verdict.FAILS: "a comparison comes out against the statement: counts exactly, measurements beyond chance (5 %)",
    Verdict.NOISE: "a measured difference is too close to the limit to tell, given its error, or no error is known",
    Verdict.NOT_RUN: "something that the statement needs was not measured at this scale, or cannot be compared",
    Verdict.DISAGREE: "the paper's numbers contradict the statement, or each other; what ours say stands beside it",
}


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


def judge_claims(config: Config, path: Path = CLAIMS, results: Path | None = None) -> tuple[Result, ...]:
    """Judge every claim by the metric files of a scale.

    Args:
        path: the list of claims.
        results: folder that holds `metrics/`; `config.results` where None.

    Raises:
        ValueError: the list or a metric file is faulty; names file and field.
    """
    folder = MetricFolder(config.scale, config.results if results is None else results)
    claims = read_claims(path)
    found: dict[Quantity, Evidence | str] = {}
    for quantity in dict.fromkeys(quantity for claim in claims for quantity in claim.quantities):
        try:
            found[quantity] = evidence_of(quantity, config, folder)
        except Unavailable as reason:
            found[quantity] = str(reason)
    shrunken = set(getattr(config, "architecture", {}))
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
    outcomes = tuple(
        Judgement(one, tolerance, gap, _unit(one, evidence), _verdict(one, gap, tolerance, tests))
        for one, tolerance, gap in (() if claim.data and missing else able)
    )
    missing += undefined
    verdict = combine([outcome.verdict for outcome in outcomes], complete=not missing)
    return Result(claim, verdict, outcomes, tuple(evidence.values()), tuple(dict.fromkeys(missing)))


def combine(verdicts: Iterable[Verdict], complete: bool) -> Verdict:
    """All comparisons have to hold: one that fails decides, and then what is missing."""
    found = set(verdicts)
    if Verdict.FAILS in found:
        return Verdict.FAILS
    if not complete or not found:
        return Verdict.NOT_RUN
    return Verdict.NOISE if Verdict.NOISE in found else Verdict.HOLDS


def _verdict(comparison: Comparison, found: Difference, tolerance: float, tests: int) -> Verdict:
    """One comparison. That one of several fails is asserted only beyond what chance gives all of them (Bonferroni)."""
    if found.exact:
        slack = ROUNDING * max(abs(found.left), abs(found.right), tolerance)
        right = abs(found.value) <= tolerance + slack if comparison.sign == "=" else found.value > slack
        return Verdict.HOLDS if right else Verdict.FAILS
    if found.standard_error is None:
        return Verdict.NOISE
    chance = 1 - CONFIDENCE
    if comparison.sign == "=":
        if max(map(abs, found.interval())) <= tolerance:
            return Verdict.HOLDS
        low, high = found.interval(1 - chance / tests)
        return Verdict.FAILS if low > tolerance or high < -tolerance else Verdict.NOISE
    if found.value > 0:
        return Verdict.HOLDS if found.p < chance else Verdict.NOISE
    return Verdict.FAILS if found.p < chance / tests else Verdict.NOISE


def _unit(comparison: Comparison, evidence: Mapping[Quantity, Evidence]) -> str:
    """Unit of a plain difference of one metric; a compound expression names its own."""
    units = {evidence[quantity].unit for quantity in comparison.quantities}
    plain = not any(symbol in comparison.text for symbol in (" * ", " / "))
    return units.pop() if plain and len(units) == 1 and units != {"1"} else ""
