"""Starting the processes of one training with torchrun's agent, as `torchrun --standalone` does, with two differences:

- Exit code 75, "call me again", stays 75; torchrun ends with 1 whatever its processes end with.
- Signals are passed on, and the processes end when they have saved their state; torchrun kills them after 30 seconds.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING, Any

from lska.launching import LAUNCHER
from lska.rendezvous import Rendezvous
from lska.train.interrupt import CONTINUE_LATER, Interrupted
from lska.warm import VARIABLE as WARM_SERVER

if TYPE_CHECKING:
    from torch.distributed.elastic.agent.server import SimpleElasticAgent

logger = logging.getLogger(__name__)

MEETING_SECONDS = 900
"""How long the nodes of a training wait for one another when they start."""

_PASSED_ON = {
    signal.SIGTERM: signal.SIGTERM,
    signal.SIGINT: signal.SIGINT,
    signal.SIGUSR1: signal.SIGUSR1,
    signal.SIGHUP: signal.SIGTERM,  # the terminal is gone, which processes that train do not listen for
}


class MeetingError(RuntimeError):
    """The nodes of a training did not come together."""


def launch(words: Sequence[str], processes: int, meeting: Rendezvous | None = None) -> int:
    """Run `lska *words` in several processes and return their common exit code.

    Args:
        processes: on this node.
        meeting: with the launchers of other nodes; None for a training on this node alone.

    Raises:
        Interrupted: a signal came before the processes were started.
        MeetingError: the nodes did not meet.
    """
    from torch.distributed import DistError
    from torch.distributed.elastic.agent.server.local_elastic_agent import LocalElasticAgent
    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs

    os.environ[LAUNCHER] = str(os.getpid())
    # One process of the warm server is no stand-in for several that end with their launcher.
    os.environ.pop(WARM_SERVER, None)
    # torchrun's agent takes these away from `_passing_on`, and needs at least one.
    os.environ["TORCHELASTIC_SIGNALS_TO_HANDLE"] = "SIGQUIT"
    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)
    with tempfile.TemporaryDirectory(prefix="lska-launch-") as logs:
        spec = _specification(words, processes, meeting)
        agent = LocalElasticAgent(spec, DefaultLogsSpecs(log_dir=logs), start_method="spawn")
        try:
            with _passing_on(agent) as received:
                result = agent.run()
        except DistError as error:
            raise _apart(meeting, error) from error
        spec.rdzv_handler.shutdown()
    codes = {rank: failure.exitcode for rank, failure in sorted(result.failures.items())}
    for rank, code in codes.items():
        how = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
        logger.info("process %d %s", rank, how)
    return exit_code(list(codes.values()), stopped=bool(received))


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


def _apart(meeting: Rendezvous | None, error: Exception) -> MeetingError:
    reason = str(error).splitlines()[0]
    if meeting is None:
        return MeetingError(f"the processes on this machine lost contact ({reason}); start the training again")
    return MeetingError(
        f"node {meeting.node + 1} of {meeting.nodes} did not meet the others at {meeting.host}:{meeting.port}, or lost "
        f"them ({reason}); look at what they wrote, and whether that place can be reached from every node"
    )


def _specification(words: Sequence[str], processes: int, meeting: Rendezvous | None) -> Any:
    import torch.distributed.elastic.rendezvous.registry as registry
    from torch.distributed.elastic.agent.server import WorkerSpec
    from torch.distributed.elastic.rendezvous import RendezvousParameters

    if meeting is None:
        # As `torchrun --standalone`: at a free port, whatever else runs on this machine.
        parameters = RendezvousParameters("c10d", "localhost:0", f"lska-{os.getpid()}", 1, 1, local_addr="localhost")
        place = {"local_addr": "localhost"}
    else:
        parameters = RendezvousParameters(
            "static", f"{meeting.host}:{meeting.port}", meeting.name, meeting.nodes, meeting.nodes,
            rank=meeting.node, timeout=MEETING_SECONDS,
        )  # fmt: skip
        place = {"master_addr": meeting.host, "master_port": meeting.port}
        logger.info("node %d of %d meets the others at %s:%d", meeting.node + 1, meeting.nodes, meeting.host,
                    meeting.port)  # fmt: skip
    return WorkerSpec(
        role="lska", local_world_size=processes, entrypoint=sys.executable, args=("-m", "lska", *words),
        rdzv_handler=registry.get_rendezvous_handler(parameters), max_restarts=0, monitor_interval=0.5, **place,
    )  # fmt: skip


@contextmanager
def _passing_on(agent: SimpleElasticAgent) -> Iterator[list[str]]:
    """Pass signals on to the agent's processes inside the block; yields the names of those received."""
    received: list[str] = []

    def pass_on(number: int, frame: FrameType | None) -> None:
        received.append(signal.Signals(number).name)
        workers = agent.get_worker_group().workers
        if any(worker.id is None for worker in workers):
            raise Interrupted(f"received {received[-1]} before the training's processes were started")
        for worker in workers:
            with contextlib.suppress(ProcessLookupError):
                os.kill(worker.id, _PASSED_ON[signal.Signals(number)])

    former = {number: signal.signal(number, pass_on) for number in _PASSED_ON}
    try:
        yield received
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)
