"""Dataclasses from YAML: what is accepted, and that everything wrong is named at once with its place."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

import pytest

from lska.strict import build, merge


@dataclass(frozen=True)
class Part:
    """A nested section."""

    size: int | tuple[int, ...]
    kind: Literal["a", "b"] = "a"

    def __post_init__(self) -> None:
        if self.size == 13:
            raise ValueError("size must not be 13")


@dataclass(frozen=True)
class Whole:
    """Every kind of field that configurations use."""

    rate: float
    groups: tuple[Part, ...] = field(metadata={"key": "parts"})
    name: str = "x"
    pair: tuple[float, float] = (0.0, 1.0)
    limit: float | None = None
    on: bool = False
    part: Part | None = None
    table: dict[str, dict[str, Any]] = field(default_factory=dict)


GOOD: dict[str, Any] = {"rate": 1, "parts": [{"size": 3}, {"size": [1, 2], "kind": "b"}]}


def problems(values: dict[str, Any]) -> list[str]:
    with pytest.raises(ValueError) as caught:
        build(Whole, values, "file.yaml")
    head, *lines = str(caught.value).splitlines()
    assert head == f"file.yaml: {len(lines)} problem(s):"
    return [line.strip() for line in lines]


def test_values_arrive_with_floats_tuples_and_nested_sections() -> None:
    whole = build(Whole, {**GOOD, "pair": [1, 2], "limit": 0.5, "part": {"size": 4}, "table": {"m": {"d": [1]}}}, "")
    assert whole == Whole(
        1.0, (Part(3), Part((1, 2), "b")), pair=(1.0, 2.0), limit=0.5, part=Part(4), table={"m": {"d": [1]}}
    )
    assert isinstance(whole.rate, float)


def test_everything_wrong_is_named_at_once_with_its_place() -> None:
    values = {
        "rate": "fast", "parts": [{"size": "x"}, {"size": 2, "kind": "c", "sice": 1}, 7], "naem": "y", "pair": [1],
        "on": 1, "part": {"kind": "a"}, "table": {"m": 3},
    }  # fmt: skip
    assert problems(values) == [
        "unknown key 'naem' (did you mean 'name'?)",
        "rate: expected a finite float, found str 'fast'",
        "parts[0].size: expected int or a list, found str 'x'",
        "parts[1]: unknown key 'sice' (did you mean 'size'?)",
        "parts[1].kind: expected one of 'a', 'b', found str 'c'",
        "parts[2]: expected a mapping, found int 7",
        "pair: expected 2 values, found 1: [1]",
        "on: expected bool, found int 1",
        "part: missing key 'size'",
        "table.m: expected a mapping, found int 3",
    ]


def test_missing_and_hopelessly_unknown_keys_are_named() -> None:
    assert problems({"zzz": 1, "parts": []}) == [
        "unknown key 'zzz'; known keys: rate, parts, name, pair, limit, on, part, table",
        "missing key 'rate'",
    ]


def test_a_field_is_set_by_its_key_alone() -> None:
    assert problems({"rate": 1.0, "groups": []})[0].startswith("unknown key 'groups'")


@pytest.mark.parametrize(
    ("key", "value", "text"),
    [
        ("rate", True, "expected a finite float, found bool True"),
        ("rate", None, "expected a finite float, found NoneType None"),
        ("rate", float("nan"), "expected a finite float, found float nan"),
        ("limit", float("inf"), "expected a finite float or null, found float inf"),
        ("name", 3, "expected str, found int 3"),
        ("pair", "12", "expected a list, found str '12'"),
        ("part", [1], "expected a mapping or null, found list [1]"),
        ("table", {1: {}}, "expected str, found int 1"),
    ],
)
def test_wrong_types_are_refused(key: str, value: Any, text: str) -> None:
    (problem,) = problems({**GOOD, key: value})
    assert problem.startswith(key)
    assert problem.endswith(text)


def test_a_list_of_wrong_items_is_judged_as_a_list() -> None:
    assert problems({**GOOD, "parts": [{"size": [1, "2"]}]}) == ["parts[0].size[1]: expected int, found str '2'"]


@pytest.mark.parametrize(("text", "better"), [("1e-3", "1.0e-3"), ("2.5e4", "2.5e+4")])
def test_numbers_that_yaml_takes_for_text_are_explained(text: str, better: str) -> None:
    (problem,) = problems({**GOOD, "limit": text})
    assert problem.endswith(f"found str {text!r}; YAML takes it for text, write {better}")


def test_checks_of_the_dataclass_itself_get_the_place_too() -> None:
    assert problems({"rate": 1, "parts": [{"size": 1}, {"size": 13}]}) == ["parts[1]: size must not be 13"]


def test_problems_of_the_caller_come_first() -> None:
    with pytest.raises(ValueError, match=r"f: 2 problem\(s\):\n  mine\n  missing key 'rate'"):
        build(Whole, {"parts": []}, "f", ["mine"])


def test_merging_goes_key_by_key_and_replaces_lists() -> None:
    base = {"a": {"x": 1, "y": [1, 2]}, "b": 1}
    assert merge(base, {"a": {"y": [3]}, "c": {"z": 0}}) == {"a": {"x": 1, "y": [3]}, "b": 1, "c": {"z": 0}}
    assert base == {"a": {"x": 1, "y": [1, 2]}, "b": 1}
    assert merge({"a": {"x": 1}}, {"a": None}) == {"a": None}
