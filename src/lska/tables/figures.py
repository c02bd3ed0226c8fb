"""Writing figures: from a filled table to PNG, PDF and SVG, with equal bytes for equal numbers."""

from __future__ import annotations

import re
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
DARK_PAGE, DARK_INK = bytes.fromhex("17181a"), bytes.fromhex("e8e4db")
"""What white and black become where a reader's colour scheme is dark: the colours of the report, static/site.css."""
DARK_COLOURS = {"#0072b2": "#4aa3df", "#d55e00": "#ee7c2b"}
"""Of the colours of curves and letters, those that would be hard to see on a dark page, with what they become."""


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
                if path.suffix == ".svg":
                    written = temporary.read_text(encoding="utf-8")
                    temporary.write_text(following_scheme(written), encoding="utf-8")


def following_scheme(svg: str) -> str:
    """An SVG file of Matplotlib's that follows the reader's colour scheme: where it is dark, greys from white to black
    become those from `DARK_PAGE` to `DARK_INK`. Images and other colours, also those of numbers on maps, stay.
    """
    greys = {f"#{part * 3}": _dark_grey(int(part, 16)) for part in re.findall(r": #([0-9a-f]{2})\1\1\b", svg)}
    # What Matplotlib leaves without a colour is black.
    rules = [f"svg {{ fill: {_dark_grey(0)}; }}"]
    for light, dark in sorted({**greys, **DARK_COLOURS}.items()):
        for name in ("fill", "stroke"):
            rules.append(f'[style*="{name}: {light}"] {{ {name}: {dark} !important; }}')
    style = f"<style>@media (prefers-color-scheme: dark) {{ {' '.join(rules)} }}</style>"
    return svg.replace("<defs>", f"<defs>\n  {style}", 1)


def _dark_grey(level: int) -> str:
    """What a grey of 0 (black) to 255 (white) becomes."""
    mixed = (round(ink + (page - ink) * level / 255) for page, ink in zip(DARK_PAGE, DARK_INK, strict=True))
    return f"#{bytes(mixed).hex()}"
