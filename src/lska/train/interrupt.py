"""When a training stops itself: a signal came, or its wall time is nearly used up."""

from __future__ import annotations

import logging
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

logger = logging.getLogger(__name__)

CONTINUE_LATER = os.EX_TEMPFAIL
"""Exit code 75 of a training that stopped in time and goes on when it is started again."""

STOPPED = "lska: stopped:"
"""How the last line of such a training begins, by which its log is told from that of one that failed."""

SIGNALS = frozenset({signal.SIGTERM, signal.SIGINT, signal.SIGUSR1})
"""Those that ask a training to stop."""


class Interrupted(RuntimeError):
    """The training saved its state and stopped before its end."""


class StopRequest:
    """Collects the reasons to stop; the loop asks `reason` after every update.

    Args:
        budget_seconds: wall time, None for no end.
        begun: reading of `time.monotonic` from which the budget counts, now by default.
    """

    def __init__(self, budget_seconds: float | None, begun: float | None = None) -> None:
        begun = time.monotonic() if begun is None else begun
        self._deadline = None if budget_seconds is None else begun + budget_seconds
        self._margin = 0.0 if budget_seconds is None else min(120.0, 0.05 * budget_seconds)
        self._signal: str | None = None

    def handle(self, number: int, frame: FrameType | None) -> None:
        """Signal handler: remember the signal; a second one of SIGINT interrupts at once."""
        if number == signal.SIGINT and self._signal is not None:
            raise KeyboardInterrupt
        self._signal = signal.Signals(number).name

    def reason(self, longest_update: float = 0.0) -> str | None:
        """Why to stop now, or None.

        Args:
            longest_update: seconds that one more update may take.
        """
        if self._signal is not None:
            return f"received {self._signal}"
        if self._deadline is not None and time.monotonic() + self._margin + longest_update > self._deadline:
            return "the wall-time budget is nearly used up"
        return None


@contextmanager
def stop_request(budget_seconds: float | None, begun: float | None = None) -> Iterator[StopRequest]:
    """Listen for SIGTERM, SIGINT and SIGUSR1 inside the block; arguments as those of `StopRequest`."""
    request = StopRequest(budget_seconds, begun)
    former = {number: signal.signal(number, request.handle) for number in SIGNALS}
    try:
        yield request
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)
