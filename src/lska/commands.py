"""Other programs that are asked something: it is said when an answer takes long, and there is an end to waiting."""

from __future__ import annotations

import logging
import shlex
import subprocess
import time
from collections.abc import Callable, Sequence
from typing import Any

logger = logging.getLogger(__name__)

TELL_SECONDS = 5.0
"""After which it is said what is waited for, and then every minute."""


class NoAnswerError(RuntimeError):
    """A program gave no answer in time."""


def ask(
    command: Sequence[str], seconds: float, stopped: Callable[[], object] = lambda: False, **settings: Any
) -> subprocess.CompletedProcess[str]:
    """Run a program that is not asked to do much, and return its exit code with what it said.

    Args:
        seconds: after which it is ended.
        stopped: whether nobody wants the answer any more, asked several times a second.
        settings: of `subprocess.Popen`.

    Raises:
        NoAnswerError: it took longer, or `stopped`.
        OSError: it cannot be started.
    """
    words, begun, told = shlex.join(command)[:200], time.monotonic(), TELL_SECONDS
    streams = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    process = subprocess.Popen(command, encoding="utf-8", errors="replace", **streams | settings)
    try:
        while True:
            try:
                output, errors = process.communicate(timeout=0.2)
                return subprocess.CompletedProcess(command, process.returncode, output, errors)
            except subprocess.TimeoutExpired:
                waited = time.monotonic() - begun
            if stopped():
                raise NoAnswerError(f"{words}: not waited for")
            if waited > seconds:
                raise NoAnswerError(f"{words}: no answer within {seconds:.0f} s")
            if waited > told:
                told = waited + 60
                logger.info("waiting for an answer of `%s`, for at most %.0f s", words, seconds)
    finally:
        process.kill()  # nothing, where it has ended
        process.wait()
