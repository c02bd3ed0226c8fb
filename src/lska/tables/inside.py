"""Figures 4, 5, 7 and 8: drawings of what networks look at and of how they are built, from a filled table."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from lska.files import MissingFileError
from lska.outcomes import read_arrays
from lska.tables import curves as c
from lska.tables.cell_text import facts
from lska.tables.collect import Table
from lska.tables.fields import receptive_fields as draw_fields

FOOT = 0.45
"""Inches kept free for the small print."""


def receptive_fields(table: Table) -> Figure:
    """Contribution maps of the trained networks that the table names, from the files beside their metric files.

    Raises:
        FileNotFoundError: a map is missing; says which rule makes it.
        ValueError: a map is damaged.
    """
    maps, seeds = {}, set()
    for row in table.rows:
        source, files = row.source, row.cells[0].files
        if source is not None and source.attention is not None and source.kernel is not None and files:
            maps[source.attention, source.kernel] = _map(files[0])
            seeds |= set(row.cells[0].seeds[:1])
    if not maps:
        figure = Figure(figsize=(c.WIDTH, 1.2))
        figure.text(0.5, 0.6, "no network was measured at this scale", ha="center", va="center")
        c.footer(figure, table)
        return figure
    shown = f"Trained networks, seed {' or '.join(map(str, sorted(seeds)))}."
    return draw_fields(maps, " ".join([*facts(table), shown]))


def _map(metrics: Path) -> np.ndarray:
    """The map of the trained network, beside `<results>/metrics/receptive_field/<run>.json`."""
    path = metrics.parents[2] / "fields" / f"{metrics.stem}.npz"
    try:
        maps = read_arrays(path)
    except MissingFileError as error:
        raise FileNotFoundError(
            f"{path}: contribution maps missing although {metrics} is there; delete that file and run its rule again"
        ) from error
    if "trained" not in maps:
        raise ValueError(f"{path}: has no map of the trained network; delete {metrics} and run its rule again")
    return maps["trained"].astype(np.float64)


def blocks(table: Table) -> Figure:
    """Figure 5: the stages of VAN, a block, and both attentions, as the modules are."""
    import torch

    from lska.models import create
    from lska.tables.blocks import block_diagram
    from lska.tables.structure import structure

    options = table.spec.options
    with torch.device("meta"):
        pair = [
            structure(create(options["model"], attention=attention, kernel_size=options["kernel"]))
            for attention in ("lka", "lska")
        ]
    figure = block_diagram(*pair, foot=FOOT)
    c.footer(figure, table)
    return figure


def estimate(table: Table) -> Figure:
    """Figure 7: how dimensions of shape and texture are estimated, with made-up activations of known encoding."""
    from lska.tables.estimate import estimate_diagram, planted_example

    options = table.spec.options
    figure = estimate_diagram(tuple(options["categories"]), *planted_example(), foot=FOOT)
    words = [*facts(table)[:1], "The activations are made up; their dimensions follow by the code of Table XII."]
    c.footer(figure, table, "The file with numbers beside this figure has the measured ones.", words)
    return figure
