"""What a scale's configuration may say: runs, data sets, and the means of training and measuring.

Ranges are annotations, and the texts below the fields are the reference in docs/settings.md.
"""

from __future__ import annotations

import functools
import itertools
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from lska.models.runs import Run
from lska.provenance.errors import InputError
from lska.provenance.files import read_yaml
from lska.provenance.metric_files import project_root
from lska.provenance.sidecars import PUBLISHED
from lska.provenance.strict import AtLeastOne, AtLeastZero, LocalPath, NotNegative, Positive, build, checked
from lska.settings.recipes import LARGEST_SIDE, Detector, Segmentor

MANIFESTS = Path(__file__).parents[1] / "data" / "manifests"
"""Bundled manifests, whose names stand for published data."""

LONGEST_HEARTBEAT = 3600.0
"""Seconds between two signs of life of a training; others wait for twelve of them before they take it over."""

# More than 4096 threads, GPUs, machines or processes are taken for a slip.
PerMachine = Annotated[int, Field(ge=1, le=4096)]
PerMachineOrNone = Annotated[int, Field(ge=0, le=4096)]


def stem_problem(name: str) -> str | None:
    """What is wrong with a name that files get; None where nothing is."""
    if re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]*", name) is None:
        return f"{name!r} becomes a file name: use letters, digits, '.', '_' and '-' only"
    return None


FileStem = Annotated[str, checked(stem_problem)]
"""A name that files get."""

DataPart = Literal["train", "val", "test"]
PreprocessingField = Literal["image_size", "test_crop", "test_interpolation", "mean", "deviation"]
SetName = Literal["c", "c_bar", "a", "r", "sketch"]


@dataclass(frozen=True)
class RunGroup:
    """Runs as a product: every model with every attention, kernel size and seed listed."""

    model: str | tuple[str, ...]
    seed: int | tuple[int, ...]
    attention: str | tuple[str, ...] | None = None
    kernel: int | tuple[int, ...] | None = None
    source: Literal["trained", "imported"] = "trained"
    """Whether the weights are trained here or imported, from where `published` says (docs/weights.md). The scale's
    `runs` say it; in other lists it may be repeated."""

    def __post_init__(self) -> None:
        self.expand()

    def expand(self) -> list[Run]:
        """All runs of the group; raises ValueError for attention without kernel, an unknown attention, or an impossible
        kernel size."""
        axes = (self.model, self.attention, self.kernel, self.seed)
        listed = (axis if isinstance(axis, tuple) else (axis,) for axis in axes)
        return [Run(*values) for values in itertools.product(*listed)]


def expand_all(groups: Iterable[RunGroup]) -> tuple[Run, ...]:
    """The runs of all groups: models as listed, then attention, kernel size, seed; one listed twice stays twice."""
    runs = [run for group in groups for run in group.expand()]
    models = list(dict.fromkeys(run.model for run in runs))
    return tuple(sorted(runs, key=lambda run: (models.index(run.model), *run.sort_key[1:])))


def file_problem(name: str) -> str | None:
    """What is wrong with the name of a file of weights; None where nothing is."""
    if re.fullmatch(r"\w[\w.-]*\.(safetensors|pth|pt|tar)", name):
        return None
    return f"expected the name of a file that ends in .safetensors, .pth, .pt or .tar, found {name!r}"


def _address_problem(address: str | None) -> str | None:
    if address is None or re.match(r"(https?://\S+|timm:[\w.]+)$", address):
        return None
    return f"expected an address http://..., https://..., or timm:<model>.<tag>, found {address!r}"


def _sha256_problem(sha256: str | None) -> str | None:
    if sha256 is None or re.fullmatch("[0-9a-f]{64}", sha256):
        return None
    return f"expected 64 hexadecimal digits in lower case, found {sha256!r}"


@dataclass(frozen=True)
class PublishedFile:
    """A file of weights that somebody published, or that you have, and how images are prepared for them."""

    file: Annotated[str, checked(file_problem)]
    """Its name. Where `weights/published` has a file of this name, that is taken, and nothing is downloaded."""
    address: Annotated[str | None, checked(_address_problem)] = None
    """Of the file itself, http or https; or `timm:<model>.<tag>` for what timm's hub has under this name."""
    page: str | None = None
    """Where people find it, if it cannot be downloaded by a program."""
    sha256: Annotated[str | None, checked(_sha256_problem)] = None
    """Its SHA-256, where it is known."""
    key: str | None = None
    """Which mapping of the file holds the weights, such as `model_ema`, where it is another than the usual."""
    preprocessing: dict[PreprocessingField, Any] = field(default_factory=dict)
    """How images are prepared, where it is otherwise than file or network say."""

    @property
    def place(self) -> Path:
        """Where the file is looked for first."""
        return PUBLISHED / self.file


@dataclass(frozen=True)
class _PublishedFiles:
    weights: dict[str, PublishedFile]


@functools.cache
def known_files() -> dict[str, PublishedFile]:
    """What is known of the weights that the paper's authors and the publications of the other networks give away, by
    run id without its seed (config/weights/published.yaml)."""
    path = project_root() / "config" / "weights" / "published.yaml"
    return build(_PublishedFiles, read_yaml(path), str(path)).weights if path.is_file() else {}


@dataclass(frozen=True)
class DataSource:
    """One data set of a scale."""

    name: FileStem
    """Name of its manifest (src/lska/data/manifests), or of the generated set."""
    root: LocalPath
    """Folder of the data set in its public layout, or one that holds it as archives (docs/data.md)."""
    manifest: LocalPath | None = None
    """YAML file of the manifest, for a data set whose manifest does not come with the project."""
    generate: dict[str, Any] | None = None
    """Settings of the generator for data that is made, not downloaded."""

    @property
    def manifest_file(self) -> Path:
        """Place of its manifest, whether there is one or not: its own file, or among those of the project."""
        return Path(self.manifest) if self.manifest else MANIFESTS / f"{self.name}.yaml"


@dataclass(frozen=True)
class Training:
    """Means of a training; on one kind of hardware nothing here changes its numbers, but for segmentation on several
    GPUs, where BatchNorm takes its statistics over all of them."""

    recipe: LocalPath
    threads: PerMachine = 1
    """Processor threads of a training without GPU."""
    gpus: PerMachineOrNone = 0
    """GPUs of a training, on all its nodes together."""
    nodes: PerMachine = 1
    """Machines among which they are divided evenly; more than one needs Slurm (docs/cluster-training.md)."""
    workers: PerMachineOrNone = 0
    """Data loading processes per GPU (or per training without GPU)."""
    hours: Positive = 12.0
    """Wall time of one attempt; a training that needs more goes on in the next attempt."""
    attempts: AtLeastOne = 1
    """How often Snakemake starts a training that stopped itself or failed before it gives up."""
    state_minutes: NotNegative = 10.0
    """Time between two saved states."""
    heartbeat_seconds: Annotated[float, Field(gt=0, le=LONGEST_HEARTBEAT)] = 10.0
    """Time between two signs of life of the process that owns a training's states. Another one that wants them waits,
    and takes over after twelve times as long without any."""
    overrides: dict[str, Any] = field(default_factory=dict)
    """Recipe fields set by the scale or on the command line, without another recipe file."""

    def __post_init__(self) -> None:
        if self.gpus % self.nodes:
            raise InputError(f"gpus ({self.gpus}, on all nodes together) must be divisible by nodes ({self.nodes})")

    @property
    def processes(self) -> int:
        """Processes that train together: one per GPU, or one per node without GPUs."""
        return max(self.gpus, self.nodes)

    @property
    def cores(self) -> int:
        """Cores that a training keeps busy: its own threads on every node, or every process with its loaders."""
        return max(self.threads * (1 if self.gpus else self.nodes), self.gpus * (self.workers + 1))


@dataclass(frozen=True)
class Pretraining(Training):
    """Means of the classification trainings, and which networks have a recipe of their own."""

    recipes: dict[str, LocalPath] = field(default_factory=dict)
    """Recipe by model name, of networks whose publication trained them otherwise; `overrides` do not apply to it."""


@dataclass(frozen=True)
class Evaluation:
    """Means of scoring checkpoints."""

    batch_size: AtLeastOne = 256
    threads: PerMachine = 1
    gpus: PerMachineOrNone = 0
    workers: PerMachineOrNone = 0

    @property
    def cores(self) -> int:
        """Cores that scoring keeps busy."""
        return max(self.threads, self.workers)


@dataclass(frozen=True)
class Speed:
    """Protocol of the throughput measurement (Figure 6d, Table XVII); the paper's batch and GPU are not known."""

    batch_size: AtLeastOne
    warmup: AtLeastZero
    """Batches before the first timed one."""
    repeats: AtLeastOne
    """Timed measurements per network, interleaved over the networks; the median is reported."""
    seconds: NotNegative
    """Least duration of one timed measurement."""
    threads: PerMachine = 1
    gpus: PerMachineOrNone = 0

    @property
    def cores(self) -> int:
        """Cores that measuring keeps busy."""
        return self.threads


@dataclass(frozen=True)
class FineTuning(Training):
    """Means of fine-tuning one detector or segmentor, and the backbones that it is fine-tuned from."""

    runs: tuple[RunGroup, ...] = ()
    """Pretrained backbones; each must be a run of the scale."""
    untrained: tuple[RunGroup, ...] = ()
    """Networks that are trained in the same way from randomly initialised backbones, as a control."""


@dataclass(frozen=True)
class DenseTask:
    """Detection or segmentation at a scale: the data, and the heads that are fine-tuned on them."""

    data: DataSource
    heads: dict[str, FineTuning]
    """By name of the detector or segmentor."""
    evaluation: Evaluation = field(default_factory=lambda: Evaluation(batch_size=1))
    """With more than one image per batch, detectors see images of different sizes padded to a common one; segmentation
    always takes one image at a time."""


@dataclass(frozen=True)
class DetectionTask(DenseTask):
    """Detection: a `DenseTask` with detectors."""

    heads: dict[Detector, FineTuning]


@dataclass(frozen=True)
class SegmentationTask(DenseTask):
    """Segmentation: a `DenseTask` with segmentors."""

    heads: dict[Segmentor, FineTuning]


@dataclass(frozen=True)
class Robustness:
    """The perturbed sets of a scale and the runs that are measured on them (paper/protocol.md, section 5)."""

    sets: dict[SetName, DataSource]
    runs: tuple[RunGroup, ...]
    """Each must be a run of the scale."""
    evaluation: Evaluation = field(default_factory=Evaluation)
    passes: AtLeastOne = 1
    """Jobs per set among which the runs that the same tables show are divided; each decodes every image once."""
    shard: AtLeastOne = 10_000
    """Images after which the predictions are saved: what an interruption can lose."""
    hours: Positive = 12.0
    """Wall time of one attempt of a pass; one that needs more goes on in the next attempt."""
    attempts: AtLeastOne = 1
    """How often Snakemake starts a pass that stopped itself or failed before it gives up."""

    def __post_init__(self) -> None:
        try:
            _ = self.reference
        except ValueError as error:
            raise InputError(f"sets.a.generate.reference, which chooses the images: {error}") from error

    @property
    def reference(self) -> Run | None:
        """The run whose mistakes choose the images of a generated counterpart of ImageNet-A."""
        made = "a" in self.sets and self.sets["a"].generate is not None
        return Run.parse(self.sets["a"].generate.get("reference")) if made else None


@dataclass(frozen=True, kw_only=True)
class Inspection:
    """What looking inside networks takes, whatever is looked for (paper/protocol.md, sections 6 to 8)."""

    runs: tuple[RunGroup, ...]
    """Each must be a run of the scale."""
    evaluation: Evaluation = field(default_factory=Evaluation)
    passes: AtLeastOne = 1
    """Jobs among which the runs that the same tables show are divided; each decodes every image once."""
    attempts: AtLeastOne = 1
    """How often Snakemake starts a job that failed before it gives up."""


@dataclass(frozen=True, kw_only=True)
class ShapeTexture(Inspection):
    """Shape and texture dimensions, and shape bias, on a cue-conflict set (Tables XII, XV)."""

    data: DataSource
    stage: AtLeastOne | None = None
    """Stage whose features are taken; None for the end of the network."""
    pooled: bool = True
    """Whether features are the mean over positions; otherwise the whole map."""
    pairs: Annotated[int, Field(ge=2)] | None = None
    """Pairs drawn that share a factor; None for all."""
    resamples: AtLeastOne = 1000
    """Bootstrap samples of the pairs, for the intervals."""
    seed: AtLeastZero = 0
    """Of the draw of pairs and of the bootstrap."""


@dataclass(frozen=True, kw_only=True)
class TextureNeighbours(Inspection):
    """Texture classification by the nearest neighbour among pooled features (Table XIII)."""

    data: DataSource
    gallery: Annotated[tuple[DataPart, ...], Field(min_length=1)] = ("train",)
    """Parts of each split that neighbours are taken from."""
    query: DataPart = "val"
    """Part that is classified; the paper says validation set."""

    def __post_init__(self) -> None:
        if self.query in self.gallery:
            found = ", ".join(self.gallery)
            raise InputError(f"gallery must name parts other than the query {self.query}, found {found}")


@dataclass(frozen=True, kw_only=True)
class ReceptiveField(Inspection):
    """Effective receptive field on the scale's validation images (Table VII, Figures 4 and 8)."""

    images: AtLeastOne = 50
    size: Annotated[int, Field(ge=32, le=LARGEST_SIDE)] = 1024
    """Pixels that images are squashed to."""
    normalization: Literal["imagenet", "recipe"] = "imagenet"
    """Mean and deviation of the pixels: ImageNet's, as RepLKNet's procedure has them, or those of the pretraining."""
