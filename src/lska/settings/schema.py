"""The settings of a scale: runs, data sets, and how trainings and measurements are run.

Ranges are annotations. The texts below the fields are the reference in docs/settings.md.
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
    """Runs: every combination of the models, attentions, kernel sizes and seeds listed."""

    model: str | tuple[str, ...]
    """Such as `van_tiny` or `convnext_tiny`."""
    seed: int | tuple[int, ...]
    attention: str | tuple[str, ...] | None = None
    """Such as `lka` or `lska`; only for VAN."""
    kernel: int | tuple[int, ...] | None = None
    """Kernel size, odd and at least 3; only for VAN."""
    source: Literal["trained", "imported"] = "trained"
    """`trained`: the weights are trained here. `imported`: they come from where `published` says (docs/weights.md). Set
    it in the scale's `runs`; other lists may repeat it."""

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
    """A file of weights from elsewhere, and how images are prepared for it."""

    file: Annotated[str, checked(file_problem)]
    """Its name. If `weights/published` has a file of this name, it is used and nothing is downloaded."""
    address: Annotated[str | None, checked(_address_problem)] = None
    """Address of the file (http, https), or `timm:<model>.<tag>` on timm's hub."""
    page: str | None = None
    """Web page of the file, if only a browser can download it."""
    sha256: Annotated[str | None, checked(_sha256_problem)] = None
    """Its SHA-256, if it is known."""
    key: str | None = None
    """Entry of the file that holds the weights, such as `model_ema`; null to find the usual one."""
    preprocessing: dict[PreprocessingField, Any] = field(default_factory=dict)
    """How images are prepared, where it differs from what the file or the network says."""

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
    """Folder with the data set in its published layout, or with its archives (docs/data.md)."""
    manifest: LocalPath | None = None
    """YAML file of your own manifest; null for those of the project."""
    generate: dict[str, Any] | None = None
    """Settings of the generator; null for data that are not generated."""

    @property
    def manifest_file(self) -> Path:
        """Place of its manifest, whether there is one or not: its own file, or among those of the project."""
        return Path(self.manifest) if self.manifest else MANIFESTS / f"{self.name}.yaml"


@dataclass(frozen=True)
class Training:
    """How a training is run. On one kind of hardware these settings do not change its numbers. One exception:
    segmentation on several GPUs, where BatchNorm uses the statistics of all GPUs."""

    recipe: LocalPath
    """YAML file of the recipe."""
    threads: PerMachine = 1
    """CPU threads of a training without GPU."""
    gpus: PerMachineOrNone = 0
    """GPUs of a training, all nodes together."""
    nodes: PerMachine = 1
    """Machines that share these GPUs evenly; more than one needs Slurm (docs/cluster-training.md)."""
    workers: PerMachineOrNone = 0
    """Processes that load images, per GPU (or per training without GPU)."""
    hours: Positive = 12.0
    """Wall time of one attempt. A training that needs longer continues in the next attempt."""
    attempts: AtLeastOne = 1
    """How often Snakemake starts a training before it gives up."""
    state_minutes: NotNegative = 10.0
    """Minutes between two saved states."""
    heartbeat_seconds: Annotated[float, Field(gt=0, le=LONGEST_HEARTBEAT)] = 10.0
    """How often a training renews the lock on its states. A second training of the same run waits, and takes over after
    twelve periods without renewal."""
    overrides: dict[str, Any] = field(default_factory=dict)
    """Changes of single recipe fields, such as `{epochs: 2}`."""

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
    """How classification trainings are run."""

    recipes: dict[str, LocalPath] = field(default_factory=dict)
    """Recipe by model name, for networks with a recipe of their own. `overrides` do not apply to it."""


@dataclass(frozen=True)
class Evaluation:
    """How checkpoints are scored."""

    batch_size: AtLeastOne = 256
    threads: PerMachine = 1
    """CPU threads."""
    gpus: PerMachineOrNone = 0
    workers: PerMachineOrNone = 0
    """Processes that load images."""

    @property
    def cores(self) -> int:
        """Cores that scoring keeps busy."""
        return max(self.threads, self.workers)


@dataclass(frozen=True)
class Speed:
    """How throughput is measured (Figure 6d, Table XVII). The paper's batch size and GPU are not known."""

    batch_size: AtLeastOne
    """Images per batch."""
    warmup: AtLeastZero
    """Batches before the first timed one."""
    repeats: AtLeastOne
    """Timed measurements per network, networks in turns; the median is reported."""
    seconds: NotNegative
    """Shortest duration of one timed measurement, in seconds."""
    threads: PerMachine = 1
    gpus: PerMachineOrNone = 0

    @property
    def cores(self) -> int:
        """Cores that measuring keeps busy."""
        return self.threads


@dataclass(frozen=True)
class FineTuning(Training):
    """How one detector or segmentor is fine-tuned, and from which backbones."""

    runs: tuple[RunGroup, ...] = ()
    """The pretrained backbones; each must be a run of the scale."""
    untrained: tuple[RunGroup, ...] = ()
    """Controls: the same training from randomly initialised backbones."""


@dataclass(frozen=True)
class DenseTask:
    """Detection or segmentation: data and heads."""

    data: DataSource
    heads: dict[str, FineTuning]
    """Settings by name of the detector or segmentor."""
    evaluation: Evaluation = field(default_factory=lambda: Evaluation(batch_size=1))
    """With more than one image per batch, detectors see images padded to a common size. Segmentation always takes one
    image at a time."""


@dataclass(frozen=True)
class DetectionTask(DenseTask):
    """A `DenseTask` with detectors."""

    heads: dict[Detector, FineTuning]


@dataclass(frozen=True)
class SegmentationTask(DenseTask):
    """A `DenseTask` with segmentors."""

    heads: dict[Segmentor, FineTuning]


@dataclass(frozen=True)
class Robustness:
    """Perturbed sets, and the runs that are measured on them (paper/protocol.md, section 5)."""

    sets: dict[SetName, DataSource]
    """ImageNet-C, -C-bar, -A, -R, -Sketch, or sets made like them."""
    runs: tuple[RunGroup, ...]
    """Each must be a run of the scale."""
    evaluation: Evaluation = field(default_factory=Evaluation)
    passes: AtLeastOne = 1
    """Jobs per set that share the runs of a table. Each job decodes every image once."""
    shard: AtLeastOne = 10_000
    """Predictions are saved after so many images. An interruption loses at most these."""
    hours: Positive = 12.0
    """Wall time of one attempt. A job that needs longer continues in the next attempt."""
    attempts: AtLeastOne = 1
    """How often Snakemake starts a job before it gives up."""

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
    """Settings that all measurements inside networks share (paper/protocol.md, sections 6 to 8)."""

    runs: tuple[RunGroup, ...]
    """Each must be a run of the scale."""
    evaluation: Evaluation = field(default_factory=Evaluation)
    passes: AtLeastOne = 1
    """Jobs that share the runs of a table. Each job decodes every image once."""
    attempts: AtLeastOne = 1
    """How often Snakemake starts a job before it gives up."""


@dataclass(frozen=True, kw_only=True)
class ShapeTexture(Inspection):
    """Shape and texture dimensions, and shape bias, on a cue-conflict set (Tables XII, XV)."""

    data: DataSource
    stage: AtLeastOne | None = None
    """Stage whose features are used; null for the end of the network."""
    pooled: bool = True
    """true: features are the mean over positions. false: the whole map."""
    pairs: Annotated[int, Field(ge=2)] | None = None
    """How many pairs of images that share a factor are drawn; null for all."""
    resamples: AtLeastOne = 1000
    """Bootstrap samples for the intervals."""
    seed: AtLeastZero = 0
    """Seed of the pairs and the bootstrap."""


@dataclass(frozen=True, kw_only=True)
class TextureNeighbours(Inspection):
    """Classification of textures by the nearest neighbour (Table XIII)."""

    data: DataSource
    gallery: Annotated[tuple[DataPart, ...], Field(min_length=1)] = ("train",)
    """Parts of each split in which neighbours are searched."""
    query: DataPart = "val"
    """Part that is classified. The paper says validation set."""

    def __post_init__(self) -> None:
        if self.query in self.gallery:
            found = ", ".join(self.gallery)
            raise InputError(f"gallery must name parts other than the query {self.query}, found {found}")


@dataclass(frozen=True, kw_only=True)
class ReceptiveField(Inspection):
    """Effective receptive field on the scale's validation images (Table VII, Figures 4 and 8)."""

    images: AtLeastOne = 50
    """Validation images."""
    size: Annotated[int, Field(ge=32, le=LARGEST_SIDE)] = 1024
    """Side in pixels to which images are resized, without keeping their ratio."""
    normalization: Literal["imagenet", "recipe"] = "imagenet"
    """Mean and deviation of the pixels: ImageNet's, as in RepLKNet's procedure, or those of the pretraining recipe."""
