"""A watchdog for Snakemake on a cluster: `lska supervise snakemake ...`, with which nobody has to sit beside it.

It starts Snakemake again where that was killed or waits for jobs that are gone, and takes care of what Snakemake and
its plugin for Slurm do not see: an absent controller, preempted jobs, jobs and lock of a Snakemake that is dead.
"""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

from lska.pipeline.ownership import Ownership, OwnershipError, owned
from lska.pipeline.slurm_queue import (
    ALIVE,
    STRANDED,
    QueueError,
    ask_slurm,
    job_states,
    slurm_here,
    write_patient_commands,
)
from lska.provenance.commands import ask
from lska.provenance.errors import InputError

logger = logging.getLogger(__name__)

_STOPPING = {signal.SIGINT: signal.SIGINT, signal.SIGTERM: signal.SIGTERM, signal.SIGHUP: signal.SIGTERM}
"""Signals that ask for the end, and what Snakemake is sent then: at SIGINT it cancels its jobs, at SIGTERM it waits for
those that run. It does not know SIGHUP, that of a closed terminal."""

_UNLOCK_SECONDS, _END_SECONDS = 900.0, 60.0
"""For unlocking a folder; for a Snakemake that waits for nothing to end by itself, before it is killed."""


@dataclass(frozen=True)
class Patience:
    """How patient a supervisor is."""

    restarts: int = 10
    """How often Snakemake is started again in all."""
    poll_seconds: float = 60.0
    """Time between two looks at the queue."""
    quiet_seconds: float = 900.0
    """How long Snakemake may live without any job, in the queue or beside it, before it is taken to wait for nothing.
    More than the plugin takes between two looks (180 s) and Snakemake for files to appear (`latency-wait`)."""
    leftover_seconds: float = 600.0
    """How long cancelled jobs of a dead Snakemake may take to end."""


def supervise(command: Sequence[str], patience: Patience, folder: Path | None = None) -> int:
    """Run `command`, a call of Snakemake, in `folder` to its end, and return the exit code.

    Raises:
        ValueError: it is no call of Snakemake.
        OwnershipError: Snakemake runs in the folder already, or left a lock of which nobody knows the owner.
        SystemExit: the end was asked for while no Snakemake ran.
    """
    if not command or Path(command[0]).name != "snakemake":
        raise InputError("lska supervise needs a call of Snakemake: lska supervise snakemake --profile slurm ...")
    slurm = slurm_here()
    if slurm and " " in sys.executable:
        logger.warning(
            "%s: Snakemake's executor for Slurm calls this without quotes, so that every job will fail; make the "
            "environment in a folder whose path has no space", sys.executable,
        )  # fmt: skip
    with owned(folder or Path.cwd()) as ownership, tempfile.TemporaryDirectory(prefix="lska-slurm-") as commands:
        return Supervisor(command, patience, ownership, Path(commands), slurm).run()


@dataclass
class Supervisor:
    """One supervised Snakemake after the other."""

    command: Sequence[str]
    patience: Patience
    ownership: Ownership
    commands: Path
    """Folder with commands that come before those on PATH."""
    slurm: bool
    process: subprocess.Popen[bytes] | None = None
    once: bool = False
    """Whether a Snakemake runs, is being started, or has just ended."""
    stopped: int = 0
    """The signal by which somebody asked for the end."""
    absent: bool = False
    """Whether Slurm's controller did not answer while the present Snakemake ran."""
    former: dict[str, str] = field(default_factory=dict)
    """Jobs of earlier calls of Snakemake, which the present one does not wait for."""

    def run(self) -> int:
        """The exit code of the last Snakemake."""
        # What is ignored stays so: nohup has SIGHUP ignored.
        asked = [number for number in _STOPPING if signal.getsignal(number) != signal.SIG_IGN]
        former = {number: signal.signal(number, self._asked_to_end) for number in asked}
        starts = self.patience.restarts + 1
        try:
            for start in range(1, starts + 1):
                self._clear()
                code, reason = self._once()
                if reason is None or self.stopped:
                    return code
                following = f"start {start + 1} of {starts} follows" if start < starts else "giving up"
                logger.warning("%s; %s", reason, following)
            return code or 1
        finally:
            for number, handler in former.items():
                signal.signal(number, handler)

    def _asked_to_end(self, number: int, frame: FrameType | None = None) -> None:
        """Snakemake decides what its end is; where there is none, nothing is waited for."""
        self.stopped = number
        if not self.once:
            raise SystemExit(128 + number)
        if self.process is not None and self.process.returncode is None:
            self.process.send_signal(_STOPPING[number])

    def _clear(self) -> None:
        """Take away what a dead Snakemake has left: its jobs, for which nobody waits any more, and its lock."""
        locked, folder = self.ownership.left_lock(), self.ownership.folder
        if self.slurm:
            self._cancel_leftovers()
            # Before each start: what they remember is asked of the controller, which has answered now.
            write_patient_commands(self.commands)
        if locked:
            logger.warning("removing the lock of a Snakemake that is dead")
            done = ask(self._call("--unlock"), _UNLOCK_SECONDS, cwd=folder, stderr=subprocess.STDOUT)
            if done.returncode != 0:
                raise OwnershipError(f"{folder}: Snakemake cannot be unlocked:\n{done.stdout.strip()[-2000:]}")

    def _cancel_leftovers(self) -> None:
        """Cancel the folder's jobs and wait until they have ended; for as long as it takes until Slurm answers."""
        deadline, named = time.monotonic() + self.patience.leftover_seconds, ""
        while True:
            try:
                self.former = job_states(self.ownership.folder)
                left = [job for job, state in self.former.items() if state in ALIVE]
                if not left:
                    return
                if not named:
                    logger.warning("cancelling %d job(s) of a Snakemake that is dead: %s", len(left), ", ".join(left))
                    # Slurm sends SIGTERM, upon which trainings save their state, and SIGKILL some time later.
                    ask_slurm("scancel", *left)
                    named = ", ".join(left)
            except QueueError as error:
                logger.warning("%s; trying again", error)
                deadline = time.monotonic() + self.patience.leftover_seconds
            if time.monotonic() > deadline:
                raise OwnershipError(f"jobs {named} of a dead Snakemake do not end; `scancel` them, start again")
            time.sleep(min(5.0, self.patience.poll_seconds))

    def _call(self, *options: str) -> list[str]:
        # Right after the program: what follows `--` are targets.
        return [self.command[0], *options, *self.command[1:]]

    def _once(self) -> tuple[int, str | None]:
        """Run Snakemake once; its exit code, and why it has to be started again, if it has."""
        self.once, self.absent = True, False
        self.ownership.begin()
        path = os.pathsep.join([str(self.commands), os.environ.get("PATH", os.defpath)])
        # A session of its own: Ctrl-C on the terminal would reach Snakemake twice, which makes it leave its jobs.
        self.process = subprocess.Popen(
            self._call("--rerun-incomplete"), cwd=self.ownership.folder, env={**os.environ, "PATH": path},
            pass_fds=[self.ownership.descriptor], start_new_session=True,
        )  # fmt: skip
        if self.stopped:
            self._asked_to_end(self.stopped)
        hung = self._watch(self.process)
        code, reason = self.process.wait(), None
        if hung:
            reason = "Snakemake waited for jobs that are in no queue any more"
        elif code < 0:
            code, reason = 128 - code, f"Snakemake was killed by signal {-code}"
        else:
            self.ownership.end()
            reason = "Snakemake failed after Slurm's controller was away" if code and self.absent else None
        self.once = False
        return code, reason

    def _watch(self, process: subprocess.Popen[bytes]) -> bool:
        """Return when Snakemake has ended; whether it had to be ended because it waited for nothing."""
        busy = time.monotonic()
        while True:
            try:
                process.wait(self.patience.poll_seconds)
                return False
            except subprocess.TimeoutExpired:
                pass
            if self._jobs_alive() or _has_children(process.pid):
                busy = time.monotonic()
            elif time.monotonic() - busy > self.patience.quiet_seconds:
                break
        # At SIGINT it writes down what it knows; it may not get that far.
        process.send_signal(signal.SIGINT)
        try:
            process.wait(_END_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
        return True

    def _jobs_alive(self) -> bool:
        """Whether Snakemake has something to wait for in the queue; has Slurm run stranded jobs again."""
        if not self.slurm:
            return True
        try:
            jobs = job_states(self.ownership.folder)
        except QueueError as error:
            if not self.absent:
                logger.warning("Slurm does not answer; waiting for it: %s", error)
            self.absent = True
            return True
        for job, state in jobs.items():
            if state in STRANDED and job not in self.former:
                try:
                    # Under its id, which is the one that Snakemake waits for.
                    ask_slurm("scontrol", "requeue", job)
                    logger.warning("job %s was %s; it runs again", job, state)
                except QueueError as error:
                    logger.warning("job %s is %s and cannot run again: %s", job, state, error)
        return bool(ALIVE.intersection(jobs.values()))


def _has_children(process: int) -> bool:
    """Whether a process has started others that live."""
    for path in Path(f"/proc/{process}/task").glob("*/children"):
        try:
            if path.read_text(encoding="ascii").strip():
                return True
        except OSError:
            continue  # the thread has ended
    return False
