"""Faults that are explained in one message. Everything else is a fault of the code, and keeps its traceback."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class LskaError(Exception):
    """A fault that its message explains: what, where, what was expected, what to do."""


class InputError(LskaError, ValueError):
    """A setting, an argument or data that cannot be used."""


class WorkerError(LskaError, RuntimeError):
    """A process that did part of the work is gone, or does nothing any more."""


class OccupiedError(LskaError, FileExistsError):
    """Something is in a place that is to be written, and is not to be replaced."""


def alike(wanted: object, known: Iterable[str], most: int = 1, least: float = 0.6) -> list[str]:
    """The names that may have been meant by one that is not known, at most so many, the closest first.

    Args:
        least: similarity, from 0 to 1 (`difflib.SequenceMatcher.ratio`).
    """
    return difflib.get_close_matches(str(wanted)[:200], list(known), n=most, cutoff=least)


def did_you_mean(wanted: object, known: Iterable[str]) -> str:
    """A question for a message, with a space after it; nothing where no known name is alike."""
    return "".join(f"did you mean {name}? " for name in alike(wanted, known))
