"""Imports without what other packages import for nothing that is used here. Imports nothing heavy."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

ADDRESSES = "rfc3987_syntax"
"""From which jsonschema builds a grammar of internationalised addresses, for half a second; no schema has any."""


@contextmanager
def absent(*names: str) -> Iterator[None]:
    """Import what is imported inside the block as if the packages `names` were not installed.

    For packages that others import for what is not used here, at a cost in every process, and do without.
    """
    hidden = [name for name in names if name not in sys.modules]
    sys.modules.update(dict.fromkeys(hidden))
    try:
        yield
    finally:
        for name in hidden:
            del sys.modules[name]
