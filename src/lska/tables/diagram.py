"""Figure 2."""
from __future__ import annotations
from matplotlib.figure import Figure
from lska.tables.collect import Table
def designs(table: Table) -> Figure:
    return Figure()
