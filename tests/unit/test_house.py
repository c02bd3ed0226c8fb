"""The house: rooms import only those below them, and a name of the package stands for one thing."""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

import lska

PACKAGE = Path(lska.__file__).parent
ROOT = PACKAGE.parents[1]
ROOMS = (
    *("provenance", "models", "settings", "data", "train", "evaluate", "tables", "claims", "audit", "report"),
    *("pipeline", "cli"),
)
"""From the lowest to the highest; docs/architecture.md says what each may know."""


def modules() -> Iterator[tuple[str, Path, ast.Module]]:
    """Every module of the package with its name below `lska.`, place and syntax tree."""
    for path in sorted(PACKAGE.rglob("*.py")):
        yield ".".join(path.relative_to(PACKAGE).with_suffix("").parts), path, ast.parse(path.read_text("utf-8"))


def imported(tree: ast.Module) -> Iterator[str]:
    """What a module imports of this package, wherever in it, as `room.module`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "lska":
            inner = node.module.partition(".")[2]
            yield from (f"{inner}.{alias.name}".strip(".") for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[2] for alias in node.names if alias.name.startswith("lska."))


def test_rooms_import_only_those_below_them() -> None:
    upwards, strangers = [], set()
    for name, _, tree in modules():
        room = name.partition(".")[0]
        if room in ("__init__", "__main__"):
            continue
        strangers |= {room} - set(ROOMS)
        for target in imported(tree):
            other = target.partition(".")[0]
            if other in ROOMS and room in ROOMS and ROOMS.index(other) > ROOMS.index(room):
                upwards.append(f"{name} -> {target}")
    assert not strangers, f"no rooms: {sorted(strangers)}"
    assert not upwards, "\n".join(upwards)


SHARED = {
    "checkpoint_filter_fn",  # what timm asks of a module of networks
}
"""Names that several modules may have."""


@pytest.mark.parametrize("kind", ["module", "class", "function"])
def test_a_name_stands_for_one_thing(kind: str) -> None:
    places = defaultdict(list)
    for name, path, tree in modules():
        if kind == "module" and path.stem not in ("__init__", "__main__"):
            places[path.stem].append(name)
        types = {"class": ast.ClassDef, "function": ast.FunctionDef}.get(kind, ())
        for node in tree.body:
            if isinstance(node, types) and not node.name.startswith("_"):
                places[node.name].append(name)
    twice = {name: where for name, where in places.items() if len(where) > 1 and name not in SHARED}
    assert not twice, "\n".join(f"{name}: {', '.join(where)}" for name, where in sorted(twice.items()))


def test_one_place_uses_what_snakemake_keeps_to_itself() -> None:
    """Inside Snakemake the DAG is private: test_plan has a stale result made again, which fails if that changes."""
    files = [ROOT / "Snakefile", *sorted((ROOT / "workflow" / "rules").glob("*.smk"))]
    lines = [line.strip() for file in files for line in file.read_text("utf-8").splitlines()]
    uses = [line for line in lines if re.search(r"\.dag\.", line)]
    assert uses == ["workflow.dag.forcefiles.update(PLAN.existing(*names))"]
