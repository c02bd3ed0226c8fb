"""A copy of the project, at a tiny scale, whose Snakemake submits to the tests' Slurm."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml
from own_slurm import Cluster, wait_for
from whole_project import SCALE

from lska.provenance.files import read_json
from lska.provenance.metric_files import file_md5
from lska.train.lease import ATTEMPTS

RUN = "van_tiny-lska-k23-s0"
"""The training that faults hit."""

OVERLAY = (
    "--slurm-init-seconds-before-status-checks", "2", "--seconds-between-status-checks",
    "2", "--max-status-checks-per-second", "10", "--latency-wait", "10", "--set-resources", "train:gpu=1",
    "train:cpus_per_gpu=1",
)  # fmt: skip
"""What the tests have otherwise than the profile, beside the scale: short waits, a GPU for trainings without."""


def tiny_scale(**training: Any) -> str:
    """The configuration of every rule once, with trainings that are long enough to be hit."""
    settings = yaml.safe_load(SCALE.read_text(encoding="utf-8"))
    settings["training"] |= {"attempts": 5, "state_minutes": 0.02, **training}
    settings["training"]["overrides"] |= {"epochs": 60}
    return yaml.safe_dump(settings)


@dataclass
class ClusterProject:
    """A copy of the project whose Snakemake submits to the tests' Slurm."""

    root: Path
    cluster: Cluster
    scale: str = "tiny.yaml"
    """The configuration."""
    overlay: tuple[str, ...] = OVERLAY
    started: list[subprocess.Popen[bytes]] = field(default_factory=list)
    variables: dict[str, str] = field(default_factory=dict)
    """Of the environment, besides the cluster's."""

    @property
    def log(self) -> Path:
        """What all calls of Snakemake say."""
        return self.root / "said.log"

    def environment(self) -> dict[str, str]:
        """The cluster's variables, with the copy's own sources."""
        variables = self.cluster.environment()
        path = os.pathsep.join([str(Path(sys.executable).parent), variables["PATH"]])
        own = {"PATH": path, "PYTHONPATH": str(self.root / "src"), "OMP_NUM_THREADS": "1"}
        return {**variables, **own, **self.variables}

    def start(self, *before: str, targets: tuple[str, ...]) -> subprocess.Popen[bytes]:
        """Start `snakemake --profile slurm` behind the words `before`, in a session of its own."""
        profile = ("--profile", "slurm", "--configfile", self.scale, *self.overlay)
        command = [*before, "snakemake", *profile, "--", *targets]
        with self.log.open("ab") as log:
            process = subprocess.Popen(command, cwd=self.root, env=self.environment(), stdout=log, stderr=log,
                                       stdin=subprocess.DEVNULL, start_new_session=True)  # fmt: skip
        self.started.append(process)
        return process

    def supervised(self, *targets: str) -> subprocess.Popen[bytes]:
        """Start it with the watchdog."""
        # Between two of its looks the plugin lets more than two minutes pass.
        return self.start("lska", "supervise", "--poll-seconds", "3", "--quiet-minutes", "4", targets=targets)

    def said(self) -> str:
        """Everything that Snakemake and the watchdog said."""
        return self.log.read_text(encoding="utf-8", errors="replace") if self.log.exists() else ""

    def finish(self, process: subprocess.Popen[bytes], seconds: float = 600) -> None:
        """Wait for a good end."""
        try:
            code = process.wait(seconds)
        except subprocess.TimeoutExpired:
            pytest.fail(f"Snakemake has not ended within {seconds:.0f} s:\n{self.said()[-6000:]}")
        assert code == 0, self.said()[-6000:]

    def training_log(self, run: str = RUN) -> str:
        """What all attempts of a training said."""
        logs = (self.root / "work" / "tiny" / "train" / run).glob(f"*/{ATTEMPTS}")
        return "".join(path.read_text(encoding="utf-8", errors="replace") for path in logs)

    def attempts(self, run: str = RUN) -> list[str]:
        """What each attempt of a training said that made updates."""
        every = self.training_log(run).split(" has the training\n")[1:]
        return [one for one in every if " INFO update " in one]

    def wait_for_state(self, run: str = RUN, seconds: float = 240) -> None:
        """Return when a training has saved a state after the first update that it tells of."""
        told = self.root / "work" / "tiny" / "train" / run

        def saved() -> bool:
            return "update" in self.training_log(run) and len(list(told.rglob("state-*.pt"))) >= 2

        wait_for(saved, f"a state of {run}", seconds)

    def job(self, comment: str = "rule_train") -> dict[str, str]:
        """The latest running job of a rule."""
        wait_for(lambda: self._running(comment), f"a running job of {comment}")
        return self._running(comment)[-1]

    def _running(self, comment: str) -> list[dict[str, str]]:
        return [job for job in self.cluster.jobs("RUNNING") if job["comment"].startswith(comment)]


def numbers(root: Path, scale: str) -> dict[str, Any]:
    """All that is measured but for throughputs, and the weights that it was measured on; all weights by their MD5."""
    metrics = {path: read_json(path) for path in sorted(root.glob(f"results/{scale}/metrics/**/*.json"))}
    found: dict[str, Any] = {
        path.relative_to(root).as_posix(): (content["metrics"], content["weights"])
        for path, content in metrics.items()
        if content["task"] != "speed"
    }
    sidecars = sorted(root.glob(f"checkpoints/{scale}/**/*.json"))
    return found | {path.relative_to(root).as_posix(): read_json(path)["md5"] for path in sidecars}


def tables(root: Path, scale: str) -> dict[str, str]:
    """The MD5 of each table; not of Table XVII, as no two runs have throughputs in common."""
    found = {path.stem: file_md5(path) for path in root.glob(f"results/{scale}/tables/*.csv")}
    del found["table_17"]
    return found


def assert_equal(ours: dict[str, Any], theirs: dict[str, Any]) -> None:
    """The same names and values; tells of the names that differ."""
    assert [name for name in sorted(ours | theirs) if ours.get(name) != theirs.get(name)] == []
