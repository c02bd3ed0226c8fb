"""A watchdog for Snakemake on a cluster: `lska supervise snakemake ...`, with which nobody has to sit beside it.

It starts Snakemake again where that was killed or waits for jobs that are gone, and takes care of what Snakemake and
its plugin for Slurm do not see: an absent controller, preempted jobs, jobs and lock of a Snakemake that is dead.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shlex
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import FrameType

from filelock import FileLock, Timeout

from lska.provenance.errors import InputError, LskaError
from lska.provenance.files import parse_json, printable, quoted, read_text
from lska.provenance.strict import build
from lska.provenance.surroundings import NoAnswerError, ask

logger = logging.getLogger(__name__)

_JOB = "SLURM_JOB_ID"

_STOPPING = {signal.SIGINT: signal.SIGINT, signal.SIGTERM: signal.SIGTERM, signal.SIGHUP: signal.SIGTERM}
"""Signals that ask for the end, and what Snakemake is sent then: at SIGINT it cancels its jobs, at SIGTERM it waits for
those that run. It does not know SIGHUP, that of a closed terminal."""

_UNLOCK_SECONDS, _END_SECONDS = 900.0, 60.0
"""For unlocking a folder; for a Snakemake that waits for nothing to end by itself, before it is killed."""


class OwnershipError(LskaError, RuntimeError):
    """The folder is in use, or it cannot be told whether it is."""


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


def supervise(command: Sequence[str], patience: Patience) -> int:
    """Run `command`, a call of Snakemake, in the current folder to its end, and return the exit code.

    Raises:
        ValueError: it is no call of Snakemake.
        OwnershipError: Snakemake runs in the folder already, or left a lock of which nobody knows the owner.
        SystemExit: the end was asked for while no Snakemake ran.
    """
    if not command or Path(command[0]).name != "snakemake":
        raise InputError("lska supervise needs a call of Snakemake: lska supervise snakemake --profile slurm ...")
    with owned(Path.cwd()) as ownership, tempfile.TemporaryDirectory(prefix="lska-slurm-") as commands:
        return Supervisor(command, patience, ownership, Path(commands), shutil.which("squeue") is not None).run()


# --- Who runs Snakemake in a folder ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class FolderOwner:
    """Who was about to start a supervised Snakemake: host, number of the process, Slurm's job in which it ran."""

    host: str
    supervisor: int
    job: str | None = None

    def __str__(self) -> str:
        job = "" if self.job is None else f" (job {self.job})"
        return printable(f"process {self.supervisor} on {self.host}{job}", 200)


@dataclass(frozen=True)
class Ownership:
    """The right to run Snakemake in a folder, for as long as this process or the Snakemake that it starts lives."""

    folder: Path
    lock: Path
    """The locked file. It holds the `FolderOwner`, as JSON, from the start of a supervised Snakemake until that has
    ended by itself."""
    descriptor: int
    """Of the lock, to be passed on; the kernel releases it when the last process that has it ends."""

    def begin(self) -> None:
        """Note that Snakemake is about to be started."""
        owner = FolderOwner(socket.gethostname(), os.getpid(), os.environ.get(_JOB))
        # One write of one length: a kill leaves the old content or the new one.
        os.pwrite(self.descriptor, json.dumps(asdict(owner)).encode().ljust(500) + b"\n", 0)

    def end(self) -> None:
        """Note that it has ended by itself."""
        os.ftruncate(self.descriptor, 0)

    def left_lock(self) -> bool:
        """Whether a dead Snakemake's lock is in the way.

        Some shared file systems lock files for one machine only, so another one may still have the folder. Where a job
        of Slurm ran its Snakemake, that has ended, or is this one that was put back into the queue, nobody has it.

        Raises:
            OwnershipError: a Snakemake without a supervisor runs here, or its lock is there, so that nobody knows
                whether it still runs; or a supervised one was started on another machine and has not ended by itself.
        """
        freeing = f"if none of its processes runs on any machine any more, remove {self.lock} and start again"
        try:
            owner = _owner(self.lock)
        except ValueError as error:
            raise OwnershipError(f"{error}; so it is not known where Snakemake was started last: {freeing}") from error
        elsewhere = owner is not None and owner.host != socket.gethostname()
        if elsewhere and not (owner.job and (owner.job == os.environ.get(_JOB) or job_ended(owner.job))):
            raise OwnershipError(
                f"{self.folder}: `lska supervise` was started on {quoted(owner.host)} and its Snakemake has not ended "
                f"by itself; continue there, or {freeing}"
            )
        if others := snakemakes(self.folder):
            raise OwnershipError(
                f"{self.folder}: Snakemake runs here without a supervisor (process {', '.join(map(str, others))}); "
                "wait for it, or end it"
            )
        locks = self.folder / ".snakemake" / "locks"
        found = locks.is_dir() and any(path.stat().st_size for path in locks.iterdir())
        if found and owner is None:
            raise OwnershipError(
                f"{locks} holds the lock of a Snakemake that `lska supervise` did not start, and that may still run; "
                "end it, or call `snakemake --unlock` if it was killed; then start again"
            )
        return found


@contextmanager
def owned(folder: Path) -> Iterator[Ownership]:
    """Become the one that runs Snakemake in `folder`.

    Raises:
        OwnershipError: another supervisor, or a Snakemake that one has started, still lives; or the file system locks
            no files.
    """
    path, descriptors = folder / ".snakemake" / "lska-supervised.json", []
    path.parent.mkdir(exist_ok=True)
    lock = FileLock(path, timeout=0, fallback_to_soft=False, on_acquired=descriptors.append)
    try:
        lock.acquire()
    except Timeout:
        try:
            holder = _owner(path)
        except ValueError:
            holder = None
        raise OwnershipError(
            f"{folder}: Snakemake is already run here, by {holder or 'another process'}; wait for it, or end it and "
            "its Snakemake"
        ) from None
    except OSError as error:
        raise OwnershipError(
            f"{path}: this file cannot be locked ({error.strerror}), so it is not known whether `lska supervise` "
            "runs here; call snakemake without it, or use a folder on another file system"
        ) from error
    try:
        yield Ownership(folder, path, descriptors[0])
    finally:
        lock.release()


def _owner(path: Path) -> FolderOwner | None:
    """Whom a lock names; raises ValueError where it is damaged."""
    text = read_text(path)
    return build(FolderOwner, parse_json(text, str(path)), str(path)) if text.strip() else None


def snakemakes(folder: Path) -> list[int]:
    """Processes of this machine that run Snakemake in `folder`, but for those that do one job for another one."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            words = (process / "cmdline").read_text(encoding="utf-8", errors="replace").split("\0")
            there = (process / "cwd").samefile(folder)
        except OSError:
            continue  # it has ended, or is somebody else's
        # An interpreter comes before a script, and `-m` before a module.
        program = [Path(word).name for word in words[:3] if word != "-m"]
        if there and "snakemake" in program and "lska" not in program and "--mode" not in words:
            found.append(int(process.name))
    return sorted(found)


# --- One Snakemake after the other -----------------------------------------------------------------------------------


@dataclass
class Supervisor:
    """Starts Snakemake, watches it and Slurm's queue, and starts it again."""

    command: Sequence[str]
    patience: Patience
    ownership: Ownership
    commands: Path
    """Folder with commands that come before those on PATH."""
    slurm: bool
    process: subprocess.Popen[bytes] | None = None
    running: bool = False
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
                code, reason = self._run_once()
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
        if not self.running:
            raise SystemExit(128 + number)
        if self.process is not None and self.process.returncode is None:
            self.process.send_signal(_STOPPING[number])

    def _clear(self) -> None:
        """Take away what a dead Snakemake has left: its lock, and its jobs, for which nobody waits any more. They are
        cancelled and waited for; an absent controller is waited for as long as it takes."""
        locked, folder = self.ownership.left_lock(), self.ownership.folder
        cancelled: list[str] = []
        deadline = time.monotonic() + self.patience.leftover_seconds
        while self.slurm:
            try:
                self.former = job_states(folder)
                left = [job for job, state in self.former.items() if state in ALIVE]
                if not left:
                    break
                if not cancelled:
                    logger.warning("cancelling %d job(s) of a Snakemake that is dead: %s", len(left), ", ".join(left))
                    # Slurm sends SIGTERM, upon which trainings save their state, and SIGKILL some time later.
                    ask_slurm("scancel", *left)
                    cancelled = left
            except QueueError as error:
                logger.warning("%s; trying again", error)
                deadline = time.monotonic() + self.patience.leftover_seconds
            if time.monotonic() > deadline:
                told = ", ".join(cancelled)
                raise OwnershipError(f"jobs {told} of a dead Snakemake do not end; `scancel` them, start again")
            time.sleep(min(5.0, self.patience.poll_seconds))
        if self.slurm:
            # Before each start: what they remember is asked of the controller, which has answered now.
            write_patient_commands(self.commands)
        if locked:
            logger.warning("removing the lock of a Snakemake that is dead")
            # Right after the program: what follows `--` are targets.
            command = [self.command[0], "--unlock", *self.command[1:]]
            done = ask(command, _UNLOCK_SECONDS, cwd=folder, stderr=subprocess.STDOUT)
            if done.returncode != 0:
                raise OwnershipError(f"{folder}: Snakemake cannot be unlocked:\n{done.stdout.strip()[-2000:]}")

    def _run_once(self) -> tuple[int, str | None]:
        """Run Snakemake once; its exit code, and why it has to be started again, if it has."""
        self.running, self.absent = True, False
        self.ownership.begin()
        path = os.pathsep.join([str(self.commands), os.environ.get("PATH", os.defpath)])
        # A session of its own: Ctrl-C on the terminal would reach Snakemake twice, which makes it leave its jobs.
        self.process = subprocess.Popen(
            [self.command[0], "--rerun-incomplete", *self.command[1:]], cwd=self.ownership.folder,
            env={**os.environ, "PATH": path}, pass_fds=[self.ownership.descriptor], start_new_session=True,
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
        self.running = False
        return code, reason

    def _watch(self, process: subprocess.Popen[bytes]) -> bool:
        """Return when Snakemake has ended; whether it had to be ended because it waited for nothing."""
        busy = time.monotonic()
        while time.monotonic() - busy <= self.patience.quiet_seconds:
            try:
                process.wait(self.patience.poll_seconds)
                return False
            except subprocess.TimeoutExpired:
                if self._jobs_alive() or _has_children(process.pid):
                    busy = time.monotonic()
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


# --- Slurm -----------------------------------------------------------------------------------------------------------

ALIVE = frozenset({"PENDING", "CONFIGURING", "RUNNING", "COMPLETING", "SUSPENDED", "REQUEUED", "RESIZING", "SIGNALING",
                   "STAGE_OUT", "STOPPED", "REQUEUE_HOLD", "REQUEUE_FED", "RESV_DEL_HOLD", "SPECIAL_EXIT"})  # fmt: skip
"""States of jobs that still do something, or will."""

STRANDED = frozenset({"PREEMPTED", "NODE_FAIL"})
"""States in which Slurm leaves a job that it does not run again by itself, and for whose end the plugin waits."""

_COMMAND_SECONDS, _WAITS = 60, {"sbatch": 86400, "squeue": 45}
"""Seconds for an answer of Slurm; those that commands wait for the controller. Snakemake's plugin gives a query 60
seconds, and takes a job for failed whose submission fails."""

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


def ask_slurm(*command: str) -> str:
    """What a command of Slurm says.

    Raises:
        QueueError: Slurm does not answer, or refuses.
    """
    try:
        done = ask(command, _COMMAND_SECONDS)
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
    real = {name: shutil.which(name) for name in (*_WAITS, "scontrol")}
    if None in real.values():
        return
    answer, paths = commands / "config", {name: shlex.quote(str(path)) for name, path in real.items()}
    try:
        answer.write_text(ask_slurm("scontrol", "show", "config"), encoding="utf-8")
    except QueueError as error:
        logger.warning("Slurm's commands will not wait where its controller is away: %s", error)
        return
    texts = {
        name: _WAITING.format(seconds=seconds, scontrol=paths["scontrol"], real=paths[name])
        for name, seconds in _WAITS.items()
    }
    texts["scontrol"] = _REMEMBERING.format(real=paths["scontrol"], answer=shlex.quote(str(answer)))
    for name, text in texts.items():
        (commands / name).write_text(text, encoding="utf-8")
        (commands / name).chmod(0o755)
