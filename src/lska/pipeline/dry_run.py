"""The jobs that Snakemake would run, from Snakemake itself: a dry run that leaves the project's folder untouched."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from lska.provenance.errors import InputError, LskaError
from lska.provenance.surroundings import ask

_SECONDS = 3600.0
"""What Snakemake may take to plan: minutes for tens of thousands of jobs."""

_PLUGINS = Path(__file__).parent / "snakemake_plugin"


class PlanningError(LskaError, RuntimeError):
    """Snakemake refused to plan; the message says what it said."""


@dataclass(frozen=True)
class SnakemakeJob:
    """A job that Snakemake would run."""

    id: int
    """Snakemake's jobid in this dry run."""
    rule: str
    wildcards: Mapping[str, str]
    inputs: Sequence[str]
    outputs: Sequence[str]
    threads: int
    gpus: int
    reason: str
    """Why, in Snakemake's words."""
    needs: Sequence[int] = ()
    """Jobs that have to be done before: those that make its inputs."""

    @classmethod
    def named(cls, rule: str, **wildcards: str) -> SnakemakeJob:
        """A job of which no more is known."""
        return cls(-1, rule, wildcards, (), (), threads=1, gpus=0, reason="")


def planned_jobs(
    project: Path, config: Sequence[Path], overrides: Mapping[str, Any], targets: Sequence[str] = ()
) -> list[SnakemakeJob]:
    """The jobs of a dry run in `project`, the folder with the Snakefile, in Snakemake's order.

    Raises:
        ValueError: `project` has no Snakefile.
        PlanningError: Snakemake failed, for example on an unknown target; its words are in the message.
    """
    if not (project / "Snakefile").is_file():
        raise InputError(f"{project}: no Snakefile; run `lska plan` in the project's folder")
    project = project.absolute()
    with tempfile.TemporaryDirectory(prefix="lska-plan-") as name:
        own, folder = Path(name), Path(name) / "project"
        # Links to everything but the folder that Snakemake writes to; of that, what it remembers of former runs, which
        # decides what it runs again. States and caches, in `work`, decide nothing.
        (folder / ".snakemake").mkdir(parents=True)
        linked = [path for path in project.iterdir() if path.name not in ("work", ".snakemake")]
        for path in [*linked, project / ".snakemake/metadata", project / ".snakemake/incomplete"]:
            if path.exists():
                (folder / path.relative_to(project)).symlink_to(path)
        # Settings go into a file: on the command line Snakemake would read nested values as text.
        settings, record = own / "overrides.yaml", own / "jobs.jsonl"
        settings.write_text(yaml.safe_dump(dict(overrides)), encoding="utf-8")
        files = [path.absolute() for path in config]
        files = [folder / path.relative_to(project) if path.is_relative_to(project) else path for path in files]
        # With so many cores that no job's threads are scaled down.
        command = [sys.executable, "-m", "snakemake", "--dry-run", "--nolock", "--rerun-incomplete", "--nocolor",
                   "--cores", "1000000", "--logger", "lska", "--logger-lska-jobs", str(record),
                   "--configfile", *map(str, [*files, settings]), "--", *targets]  # fmt: skip
        # A path that is relative for the caller would be another one in the folder of links.
        paths = [str(_PLUGINS), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
        absolute = os.pathsep.join(str(Path(path).absolute()) for path in paths if path)
        # Snakemake keeps a cache below a home folder, which may not be there or not be written to.
        environment = {**os.environ, "PYTHONPATH": absolute, "XDG_CACHE_HOME": str(own)}
        done = ask(command, _SECONDS, "Snakemake's dry run", cwd=folder, env=environment, stderr=subprocess.STDOUT)
        if done.returncode != 0:
            said = [line for line in done.stdout.rpartition("Building DAG of jobs...")[2].splitlines() if line.strip()]
            raise PlanningError("\n  ".join(["Snakemake cannot plan this:", *said[-12:]]))
        lines = record.read_text(encoding="utf-8").splitlines() if record.exists() else []
    jobs = [SnakemakeJob(**json.loads(line)) for line in lines]
    makers = {output: job.id for job in jobs for output in job.outputs}
    return [
        replace(job, needs=sorted({makers[path] for path in job.inputs if path in makers} - {job.id})) for job in jobs
    ]
