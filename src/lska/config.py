"""The configuration of a scale (config/{demo,small,paper}.yaml): what is trained, on which data, with which means."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Literal

from lska.files import quoted, read_yaml
from lska.finetuning import CONTROL, FineTuningJob, check_dense, parse_task
from lska.inspection import OWN_DATA, InspectionJob, check_inspections
from lska.inspection import TASKS as INSPECTIONS
from lska.openmmlab.recipe import DetectionRecipe, SegmentationRecipe
from lska.openmmlab.recipe import load_recipe as load_dense_recipe
from lska.passes import Measured
from lska.provenance import digest, metric_path, read_record
from lska.robustness import SETS, PerturbedSet, check_robustness, set_of
from lska.runs import Run
from lska.sections import (
    DataSource,
    DenseTask,
    Evaluation,
    Pretraining,
    ReceptiveField,
    Robustness,
    RunGroup,
    ShapeTexture,
    Speed,
    TextureNeighbours,
    Training,
    check_retrain,
    expand_all,
)
from lska.strict import build, merge
from lska.train.recipe import Recipe, load_recipe
from lska.weights.pointers import read_pointer

KINDS = ("classification", "detection", "segmentation")
"""What data sets serve besides robustness."""

_UNSEEN = re.compile("[\x00-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff\ufffe\uffff]")
"""What terminals obey, what turns the direction of the text around it, and what no XML can hold."""

_FILE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")


@dataclass(frozen=True)
class Config:
    """A scale, complete and checked."""

    scale: str
    caption: str
    """What stands in every caption: the scale and the data. Kept as one line."""
    groups: tuple[RunGroup, ...] = field(metadata={"key": "runs"})
    data: DataSource
    training: Pretraining
    evaluation: Evaluation
    speed: Speed
    architecture: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Keyword arguments by model name that shrink networks; empty for the paper's own."""
    detection: DenseTask | None = None
    segmentation: DenseTask | None = None
    robustness: Robustness | None = None
    shape_texture: ShapeTexture | None = None
    texture_knn: TextureNeighbours | None = None
    receptive_field: ReceptiveField | None = None
    stored_images: Literal["as_stored", "enlarged"] = "as_stored"
    """How images that come at the size of the networks' input are read, those of ImageNet-C, of ImageNet-C-bar and of
    cue-conflict sets: `as_stored` takes them as they are, `enlarged` enlarges and crops them as any other image."""
    retrain: tuple[str, ...] = ()
    """Networks, by name or pattern, that are trained here although their weights are published."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "caption", " ".join(self.caption.split()))
        if unseen := _UNSEEN.search(self.caption):
            raise ValueError(
                f"caption has the control character {ascii(unseen[0])}, with which no page could show it; remove it"
            )
        names = {f"{place(kind)}.name": data.name for kind, data in self.sources}
        for name, value in {"scale": self.scale, **names}.items():
            if _FILE_NAME.fullmatch(value) is None:
                raise ValueError(f"{name} {value!r} becomes a file name: use letters, digits, '.', '_' and '-' only")
        check_robustness(self.robustness, self.runs, [data for kind, data in self.sources if kind not in SETS])
        check_inspections(self.inspections, self.runs, [data for kind, data in self.sources if kind not in OWN_DATA])
        used = {run.model for run in (*self.runs, *self.references)}
        for setting, models in {"architecture": self.architecture, "training.recipes": self.training.recipes}.items():
            if unknown := sorted(set(models) - used):
                raise ValueError(f"{setting} names models that no run uses: {', '.join(unknown)}")
        if len(set(self.runs)) < len(self.runs):
            twice = sorted({str(run) for run in self.runs if self.runs.count(run) > 1})
            raise ValueError(f"runs lists the same run more than once: {', '.join(twice)}")
        check_dense(self.dense, self.runs, self.data.name)
        check_retrain(self.retrain, self.network_names)

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
    def dense_recipes(self) -> dict[tuple[str, str], DetectionRecipe | SegmentationRecipe]:
        """The resolved recipes of detection and segmentation by kind and head."""
        return {
            (kind, head): load_dense_recipe(head, Path(settings.recipe), settings.overrides)
            for kind, section in self.dense.items()
            for head, settings in (section.heads if section is not None else {}).items()
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
    def work(self) -> Path:
        """Folder of training states and caches: may be deleted, is never an output."""
        return Path("work") / self.scale

    @functools.cached_property
    def recipe(self) -> Recipe:
        """The resolved classification recipe of networks that have none of their own."""
        return load_recipe(Path(self.training.recipe), self.training.overrides)

    @functools.cached_property
    def recipes(self) -> dict[str, Recipe]:
        """The resolved classification recipes by model name, of all networks that are trained."""
        own = {model: load_recipe(Path(path)) for model, path in self.training.recipes.items()}
        return {run.model: own.get(run.model, self.recipe) for run in (*self.runs, *self.references)}

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
        return Path("checkpoints") / self.scale / f"{run}.safetensors"

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


def load(paths: Iterable[Path], overrides: Mapping[str, Any] | None = None) -> Config:
    """Read configuration files, later ones over earlier ones key by key, and check the result.

    Raises:
        ValueError: names the file and every unknown key, missing key and wrong type at once.
    """
    paths = list(paths)
    if not isinstance(overrides, Mapping | None):
        raise ValueError(f"overrides: expected a mapping of settings, found {quoted(overrides)}")
    return from_dict(merge(read_settings(paths), overrides or {}), " + ".join(map(str, paths)))


def read_settings(paths: Iterable[Path]) -> dict[str, Any]:
    """The settings of configuration files, later ones over earlier ones key by key.

    Raises:
        FileError: as `lska.files.read_yaml`.
    """
    return functools.reduce(merge, map(read_yaml, paths), {})


def from_dict(values: Mapping[str, Any], where: str) -> Config:
    """Check a merged configuration (what Snakemake calls `config`).

    Raises:
        ValueError: as `load`.
    """
    config = build(Config, values, where)
    for recipe in config.recipes.values():
        _check_division(recipe, config.training, where, "training")
    for (kind, head), recipe in config.dense_recipes.items():
        settings, setting = config.dense[kind].heads[head], f"{kind}.heads.{head}"
        _check_division(recipe, settings, where, setting)
        if recipe.precision == "bf16" and settings.gpus == 0:
            raise ValueError(f"{where}: precision bf16 of a fine-tuning needs a GPU, and {setting}.gpus is 0; use fp32")
    return config


def _check_division(recipe: Any, training: Training, where: str, setting: str) -> None:
    micro_batches = recipe.global_batch // recipe.micro_batch
    if micro_batches % training.processes:
        means = f"{setting}.gpus: {training.gpus}" if training.gpus else f"{setting}.nodes: {training.nodes}"
        raise ValueError(
            f"{where}: an update has {micro_batches} micro-batches (global_batch / micro_batch of the recipe), which "
            f"cannot be divided among {means}; change one of them"
        )
