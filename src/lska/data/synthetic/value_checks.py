"""Checks of settings; each raises a ValueError that names the setting, what was expected and what was found."""

from collections.abc import Sequence
from typing import Any

from lska.provenance.errors import InputError


def check_range(name: str, value: Any, low: float, high: float) -> None:
    """Check that low <= value <= high, and that the value is an integer where `low` is one."""
    kind, wanted = ("an integer", int) if isinstance(low, int) else ("a number", (int, float))
    if isinstance(value, bool) or not isinstance(value, wanted) or not low <= value <= high:
        raise InputError(f"{name} must be {kind} from {low} to {high}, found {value!r}")


def check_pair(name: str, values: Any, low: float, high: float) -> None:
    """Check that `values` is a tuple of two numbers in range, the smaller first."""
    if not isinstance(values, tuple) or len(values) != 2:
        raise InputError(f"{name} must be a tuple of two numbers, found {values!r}")
    for value in values:
        check_range(name, value, low, high)
    if values[0] > values[1]:
        raise InputError(f"{name} must have the smaller number first, found {values!r}")


def check_names(name: str, values: Any, known: Sequence[str], least: int = 1) -> None:
    """Check that `values` is a tuple of at least `least` different names, all of them known."""
    if not isinstance(values, tuple) or len(values) < least or len(set(values)) < len(values):
        raise InputError(f"{name} must be a tuple of at least {least} different names, found {values!r}")
    unknown = [value for value in values if value not in known]
    if unknown:
        raise InputError(f"{name} has unknown {', '.join(map(repr, unknown))}; choose from {', '.join(known)}")


def check_choice(name: str, value: Any, known: Sequence[str]) -> None:
    """Check that `value` is one of the known names."""
    if value not in known:
        raise InputError(f"{name} must be one of {', '.join(known)}, found {value!r}")
