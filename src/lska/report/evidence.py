"""What lies behind a number, in words: a cell's state and values, and the facts of the metric files it was read from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from lska.tables.collect import Cell
from lska.tables.render import UNKNOWN, ours
from lska.tables.states import MEANING

Facts = list[tuple[str, str]]
"""Names with what is known, in the order of reading."""

SOURCES = {
    "printed": "printed in the paper",
    "derived": "follows by arithmetic from a printed statement",
    "computed": "not printed; counted on the official model code",
    "other-paper": "from another paper",
    "null": "not found",
}


def cell_facts(cell: Cell) -> Facts:
    """Everything known about a cell but its metric files."""
    facts = [("state", f"{cell.state}: {MEANING[cell.state]}")]
    facts += [("note", cell.note)] if cell.note else []
    facts += list(_value_facts(cell))
    if cell.paper is not None:
        facts.append(("paper", " ".join(part for part in (cell.paper, _unit(cell)) if part)))
        facts.append(("paper's source", source(cell)))
    else:
        facts.append(("paper", f"{UNKNOWN} (no value known)"))
    facts += [("data", ", ".join(cell.data))] if cell.data else []
    return facts + ([("measured with", cell.conditions)] if cell.conditions else [])


def _value_facts(cell: Cell) -> Iterator[tuple[str, str]]:
    if cell.value is None:
        return
    exact = f" (in full {cell.value:.10g})" if isinstance(cell.value, float) else ""
    yield "ours", " ".join(part for part in (ours(cell), _unit(cell)) if part) + exact
    if cell.standard_error is not None:
        yield "standard error", f"{cell.standard_error:.3g}"
    if cell.deviation is not None:
        yield "deviation over seeds", f"{cell.deviation:.3g}"
    if cell.low is not None and cell.high is not None:
        yield "quartiles", f"{cell.low:.6g} to {cell.high:.6g}"
    yield "runs", str(cell.n)


def _unit(cell: Cell) -> str:
    return "" if cell.unit in ("", "1") else cell.unit


def source(cell: Cell) -> str:
    """How the paper's value is known, in words."""
    kind, _, name = (cell.paper_source or "null").partition(":")
    words = SOURCES.get(kind, kind) + (f" ({name})" if name else "")
    return f"{words}; {cell.paper_detail}" if cell.paper_detail else words


def file_facts(content: Mapping[str, Any]) -> Facts:
    """Weights, recipe, data, code, environment and time of a metric file."""
    weights, data = content.get("weights") or {}, content.get("data") or {}
    where, code = content.get("environment") or {}, content.get("code") or {}
    device = " on ".join(str(where[key]) for key in ("device", "hardware") if where.get(key))
    known = {
        "weights": f"{weights.get('origin')}, MD5 {weights['md5']}" if weights.get("md5") else "none",
        "recipe": content.get("recipe"),
        "data": f"{data.get('name')}, {data.get('digest')}" if data else None,
        "commit": commit(code),
        "environment": where.get("lock"),
        "device": device,
        "when": when(content),
    }
    return [(name, str(value)) for name, value in known.items() if value]


def commit(code: Mapping[str, Any]) -> str:
    """The commit that measured, and whether its files had been changed."""
    if not code.get("commit"):
        return "unknown"
    return f"{code['commit']}{', with changes' if code.get('dirty') else ''}"


def when(content: Mapping[str, Any]) -> str:
    """Start and duration of a measurement."""
    started = str(content.get("started", ""))[:19].replace("T", " ")
    return f"{started} UTC, {float(content.get('seconds', 0)):.1f} s"


def place(path: Path) -> str:
    """The copy of a file of the results that is part of the site."""
    return f"files/{path.as_posix().partition('/')[2].partition('/')[2]}"
