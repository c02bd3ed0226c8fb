"""The reference of all settings (docs/settings.md), written from the types, ranges and docstrings of their fields."""

from __future__ import annotations

import dataclasses
import inspect
import json
from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import TypeAdapter

from lska.provenance.strict import STRICT
from lska.settings import recipes
from lska.settings import schema as sections
from lska.settings.recipes import Switches
from lska.settings.scale import Config

SECTIONS = (
    Config, sections.RunGroup, sections.PublishedFile, sections.DataSource, sections.Training, sections.Pretraining,
    sections.Evaluation, sections.Speed,
    sections.DenseTask, sections.DetectionTask, sections.SegmentationTask, sections.FineTuning, sections.Robustness,
    sections.Inspection, sections.ShapeTexture, sections.TextureNeighbours, sections.ReceptiveField,
)  # fmt: skip
RECIPES = (
    recipes.Recipe, recipes.FineTuningRecipe, recipes.DetectionRecipe, recipes.MaskRCNNRecipe,
    recipes.SegmentationRecipe,
)  # fmt: skip

HEAD = """# Settings

All settings of the files in `config/` and `config/recipes/`. Other settings are refused, and all problems of a file are
named at once. Later files override earlier ones key by key (`--configfile a.yaml b.yaml`), and the command line
overrides files.

This page is written by
`python -c "from lska.settings.settings_reference import reference_page as page; print(page(), end='')"`.
"""


def reference_page() -> str:
    """The reference as Markdown."""
    kinds = {"Recipe": recipes.SWITCHES, "FineTuningRecipe": recipes.DENSE_SWITCHES}
    switches = (_switches(name, known) for name, known in kinds.items())
    parts = [HEAD, "## Configuration of a scale\n", *map(_section, SECTIONS), "## Recipes\n", *switches]
    return "\n".join([*parts, *map(_section, RECIPES)]).rstrip() + "\n"


def _section(cls: type[Any]) -> str:
    """Heading, purpose and table of one dataclass; what it inherits is described where it comes from."""
    schema = TypeAdapter(list[cls], config={**STRICT, "use_attribute_docstrings": True}).json_schema()
    described = schema.get("$defs", {}).get(cls.__name__, schema["items"])
    bases = [base for base in cls.__bases__ if dataclasses.is_dataclass(base)]
    inherited = {field.name for base in bases for field in dataclasses.fields(base)} - set(inspect.get_annotations(cls))
    required = described.get("required", [])
    rows = [_row(key, one, required) for key, one in described["properties"].items() if key not in inherited]
    purpose = " ".join(inspect.getdoc(cls).split())
    more = "".join(f" Also everything of {_link(base.__name__)}." for base in bases)
    head = ["| key | expected | default | meaning |", "| --- | --- | --- | --- |"]
    return "\n".join([f"### {cls.__name__}\n", purpose + more, "", *(head if rows else ()), *rows, ""])


def _switches(name: str, known: Switches) -> str:
    rows = "".join(f"- `{switch}`: {', '.join(f'`{one}`' for one in choices)}\n" for switch, choices in known.items())
    more = "[methods.md](methods.md#where-the-sources-leave-a-choice)"
    return f"A {_link(name)} may set some fields by `switches: {{name: choice}}` ({more}):\n\n{rows}"


def _row(key: str, schema: Mapping[str, Any], required: list[str]) -> str:
    if key in required:
        default = "required"
    elif "default" in schema:
        default = f"`{json.dumps(schema['default'])}`"
    else:
        default = "its defaults" if "$ref" in schema else "empty"
    return f"| `{key}` | {_expected(schema)} | {default} | {' '.join(schema.get('description', '').split())} |"


def _expected(schema: Mapping[str, Any]) -> str:
    """A type with its range in words."""
    if "$ref" in schema:
        return _link(schema["$ref"].rpartition("/")[2])
    if "anyOf" in schema:
        return " or ".join(map(_expected, schema["anyOf"]))
    if "enum" in schema or "const" in schema:
        return ", ".join(f"`{value}`" for value in schema.get("enum", [schema.get("const")]))
    if schema.get("type") == "array":
        items = schema.get("prefixItems", [])
        return f"list of {len(items) or ''}: {_expected(items[0] if items else schema['items'])}".replace(" :", ":")
    if schema.get("type") == "object":
        inner = schema.get("additionalProperties")
        keys = f" from {_expected(schema['propertyNames'])}" if "propertyNames" in schema else ""
        return f"mapping{keys} to: {_expected(inner)}" if isinstance(inner, dict) else "mapping"
    names = {"integer": "whole number", "number": "number", "string": "text", "boolean": "true or false"}
    return " ".join([names.get(schema.get("type"), str(schema.get("type", "anything"))), *_range(schema)])


def _range(schema: Mapping[str, Any]) -> Iterator[str]:
    words = {"minimum": "from", "exclusiveMinimum": "above", "maximum": "to", "exclusiveMaximum": "below"}
    yield from (f"{word} {schema[key]:g}" for key, word in words.items() if key in schema)


def _link(name: str) -> str:
    return f"[{name}](#{name.lower()})"
