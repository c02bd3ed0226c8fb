"""The workflow's rules: which there are, how many jobs of each, what waits for what; and their picture."""

from __future__ import annotations

import json
import os
import re
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lska.commands import ask
from lska.config import Config
from lska.files import read_yaml, write_json
from lska.report import graph_path
from lska.strict import merge

TARGET = "report"
"""The rule behind which all others are."""

OWN_FOLDERS = ("results", "checkpoints", "work")
"""What the workflow writes: absent where everything is planned from nothing."""

_SNAKEMAKE_SECONDS = 3600.0

LAST_WORDS = 2000
"""Letters of what a failed Snakemake said that are passed on."""

ROW, GAP, LAYER = 34, 14, 64
"""Pixels: height of a box, least distance between boxes, and between layers."""
LETTER, PADDING = 7.2, 24
"""Pixels: width of a letter, and what a box adds to its text."""

NOTEBOOK = r"notebook_(table|figure)_\w+$"
DERIVED = " (derived)"
"""What is added to the name of a rule for jobs that wait for others of the same rule."""


class GraphError(RuntimeError):
    """Snakemake did not say what its rules are; the message has its words."""


def write_graph(config: Config, files: Iterable[Path], overrides: Mapping[str, Any]) -> Path:
    """Write the graph of all rules behind the site of a scale, whose configuration `files` and `overrides` give.

    Raises:
        GraphError: as `workflow_graph`.
    """
    merged: dict[str, Any] = {}
    for path in files:
        merged = merge(merged, read_yaml(path))
    path = graph_path(config.results)
    write_json(path, workflow_graph(merge(merged, overrides), TARGET))
    return path


def workflow_graph(values: Mapping[str, Any], target: str) -> dict[str, Any]:
    """Ask Snakemake for all jobs behind `target`, as if nothing had been made yet.

    Args:
        values: the merged configuration of the scale.

    Returns:
        `jobs`: number of jobs by rule; `edges`: pairs of rules, the second waiting for the first; `targets`: jobs by
        rule behind each table and figure.

    Raises:
        GraphError: Snakemake failed, or there are more jobs than it prints.
    """
    with tempfile.TemporaryDirectory(prefix="lska-") as folder:
        for entry in sorted(Path.cwd().iterdir()):
            if entry.name not in OWN_FOLDERS and not entry.name.startswith("."):
                (Path(folder) / entry.name).symlink_to(entry)
        config = Path(folder) / ".config.json"
        config.write_text(json.dumps(dict(values)), encoding="utf-8")
        return summarized(_dag(Path(folder), config, target))


def _dag(folder: Path, config: Path, target: str) -> dict[str, Any]:
    command = [sys.executable, "-m", "snakemake", "--configfile", config.name, "--d3dag", "--", target]
    variables = {name: value for name, value in os.environ.items() if not name.startswith("SNAKEMAKE_")}
    done = ask(command, _SNAKEMAKE_SECONDS, cwd=folder, env=variables)
    try:
        dag = json.loads(done.stdout)
    except ValueError:
        dag = None
    if done.returncode or dag is None:
        said = f"{done.stdout}{done.stderr}"[-LAST_WORDS:]
        raise GraphError(f"snakemake --d3dag {target} ended with {done.returncode}, saying at last:\n{said}")
    return dag


def summarized(dag: Mapping[str, Any]) -> dict[str, Any]:
    """Jobs and edges by rule, of what `snakemake --d3dag` prints."""
    rules = {node["id"]: node["value"]["rule"] for node in dag["nodes"]}
    inputs: dict[int, set[int]] = {job: set() for job in rules}
    for edge in dag["edges"]:
        inputs[edge["v"]].add(edge["u"])
    above = {job: _above(job, inputs) for job in rules}
    # Images that a network chose are data made from data: as one rule, data and training would wait for each other.
    alike = {job for job, rule in rules.items() if any(rules[other] == rule for other in above[job])}
    names = {job: rule + (DERIVED if job in alike else "") for job, rule in rules.items()}
    edges = {(names[edge["u"]], names[edge["v"]]) for edge in dag["edges"]}
    notebooks = {rule.removeprefix("notebook_"): job for job, rule in rules.items() if re.match(NOTEBOOK, rule)}
    behind = {name: Counter(rules[other] for other in above[job]) for name, job in sorted(notebooks.items())}
    return {"jobs": dict(Counter(names.values())), "edges": sorted(map(list, edges)), "targets": behind}


def _above(start: int, inputs: Mapping[int, set[int]]) -> set[int]:
    """Everything that a job waits for, directly or not."""
    found: set[int] = set()
    waiting = [start]
    while waiting:
        new = inputs[waiting.pop()] - found
        found |= new
        waiting += new
    return found


def family(rule: str) -> str:
    """The name under which alike rules are drawn as one, such as the notebooks of all tables."""
    alike = re.match(r"(notebook_table|notebook_figure|robustness|complexity)_\w+$", rule)
    # What remains of numbers are the passes over one set.
    return f"{alike[1]}_*" if alike else re.sub(r"(?<=[a-z])_\d+$", "", rule)


@dataclass(frozen=True)
class Box:
    """A family of rules; x and y are its upper left corner, in pixels."""

    name: str
    jobs: int
    x: float
    y: float
    width: float

    @property
    def label(self) -> str:
        """Its name, and how many jobs it has where there are several."""
        return label(self.name, self.jobs)


def label(name: str, jobs: int) -> str:
    """`train × 16`, which stays on one line, or `speed` for one job."""
    return f"{name}\N{NO-BREAK SPACE}×\N{NO-BREAK SPACE}{jobs}" if jobs > 1 else name


@dataclass(frozen=True)
class Arrow:
    """A line through points (x, y) in pixels, from what makes something to what waits for it."""

    points: tuple[tuple[float, float], ...]

    @property
    def path(self) -> str:
        """A smooth curve through the points, as SVG writes it."""
        (x, y), *rest = self.points
        parts = [f"M{x:.1f} {y:.1f}"]
        for to_x, to_y in rest:
            middle = (x + to_x) / 2
            parts.append(f"C{middle:.1f} {y:.1f} {middle:.1f} {to_y:.1f} {to_x:.1f} {to_y:.1f}")
            x, y = to_x, to_y
        return "".join(parts)


@dataclass(frozen=True)
class Picture:
    """A drawing of the rules, from left to right."""

    width: float
    height: float
    boxes: tuple[Box, ...]
    arrows: tuple[Arrow, ...]


def folded(graph: Mapping[str, Any]) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Jobs by family, and the arrows between families that no longer way implies."""
    jobs: Counter[str] = Counter()
    for rule, count in sorted(graph["jobs"].items()):
        jobs[family(rule)] += count
    edges = {(family(one), family(other)) for one, other in graph["edges"]}
    return dict(jobs), _reduced(sorted((one, other) for one, other in edges if one != other))


def _reduced(edges: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """The edges without those that a longer way implies, and without those that close a circle."""
    import networkx

    whole = networkx.DiGraph(edges)
    while not networkx.is_directed_acyclic_graph(whole):
        whole.remove_edge(*networkx.find_cycle(whole)[-1])
    return sorted(networkx.transitive_reduction(whole).edges)


def draw(graph: Mapping[str, Any]) -> Picture:
    """Lay the families of rules out in layers, each to the right of all that it waits for."""
    from lska.report.layers import layered

    jobs, edges = folded(graph)
    widths = {name: LETTER * len(label(name, count)) + PADDING for name, count in jobs.items()}
    places, ways = layered(widths, edges, height=ROW, gap=GAP, between=LAYER)
    boxes = tuple(Box(name, jobs[name], *places[name], widths[name]) for name in sorted(jobs))
    ends = {name: (x + widths[name], y + ROW / 2) for name, (x, y) in places.items()}
    arrows = tuple(
        Arrow((ends[one], *ways[one, other], (places[other][0], places[other][1] + ROW / 2))) for one, other in edges
    )
    right, low = max(box.x + box.width for box in boxes), max(box.y for box in boxes) + ROW
    return Picture(right, low, boxes, arrows)


def behind(graph: Mapping[str, Any]) -> dict[str, list[str]]:
    """What each table and figure needs, as labels of families of rules."""
    found = {}
    for target, rules in graph["targets"].items():
        jobs: Counter[str] = Counter()
        for rule, count in sorted(rules.items()):
            jobs[family(rule)] += count
        found[target] = [label(name, count) for name, count in jobs.items()]
    return found
