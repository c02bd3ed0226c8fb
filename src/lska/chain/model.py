"""The parts of a chain: what is known at each link, in words."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

Kind = Literal["paper", "metric", "weights", "backbone", "chooser", "recipe", "differences", "data"]


@dataclass(frozen=True)
class Link:
    """One thing that a number rests on, and what that rests on in turn."""

    kind: Kind
    label: str
    """Words for a reader, such as `metric file`."""
    facts: Mapping[str, str]
    """Name to text, in the order in which they are read; digests are in full."""
    file: Path | None = None
    """The file that says so, if there is one."""
    links: tuple[Link, ...] = ()

    def walk(self) -> Iterator[Link]:
        """This link and all below it, from the number to its origins."""
        yield self
        for link in self.links:
            yield from link.walk()


@dataclass(frozen=True)
class Chain:
    """Everything behind one cell. `shown` is its text in the tables, `facts` what is known of the cell itself."""

    target: str
    title: str
    """Number and title of the table or figure."""
    scale: str
    row: str
    column: str
    shown: str
    state: str
    facts: Mapping[str, str] = field(default_factory=dict)
    links: tuple[Link, ...] = ()

    def walk(self) -> Iterator[Link]:
        """Every link, from the number to its origins."""
        for link in self.links:
            yield from link.walk()


def to_json(chain: Chain) -> dict[str, Any]:
    """Plain values for scripts: the fields of the chain, links within links; paths as text."""
    names = ("target", "title", "scale", "row", "column", "shown", "state")
    return {
        **{name: getattr(chain, name) for name in names},
        "facts": dict(chain.facts),
        "links": [_link(link) for link in chain.links],
    }


def _link(link: Link) -> dict[str, Any]:
    return {
        "kind": link.kind,
        "label": link.label,
        "file": None if link.file is None else link.file.as_posix(),
        "facts": dict(link.facts),
        "links": [_link(below) for below in link.links],
    }
