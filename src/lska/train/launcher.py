"""A training in several processes: what `lska launch` starts, where they meet, what it ends with. Imports little.

As torchrun, whose agent makes exit code 1 of every failure, with three differences: exit code 75, "call me again",
stays 75, signals are passed on to processes, which end when they have saved their state, and nothing listens for them
to meet on one machine.
"""

from __future__ import annotations

import logging
import math
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from lska.provenance.errors import InputError
from lska.provenance.files import quoted
from lska.train.interrupt import CONTINUE_LATER, Interrupted

logger = logging.getLogger(__name__)

LAUNCHER = "LSKA_LAUNCHER"
"""Environment variable with the process number of the launcher, in the processes that it starts."""
MEETING = "LSKA_MEETING"
"""Variable by which `lska launch` tells its processes where they meet, as `Rank.meeting`."""
WARM = "LSKA_WARM"
"""Variable with the path of the socket of the server of `lska warm`."""

_TORCHRUN = "TORCHELASTIC_RUN_ID"
_PORTS = range(15_000, 32_000)
"""Below those that systems give to outgoing connections."""
_NEEDED = ("SLURM_JOB_ID", "SLURM_JOB_NODELIST", "SLURM_NNODES", "SLURM_NODEID", "SLURM_NTASKS")

_PASSED_ON = {
    signal.SIGTERM: signal.SIGTERM,
    signal.SIGINT: signal.SIGINT,
    signal.SIGUSR1: signal.SIGUSR1,
    signal.SIGHUP: signal.SIGTERM,  # the terminal is gone, which processes that train do not listen for
}
_END_SECONDS = 10.0
"""After one process failed, the others are given this long to find out, and to say so."""
_KILL_SECONDS = 30.0
"""Then they are sent SIGTERM, and are killed after this time."""
_PATIENCE_SECONDS = 1800.0
"""What they have to end when the launcher was asked to; a scheduler has less patience."""


@dataclass(frozen=True)
class Rank:
    """One process of a training that has several, or may have."""

    rank: int
    world: int
    local: int
    """Its number on its machine."""
    meeting: str
    """`file:<path>` of a store on one machine, or `tcp:<host>:<port>/<name>` of one that a process serves."""
    serves: bool
    """Whether this process serves that store; torchrun's own agent does it otherwise."""


def member(environment: Mapping[str, str]) -> Rank | None:
    """The place of this process among those that `lska launch` or torchrun started; None where neither did.

    RANK, WORLD_SIZE and LOCAL_RANK alone prove nothing: pods of some platforms, MPI and shells have them too. Raises
    InputError where a variable is missing, or is not what it should be.
    """
    ours = MEETING in environment
    if not ours and _TORCHRUN not in environment:
        return None
    who = "lska launch" if ours else "torchrun"
    rank, world, local = (_number(name, environment, who) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"))
    restarts = environment.get("TORCHELASTIC_RESTART_COUNT", "0")
    address = f"{environment.get('MASTER_ADDR', '')}:{environment.get('MASTER_PORT', '')}"
    meeting = environment[MEETING] if ours else f"tcp:{address}/torchrun-{restarts}"
    port = re.match(r"tcp:[^/]+:(\d{1,5})/", meeting, re.ASCII)
    reachable = meeting.startswith("file:/") or (port is not None and 0 < int(port[1]) < 2**16)
    if rank >= world or not reachable:
        raise InputError(
            f"expected what {who} sets: a RANK below WORLD_SIZE, and where to meet by MASTER_ADDR and MASTER_PORT, or "
            f"by {MEETING}; found RANK={rank}, WORLD_SIZE={world} and {quoted(meeting)}"
        )
    agent = not ours and environment.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    return Rank(rank, world, local, meeting, serves=rank == 0 and not agent)


def slurm_meeting(nodes: int, environment: Mapping[str, str]) -> tuple[int, str]:
    """Number of this node in the Slurm step that `environment` describes, and where its processes meet.

    They meet on the step's first node, at a port that follows from the job's number. Raises InputError where a variable
    is missing or no number, or the step does not have one task on each of `nodes` nodes.
    """
    if missing := [name for name in _NEEDED if not environment.get(name)]:
        raise InputError(
            f"a training on {nodes} nodes needs {', '.join(missing)}, which Slurm sets: start it inside a job by "
            f"`srun --nodes {nodes} --ntasks-per-node 1` (docs/cluster-training.md)"
        )
    job, count, node, tasks = (_number(name, environment, "Slurm") for name in _NEEDED if name != "SLURM_JOB_NODELIST")
    if (count, tasks) != (nodes, nodes):
        raise InputError(
            f"expected a Slurm step of {nodes} nodes with one task each, found {count} node(s) (SLURM_NNODES) and "
            f"{tasks} task(s) (SLURM_NTASKS); start it by `srun --nodes {nodes} --ntasks-per-node 1`"
        )
    hosts = environment.get("SLURM_STEP_NODELIST") or environment["SLURM_JOB_NODELIST"]
    # In `gpu[003-007,9],login` the first host is gpu003.
    first = re.match(r"((?:[^,\[\]]|\[[^\[\]]+\])+)(?:,|$)", hosts.strip())
    if first is None:
        raise InputError(f"SLURM_JOB_NODELIST: expected hosts such as gpu[003-007,9], found {quoted(hosts)}")
    host = re.sub(r"\[([^,\-\]]+)[^\]]*\]", r"\1", first[1])
    restarts, step = environment.get("SLURM_RESTART_COUNT", "0"), environment.get("SLURM_STEP_ID", "0")
    return node, f"tcp:{host}:{_PORTS[job % len(_PORTS)]}/slurm-{job}-{restarts}-{step}"


def _number(name: str, environment: Mapping[str, str], who: str) -> int:
    text = environment.get(name, "")
    if not re.fullmatch(r"\d{1,18}", text, re.ASCII):
        raise InputError(f"{name}: expected a number from {who}, found {text[:40]!r}")
    return int(text)


def launch(words: Sequence[str], processes: int, nodes: int = 1) -> int:
    """Run `lska *words` in several processes on this node, one of `nodes`, and return their common exit code.

    Raises Interrupted where a signal came before the processes were started, InputError as `slurm_meeting`.
    """
    # Without variables of other launchers, and of the warm server, whose processes do not end with their launcher.
    strangers = ("MASTER_ADDR", "MASTER_PORT", WARM)
    common = {k: v for k, v in os.environ.items() if k not in strangers and not k.startswith("TORCHELASTIC_")}
    # NCCL ends a process whose partner is gone; it would wait otherwise.
    common |= {"TORCH_NCCL_ASYNC_ERROR_HANDLING": "1", "WORLD_SIZE": str(nodes * processes), LAUNCHER: str(os.getpid())}
    received: list[signal.Signals] = []
    started: list[subprocess.Popen] = []
    with tempfile.TemporaryDirectory(prefix="lska-launch-") as folder:
        if nodes == 1:
            first, loopback = 0, "lo" if sys.platform.startswith("linux") else "lo0"
            common |= dict.fromkeys(("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME"), loopback)
            common[MEETING] = f"file:{Path(folder) / 'store'}"
        else:
            node, common[MEETING] = slurm_meeting(nodes, os.environ)
            first = node * processes
            logger.info("node %d of %d meets the others at %s", node + 1, nodes, common[MEETING].removeprefix("tcp:"))
        former = {
            number: signal.signal(number, lambda number, frame: received.append(signal.Signals(number)))
            for number in _PASSED_ON
        }
        try:
            for local in range(processes):
                if received:
                    break
                own = {"RANK": str(first + local), "LOCAL_RANK": str(local)}
                command = [sys.executable, "-m", "lska", *words]
                # A session of its own: Ctrl-C on the terminal would reach each twice, which ends it at once.
                started.append(subprocess.Popen(command, env=common | own, start_new_session=True))
            codes = _ends(started, received)
        finally:
            for process in started:
                process.kill()  # nothing, where it has ended
            for number, handler in former.items():
                signal.signal(number, handler)
    if not codes:
        raise Interrupted(f"received {received[0].name} before the training's processes were started")
    for rank, code in enumerate(codes, first):
        if code:
            logger.info("process %d ended with exit code %d (of a signal, where it is negative)", rank, code)
    return exit_code([code for code in codes if code], stopped=bool(received))


def exit_code(codes: Sequence[int], stopped: bool) -> int:
    """What the launcher ends with, given the codes of the processes that did not end well, minus the signal if killed.

    An error counts more than a request to be called again, and that more than a signal, which follows from either.
    """
    if errors := [code for code in codes if code > 0 and code != CONTINUE_LATER]:
        return errors[0]
    if CONTINUE_LATER in codes or (stopped and codes):
        return CONTINUE_LATER
    return 128 - codes[0] if codes else 0


def _ends(started: Sequence[subprocess.Popen], received: Sequence[signal.Signals]) -> list[int]:
    """Exit codes of all processes; passes on what is received, and ends them when one has failed."""
    passed, failed, asked, told = 0, None, math.inf, False
    while any(process.poll() is None for process in started):
        now, to_send = time.monotonic(), [_PASSED_ON[number] for number in received[passed:]]
        passed, asked = passed + len(to_send), min(asked, now if to_send else math.inf)
        if failed is None and any(process.returncode for process in started):
            failed = now
        since = 0.0 if failed is None else now - failed
        if since > _END_SECONDS + _KILL_SECONDS or now - asked > _PATIENCE_SECONDS:
            to_send.append(signal.SIGKILL)
        elif since > _END_SECONDS and not told:
            to_send.append(signal.SIGTERM)
            told = True
        for process in started:
            for number in to_send:
                process.send_signal(number)  # nothing, where it has ended
        time.sleep(0.1)
    return [process.returncode for process in started]
