"""What the parts of a configuration say about each other: every contradiction, with the setting at fault.

A check yields pairs of a setting and what is wrong with it. It is asked where the fields that it needs are right by
themselves; of optional sections, those that are wrong are taken for absent.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lska.models.runs import Run
from lska.provenance.strict import SettingsError
from lska.settings.schema import MANIFESTS, Training, expand_all
from lska.settings.tasks import CUE_CONFLICT, OWN_DATA, SETS, place

if TYPE_CHECKING:
    from lska.settings.scale import Config

Problems = Iterator[tuple[str, str]]


def contradictions(config: Config, wrong: Collection[str]) -> Problems:
    """Everything in a configuration, and in the recipes that it names, that does not go together.

    Args:
        wrong: names of fields that are wrong by themselves.
    """
    checks = (
        (_runs, {"groups"}), (_sections, set()), (_data, {"data"}), (_networks, set(wrong)),
        (_recipes, {"groups", "training"}),
    )  # fmt: skip
    for check, needs in checks:
        if not needs & set(wrong):
            yield from check(config)


def _runs(config: Config) -> Problems:
    """Runs that are listed twice, or that have no weights because the scale does not train them."""
    yield from _twice("runs", config.runs)
    listed = {f"{name}.runs": section.runs for name, section in config.inspections.items()}
    if config.robustness is not None:
        listed["robustness.runs"] = config.robustness.runs
    for task, tuning in config.heads.items():
        setting = task.replace("/", ".heads.")
        listed[f"{setting}.runs"] = tuning.runs
        yield from _twice(f"{setting}.untrained", expand_all(tuning.untrained))
    for setting, groups in listed.items():
        runs = expand_all(groups)
        yield from _twice(setting, runs)
        if absent := sorted(str(run) for run in set(runs) - set(config.runs)):
            yield setting, f"not among the scale's runs: {', '.join(absent)}; add them to runs"


def _twice(setting: str, runs: tuple[Run, ...]) -> Problems:
    if twice := sorted(str(run) for run, times in Counter(runs).items() if times > 1):
        yield setting, f"lists the same run more than once: {', '.join(twice)}"


def _sections(config: Config) -> Problems:
    """What single sections cannot have beside the others."""
    for reference in set(config.references) & set(config.runs_of("robustness/a")):
        yield "robustness.sets.a", f"the reference {reference} is among the compared runs; choose another"
    if config.shape_texture is not None and config.shape_texture.data.manifest is not None:
        yield "shape_texture.data.manifest", "cue-conflict sets have no manifest; remove it"


def _data(config: Config) -> Problems:
    """Names used twice, and generated sets under the name of published data or in the folder of other data."""
    names = [data.name for _, data in config.sources]
    if len(set(names)) < len(names):
        settings = [place(kind) for kind, data in config.sources if names.count(data.name) > 1]
        yield ", ".join(settings), f"data sets need different names, found {', '.join(names)}"
    roots = Counter(Path(data.root) for _, data in config.sources)
    for kind, data in config.sources:
        # A generated set would replace the other data of its folder, and be compared with published numbers.
        if data.generate is None or kind not in (*SETS, *OWN_DATA):
            continue
        if data.name == CUE_CONFLICT or (MANIFESTS / f"{data.name}.yaml").is_file():
            yield f"{place(kind)}.name", f"{data.name} is a published set, and this one is generated; name it otherwise"
        if roots[Path(data.root)] > 1:
            yield f"{place(kind)}.root", f"{data.root} is the root of another data set too; choose another folder"


def _networks(config: Config) -> Problems:
    """Settings of networks that the scale does not have."""
    used = {run.model for run in (*config.runs, *config.references)}
    for setting, models in {"architecture": config.architecture, "training.recipes": config.training.recipes}.items():
        if unknown := sorted(set(models) - used):
            yield setting, f"names models that no run uses: {', '.join(unknown)}"
    names = config.network_names
    if nothing := [one for one in config.retrain if not any(fnmatchcase(name, one) for name in names)]:
        expected = f"expected some of {', '.join(names)}, or a pattern such as 'van_tiny-lska-*'"
        yield "retrain", f"{', '.join(map(repr, nothing))} names no network of this scale; {expected}"


def _recipes(config: Config) -> Problems:
    """Recipes that are wrong themselves, and those that do not fit the machines that train by them."""
    for setting, recipe in config.recipe_files.items():
        if isinstance(recipe, SettingsError):
            yield from ((setting, f"{recipe.where}: {problem}") for problem in recipe.problems)
        elif isinstance(recipe, ValueError):
            yield setting, str(recipe)
    yield from _division("training", config.training, config.recipes.values())
    for task, means in config.heads.items():
        setting, recipe = task.replace("/", ".heads."), config.dense_recipe(task)
        yield from _division(setting, means, [recipe])
        if not isinstance(recipe, ValueError) and recipe.precision == "bf16" and means.gpus == 0:
            yield setting, "precision bf16 of a fine-tuning needs a GPU, and gpus is 0; use fp32"


def _division(setting: str, means: Training, recipes: Iterable[Any]) -> Problems:
    """Updates whose micro-batches cannot be divided among the processes that train together."""
    sound = [recipe for recipe in recipes if not isinstance(recipe, ValueError)]
    for count in sorted({recipe.global_batch // recipe.micro_batch for recipe in sound}):
        if count % means.processes:
            devices = f"gpus: {means.gpus}" if means.gpus else f"nodes: {means.nodes}"
            many = f"an update has {count} micro-batches (global_batch / micro_batch of the recipe)"
            yield setting, f"{many}, which cannot be divided among {devices}; change one of them"
