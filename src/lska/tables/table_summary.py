"""What a notebook says about a table besides showing it: its prose, its states, and where each number came from."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Sequence
from pathlib import Path

from lska.files import read_json
from lska.tables.cell_states import MEANING, State
from lska.tables.cell_text import MARKS, caption, cell_text, ours
from lska.tables.collect import Cell, Table
from lska.tables.specs import TableSpec
from lska.tables.table_formats import escape_markdown, place, to_markdown

LONGEST = 120
"""Rows of the longest table that a figure's notebook shows."""

EXAMPLES = """## What the images look like

One image of a set of corruptions under each of them, or some images of every class."""

SAMPLES = """## Sample predictions

A few validation images with their ground truth and what each network predicts on them, drawn when it was scored."""

FURTHER = """\
The cells as a data frame, one line each (docs/extend.md lists the columns):

```python
import pandas
numbers = pandas.DataFrame(table_formats.records(table))
numbers.dropna(subset="value")[["row", "column", "value", "seeds", "standard_error", "paper", "state"]]
```
"""

CURVE = """
Is the trend over the kernel size larger than its error?

```python
chosen = numbers[(numbers["column"] == {column!r}) & numbers["value"].notna() & numbers["kernel"].notna()]
for attention, part in chosen.groupby("attention"):
    axes = part.plot("kernel", "value", yerr="standard_error", marker="o", title=attention)
```
"""

ORIGIN = """
Which commit, device and data does a metric file name?

```python
import json
json.loads(Path({file!r}).read_text())
```

In a terminal, in the project's folder, this follows the same number back to weights, recipe and data:

```
{command}
```
"""


def introduction(spec: TableSpec) -> str:
    """Heading and explanation, in Markdown."""
    return f"# {spec.number}. {spec.title}\n\n{spec.explanation}"


def figure_numbers(table: Table) -> str:
    """The table of a figure, in Markdown; where it is too long to be read, where its numbers are."""
    if len(table.rows) <= LONGEST:
        return to_markdown(table)
    return f"{len(table.rows)} rows, in the CSV file beside the figure.\n\n**{escape_markdown(caption(table))}**"


def states(table: Table) -> str:
    """How many cells are in each state and, where any deviates, which and by how much, in Markdown."""
    lines = ["| state | cells | meaning |", "| --- | ---: | --- |"]
    for state, count in table.count().items():
        lines.append(f"| {MARKS.get(state, '')} {state} | {count} | {MEANING[state]} |")
    deviating = [_deviation(cell) for cell in table.cells if cell.state is State.DEVIATES]
    return "\n".join([*lines, "", *(deviating or ["No cell deviates."])])


def _deviation(cell: Cell) -> str:
    note = f": {cell.note}" if cell.note else ""
    name = escape_markdown(f"{cell.row}, {cell.column}")
    return f"- **{name}**: " + escape_markdown(f"ours {ours(cell)}, paper {cell.paper} ({cell.paper_source}){note}")


def not_run(table: Table) -> str:
    """Which networks were not trained or measured, by task, in Markdown."""
    missing: dict[str, dict[str, None]] = {}
    for row in table.rows:
        for cell, column in zip(row.cells, table.spec.columns, strict=True):
            if cell.state is State.NOT_RUN and row.source is not None:
                missing.setdefault(row.source.task(column), {})[row.source.network] = None
    if not missing:
        return "Nothing: every network of this table was measured."
    lines = [f"- {what}: {', '.join(f'`{name}`' for name in names)}" for what, names in missing.items()]
    how = "Networks are added under `runs` of the task in the configuration; `snakemake` then makes what is missing."
    return "\n".join([f"{how} See docs/extend.md.", "", *lines])


def further(table: Table) -> str:
    """Code to try on this table, in Markdown: its cells as a data frame, a curve, and where one number comes from."""
    measured = [cell for cell in table.cells if cell.files and isinstance(cell.value, float)]
    if not measured:
        return FURTHER
    chosen = next((cell for cell in measured if cell.standard_error is not None), measured[0])
    drawn = [row for row in table.rows if row.source is not None and row.source.kernel is not None]
    filled = {row.source.kernel for row in drawn if isinstance(_cell(row.cells, chosen.column).value, float)}
    command = shlex.join(["lska", "explain", table.spec.target, "--cell", chosen.row, chosen.column])
    curve = CURVE.format(column=chosen.column) if len(filled) > 1 else ""
    return FURTHER + curve + ORIGIN.format(file=place(chosen.files[0]), command=command)


def _cell(cells: Iterable[Cell], column: str) -> Cell:
    return next(cell for cell in cells if cell.column == column)


def provenance(table: Table) -> str:
    """Every metric file that the table reads, with the weights, recipe, data and code behind it, in Markdown.

    Raises:
        ValueError: a file changed since the table was filled and is no longer JSON.
    """
    used: dict[Path, dict[str, None]] = {}
    for cell in table.cells:
        for path in cell.files:
            used.setdefault(path, {})[cell.column] = None
    if not used:
        return "The numbers come from the code itself; no metric file is read."
    head = ("metric file", "columns", "weights", "recipe", "data", "code", "device", "measured")
    rows = (_escaped(_file_row(path, columns)) for path, columns in used.items())
    return "\n".join([f"| {' | '.join(head)} |", f"| {' | '.join('---' for _ in head)} |", *rows])


def _file_row(path: Path, columns: Iterable[str]) -> tuple[str, ...]:
    content = read_json(path)
    weights, code = content.get("weights") or {}, content.get("code") or {}
    return (
        f"{content['task']}/{content['run']}",
        "; ".join(columns),
        f"{weights.get('origin', '')} {_short(weights.get('md5'))}" if weights.get("md5") else "none",
        _short(content.get("recipe")),
        (content.get("data") or {}).get("name", "none"),
        _short(code.get("commit")) + (" (changed)" if code.get("dirty") else ""),
        str((content.get("environment") or {}).get("device", "")),
        str(content.get("started", ""))[:16].replace("T", " "),
    )


def _short(digest: str | None) -> str:
    return digest.removeprefix("sha256:")[:10] if digest else "none"


def _escaped(parts: Iterable[str]) -> str:
    """A row of a table in Markdown."""
    return f"| {' | '.join(map(escape_markdown, parts))} |"


def printed(table: Table) -> str:
    """Every cell for which the paper's file says how its value is known, in Markdown."""
    lines = ["| row | column | ours | paper | source | detail |", "| --- | --- | ---: | ---: | --- | --- |"]
    for cell in table.cells:
        if cell.paper is not None:
            own = ours(cell) or str(cell_text(cell))
            lines.append(
                _escaped([cell.row, cell.column, own, cell.paper, cell.paper_source or "", cell.paper_detail])
            )
    return "\n".join(lines) if len(lines) > 2 else "None is known: no value was found in any text available to us."


def strips(paths: Sequence[Path]) -> list[object]:
    """Markdown and images to display of perturbed sets: each picture `<set>/examples.png` under the name of its set;
    nothing where the table reads no perturbed set."""
    commands = {path: f"lska data examples {path.parent.name}" for path in paths}
    return _pictures(EXAMPLES, {path: path.parent.name for path in paths}, commands)


def sheets(paths: Sequence[Path], folder: Path) -> list[object]:
    """Markdown and images to display of sample predictions: each picture of `folder` under its task and run; nothing
    where no table row has pictures."""
    names = {path: path.relative_to(folder).with_suffix("") for path in paths}
    commands = {path: f"lska evaluate dense {name.name} --task {name.parent}" for path, name in names.items()}
    return _pictures(SAMPLES, {path: str(name) for path, name in names.items()}, commands)


def _pictures(heading: str, names: dict[Path, str], commands: dict[Path, str]) -> list[object]:
    """Pictures show images of the data set, so those of results that were measured elsewhere may be absent; each says
    so."""
    from IPython.display import Image, Markdown

    shown: list[object] = [Markdown(heading)] if names else []
    for path, name in names.items():
        absent = Markdown(f"Not here: drawn by `{commands[path]}`, which needs the data.")
        shown += [Markdown(f"### {name}"), Image(filename=str(path)) if path.is_file() else absent]
    return shown
