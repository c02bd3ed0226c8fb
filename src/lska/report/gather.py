"""What a scale has to show: its tables and figures, metric files, sidecars, data records, notebooks and verdicts."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from lska import claims
from lska.audit.verify import Verification, verify_scale
from lska.config import Config
from lska.files import files_in, read_json
from lska.provenance import validate
from lska.report import graph_path, rendered_notebook
from lska.tables import TARGETS, TableSpec, load_spec, outputs
from lska.tables.collect import Cell, Table, collect
from lska.weights.sidecars import load_sidecar

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
    def kind(self) -> str:
        """`table` or `figure`."""
        return self.name.partition("_")[0]


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
    graph: dict[str, Any] | None
    verified: Verification | None
    """What `lska verify` finds; None where nothing was measured."""

    @cached_property
    def cells(self) -> tuple[Cell, ...]:
        """All cells of the paper's tables; figures draw numbers of these once more."""
        return tuple(cell for target in self.of("table") if target.table is not None for cell in target.table.cells)

    def of(self, kind: str) -> tuple[Target, ...]:
        """The targets that are a `table` or `figure`."""
        return tuple(target for target in self.targets if target.kind == kind)


def gather(config: Config) -> Results:
    """Read the results of a scale from the working folder.

    Raises:
        ValueError: a file is no JSON, or is faulty in what tables rely on; names it.
    """
    results, checkpoints = config.results, config.weights_path("run").parent
    metrics = _contents(results / "metrics", schema="metrics")
    return Results(
        config,
        tuple(_target(name, config) for name in TARGETS),
        metrics=metrics,
        sidecars={path: load_sidecar(path) for path in files_in(checkpoints, "**/*.json")},
        records=_contents(results / "data", deep=False, schema="record"),
        executed=_contents(results / "notebooks", "*.ipynb", deep=False),
        claims=_optional(claims.outputs(results)[0], "claims"),
        graph=_optional(graph_path(results)),
        verified=verify_scale(config) if metrics else None,
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


def _contents(folder: Path, pattern: str = "*.json", deep: bool = True, schema: str | None = None) -> Contents:
    return {path: read(path, schema) for path in files_in(folder, f"**/{pattern}" if deep else pattern)}


def _optional(path: Path, schema: str | None = None) -> dict[str, Any] | None:
    return read(path, schema) if path.exists() else None


def read(path: Path, schema: str | None = None) -> dict[str, Any]:
    """A JSON file's mapping.

    Args:
        schema: that it has to fit; None for any.

    Raises:
        ValueError: it is something else; names the file.
    """
    content = read_json(path)
    if schema is not None:
        validate(content, schema, str(path))
    return content
