"""The configuration of a scale (config/{demo,small,paper}.yaml): what is trained, on which data, with which means."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field

from lska.models.runs import Run
from lska.provenance.errors import InputError
from lska.provenance.files import quoted, read_yaml
from lska.provenance.strict import build, merge, refuse
from lska.settings.cross_checks import contradictions
from lska.settings.dense_recipes import DetectionRecipe, SegmentationRecipe, load_dense_recipe
from lska.settings.recipes import Recipe, load_recipe
from lska.settings.sections import (
    DataSource,
    DenseTask,
    DetectionTask,
    Evaluation,
    FileStem,
    Pretraining,
    ReceptiveField,
    Robustness,
    RunGroup,
    SegmentationTask,
    ShapeTexture,
    Speed,
    TextureNeighbours,
    expand_all,
)
from lska.settings.tasks import (
    CONTROL,
    INSPECTIONS,
    OWN_DATA,
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
    """A caption as one line.

    Raises:
        ValueError: it has a character that no page could show.
    """
    caption = " ".join(caption.split())
    if unseen := _UNSEEN.search(caption):
        raise InputError(f"has the control character {ascii(unseen[0])}, with which no page could show it; remove it")
    return caption


@dataclass(frozen=True)
class Config(Folders):
    """A scale, complete and checked."""

    scale: FileStem
    """What folders of results, checkpoints and work are called."""
    caption: Annotated[str, AfterValidator(visible_line)]
    """What stands in every caption: the scale and the data. Kept as one line."""
    groups: Annotated[tuple[RunGroup, ...], Field(alias="runs")]
    """What is trained on `data`."""
    data: DataSource
    training: Pretraining
    evaluation: Evaluation
    speed: Speed
    architecture: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Keyword arguments by model name that shrink networks; empty for the paper's own."""
    detection: DetectionTask | None = None
    segmentation: SegmentationTask | None = None
    robustness: Robustness | None = None
    shape_texture: ShapeTexture | None = None
    texture_knn: TextureNeighbours | None = None
    receptive_field: ReceptiveField | None = None
    stored_images: Literal["as_stored", "enlarged"] = "as_stored"
    """How images that come at the size of the networks' input are read, those of ImageNet-C, of ImageNet-C-bar and of
    cue-conflict sets: `as_stored` takes them as they are, `enlarged` enlarges and crops them as any other image."""
    retrain: tuple[str, ...] = ()
    """Networks, by name or pattern, that are trained here although their weights are published."""

    @functools.cached_property
    def runs(self) -> tuple[Run, ...]:
        """Every run that is trained at this scale: models as listed, then attention, kernel size, seed."""
        return expand_all(self.groups)

    @functools.cached_property
    def sources(self) -> tuple[tuple[str, ScaleData], ...]:
        """Every data set with what it serves: one of `KINDS`, the name of a perturbed set, or an inspection."""
        dense = [(kind, section.data) for kind, section in self.dense.items() if section is not None]
        perturbed = self.robustness.sets.items() if self.robustness is not None else ()
        inside = [(name, self.inspections[name]) for name in OWN_DATA]
        inspected = [(name, section.data) for name, section in inside if section is not None]
        found = (("classification", self.data), *dense, *perturbed, *inspected)
        return tuple((kind, self._placed(kind, data)) for kind, data in found)

    def _placed(self, kind: str, data: DataSource) -> ScaleData:
        return ScaleData(**vars(data), kind=kind, record=self.record_of(data), cache=self.work / "cache")

    @property
    def images(self) -> ScaleData:
        """The classification set."""
        return self._placed("classification", self.data)

    @property
    def places(self) -> dict[str, str]:
        """The settings that hold the data sets, by what these serve."""
        return {kind: place(kind) for kind, _ in self.sources}

    @property
    def inspections(self) -> dict[str, ShapeTexture | TextureNeighbours | ReceptiveField | None]:
        """The sections of what is looked for inside networks, None where a scale has none."""
        return {name: getattr(self, name) for name in INSPECTIONS}

    @functools.cached_property
    def measured(self) -> tuple[Measured, ...]:
        """Everything that many checkpoints are measured on in one pass."""
        jobs = [self.inspection(name) for name, section in self.inspections.items() if section is not None]
        return (*self.perturbed, *jobs)

    @functools.cached_property
    def perturbed(self) -> tuple[PerturbedSet, ...]:
        """The perturbed sets of the scale."""
        return tuple(map(self.perturbed_set, self.robustness.sets if self.robustness is not None else ()))

    def measurement(self, task: str) -> MeasurementJob:
        """A measurement that needs no section of its own: `classification`, `speed`, `complexity` and so on."""
        means = {"classification": self.evaluation, "speed": self.speed}.get(task)
        return MeasurementJob(scale=self.scale, task=task, means=means, data=self.images)

    def perturbed_set(self, name: str) -> PerturbedSet:
        """A perturbed set; raises ValueError where the scale has none of this name."""
        section = self.robustness
        if section is None or name not in section.sets:
            known = ", ".join(section.sets) if section is not None else "none"
            raise InputError(f"scale {self.scale} has no perturbed set {name!r}; it has: {known}")
        reference = self.classifier(section.reference) if name == "a" and section.reference is not None else None
        data = self._placed(name, section.sets[name])
        return PerturbedSet(**self._shared(f"robustness/{name}", name, section, data), reference=reference)

    def inspection(self, name: str) -> InspectionJob:
        """What is looked for inside networks; raises ValueError where the scale has no such section."""
        section = self.inspections.get(name)
        if section is None:
            known = ", ".join(name for name, section in self.inspections.items() if section is not None)
            raise InputError(f"scale {self.scale} has no section {name!r}; it has: {known or 'none'}")
        data = self._placed(name, section.data) if name in OWN_DATA else self.images
        crops = any(recipe.test_crop < 1 for recipe in self.recipes.values())
        return InspectionJob(**self._shared(name, name, section, data), crops=crops)

    def _shared(self, task: str, name: str, section: Any, data: ScaleData) -> dict[str, Any]:
        """What tasks know of the scale beside their own section and data."""
        return {
            "scale": self.scale, "caption": self.caption, "task": task, "name": name, "section": section,
            "means": section.evaluation, "data": data, "clean": self.images, "stored_images": self.stored_images,
        }  # fmt: skip

    def classifier(self, run: Run) -> ClassifierJob:
        """The training of a run on the scale's classification set."""
        return ClassifierJob(
            scale=self.scale, run=run, data=self.images, recipe=self.recipe_of(run), settings=self.training,
            evaluation=self.evaluation, architecture=self.architecture.get(run.model, {}),
            retrained=self.retrains(str(run)),
        )  # fmt: skip

    def fine_tuning(self, task: str, run: Run) -> FineTuningJob:
        """The fine-tuning of a run for `task`; raises ValueError where the scale has none."""
        if parse_task(task) is None or run not in self.runs_of(task):
            listed = [f"{job.task} of {job.run}" for job in self.fine_tunings] if parse_task(task) else []
            known = f"fine-tunings of the configuration: {', '.join(listed) or 'none'}"
            raise InputError(f"{task} of {run} is not configured at scale {self.scale}; {known}")
        return self._fine_tuning(task, run)

    def _fine_tuning(self, task: str, run: Run) -> FineTuningJob:
        kind, head, _ = parse_task(task)
        section = self.dense[kind]
        return FineTuningJob(
            scale=self.scale, caption=self.caption, task=task, run=run, data=self._placed(kind, section.data),
            recipe=self.dense_recipes[kind, head], settings=section.heads[head], evaluation=section.evaluation,
            architecture=self.architecture.get(run.model, {}), retrained=self.retrains(f"{task}/{run}"),
            classifier=self.classifier(run),
        )  # fmt: skip

    @property
    def references(self) -> tuple[Run, ...]:
        """Runs that are trained to choose images and are compared nowhere."""
        reference = None if self.robustness is None else self.robustness.reference
        return () if reference is None else (reference,)

    @property
    def dense(self) -> dict[str, DenseTask | None]:
        """The sections of detection and segmentation, None where a scale has none."""
        return {"detection": self.detection, "segmentation": self.segmentation}

    @functools.cached_property
    def recipe_files(self) -> dict[str, Recipe | DetectionRecipe | SegmentationRecipe | ValueError]:
        """Every recipe of the scale, resolved, or what is wrong with it, by the setting that names its file."""
        means = self.training
        loads = {"training.recipe": functools.partial(load_recipe, Path(means.recipe), means.overrides)}
        for model, path in means.recipes.items():
            loads[f"training.recipes.{model}"] = functools.partial(load_recipe, Path(path))
        for kind, section in self.dense.items():
            for head, tuning in (section.heads if section is not None else {}).items():
                load = functools.partial(load_dense_recipe, head, Path(tuning.recipe), tuning.overrides)
                loads[f"{kind}.heads.{head}.recipe"] = load
        return {setting: _attempted(load) for setting, load in loads.items()}

    @functools.cached_property
    def dense_recipes(self) -> dict[tuple[str, str], DetectionRecipe | SegmentationRecipe]:
        """The resolved recipes of detection and segmentation by kind and head."""
        return {
            (kind, head): self.recipe_files[f"{kind}.heads.{head}.recipe"]
            for kind, section in self.dense.items()
            for head in (section.heads if section is not None else ())
        }

    @functools.cached_property
    def fine_tunings(self) -> tuple[FineTuningJob, ...]:
        """Every fine-tuning of the scale: by task as listed, the control after its task, then run."""
        return tuple(
            self._fine_tuning(task, run)
            for kind, section in self.dense.items()
            for head in (section.heads if section is not None else ())
            for task in (f"{kind}/{head}", f"{kind}/{head}{CONTROL}")
            for run in self.runs_of(task)
        )

    def runs_of(self, task: str) -> tuple[Run, ...]:
        """The runs that have `task`: those that a head is fine-tuned from, that are measured on a perturbed set or
        looked into; all runs for every other task."""
        parsed, perturbed = parse_task(task), set_of(task)
        if task in INSPECTIONS:
            section = self.inspections[task]
            return () if section is None else expand_all(section.runs)
        if perturbed is not None:
            has = self.robustness is not None and perturbed in self.robustness.sets
            return expand_all(self.robustness.runs) if has else ()
        if parsed is None:
            return self.runs
        section = self.dense[parsed.kind]
        settings = None if section is None else section.heads.get(parsed.head)
        return () if settings is None else expand_all(settings.untrained if parsed.untrained else settings.runs)

    @property
    def network_names(self) -> list[str]:
        """Everything that is trained, by its place below `checkpoints/<scale>`."""
        return [*map(str, (*self.runs, *self.references)), *(job.place for job in self.fine_tunings)]

    def retrains(self, name: str) -> bool:
        """Whether the setting `retrain` names a network."""
        return any(fnmatchcase(name, pattern) for pattern in self.retrain)

    @property
    def recipe(self) -> Recipe:
        """The resolved classification recipe of networks that have none of their own."""
        return self.recipe_files["training.recipe"]

    @functools.cached_property
    def recipes(self) -> dict[str, Recipe]:
        """The resolved classification recipes by model name, of all networks that are trained."""
        models = dict.fromkeys(run.model for run in (*self.runs, *self.references))
        return {model: self.recipe_files.get(f"training.recipes.{model}", self.recipe) for model in models}

    @property
    def updates(self) -> dict[str, dict[str, int]]:
        """Images that an update takes, by recipe file, of the trainings on each kind of data."""
        paths = {self.training.recipes.get(model, self.training.recipe): model for model in self.recipes}
        found = {"classification": {path: self.recipes[model].global_batch for path, model in paths.items()}}
        for (kind, head), recipe in self.dense_recipes.items():
            found.setdefault(kind, {})[self.dense[kind].heads[head].recipe] = recipe.global_batch
        return found

    def recipe_of(self, run: Run) -> Recipe:
        """The resolved classification recipe of the network of `run`."""
        return self.recipes.get(run.model, self.recipe)

    def training_digest(self, run: Run) -> str:
        """Identity of everything that decides the weights of `run`; kept with every result."""
        return self.classifier(run).digest()


def _attempted(load: Callable[[], Any]) -> Any:
    try:
        return load()
    except ValueError as error:
        return error


def load(paths: Iterable[Path], overrides: Mapping[str, Any] | None = None) -> Config:
    """Read configuration files, later ones over earlier ones key by key, and check the result.

    Raises:
        ValueError: names the file and everything that is wrong at once, in the recipes too: first in each section, and
            where all of them are right, between them.
    """
    paths = list(paths)
    if not isinstance(overrides, Mapping | None):
        raise InputError(f"overrides: expected a mapping of settings, found {quoted(overrides)}")
    return from_dict(merge(read_settings(paths), overrides or {}), " + ".join(map(str, paths)))


def read_settings(paths: Iterable[Path]) -> dict[str, Any]:
    """The settings of configuration files, later ones over earlier ones key by key.

    Raises:
        FileError: as `lska.provenance.files.read_yaml`.
    """
    return functools.reduce(merge, map(read_yaml, paths), {})


def from_dict(values: Mapping[str, Any], where: str) -> Config:
    """Check a merged configuration (what Snakemake calls `config`).

    Raises:
        ValueError: as `load`.
    """
    config = build(Config, values, where)
    refuse((f"{setting}: {problem}" for setting, problem in contradictions(config)), where)
    return config
