"""The chain behind each cell of a table, as a page keeps it: facts of the cell, and its links, each once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lska.audit.explain import Origin, explain_cell
from lska.audit.links import ScaleFiles
from lska.config import Config
from lska.tables.collect import Cell, Table

UNSHOWN = ("shown in",)
"""Facts that a page of the site makes needless."""

FOLDERS = ("metrics", "data", "tables", "figures", "claims")
"""Folders of a scale's results from which files are copied into the site."""


def place(path: Path, config: Config) -> str | None:
    """Where the site has a copy of a file of the results, of a sidecar or of the paper's values; None for others."""
    copies = {config.results: "", config.weights_path("run").parent: "weights/", Path("paper"): "paper/"}
    for folder, name in copies.items():
        if path.is_relative_to(folder):
            inner = path.relative_to(folder)
            copied = folder != config.results or inner.parts[0] in FOLDERS
            return f"files/{name}{inner.as_posix()}" if copied else None
    return None


class Evidence:
    """The details of a page's cells; a file that many cells rest on is told once."""

    def __init__(self, config: Config) -> None:
        self.config, self.files = config, ScaleFiles(config)
        self.links: list[dict[str, Any]] = []
        self._numbers: dict[str, int] = {}

    def cell(self, table: Table, cell: Cell) -> dict[str, Any]:
        """Title, facts and links (their places in `links`) of a cell."""
        found = explain_cell(table, cell, self.files)
        facts = [("shown", found.shown), *self._facts(found.facts)]
        return {"title": f"{found.row}, {found.column}", "facts": facts, "links": self._add_all(found.links)}

    def _add_all(self, links: Sequence[Origin]) -> list[int]:
        return [self._add(link) for link in links]

    def _add(self, link: Origin) -> int:
        below = self._add_all(link.links)
        file = None if link.file is None else link.file.as_posix()
        copy = None if link.file is None or not link.file.is_file() else place(link.file, self.config)
        told = {"label": link.label, "file": file, "copy": copy, "facts": self._facts(link.facts), "links": below}
        number = self._numbers.setdefault(repr(told), len(self.links))
        if number == len(self.links):
            self.links.append(told)
        return number

    def _facts(self, facts: Mapping[str, str]) -> list[tuple[str, str]]:
        """Facts without what is true only today, such as how many commits are newer."""
        kept = {name: text for name, text in facts.items() if name not in UNSHOWN}
        return [(name, text.partition("; ")[0] if name == "code" else text) for name, text in kept.items()]


def commit(code: Mapping[str, Any]) -> str:
    """The commit that a result names, and whether its files had been changed."""
    if not code.get("commit"):
        return "unknown"
    return f"{code['commit']}{', with changes' if code.get('dirty') else ''}"
