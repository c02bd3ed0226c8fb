"""How far long work is: a bar on a terminal, and elsewhere, as in a job's log, a line now and then."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Iterator
from typing import Any

from tqdm import tqdm

logger = logging.getLogger(__name__)

BETWEEN_LINES = 15.0
"""Seconds between two lines."""


class Bar(tqdm):
    """tqdm's bar, which is silent where no terminal shows it: there the log gets what is done and the time left.

    Args:
        iterable: what is gone through, or None where `update` is called; settings as tqdm's.
    """

    def __init__(self, iterable: Iterable[Any] | None = None, **settings: Any) -> None:
        super().__init__(iterable, disable=None, **settings)
        self._words = settings.get("desc"), settings.get("unit", "it"), settings.get("unit_scale", False)
        self._done, self._begun = 0, time.monotonic()
        self._told = self._begun

    def __iter__(self) -> Iterator[Any]:
        if not self.disable:
            yield from super().__iter__()
            return
        for one in self.iterable:
            yield one
            self.update()

    def update(self, n: float | None = 1) -> bool | None:
        """Add `n` to what is done."""
        if not self.disable:
            return super().update(n)
        self._done += n
        if (now := time.monotonic()) - self._told >= BETWEEN_LINES:
            self._told = now
            logger.info("%s", self.line(now - self._begun))
        return None

    def line(self, seconds: float) -> str:
        """What the log says after so many seconds."""
        desc, unit, scaled = self._words
        done, total = (None if one is None else self.format_sizeof(one) if scaled else f"{one:,}"
                       for one in (self._done, self.total))  # fmt: skip
        share = f"{done} {unit}" if total is None else f"{done} of {total} {unit}"
        left = "" if not (self.total and self._done) else self.format_interval(
            seconds * (self.total - self._done) / self._done
        )  # fmt: skip
        return "".join([f"{desc}: " if desc else "", share, f", {left} left" if left else ""])
