"""Writing figures: from a filled table to PNG, PDF and SVG, with equal bytes for equal numbers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from matplotlib.figure import Figure

from lska.files import atomic_path
from lska.tables.collect import Table
from lska.tables.diagram import designs
from lska.tables.heatmaps import heat_maps
from lska.tables.inside import blocks, estimate, receptive_fields
from lska.tables.panels import cost, panels
from lska.tables.style import styled
from lska.tables.tradeoff import trade_off

DRAWINGS: dict[str, Callable[[Table], Figure]] = {
    "trade_off": trade_off,
    "designs": designs,
    "cost": cost,
    "panels": panels,
    "heat_maps": heat_maps,
    "receptive_fields": receptive_fields,
    "blocks": blocks,
    "estimate": estimate,
}

FORMATS = (".png", ".pdf", ".svg")
DPI = 200
UNDATED = {".png": {"Software": None}, ".pdf": {"CreationDate": None, "Producer": None}, ".svg": {"Date": None}}


def draw(table: Table, paths: Sequence[Path]) -> None:
    """Draw `table` as its spec says and write each path in the format of its suffix, atomically.

    Raises:
        ValueError: unknown drawing or format.
    """
    for path in paths:
        if path.suffix not in FORMATS:
            raise ValueError(f"{path}: no such format for figures; expected one of {', '.join(FORMATS)}")
    if table.spec.drawing not in DRAWINGS:
        expected = ", ".join(DRAWINGS)
        raise ValueError(f"{table.spec.target}: drawing: expected one of {expected}, found {table.spec.drawing!r}")
    with styled():
        figure = DRAWINGS[table.spec.drawing](table)
        figure.draw_without_rendering()
        figure.set_layout_engine("none")  # one layout for all formats
        for path in paths:
            with atomic_path(path) as temporary:
                metadata = UNDATED[path.suffix] | {"Title": f"{table.spec.number}. {table.spec.title}"}
                figure.savefig(temporary, format=path.suffix[1:], dpi=DPI, metadata=metadata)
