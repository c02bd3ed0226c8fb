"""Small words of the pages and of the terminal: numbers, durations, headings."""

from __future__ import annotations

import re

from lska.tables.cell_states import State
from lska.tables.cell_text import ours
from lska.tables.collect import Cell

NO_BREAK = "\xa0"
UNIT = 18
"""Letters of the longest unit that is kept on one line."""


def number_text(value: float, digits: int, spread: float | None = None) -> str:
    """`75.0 ± 1.9`, as the tables write a number and its deviation or standard error."""
    return ours(Cell("", "", State.UNKNOWN, "", digits, value=float(value), standard_error=spread))


def hours(number: float) -> str:
    """Core-hours and GPU-hours, to a hundredth or a tenth; less than a hundredth is said to be that."""
    if 0 < number < 0.01:
        return "< 0.01"
    return "0" if number == 0 else f"{number:.2f}" if number < 10 else f"{number:,.1f}"


def duration(seconds: float) -> str:
    """`0.4 s`, `35 s`, `12 min` or `2 h 05 min`."""
    if seconds < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def unbroken(text: str) -> str:
    """A heading whose unit, in brackets at its end, is not broken over lines."""
    name, opened, unit = text.partition(" (")
    return f"{name} ({unit.replace(' ', NO_BREAK)}" if opened and len(unit) <= UNIT else text


def minus(text: str) -> str:
    """Numbers in a text with real minus signs; hyphens within words and run ids stay."""
    return re.sub(r"(?<![\w)-])-(?=\d)", "−", text)


def first_capital(text: str) -> str:
    """Text with a capital letter at its start."""
    return text[:1].upper() + text[1:]
