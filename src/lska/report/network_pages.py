"""A page per network: what was measured of it by every protocol, over all of its seeds, and the cells that show it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lska.models.runs import Run
from lska.report.gather import Results, Target, site_copy
from lska.settings.tasks import CONTROL
from lska.tables.cell_text import heading, shown
from lska.tables.collect import Cell, State, pool
from lska.tables.specs import DESIGN, data_names, display_names

PROTOCOLS = {
    "classification": "Accuracy",
    "complexity": "Cost",
    "speed": "Speed",
    "robustness": "Robustness",
    "shape_texture": "Shape and texture",
    "texture_knn": "Texture, by nearest neighbours",
    "receptive_field": "Effective receptive field",
    "detection": "Detection",
    "segmentation": "Segmentation",
}
"""What pages call a protocol, by the first part of its tasks, in the order of the page."""


@dataclass
class CellNumber:
    """A metric as cells show it, and where: targets with the numbers of their rows, from 1 on."""

    label: str
    cell: Cell
    places: list[tuple[Target, int]] = field(default_factory=list)


@dataclass
class ProtocolResults:
    """What one task measured of a network: metrics that cells show, and all others as name, text and number of
    observations."""

    title: str
    data: str
    seeds: tuple[str, ...]
    files: dict[str, str | None]
    """Metric files with their copies in the site."""
    numbers: list[CellNumber] = field(default_factory=list)
    others: list[tuple[str, str, str]] = field(default_factory=list)


@dataclass(frozen=True)
class NetworkResults:
    """Everything that a scale knows of a network, whatever the seed."""

    name: str
    run: Run
    protocols: list[ProtocolResults]
    weights: list[tuple[str, str | None, Mapping[str, Any]]]
    """Of each training and fine-tuning: its place under the checkpoints, the copy of its sidecar, and its content."""


def network_name(run: Run) -> str:
    """`VAN-Tiny LSKA k=23`, as the tables call it."""
    names = display_names()
    model = names["models"].get(run.model, run.model)
    size = "" if run.kernel is None else f" {names['attentions'].get(run.attention, run.attention)} k={run.kernel}"
    return f"{'VAN-' if run.attention else ''}{model}{size}"


def network_pages(results: Results) -> dict[str, str]:
    """The pages of the networks of a scale that have a metric file, by network."""
    measured = {str(content["run"]).rpartition("-s")[0] for content in results.metrics.values()}
    networks = dict.fromkeys(run.network for run in results.config.runs)
    return {network: f"network_{network}.html" for network in networks if network in measured}


def network_results(results: Results) -> Iterator[NetworkResults]:
    """What was measured of each network that has a page, in the order of the configuration."""
    known = network_pages(results)
    contents: dict[tuple[str, str], dict[Path, Mapping[str, Any]]] = {}
    for path, content in results.metrics.items():
        network = str(content["run"]).rpartition("-s")[0]
        if network in known:
            contents.setdefault((network, content["task"]), {})[path] = content
    cells = _cells(results, known)
    runs = {run.network: run for run in reversed(results.config.runs)}
    for network in known:
        tasks = sorted((task for name, task in contents if name == network), key=_order)
        measured = [(task, contents[network, task], cells.get((network, task), {})) for task in tasks]
        protocols = [_protocol(*one, results) for one in measured]
        run, weights = runs[network], list(_weights(network, results))
        yield NetworkResults(network_name(run), run, protocols, weights)


def _cells(results: Results, networks: Mapping[str, str]) -> dict[tuple[str, str], dict[str, CellNumber]]:
    """The cells with a value by network and task, then by metric; the first that shows a metric, and its places."""
    found: dict[tuple[str, str], dict[str, CellNumber]] = {}
    for target in results.targets:
        for number, row in enumerate(target.table.rows if target.table else (), start=1):
            if row.source is None or row.source.network not in networks:
                continue
            for column, cell in zip(target.spec.columns, row.cells, strict=True):
                # A label alone does not name a metric that varies with the row, such as that of a stage.
                if column.task == DESIGN or "{" in column.metric or not cell.files:
                    continue
                if cell.value is None and cell.state is not State.PARTIAL:
                    continue
                metrics = found.setdefault((row.source.network, row.source.task(column)), {})
                shown_by = metrics.setdefault(column.metric, CellNumber(heading(column), cell))
                if shown_by.cell.paper is None and cell.paper is not None:
                    shown_by.cell = cell
                if (target, number) not in shown_by.places:
                    shown_by.places.append((target, number))
    return found


def _protocol(
    task: str, contents: Mapping[Path, Mapping[str, Any]], numbers: Mapping[str, CellNumber], results: Results
) -> ProtocolResults:
    data = data_names(content["data"]["name"] for content in contents.values() if content["data"])
    counted = task.partition("/")[0] == "complexity"
    seeds = () if counted else tuple(str(content["run"]).rpartition("-s")[2] for content in contents.values())
    files = {path.as_posix(): site_copy(path, results.config) for path in contents}
    metrics = dict.fromkeys(name for content in contents.values() for name in content["metrics"])
    others = [_other(name, list(contents.values())) for name in metrics if name not in numbers]
    ordered = sorted(numbers.items(), key=lambda item: list(metrics).index(item[0]) if item[0] in metrics else -1)
    return ProtocolResults(_title(task), data, seeds, files, [one for _, one in ordered], others)


def _other(name: str, contents: Sequence[Mapping[str, Any]]) -> tuple[str, str, str]:
    """A metric that no table shows: name, value with its error, and n."""
    entries = [content["metrics"][name] for content in contents if name in content["metrics"]]
    values = [entry["value"] for entry in entries]
    if None in values:
        return name, "not defined", ""
    over, unit = pool(values, [entry.get("standard_error") for entry in entries]), entries[0]["unit"]
    text = shown(over.mean, 6) + ("" if over.error is None else f" ± {shown(over.error, 2)}")
    n = entries[0].get("n")
    return name, text + ("" if unit == "1" else f" {unit}"), "" if n is None else f"{n:,}"


def _weights(network: str, results: Results) -> Iterator[tuple[str, str | None, Mapping[str, Any]]]:
    for path, content in results.sidecars.items():
        if path.stem.rpartition("-s")[0] == network:
            place = path.relative_to(results.config.checkpoints).with_suffix("").as_posix()
            yield place, site_copy(path, results.config), content


def _order(task: str) -> tuple[int, str]:
    first = task.partition("/")[0]
    return list(PROTOCOLS).index(first) if first in PROTOCOLS else len(PROTOCOLS), task


def _title(task: str) -> str:
    """`Detection, RetinaNet`; with `from a random backbone` for controls."""
    first, _, part = task.removesuffix(CONTROL).partition("/")
    title = PROTOCOLS.get(first, first)
    head = part.replace("_", "-").capitalize() if first == "robustness" else display_names()["heads"].get(part, part)
    control = "from a random backbone, as a control" if task.endswith(CONTROL) else ""
    return ", ".join(filter(None, (title, head, control)))
