"""The verdicts on the paper's claims, as `snakemake claims` writes them, in the order in which a page shows them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lska.claims.page import MARKS
from lska.claims.verdicts import MEANING, Verdict


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
