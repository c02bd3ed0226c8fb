"""What a scale has to show: its tables and figures, metric files, sidecars, data records, notebooks and verdicts."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from lska.claims.listing import claim_files
from lska.provenance.files import files_in, read_json
from lska.provenance.metric_files import validate
from lska.provenance.sidecars import load_sidecar
from lska.report.excerpts import Verified, verified
from lska.report.site_paths import rendered_notebook
from lska.settings.scale import Config
from lska.tables.collect import Cell, Table, collect
from lska.tables.specs import TARGETS, TableSpec, load_spec, outputs

Contents = dict[Path, dict[str, Any]]
"""JSON files by their path from the working folder."""


@dataclass(frozen=True)
class Target:
    """A table or figure with what there is of it."""

    spec: TableSpec
    table: Table | None
    problem: str
    """Why there is no table; empty where there is one."""
    files: tuple[Path, ...]
    """What was written of it, in the formats that there are."""
    notebook: Path | None
    """Its executed notebook, rendered."""

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
    verified: Verified | None
    """None where nothing was measured."""

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
    results, checkpoints = config.results, config.weights_path("run").parent
    metrics = _contents(files_in(results / "metrics", "**/*.json"), "metrics")
    verdicts = claim_files(results)[0]
    return Results(
        config,
        tuple(_target(name, config) for name in TARGETS),
        metrics=metrics,
        sidecars={path: load_sidecar(path) for path in files_in(checkpoints, "**/*.json")},
        records=_contents(files_in(results / "data", "*.json"), "record"),
        executed={path: read_json(path) for path in files_in(results / "notebooks", "*.ipynb")},
        claims=_contents([verdicts], "claims")[verdicts] if verdicts.exists() else None,
        verified=verified(config) if metrics else None,
    )


def _target(name: str, config: Config) -> Target:
    spec, page = load_spec(name), rendered_notebook(config.results, name)
    table, problem = None, ""
    try:
        table = collect(spec, config, Path("paper"), config.results)
    except FileNotFoundError as missing:
        problem = str(missing)
    written = tuple(path for path in outputs(name, config.results) if path.is_file())
    return Target(spec, table, problem, written, page if page.is_file() else None)


def _contents(paths: list[Path], schema: str) -> Contents:
    contents = {path: read_json(path) for path in paths}
    for path, content in contents.items():
        validate(content, schema, str(path))
    return contents
