"""Building frozen dataclasses from YAML, with every unknown key, missing key and wrong type named at once."""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML file that must hold a mapping.

    Raises:
        ValueError: the file is missing, is not YAML, or holds something else; the message names it.
    """
    import yaml

    try:
        content = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(f"{path}: cannot be read ({error.strerror}); check the path") from error
    except yaml.YAMLError as error:
        raise ValueError(f"{path}: not valid YAML: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path}: expected a mapping of settings, found {type(content).__name__}")
    return content


def build(cls: type[T], values: Mapping[str, Any], where: str) -> T:
    """Make `cls` (a dataclass) from `values`.

    Integers are accepted for floats and lists for tuples; nothing else is converted.

    Raises:
        ValueError: names `where` and every unknown key, missing key and wrong type.
    """
    hints = typing.get_type_hints(cls)
    fields = {field.name: field for field in dataclasses.fields(cls)}
    problems = [f"unknown key {key!r}{_suggest(key, fields)}" for key in values if key not in fields]
    arguments = {}
    for name, field in fields.items():
        if name not in values:
            if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
                problems.append(f"missing key {name!r}")
            continue
        try:
            arguments[name] = convert(values[name], hints[name])
        except TypeError as error:
            problems.append(f"{name}: {error}")
    if problems:
        raise ValueError(f"{where}: {len(problems)} problem(s):\n" + "\n".join(f"  {p}" for p in problems))
    try:
        return cls(**arguments)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error


def _suggest(key: str, known: Mapping[str, Any]) -> str:
    import difflib

    close = difflib.get_close_matches(key, known, n=1)
    return f" (did you mean {close[0]!r}?)" if close else f"; known keys: {', '.join(known)}"


def convert(value: Any, hint: Any) -> Any:
    """Check `value` against a type hint made of scalars, unions, tuples and mappings; lists become tuples.

    Raises:
        TypeError: says what was expected and what was found.
    """
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return _convert_union(value, arguments)
    if dataclasses.is_dataclass(hint):
        return _convert_nested(value, hint)
    if origin is typing.Literal:
        if value not in arguments:
            raise TypeError(f"expected one of {', '.join(map(repr, arguments))}, found {value!r}")
        return value
    if origin is tuple:
        if not isinstance(value, list | tuple):
            raise TypeError(f"expected a list, found {_describe(value)}")
        inner = [arguments[0]] * len(value) if arguments[-1] is Ellipsis else list(arguments)
        if len(inner) != len(value):
            raise TypeError(f"expected {len(inner)} values, found {len(value)}: {list(value)}")
        return tuple(convert(item, kind) for item, kind in zip(value, inner, strict=True))
    if origin is dict:
        if not isinstance(value, dict):
            raise TypeError(f"expected a mapping, found {_describe(value)}")
        return {convert(k, arguments[0]): convert(v, arguments[1]) for k, v in value.items()}
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if hint is Any or (isinstance(value, hint) and not (isinstance(value, bool) and hint is not bool)):
        return value
    raise TypeError(f"expected {hint.__name__}, found {_describe(value)}{_scientific(value, hint)}")


def _convert_union(value: Any, options: tuple[Any, ...]) -> Any:
    if value is None and type(None) in options:
        return None
    kinds = [option for option in options if option is not type(None)]
    for kind in kinds[:-1]:
        try:
            return convert(value, kind)
        except TypeError:
            continue
    return convert(value, kinds[-1])


def _convert_nested(value: Any, cls: type[T]) -> T:
    if not isinstance(value, dict):
        raise TypeError(f"expected a mapping, found {_describe(value)}")
    try:
        return build(cls, value, "section")
    except ValueError as error:
        raise TypeError(str(error).replace("\n", "\n  ")) from error


def _describe(value: Any) -> str:
    return f"{type(value).__name__} {value!r}"


def _scientific(value: Any, hint: Any) -> str:
    """YAML reads `1e-3` as text, an error that is easier to mend when named."""
    if hint is not float or not isinstance(value, str):
        return ""
    try:
        number = float(value)
    except ValueError:
        return ""
    mantissa = f"{number:e}".split("e")
    return f"; YAML takes it for text, write {float(mantissa[0])}e{int(mantissa[1]):+d}"
