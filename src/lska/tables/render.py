"""A filled table as Markdown, LaTeX, CSV and HTML, each written in the format of a file's suffix."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from lska.files import write_text
from lska.tables.collect import Table
from lska.tables.latex import escape_latex, to_latex
from lska.tables.tidy import CSV_COLUMNS, place, records, to_csv
from lska.tables.web import to_html, to_page
from lska.tables.words import MARKS, CellText, caption, cell_text, heading, headings, legend, ours

__all__ = [
    "CSV_COLUMNS", "MARKS", "CellText", "caption", "cell_text", "escape_latex", "escape_markdown", "heading",
    "headings", "legend", "ours", "place", "records", "to_csv", "to_html", "to_latex", "to_markdown", "to_page",
    "write",
]  # fmt: skip

SPECIAL = "\\|*_<>`~[&$"
"""What Markdown as code hosts read it gives a meaning within a line: emphasis, links, entities, mathematics."""


def to_markdown(table: Table) -> str:
    """A pipe table with caption and legend; provenance is in the CSV."""
    head = headings(table)
    lines = [f"**{escape_markdown(caption(table))}**", "", _pipes(head), _rule(len(head))]
    lines += [_pipes([row.label, *(str(cell_text(cell)) for cell in row.cells)]) for row in table.rows]
    return "\n".join([*lines, "", *(f"- {escape_markdown(line)}" for line in legend(table))]) + "\n"


def _pipes(parts: Sequence[str]) -> str:
    return f"| {' | '.join(map(escape_markdown, parts))} |"


def _rule(columns: int) -> str:
    return f"| {' | '.join(['---', *['---:'] * (columns - 1)])} |"


def escape_markdown(text: str) -> str:
    """Text as it is, whatever Markdown means by its characters."""
    return "".join(f"\\{character}" if character in SPECIAL else character for character in text)


WRITERS: dict[str, Callable[[Table], str]] = {
    ".md": to_markdown,
    ".tex": to_latex,
    ".csv": to_csv,
    ".html": to_page,
}


def write(table: Table, path: Path) -> None:
    """Write `table` in the format of the suffix of `path`, atomically.

    Raises:
        ValueError: no such format.
    """
    if path.suffix not in WRITERS:
        raise ValueError(f"{path}: no such format for tables; expected one of {', '.join(WRITERS)}")
    write_text(path, WRITERS[path.suffix](table))
