r"""A filled table in LaTeX: a `table` environment for `\input`, with booktabs rules, that fits the page."""

from __future__ import annotations

import itertools
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

from lska.tables.collect import Table, TableRow
from lska.tables.specs import Row
from lska.tables.states import State
from lska.tables.words import cell_text, facts, headings, legend

PACKAGES = r"\usepackage{booktabs,graphicx,amssymb}"
"""What the preamble of a document needs."""

LATEX = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"$<$", ">": r"$>$", "|": r"$|$",
    "✓": r"$\checkmark$", "✗": r"$\times$", "○": r"$\circ$", "†": r"$\dagger$", "‡": r"$\ddagger$",
    "§": r"$\mathsection$", "±": r"$\pm$", "ᶜ": r"$^{c}$", "×": r"$\times$", "–": "--", "—": "---", "−": "$-$",
    "≤": r"$\leq$", "≥": r"$\geq$", "→": r"$\rightarrow$", "…": r"\dots{}", "µ": r"$\mu$",
}  # fmt: skip

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


@dataclass(frozen=True)
class Panel:
    """Some columns of a table, and the rows that they apply to, by number."""

    columns: tuple[int, ...]
    rows: tuple[int, ...]


def escape_latex(text: str) -> str:
    """Text for LaTeX: every special character and every mark replaced."""
    return "".join(LATEX.get(character, character) for character in text)


def to_latex(table: Table) -> str:
    r"""A `table` environment for `\input`; its first lines say which packages the document needs.

    Columns that do not fit beside each other are stacked in panels, each with the labels of its rows. What does not
    fit on a page goes on in a second environment under the same number.
    """
    spec = table.spec
    title = f"{spec.title} ({spec.number} of the paper)"
    words = " ".join([f"{title}.", *facts(table)])
    captions = [rf"\caption[{escape_latex(title)}]{{{escape_latex(words)}}}" + "\n" + rf"\label{{tab:{spec.target}}}"]
    pages = _pages(panels(table))
    captions += [r"\addtocounter{table}{-1}\caption[(continued)]{(continued)}"] * (len(pages) - 1)
    notes = rf"\par\smallskip\raggedright\scriptsize {escape_latex(' '.join(legend(table)))}"
    head = [f"% {spec.number}. Use it with \\input; the preamble needs", f"% {PACKAGES}"]
    floats = [
        _float(caption, [_tabular(table, panel) for panel in page], notes if page is pages[-1] else "")
        for caption, page in zip(captions, pages, strict=True)
    ]
    return "\n".join([*head, *floats, ""])


def _float(caption: str, tabulars: Sequence[str], notes: str) -> str:
    body = "\n\\par\\medskip\n".join(tabulars)
    look = r"\centering\footnotesize\setlength{\tabcolsep}{4pt}\setlength{\belowcaptionskip}{6pt}"
    return "\n".join(filter(None, [r"\begin{table}", look, caption, body, notes, r"\end{table}"]))


def _pages(found: Sequence[Panel]) -> list[list[Panel]]:
    """Panels of a page; one with more rows than a page has is divided."""
    pages: list[list[Panel]] = []
    left = 0
    for panel in found:
        for rows in (panel.rows[start : start + PAGE - HEAD] for start in range(0, len(panel.rows), PAGE - HEAD)):
            if not pages or len(rows) + HEAD > left:
                pages.append([])
                left = PAGE
            pages[-1].append(Panel(panel.columns, rows))
            left -= len(rows) + HEAD
    return pages


def panels(table: Table) -> list[Panel]:
    """Columns in order: in one panel where that fits as it is, else in as few and about equally wide ones as possible,
    each of columns that apply to the same rows."""
    labels = [line for row in table.rows for line in textwrap.wrap(row.label, LABEL)]
    label = max(map(_width, labels), default=0.0) + SEPARATION
    columns, widths = range(len(table.spec.columns)), _column_widths(table)
    if label + sum(widths) <= TEXT:
        return [Panel(tuple(columns), tuple(range(len(table.rows))))]
    found = []
    for rows, group in itertools.groupby(columns, lambda column: _applying(table, column)):
        found += [Panel(packed, rows) for packed in _pack(list(group), widths, TEXT / SMALLEST - label)]
    return found


def _applying(table: Table, column: int) -> tuple[int, ...]:
    """Rows that have this column; a cell of theirs may be n/a all the same."""
    label = table.spec.columns[column].label
    return tuple(
        number
        for number, row in enumerate(table.rows)
        if (row.cells[column].state is not State.NOT_APPLICABLE if row.source is None else _has(row.source, label))
    )


def _has(row: Row, column: str) -> bool:
    return not row.spec.columns or column in row.spec.columns


def _column_widths(table: Table) -> list[float]:
    """Points of each column; headings may be broken between words."""
    texts = [[str(cell_text(cell)) for cell in row.cells] for row in table.rows]
    words = [head.split() for head in headings(table)[1:]]
    return [max(map(_width, [*head, *cells])) + SEPARATION for head, *cells in zip(words, *texts, strict=True)]


def _width(text: str) -> float:
    """About how many points a text takes."""
    widths = (0.66 if c in NARROW else 1.5 if c in WIDE or c.isupper() else 1.0 for c in text)
    return LETTER * sum(widths)


def _pack(columns: Sequence[int], widths: Sequence[float], room: float) -> list[tuple[int, ...]]:
    """Columns in as few parts of at most `room` as possible, the widest of which is as narrow as possible."""
    fewest = _greedy(columns, widths, room)
    narrower = (_greedy(columns, widths, width) for width in range(1, int(room)))
    return next((parts for parts in narrower if len(parts) == len(fewest)), fewest)


def _greedy(columns: Sequence[int], widths: Sequence[float], room: float) -> list[tuple[int, ...]]:
    found: list[tuple[int, ...]] = []
    left = 0.0
    for column in columns:
        if not found or widths[column] > left:
            found.append(())
            left = room
        found[-1] = (*found[-1], column)
        left -= widths[column]
    return found


def _tabular(table: Table, panel: Panel) -> str:
    heads = [escape_latex(table.spec.stub), *(_head(table, column, panel.rows) for column in panel.columns)]
    rows = [table.rows[number] for number in panel.rows]
    # Never enlarged: only a panel that exceeds the text is given its width.
    return "\n".join(
        [
            r"\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{%",
            rf"\begin{{tabular}}{{@{{}}l{'r' * len(panel.columns)}@{{}}}}",
            r"\toprule",
            _line(heads),
            r"\midrule",
            *(_line([_stack(row.label, LABEL, "l"), *_cells(row, panel.columns)]) for row in rows),
            r"\bottomrule",
            r"\end{tabular}}",
        ]
    )


def _cells(row: TableRow, columns: Sequence[int]) -> list[str]:
    return [escape_latex(str(cell_text(row.cells[column]))) for column in columns]


def _line(parts: Sequence[str]) -> str:
    return " & ".join(parts) + r" \\"


def _head(table: Table, column: int, rows: Sequence[int]) -> str:
    """A heading on as many lines as keep it about as wide as its column's cells."""
    text = headings(table)[column + 1]
    cells = (str(cell_text(table.rows[row].cells[column])) for row in rows)
    return _stack(text, max(8, *map(len, text.split()), *map(len, cells)), "r")


def _stack(text: str, width: int, side: str) -> str:
    """A text on as many lines as it needs at `width` characters."""
    lines = [escape_latex(line) for line in textwrap.wrap(text, width, break_on_hyphens=False)]
    if len(lines) < 2:
        return escape_latex(text)
    return rf"\begin{{tabular}}[b]{{@{{}}{side}@{{}}}}" + r" \\ ".join(lines) + r"\end{tabular}"
