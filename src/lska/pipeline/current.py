"""Which results are current, and why the others are made again: one pure function of what files say.

A result is current while it is there, what it says it was made of is what today's configuration asks for, and what it
was made of is current. Times of files decide nothing: a clone gives them in arbitrary order.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Product:
    """What one job makes, as its files and the configuration have it."""

    files: tuple[Path, ...] = ()
    """Places of everything that is made with it."""
    stale: str | None = None
    """Why it is not what today's configuration gives: missing, damaged, or made of something else."""
    lost: str | None = None
    """What of it is not here although nothing is wrong with it, so that it is made only for something that reads it."""
    exact: bool = True
    """Whether a lost one is made as it was, so that what was made of it stays current: generated images, published
    weights; not weights that are trained once more."""
    reads: tuple[str, ...] = ()
    """The products that it is made of, by name."""
    follows: tuple[str, ...] = ()
    """Those of them with which it becomes stale."""


def pending(products: Mapping[str, Product]) -> dict[str, str]:
    """The products that are to be made, each with the reason.

    Args:
        products: by name, `<kind>/<name>`; every name in `reads` and `follows` is one of them.
    """
    reasons = {name: one.stale for name, one in products.items() if one.stale is not None}
    changing = set(reasons)
    while True:
        before = len(reasons), len(changing)
        wanted = {read for name in reasons for read in products[name].reads}
        for name, one in products.items():
            source = next((source for source in one.follows if source in changing), None)
            if source is not None:
                reasons.setdefault(name, f"its {source.partition('/')[0]} are to be made anew")
                changing.add(name)
            elif one.lost is not None and name in wanted:
                reasons.setdefault(name, one.lost)
                changing |= set() if one.exact else {name}
        if (len(reasons), len(changing)) == before:
            return reasons
