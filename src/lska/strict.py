"""Building frozen dataclasses from YAML, with every unknown key, missing key and wrong type named at once."""

from __future__ import annotations

import dataclasses
import difflib
import math
import types
import typing
from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any, Literal, TypeVar, Union

from lska.files import quoted
from lska.surroundings import expanded

T = TypeVar("T")

PATH = {"path": True}
"""Metadata of a field that holds a path, in which `~` and variables are expanded when it is read."""


def merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """`base` updated by `over`, mappings key by key, everything else replaced (Snakemake's rule for config files)."""
    merged = dict(base)
    for key, value in over.items():
        old = merged.get(key)
        merged[key] = merge(old, value) if isinstance(value, Mapping) and isinstance(old, Mapping) else value
    return merged


def build(cls: type[T], values: Mapping[str, Any], where: str, problems: Iterable[str] = ()) -> T:
    """Make `cls` (a dataclass) from `values`, nested dataclasses from nested mappings.

    Integers are accepted for floats and lists for tuples; nothing else is converted. A field with the metadata `key` is
    set by that name instead of its own; one with `PATH` is expanded (`lska.surroundings.expanded`).

    Args:
        where: file or setting that the values come from.
        problems: what the caller found wrong with the values already; named together with the rest.

    Raises:
        ValueError: names `where`, and every unknown key, missing key and wrong type with its place, such as
            `runs[1].kernel`; the checks of the dataclasses themselves follow once these are mended.
    """
    found = list(problems)
    made = _build(cls, values, "", found)
    refuse(found, where)
    return made


def problems_of(cls: type[Any], values: Mapping[str, Any], place: str) -> list[str]:
    """What `build` would find wrong with `values`, each problem with its place below the setting `place`."""
    found: list[str] = []
    _build(cls, values, place, found)
    return found


def refuse(problems: Sequence[str], where: str) -> None:
    """Raise ValueError with all `problems`, one a line, if there are any."""
    if problems:
        raise ValueError(f"{where}: {len(problems)} problem(s):\n" + "\n".join(f"  {problem}" for problem in problems))


def _build(cls: type[T], values: Mapping[str, Any], place: str, problems: list[str]) -> T | None:
    """An instance of `cls`, or None after appending to `problems`."""
    before, prefix = len(problems), f"{place}: " if place else ""
    hints = typing.get_type_hints(cls, include_extras=True)
    fields = {field.metadata.get("key", field.name): field for field in dataclasses.fields(cls)}
    unknown = [] if getattr(cls, "open_ended", False) else [key for key in values if key not in fields]
    problems += [f"{prefix}unknown key {quoted(key)}{_suggest(key, fields)}" for key in unknown]
    arguments = {}
    for key, field in fields.items():
        if key in values:
            inner = f"{place}.{key}" if place else key
            arguments[field.name] = _convert(values[key], hints[field.name], inner, problems)
            if field.metadata.get("path") and arguments[field.name] is not None:
                arguments[field.name] = _expand(arguments[field.name], inner, problems)
        elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            problems.append(f"{prefix}missing key {key!r}")
    if len(problems) > before:
        return None
    try:
        return cls(**arguments)
    except ValueError as error:
        problems.append(f"{prefix}{error}")
        return None


def _expand(path: str | dict[str, str], place: str, problems: list[str]) -> str | dict[str, str]:
    if isinstance(path, dict):
        return {name: _expand(inner, f"{place}.{name}", problems) for name, inner in path.items()}
    try:
        return expanded(path)
    except ValueError as error:
        problems.append(f"{place}: {error}")
        return path


def _suggest(key: Any, known: Mapping[str, Any]) -> str:
    close = difflib.get_close_matches(str(key)[:100], known, n=1)
    return f" (did you mean {close[0]!r}?)" if close else f"; known keys: {', '.join(known)}"


def _convert(value: Any, hint: Any, place: str, problems: list[str]) -> Any:
    """Check `value` against a type hint made of scalars, unions, tuples, mappings and dataclasses.

    `Annotated` types have functions that say what is wrong with a value of the type, or None.

    Returns the value with lists as tuples; None after appending to `problems`.
    """
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any or (origin is Literal and value in arguments):
        return value
    if origin is Annotated:
        return _convert_annotated(value, hint, place, problems)
    if origin in (Union, types.UnionType):
        return _convert_union(value, hint, place, problems)
    if dataclasses.is_dataclass(hint) and isinstance(value, dict):
        return _build(hint, value, place, problems)
    if origin is tuple and isinstance(value, list | tuple):
        return _convert_items(value, arguments, place, problems)
    if origin is dict and isinstance(value, dict):
        keys = [_convert(key, arguments[0], f"{place}, key {quoted(key)}", problems) for key in value]
        items = [_convert(item, arguments[1], f"{place}.{key}", problems) for key, item in value.items()]
        return dict(zip(keys, items, strict=True))
    if hint is float and isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
        return float(value)
    if isinstance(hint, type) and hint is not float and _is_instance(value, hint):
        return value
    problems.append(_mismatch(value, hint, place))
    return None


def _is_instance(value: Any, kind: type) -> bool:
    # True and False are integers to Python, never to a person who writes a configuration.
    return isinstance(value, kind) and (kind is bool or not isinstance(value, bool))


def _convert_items(value: Sequence[Any], kinds: tuple[Any, ...], place: str, problems: list[str]) -> tuple[Any, ...]:
    inner = [kinds[0]] * len(value) if kinds[-1] is Ellipsis else list(kinds)
    if len(inner) != len(value):
        problems.append(f"{place}: expected {len(inner)} values, found {len(value)}: {quoted(list(value))}")
        return ()
    pairs = enumerate(zip(value, inner, strict=True))
    return tuple(_convert(item, kind, f"{place}[{number}]", problems) for number, (item, kind) in pairs)


def _convert_annotated(value: Any, hint: Any, place: str, problems: list[str]) -> Any:
    converted = _convert(value, hint.__origin__, place, problems)
    wrong = [] if converted is None else [problem for check in hint.__metadata__ if (problem := check(converted))]
    problems += [f"{place}: {problem}" for problem in wrong]
    return None if wrong else converted


def _convert_union(value: Any, hint: Any, place: str, problems: list[str]) -> Any:
    """The first kind that fits; where none does, what is wrong inside a list or mapping if one was possible."""
    inside: list[str] = []
    for kind in typing.get_args(hint):
        found: list[str] = []
        converted = _convert(value, kind, place, found)
        if not found:
            return converted
        if _could_be(value, kind):
            inside = inside or found
    problems += inside or [_mismatch(value, hint, place)]
    return None


def _could_be(value: Any, kind: Any) -> bool:
    """Whether a value that is no `kind` is wrong in what it holds, not in its type."""
    if typing.get_origin(kind) is Annotated:
        return isinstance(value, kind.__origin__)
    return _shape(kind) is not None and isinstance(value, _shape(kind))


def _shape(kind: Any) -> Any:
    if dataclasses.is_dataclass(kind) or typing.get_origin(kind) is dict:
        return dict
    return list | tuple if typing.get_origin(kind) is tuple else None


def _mismatch(value: Any, hint: Any, place: str) -> str:
    return f"{place}: expected {_name(hint)}, found {type(value).__name__} {quoted(value)}{_scientific(value, hint)}"


def _name(hint: Any) -> str:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (Union, types.UnionType):
        return " or ".join(map(_name, arguments))
    if origin is Literal:
        return f"one of {', '.join(map(repr, arguments))}"
    if origin is Annotated:
        return _name(arguments[0])
    if hint is type(None):
        return "null"
    if _shape(hint) is not None:
        return "a mapping" if _shape(hint) is dict else "a list"
    return "a finite float" if hint is float else hint.__name__


def _scientific(value: Any, hint: Any) -> str:
    """YAML reads `1e-3` as text, an error that is easier to mend when named."""
    kinds = typing.get_args(hint) if typing.get_origin(hint) in (Union, types.UnionType) else (hint,)
    if float not in kinds or not isinstance(value, str) or "e" not in value.lower():
        return ""
    try:
        mantissa, exponent = f"{float(value):e}".split("e")
    except ValueError:
        return ""
    return f"; YAML takes it for text, write {float(mantissa)}e{int(exponent):+d}"
