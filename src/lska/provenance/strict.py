"""Frozen dataclasses from YAML: pydantic checks the values, and everything that is wrong with them is named at once.

A field takes what its type says, lists for tuples and whole numbers for floats included; nothing else is converted.
Ranges are annotations (`Annotated[int, Field(ge=1)]`), other checks of a field are `checked`, those of a whole section
stand in its `__post_init__`. A section whose fields are all right is checked as a whole even where others are wrong.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
from collections.abc import Callable, Iterable, Mapping
from typing import Annotated, Any, TypeVar, get_args, get_type_hints

from pydantic import AfterValidator, ConfigDict, Field, TypeAdapter, ValidationError, ValidationInfo
from pydantic_core import ErrorDetails

from lska.provenance.errors import InputError, LskaError, alike
from lska.provenance.files import printable, quoted
from lska.provenance.surroundings import expanded

T = TypeVar("T")
Place = tuple[Any, ...]

STRICT = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)

OPEN_ENDED = ConfigDict(strict=True, extra="ignore", allow_inf_nan=False)
"""`__pydantic_config__` of a dataclass that takes unknown keys."""

EXPECTED = {
    "int_type": "int", "int_parsing": "int", "float_type": "a finite float", "finite_number": "a finite float",
    "string_type": "str", "bool_type": "bool", "literal_error": "one of {expected}", "tuple_type": "a list",
    "dict_type": "a mapping", "dataclass_type": "a mapping", "greater_than": "more than {gt:g}",
    "greater_than_equal": "at least {ge:g}", "less_than": "less than {lt:g}", "less_than_equal": "at most {le:g}",
    "too_short": "at least {min_length} values", "too_long": "{max_length} values",
    "string_pattern_mismatch": "text that matches {pattern}",
}  # fmt: skip
"""What was expected, by pydantic's type of the error."""

KEY = "[key]"
"""What ends the location of an error in a key of a mapping."""


class SettingsError(LskaError, ValueError):
    """All that is wrong with a file or section."""

    def __init__(self, problems: Iterable[str], where: str) -> None:
        """Tell the `problems`, each of which begins with the setting at fault, of the file or section `where`."""
        self.problems, self.where = tuple(problems), where
        super().__init__("\n  ".join((f"{where}: {len(self.problems)} problem(s):", *self.problems)))


def merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """`base` updated by `over`, mappings key by key, everything else replaced (Snakemake's rule for config files)."""
    merged = dict(base)
    for key, value in over.items():
        old = merged.get(key)
        merged[key] = merge(old, value) if isinstance(value, Mapping) and isinstance(old, Mapping) else value
    return merged


def build(cls: type[T], values: Mapping[str, Any], where: str, problems: Iterable[str] = ()) -> T:
    """Make `cls` (a dataclass) from `values`, nested dataclasses from nested mappings.

    Raises:
        SettingsError: names `where` (the file or setting that the values come from), what the caller found wrong
            already, and every unknown key, missing key and wrong value with its place, such as `runs[1].kernel`.
    """
    made, found = _built(cls, values, "")
    refuse([*problems, *found], where)
    return made


def build_parts(cls: type[T], values: Mapping[str, Any]) -> tuple[T, list[str], set[str]]:
    """As `build`, but tells what is wrong, and the names of the fields at fault. The instance lacks these, or has their
    default values, so that its other fields can be checked against each other."""
    made, problems = _built(cls, values, "")
    if made is not None:
        return made, [], set()
    made, wrong, hints = object.__new__(cls), set(), get_type_hints(cls, include_extras=True)
    for field in dataclasses.fields(cls):
        notes = getattr(hints[field.name], "__metadata__", ())
        key = next((note.alias for note in notes if getattr(note, "alias", None)), field.name)
        hint = hints[field.name] if key == field.name else get_args(hints[field.name])[0]
        value, found = _built(hint, values[key], key) if key in values else (None, [])
        if key in values and not found:
            object.__setattr__(made, field.name, value)
            continue
        if found or field.default is field.default_factory is dataclasses.MISSING:
            wrong.add(field.name)
        if field.default_factory is not dataclasses.MISSING:
            object.__setattr__(made, field.name, field.default_factory())
    return made, problems, wrong


def problems_of(cls: type[Any], values: Mapping[str, Any], place: str) -> list[str]:
    """What `build` would find wrong with `values`, each problem with its place below the setting `place`."""
    return _built(cls, values, place)[1]


def refuse(problems: Iterable[str], where: str) -> None:
    """Raise SettingsError with all `problems`, one a line, if there are any."""
    if problems := list(problems):
        raise SettingsError(problems, where)


def checked(problem: Callable[..., str | None], *fields: str) -> AfterValidator:
    """Annotation of a field with what `problem` says is wrong with its value (None: nothing) and with those of `fields`
    before it; where one of these is wrong, it is not asked.
    """

    def check(value: Any, info: ValidationInfo) -> Any:
        others = [info.data[name] for name in fields if name in (info.data or {})]
        if len(others) == len(fields) and (found := problem(value, *others)):
            raise InputError(found)
        return value

    return AfterValidator(check)


LocalPath = Annotated[str, AfterValidator(expanded)]
"""A path, in which `~` and variables are expanded when it is read."""

AtLeastOne = Annotated[int, Field(ge=1)]
AtLeastZero = Annotated[int, Field(ge=0)]
Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
Share = Annotated[float, Field(ge=0, le=1)]


@functools.cache
def _adapter(cls: type[Any]) -> TypeAdapter[Any]:
    """What pydantic knows of a dataclass, as the only item of a list: a plain dataclass has no settings itself."""
    return TypeAdapter(list[cls], config=STRICT)


def _built(cls: type[T], values: Mapping[str, Any], setting: str) -> tuple[T | None, list[str]]:
    """The dataclass, or messages of this project for pydantic's errors, which are grouped by their place: where a value
    fits no member of a union, there is one for each member, and none counts where one is wrong further inside.
    """
    try:
        # By way of JSON, in which lists stand for tuples and mappings for dataclasses, however strict the rest is.
        return _adapter(cls).validate_json(json.dumps([values], default=str))[0], []
    except ValidationError as error:
        found: dict[Place, list[ErrorDetails]] = {}
        for one in error.errors(include_url=False):
            found.setdefault(_place(one, values), []).append(one)
    told: list[str] = []
    for place, errors in sorted(found.items(), key=lambda one: one[1][0]["type"] != "unexpected_keyword_argument"):
        name, kind = (place[-1] if place else ""), errors[0]["type"]
        inside = any(len(other) > len(place) and other[: len(place)] == place for other in found)
        if kind == "missing":
            where, problem = place[:-1], f"missing key {name!r}"
        elif kind == "unexpected_keyword_argument":
            where, problem = place[:-1], f"unknown key {quoted(name)}{_suggestion(cls, place)}"
        elif kind == "value_error":
            where, problem = place, str(errors[0]["ctx"]["error"])
        elif not inside:
            where, problem = place, _mismatch(errors)
        else:
            continue
        steps = (f"[{one}]" if isinstance(one, int) else f".{printable(one, 100)}" for one in where)
        written = "".join((setting, *steps)).removeprefix(".").replace(f".{KEY}", " (the key)")
        told.append(f"{written}: {problem}" if written else problem)
    return None, told


def _place(error: ErrorDetails, values: Any) -> Place:
    """Where in the values an error is: its location without the names of members of unions."""
    place: list[Any] = []
    reached, step = True, None
    for step in error["loc"][1:]:
        inside = dict(enumerate(values)) if isinstance(values, list | tuple) else values
        inside = {str(name): one for name, one in inside.items()} if isinstance(values, Mapping) else inside
        reached = isinstance(inside, dict) and step in inside
        if reached:
            values = inside[step]
            place.append(step)
    if error["type"] == "missing" and not reached and isinstance(values, list | tuple):
        # Of a list that is too short; the last of its errors knows how long it had to be.
        error["type"], error["ctx"], error["input"] = "too_long", {"max_length": step + 1}, values
    elif error["type"] in ("missing", "unexpected_keyword_argument") and not reached:
        place.append(step)
    elif step == KEY:
        place.append(KEY)
    return tuple(place)


def _mismatch(errors: list[ErrorDetails]) -> str:
    value, kind = errors[0]["input"], errors[-1]["type"]
    expected = dict.fromkeys(EXPECTED.get(one["type"], one["msg"]).format(**one.get("ctx", {})) for one in errors)
    if kind == "too_long":
        return f"expected {list(expected)[-1]}, found {len(value)}: {quoted(value)}"
    shown = f"{type(value).__name__} {quoted(value)}" if kind.endswith(("_type", "_error")) else quoted(value)
    hint = ""
    if isinstance(value, str) and "a finite float" in expected and "e" in value.lower():
        with contextlib.suppress(ValueError):  # an error that is easier to mend when named
            mantissa, exponent = f"{float(value):e}".split("e")
            hint = f"; YAML takes it for text, write {float(mantissa)}e{int(exponent):+d}"
    return f"expected {' or '.join(expected)}, found {shown}{hint}".replace("' or '", "', '")


def _suggestion(cls: type[Any], place: Place) -> str:
    """The key that may have been meant, or all that are known, by the JSON schema of the dataclass."""
    schema = _adapter(cls).json_schema()

    def options(one: Any) -> list[dict[str, Any]]:
        if not isinstance(one, dict):
            return []
        one = schema["$defs"][one["$ref"].rpartition("/")[2]] if "$ref" in one else one
        return [found for part in one["anyOf"] for found in options(part)] if "anyOf" in one else [one]

    sections = options(schema["items"])
    for step in place[:-1]:
        inner = [one.get("properties", {}).get(step) or one.get("additionalProperties") for one in sections]
        sections = [found for one in (*inner, *(one.get("items") for one in sections)) for found in options(one)]
    known = [key for one in sections for key in one.get("properties", {})]
    close = alike(place[-1], known)
    return f" (did you mean {close[0]!r}?)" if close else f"; known keys: {', '.join(known)}"
