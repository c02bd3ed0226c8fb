"""What the drawings share: looks of the attentions, bars, and the small print."""

from __future__ import annotations

import itertools
import textwrap
from collections.abc import Sequence

from matplotlib.collections import LineCollection
from matplotlib.figure import Figure

from lska.evaluate.pictures import INK
from lska.models.designs import ATTENTIONS
from lska.tables.cell_text import facts
from lska.tables.collect import Cell, Table
from lska.tables.specs import display_names

# Okabe and Ito's colours, told apart by colour-blind readers; the marker says the same once more.
_LOOKS = (
    ("#d55e00", "o"), ("#cc79a7", "s"), ("#0072b2", "^"), ("#009e73", "D"), ("#e69f00", "v"), ("#56b4e9", "P"),
    ("#000000", "X"), ("#d55e00", "<"), ("#cc79a7", ">"), ("#0072b2", "p"), ("#009e73", "h"), ("#e69f00", "*"),
)  # fmt: skip
LOOKS = dict(zip(ATTENTIONS, itertools.cycle(_LOOKS), strict=False))
"""Colour and marker of each attention."""
NAMES = display_names()["attentions"]
WIDTH = 7.0
"""Inches: the text width of a two-column page."""
SMALL = 6.5
"""Points of small print."""
FOOTER_LETTERS = 135
"""Letters of small print that fit into this width."""


def footer(figure: Figure, table: Table, note: str = "", words: Sequence[str] = ()) -> None:
    """Scale, data, conditions and what bars are, in small print below the panels; `words` instead of the caption's."""
    panels = [axes for axes in figure.axes if axes.get_label() != "<colorbar>"]  # which has lines of its own
    has_bars = any(isinstance(lines, LineCollection) for axes in panels for lines in axes.collections)
    small_print(figure, " ".join(words or facts(table)), note, error_bars(table) if has_bars else "")


def small_print(figure: Figure, *texts: str) -> None:
    """Each text in lines of its own below the panels."""
    lines = "\n".join(line for text in texts for line in balanced(text))
    figure.supxlabel(lines, fontsize=SMALL, color=INK)


def balanced(text: str, letters: int = FOOTER_LETTERS) -> list[str]:
    """Lines of at most `letters` characters, as few as possible and about equally long."""
    fewest = len(textwrap.wrap(text, letters))
    widths = range(max(1, len(text) // max(1, fewest)), letters + 1)
    return next((lines for lines in (textwrap.wrap(text, width) for width in widths) if len(lines) == fewest), [])


def error_bars(table: Table) -> str:
    """What bars stand for, and how many seeds are behind the values."""
    cells = [cell for cell in table.cells if any(error_bar(cell))]
    several = sorted({len(cell.seeds) for cell in cells if cell.deviation is not None})
    kinds = [f"sample standard deviation over {' or '.join(map(str, several))} seeds"] if several else []
    if any(cell.deviation is None and cell.standard_error is not None for cell in cells):
        kinds.append("standard error over the images of one seed")
    repeated = dict.fromkeys(cell.column for cell in cells if cell.low is not None)
    kinds += [f"quartiles of repeated measurements ({name})" for name in repeated]
    return f"Bars: {', '.join(kinds)}."


def error_bar(cell: Cell) -> tuple[float, float]:
    """Lengths below and above the value: quartiles, deviation over seeds, standard error of one run, or nothing."""
    if cell.low is not None and cell.high is not None and isinstance(cell.value, float):
        return cell.value - cell.low, cell.high - cell.value
    spread = cell.deviation if cell.deviation is not None else cell.standard_error
    return (spread or 0.0,) * 2
