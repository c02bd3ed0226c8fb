"""One process or several, started by plain Python, by `lska launch` or by torchrun.

Updates, and so the loss curve, do not depend on the number of processes. BatchNorm's running statistics do: they are
those that the first process gathers on its share of the micro-batches, as in the released code.

A process that stands still (stopped, swapped out, on a machine that is cut off) is noticed by signs of life. Whoever
waits for it in a collective call of torch would say nothing, listen to no signal, and end after hours: torch's own
limit cannot be shorter than the main process may take to score held-out images.
"""

from __future__ import annotations

import contextlib
import ctypes
import logging
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist

from lska.provenance.errors import InputError, LskaError
from lska.train.interrupt import CONTINUE_LATER, SIGNALS, Interrupted
from lska.train.launcher import LAUNCHER, Rank, member

logger = logging.getLogger(__name__)

MEETING_SECONDS = 900.0
"""How long the processes of a training wait for one another when they start."""
BEAT_SECONDS = 2.0
"""Between two signs of life."""
TOLD_AFTER, TOLD_AGAIN = 4, 30
"""Beats without a sign after which it is told, and then told again."""
ENDED_AFTER = 300
"""Beats without a sign after which this process ends: ten minutes."""

_SILENCE = timedelta(hours=2)
"""How long a process waits for another one that gives signs of life: while the first one scores images, say."""
_GONE = "gone"


class ContactLostError(Interrupted):
    """Another process of the training ended, or its machine did."""


class MeetingError(LskaError, RuntimeError):
    """The processes of a training did not come together."""


class MainProcessError(LskaError, RuntimeError):
    """What only the main process does failed there."""


@dataclass(frozen=True)
class Processes:
    """This process among those of one training. Methods other than properties are collective calls: all make them."""

    rank: int
    world: int
    device: torch.device

    @property
    def is_main(self) -> bool:
        """Whether this process writes files and speaks."""
        return self.rank == 0

    def largest(self, value: int) -> int:
        """The largest `value` of any process; waits for the device."""
        return self.largest_of(value)[0]

    def largest_of(self, *values: int) -> list[int]:
        """As `largest`, of several values at once."""
        if self.world == 1:
            return list(values)
        shared = torch.tensor(values, device=self.device)
        dist.all_reduce(shared, op=dist.ReduceOp.MAX)
        return shared.tolist()

    def sum(self, value: torch.Tensor) -> torch.Tensor:
        """Sum of a tensor over the processes."""
        if self.world == 1:
            return value
        value = value.clone()
        dist.all_reduce(value)
        return value

    def mean(self, value: torch.Tensor) -> torch.Tensor:
        """Mean of a tensor over the processes."""
        return value if self.world == 1 else self.sum(value) / self.world

    def by_main(self, action: Callable[[], object]) -> None:
        """Have the main process do `action` while the others wait; where that raises, all raise.

        Raises Interrupted or MainProcessError in the others, by what was raised in the main process.
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
        InputError: `gpus` were asked for and CUDA sees fewer, or the launcher's variables do not fit each other.
        MeetingError: others did not come within `MEETING_SECONDS`.
        ContactLostError: another process ended before its time.
    """
    place = member(os.environ)
    if place is None and os.environ.get("WORLD_SIZE", "1") not in ("", "1"):
        logger.warning(
            "WORLD_SIZE=%s in the environment is not obeyed: neither `lska launch` nor torchrun started this process, "
            "so it trains alone", os.environ["WORLD_SIZE"][:40],
        )  # fmt: skip
    device, local = torch.device("cpu"), 0 if place is None else place.local
    if gpus > 0:
        if (found := torch.cuda.device_count()) <= local:
            raise InputError(
                f"{setting} is {gpus} but process {local} finds {found} CUDA device(s); set {setting} to 0 to train on "
                "the processor"
            )
        device = torch.device("cuda", local)
        torch.cuda.set_device(device)
    if place is None or place.world == 1:
        yield Processes(0, 1, device)
        return
    _end_with_launcher()
    joined, backend = Processes(place.rank, place.world, device), "nccl" if gpus > 0 else "gloo"
    try:
        store = _meet(place)
        dist.init_process_group(backend, store=store, rank=place.rank, world_size=place.world, timeout=_SILENCE)
        # A process that leaves while others still connect to each other looks lost to them, whatever it has to say.
        joined.largest(0)
        with _listening(store, place.rank, place.world):
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


def _end_with_launcher() -> None:
    """Have the system send SIGTERM to this process when the launcher that started it is gone, even by SIGKILL."""
    launcher = os.environ.get(LAUNCHER)
    if launcher is not None and sys.platform.startswith("linux"):
        set_death_signal = 1  # PR_SET_PDEATHSIG of prctl(2)
        ctypes.CDLL(None).prctl(set_death_signal, signal.SIGTERM)
        if os.getppid() != int(launcher):  # it went before the system was told
            os.kill(os.getpid(), signal.SIGTERM)


def _meet(place: Rank) -> dist.Store:
    """The store of a training's processes, once all are there; it holds bytes that nobody takes for code.

    Raises MeetingError where some did not come, or the place cannot be served.
    """
    kind, _, where = place.meeting.partition(":")
    address, _, name = where.partition("/")
    host, _, port = address.rpartition(":")
    at, begun, told = "on this machine" if kind == "file" else f"at {address}", time.monotonic(), ""
    who = f"process {place.rank} of {place.world} of this training"

    def wait(awaited: Callable[[], str]) -> None:
        nonlocal told
        while others := awaited():
            waited = time.monotonic() - begun
            if waited > MEETING_SECONDS:
                raise MeetingError(
                    f"{who} waited {waited:.0f} s {at} for {others}, in vain; read the messages of the others, "
                    "and check that every node can reach that place"
                )
            if others != told:
                told = others
                logger.info("%s waits %s for %s, for at most %.0f s", who, at, others, MEETING_SECONDS)
            time.sleep(0.1)

    def served() -> str:
        with contextlib.suppress(OSError):
            socket.create_connection((host, int(port)), timeout=2).close()
            return ""
        return "the first process"

    def missing() -> str:
        return _listed(rank for rank in range(place.world) if not store.check([f"here/{rank}"]))

    store: dist.Store
    if kind == "file":
        store = dist.FileStore(where, place.world)
    else:
        listener = {"master_listen_fd": _listener(host, int(port)).detach()} if place.serves else {}
        if not place.serves:
            wait(served)  # torch's own waiting prints a page of C++ for every attempt
        store = dist.PrefixStore(name, dist.TCPStore(
            host, int(port), place.world, place.serves, timedelta(seconds=MEETING_SECONDS), wait_for_workers=False,
            **listener,
        ))  # fmt: skip
    store.set(f"here/{place.rank}", "1")
    wait(missing)
    return dist.PrefixStore("group", store)


def _listed(ranks: Iterable[int]) -> str:
    """Processes by their numbers, in words; nothing for none."""
    names = [str(rank) for rank in ranks]
    return f"process {', '.join(names[:8])}{' and others' if len(names) > 8 else ''}" if names else ""


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


@contextmanager
def _listening(store: dist.Store, rank: int, world: int) -> Iterator[None]:
    """Give signs of life inside the block, and listen for those of the other processes of a training.

    One that gives none is told of within ten seconds. This process ends with exit code 75, to be called again, when
    that lasts, or when it is asked to end meanwhile: it can save nothing then, as a collective call may hold it. Time
    is counted by own beats, so that a process which was stopped itself, as Slurm suspends jobs, blames nobody.
    """
    signs, ended = {other: "" for other in range(world) if other != rank}, threading.Event()
    # Python's own handlers are not told of signals while a collective call lasts; a thread can read their numbers here.
    received, wakeup = os.pipe()
    for pipe in (received, wakeup):
        os.set_blocking(pipe, False)

    def follow() -> None:
        beats, own = 0, store
        try:
            own = store.clone()
            while not ended.wait(BEAT_SECONDS if beats else 0):
                beats += 1
                own.set(f"alive/{rank}", str(beats))
                for other in signs:
                    if own.check([f"alive/{other}"]):
                        signs[other] = own.get(f"alive/{other}").decode()
        except dist.DistError:
            signs.clear()  # who served the store has ended, which collective calls notice

    def watch() -> None:
        silent, before, asked = dict.fromkeys(signs, 0), dict(signs), False
        while not ended.wait(BEAT_SECONDS) and (now := dict(signs)):
            silent = {o: 0 if sign == _GONE or sign != before[o] else silent[o] + 1 for o, sign in now.items()}
            before, longest = now, max(silent.values())
            with contextlib.suppress(BlockingIOError):
                asked = asked or not SIGNALS.isdisjoint(os.read(received, 1024))
            if longest < TOLD_AFTER:
                continue
            who = f"{_listed(o for o, beats in silent.items() if beats >= TOLD_AFTER)} of this training"
            if asked or longest >= ENDED_AFTER:
                why = f"{who} gave no sign of life for {longest * BEAT_SECONDS:.0f} s"
                print(f"lska: stopped: {why}; the training goes on from its last saved state; start it again to go on",
                      file=sys.stderr, flush=True)  # fmt: skip
                os._exit(CONTINUE_LATER)
            if (longest - TOLD_AFTER) % TOLD_AGAIN == 0:
                logger.info(
                    "process %d has heard nothing from %s for %.0f s (it stopped, or its machine is cut off); it waits "
                    "for at most %.0f s", rank, who, longest * BEAT_SECONDS, ENDED_AFTER * BEAT_SECONDS,
                )  # fmt: skip

    former = signal.set_wakeup_fd(wakeup, warn_on_full_buffer=False)
    # Reading may wait for a process that serves the store and stands still, so it has a thread of its own.
    threading.Thread(target=follow, daemon=True).start()
    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield
    finally:
        ended.set()
        watcher.join()  # before what it reads from is closed
        signal.set_wakeup_fd(former)
        os.close(wakeup)
        os.close(received)
        # Where the store is gone, so is whoever would wait for this.
        with contextlib.suppress(dist.DistError):
            store.set(f"alive/{rank}", _GONE)
