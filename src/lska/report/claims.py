"""The verdicts on the paper's claims, as `snakemake claims` writes them, in the order in which a page shows them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lska.claims.predicates import parse
from lska.claims.verdicts import MARKS, MEANING, Verdict


@dataclass(frozen=True)
class Group:
    """All claims with one verdict."""

    verdict: str
    sign: str
    meaning: str
    claims: tuple[Mapping[str, Any], ...]

    @property
    def anchor(self) -> str:
        """The verdict as a name for links and styles."""
        return "".join(letter if letter.isalnum() else "-" for letter in self.verdict)

    @property
    def rounded(self) -> int:
        """How many of the claims the paper's rounded numbers agree with."""
        return sum(claim["paper_numbers"] == ROUNDED for claim in self.claims)

    def of(self, kind: str) -> int:
        """How many of the claims are of a kind."""
        return sum(kind_of(claim) == kind for claim in self.claims)


ROUNDED = "agree when rounded"
COUNTED, MEASURED, UNTESTABLE = "counted", "measured", "not testable"
KINDS = {
    COUNTED: "from the paper's own architectures, without data",
    MEASURED: "on the networks and data of this scale",
    UNTESTABLE: "about networks or numbers that this project does not have",
}


def kind_of(claim: Mapping[str, Any]) -> str:
    """What a claim's verdict rests on, one of `KINDS`.

    Raises:
        ValueError: its predicate cannot be read.
    """
    if not claim["predicate"]:
        return UNTESTABLE
    quantities = (quantity for one in parse(claim["predicate"]) for quantity in one.quantities)
    return COUNTED if all(quantity.counted for quantity in quantities) else MEASURED


def kinds(content: Mapping[str, Any] | None) -> dict[str, str]:
    """The kinds of claims that occur, with their meaning."""
    found = {kind_of(claim) for claim in content["claims"]} if content else set()
    return {kind: meaning for kind, meaning in KINDS.items() if kind in found}


def groups(content: Mapping[str, Any] | None) -> list[Group]:
    """Claims by verdict, empty groups left out.

    Raises:
        ValueError: a claim has a verdict that is none.
    """
    claims = content["claims"] if content else []
    unknown = sorted({str(claim["verdict"]) for claim in claims} - set(Verdict))
    if unknown:
        raise ValueError(f"claims.json: unknown verdicts {', '.join(unknown)}; expected some of {', '.join(Verdict)}")
    found = {verdict: tuple(claim for claim in claims if claim["verdict"] == verdict) for verdict in Verdict}
    return [Group(str(name), MARKS[name], MEANING[name], members) for name, members in found.items() if members]
