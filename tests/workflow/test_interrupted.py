"""Snakemake is stopped or killed in the middle of a training, and started again."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from lska.train.lease import ATTEMPTS

pytestmark = pytest.mark.timeout(900)

RUN = "van_tiny-lska-k7-s0"
WEIGHTS = f"checkpoints/demo/{RUN}.safetensors"
SAID = "said.txt"
ARGUMENTS = ("--cores", "1", "--rerun-incomplete", WEIGHTS, "--config", "training={state_minutes: 0.01}")


def until(met: Callable[[], object], seconds: float = 300.0) -> None:
    end = time.monotonic() + seconds
    while not met():
        assert time.monotonic() < end, f"not within {seconds} s"
        time.sleep(0.05)


@contextlib.contextmanager
def running(project: Any, arguments: Sequence[str] = ARGUMENTS) -> Iterator[subprocess.Popen]:
    """Snakemake in a process group of its own, which is killed at the end."""
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(project.root / "src"),
    }
    with (project.root / SAID).open("w") as said:
        process = subprocess.Popen(
            ["snakemake", *arguments], cwd=project.root, env=environment, start_new_session=True,
            stdout=subprocess.DEVNULL, stderr=said,
        )  # fmt: skip
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@pytest.fixture
def started(project: Any) -> Iterator[subprocess.Popen]:
    """Snakemake when its training has done some updates."""
    with running(project) as process:
        until(lambda: process.poll() is not None or updates(project) > 20)
        assert process.poll() is None, log(project)
        yield process


def updates(project: Any) -> int:
    records = list(project.root.glob(f"work/demo/train/{RUN}/*/train.jsonl"))
    return sum(record.read_text().count("\n") for record in records)


def trainer(project: Any) -> int:
    """The process that trains."""
    (file,) = project.root.glob(f"work/demo/train/{RUN}/*/owner-*.json")
    return json.loads(file.read_text())["process"]


def log(project: Any) -> str:
    path = project.root / f"work/demo/logs/train/{RUN}.log"
    return path.read_text() if path.exists() else ""


def sidecar(project: Any) -> dict[str, Any]:
    return json.loads((project.root / WEIGHTS).with_suffix(".json").read_text())


def test_ctrl_c_ends_in_two_lines_and_the_same_call_goes_on(project: Any, started: subprocess.Popen) -> None:
    os.killpg(started.pid, signal.SIGINT)  # as a terminal sends it
    assert started.wait(120) != 0
    said = (project.root / SAID).read_text()
    assert said.rstrip().splitlines()[-3:] == [
        "Ctrl-C: waiting for what runs to save its state; once more ends it at once.", "Stopped by Ctrl-C.",
        "What is done is kept, and trainings have saved their states: call the same again to go on.",
    ]  # fmt: skip
    assert "train van_tiny lska k=7" in said and not re.search("Error|Traceback|Warning", said), said
    project.snakemake(*(word for word in ARGUMENTS[2:] if word != "--rerun-incomplete"))
    assert "going on after update" in log(project)
    assert len(sidecar(project)["attempts"]) == 2


def test_a_failed_training_shows_the_end_of_its_log(project: Any) -> None:
    (project.root / "work/demo").mkdir(parents=True)
    (project.root / "work/demo/train").write_text("in the way")
    with running(project) as process:
        assert process.wait(300) == 1
    said = (project.root / SAID).read_text()
    assert f"last lines of work/demo/logs/train/{RUN}.log:\n" in said and said.count("NotADirectoryError") == 1
    assert said.rstrip().endswith("What is done is kept: mend the cause and call the same again.")
    assert "CalledProcessError" not in said and "Error in rule" not in said


def test_sigterm_to_the_whole_job_leaves_the_training_time_to_save(project: Any, started: subprocess.Popen) -> None:
    stopped = trainer(project)
    os.kill(stopped, signal.SIGSTOP)  # so that saving takes long
    # What Slurm does to a job that is cancelled: every process of the step gets the signal at once.
    os.killpg(started.pid, signal.SIGTERM)
    time.sleep(8)
    assert started.poll() is None, "Slurm kills what is left of a job when its first process ends"
    os.kill(stopped, signal.SIGCONT)
    assert started.wait(120) != 0
    assert "lska: stopped: received SIGTERM; state saved after update" in log(project)
    project.snakemake(*ARGUMENTS[2:])
    assert "going on after update" in log(project)
    assert len(sidecar(project)["attempts"]) == 2


def test_a_second_snakemake_waits_for_the_training_of_one_that_was_killed(
    project: Any, started: subprocess.Popen
) -> None:
    first = trainer(project)
    os.kill(first, signal.SIGSTOP)  # so that it is still there when the second one asks
    os.kill(started.pid, signal.SIGKILL)
    assert started.wait() == -signal.SIGKILL
    project.snakemake("--unlock", *ARGUMENTS[2:])
    with running(project) as second:
        until(lambda: f"is in use by another training (process {first} on " in log(project))
        os.kill(first, signal.SIGCONT)
        assert second.wait(300) == 0
    assert f"{WEIGHTS}: trained by another process meanwhile" in log(project)
    assert len(sidecar(project)["attempts"]) == 1
    assert project.planned(*ARGUMENTS[2:]) == {}


def test_a_training_stops_itself_in_its_jobs_time_and_the_next_attempt_goes_on(project: Any) -> None:
    # A job of one minute, of which a tenth is left to its start.
    settings = "training={state_minutes: 0.01, hours: 0.02, attempts: 4}"
    with running(project, [*ARGUMENTS[:-1], settings]) as process:
        until(lambda: process.poll() is not None or updates(project) > 20)
        stopped = trainer(project)
        os.kill(stopped, signal.SIGSTOP)  # instead of a longer training
        time.sleep(60)
        os.kill(stopped, signal.SIGCONT)
        assert process.wait(300) == 0
    (file,) = project.root.glob(f"work/demo/train/{RUN}/*/{ATTEMPTS}")
    first, second, *_ = file.read_text(encoding="utf-8").split(" has the training\n")[1:]
    assert "the wall-time budget is nearly used up" in first
    assert "going on after update" in second
    assert len(sidecar(project)["attempts"]) >= 2
    assert project.planned(*ARGUMENTS[2:-1], settings) == {}
