"""How a recipe differs from the paper's, and a training from what today's configuration asks for.

Recipes have no default values: each field is set in a file. What a recipe is compared with here is the file that holds
the paper's own, config/recipes/imagenet.yaml for classification and `PAPER_RECIPES` for the heads.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from lska.config import Config
from lska.files import printable
from lska.finetuning import PAPER_RECIPES, FineTuningJob, parse_task
from lska.openmmlab.recipe import load_dense_recipe
from lska.provenance import project_root
from lska.runs import Run
from lska.train.recipe import load_recipe

PAPER_RECIPE = "config/recipes/imagenet.yaml"
LONGEST = 120
"""Characters of a value in a difference."""

MISSING = "not a field of it"


def paper_recipe(task: str) -> Path:
    """The file with the paper's recipe for what `task` trains."""
    parsed = parse_task(task)
    return Path(PAPER_RECIPE if parsed is None else PAPER_RECIPES[parsed.head])


@functools.cache
def _paper_values(task: str) -> dict[str, Any]:
    parsed, path = parse_task(task), project_root() / paper_recipe(task)
    recipe = load_recipe(path) if parsed is None else load_dense_recipe(parsed.head, path)
    return plain(recipe.to_dict())


def differences(task: str, recipe: Mapping[str, Any]) -> dict[str, str]:
    """The fields in which a resolved recipe differs from the paper's, each as `ours, not theirs`."""
    paper, ours = _paper_values(task), plain(dict(recipe))
    names = [name for name in (*ours, *(name for name in paper if name not in ours)) if _differ(ours, paper, name)]
    return {name: f"{_shown(ours, name)}, not {_shown(paper, name)}" for name in names}


def todays_spec(config: Config, task: str, run: Run) -> dict[str, Any] | None:
    """What decides the weights of a run today, as its sidecar keeps it; None where the scale trains no such run."""
    if parse_task(task) is not None:
        known = run in config.runs_of(task)
        return plain(FineTuningJob(config, task, run).spec()) if known else None
    return plain(config.training_spec(run)) if run in (*config.runs, *config.references) else None


def changes(then: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Where two specs differ, as `recipe.epochs: 4, now 5`."""
    found = differing(then, now)
    return [f"{place}: {_shown(before, name)}, now {_shown(after, name)}" for place, name, before, after in found]


def differing(
    then: Mapping[str, Any], now: Mapping[str, Any], place: str = ""
) -> Iterator[tuple[str, str, Mapping[str, Any], Mapping[str, Any]]]:
    """The entries in which two specs differ: dotted place, name, and the mappings that hold the entry, or lack it."""
    for name in sorted({*then, *now}):
        before, after = then.get(name), now.get(name)
        if isinstance(before, Mapping) and isinstance(after, Mapping):
            yield from differing(before, after, f"{place}{name}.")
        elif _differ(then, now, name):
            yield f"{place}{name}", name, then, now


def plain(values: dict[str, Any]) -> dict[str, Any]:
    """Values as they are after a way through JSON, so that tuples and lists compare equal."""
    return json.loads(json.dumps(values))


def _differ(one: Mapping[str, Any], other: Mapping[str, Any], name: str) -> bool:
    return (name in one, one.get(name)) != (name in other, other.get(name))


def _shown(values: Mapping[str, Any], name: str) -> str:
    return printable(json.dumps(values[name]), LONGEST) if name in values else MISSING
