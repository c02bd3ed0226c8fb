"""Writing figures: from a filled table to PNG, PDF and SVG, with equal bytes for equal numbers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from matplotlib.figure import Figure

from lska.evaluate.pictures import styled
from lska.provenance.errors import InputError
from lska.provenance.files import atomic_path
from lska.tables.collect import Table
from lska.tables.figure_curves import cost_curves, kernel_size_panels, trade_off
from lska.tables.figure_diagrams import block_diagram, design_diagram, estimate_diagram
from lska.tables.figure_maps import corruption_maps, receptive_fields

DRAWINGS: dict[str, Callable[[Table], Figure]] = {
    "trade_off": trade_off,
    "designs": design_diagram,
    "cost": cost_curves,
    "panels": kernel_size_panels,
    "heat_maps": corruption_maps,
    "receptive_fields": receptive_fields,
    "blocks": block_diagram,
    "estimate": estimate_diagram,
}

# Of each format, what would differ between equal figures.
UNDATED = {".png": {"Software": None}, ".pdf": {"CreationDate": None, "Producer": None}, ".svg": {"Date": None}}
DPI = 200


def draw_figure(table: Table, paths: Sequence[Path]) -> None:
    """Draw `table` as its spec says and write each path in the format of its suffix, atomically.

    Raises:
        ValueError: unknown drawing or format.
    """
    for path in paths:
        if path.suffix not in UNDATED:
            raise InputError(f"{path}: no such format for figures; expected one of {', '.join(UNDATED)}")
    if table.spec.drawing not in DRAWINGS:
        expected = ", ".join(DRAWINGS)
        raise InputError(f"{table.spec.target}: drawing: expected one of {expected}, found {table.spec.drawing!r}")
    with styled():
        figure = DRAWINGS[table.spec.drawing](table)
        figure.draw_without_rendering()
        figure.set_layout_engine("none")  # one layout for all formats
        for path in paths:
            with atomic_path(path) as temporary:
                metadata = UNDATED[path.suffix] | {"Title": f"{table.spec.number}. {table.spec.title}"}
                figure.savefig(temporary, format=path.suffix[1:], dpi=DPI, metadata=metadata)
