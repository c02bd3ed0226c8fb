"""A filled table as Markdown, LaTeX, CSV and HTML: a template for each format, and tidy records for the CSV.

from lska.settings.scale import load
from lska.tables.table_formats import build_table
table = build_table("table_03", load([Path("config/demo.yaml")]))
"""

from __future__ import annotations

import functools
import html
import itertools
import re
import textwrap
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from lska.provenance.errors import InputError
from lska.provenance.files import csv_text, write_text
from lska.tables.cell_text import caption, cell_text, facts, headings, legend
from lska.tables.collect import Cell, State, Table, collect
from lska.tables.specs import TABLE_FORMATS, load_spec, outputs

if TYPE_CHECKING:
    from jinja2 import Environment

    from lska.settings.scale import Config

MARKDOWN = re.compile(r"[\\|*_<>`~&$]|\](?=[(\[:])")
"""What Markdown as code hosts read it gives a meaning within a line: emphasis, entities, mathematics, and the end of a
link's text. Other brackets mean nothing, since no link is defined elsewhere."""

LATEX = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"$<$", ">": r"$>$", "|": r"$|$",
    "✓": r"$\checkmark$", "✗": r"$\times$", "○": r"$\circ$", "†": r"$\dagger$", "‡": r"$\ddagger$",
    "§": r"$\mathsection$", "±": r"$\pm$", "ᶜ": r"$^{c}$", "×": r"$\times$", "–": "--", "—": "---", "−": "$-$",
    "≤": r"$\leq$", "≥": r"$\geq$", "→": r"$\rightarrow$", "…": r"\dots{}", "µ": r"$\mu$",
}  # fmt: skip

TEX_BLOCKS = {
    "block_start_string": "<%", "block_end_string": "%>", "variable_start_string": "<<", "variable_end_string": ">>",
    "comment_start_string": "<#", "comment_end_string": "#>",
}  # fmt: skip
"""Braces and percent signs are LaTeX's own."""

CSV_COLUMNS = (
    "table", "row", "column", "value", "unit", "deviation", "standard_error", "n", "paper", "paper_source", "state",
    "files", "low", "high", "data", "conditions", "note", "paper_detail", "scale", "model", "attention", "kernel",
    "seeds", "task", "metric",
)  # fmt: skip

# How LaTeX lays a table out.
NARROW, WIDE = " .,:;'()[]-/ijl|", "✓✗○±×MWm%"
LETTER, SEPARATION = 4.25, 8.0
"""Points at \\footnotesize: of a digit, as of most letters, and between columns."""
TEXT = 345.0
"""Width in points of the text of LaTeX's `article`."""
SMALLEST = 0.7
"""A panel wider than the text is scaled down to it, to about 5.6 points; what needs more goes into another panel."""
LABEL = 48
"""Characters of a line of a row's label."""
PAGE, HEAD = 36, 3
"""Rows on a page, beside caption and legend, and the rows that a panel's head and gap take."""


def build_table(
    target: str,
    config: Config,
    files: Iterable[Path] | None = None,
    paper: Path = Path("paper"),
    results: Path | None = None,
) -> Table:
    """Fill a table or figure from metric files, write it, and return its numbers.

    Args:
        files: what to write, each in the format of its suffix; `outputs(target, results)` where None. A figure can be
            written as a table too.
        paper: folder with the paper's values.
        results: folder that holds `metrics/<task>/<run>.json`; `config.results` where None.

    Raises:
        FileNotFoundError: a metric file that the configuration asks for is missing.
        ValueError: unknown target or format, or a faulty spec, metric file or file of the paper.
    """
    folder = config.results if results is None else results
    table = collect(load_spec(target), config, paper, folder)
    drawn = []
    for path in outputs(target, folder) if files is None else files:
        if table.spec.drawing and path.suffix not in TABLE_FORMATS:
            drawn.append(path)
        else:
            write_table(table, path)
    if drawn:
        from lska.tables.figures import draw_figure

        draw_figure(table, drawn)
    return table


def write_table(table: Table, path: Path) -> None:
    """Write `table` in the format of the suffix of `path`, atomically; ValueError where there is no such format."""
    if path.suffix not in WRITERS:
        raise InputError(f"{path}: no such format for tables; expected one of {', '.join(WRITERS)}")
    write_text(path, WRITERS[path.suffix](table))


def write_formats(table: Table, folder: Path) -> list[Path]:
    """Write `table` in every format, `<folder>/<target>.md` and so on; returns the files."""
    files = [folder / f"{table.spec.target}{suffix}" for suffix in WRITERS]
    for path in files:
        write_table(table, path)
    return files


def to_markdown(table: Table) -> str:
    """A pipe table with caption and legend; provenance is in the CSV."""
    return _render(table, ".md")


def to_latex(table: Table) -> str:
    r"""A `table` environment for `\input`; its first lines say which packages the document needs.

    Columns that do not fit beside each other are stacked in panels, each with the labels of its rows. What does not
    fit on a page goes on in a second environment under the same number.
    """
    return _render(table, ".tex", pages=table_pages)


def to_html(table: Table, page: bool = False) -> str:
    """A self-contained `<figure>`, or a page that opens from the file system, in the reader's light or dark mode; each
    cell's title names its state, its note and the metric files it came from."""
    return _render(table, ".html", page=page)


def to_csv(table: Table) -> str:
    """One line per cell; empty fields are unknown quantities."""
    return csv_text(CSV_COLUMNS, records(table))


WRITERS: dict[str, Callable[[Table], str]] = {
    ".md": to_markdown, ".tex": to_latex, ".csv": to_csv, ".html": functools.partial(to_html, page=True),
}  # fmt: skip


def records(table: Table) -> list[dict[str, object]]:
    """One mapping per cell with the keys `CSV_COLUMNS` (docs/extend.md), row by row; None where nothing is known."""
    found = []
    for row in table.rows:
        source = row.source
        for cell, column in zip(row.cells, table.spec.columns, strict=True):
            known = source is not None and source.applies(column)
            lists = {"files": map(relative_place, cell.files), "data": cell.data, "seeds": map(str, cell.seeds)}
            own = {
                **vars(cell),
                **{name: ";".join(parts) or None for name, parts in lists.items()},
                "table": table.spec.target,
                "scale": table.scale,
                "state": str(cell.state),
                "model": source and (source.model or source.module),
                "attention": source and source.attention,
                "kernel": source and source.kernel,
                "task": source.task(column) if known else None,
                "metric": column.metric.format(**source.values) if known else None,
            }
            found.append({name: own[name] for name in CSV_COLUMNS})
    return found


def relative_place(path: Path) -> str:
    """The path as seen from the working folder, so that committed files name no machine."""
    here = Path.cwd()
    return (path.relative_to(here) if path.is_relative_to(here) else path).as_posix()


def escape_markdown(text: str) -> str:
    """Text as it is, whatever Markdown means by its characters."""
    return MARKDOWN.sub(r"\\\g<0>", text)


def escape_latex(text: str) -> str:
    """Text for LaTeX: every special character and every mark replaced."""
    return "".join(LATEX.get(character, character) for character in text)


def _render(table: Table, suffix: str, **more: Any) -> str:
    texts = {"caption": caption(table), "facts": facts(table), "headings": headings(table), "legend": legend(table)}
    return _templates(suffix).get_template(f"table{suffix}.jinja").render(table=table, **texts, **more)


@functools.cache
def _templates(suffix: str) -> Environment:
    """The templates of a format; whatever they print is escaped for it, once."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    folder = Path(__file__).parent / "templates"
    escape = {".md": escape_markdown, ".tex": escape_latex, ".html": html.escape}[suffix]
    made = Environment(
        loader=FileSystemLoader(folder), undefined=StrictUndefined, autoescape=True, trim_blocks=True,
        lstrip_blocks=True, keep_trailing_newline=True, **(TEX_BLOCKS if suffix == ".tex" else {}),
        finalize=lambda value: value if hasattr(value, "__html__") else Markup(escape(str(value))),
    )  # fmt: skip
    wrapped = functools.partial(textwrap.wrap, break_on_hyphens=False)
    made.filters |= {"text": cell_text, "origin": _origin, "wrapped": wrapped, "head_width": _head_width}
    made.globals["style"] = Markup("".join((folder / "table.css").read_text(encoding="utf-8").splitlines()))
    return made


def _origin(cell: Cell) -> str:
    """State, note, the interval that the measurement of one run gives, and the metric files of a cell."""
    found = [str(cell.state), cell.note]
    if cell.low is not None and cell.high is not None:
        found.append(f"interval {cell.low:.{cell.digits}f} to {cell.high:.{cell.digits}f}")
    return "; ".join(filter(None, (*found, *map(relative_place, cell.files))))


class Panel(NamedTuple):
    """Some columns of a table beside each other on a page of LaTeX, and the rows that they apply to, by number."""

    columns: tuple[int, ...]
    rows: tuple[int, ...]


def table_pages(table: Table) -> list[list[Panel]]:
    """Panels of each page; one with more rows than a page has is divided."""
    pages: list[list[Panel]] = []
    left, most = 0, PAGE - HEAD
    for panel in table_panels(table):
        for start in range(0, len(panel.rows), most):
            part = Panel(panel.columns, panel.rows[start : start + most])
            if not pages or len(part.rows) + HEAD > left:
                pages.append([])
                left = PAGE
            pages[-1].append(part)
            left -= len(part.rows) + HEAD
    return pages


def table_panels(table: Table) -> list[Panel]:
    """Columns in order: in one panel where that fits as it is, else in as few and about equally wide ones as possible,
    each of columns that apply to the same rows."""
    labels = [line for row in table.rows for line in textwrap.wrap(row.label, LABEL)]
    label = max(map(_width, labels), default=0.0) + SEPARATION
    widths = []
    for column, head in enumerate(headings(table)[1:]):
        # Headings may be broken between words.
        texts = [*head.split(), *(str(cell_text(row.cells[column])) for row in table.rows)]
        widths.append(max(map(_width, texts)) + SEPARATION)
    columns = range(len(widths))
    if label + sum(widths) <= TEXT:
        return [Panel(tuple(columns), tuple(range(len(table.rows))))]

    def applying(column: int) -> tuple[int, ...]:
        spec = table.spec.columns[column]
        return tuple(
            number
            for number, row in enumerate(table.rows)
            if (row.source.applies(spec) if row.source else row.cells[column].state is not State.NOT_APPLICABLE)
        )

    def packed(group: Sequence[int], room: float) -> list[list[int]]:
        parts, left = [], 0.0
        for column in group:
            if not parts or widths[column] > left:
                parts.append([])
                left = room
            parts[-1].append(column)
            left -= widths[column]
        return parts

    found = []
    for rows, members in itertools.groupby(columns, applying):
        group, room = list(members), TEXT / SMALLEST - label
        fewest = packed(group, room)
        narrower = (packed(group, width) for width in range(1, int(room)))
        even = next((parts for parts in narrower if len(parts) == len(fewest)), fewest)
        found += [Panel(tuple(part), rows) for part in even]
    return found


def _width(text: str) -> float:
    """About how many points a text takes."""
    return LETTER * sum(0.66 if c in NARROW else 1.5 if c in WIDE or c.isupper() else 1.0 for c in text)


def _head_width(panel: Panel, table: Table, column: int) -> int:
    """Characters of a heading's line that keep it about as wide as its column's cells."""
    cells = (str(cell_text(table.rows[row].cells[column])) for row in panel.rows)
    return max(8, *map(len, headings(table)[column + 1].split()), *map(len, cells))
