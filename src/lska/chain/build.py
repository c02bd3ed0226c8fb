"""Following a cell of a filled table back to its metric files and the paper's entry."""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lska.chain.checkout import code_text, environment_text, hardware_text
from lska.chain.model import Chain, Link
from lska.chain.origins import data_link, duration, moment, number, seal_text, weights_link
from lska.config import Config
from lska.outcomes import outcomes_path
from lska.provenance import file_md5, vouched_for
from lska.tables.cell_states import MEANING, State
from lska.tables.cell_text import cell_text, heading
from lska.tables.collect import Cell, Table, TableRow, collect
from lska.tables.paper_values import read_paper
from lska.tables.specs import DESIGN, ColumnSpec, load_spec, outputs

HIDDEN = ("protocol", "backbone", "field")
"""Details of metric files that other links show."""


def filled(target: str, config: Config, paper: Path = Path("paper")) -> Table:
    """A table from the metric files as they are, also edited ones, whose chains say so.

    Raises:
        FileNotFoundError: a metric file that the configuration asks for is missing; names how to make it.
        ValueError: unknown target, or a metric file that cannot be read.
    """
    return collect(load_spec(target), config, paper, config.results, seals=False)


def of(table: Table, cell: Cell, config: Config, paper: Path = Path("paper")) -> Chain:
    """Everything behind `cell`, a cell of `table`, which was filled at the scale of `config`.

    Files that are missing or damaged, and links that do not fit, are said so in the facts; nothing is raised for them.

    Raises:
        ValueError: the paper's file cannot be read.
    """
    row = next(row for row in table.rows if cell in row.cells)
    column = next(column for column in table.spec.columns if column.label == cell.column)
    title = f"{table.spec.number}. {table.spec.title}"
    links = [_metric(path, row, column, config) for path in cell.files]
    links.append(_paper(paper / f"{table.spec.paper}.csv", cell, row, column))
    return Chain(
        table.spec.target, title, table.scale, cell.row, heading(column), str(cell_text(cell)) or "nothing",
        str(cell.state), _cell_facts(table, cell, row, column, config), tuple(links),
    )  # fmt: skip


def _cell_facts(table: Table, cell: Cell, row: TableRow, column: ColumnSpec, config: Config) -> dict[str, str]:
    facts = {"state": f"{cell.state}: {MEANING[cell.state]}"}
    if cell.value is not None:
        spread = {"deviation": cell.deviation, "standard error": cell.standard_error}
        known = [f"{name} {_full(value)}" for name, value in spread.items() if value is not None]
        runs = f"mean of {cell.n} seeds" if cell.n > 1 else ""
        facts["value"] = ", ".join(part for part in (f"{_full(cell.value)} {cell.unit}".strip(), *known, runs) if part)
    reason = _comparison(cell, row, column, config)
    facts |= {"missing" if cell.state in (State.NOT_RUN, State.PARTIAL) else "compared": reason} if reason else {}
    if column.task == DESIGN and cell.n:
        facts["computed"] = "by lska.tables.designs from the kernels of the models' own code; no file is read"
    facts |= {"conditions": cell.conditions} if cell.conditions else {}
    return facts | {"shown in": _places(table)}


def _places(table: Table) -> str:
    """The files that show a table, as `table_03.md, .tex, .csv, .html` of its folder."""
    first, *rest = outputs(table.spec.target, Path("results") / table.scale)
    return ", ".join([first.as_posix(), *(path.suffix for path in rest)])


def _comparison(cell: Cell, row: TableRow, column: ColumnSpec, config: Config) -> str:
    """How our value was compared with the paper's, or why it was not, or why there is none."""
    if cell.state is State.OTHER_DATA:
        others = [f"measured on {name}, the paper on {column.data}" for name in cell.data if name != column.data]
        shrunken = row.source is not None and row.source.model in config.architecture
        return "no: " + "; ".join(filter(None, [*others, "the network is shrunken" if shrunken else "", cell.note]))
    if cell.state is State.UNKNOWN:
        return "no: the paper's value is not known"
    if cell.state is State.NOT_APPLICABLE and row.source is not None and not row.source.applies(column):
        return "no: the column does not apply to this row"
    if cell.state is State.CONTROL:
        return "no: the paper has no such row"
    return cell.note


def _full(value: object) -> str:
    return repr(value) if isinstance(value, float) else str(value)


def _metric(path: Path, row: TableRow, column: ColumnSpec, config: Config) -> Link:
    content, name = vouched_for(path, "metrics"), column.metric.format(**(row.source.values if row.source else {}))
    if not content:
        return Link("metric", "metric file", {"metric": name, "file": "MISSING or damaged"}, path)
    entry = content.get("metrics", {}).get(name, {})
    facts = {
        "metric": f"{name} = {_value(content, name, entry)}",
        **_uncertainty(entry),
        **_factor(column),
        "measured": f"{moment(content.get('started'))}, in {duration(content.get('seconds'))}"
        f" on {hardware_text(content.get('environment'))}",
        **_settings(content),
        "seal": seal_text(content),
        "outcomes": _outcomes(path, content),
        **_maps(path, content, config),
        "code": code_text(content.get("code")),
        "environment": environment_text(content.get("environment")),
    }
    links = (weights_link(config, content), data_link(config, content.get("data"), "measured on"))
    return Link("metric", "metric file", facts, path, links)


def _value(content: Mapping[str, Any], name: str, entry: Mapping[str, Any]) -> str:
    if entry.get("value") is None:
        reason = ((content.get("detail") or {}).get("reasons") or {}).get(name)
        return "no value" + (f": {reason}" if reason else "")
    return f"{_full(entry['value'])} {_unit(entry)}".strip()


def _unit(entry: Mapping[str, Any]) -> str:
    return "" if entry.get("unit") == "1" else str(entry.get("unit", ""))


def _uncertainty(entry: Mapping[str, Any]) -> dict[str, str]:
    interval, error = entry.get("interval"), entry.get("standard_error")
    facts = {
        "n": number(entry["n"]) if "n" in entry else "",
        "standard error": "" if error is None else f"{_full(error)} {_unit(entry)}".strip(),
        "quartiles": f"{_full(interval[0])} to {_full(interval[1])}" if interval else "",
    }
    return {name: text for name, text in facts.items() if text}


def _factor(column: ColumnSpec) -> dict[str, str]:
    return {} if column.factor == 1 else {"shown as": f"the value times {column.factor:g}, in {column.unit}"}


def _settings(content: Mapping[str, Any]) -> dict[str, str]:
    """Simple facts that the measurement kept beside its metrics."""
    details = (content.get("detail") or {}).items()
    shown = {name: value for name, value in details if name not in HIDDEN and isinstance(value, int | float | str)}
    simple = [f"{name.replace('_', ' ')} {value}" for name, value in shown.items()]
    return {"settings": ", ".join(simple)} if simple else {}


def _outcomes(path: Path, content: Mapping[str, Any]) -> str:
    beside, stated = outcomes_path(path), content.get("outcomes")
    if stated is None:
        return "none kept image by image"
    if not beside.is_file():
        return f"{beside.name} is MISSING"
    return f"{beside.name}, {'as written' if file_md5(beside) == stated else 'CHANGED since'}: MD5 {stated}"


def _maps(path: Path, content: Mapping[str, Any], config: Config) -> dict[str, str]:
    """The contribution maps that the metrics of a receptive field were taken from, and that figures draw."""
    if content.get("task") != "receptive_field":
        return {}
    maps, stated = config.results / "fields" / f"{path.stem}.npz", content["detail"].get("field")
    if not maps.is_file():
        return {"maps": f"{maps} is MISSING"}
    same = "" if stated is None else ", as written" if file_md5(maps) == stated else ", CHANGED since"
    return {"maps": f"{maps}{same}"}


def _paper(path: Path, cell: Cell, row: TableRow, column: ColumnSpec) -> Link:
    """The paper's entry, how it is known, and what that word means (paper/README.md)."""
    label = (row.source.paper_label if row.source else None) or cell.row
    name = column.paper_label or column.label
    entry = read_paper(path).values.get((label, name))
    if entry is None:
        return Link("paper", "paper", {"value": "no entry of this row and column"}, path)
    meaning = _meanings(path.parent / "README.md").get(entry.source.partition(":")[0], "")
    facts = {
        "row": label,
        "column": name,
        "value": f"{entry.value} {entry.unit}".strip() if entry.value is not None else "not known",
        "source": f"{entry.source}: {meaning}".rstrip(": "),
        "detail": entry.detail,
    }
    return Link("paper", "paper", {name: text for name, text in facts.items() if text}, path)


@functools.cache
def _meanings(readme: Path) -> dict[str, str]:
    """What the words of the column `source` mean, from the table in paper/README.md."""
    text = readme.read_text(encoding="utf-8") if readme.is_file() else ""
    lines = re.findall(r"^\| `([\w-]+)(?::NAME)?` \| (.+) \|$", text, flags=re.MULTILINE)
    return {word: meaning.replace("`", "") for word, meaning in lines}
