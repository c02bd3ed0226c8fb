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
from lska.provenance.metric_files import digest, metric_path, read_record
from lska.provenance.pointers import read_pointer
from lska.provenance.strict import build, merge, refuse
from lska.settings.cross_checks import contradictions
from lska.settings.dense_recipes import DetectionRecipe, SegmentationRecipe, load_dense_recipe
from lska.settings.fine_tunings import CONTROL, FineTuningJob, parse_task
from lska.settings.inspections import OWN_DATA, InspectionJob
from lska.settings.inspections import TASKS as INSPECTIONS
from lska.settings.passes import Measured
from lska.settings.perturbed_sets import SETS, PerturbedSet, set_of
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

KINDS = ("classification", "detection", "segmentation")
"""What data sets serve besides robustness."""

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
class Config:
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

    @property
    def sources(self) -> tuple[tuple[str, DataSource], ...]:
        """Every data set with what it serves: one of `KINDS`, the name of a perturbed set, or an inspection."""
        dense = [(kind, section.data) for kind, section in self.dense.items() if section is not None]
        perturbed = self.robustness.sets.items() if self.robustness is not None else ()
        inside = [(name, self.inspections[name]) for name in OWN_DATA]
        inspected = [(name, section.data) for name, section in inside if section is not None]
        return (("classification", self.data), *dense, *perturbed, *inspected)

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
        jobs = [InspectionJob(self, name) for name, section in self.inspections.items() if section is not None]
        return (*self.perturbed, *jobs)

    @functools.cached_property
    def perturbed(self) -> tuple[PerturbedSet, ...]:
        """The perturbed sets of the scale."""
        return tuple(PerturbedSet(self, name) for name in (self.robustness.sets if self.robustness is not None else ()))

    @property
    def references(self) -> tuple[Run, ...]:
        """Runs that are trained to choose images and are compared nowhere."""
        return tuple(item.reference for item in self.perturbed if item.reference is not None)

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
            FineTuningJob(self, task, run)
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
    def results(self) -> Path:
        """Folder of metric files, tables, figures and notebooks."""
        return Path("results") / self.scale

    @property
    def checkpoints(self) -> Path:
        """Folder of weights and their sidecars."""
        return Path("checkpoints") / self.scale

    @property
    def work(self) -> Path:
        """Folder of training states and caches: may be deleted, is never an output."""
        return Path("work") / self.scale

    @property
    def recipe(self) -> Recipe:
        """The resolved classification recipe of networks that have none of their own."""
        return self.recipe_files["training.recipe"]

    @functools.cached_property
    def recipes(self) -> dict[str, Recipe]:
        """The resolved classification recipes by model name, of all networks that are trained."""
        models = dict.fromkeys(run.model for run in (*self.runs, *self.references))
        return {model: self.recipe_files.get(f"training.recipes.{model}", self.recipe) for model in models}

    def recipe_of(self, run: Run) -> Recipe:
        """The resolved classification recipe of the network of `run`."""
        return self.recipes.get(run.model, self.recipe)

    def training_spec(self, run: Run) -> dict[str, Any]:
        """Everything that decides the weights of `run`, in plain values; its digest is kept with every result."""
        return {
            "run": str(run),
            "architecture": self.architecture.get(run.model, {}),
            "recipe": self.recipe_of(run).to_dict(),
            "data": {"name": self.data.name, "generate": self.data.generate},
        }

    def training_digest(self, run: Run) -> str:
        """Digest of `training_spec(run)`."""
        return digest(self.training_spec(run))

    def metric_path(self, task: str, run: Run | str) -> Path:
        """Place of a metric file."""
        return metric_path(self.results, task, run)

    def weights_path(self, run: Run | str) -> Path:
        """Place of the weights of `run`; the sidecar has the same name with `.json`."""
        return self.checkpoints / f"{run}.safetensors"

    def state_folder(self, name: str, recipe: str) -> Path:
        """Folder of the states of the network `name`, trained by `recipe` (a digest).

        A changed recipe gets another one, so nothing is lost or mixed; so does a training that replaces published
        weights, which would otherwise end at once where those were trained here.
        """
        pointer = read_pointer(self.weights_path(name)) if self.retrains(name) else None
        anew = "" if pointer is None else f"-instead-of-{(pointer.sidecar or pointer.md5)[-8:]}"
        return self.work / "train" / name / (recipe.removeprefix("sha256:")[:12] + anew)

    def training_log(self, run: Run | str) -> Path:
        """Place of the record of losses (JSON lines) of a finished training."""
        return self.results / "training" / f"{run}.jsonl"

    def record_of(self, data: DataSource) -> Path:
        """A checked data set's manifest with its digest, as evidence beside the metrics."""
        return self.results / "data" / f"{data.name}.json"

    @property
    def data_record(self) -> Path:
        """The record of the classification set."""
        return self.record_of(self.data)

    def data_identity(self, data: DataSource | None = None) -> dict[str, str]:
        """Name and digest of a checked data set (by default the classification set), as results keep them.

        Raises:
            ValueError: the data set was not prepared, or its record is damaged.
        """
        data = self.data if data is None else data
        kind = next(kind for kind, other in self.sources if other.name == data.name)
        record = read_record(self.record_of(data), data.name, kind, name=str, digest=str)
        return {"name": record["name"], "digest": record["digest"]}


def place(kind: str) -> str:
    """Setting that holds the data set serving `kind`, an item of `Config.sources`."""
    if kind == "classification":
        return "data"
    return f"robustness.sets.{kind}" if kind in SETS else f"{kind}.data"


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
