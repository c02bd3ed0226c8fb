"""The words of a table: what a cell shows, headings, the caption with scale and data, and the legend."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from lska.tables.collect import Cell, Table
from lska.tables.specs import ColumnSpec
from lska.tables.states import MEANING, State

MARKS = {State.REPRODUCED: "✓", State.DEVIATES: "✗", State.OTHER_DATA: "○"}
CUT = "ᶜ"
UNKNOWN = "?"
SOURCES = {"derived": "†", "computed": "‡", "other-paper": "§"}
COUNTED = "Counts are always those of the paper's own architectures, at {size} pixels"
NO_DATA = "No data set enters it"
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
    """What a cell shows: our value, its mark, and the paper's value; never empty.

    `?` stands for a paper's value that is not known. Beside "not run" it is left out, as there is nothing to compare.
    """
    paper = UNKNOWN if cell.paper is None else cell.paper + _source_mark(cell)
    known = "" if cell.paper is None else paper
    if cell.state is State.NOT_APPLICABLE:
        return CellText("n/a", "", known)
    if cell.state is State.CONTROL:
        return CellText(ours(cell), "", "")
    if cell.state is State.PARTIAL:
        return CellText("partial", "", paper)
    if cell.state is State.NOT_RUN:
        return CellText("not run", "", known)
    if cell.state is State.REFERENCE:
        return CellText("", "", paper)
    mark = MARKS.get(State.OTHER_DATA if cell.other_data else cell.state, "")
    return CellText(ours(cell), mark + (CUT if _is_cut(cell) else ""), paper)


def ours(cell: Cell) -> str:
    """Our value with its deviation over seeds and, in square brackets, their number; with one seed, with its standard
    error."""
    if not isinstance(cell.value, float):
        return cell.value or ""
    spread = cell.deviation if cell.deviation is not None else cell.standard_error
    shown = f"{cell.value:.{cell.digits}f}".replace("-", "−")
    shown += "" if spread is None else f" ± {spread:.{cell.digits}f}"
    return f"{shown} [{len(cell.seeds)}]" if len(cell.seeds) > 1 else shown


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


def headings(table: Table) -> list[str]:
    """Head of the row labels, then of every column."""
    return [table.spec.stub, *map(heading, table.spec.columns)]


def caption(table: Table) -> str:
    """Number, title, scale, data and conditions of measurement."""
    return " ".join(map(_sentence, (f"{table.spec.number}. {table.spec.title}", *facts(table))))


def facts(table: Table) -> list[str]:
    """What a caption says after the title: scale, what counts are of, data, and conditions of measurement."""
    found = [table.caption]
    if any(column.measured_on == "architecture" for column in table.spec.columns):
        found.append(COUNTED.format(size=table.spec.counted_at))
    found.append(f"Measured on {', '.join(table.data)}" if table.data else NO_DATA)
    return [_sentence(text) for text in (*found, *table.conditions)]


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}".rstrip(".") + "."


def spread(table: Table) -> str | None:
    """What ± is and how many seeds are behind it; None where nothing was trained."""
    trained = [cell for cell in table.cells if cell.seeds and isinstance(cell.value, float)]
    counts = {len(cell.seeds) for cell in trained}
    if not trained:
        return None
    with_error = any(cell.standard_error is not None and len(cell.seeds) == 1 for cell in trained)
    one = "±: standard error over the images" if with_error else ""
    if counts == {1}:
        return f"One seed per network. {one}.".removesuffix(" .")
    several = "[n]: mean and, after ±, sample standard deviation over n seeds."
    return f"{several} Without [n]: one seed{one and '; ' + one}." if 1 in counts else several


def legend(table: Table) -> list[str]:
    """One line for each mark, state and abbreviation that occurs in the table, and for the number of seeds."""
    shown = [cell_text(cell) for cell in table.cells]
    lines = ["Ours, with the paper's value in brackets.", *(f"{note}." for note in table.spec.notes)]
    lines += [f"{line}." for line in dict.fromkeys(_remarks(table))]
    lines += [text for text in [spread(table)] if text]
    lines += [f"{mark} {state}: {MEANING[state]}." for state, mark in MARKS.items() if _occurs(shown, mark)]
    if _occurs(shown, CUT):
        lines.append(f"{CUT} equal to the printed value when ours is cut, not rounded, to its digits.")
    if any(text.paper == UNKNOWN for text in shown):
        lines.append(f"({UNKNOWN}) {State.UNKNOWN}.")
    lines += _states(table)
    papers = sorted({cell.paper_source.split(":")[1] for cell in table.cells if ":" in (cell.paper_source or "")})
    named = {"§": f": {', '.join(papers)}"}
    lines += [f"{mark} {text}{named.get(mark, '')}." for mark, text in SOURCE_MEANING.items() if _occurs(shown, mark)]
    return lines


def _remarks(table: Table) -> Iterator[str]:
    for row in table.rows:
        for column, remark in (row.source.spec.remarks if row.source else {}).items():
            yield f"{row.label}, {column}: {remark}"


def _occurs(shown: list[CellText], mark: str) -> bool:
    return any(mark in text.mark + text.paper for text in shown)


def _states(table: Table) -> Iterator[str]:
    """The states that are words, not marks."""
    words = {State.NOT_RUN: "not run", State.REFERENCE: "reference rows", State.CONTROL: "control rows"}
    words |= {State.PARTIAL: "partial", State.NOT_APPLICABLE: "n/a"}
    yield from (f"{word}: {MEANING[state]}." for state, word in words.items() if state in table.count())
