"""What the audit says, as pages show it: the chain behind each cell, and the outcome of the verification."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lska.audit.explain import Origin, explain_cell
from lska.audit.findings import MEANING, Level
from lska.audit.links import ScaleFiles
from lska.audit.verify import verify_scale
from lska.settings.scale import Config
from lska.tables.collect import Cell, Table

UNSHOWN = ("shown in",)
"""Facts that a page of the site makes needless."""

FOLDERS = ("metrics", "data", "tables", "figures", "claims")
"""Folders of a scale's results from which files are copied into the site."""


def site_copy(path: Path, config: Config) -> str | None:
    """Where the site has a copy of a file of the results, of a sidecar or of the paper's values; None for others."""
    copies = {config.results: "", config.weights_path("run").parent: "weights/", Path("paper"): "paper/"}
    for folder, name in copies.items():
        if path.is_relative_to(folder):
            inner = path.relative_to(folder)
            copied = folder != config.results or inner.parts[0] in FOLDERS
            return f"files/{name}{inner.as_posix()}" if copied else None
    return None


class Excerpts:
    """The details of a page's cells; a file that many cells rest on is told once."""

    def __init__(self, config: Config) -> None:
        self.config, self.files = config, ScaleFiles(config)
        self.links: list[dict[str, Any]] = []
        self._numbers: dict[str, int] = {}

    def of_cell(self, table: Table, cell: Cell) -> dict[str, Any]:
        """Title, facts and links (their places in `links`) of a cell."""
        found = explain_cell(table, cell, self.files)
        facts = [("shown", found.shown), *_lasting(found.facts)]
        return {"title": f"{found.row}, {found.column}", "facts": facts, "links": self._add(found.links)}

    def _add(self, links: Sequence[Origin]) -> list[int]:
        return [self._place(link, self._add(link.links)) for link in links]

    def _place(self, link: Origin, below: list[int]) -> int:
        file = None if link.file is None else link.file.as_posix()
        copy = None if link.file is None or not link.file.is_file() else site_copy(link.file, self.config)
        told = {"label": link.label, "file": file, "copy": copy, "facts": _lasting(link.facts), "links": below}
        number = self._numbers.setdefault(repr(told), len(self.links))
        if number == len(self.links):
            self.links.append(told)
        return number


def _lasting(facts: Mapping[str, str]) -> list[tuple[str, str]]:
    """Facts without what is true only today, such as how many commits are newer."""
    kept = {name: text for name, text in facts.items() if name not in UNSHOWN}
    return [(name, text.partition("; ")[0] if name == "code" else text) for name, text in kept.items()]


@dataclass(frozen=True)
class Verified:
    """The outcome of `lska verify`."""

    sound: bool
    chains: int
    """Cells of tables and figures that were followed."""
    broken: int
    """Those that do not follow from their files."""
    checked: Mapping[str, int]
    """Number of files by what they are."""
    findings: Mapping[str, Mapping[str, str]]
    """By level with its meaning: each text once, with the file that it is about, or how many."""


def verified(config: Config) -> Verified:
    """Verify the results of a scale. Notes are left out: they are about the checkout of the day, not the results.

    Raises:
        ValueError: the scale has no results.
    """
    found, findings = verify_scale(config), {}
    for level in (Level.BROKEN, Level.OUTDATED, Level.UNSEALED):
        files: dict[str, list[str]] = {}
        for finding in found.of(level):
            files.setdefault(finding.text, []).append(f"{finding.file.as_posix()} {finding.place}".strip())
        if files:
            where = {text: names[0] if len(names) == 1 else f"{len(names)} files" for text, names in files.items()}
            findings[f"{level}: {MEANING[level]}"] = where
    return Verified(found.sound(), found.chains, found.broken_chains, found.checked, findings)
