"""The configuration of a scale (config/{demo,small,paper}.yaml): what is trained, on which data, with which means."""

from __future__ import annotations

import functools
import json
import re
import shlex
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field

from lska.models.runs import Run, first_seeds
from lska.provenance.errors import InputError, did_you_mean
from lska.provenance.files import parse_yaml, quoted, read_yaml
from lska.provenance.metric_files import committed_files
from lska.provenance.strict import SettingsError, build_parts, merge, refuse
from lska.settings.recipes import DetectionRecipe, Recipe, SegmentationRecipe, load_recipe
from lska.settings.schema import (
    MANIFESTS,
    DataSource,
    DenseTask,
    DetectionTask,
    Evaluation,
    FileStem,
    FineTuning,
    Pretraining,
    PublishedFile,
    ReceptiveField,
    Robustness,
    RunGroup,
    SegmentationTask,
    ShapeTexture,
    Speed,
    TextureNeighbours,
    Training,
    expand_all,
    known_files,
)
from lska.settings.tasks import (
    CONTROL,
    CUE_CONFLICT,
    INSPECTIONS,
    OWN_DATA,
    SETS,
    ClassifierJob,
    FineTuningJob,
    Folders,
    InspectionJob,
    Measured,
    MeasurementJob,
    PerturbedSet,
    ScaleData,
    parse_task,
    place,
    set_of,
)

_UNSEEN = re.compile("[\x00-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff\ufffe\uffff]")
"""What terminals obey, what turns the direction of the text around it, and what no XML can hold."""


def visible_line(caption: str) -> str:
    """A caption as one line; raises ValueError where it has a character that no page could show."""
    caption = " ".join(caption.split())
    if unseen := _UNSEEN.search(caption):
        raise InputError(f"has the control character {ascii(unseen[0])}, which no page can show; remove it")
    return caption


@dataclass(frozen=True)
class Config(Folders):
    """All settings of a scale."""

    scale: FileStem
    """Name of the folders in results/, checkpoints/ and work/."""
    caption: Annotated[str, AfterValidator(visible_line)]
    """Scale and data in words, for every caption. Kept as one line."""
    groups: Annotated[tuple[RunGroup, ...], Field(alias="runs")]
    """The networks of the scale."""
    data: DataSource
    """The classification data set."""
    training: Pretraining
    evaluation: Evaluation
    """Of classification."""
    speed: Speed
    architecture: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Changes of networks by model name, such as smaller widths; empty for the paper's own networks."""
    detection: DetectionTask | None = None
    segmentation: SegmentationTask | None = None
    robustness: Robustness | None = None
    shape_texture: ShapeTexture | None = None
    texture_knn: TextureNeighbours | None = None
    receptive_field: ReceptiveField | None = None
    stored_images: Literal["as_stored", "enlarged"] = "as_stored"
    """How images of ImageNet-C, -C-bar and cue-conflict sets are read, which have the networks' input size already.
    `as_stored`: as they are. `enlarged`: enlarged and cropped like any other image."""
    retrain: tuple[str, ...] = ()
    """Names or patterns of networks to train here although their weights are published."""
    published: dict[str, PublishedFile] = field(default_factory=dict)
    """Where imported weights come from, by run id with or without seed; overrides config/weights/published.yaml."""

    # --- What it has ---

    @functools.cached_property
    def runs(self) -> tuple[Run, ...]:
        """Every run that is trained at this scale: models as listed, then attention, kernel size, seed."""
        return expand_all(self.groups)

    @functools.cached_property
    def imported_runs(self) -> frozenset[Run]:
        """Those whose weights are imported instead."""
        return frozenset(_imported(self.groups))

    def published_of(self, run: Run) -> PublishedFile | None:
        """Where published weights of `run` are to be had, as far as that is known."""
        names = (str(run), run.network)
        found = (known[name] for known in (self.published, known_files()) for name in names if name in known)
        return next(found, None)

    @property
    def references(self) -> tuple[Run, ...]:
        """Runs that are trained to choose images and are compared nowhere."""
        reference = None if self.robustness is None else self.robustness.reference
        return () if reference is None else (reference,)

    @functools.cached_property
    def dense(self) -> dict[str, DenseTask]:
        """The sections of detection and segmentation that the scale has."""
        return {kind: section for kind in ("detection", "segmentation") if (section := getattr(self, kind)) is not None}

    @functools.cached_property
    def heads(self) -> dict[str, FineTuning]:
        """How detectors and segmentors are fine-tuned, by task."""
        found = ((kind, head, one) for kind, section in self.dense.items() for head, one in section.heads.items())
        return {f"{kind}/{head}": one for kind, head, one in found}

    @functools.cached_property
    def inspections(self) -> dict[str, ShapeTexture | TextureNeighbours | ReceptiveField]:
        """The sections of what is looked for inside networks that the scale has."""
        return {name: section for name in INSPECTIONS if (section := getattr(self, name)) is not None}

    @functools.cached_property
    def sources(self) -> tuple[tuple[str, ScaleData], ...]:
        """Every data set with what it serves: `classification`, one of `HEADS`, `SETS` or `OWN_DATA`."""
        sets = {} if self.robustness is None else self.robustness.sets
        found = {"classification": self.data, **{kind: section.data for kind, section in self.dense.items()}, **sets}
        found |= {name: section.data for name, section in self.inspections.items() if name in OWN_DATA}
        places = {kind: {"record": self.record_of(data), "cache": self.work / "cache"} for kind, data in found.items()}
        return tuple((kind, ScaleData(**vars(data), kind=kind, **places[kind])) for kind, data in found.items())

    @property
    def images(self) -> ScaleData:
        """The classification set."""
        return self.sources[0][1]

    @property
    def network_names(self) -> list[str]:
        """Everything that is trained, by its place below `checkpoints/<scale>`."""
        return [*map(str, (*self.runs, *self.references)), *(job.place for job in self.fine_tunings)]

    def runs_of(self, task: str) -> tuple[Run, ...]:
        """The runs that have `task`: those that a head is fine-tuned from, that are measured on a perturbed set or
        looked into; the first seed of each network for `speed`, which depends on no weights; all runs for every
        other task."""
        if task == "speed":
            return first_seeds(self.runs)
        if task in INSPECTIONS:
            return expand_all(self.inspections[task].runs) if task in self.inspections else ()
        if (perturbed := set_of(task)) is not None:
            has = self.robustness is not None and perturbed in self.robustness.sets
            return expand_all(self.robustness.runs) if has else ()
        if parse_task(task) is None:
            return self.runs
        means = self.heads.get(task.removesuffix(CONTROL))
        return () if means is None else expand_all(means.untrained if task.endswith(CONTROL) else means.runs)

    def retrains(self, name: str) -> bool:
        """Whether the setting `retrain` names a network."""
        return any(fnmatchcase(name, pattern) for pattern in self.retrain)

    # --- Recipes ---

    @functools.cached_property
    def recipe_files(self) -> dict[str, Recipe | DetectionRecipe | SegmentationRecipe | ValueError]:
        """Every recipe of the scale, resolved, or what is wrong with it, by the setting that names its file."""
        means = self.training
        named = {"training.recipe": (means.recipe, means.overrides)}
        named |= {f"training.recipes.{model}": (path,) for model, path in means.recipes.items()}
        for task, tuning in self.heads.items():
            kind, _, head = task.partition("/")
            named[f"{kind}.heads.{head}.recipe"] = (tuning.recipe, tuning.overrides, head)
        found = {}
        for setting, (path, *more) in named.items():
            try:
                found[setting] = load_recipe(Path(path), *more)
            except ValueError as error:
                found[setting] = error
        return found

    def recipe_of(self, run: Run) -> Recipe:
        """The resolved classification recipe of the network of `run`."""
        return self.recipe_files.get(f"training.recipes.{run.model}", self.recipe_files["training.recipe"])

    @property
    def recipes(self) -> dict[str, Recipe]:
        """The resolved classification recipes by model name, of all networks that are trained."""
        return {run.model: self.recipe_of(run) for run in (*self.runs, *self.references)}

    def dense_recipe(self, task: str) -> DetectionRecipe | SegmentationRecipe:
        """The resolved recipe of a head, by task."""
        kind, head, _ = parse_task(task)
        return self.recipe_files[f"{kind}.heads.{head}.recipe"]

    @property
    def updates(self) -> dict[str, dict[str, int]]:
        """Images that an update takes, by recipe file, of the trainings on each kind of data."""
        means = self.training
        used = [("classification", means.recipes.get(model, means.recipe), one) for model, one in self.recipes.items()]
        used += [(task.partition("/")[0], one.recipe, self.dense_recipe(task)) for task, one in self.heads.items()]
        found: dict[str, dict[str, int]] = {}
        for kind, path, recipe in used:
            if not isinstance(recipe, ValueError):
                found.setdefault(kind, {})[path] = recipe.global_batch
        return found

    # --- Tasks ---

    def run_named(self, text: str) -> Run:
        """The run that a person names; InputError for what is none, with the one of the scale that may be meant."""
        try:
            return Run.parse(text)
        except InputError as error:
            raise InputError(f"{error}; {did_you_mean(text, map(str, self.runs))}".rstrip("; ")) from error

    def classifier(self, run: Run) -> ClassifierJob:
        """The training of a run on the scale's classification set."""
        return ClassifierJob(
            scale=self.scale, run=run, data=self.images, recipe=self.recipe_of(run), settings=self.training,
            evaluation=self.evaluation, architecture=self.architecture.get(run.model, {}),
            retrained=self.retrains(str(run)), imported=run in self.imported_runs, published=self.published_of(run),
        )  # fmt: skip

    @functools.cached_property
    def fine_tunings(self) -> tuple[FineTuningJob, ...]:
        """Every fine-tuning of the scale: by task as listed, the control after its task, then run."""
        tasks = [task for head in self.heads for task in (head, f"{head}{CONTROL}")]
        return tuple(self.fine_tuning(task, run) for task in tasks for run in self.runs_of(task))

    def fine_tuning(self, task: str, run: Run) -> FineTuningJob:
        """The fine-tuning of a run for `task`; raises ValueError where the scale has none."""
        if parse_task(task) is None or run not in self.runs_of(task):
            listed = [job.place for job in self.fine_tunings] if parse_task(task) else []
            advice = "" if listed else did_you_mean(task, self.heads)
            known = f"{advice}the scale has {', '.join(listed or self.heads) or 'no fine-tunings'}"
            raise InputError(f"{task} of {run} is not configured at scale {self.scale}; {known}")
        kind = task.partition("/")[0]
        return FineTuningJob(
            scale=self.scale, caption=self.caption, task=task, run=run, data=dict(self.sources)[kind],
            recipe=self.dense_recipe(task), settings=self.heads[task.removesuffix(CONTROL)],
            evaluation=self.dense[kind].evaluation, architecture=self.architecture.get(run.model, {}),
            retrained=self.retrains(f"{task}/{run}"), classifier=self.classifier(run),
        )  # fmt: skip

    def measurement(self, task: str) -> MeasurementJob:
        """A measurement that needs no section of its own: `classification`, `speed`, `complexity` and so on."""
        means = {"classification": self.evaluation, "speed": self.speed}.get(task)
        return MeasurementJob(scale=self.scale, task=task, means=means, data=self.images)

    @functools.cached_property
    def perturbed(self) -> tuple[PerturbedSet, ...]:
        """The perturbed sets of the scale."""
        return tuple(map(self.perturbed_set, () if self.robustness is None else self.robustness.sets))

    @functools.cached_property
    def measured(self) -> tuple[Measured, ...]:
        """Everything that many checkpoints are measured on in one pass."""
        return (*self.perturbed, *map(self.inspection, self.inspections))

    def perturbed_set(self, name: str) -> PerturbedSet:
        """A perturbed set; raises ValueError where the scale has none of this name."""
        section = self.robustness
        if section is None or name not in section.sets:
            known = ", ".join(section.sets) if section is not None else "none"
            raise InputError(f"scale {self.scale} has no perturbed set {name!r}; it has: {known}")
        reference = self.classifier(section.reference) if name == "a" and section.reference is not None else None
        return PerturbedSet(**self._shared(f"robustness/{name}", name, section), reference=reference)

    def inspection(self, name: str) -> InspectionJob:
        """What is looked for inside networks; raises ValueError where the scale has no such section."""
        if name not in self.inspections:
            known = ", ".join(self.inspections) or "none"
            raise InputError(f"scale {self.scale} has no section {name!r}; it has: {known}")
        crops = any(recipe.test_crop < 1 for recipe in self.recipes.values())
        return InspectionJob(**self._shared(name, name, self.inspections[name]), crops=crops)

    def _shared(self, task: str, name: str, section: Any) -> dict[str, Any]:
        """What both kinds of passes know."""
        return {
            "scale": self.scale, "caption": self.caption, "task": task, "name": name, "section": section,
            "means": section.evaluation, "data": dict(self.sources).get(name, self.images), "clean": self.images,
            "stored_images": self.stored_images,
        }  # fmt: skip


def _imported(groups: Iterable[RunGroup]) -> tuple[Run, ...]:
    return expand_all(group for group in groups if group.source == "imported")


# --- What its parts say about each other ------------------------------------------------------------------------------

Problems = Iterator[tuple[str, str]]


def _contradictions(config: Config, wrong: set[str]) -> Problems:
    """What in a configuration, and in the recipes that it names, does not go together: pairs of a setting and
    what is wrong with it. What needs a field that is `wrong` by itself is not asked; an optional section that is wrong
    is taken for absent.
    """
    if "groups" not in wrong:
        yield from _runs(config)
    for reference in set(config.references) & set(config.runs_of("robustness/a")):
        yield "robustness.sets.a", f"the reference {reference} is among the compared runs; choose another"
    if config.shape_texture is not None and config.shape_texture.data.manifest is not None:
        yield "shape_texture.data.manifest", "cue-conflict sets have no manifest; remove it"
    if "data" not in wrong:
        yield from _data(config)
    if not wrong:
        yield from _networks(config)
    if not wrong & {"groups", "training"}:
        yield from _recipes(config)


def _runs(config: Config) -> Problems:
    """Runs that are listed twice, or that have no weights because the scale does not train them."""
    yield from _twice("runs", config.runs)
    networks = {name for run in config.runs for name in (str(run), run.network)}
    if unknown := sorted(set(config.published) - networks):
        yield "published", f"names no run of this scale: {', '.join(unknown)}; expected run ids, with or without seed"
    listed = {f"{name}.runs": section.runs for name, section in config.inspections.items()}
    if config.robustness is not None:
        listed["robustness.runs"] = config.robustness.runs
    for task, tuning in config.heads.items():
        setting = task.replace("/", ".heads.")
        listed[f"{setting}.runs"] = tuning.runs
        yield from _twice(f"{setting}.untrained", expand_all(tuning.untrained))
        if _imported(tuning.untrained):
            yield f"{setting}.untrained", "source: expected trained, found imported; controls start from random weights"
    for setting, groups in listed.items():
        runs = expand_all(groups)
        yield from _twice(setting, runs)
        if absent := sorted(str(run) for run in set(runs) - set(config.runs)):
            yield setting, f"not among the scale's runs: {', '.join(absent)}; add them to runs"
        if said := sorted(str(run) for run in set(_imported(groups)) & set(config.runs) - config.imported_runs):
            yield setting, f"source: imported of {', '.join(said)}, which the scale's runs do not say; say it there"


def _twice(setting: str, runs: tuple[Run, ...]) -> Problems:
    if twice := sorted(str(run) for run, times in Counter(runs).items() if times > 1):
        yield setting, f"lists the same run more than once: {', '.join(twice)}"


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


# --- Reading ---------------------------------------------------------------------------------------------------------

MoreChecks = Callable[[tuple[tuple[str, ScaleData], ...], Mapping[str, Mapping[str, int]]], Iterable[str]]
"""Names problems of `Config.sources` and `Config.updates`."""


def load(paths: Iterable[Path], overrides: Mapping[str, Any] | None = None, more: MoreChecks | None = None) -> Config:
    """Read configuration files, later ones over earlier ones key by key, and check the result.

    Raises:
        ValueError: names the files and everything that is wrong at once, in the recipes too.
    """
    paths = list(paths)
    if not isinstance(overrides, Mapping | None):
        raise InputError(f"overrides: expected a mapping of settings, found {quoted(overrides)}")
    return from_dict(merge(read_settings(paths), overrides or {}), " + ".join(map(str, paths)), more)


def read_settings(paths: Iterable[Path]) -> dict[str, Any]:
    """The settings of configuration files, later ones over earlier ones; raises FileError as `read_yaml`."""
    return functools.reduce(merge, map(read_yaml, paths), {})


def from_dict(values: Mapping[str, Any], where: str, more: MoreChecks | None = None) -> Config:
    """Check a merged configuration (what Snakemake calls `config`).

    Args:
        more: asked where data and trainings are right by themselves.

    Raises:
        ValueError: as `load`.
    """
    config, problems, wrong = build_parts(Config, values)
    problems += [f"{setting}: {problem}" for setting, problem in _contradictions(config, wrong)]
    problems += [] if wrong & {"scale", "data"} else _foreign_data(config.scale, values["data"])
    if more is not None and not wrong & {"groups", "data", "training"}:
        problems += more(config.sources, config.updates)
    refuse(problems, where)
    return config


def _foreign_data(scale: str, data: Mapping[str, Any]) -> list[str]:
    """What is wrong where a scale's file names other data than those by which git has its results: another set would
    take its name and its results' places. Where a set lies does not matter.
    """
    file = Path("config", f"{scale}.yaml")
    values = read_yaml(file) if file.is_file() else {}
    own = values.get("data")
    if values.get("scale") != scale or not isinstance(own, Mapping):
        return []
    parts = [part for part in ("name", "manifest", "generate") if data.get(part) != own.get(part)]
    if not parts or not committed_files(Path("results", scale)):
        return []
    folder = "FOLDER" if data["root"] == own.get("root") else shlex.quote(str(data["root"]))
    return [
        f"data.{parts[0]}: expected {quoted(own.get(parts[0]))}, as in {file}, of which git has results, found "
        f"{quoted(data.get(parts[0]))}; make a scale for other images, `lska new-scale NAME --data {folder}`, or set "
        "`scale` to another name too"
    ]


def typed(overrides: Any) -> Any:
    """`--config` values as YAML reads them: Snakemake hands over everything inside braces as text."""
    if isinstance(overrides, Mapping):
        return {key: typed(value) for key, value in overrides.items()}
    if isinstance(overrides, list | tuple):
        return [typed(value) for value in overrides]
    return parse_yaml(overrides, "--config", object) if isinstance(overrides, str) else overrides


def as_options(files: Iterable[Path], overrides: Mapping[str, Any]) -> str:
    """The `--config` and `--set` options with which a command reads the same configuration as the Snakefile."""
    words = ["--config", *map(str, files)]
    if overrides:
        words += ["--set", json.dumps(overrides, sort_keys=True, separators=(",", ":"))]
    return shlex.join(words)


def as_command(files: Iterable[Path], overrides: Mapping[str, Any]) -> str:
    """The call of Snakemake that makes everything of a configuration."""
    words = ["snakemake", "--cores", "2", "--configfile", *map(str, files)]
    if overrides:
        words += ["--config", *(f"{name}={json.dumps(value)}" for name, value in overrides.items())]
    return shlex.join([*words, "--", "all"])
