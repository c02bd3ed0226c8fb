"""Faults that are explained in one message. Everything else is a fault of the code, and keeps its traceback."""

from __future__ import annotations


class LskaError(Exception):
    """A fault that its message explains: what, where, what was expected, what to do."""


class InputError(LskaError, ValueError):
    """A setting, an argument or data that cannot be used."""


class WorkerError(LskaError, RuntimeError):
    """A process that did part of the work is gone, or does nothing any more."""


class OccupiedError(LskaError, FileExistsError):
    """Something is in a place that is to be written, and is not to be replaced."""
