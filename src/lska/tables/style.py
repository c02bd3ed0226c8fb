"""The look that all drawings share."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import matplotlib

INK = "#4d4d4d"
STYLE = {
    "font.size": 8,
    "axes.titlesize": 8,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "legend.frameon": False,
    "lines.linewidth": 1.1,
    "lines.markersize": 4,
    "figure.constrained_layout.use": True,
    "pdf.fonttype": 42,
    "svg.fonttype": "none",
    "svg.hashsalt": "lska",
    "text.parse_math": False,
}
"""Readable at the width of a column. Text stays text: PDF files embed its fonts, SVG files take the reader's. Ids in
SVG files do not depend on chance, and dollar signs are no formulas."""


@contextmanager
def styled() -> Iterator[None]:
    """Draw in this style, whatever a user's settings are, and leave those as they were."""
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(STYLE)
        yield
