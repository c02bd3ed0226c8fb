"""The jobs of a folder in Slurm's queue, and commands of Slurm that wait for an absent controller."""

from __future__ import annotations

import hashlib
import logging
import shlex
import shutil
from pathlib import Path

from lska.provenance.errors import LskaError
from lska.provenance.surroundings import NoAnswerError, ask

logger = logging.getLogger(__name__)

ALIVE = frozenset({"PENDING", "CONFIGURING", "RUNNING", "COMPLETING", "SUSPENDED", "REQUEUED", "RESIZING", "SIGNALING",
                   "STAGE_OUT", "STOPPED", "REQUEUE_HOLD", "REQUEUE_FED", "RESV_DEL_HOLD", "SPECIAL_EXIT"})  # fmt: skip
"""States of jobs that still do something, or will."""

STRANDED = frozenset({"PREEMPTED", "NODE_FAIL"})
"""States in which Slurm leaves a job that it does not run again by itself, and for whose end the plugin waits."""

COMMAND_SECONDS = 60

PATIENCE = {"sbatch": 86400, "squeue": 45}
"""Seconds that a command waits for the controller. Snakemake's plugin gives a query 60 seconds, and takes a job for
failed whose submission fails."""

_WAITING = """#!/bin/sh
waited=0
until [ $waited -ge {seconds} ] || {scontrol} ping 2>/dev/null | grep -q 'is UP'; do
  sleep 2
  waited=$((waited + 2))
done
exec {real} "$@"
"""

# Without an answer the plugin asks sacct instead, and loses all jobs where there is no accounting.
_REMEMBERING = """#!/bin/sh
[ "$*" = "show config" ] && exec cat {answer}
exec {real} "$@"
"""


class QueueError(LskaError, RuntimeError):
    """Slurm's controller gave no answer, or refused."""


def slurm_here() -> bool:
    """Whether this machine has Slurm's commands."""
    return shutil.which("squeue") is not None


def ask_slurm(*command: str) -> str:
    """What a command of Slurm says.

    Raises:
        QueueError: Slurm does not answer, or refuses.
    """
    try:
        done = ask(command, COMMAND_SECONDS)
    except (NoAnswerError, OSError) as error:
        raise QueueError(str(error)) from error
    if done.returncode != 0:
        raise QueueError(f"{shlex.join(command)}: {done.stderr.strip()}")
    return done.stdout


def job_prefix(folder: Path) -> str:
    """Start of the names of all jobs that Snakemake submits from `folder`."""
    return "lska-" + hashlib.sha256(str(folder.resolve()).encode()).hexdigest()[:12]


def job_states(folder: Path) -> dict[str, str]:
    """The state of each job of a folder by its id, also of those that ended lately; raises as `ask_slurm`."""
    said = ask_slurm("squeue", "--me", "--noheader", "--states=all", "--format=%i|%T|%j")
    rows = (line.strip().split("|", 2) for line in said.splitlines() if line.count("|") >= 2)
    return {number: state for number, state, name in rows if name.startswith(f"{job_prefix(folder)}_")}


def job_ended(number: str) -> bool:
    """Whether a job has ended, of which Slurm may know nothing any more; raises as `ask_slurm`."""
    try:
        states = ask_slurm("squeue", "--noheader", "--states=all", "--format=%T", f"--jobs={number}").split()
    except QueueError as error:
        if "Invalid job id" in str(error):
            return True
        raise
    return not ALIVE.intersection(states)


def write_patient_commands(commands: Path) -> None:
    """Write commands of the same names, to be put on PATH before Slurm's own, that wait where those would fail.

    `scontrol show config` says what it says now. Nothing is written where a command is not there.
    """
    real = {name: shutil.which(name) for name in (*PATIENCE, "scontrol")}
    if None in real.values():
        return
    answer, paths = commands / "config", {name: shlex.quote(str(path)) for name, path in real.items()}
    try:
        answer.write_text(ask_slurm("scontrol", "show", "config"), encoding="utf-8")
    except QueueError as error:
        logger.warning("Slurm's commands will not wait where its controller is away: %s", error)
        return
    waits = {name: {"scontrol": paths["scontrol"], "real": paths[name], "seconds": PATIENCE[name]} for name in PATIENCE}
    texts = {name: _WAITING.format(**values) for name, values in waits.items()}
    texts["scontrol"] = _REMEMBERING.format(real=paths["scontrol"], answer=shlex.quote(str(answer)))
    for name, text in texts.items():
        (commands / name).write_text(text, encoding="utf-8")
        (commands / name).chmod(0o755)
