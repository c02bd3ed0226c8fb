"""What a notebook says about a table besides showing it: its prose, its states, and where each number came from."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from lska.provenance.files import read_json
from lska.settings.tasks import set_of
from lska.tables.cell_text import MARKS, caption, cell_text, ours
from lska.tables.collect import MEANING, State, Table
from lska.tables.specs import TableSpec, requirements, samples
from lska.tables.table_formats import escape_markdown, relative_place, to_markdown

if TYPE_CHECKING:
    from lska.settings.scale import Config

LONGEST = 120
"""Rows of the longest table that a figure's notebook shows."""

SAMPLES = """## Sample predictions

A few validation images with their ground truth and what each network predicts on them, drawn when it was scored."""

EXAMPLES = """## What the images look like

One image of a set of corruptions under each of them, or some images of every class."""

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


def figure_numbers(table: Table) -> str:
    """The table of a figure, in Markdown; where it is too long to be read, where its numbers are."""
    if len(table.rows) <= LONGEST:
        return to_markdown(table)
    return f"{len(table.rows)} rows, in the CSV file beside the figure.\n\n**{escape_markdown(caption(table))}**"


def pictures(spec: TableSpec, config: Config, results: Path) -> list[object]:
    """What to display, as Markdown and images, of the sample predictions and the perturbed sets that a table reads.

    Pictures show images of the data set, so those of results that were measured elsewhere may be absent; each says so.
    """
    from IPython.display import Image, Markdown

    def shown(path: Path, name: object, command: str) -> list[object]:
        absent = Markdown(f"Not here: drawn by `{command}`, which needs the data.")
        return [Markdown(f"### {name}"), Image(filename=str(path), alt=str(name)) if path.is_file() else absent]

    folder, found = results / "samples", []
    for path in samples(spec, config, results):
        name = path.relative_to(folder).with_suffix("")
        found += [] if found else [Markdown(SAMPLES)]
        found += shown(path, name, f"lska evaluate dense {name.name} --task {name.parent}")
    perturbed = dict.fromkeys(task for task, _ in requirements(spec, config) if set_of(task) is not None)
    found += [Markdown(EXAMPLES)] if perturbed else []
    for task in perturbed:
        found += shown(folder / task / "examples.png", set_of(task), f"lska data examples {set_of(task)}")
    return found


def state_counts(table: Table) -> str:
    """How many cells are in each state and, where any deviates, which and by how much, in Markdown."""
    rows = [(f"{MARKS.get(state, '')} {state}", str(n), MEANING[state]) for state, n in table.count().items()]
    lines = [_markdown(("state", "cells", "meaning"), rows, right=("cells",)), ""]
    for cell in table.cells:
        if cell.state is State.DEVIATES:
            note = f": {cell.note}" if cell.note else ""
            name, known = escape_markdown(f"{cell.row}, {cell.column}"), f"paper {cell.paper} ({cell.paper_source})"
            lines.append(f"- **{name}**: " + escape_markdown(f"ours {ours(cell)}, {known}{note}"))
    return "\n".join(lines if len(lines) > 2 else [*lines, "No cell deviates."])


def _markdown(head: Sequence[str], rows: Iterable[Sequence[str]], right: Sequence[str] = ()) -> str:
    """A table; columns named in `right` are aligned to the right."""
    rule = ["---:" if name in right else "---" for name in head]
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, rule, *(map(escape_markdown, row) for row in rows)))


def not_run(table: Table) -> str:
    """Which networks were not trained or measured, by task, in Markdown."""
    missing: dict[str, dict[str, None]] = {}
    for source, cells in ((row.source, row.cells) for row in table.rows if row.source is not None):
        for cell, column in zip(cells, table.spec.columns, strict=True):
            if cell.state is State.NOT_RUN:
                missing.setdefault(source.task(column), {})[f"`{source.network}`"] = None
    if not missing:
        return "Nothing: every network of this table was measured."
    how = "Networks are added under `runs` of the task in the configuration; `snakemake` then makes what is missing."
    lines = (f"- {task}: {', '.join(names)}" for task, names in missing.items())
    return "\n".join([f"{how} See docs/extend.md.", "", *lines])


def printed(table: Table) -> str:
    """Every cell for which the paper's file says how its value is known, in Markdown."""
    rows = [
        (cell.row, cell.column, ours(cell) or str(cell_text(cell)), cell.paper, cell.paper_source, cell.paper_detail)
        for cell in table.cells
        if cell.paper is not None
    ]
    if not rows:
        return "None is known: no value was found in any text available to us."
    return _markdown(("row", "column", "ours", "paper", "source", "detail"), rows, right=("ours", "paper"))


def provenance(table: Table) -> str:
    """Every metric file that the table reads, with the weights, recipe, data and code behind it, in Markdown."""
    used: dict[Path, dict[str, None]] = {}
    for cell in table.cells:
        for path in cell.files:
            used.setdefault(path, {})[cell.column] = None
    if not used:
        return "The numbers come from the code itself; no metric file is read."

    def short(digest: str | None) -> str:
        return digest.removeprefix("sha256:")[:10] if digest else "none"

    rows = []
    for path, columns in used.items():
        content = read_json(path)
        weights, code, data = (content.get(name) or {} for name in ("weights", "code", "data"))
        rows.append((
            f"{content['task']}/{content['run']}",
            "; ".join(columns),
            f"{weights.get('origin', '')} {short(weights['md5'])}" if weights.get("md5") else "none",
            short(content.get("recipe")),
            data.get("name", "none"),
            short(code.get("commit")) + (" (changed)" if code.get("dirty") else ""),
            str((content.get("environment") or {}).get("device", "")),
            str(content.get("started", ""))[:16].replace("T", " "),
        ))  # fmt: skip
    return _markdown(("metric file", "columns", "weights", "recipe", "data", "code", "device", "measured"), rows)


def further(table: Table) -> str:
    """Code to try on this table, in Markdown: its cells as a data frame, a curve, and where one number comes from."""
    measured = [cell for cell in table.cells if cell.files and isinstance(cell.value, float)]
    if not measured:
        return FURTHER
    chosen = next((cell for cell in measured if cell.standard_error is not None), measured[0])
    filled = {cell.row for cell in table.cells if cell.column == chosen.column and isinstance(cell.value, float)}
    kernels = {row.source.kernel for row in table.rows if row.source is not None and row.label in filled} - {None}
    command = shlex.join(["lska", "explain", table.spec.target, "--cell", chosen.row, chosen.column])
    curve = CURVE.format(column=chosen.column) if len(kernels) > 1 else ""
    return FURTHER + curve + ORIGIN.format(file=relative_place(chosen.files[0]), command=command)
