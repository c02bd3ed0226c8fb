"""The words of a table: what a cell shows, headings, the caption with scale and data, and the legend."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from lska.tables.collect import MEANING, Cell, State, Table
from lska.tables.specs import ColumnSpec, data_names, display_names

MARKS = {State.REPRODUCED: "✓", State.DEVIATES: "✗", State.OTHER_DATA: "○"}
CUT = "ᶜ"
UNKNOWN = "?"
WORDS = {State.NOT_RUN: "not run", State.REFERENCE: "", State.PARTIAL: "partial", State.NOT_APPLICABLE: "n/a"}
"""What stands in place of our value."""
SOURCES = {
    "derived": ("†", "follows by arithmetic from a printed statement"),
    "computed": ("‡", "not printed; counted on the official model code"),
    "other-paper": ("§", "from another paper"),
}
"""Mark and meaning of how the paper's value is known; none where it is printed."""


class CellText(NamedTuple):
    """The visible parts of a cell; empty parts are not shown, `paper` is what stands in brackets."""

    ours: str
    mark: str
    paper: str

    def __str__(self) -> str:
        return " ".join(part for part in (self.ours, self.mark, f"({self.paper})" if self.paper else "") if part)


def shown(value: float, significant: int = 4, *, decimals: int | None = None, spread: float | None = None) -> str:
    """A number as text: `−72.0 ± 2.6` with a fixed number of `decimals`, as tables write it; otherwise with so many
    `significant` digits and without an exponent, whole numbers in full.

    Args:
        spread: a deviation or standard error, shown with as many decimals as the value.
    """
    if decimals is not None:
        text = f"{value:.{decimals}f}" + ("" if spread is None else f" ± {spread:.{decimals}f}")
        return text.replace("-", "−")
    text = f"{value:.{significant}g}"
    return f"{value:,.0f}" if float(value).is_integer() or "e+" in text else text


def ours(cell: Cell) -> str:
    """Our value with its deviation over seeds and, in square brackets, their number; with one seed, with its standard
    error."""
    if not isinstance(cell.value, float):
        return cell.value or ""
    spread = cell.standard_error if cell.deviation is None else cell.deviation
    text = shown(cell.value, decimals=cell.digits, spread=spread)
    return f"{text} [{len(cell.seeds)}]" if len(cell.seeds) > 1 else text


def cell_text(cell: Cell) -> CellText:
    """What a cell shows: our value, its mark, and the paper's value; never empty.

    `?` stands for a paper's value that is not known. Beside "not run" it is left out, as there is nothing to compare.
    """
    if cell.state in (State.CONTROL, State.FOREIGN):
        return CellText(ours(cell), "", "")
    if cell.paper is not None:
        paper = cell.paper + SOURCES.get((cell.paper_source or "").split(":")[0], ("",))[0]
    else:
        paper = "" if cell.state in (State.NOT_APPLICABLE, State.NOT_RUN) else UNKNOWN
    if cell.state in WORDS:
        return CellText(WORDS[cell.state], "", paper)
    mark = MARKS.get(State.OTHER_DATA if cell.other_data else cell.state, "")
    return CellText(ours(cell), mark + (CUT if cell.cut else ""), paper)


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
    """Number, title, scale, data, conditions of measurement, and where the curves are highest."""
    return " ".join([_sentence(f"{table.spec.number}. {table.spec.title}"), *facts(table)])


def facts(table: Table) -> list[str]:
    """What a caption says after the title: scale, what counts are of, data, conditions, where curves are highest."""
    found = [table.caption]
    if any(column.measured_on == "architecture" for column in table.spec.columns):
        found.append(f"Counts are always those of the paper's own architectures, at {table.spec.counted_at} pixels")
    found.append(f"Measured on {data_names(table.data)}" if table.data else "No data set enters it")
    return [_sentence(text) for text in (*found, *table.conditions, *trends(table))]


def trends(table: Table) -> Iterator[str]:
    """For each column of the spec's `trend`, at which kernel size each attention is highest, and which sizes are lower
    by more than two standard errors of the difference; nothing of attentions with fewer than two measured sizes.

    A description, not a test as the claims have it: errors are taken as independent, though networks see the same
    images. The spread between trainings is pooled over the cells with several seeds and counts for all.
    """
    for column in table.spec.trend:
        curves: dict[str, dict[int, Cell]] = {}
        for row in table.rows:
            cell = next(cell for cell in row.cells if cell.column == column)
            if row.source is None or cell.standard_error is None or cell.state in (State.CONTROL, State.FOREIGN):
                continue
            if row.source.attention is not None and row.source.kernel is not None:
                curves.setdefault(row.source.attention, {})[row.source.kernel] = cell
        between = _between_trainings([cell for cells in curves.values() for cell in cells.values()])
        highest, lower = [], []
        for attention, cells in curves.items():
            if len(cells) > 1:
                best = max(cells.values(), key=lambda cell: cell.value)
                name = f"{display_names()['attentions'][attention]} at k="
                highest.append(name + _listed(size for size, cell in cells.items() if cell.value == best.value))
                beyond = _listed(size for size, cell in cells.items() if _beyond_error(best, cell, between))
                lower += [name + beyond] if beyond else []
        if highest:
            yield f"Highest {column}: {'; '.join(highest)}"
            only = f"only {'; '.join(lower)}" if lower else "none"
            yield f"Lower by more than two standard errors of the difference: {only}"


def _listed(sizes: Iterable[int]) -> str:
    return ", ".join(map(str, sizes))


def _between_trainings(cells: Iterable[Cell]) -> float:
    """Variance of one training, pooled over the cells with several seeds; 0 where there are none."""
    several = [(len(cell.seeds) - 1, cell.deviation**2) for cell in cells if cell.deviation is not None]
    return sum(freedom * variance for freedom, variance in several) / max(1, sum(freedom for freedom, _ in several))


def _beyond_error(higher: Cell, lower: Cell, between: float) -> bool:
    variances = (
        cell.standard_error**2 + (between - (cell.deviation or 0.0) ** 2) / len(cell.seeds) for cell in (higher, lower)
    )
    return higher.value - lower.value > 2 * math.sqrt(sum(variances))


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}".rstrip(".") + "."


def legend(table: Table) -> list[str]:
    """One line for each mark, state and abbreviation that occurs in the table, and for the number of seeds."""
    beside = any(cell_text(cell).paper for cell in table.cells)
    first = "Ours, with the paper's value in brackets." if beside else "Ours."
    return [first, *(f"{line}." for line in dict.fromkeys(_legend(table)))]


def _legend(table: Table) -> Iterator[str]:
    yield from table.spec.notes
    for row in table.rows:
        for column, remark in (row.source.spec.remarks if row.source else {}).items():
            yield f"{row.label}, {column}: {remark}"
    # What ± is and how many seeds are behind it; nothing where nothing was trained.
    trained = [cell for cell in table.cells if cell.seeds and isinstance(cell.value, float)]
    counts = {len(cell.seeds) for cell in trained}
    with_error = any(cell.standard_error is not None and len(cell.seeds) < 2 for cell in table.cells)
    pairs = " or their pairs" if any(column.task == "shape_texture" for column in table.spec.columns) else ""
    one = f"±: standard error over the images{pairs}" if with_error else ""
    if counts == {1}:
        yield f"One seed per network. {one}" if one else "One seed per network"
    elif counts:
        several = "[n]: mean and, after ±, sample standard deviation over n seeds"
        yield f"{several}. Without [n]: one seed{one and '; ' + one}" if 1 in counts else several
    elif one:
        yield one
    texts, states = [cell_text(cell) for cell in table.cells], table.count()
    occurring = {sign for text in texts for sign in text.mark + text.paper}
    yield from (f"{mark} {state}: {MEANING[state]}" for state, mark in MARKS.items() if mark in occurring)
    if CUT in occurring:
        yield f"{CUT} equal to the printed value when ours is cut, not rounded, to its digits"
    if any(text.paper == UNKNOWN for text in texts):
        yield f"({UNKNOWN}) {State.UNKNOWN}; a number beside it is {State.MEASURED}"
    words = WORDS | {State.REFERENCE: "reference rows", State.CONTROL: "control rows"}
    words[State.FOREIGN] = "without brackets"
    order = (
        State.NOT_RUN, State.REFERENCE, State.CONTROL, State.FOREIGN, State.PARTIAL, State.NOT_APPLICABLE
    )  # fmt: skip
    yield from (f"{words[state]}: {MEANING[state]}" for state in order if state in states)
    papers = sorted({cell.paper_source.split(":")[1] for cell in table.cells if ":" in (cell.paper_source or "")})
    named = {"other-paper": f": {', '.join(papers)}"}
    yield from (f"{mark} {text}{named.get(key, '')}" for key, (mark, text) in SOURCES.items() if mark in occurring)
