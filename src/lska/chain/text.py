"""A chain as an indented tree for a terminal."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator, Mapping

from lska.chain.model import Chain, Link

WIDTH = 100
SHORT = 12
"""Digits of a digest or commit that are shown."""
LONGEST_NAME = 24
_LONG = re.compile(r"\b(sha256:)?([0-9a-f]{64}|[0-9a-f]{40})\b")


def to_text(chain: Chain, width: int = WIDTH) -> str:
    """The chain in lines of at most `width` characters, digests cut to twelve digits, and each file told once."""
    head = [f"{chain.title} ({chain.scale} scale)", f"{chain.row} / {chain.column}: {chain.shown}"]
    lines = [line for text in head for line in textwrap.wrap(text, width)]
    lines += _facts(chain.facts, "  ", width)
    told: set[str] = set()
    for number, link in enumerate(chain.links):
        lines += _lines(link, "", number + 1 == len(chain.links), width, told)
    return "\n".join(lines) + "\n"


def _lines(link: Link, indent: str, last: bool, width: int, told: set[str]) -> Iterator[str]:
    below, place = indent + ("   " if last else "│  "), "" if link.file is None else link.file.as_posix()
    content = f"{place} {list(link.facts.items())}"
    again = bool(place) and content in told
    told.add(content)
    words = [link.label, "" if place in link.label else place, "(as above)" if again else ""]
    yield f"{indent}{'└─ ' if last else '├─ '}{' '.join(filter(None, words))}"
    if again:
        return
    yield from _facts(link.facts, below + ("│  " if link.links else "   "), width)
    for number, inner in enumerate(link.links):
        yield from _lines(inner, below, number + 1 == len(link.links), width, told)


def _facts(facts: Mapping[str, str], indent: str, width: int) -> Iterator[str]:
    """`name  text`, the texts below each other; a text without a break is not cut."""
    column = min(LONGEST_NAME, max(map(len, facts), default=0)) + 2
    for name, text in facts.items():
        first, *more = textwrap.wrap(
            shortened(text),
            max(30, width - len(indent) - column),
            break_long_words=False,
            break_on_hyphens=False,
        ) or [""]
        yield f"{indent}{name:<{column}}{first}".rstrip()
        for line in more:
            yield f"{indent}{'':<{column}}{line}"


def shortened(text: str) -> str:
    """The text with digests and commits cut to `SHORT` digits."""
    return _LONG.sub(lambda found: (found[1] or "") + found[2][:SHORT], text)
