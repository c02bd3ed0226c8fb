"""Tasks: what is trained and measured at a scale, each with all that its work needs to know: paths, recipe, digest.

`Config` (lska.settings.scale) makes them; nothing that trains or measures knows a whole configuration. Imports nothing
heavy: the Snakefile asks here which files a task makes and what its result depends on.
"""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple, get_args

from lska.models.designs import attention_version
from lska.models.runs import Run
from lska.provenance.metric_files import digest, metric_path, outcomes_path, read_record
from lska.provenance.sidecars import Normalization, imported_normalization, imported_size, read_pointer
from lska.settings.recipes import DETECTORS, SEGMENTORS, DetectionRecipe, Recipe, SegmentationRecipe
from lska.settings.schema import DataSource, Evaluation, FineTuning, PublishedFile, SetName, Speed, Training
from lska.settings.versions import GENERATORS, MEASUREMENTS, generator_versions

# --- Names -----------------------------------------------------------------------------------------------------------

KINDS = ("classification", "detection", "segmentation")
"""What data sets serve besides robustness and inspections."""

HEADS = {"detection": DETECTORS, "segmentation": SEGMENTORS}
"""The heads of each kind of dense prediction."""

PAPER_RECIPES = {
    "retinanet": "config/recipes/coco_retinanet.yaml",
    "mask_rcnn": "config/recipes/coco_mask_rcnn.yaml",
    "semantic_fpn": "config/recipes/ade20k_semantic_fpn.yaml",
}
"""The paper's recipe of each head, whose networks the complexity tables count at every scale."""

CONTROL = "-untrained"
"""End of the task of a control: the same training from a randomly initialised backbone."""

FINE_TUNED = rf"(?:detection/(?:{'|'.join(DETECTORS)})|segmentation/(?:{'|'.join(SEGMENTORS)}))(?:{CONTROL})?"
"""Regular expression of the tasks that are fine-tuned."""

SETS: tuple[str, ...] = get_args(SetName)
"""ImageNet-C, ImageNet-C-bar, ImageNet-A, ImageNet-R and ImageNet-Sketch, or a scale's counterparts."""

CORRUPTED = ("c", "c_bar")
"""Sets of corruptions by severities, made from the clean validation images."""

MASKED = ("a", "r")
"""Sets of some of the classes, whose outputs are restricted to them (Hendrycks et al., ImageNet-A and -R)."""

INSPECTIONS = ("shape_texture", "texture_knn", "receptive_field")
"""Shape and texture dimensions, nearest textures, effective receptive field; also the configuration's sections."""

OWN_DATA = ("shape_texture", "texture_knn")
"""Inspections with a data set of their own; the others take the scale's validation images."""

WITHOUT_WEIGHTS = ("complexity", "speed")
"""Tasks whose results depend on no weights."""

CUE_CONFLICT = "cue_conflict"
"""Name of the published cue-conflict set, which needs no manifest."""


class TaskName(NamedTuple):
    """The parts of a task such as `detection/retinanet-untrained`."""

    kind: str
    head: str
    untrained: bool


def parse_task(task: str) -> TaskName | None:
    """The parts of a fine-tuned task, None for every other task."""
    if re.fullmatch(FINE_TUNED, task) is None:
        return None
    kind, _, name = task.partition("/")
    return TaskName(kind, name.removesuffix(CONTROL), name.endswith(CONTROL))


def set_of(task: str) -> str | None:
    """The set of a task such as `robustness/c_bar`; None for every other task."""
    group, _, name = task.partition("/")
    return name if group == "robustness" and name in SETS else None


def place(kind: str) -> str:
    """Setting that holds the data set serving `kind`: one of `KINDS`, `SETS` or `OWN_DATA`."""
    if kind == "classification":
        return "data"
    return f"robustness.sets.{kind}" if kind in SETS else f"{kind}.data"


# --- Files and data --------------------------------------------------------------------------------------------------


class Folders:
    """Where files lie, for everything that belongs to a scale."""

    scale: str

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

    def metric_path(self, task: str, run: Run | str) -> Path:
        """Place of a metric file."""
        return metric_path(self.results, task, run)

    def weights_path(self, name: Run | str) -> Path:
        """Place of the weights of a network; the sidecar has the same name with `.json`."""
        return self.checkpoints / f"{name}.safetensors"

    def training_log(self, name: Run | str) -> Path:
        """Place of the record of losses (JSON lines) of a finished training."""
        return self.results / "training" / f"{name}.jsonl"

    def record_of(self, data: DataSource) -> Path:
        """A checked data set's manifest with its digest, as evidence beside the metrics."""
        return self.results / "data" / f"{data.name}.json"


@dataclass(frozen=True, kw_only=True)
class ScaleData(DataSource):
    """A data set of a scale: where it is or how it is made, what it serves (`kind`), the place of the record of the
    checked images, and a folder for what is unpacked or converted, which may be deleted at any time."""

    kind: str
    record: Path
    cache: Path

    def identity(self) -> dict[str, str]:
        """Name and digest of the checked images, as results keep them; raises ValueError where the set was not prepared
        or its record is damaged."""
        record = read_record(self.record, self.name, self.kind, name=str, digest=str)
        return {"name": record["name"], "digest": record["digest"]}

    def made_of(self) -> dict[str, Any]:
        """What makes it what it is apart from its place, as far as that is known before it is read."""
        described = versions = None
        if self.generate is not None:
            versions = generator_versions(self.kind)
        elif (manifest := self.manifest_file).is_file():
            # But for the archives, its last key: where data can be had does not change them.
            before, archives, _ = manifest.read_text(encoding="utf-8").partition("\narchives:")
            described = f"{before}\n" if archives else before
        # The key says "sources" in all records.
        return {"generate": self.generate, "manifest": described, "sources": versions}


# --- Trainings -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class TrainingJob(Folders):
    """One training of a scale, with its resolved recipe, the means of training (`settings`) and of scoring."""

    scale: str
    run: Run
    data: ScaleData
    recipe: Any
    settings: Training
    evaluation: Evaluation
    architecture: dict[str, Any]
    """Keyword arguments that shrink the network."""
    retrained: bool
    """Whether it is trained here although its weights are published."""
    imported: bool = False
    """Whether its weights are imported instead."""
    published: PublishedFile | None = None
    """Where published weights of it are to be had, as far as that is known."""

    @property
    def place(self) -> str:
        """Its name among all networks of the scale, and its place below `checkpoints/<scale>`."""
        return str(self.run)

    @property
    def weights(self) -> Path:
        """Place of the weights; the sidecar has the same name with `.json`."""
        return self.weights_path(self.place)

    @property
    def log(self) -> Path:
        """Place of the record of losses of a finished training."""
        return self.training_log(self.place)

    @property
    def states(self) -> Path:
        """Folder of the training's states.

        A changed recipe gets another one, so nothing is lost or mixed; so does a training that replaces published
        weights, which would otherwise end at once where those were trained here.
        """
        pointer = read_pointer(self.weights) if self.retrained else None
        anew = "" if pointer is None else f"-instead-of-{(pointer.sidecar or pointer.md5)[-8:]}"
        return self.work / "train" / self.place / (self.digest().removeprefix("sha256:")[:12] + anew)

    def spec(self) -> dict[str, Any]:
        """Everything that decides the weights, in plain values."""
        return {
            "run": str(self.run),
            **attention_version(self.run.attention),
            "architecture": self.architecture,
            "recipe": self.recipe.to_dict(),
            "data": {"name": self.data.name, "generate": self.data.generate},
        }

    def digest(self) -> str:
        """Digest of `spec()`, kept with every result."""
        return digest(self.spec())


@dataclass(frozen=True, kw_only=True)
class ClassifierJob(TrainingJob):
    """The training of a run on the scale's classification set."""

    recipe: Recipe

    @property
    def image_size(self) -> int:
        """Pixels of its input: the recipe's; of imported weights what their sidecar says or, before they are here, the
        configuration.
        """
        stated = self.published.preprocessing.get("image_size") if self.imported and self.published else None
        return imported_size(self.weights.with_suffix(".json")) or stated or self.recipe.image_size

    def speed_protocol(self, means: Speed) -> str:
        """Identity of what is timed and how; kept in the metric file of its throughput."""
        network = {"architecture": self.architecture, "image_size": self.image_size}
        layout = {"channels_last": self.recipe.channels_last}
        return digest({"version": MEASUREMENTS["speed"].number, "means": asdict(means), **network, **layout})


@dataclass(frozen=True, kw_only=True)
class FineTuningJob(TrainingJob):
    """One fine-tuning: `task` (such as `detection/retinanet`) from the backbone of `run` at a scale."""

    caption: str
    task: str
    recipe: DetectionRecipe | SegmentationRecipe
    settings: FineTuning
    classifier: ClassifierJob | None
    """The network whose backbone is fine-tuned; a control takes the normalisation of its recipe only."""
    normalization: Normalization | None = None
    """That of weights which were imported."""

    @property
    def place(self) -> str:
        """Its name among all networks of the scale, and its place below `checkpoints/<scale>`."""
        return f"{self.task}/{self.run}"

    @property
    def kind(self) -> str:
        """`detection` or `segmentation`."""
        return parse_task(self.task).kind

    @property
    def head(self) -> str:
        """`retinanet`, `mask_rcnn` or `semantic_fpn`."""
        return parse_task(self.task).head

    @property
    def backbone(self) -> Path | None:
        """Weights of the pretrained backbone, None for a control."""
        return None if self.task.endswith(CONTROL) else self.classifier.weights

    @property
    def pixels(self) -> Normalization:
        """What the pixels are normalised with: the recipe's own, or that of the pretraining, also of an imported one.
        """
        if self.normalization is not None:
            return self.normalization
        if self.recipe.mean is not None:
            return Normalization(self.recipe.mean, self.recipe.deviation)
        start = None if self.backbone is None else imported_normalization(self.backbone.with_suffix(".json"))
        pretraining = self.classifier.recipe
        return Normalization(pretraining.mean, pretraining.deviation) if start is None else start

    def spec(self) -> dict[str, Any]:
        """Everything that decides the weights, in plain values; the backbone enters by the digest of its training."""
        spec = {"task": self.task, **super().spec()}
        spec["recipe"] |= {"mean": self.pixels.mean, "deviation": self.pixels.deviation}
        spec["backbone"] = None if self.backbone is None else self.classifier.digest()
        if self.kind == "segmentation" and self.settings.gpus > 1:
            # Images that BatchNorm sees at once: SyncBN takes its statistics over all GPUs.
            spec["normalized_together"] = self.settings.gpus * self.recipe.micro_batch
        return spec

    @property
    def metrics(self) -> Path:
        """Place of the metric file."""
        return self.metric_path(self.task, self.run)

    @property
    def outcomes(self) -> Path:
        """Place of the bootstrap samples behind the metrics' errors."""
        return outcomes_path(self.metrics)

    @property
    def samples(self) -> Path:
        """Place of the picture with sample predictions."""
        return self.results / "samples" / self.task / f"{self.run}.png"


# --- Measurements ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class MeasurementJob(Folders):
    """What is measured of many networks at a scale, with one metric file of `task` for each."""

    scale: str
    task: str
    means: Evaluation | Speed | None = None
    data: ScaleData | None = None
    """The images, or those that the networks were trained on."""
    folder: Path | None = None
    """Where results and caches are kept that are no scale's."""

    @property
    def results(self) -> Path:
        """Folder of metric files and whatever else is written."""
        return super().results if self.folder is None else self.folder

    @property
    def work(self) -> Path:
        """Folder of caches."""
        return super().work if self.folder is None else self.folder / "work"

    def metrics(self, run: Run | str) -> Path:
        """Place of the metric file of `run`."""
        return self.metric_path(self.task, run)

    def outputs(self, run: Run | str) -> list[Path]:
        """The files that a measurement of `run` writes."""
        return [self.metrics(run), outcomes_path(self.metrics(run))]


@dataclass(frozen=True, kw_only=True)
class Measured(MeasurementJob):
    """What many checkpoints are measured on in one pass, each image being decoded once."""

    caption: str
    name: str
    """One of `SETS` or `INSPECTIONS`."""
    means: Evaluation
    data: ScaleData
    clean: ScaleData
    """The classification set, whose classes the networks tell apart."""
    section: Any
    """The configuration's section: `Robustness`, or a kind of `Inspection`."""
    stored_images: str
    """`as_stored` or `enlarged`: how images of the networks' input size are read."""
    reference: ClassifierJob | None = None
    """The network whose mistakes choose the images of a generated counterpart of ImageNet-A."""

    @property
    def record(self) -> Path:
        """The record of the checked images."""
        return self.data.record

    @property
    def rule(self) -> str:
        """Start of the names of its rules."""
        return self.task.replace("/", "_")

    @property
    def command(self) -> str:
        """What follows `lska evaluate`."""
        return self.task.replace("/", " ")


@dataclass(frozen=True, kw_only=True)
class PerturbedSet(Measured):
    """One perturbed set of a scale."""

    @property
    def corrupted(self) -> bool:
        """Whether it consists of corruptions at severities."""
        return self.name in CORRUPTED

    @property
    def strips(self) -> Path:
        """Place of the picture with examples of every part."""
        return self.results / "samples" / self.task / "examples.png"

    @property
    def predictions(self) -> Path:
        """Folder of the predictions on this set, a cache that may be deleted."""
        return self.work / "predictions" / self.data.name

    def inputs(self) -> str:
        """Identity of what makes the set what it is, as far as it is known before it is read; kept in its record."""
        if self.data.generate is not None and self.corrupted:
            # What corruptions are applied to is `clean`.
            parts = {"data": {"generate": self.data.generate}, "clean": self.clean.made_of()}
            return digest(parts | {"generator": GENERATORS[self.name].number})
        chosen = {} if self.reference is None else {"reference": self.reference.digest()}
        return digest({"data": self.data.made_of(), **chosen})

    def protocol(self) -> str:
        """Identity of how weights and images become metrics; kept in every metric file."""
        # In digests the readings keep the names that they had first, which results in clones were measured under.
        names = {"as_stored": "corrected", "enlarged": "published"}
        stored = names[self.stored_images] if self.corrupted else None
        return digest({"version": MEASUREMENTS["robustness"].number, "set": self.name, "stored_images": stored})


@dataclass(frozen=True, kw_only=True)
class InspectionJob(Measured):
    """One thing that is looked for inside the networks of a scale."""

    crops: bool
    """Whether some network of the scale is validated on a part of each image; where none is, both readings of
    `stored_images` are one."""

    def outputs(self, run: Run | str) -> list[Path]:
        """The files that a measurement of `run` writes."""
        return [*super().outputs(run), *([self.field(run)] if self.name == "receptive_field" else [])]

    def field(self, run: Run | str) -> Path:
        """Place of the contribution maps of `run`: a NumPy archive with float32 (S, S) `trained` and `untrained`."""
        return self.results / "fields" / f"{run}.npz"

    def inputs(self) -> str | None:
        """As `PerturbedSet.inputs`; None for the classification set, whose record keeps none."""
        if self.name not in OWN_DATA:
            return None
        if self.data.generate is None:
            return digest({"data": self.data.made_of()})
        return digest({"generate": self.data.generate, "version": generator_versions(self.name)})

    def protocol(self) -> str:
        """Identity of how weights and images become metrics; kept in every metric file."""
        settings = {
            "shape_texture": ("stage", "pooled", "pairs", "resamples", "seed"),
            "texture_knn": ("gallery", "query"),
            "receptive_field": ("images", "size", "normalization"),
        }
        chosen = {name: getattr(self.section, name) for name in settings[self.name]}
        if self.name == "shape_texture" and self.crops:
            chosen["stored_images"] = self.stored_images
        return digest({"version": MEASUREMENTS["inspection"].number, "task": self.name, **chosen})


class Pass(NamedTuple):
    """One job: runs that are measured together, each image being decoded once."""

    item: PerturbedSet | InspectionJob
    number: int
    runs: tuple[Run, ...]

    @property
    def name(self) -> str:
        """Name of its rule."""
        return f"{self.item.rule}_{self.number}"

    @property
    def outputs(self) -> list[Path]:
        """The files that it writes, metric files among them."""
        return [path for run in self.runs for path in self.item.outputs(run)]

    @property
    def hours(self) -> float | None:
        """Hours after which the pass stops itself, where its section says them."""
        return getattr(self.item.section, "hours", None)

    def budget(self, wildcards: Any, resources: Any) -> str:
        """The option that has the pass stop itself in time, given what the scheduler grants."""
        return f"--job-minutes {resources.runtime}" if self.hours else ""
