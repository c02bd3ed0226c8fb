"""Figures on disk against the same figures drawn now; takes seconds each, and imports matplotlib."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from lska.files import FileError, read_bytes
from lska.tables.collect import Table
from lska.verify.files import broken, said_of
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
            try:
                same = read_bytes(path) == copy.read_bytes()
            except FileError as error:
                yield broken(path, "", said_of(path, error))
                continue
            if not same:
                yield broken(path, "", "is not what is drawn now from the metric files by this code and matplotlib")
