"""Other programs that are asked something: it is said when an answer takes long, and there is an end to waiting."""

from __future__ import annotations

import logging
import shlex
import subprocess
from collections.abc import Sequence
from typing import Any

from lska.provenance.errors import LskaError

logger = logging.getLogger(__name__)

TELL_SECONDS = 5.0
"""After which it is said what is waited for."""


class NoAnswerError(LskaError, RuntimeError):
    """A program gave no answer in time."""


def ask(command: Sequence[str], seconds: float, **settings: Any) -> subprocess.CompletedProcess[str]:
    """Run a program that is not asked to do much, and return its exit code with what it said.

    Args:
        seconds: after which it is ended.
        settings: of `subprocess.Popen`.

    Raises:
        NoAnswerError: it took longer.
        OSError: it cannot be started.
    """
    words, patience = shlex.join(command)[:200], min(seconds, TELL_SECONDS)
    streams = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    process = subprocess.Popen(command, encoding="utf-8", errors="replace", **streams | settings)
    try:
        try:
            output, errors = process.communicate(timeout=patience)
        except subprocess.TimeoutExpired:
            if seconds > patience:
                logger.info("waiting for an answer of `%s`, for at most %.0f s", words, seconds)
            output, errors = process.communicate(timeout=seconds - patience)
        return subprocess.CompletedProcess(command, process.returncode, output, errors)
    except subprocess.TimeoutExpired as error:
        raise NoAnswerError(f"{words}: no answer within {seconds:.0f} s") from error
    finally:
        process.kill()  # nothing, where it has ended
        process.wait()
