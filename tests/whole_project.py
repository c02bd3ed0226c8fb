"""A copy of the project in which Snakemake runs."""

from __future__ import annotations

import itertools
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

PROJECT = Path(__file__).resolve().parents[1]
COPIED = ("Snakefile", "workflow", "config", "notebooks", "paper", "profiles", "src", "envs", "pyproject.toml")
LINKS = ("slurm", "workstation")
PLUGIN = Path("src/lska/pipeline/snakemake_plugin")
SCALE = Path(__file__).with_name("scale.yaml")
"""The configuration of the scale that runs every rule once."""

SITE = {"claims", "summaries", "notebook_pages", "report", "examples"}
"""Rules that show everything: they follow whatever is measured, and nothing is measured for them."""


@dataclass(frozen=True)
class Project:
    """A copy of the project in which Snakemake runs."""

    root: Path

    def run(self, *command: str, timeout: float = 1700) -> subprocess.CompletedProcess[str]:
        """Run a command in the copy with the copy's own sources; output is captured. Where one takes longer
        than `timeout` seconds, the test fails and shows its last words."""
        scripts = Path(sys.executable).parent
        environment = {
            **os.environ,
            "PATH": f"{scripts}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": os.pathsep.join(map(str, (self.root / "src", self.root / PLUGIN))),
        }
        environment.pop("OMP_NUM_THREADS", None)
        process = subprocess.Popen(
            command, cwd=self.root, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        try:
            said = process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired as late:
            process.terminate()  # `lska warm` passes it on
            words = b"".join(filter(None, (late.stdout, late.stderr))).decode()
            pytest.fail(f"{shlex.join(command)}: not done after {timeout:.0f} s. Its last words:\n{words[-6000:]}")
        return subprocess.CompletedProcess(command, process.returncode, *said)

    def snakemake(self, *arguments: str, timeout: float = 1700) -> str:
        """Run Snakemake on two cores and return all it said to people; fails the test when it fails."""
        start = () if "--dry-run" in arguments else ("lska", "warm")
        done = self.run(*start, "snakemake", "--cores", "2", *arguments, timeout=timeout)
        said = done.stdout + done.stderr
        assert done.returncode == 0, said[-6000:]
        return said

    def planned(self, *arguments: str) -> dict[str, int]:
        """Rules that a dry run would execute, with the number of jobs of each."""
        return dict(Counter(job["rule"] for job in self.planned_jobs(*arguments)))

    def planned_jobs(self, *arguments: str) -> list[dict[str, Any]]:
        """The jobs that a dry run would execute, as the project's logger of Snakemake writes them."""
        with tempfile.TemporaryDirectory() as folder:
            record = Path(folder) / "jobs.jsonl"
            self.snakemake("--dry-run", "--logger", "lska", "--logger-lska-jobs", str(record), *arguments)
            lines = record.read_text("utf-8").splitlines() if record.exists() else []
        return list(map(json.loads, lines))

    def plan(self, *arguments: str) -> dict[str, Any]:
        """What `lska plan --json` prints."""
        done = self.run("lska", "plan", "--json", *arguments)
        assert done.returncode == 0, done.stderr[-4000:]
        return json.loads(done.stdout)

    def ran(self) -> dict[str, int]:
        """Rules of the last run with the number of jobs of each, from Snakemake's own words in its log."""
        log = max((self.root / ".snakemake/log").iterdir(), key=lambda path: path.stat().st_mtime)
        lines = log.read_text("utf-8").splitlines()
        start = next(index for index, line in enumerate(lines) if line.split() == ["job", "count"])
        rows = itertools.takewhile(lambda row: len(row) == 2, map(str.split, lines[start + 2 :]))
        return {rule: int(count) for rule, count in rows if rule != "total"}


def work(counts: dict[str, int]) -> dict[str, int]:
    """Of the jobs by rule, those that train, measure or make data; passes of a task as one, without their numbers."""
    shown = ("notebook_", "table_", "figure_", "all")
    found: dict[str, int] = {}
    for rule, number in counts.items():
        if not rule.startswith(shown) and rule not in SITE:
            name = re.sub(r"_\d+$", "", rule)
            found[name] = found.get(name, 0) + number
    return found


def copy_project(destination: Path) -> Project:
    """Copy what the pipeline needs, without results."""
    destination.mkdir(parents=True)
    for name in COPIED:
        source = PROJECT / name
        if source.is_dir():
            shutil.copytree(source, destination / name, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
        else:
            shutil.copy2(source, destination / name)
    for name in LINKS:
        (destination / name).symlink_to((PROJECT / name).readlink())
    return Project(destination)
