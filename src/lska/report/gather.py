"""What a scale has to show: its tables and figures, metric files, sidecars, data records, notebooks and verdicts; and
what the audit says of them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from lska.audit.explain import Origin, explain_cell
from lska.audit.links import MEANING, Level, ScaleFiles
from lska.audit.named import named_metrics, named_records, named_sidecars
from lska.audit.verify import verify_scale
from lska.claims.listing import claim_files
from lska.provenance.errors import InputError
from lska.provenance.files import files_in, read_json
from lska.provenance.metric_files import validate
from lska.provenance.sidecars import load_sidecar
from lska.report.site_paths import rendered_notebook
from lska.settings.scale import Config
from lska.tables.collect import Cell, Table, collect
from lska.tables.specs import TARGETS, TableSpec, load_spec, outputs

Contents = dict[Path, dict[str, Any]]
"""JSON files by their path from the working folder."""

COPIED = ("metrics", "data", "tables", "figures", "claims")
"""Folders of a scale's results from which files are copied into the site."""


@dataclass(frozen=True)
class Target:
    """A table or figure with what there is of it: `problem` says why there is no table, `files` is what was written of
    it, `notebook` its executed notebook, rendered."""

    spec: TableSpec
    table: Table | None
    problem: str
    files: tuple[Path, ...]
    notebook: Path | None

    @property
    def name(self) -> str:
        """`table_03`."""
        return self.spec.target

    @property
    def cells(self) -> tuple[Cell, ...]:
        """Its cells; none where there is no table."""
        return () if self.table is None else self.table.cells


@dataclass(frozen=True)
class Results:
    """Everything the pages of a scale are made of."""

    config: Config
    targets: tuple[Target, ...]
    metrics: Contents
    sidecars: Contents
    records: Contents
    executed: Contents
    """Executed notebooks."""
    claims: dict[str, Any] | None
    verified: dict[str, Any] | None
    """None where nothing was measured."""

    @cached_property
    def files(self) -> ScaleFiles:
        """What the audit knows of the files of the scale."""
        return ScaleFiles(self.config)

    @cached_property
    def cells(self) -> tuple[Cell, ...]:
        """All cells of the paper's tables; figures draw numbers of these once more."""
        return tuple(cell for target in self.of("table") for cell in target.cells)

    def of(self, kind: str) -> tuple[Target, ...]:
        """The targets that are a `table` or `figure`."""
        return tuple(target for target in self.targets if target.name.startswith(kind))


def gather(config: Config) -> Results:
    """Read the results of a scale from the working folder.

    Raises:
        ValueError: a file is no JSON, or is faulty in what tables rely on; names it.
    """
    results, targets = config.results, []
    for name in TARGETS:
        spec, page, table, problem = load_spec(name), rendered_notebook(results, name), None, ""
        try:
            table = collect(spec, config, Path("paper"), results)
        except FileNotFoundError as missing:
            problem = str(missing)
        written = tuple(path for path in outputs(name, results) if path.is_file())
        targets.append(Target(spec, table, problem, written, page if page.is_file() else None))
    # What is left over of former configurations is no result of this one.
    metrics = _contents([path for path in sorted(named_metrics(config)) if path.is_file()], "metrics")
    try:
        claims = _contents([path for path in claim_files(results)[:1] if path.exists()], "claims")
    except InputError as error:
        raise InputError(f"{error}\n`lska claims --write` makes it again") from error
    return Results(
        config,
        tuple(targets),
        metrics=metrics,
        sidecars={path: load_sidecar(path) for path in sorted(named_sidecars(config)) if path.is_file()},
        records=_contents([path for path in sorted(named_records(config)) if path.is_file()], "record"),
        executed={path: read_json(path) for path in files_in(results / "notebooks", "*.ipynb")},
        claims=next(iter(claims.values()), None),
        verified=verified(config) if metrics else None,
    )


def _contents(paths: list[Path], schema: str) -> Contents:
    contents = {path: read_json(path) for path in paths}
    for path, content in contents.items():
        validate(content, schema, str(path))
    return contents


def site_copy(path: Path, config: Config) -> str | None:
    """Where the site has a copy of a file of the results, of a sidecar or of the paper's values; None for others."""
    copies = {config.results: "", config.checkpoints: "weights/", Path("paper"): "paper/"}
    for folder, name in copies.items():
        if path.is_relative_to(folder):
            inner = path.relative_to(folder)
            copied = folder != config.results or inner.parts[0] in COPIED
            return f"files/{name}{inner.as_posix()}" if copied else None
    return None


def verified(config: Config) -> dict[str, Any]:
    """The outcome of `lska verify`: whether it is `sound`, the number of cells (`chains`) that were followed and of
    those that are `broken`, files `checked` by what they are, and `findings` by level with its meaning: each text once,
    with the file that it is about, or how many. Notes are about the checkout of the day, and left out.
    """
    found, findings = verify_scale(config), {}
    for level in (Level.BROKEN, Level.OUTDATED, Level.MISSING, Level.UNSEALED):
        files: dict[str, list[str]] = {}
        for finding in found.of(level):
            files.setdefault(finding.text, []).append(f"{finding.file.as_posix()} {finding.place}".strip())
        if files:
            where = {text: names[0] if len(names) == 1 else f"{len(names)} files" for text, names in files.items()}
            findings[f"{level}: {MEANING[level]}"] = where
    counts = {"chains": found.chains, "broken": found.broken_chains, "checked": found.checked}
    return {"sound": found.sound(), **counts, "findings": findings}


def cell_details(table: Table, results: Results) -> dict[str, list[dict[str, Any]]]:
    """What the audit says of the `cells` of a table: title, facts, and the places of what they rest on in `links`; a
    file that many cells rest on is told once."""
    links, places = [], {}

    def lasting(facts: dict[str, str]) -> list[tuple[str, str]]:
        # Without what is true only today, such as how many commits are newer, and what a page makes needless.
        kept = {name: text for name, text in facts.items() if name != "shown in"}
        return [(name, text.partition("; ")[0] if name == "code" else text) for name, text in kept.items()]

    def place(link: Origin) -> int:
        below = [place(one) for one in link.links]
        file = None if link.file is None else link.file.as_posix()
        copy = None if link.file is None or not link.file.is_file() else site_copy(link.file, results.config)
        told = {"label": link.label, "file": file, "copy": copy, "facts": lasting(link.facts), "links": below}
        number = places.setdefault(repr(told), len(links))
        if number == len(links):
            links.append(told)
        return number

    cells = []
    for cell in table.cells:
        found = explain_cell(table, cell, results.files)
        facts = [("shown", found.shown), *lasting(found.facts)]
        cells.append(
            {"title": f"{found.row}, {found.column}", "facts": facts, "links": [place(link) for link in found.links]}
        )
    return {"cells": cells, "links": links}
