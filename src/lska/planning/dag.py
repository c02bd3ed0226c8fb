"""The jobs that Snakemake would run, from Snakemake itself: a dry run that leaves the project's folder untouched."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from lska.commands import ask
from lska.planning.snakemake_plugin import VARIABLE
from lska.planning.snakemake_plugin import __path__ as plugin_path

_PLAN_SECONDS = 3600.0
"""What Snakemake may take to plan: minutes for tens of thousands of jobs."""

UNLIMITED_CORES = 1_000_000
"""Given to Snakemake so that it scales no job's threads down."""

_OWN = (".snakemake", "work")
"""Entries of a project that a dry run writes to."""

_KEPT = ("metadata", "incomplete")
"""What Snakemake remembers of former runs, which decides what it runs again."""


class PlanningError(RuntimeError):
    """Snakemake refused to plan; the message says what it said."""


@dataclass(frozen=True)
class Job:
    """A job that Snakemake would run."""

    id: int
    rule: str
    wildcards: Mapping[str, str]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    threads: int
    gpus: int
    reason: str
    """Why, in Snakemake's words."""
    needs: tuple[int, ...] = ()
    """Jobs that have to be done before."""


@dataclass(frozen=True)
class Request:
    """What is to be planned: the configuration as the commands are given it, and what Snakemake is asked to make."""

    config: Sequence[Path]
    overrides: Mapping[str, Any]
    targets: Sequence[str] = ()
    cores: int | None = None
    """Cores that jobs are scaled down to; None for what each asks for."""
    forced: Sequence[str] = ()
    """Rules or files that are made again in any case."""


def planned_jobs(request: Request, project: Path) -> list[Job]:
    """The jobs of a dry run in `project`, the folder with the Snakefile, in Snakemake's order.

    Raises:
        ValueError: `project` has no Snakefile.
        PlanningError: Snakemake failed, for example on an unknown target; its words are in the message.
    """
    if not (project / "Snakefile").is_file():
        raise ValueError(f"{project}: no Snakefile; run `lska plan` in the project's folder")
    with _mirrored(project.absolute()) as folder:
        record = folder / "work" / "jobs.jsonl"
        command = _command(request, project, folder)
        done = ask(command, _PLAN_SECONDS, cwd=folder, env=_environment(record), stderr=subprocess.STDOUT)
        if done.returncode != 0:
            raise PlanningError(f"Snakemake cannot plan this:\n{_complaint(done.stdout)}")
        lines = record.read_text(encoding="utf-8").splitlines() if record.exists() else []
    return _linked([json.loads(line) for line in lines])


@contextmanager
def _mirrored(project: Path) -> Iterator[Path]:
    """A folder of links to everything in the project, but for what a dry run writes to.

    A dry run makes Snakemake's own folders, and the Snakefile marks outdated passes: both happen here and vanish.
    """
    with tempfile.TemporaryDirectory(prefix="lska-plan-") as name:
        folder = Path(name)
        for entry in project.iterdir():
            if entry.name not in _OWN:
                (folder / entry.name).symlink_to(entry)
        for own in _OWN:
            (folder / own).mkdir()
        for kept in _KEPT:
            if (project / ".snakemake" / kept).is_dir():
                (folder / ".snakemake" / kept).symlink_to(project / ".snakemake" / kept)
        yield folder


def _command(request: Request, project: Path, folder: Path) -> list[str]:
    # Settings go into a file: on the command line Snakemake would read nested values as text.
    settings = folder / "work" / "overrides.yaml"
    settings.write_text(yaml.safe_dump(dict(request.overrides)), encoding="utf-8")
    files = [path.absolute() for path in request.config]
    inside = [folder / path.relative_to(project) if path.is_relative_to(project) else path for path in files]
    cores = UNLIMITED_CORES if request.cores is None else request.cores
    command = [sys.executable, "-m", "snakemake", "--dry-run", "--nolock", "--rerun-incomplete", "--nocolor"]
    command += ["--cores", str(cores), "--logger", "lska", "--configfile", *map(str, [*inside, settings])]
    if request.forced:
        command += ["--forcerun", *request.forced]
    return [*command, "--", *request.targets]


def _environment(record: Path) -> dict[str, str]:
    paths = [*plugin_path, *filter(None, [os.environ.get("PYTHONPATH")])]
    # A path that is relative for the caller would be another one in the mirror.
    absolute = [str(Path(path).absolute()) for entry in paths for path in entry.split(os.pathsep)]
    # Snakemake keeps a cache below a home folder, which may not be there or not be written to.
    own = {"XDG_CACHE_HOME": str(record.parent), VARIABLE: str(record)}
    return {**os.environ, "PYTHONPATH": os.pathsep.join(absolute), **own}


def _complaint(said: str) -> str:
    """The end of what Snakemake said, without the header that every run has."""
    header = ("  ", "=====", "SNAKEMAKE", "Assuming unrestricted", "Building DAG")
    lines = [line for line in said.splitlines() if line.strip() and not line.startswith(header)]
    return "\n".join(f"  {line}" for line in lines[-12:])


def _linked(entries: list[dict[str, Any]]) -> list[Job]:
    """Jobs with the jobs whose outputs they read."""
    makers = {output: entry["id"] for entry in entries for output in entry["outputs"]}
    jobs = []
    for entry in entries:
        needs = {makers[name] for name in entry["inputs"] if name in makers} - {entry["id"]}
        tuples = {key: tuple(entry[key]) for key in ("inputs", "outputs")}
        jobs.append(Job(**{**entry, **tuples}, needs=tuple(sorted(needs))))
    return jobs
