"""The verdicts on the paper's claims, as `snakemake claims` writes them, in the order in which a page shows them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

SIGNS = {
    "holds": "✓",
    "fails": "✗",
    "within noise": "≈",
    "the paper's own numbers disagree": "≠",
    "not run": "–",
}
"""Every verdict with its sign, in the order of reading."""

MEANINGS = {
    "holds": "our numbers bear the statement out, beyond their noise",
    "fails": "our numbers contradict it, beyond their noise",
    "within noise": "the difference is smaller than what one training or one set of images can tell",
    "the paper's own numbers disagree": "the numbers that the paper prints do not bear it out",
    "not run": "what it speaks of was not measured at this scale",
}


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
        return style(self.verdict)


def style(verdict: str) -> str:
    """A verdict as a name for links and styles."""
    return "".join(letter if letter.isalnum() else "-" for letter in verdict)


def groups(content: Mapping[str, Any] | None) -> list[Group]:
    """Claims by verdict, empty groups left out.

    Raises:
        ValueError: a claim has a verdict that is none.
    """
    claims = content["claims"] if content else []
    unknown = sorted({str(claim["verdict"]) for claim in claims} - set(SIGNS))
    if unknown:
        raise ValueError(f"claims.json: unknown verdicts {', '.join(unknown)}; expected some of {', '.join(SIGNS)}")
    found = {verdict: tuple(claim for claim in claims if claim["verdict"] == verdict) for verdict in SIGNS}
    return [Group(name, SIGNS[name], MEANINGS[name], members) for name, members in found.items() if members]
