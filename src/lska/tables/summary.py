"""What a notebook says about a table besides showing it: its prose, its states, and where each number came from."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from lska.tables.collect import Cell, Table
from lska.tables.render import MARKS, caption, cell_text, ours, to_markdown
from lska.tables.specs import TableSpec
from lska.tables.states import MEANING, State

LONGEST = 120
"""Rows of the longest table that a figure's notebook shows."""

EXAMPLES = """## What the images look like

One image of a set of corruptions under each of them, or some images of every class."""

SAMPLES = """## Sample predictions

A few validation images with their ground truth and what each network predicts on them, drawn when it was scored."""


def introduction(spec: TableSpec) -> str:
    """Heading and explanation, in Markdown."""
    return f"# {spec.number}. {spec.title}\n\n{spec.explanation}"


def numbers(table: Table) -> str:
    """The table of a figure, in Markdown; where it is too long to be read, where its numbers are."""
    if len(table.rows) <= LONGEST:
        return to_markdown(table)
    return f"{len(table.rows)} rows, in the CSV file beside the figure.\n\n**{caption(table)}**"


def states(table: Table) -> str:
    """How many cells are in each state and, where any deviates, which and by how much, in Markdown."""
    lines = ["| state | cells | meaning |", "| --- | ---: | --- |"]
    for state, count in table.count().items():
        lines.append(f"| {MARKS.get(state, '')} {state} | {count} | {MEANING[state]} |")
    deviating = [_deviation(cell) for cell in table.cells if cell.state is State.DEVIATES]
    return "\n".join([*lines, "", *(deviating or ["No cell deviates."])])


def _deviation(cell: Cell) -> str:
    note = f": {cell.note}" if cell.note else ""
    return f"- **{cell.row}, {cell.column}**: ours {ours(cell)}, paper {cell.paper} ({cell.paper_source}){note}"


def provenance(table: Table) -> str:
    """Every metric file that the table reads, with the weights, recipe, data and code behind it, in Markdown.

    Raises:
        ValueError: a file changed since the table was filled and is no longer JSON.
    """
    used: dict[Path, list[str]] = {}
    for cell in table.cells:
        for path in cell.files:
            used.setdefault(path, []).append(cell.column)
    if not used:
        return "The numbers come from the code itself; no metric file is read."
    head = ("metric file", "columns", "weights", "recipe", "data", "code", "device", "measured")
    rows = [_file_row(path, list(dict.fromkeys(columns))) for path, columns in used.items()]
    lines = [" | ".join(head), " | ".join("---" for _ in head), *(" | ".join(row) for row in rows)]
    return "\n".join(f"| {line} |" for line in lines)


def _file_row(path: Path, columns: list[str]) -> tuple[str, ...]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path}: not valid JSON ({error}); delete it and run its rule again") from error
    weights, code = content.get("weights") or {}, content.get("code") or {}
    return (
        f"{content['task']}/{content['run']}",
        ", ".join(columns),
        f"{weights.get('origin', '')} {_short(weights.get('md5'))}" if weights.get("md5") else "none",
        _short(content.get("recipe")),
        (content.get("data") or {}).get("name", "none"),
        _short(code.get("commit")) + (" (changed)" if code.get("dirty") else ""),
        str((content.get("environment") or {}).get("device", "")),
        str(content.get("started", ""))[:16].replace("T", " "),
    )


def _short(digest: str | None) -> str:
    return digest.removeprefix("sha256:")[:10] if digest else "none"


def printed(table: Table) -> str:
    """Every cell for which the paper's file says how its value is known, in Markdown."""
    lines = ["| row | column | ours | paper | source | detail |", "| --- | --- | ---: | ---: | --- | --- |"]
    for cell in table.cells:
        if cell.paper is not None:
            shown = ours(cell) or str(cell_text(cell))
            parts = (cell.row, cell.column, shown, cell.paper, cell.paper_source or "", cell.paper_detail)
            lines.append("| " + " | ".join(part.replace("|", "\\|") for part in parts) + " |")
    return "\n".join(lines)


def strips(paths: Sequence[Path]) -> list[object]:
    """What to display of perturbed sets: a heading, and each picture `<set>/examples.png` under the name of its set.

    Returns:
        Markdown and images for `IPython.display.display`; nothing where the table reads no perturbed set.
    """
    from IPython.display import Image, Markdown

    shown: list[object] = [Markdown(EXAMPLES)] if paths else []
    for path in paths:
        name = path.parent.name
        absent = Markdown(f"Not here: drawn by `lska data examples {name}`, which needs the data.")
        shown += [Markdown(f"### {name}"), Image(filename=str(path)) if path.is_file() else absent]
    return shown


def sheets(paths: Sequence[Path], folder: Path) -> list[object]:
    """What to display of sample predictions: a heading, and each picture of `folder` under its task and run.

    Pictures show images of the data set, so those of results that were measured elsewhere may be absent; each says so.

    Returns:
        Markdown and images for `IPython.display.display`; nothing where no table row has pictures.
    """
    from IPython.display import Image, Markdown

    shown: list[object] = [Markdown(SAMPLES)] if paths else []
    for path in paths:
        name = path.relative_to(folder).with_suffix("")
        absent = Markdown(
            f"Not here: drawn by `lska evaluate dense {name.name} --task {name.parent}`, which needs the data."
        )
        shown += [Markdown(f"### {name}"), Image(filename=str(path)) if path.is_file() else absent]
    return shown
