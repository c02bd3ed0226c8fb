"""Frozen dataclasses from YAML: pydantic checks the values, and everything that is wrong with them is named at once.

A field takes what its type says, lists for tuples and whole numbers for floats included; nothing else is converted.
Ranges are annotations (`Annotated[int, Field(ge=1)]`), other checks of a field are `checked`, those of a whole section
stand in its `__post_init__`. A section whose fields are all right is checked as a whole even where others are wrong.
"""

from __future__ import annotations

import difflib
import functools
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, ConfigDict, Field, TypeAdapter, ValidationError, ValidationInfo
from pydantic_core import ErrorDetails, SchemaValidator

from lska.provenance.errors import InputError, LskaError
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
}  # fmt: skip
"""What was expected, by pydantic's type of the error."""

UNKNOWN = ("unexpected_keyword_argument", "invalid_key")
"""Pydantic's types of errors of unknown keys."""

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

    Args:
        where: file or setting that the values come from.
        problems: what the caller found wrong with the values already; named together with the rest.

    Raises:
        SettingsError: names `where`, and every unknown key, missing key and wrong value with its place, such as
            `runs[1].kernel`.
    """
    made, found = _built(cls, values, "")
    refuse([*problems, *found], where)
    return made


def problems_of(cls: type[Any], values: Mapping[str, Any], place: str) -> list[str]:
    """What `build` would find wrong with `values`, each problem with its place below the setting `place`."""
    return _built(cls, values, place)[1]


def refuse(problems: Iterable[str], where: str) -> None:
    """Raise SettingsError with all `problems`, one a line, if there are any."""
    if problems := list(problems):
        raise SettingsError(problems, where)


def checked(problem: Callable[..., str | None], *fields: str) -> AfterValidator:
    """Annotation of a field with what `problem` says is wrong with its value; None where nothing is.

    Args:
        fields: fields before this one whose values `problem` takes too; where one of these is wrong, it is not asked.
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


@functools.cache
def _validator(cls: type[Any]) -> SchemaValidator:
    return SchemaValidator(_as_in_yaml(_adapter(cls).core_schema))


def _as_in_yaml(schema: Any) -> Any:
    """A schema in which lists may stand for tuples, and mappings for dataclasses, however strict the rest is."""
    if isinstance(schema, list):
        return [_as_in_yaml(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    lax = {"strict": False} if schema.get("type") in ("tuple", "dataclass") else {}
    return {key: _as_in_yaml(value) for key, value in schema.items()} | lax


def _built(cls: type[T], values: Mapping[str, Any], setting: str) -> tuple[T | None, list[str]]:
    try:
        return _validator(cls).validate_python([values])[0], []
    except ValidationError as error:
        return None, list(_explained(cls, [values], error.errors(include_url=False), setting))


def _explained(cls: type[Any], values: Any, errors: list[ErrorDetails], setting: str) -> Iterator[str]:
    """Messages of this project for pydantic's errors in the values of a `setting`.

    Where a value fits no member of a union, pydantic has an error for each member: they become one message, or none
    where one of the members could be meant and is wrong further inside.
    """
    found: dict[Place, list[ErrorDetails]] = {}
    for error in errors:
        found.setdefault(_place(error, values), []).append(error)
    first = {place[:depth]: number for number, place in reversed([*enumerate(found)]) for depth in range(len(place))}
    unknown = {place for place, here in found.items() if here[0]["type"] in UNKNOWN}
    # Before the fields of their section: one may be the misspelt name of a missing one.
    order = {place: (first[place[:-1]] if place in unknown else number) for number, place in enumerate(found)}
    for place in sorted(found, key=lambda place: (order[place], place not in unknown)):
        here, kind, name = found[place], found[place][0]["type"], place[-1]
        if kind == "missing":
            yield _told(_written(setting, place[1:-1]), f"missing key {name!r}")
        elif place in unknown:
            yield _told(_written(setting, place[1:-1]), f"unknown key {quoted(name)}{_suggestion(cls, place)}")
        elif kind == "value_error":
            yield _told(_written(setting, place[1:]), str(here[0]["ctx"]["error"]))
        elif place not in first:
            yield _told(_written(setting, place[1:]), _mismatch(here, _options(cls, place)))


def _place(error: ErrorDetails, values: Any) -> Place:
    """Where in the values an error is: its location without the names of members of unions."""
    place: list[Any] = []
    for step in error["loc"]:
        inside = values if isinstance(values, dict) else range(len(values)) if isinstance(values, list) else ()
        reached = step in inside
        if reached:
            values = values[step]
            place.append(step)
    if error["type"] == "missing" and isinstance(values, list):
        # Of a list that is too short; the last of its errors knows how long it had to be.
        error["type"], error["ctx"] = "too_long", {"max_length": step + 1}
    if not reached and (error["type"] in ("missing", "invalid_key") or step == KEY):
        place.append(step)
    return tuple(place)


def _mismatch(errors: list[ErrorDetails], options: list[dict[str, Any]]) -> str:
    value, last = errors[0]["input"], errors[-1]
    if last["type"] == "too_long":
        return f"expected {last['ctx']['max_length']} values, found {len(value)}: {quoted(value)}"
    kinds = [(EXPECTED.get(error["type"], error["type"]), error.get("ctx", {})) for error in errors]
    expected = dict.fromkeys(kind.format(**context) for kind, context in kinds)
    wanted = " or ".join(expected).replace("' or '", "', '")
    of_type = last["type"].endswith(("_type", "_error"))
    null = " or null" if of_type and {"type": "null"} in options else ""
    kind = f"{type(value).__name__} " if of_type else ""
    hint = _scientific(value) if isinstance(value, str) and "a finite float" in expected else ""
    return f"expected {wanted}{null}, found {kind}{quoted(value)}{hint}"


def _scientific(value: str) -> str:
    """YAML reads `1e-3` as text, an error that is easier to mend when named."""
    try:
        mantissa, exponent = f"{float(value):e}".split("e")
    except ValueError:
        return ""
    return f"; YAML takes it for text, write {float(mantissa)}e{int(exponent):+d}" if "e" in value.lower() else ""


def _suggestion(cls: type[Any], place: Place) -> str:
    known = [key for option in _options(cls, place[:-1]) for key in option.get("properties", {})]
    close = difflib.get_close_matches(str(place[-1])[:100], known, n=1)
    return f" (did you mean {close[0]!r}?)" if close else f"; known keys: {', '.join(known)}"


def _options(cls: type[Any], place: Place) -> list[dict[str, Any]]:
    """JSON schemas of what may stand at `place` in the values of a dataclass."""
    schema = _adapter(cls).json_schema()
    found = [schema]
    for step in (None, *place):
        if step is not None:
            inner = [one.get("properties", {}).get(step) or one.get("additionalProperties") for one in found]
            inner += [one.get("items") for one in found]
            found = [one for one in inner if isinstance(one, dict)]
        found = [option for one in found for option in one.get("anyOf", [one])]
        found = [schema["$defs"][one["$ref"].rpartition("/")[2]] if "$ref" in one else one for one in found]
    return found


def _written(setting: str, place: Place) -> str:
    """A place inside a setting as people write it, such as `runs[1].kernel`."""
    if KEY in place:
        return f"{_written(setting, place[:-2])}, key {quoted(place[-2])}"
    steps = (f"[{step}]" if isinstance(step, int) else f".{printable(step, 100)}" for step in place)
    return "".join((setting, *steps)).removeprefix(".")


def _told(place: str, problem: str) -> str:
    return f"{place}: {problem}" if place else problem
