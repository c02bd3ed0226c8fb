"""Figures on disk against the same figures drawn now; takes seconds each, and imports matplotlib."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from lska.tables.collect import Table
from lska.verify.files import broken
from lska.verify.findings import Finding


def check(table: Table, paths: Sequence[Path]) -> Iterator[Finding]:
    """Draw `table` anew and compare bytes, which are equal for equal numbers, code, matplotlib and fonts.

    Args:
        paths: its drawings, as PNG, PDF or SVG.
    """
    from lska.tables.figures import draw

    with tempfile.TemporaryDirectory(prefix="lska-") as folder:
        copies = [Path(folder) / path.name for path in paths]
        draw(table, copies)
        for path, copy in zip(paths, copies, strict=True):
            if path.read_bytes() != copy.read_bytes():
                yield broken(path, "", "is not what is drawn now from the metric files by this code and matplotlib")
