"""One process or several, started by plain Python, by `lska launch` or by torchrun.

Updates, and so the loss curve, do not depend on the number of processes. BatchNorm's running statistics do: they are
those that the first process gathers on its share of the micro-batches, as in the released code.
"""

from __future__ import annotations

import ctypes
import logging
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist

from lska.provenance.errors import InputError, LskaError
from lska.train.interrupt import Interrupted
from lska.train.launcher import LAUNCHER, Rank, member
from lska.train.silence import listening

logger = logging.getLogger(__name__)

MEETING_SECONDS = 900.0
"""How long the processes of a training wait for one another when they start."""

_SILENCE = timedelta(hours=2)
"""How long a process waits for another one that gives signs of life: while the first one scores held-out images, say.
"""

_TELL_SECONDS = 5.0
"""After which who waits says for whom, and then every minute."""
_PR_SET_PDEATHSIG = 1


class ContactLostError(Interrupted):
    """Another process of the training ended, or its machine did."""


class MeetingError(LskaError, RuntimeError):
    """The processes of a training did not come together."""


class MainProcessError(LskaError, RuntimeError):
    """What only the main process does failed there."""


@dataclass(frozen=True)
class Processes:
    """This process among those of one training."""

    rank: int
    world: int
    device: torch.device

    @property
    def is_main(self) -> bool:
        """Whether this process writes files and speaks."""
        return self.rank == 0

    def largest(self, value: int) -> int:
        """The largest `value` of any process; a collective call, which waits for the device."""
        return self.largest_of(value)[0]

    def largest_of(self, *values: int) -> list[int]:
        """The largest of any process in each of several places, as `largest`."""
        if self.world == 1:
            return list(values)
        shared = torch.tensor(values, device=self.device)
        dist.all_reduce(shared, op=dist.ReduceOp.MAX)
        return shared.tolist()

    def mean(self, value: torch.Tensor) -> torch.Tensor:
        """Mean of a scalar tensor over the processes; a collective call."""
        if self.world == 1:
            return value
        value = value.clone()
        dist.all_reduce(value)
        return value / self.world

    def sum(self, value: torch.Tensor) -> torch.Tensor:
        """Sum of a tensor over the processes; a collective call."""
        if self.world > 1:
            dist.all_reduce(value)
        return value

    def by_main(self, action: Callable[[], object]) -> None:
        """Have the main process do `action` while the others wait; where that raises, all raise. A collective call.

        Raises:
            Interrupted, MainProcessError: in the others, by what was raised in the main process.
        """
        problem: Exception | None = None
        if self.is_main:
            try:
                action()
            except Exception as error:
                problem = error
        failed = self.largest(0 if problem is None else 2 if isinstance(problem, Interrupted) else 1)
        if problem is not None:
            raise problem
        if failed:
            raise (Interrupted if failed == 2 else MainProcessError)("the main process stopped, and says why")


@contextmanager
def processes(gpus: int, setting: str = "training.gpus") -> Iterator[Processes]:
    """Join the processes that `lska launch` or torchrun started with this one; alone where neither did.

    Args:
        gpus: GPUs that the training was given; 0 trains on the processor, then several processes talk through gloo.
        setting: where the configuration says so, for the message.

    Raises:
        ValueError: `gpus` were asked for and CUDA sees fewer, or the launcher's variables do not fit each other.
        MeetingError: others did not come within `MEETING_SECONDS`.
        ContactLostError: another process ended before its time.
    """
    place = member(os.environ)
    if place is None and os.environ.get("WORLD_SIZE", "1") not in ("", "1"):
        logger.warning(
            "WORLD_SIZE=%s in the environment is not obeyed: neither `lska launch` nor torchrun started this process, "
            "so it trains alone", os.environ["WORLD_SIZE"][:40],
        )  # fmt: skip
    device = _device(gpus, 0 if place is None else place.local, setting)
    if place is None or place.world == 1:
        yield Processes(0, 1, device)
        return
    _end_with_launcher()
    try:
        joined = Processes(place.rank, place.world, device)
        store = _connect(place, "nccl" if gpus > 0 else "gloo", joined)
        with listening(store, place.rank, place.world):
            yield joined
    except RuntimeError as error:
        if not (isinstance(error, dist.DistError) or "/gloo/" in str(error)):
            raise
        raise ContactLostError(
            f"lost contact with another process of this training ({str(error).splitlines()[0]}); that one, or its "
            "machine, ended; the training goes on from its last saved state"
        ) from error
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()


def _connect(place: Rank, backend: str, joined: Processes) -> dist.Store:
    """Join the group of processes; the store that they share, which holds bytes that nobody takes for code."""
    store = _meet(place)
    reminder = threading.Timer(_TELL_SECONDS, logger.info, (
        "process %d of %d of this training still connects to the others, for at most %g hours; all must reach each "
        "other at the ports that %s chooses", place.rank, place.world, _SILENCE.total_seconds() / 3600, backend,
    ))  # fmt: skip
    reminder.daemon = True
    reminder.start()
    try:
        dist.init_process_group(backend, store=store, rank=place.rank, world_size=place.world, timeout=_SILENCE)
        # A process that leaves while others still connect to each other looks lost to them, whatever it has to say.
        joined.largest(0)
    finally:
        reminder.cancel()
    return store


def _meet(place: Rank) -> dist.Store:
    """The store of a training's processes, once all are there.

    Raises:
        MeetingError: some did not come, or the place cannot be served.
    """
    kind, _, where = place.meeting.partition(":")
    store: dist.Store
    if kind == "file":
        if not Path(where).parent.is_dir():
            raise MeetingError(f"the processes of this training cannot meet at {where}: no such folder")
        store = dist.FileStore(where, place.world)
    else:
        at, _, name = where.partition("/")
        host, _, port = at.rpartition(":")
        served = {"master_listen_fd": _listener(host, int(port)).detach()} if place.serves else {}
        # torch's own waiting prints a page of C++ for every attempt.
        _wait(place, lambda: "" if served or _answers(host, int(port)) else "the first process")
        patience = timedelta(seconds=MEETING_SECONDS)
        store = dist.TCPStore(
            host, int(port), place.world, place.serves, timeout=patience, wait_for_workers=False, **served
        )
        store = dist.PrefixStore(name, store)

    def missing() -> str:
        absent = [str(rank) for rank in range(place.world) if not store.check([f"here/{rank}"])]
        return "" if not absent else f"process {', '.join(absent[:8])}{' and others' if len(absent) > 8 else ''}"

    store.set(f"here/{place.rank}", "1")
    _wait(place, missing)
    return dist.PrefixStore("group", store)


def _wait(place: Rank, awaited: Callable[[], str]) -> None:
    """Return when nobody is `awaited` any more; says now and then for whom it waits.

    Raises:
        MeetingError: it has waited long enough.
    """
    where = place.meeting.removeprefix("tcp:").partition("/")[0]
    at = "on this machine" if place.meeting.startswith("file:") else f"at {where}"
    who = f"process {place.rank} of {place.world} of this training"
    begun, tell = time.monotonic(), _TELL_SECONDS
    while others := awaited():
        waited = time.monotonic() - begun
        if waited > MEETING_SECONDS:
            raise MeetingError(
                f"{who} waited {waited:.0f} s {at} for {others}, in vain; look at what the others wrote, and whether "
                "that place can be reached from every node"
            )
        if waited > tell:
            tell = waited + 60
            logger.info("%s waits %s for %s, for at most %.0f s", who, at, others, MEETING_SECONDS)
        time.sleep(0.1)


def _answers(host: str, port: int) -> bool:
    try:
        socket.create_connection((host, port), timeout=2).close()
    except OSError:
        return False
    return True


def _listener(host: str, port: int) -> socket.socket:
    """A socket that listens at the address which `host` has, and at no other.

    Many systems give their own name a loopback address, at which no other node would reach them; only then it listens
    at all of them.
    """
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        if host != "localhost" and address[0].startswith("127.") and address[0] != host:
            logger.warning("%s is %s to this machine, so the processes' meeting listens at every address of it",
                           host, address[0])  # fmt: skip
            address = ("", port)
        return socket.create_server(address[:2], family=family, backlog=1024)
    except OSError as error:
        raise MeetingError(
            f"the processes of this training cannot meet at {host}:{port} ({error.strerror or error}); another "
            "program may have that port, or the name is not this machine's: start the job again, or look at "
            "SLURM_JOB_NODELIST"
        ) from error


def _device(gpus: int, local: int, setting: str) -> torch.device:
    """The device of the process with this number on its machine, which becomes CUDA's present one."""
    if gpus < 1:
        return torch.device("cpu")
    if torch.cuda.device_count() <= local:
        raise InputError(
            f"{setting} is {gpus} but process {local} finds {torch.cuda.device_count()} CUDA device(s); "
            f"set {setting} to 0 to train on the processor"
        )
    device = torch.device("cuda", local)
    torch.cuda.set_device(device)
    return device


def _end_with_launcher() -> None:
    """Have the system send SIGTERM to this process when the launcher that started it is gone, even by SIGKILL."""
    launcher = os.environ.get(LAUNCHER)
    if launcher is None or not sys.platform.startswith("linux"):
        return
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != int(launcher):
        # It went before the system was told.
        os.kill(os.getpid(), signal.SIGTERM)
