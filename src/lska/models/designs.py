"""The attentions of VAN, one entry each: all that lists, builds or names them asks here. Imports nothing heavy.

A new one is a class in a file of its own and an entry below (docs/extend.md, "Another attention").
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lska.provenance.errors import InputError


@dataclass(frozen=True)
class AttentionDesign:
    """What is known of an attention without building it."""

    label: str
    """What tables and figures call it."""
    unit: str
    """Its gating unit, `<module of lska.models>.<class>`: called with `(channels, kernel_size)`, it is an `nn.Module`
    from (B, C, H, W) to the same shape."""
    version: int = 1
    """Raised whenever the unit gives something else than before for equal weights and images, or other first weights:
    all that was trained or measured with it is then made anew, and nothing else is."""


ATTENTIONS = {
    "lka_trivial": AttentionDesign("LKA-trivial", "gating_units.TrivialLKA"),
    "lska_trivial": AttentionDesign("LSKA-trivial", "gating_units.TrivialLSKA"),
    "lka": AttentionDesign("LKA", "gating_units.LKA"),
    "lska": AttentionDesign("LSKA", "gating_units.LSKA"),
    "slak": AttentionDesign("SLaK-decomposed", "gating_units.DecomposedUnit"),
    "slak_sparse": AttentionDesign("SLaK-sparse-decomposed", "gating_units.SparseDecomposedUnit"),
}
"""By name, of a-z, 0-9 and _, as run ids, configurations and specs have it; in the order of tables."""


def check_attention(attention: str) -> None:
    """Raise ValueError, naming the possible ones, unless ``attention`` is one of ``ATTENTIONS``."""
    if attention not in ATTENTIONS:
        raise InputError(f"attention: expected one of {', '.join(ATTENTIONS)}; found {attention!r}")


def attention_version(attention: str | None) -> dict[str, int]:
    """The version of an attention, for what is kept with results; empty at version 1, and for what is none of them.

    What came before versions were kept is of version 1, and stays what it is.
    """
    design = ATTENTIONS.get(attention)
    return {} if design is None or design.version == 1 else {"attention_version": design.version}


def other_attention(kept: Mapping[str, Any], attention: str | None) -> str | None:
    """Which version of an attention a result was made with, by what is kept with it, if it is another than today's."""
    if attention is None or (before := kept.get("attention_version", 1)) == ATTENTIONS[attention].version:
        return None
    return f"version {before} of {attention}, which is at version {ATTENTIONS[attention].version}"
