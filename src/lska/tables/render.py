"""A filled table as Markdown, LaTeX, CSV and HTML."""

from __future__ import annotations

import csv
import html
import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from lska.provenance import atomic_path
from lska.tables.collect import Cell, Table, TableRow
from lska.tables.specs import ColumnSpec
from lska.tables.states import MEANING, State

CSV_COLUMNS = (
    "table", "row", "column", "value", "unit", "deviation", "standard_error", "n", "paper", "paper_source", "state",
    "files", "low", "high", "data", "conditions", "note", "paper_detail",
)  # fmt: skip

MARKS = {State.REPRODUCED: "✓", State.DEVIATES: "✗", State.OTHER_DATA: "○"}
CUT = "ᶜ"
UNKNOWN = "?"
SOURCES = {"derived": "†", "computed": "‡", "other-paper": "§"}
COUNTED = "Counts are always those of the paper's own architectures, at {size} pixels"
SOURCE_MEANING = {
    "†": "follows by arithmetic from a printed statement",
    "‡": "not printed; counted on the official model code",
    "§": "from another paper",
}


@dataclass(frozen=True)
class CellText:
    """The visible parts of a cell; empty parts are not shown, `paper` is what stands in brackets."""

    ours: str
    mark: str
    paper: str

    def __str__(self) -> str:
        return " ".join(part for part in (self.ours, self.mark, f"({self.paper})" if self.paper else "") if part)


def cell_text(cell: Cell) -> CellText:
    """What a cell shows: our value, its mark, and the paper's value (`?` where none is known); never empty."""
    paper = UNKNOWN if cell.paper is None else cell.paper + _source_mark(cell)
    if cell.state is State.NOT_APPLICABLE:
        return CellText("n/a", "", "" if cell.paper is None else paper)
    if cell.state is State.CONTROL:
        return CellText(ours(cell), "", "")
    if cell.state is State.PARTIAL:
        return CellText("partial", "", paper)
    if cell.state in (State.NOT_RUN, State.REFERENCE):
        return CellText("not run" if cell.state is State.NOT_RUN else "", "", paper)
    mark = MARKS.get(State.OTHER_DATA if cell.other_data else cell.state, "")
    return CellText(ours(cell), mark + (CUT if _is_cut(cell) else ""), paper)


def ours(cell: Cell) -> str:
    """Our value with its deviation over seeds, or with its standard error where there is one seed."""
    if not isinstance(cell.value, float):
        return cell.value or ""
    spread = cell.deviation if cell.deviation is not None else cell.standard_error
    return f"{cell.value:.{cell.digits}f}" + ("" if spread is None else f" ± {spread:.{cell.digits}f}")


def _is_cut(cell: Cell) -> bool:
    return "when cut" in cell.note


def _source_mark(cell: Cell) -> str:
    return SOURCES.get((cell.paper_source or "").split(":")[0], "")


def heading(column: ColumnSpec) -> str:
    """Column label with its unit in brackets, within the label's own brackets where it ends with some; pure numbers
    have none."""
    if column.unit in ("", "1"):
        return column.label
    return f"{column.label[:-1]}, {column.unit})" if column.label.endswith(")") else f"{column.label} ({column.unit})"


def caption(table: Table) -> str:
    """Number, title, scale, data and conditions of measurement."""
    parts = [f"{table.spec.number}. {table.spec.title}", table.caption[:1].upper() + table.caption[1:]]
    if any(column.measured_on == "architecture" for column in table.spec.columns):
        parts.append(COUNTED.format(size=table.spec.counted_at))
    if table.data:
        parts.append("Measured on " + ", ".join(table.data))
    return ". ".join(part.rstrip(".") for part in (*parts, *table.conditions)) + "."


def legend(table: Table) -> list[str]:
    """One line for each mark that occurs in the table."""
    lines = ["Ours, with the paper's value in brackets."]
    if any(cell.standard_error is not None or cell.deviation is not None for cell in table.cells):
        lines.append("± deviation over seeds, or the standard error where there is one seed.")
    lines += [f"{mark} {state}: {MEANING[state]}." for state, mark in MARKS.items() if _occurs(table, mark)]
    if _occurs(table, CUT):
        lines.append(f"{CUT} equal to the printed value when ours is cut, not rounded, to its digits.")
    if any(cell_text(cell).paper == UNKNOWN for cell in table.cells):
        lines.append(f"({UNKNOWN}) {State.UNKNOWN}.")
    words = {State.NOT_RUN: "not run", State.REFERENCE: "reference rows", State.CONTROL: "control rows"}
    words |= {State.PARTIAL: "partial", State.NOT_APPLICABLE: "n/a"}
    lines += [f"{word}: {MEANING[state]}." for state, word in words.items() if state in table.count()]
    papers = sorted({cell.paper_source.split(":")[1] for cell in table.cells if ":" in (cell.paper_source or "")})
    named = {"§": f": {', '.join(papers)}"}
    lines += [f"{mark} {text}{named.get(mark, '')}." for mark, text in SOURCE_MEANING.items() if _occurs(table, mark)]
    return lines


def _occurs(table: Table, mark: str) -> bool:
    return any(mark in cell_text(cell).mark + cell_text(cell).paper for cell in table.cells)


def to_markdown(table: Table) -> str:
    """A pipe table with caption and legend; provenance is in the CSV."""
    head = [table.spec.stub, *(heading(column) for column in table.spec.columns)]
    lines = [f"**{_markdown(caption(table))}**", "", _pipes(head), _pipes(["---", *["---:"] * (len(head) - 1)])]
    lines += [_pipes([row.label, *(str(cell_text(cell)) for cell in row.cells)]) for row in table.rows]
    return "\n".join([*lines, "", *(f"- {_markdown(line)}" for line in legend(table))]) + "\n"


def _pipes(parts: list[str]) -> str:
    return "| " + " | ".join(_markdown(part) for part in parts) + " |"


def _markdown(text: str) -> str:
    for character in "\\|*_<>`":
        text = text.replace(character, "\\" + character)
    return text


LATEX = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"$<$", ">": r"$>$", "✓": r"$\surd$", "✗": r"$\times$",
    "○": r"$\circ$", "†": r"$\dagger$", "‡": r"$\ddagger$", "§": r"\S{}", "±": r"$\pm$", "ᶜ": r"$^{c}$",
    "×": r"$\times$", "–": "--",
}  # fmt: skip


WIDE = 8
"""Columns beyond which a table is scaled to the width of the text."""


def escape_latex(text: str) -> str:
    """Text for LaTeX without packages: every special character and every mark replaced."""
    return "".join(LATEX.get(character, character) for character in text)


def to_latex(table: Table) -> str:
    r"""A `table` environment for `\input`; the document needs booktabs and, for wide tables, graphicx."""
    head = [table.spec.stub, *(heading(column) for column in table.spec.columns)]
    body = [[row.label, *(str(cell_text(cell)) for cell in row.cells)] for row in table.rows]
    opened, closed = (r"\resizebox{\textwidth}{!}{", "}") if len(table.spec.columns) > WIDE else ("", "")
    return "\n".join(
        [
            r"\begin{table}",
            r"\centering\footnotesize\setlength{\tabcolsep}{4pt}",
            rf"\caption{{{escape_latex(caption(table))}}}",
            rf"\label{{tab:{table.spec.target}}}",
            rf"{opened}\begin{{tabular}}{{l{'r' * len(table.spec.columns)}}}",
            r"\toprule",
            _latex_row(head),
            r"\midrule",
            *map(_latex_row, body),
            r"\bottomrule",
            rf"\end{{tabular}}{closed}",
            rf"\par\smallskip\raggedright {escape_latex(' '.join(legend(table)))}",
            r"\end{table}",
            "",
        ]
    )


def _latex_row(parts: list[str]) -> str:
    return " & ".join(map(escape_latex, parts)) + r" \\"


def to_csv(table: Table) -> str:
    """Tidy: one line per cell, with everything known about it; empty fields are unknown quantities."""
    stream = io.StringIO()
    writer = csv.DictWriter(stream, CSV_COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows({"table": table.spec.target, **_record(cell)} for cell in table.cells)
    return stream.getvalue()


def _record(cell: Cell) -> dict[str, object]:
    simple = {name: getattr(cell, name) for name in CSV_COLUMNS if name not in ("table", "files", "data", "state")}
    lists = {"files": ";".join(map(place, cell.files)), "data": ";".join(cell.data)}
    return {**simple, **lists, "state": str(cell.state)}


def place(path: Path) -> str:
    """The path as seen from the working folder, so that committed files name no machine."""
    here = Path.cwd()
    return (path.relative_to(here) if path.is_relative_to(here) else path).as_posix()


STYLE = (
    ".lska{font:14px/1.45 system-ui,sans-serif;margin:1em 0;overflow-x:auto}"
    ".lska table{border-collapse:collapse;border-top:2px solid;border-bottom:2px solid}"
    ".lska th,.lska td{padding:.2em .8em;text-align:right;white-space:nowrap}"
    ".lska thead th{border-bottom:1px solid}.lska th:first-child{text-align:left;font-weight:normal}"
    ".lska .paper{opacity:.7}.lska .reproduced .mark{color:#00734f}.lska .deviates .mark{color:#b3400e}"
    ".lska .not-run,.lska .does-not-apply{opacity:.6}.lska tr.reference th,.lska tr.control th{font-style:italic}"
    ".lska figcaption{margin:.4em 0;max-width:60em}.lska ul{font-size:.9em;list-style:none;padding:0}"
)


def to_html(table: Table) -> str:
    """A self-contained `<figure>`; each cell's title names its note and the metric files it came from."""
    head = "".join(f"<th scope='col'>{html.escape(h)}</th>" for h in _headings(table))
    rows = "\n".join(map(_html_row, table.rows))
    notes = "".join(f"<li>{html.escape(line)}</li>" for line in legend(table))
    return (
        f"<figure class='lska' id='{table.spec.target}'><style>{STYLE}</style>\n"
        f"<figcaption>{html.escape(caption(table))}</figcaption>\n"
        f"<table><thead><tr>{head}</tr></thead>\n<tbody>\n{rows}\n</tbody></table>\n<ul>{notes}</ul></figure>\n"
    )


def _headings(table: Table) -> Iterator[str]:
    yield table.spec.stub
    yield from map(heading, table.spec.columns)


def _html_row(row: TableRow) -> str:
    kind = " class='reference'" if row.source is None else " class='control'" if row.source.spec.control else ""
    cells = "".join(map(_html_cell, row.cells))
    return f"<tr{kind}><th scope='row'>{html.escape(row.label)}</th>{cells}</tr>"


def _html_cell(cell: Cell) -> str:
    text = cell_text(cell)
    title = "; ".join(part for part in (str(cell.state), cell.note, *map(place, cell.files)) if part)
    mark = f" <span class='mark'>{text.mark}</span>" if text.mark else ""
    paper = f" <span class='paper'>({html.escape(text.paper)})</span>" if text.paper else ""
    kind = str(cell.state).replace(" ", "-")
    return f"<td class='{kind}' title='{html.escape(title, quote=True)}'>{html.escape(text.ours)}{mark}{paper}</td>"


WRITERS: dict[str, Callable[[Table], str]] = {
    ".md": to_markdown,
    ".tex": to_latex,
    ".csv": to_csv,
    ".html": to_html,
}


def write(table: Table, path: Path) -> None:
    """Write `table` in the format of the suffix of `path`, atomically.

    Raises:
        ValueError: no such format.
    """
    if path.suffix not in WRITERS:
        raise ValueError(f"{path}: no such format for tables; expected one of {', '.join(WRITERS)}")
    with atomic_path(path) as temporary:
        temporary.write_text(WRITERS[path.suffix](table), encoding="utf-8")
