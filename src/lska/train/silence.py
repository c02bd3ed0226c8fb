"""Noticing that another process of a training stands still: stopped, swapped out, or on a machine that is cut off.

Whoever waits for it in a collective call of torch would say nothing, listen to no signal, and end after hours: torch's
own limit cannot be shorter than the main process may take to score held-out images.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch.distributed as dist

from lska.train.interrupt import CONTINUE_LATER, SIGNALS

logger = logging.getLogger(__name__)

BEAT_SECONDS = 2.0
"""Between two signs of life."""
TOLD_AFTER, TOLD_AGAIN = 4, 30
"""Beats without a sign after which it is told, and then told again."""
ENDED_AFTER = 300
"""Beats without a sign after which this process ends: ten minutes."""

_GONE = "gone"


@contextmanager
def listening(store: dist.Store, rank: int, world: int) -> Iterator[None]:
    """Give signs of life inside the block, and listen for those of the other processes of a training.

    One that gives none is told of within ten seconds. This process ends with exit code 75, to be called again, when
    that lasts, or when it is asked to end meanwhile: it can save nothing then, as a collective call may hold it. Time
    is counted by own beats, so that a process which was stopped itself, as Slurm suspends jobs, blames nobody.

    Args:
        store: shared by all of them.
        rank: of this process.
        world: number of processes.
    """
    signs = {other: "" for other in range(world) if other != rank}
    ended = threading.Event()
    with _signals() as received:
        # Reading may wait for a process that serves the store and stands still, so it has a thread of its own.
        threading.Thread(target=_follow, args=(store, rank, signs, ended), daemon=True).start()
        watcher = threading.Thread(target=_watch, args=(rank, signs, ended, received), daemon=True)
        watcher.start()
        try:
            yield
        finally:
            ended.set()
            # Before what it reads from is closed.
            watcher.join()
            # Where the store is gone, so is whoever would wait for this.
            with contextlib.suppress(dist.DistError):
                store.set(f"alive/{rank}", _GONE)


def _follow(store: dist.Store, rank: int, signs: dict[int, str], ended: threading.Event) -> None:
    """Give signs and note those of the others until this process leaves the training."""
    beats = 0
    try:
        store = store.clone()
        while not ended.wait(BEAT_SECONDS if beats else 0):
            beats += 1
            store.set(f"alive/{rank}", str(beats))
            for other in signs:
                if store.check([f"alive/{other}"]):
                    signs[other] = store.get(f"alive/{other}").decode()
    except dist.DistError:
        # Who served the store has ended, which collective calls notice.
        signs.clear()


def _watch(rank: int, signs: dict[int, str], ended: threading.Event, received: int) -> None:
    """Tell of processes that give no sign, and end this one when that lasts or when a signal came."""
    silent, before, asked = dict.fromkeys(signs, 0), dict(signs), False
    while not ended.wait(BEAT_SECONDS) and (now := dict(signs)):
        silent = {o: 0 if sign == _GONE or sign != before[o] else silent[o] + 1 for o, sign in now.items()}
        before, longest = now, max(silent.values())
        # Python's own handlers have not been told of these while a collective call lasts.
        with contextlib.suppress(BlockingIOError):
            asked = asked or not SIGNALS.isdisjoint(os.read(received, 1024))
        if longest < TOLD_AFTER:
            continue
        still = [str(other) for other, beats in silent.items() if beats >= TOLD_AFTER]
        who = f"process {', '.join(still[:8])}{' and others' if len(still) > 8 else ''} of this training"
        seconds = f"{longest * BEAT_SECONDS:.0f} s"
        if asked or longest >= ENDED_AFTER:
            why = f"{who} gave no sign of life for {seconds}; the training goes on from its last saved state"
            print(f"lska: stopped: {why}; start it again to go on", file=sys.stderr, flush=True)
            os._exit(CONTINUE_LATER)
        if (longest - TOLD_AFTER) % TOLD_AGAIN == 0:
            logger.info(
                "process %d hears nothing of %s for %s (stopped, or its machine is cut off), and waits for %.0f s",
                rank, who, seconds, ENDED_AFTER * BEAT_SECONDS,
            )  # fmt: skip


@contextmanager
def _signals() -> Iterator[int]:
    """A descriptor from which the numbers of signals can be read.

    Raises:
        ValueError: called by another thread than the first.
    """
    reading, writing = os.pipe()
    for end in (reading, writing):
        os.set_blocking(end, False)
    former = signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    try:
        yield reading
    finally:
        signal.set_wakeup_fd(former)
        os.close(writing)
        os.close(reading)
