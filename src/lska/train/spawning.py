"""Starting the processes of one training and ending with what they end with: what `lska launch` does.

As torchrun, with three differences: nothing listens for them to meet on one machine, exit code 75, "call me again",
stays 75, and signals are passed on to processes, which end when they have saved their state.
"""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from lska.launching import LAUNCHER
from lska.rendezvous import MEETING, Rendezvous
from lska.train.interrupt import CONTINUE_LATER, Interrupted
from lska.warm import VARIABLE as WARM_SERVER

logger = logging.getLogger(__name__)

_PASSED_ON = {
    signal.SIGTERM: signal.SIGTERM,
    signal.SIGINT: signal.SIGINT,
    signal.SIGUSR1: signal.SIGUSR1,
    signal.SIGHUP: signal.SIGTERM,  # the terminal is gone, which processes that train do not listen for
}

_POLL_SECONDS = 0.1
_END_SECONDS = 10.0
"""After one process failed, the others are given this long to find out, and to say so."""
_KILL_SECONDS = 30.0
"""Then they are sent SIGTERM, and are killed after this time."""
_PATIENCE_SECONDS = 1800.0
"""What they have to end when the launcher was asked to; a scheduler has less patience."""


def launch(words: Sequence[str], processes: int, meeting: Rendezvous | None = None) -> int:
    """Run `lska *words` in several processes and return their common exit code.

    Args:
        processes: on this node.
        meeting: with those of other nodes; None for a training on this node alone.

    Raises:
        Interrupted: a signal came before the processes were started.
    """
    started: list[subprocess.Popen] = []
    with tempfile.TemporaryDirectory(prefix="lska-launch-") as folder, _noted() as received:
        common = _environment(processes, meeting, Path(folder))
        first = 0 if meeting is None else meeting.node * processes
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
    if not codes:
        raise Interrupted(f"received {received[0].name} before the training's processes were started")
    for rank, code in enumerate(codes, first):
        if code:
            how = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
            logger.info("process %d %s", rank, how)
    return exit_code([code for code in codes if code], stopped=bool(received))


def exit_code(codes: Sequence[int], stopped: bool) -> int:
    """What the launcher ends with, given the codes of the processes that did not end well, minus the signal if killed.

    An error counts more than a request to be called again, and that more than a signal, which follows from either.
    """
    errors = [code for code in codes if code > 0 and code != CONTINUE_LATER]
    if errors:
        return errors[0]
    if CONTINUE_LATER in codes or (stopped and codes):
        return CONTINUE_LATER
    return 128 - codes[0] if codes else 0


def _environment(processes: int, meeting: Rendezvous | None, folder: Path) -> dict[str, str]:
    """Variables of the processes, without those of other launchers and of the warm server.

    One process of that server is no stand-in for several that end with their launcher.
    """
    strangers = ("MASTER_ADDR", "MASTER_PORT", WARM_SERVER)
    inherited = {name: value for name, value in os.environ.items()
                 if name not in strangers and not name.startswith("TORCHELASTIC_")}  # fmt: skip
    # NCCL ends a process whose partner is gone; it would wait otherwise.
    inherited.setdefault("TORCH_NCCL_ASYNC_ERROR_HANDLING", "1")
    inherited[LAUNCHER] = str(os.getpid())
    if meeting is None:
        alone = dict.fromkeys(("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME"), _loopback())
        return inherited | alone | {"WORLD_SIZE": str(processes), MEETING: f"file:{folder / 'store'}"}
    logger.info("node %d of %d meets the others at %s:%d", meeting.node + 1, meeting.nodes, meeting.host, meeting.port)
    return inherited | {"WORLD_SIZE": str(meeting.nodes * processes), MEETING: meeting.meeting}


def _loopback() -> str:
    """Name of the network device that only this machine reaches."""
    return "lo" if sys.platform.startswith("linux") else "lo0"


@contextmanager
def _noted() -> Iterator[list[signal.Signals]]:
    """Signals that come inside the block are noted in the list that this yields."""
    received: list[signal.Signals] = []

    def note(number: int, frame: FrameType | None) -> None:
        received.append(signal.Signals(number))

    former = {number: signal.signal(number, note) for number in _PASSED_ON}
    try:
        yield received
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)


def _ends(started: Sequence[subprocess.Popen], received: Sequence[signal.Signals]) -> list[int]:
    """Exit codes of all processes; passes on what is received, and ends them when one has failed."""
    passed, asked, failed, told = 0, None, None, False
    while any(process.poll() is None for process in started):
        for number in received[passed:]:
            _send(started, _PASSED_ON[number])
            passed, asked = passed + 1, asked or time.monotonic()
        if failed is None and any(process.returncode for process in started):
            failed = time.monotonic()
        since = 0.0 if failed is None else time.monotonic() - failed
        if since > _END_SECONDS + _KILL_SECONDS or (asked and time.monotonic() - asked > _PATIENCE_SECONDS):
            _send(started, signal.SIGKILL)
        elif since > _END_SECONDS and not told:
            _send(started, signal.SIGTERM)
            told = True
        time.sleep(_POLL_SECONDS)
    return [process.returncode for process in started]


def _send(started: Sequence[subprocess.Popen], number: signal.Signals) -> None:
    for process in started:
        process.send_signal(number)  # nothing, where it has ended
