"""Sections of a scale's configuration: runs, data sets, and the means of training and measuring."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any, Literal

from lska.runs import Run
from lska.strict import PATH
from lska.train.recipe import LARGEST_SIDE

LONGEST_HEARTBEAT = 3600.0
"""Seconds between two signs of life of a training; others wait for twelve of them before they take it over."""

PER_MACHINE = ("threads", "gpus", "nodes", "workers")
MOST = 4096
"""Of what `PER_MACHINE` counts; more is taken for a slip."""


@dataclass(frozen=True)
class RunGroup:
    """Runs as a product: every model with every attention, kernel size and seed listed."""

    model: str | tuple[str, ...]
    seed: int | tuple[int, ...]
    attention: str | tuple[str, ...] | None = None
    kernel: int | tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        self.expand()

    def expand(self) -> list[Run]:
        """All runs of the group.

        Raises:
            ValueError: attention without kernel, an unknown attention, or an impossible kernel size.
        """
        axes = (_as_tuple(axis) for axis in (self.model, self.attention, self.kernel, self.seed))
        return [Run(*values) for values in itertools.product(*axes)]


def expand_all(groups: Iterable[RunGroup]) -> tuple[Run, ...]:
    """The runs of all groups: models as listed, then attention, kernel size, seed; one listed twice stays twice."""
    runs = list(itertools.chain.from_iterable(group.expand() for group in groups))
    models = list(dict.fromkeys(run.model for run in runs))
    return tuple(sorted(runs, key=lambda run: (models.index(run.model), *run.sort_key[1:])))


def run_problems(place: str, listed: Sequence[Run], trained: Sequence[Run]) -> list[str]:
    """What is wrong with the runs that the setting `place` lists: one twice, or one that the scale does not train."""
    problems = []
    if twice := sorted({str(run) for run in listed if listed.count(run) > 1}):
        problems.append(f"{place} lists the same run more than once: {', '.join(twice)}")
    if absent := sorted(str(run) for run in set(listed) - set(trained)):
        problems.append(f"{place}: not among the scale's runs: {', '.join(absent)}; add them to runs")
    return problems


def check_retrain(patterns: Iterable[str], names: Sequence[str]) -> None:
    """Check that each pattern of the setting `retrain` names a network.

    Raises:
        ValueError: some name none; lists those that there are.
    """
    nothing = [pattern for pattern in patterns if not any(fnmatchcase(name, pattern) for name in names)]
    if nothing:
        raise ValueError(
            f"retrain: {', '.join(map(repr, nothing))} names no network of this scale; expected some of "
            f"{', '.join(names)}, or a pattern such as 'van_tiny-lska-*'"
        )


@dataclass(frozen=True)
class DataSource:
    """One data set of a scale."""

    name: str
    """Name of its manifest (src/lska/data/manifests), or of the generated set."""
    root: str = field(metadata=PATH)
    """Folder of the data set in its public layout, or one that holds it as tar files (docs/data.md)."""
    manifest: str | None = field(default=None, metadata=PATH)
    """YAML file of the manifest, for a data set whose manifest does not come with the project."""
    generate: dict[str, Any] | None = None
    """Settings of the generator for data that is made, not downloaded."""


@dataclass(frozen=True)
class Training:
    """Means of a training; on one kind of hardware nothing here changes its numbers, but for segmentation on several
    GPUs, where BatchNorm takes its statistics over all of them."""

    recipe: str = field(metadata=PATH)
    threads: int = 1
    """Processor threads of a training without GPU."""
    gpus: int = 0
    """GPUs of a training, on all its nodes together."""
    nodes: int = 1
    """Machines among which they are divided evenly; more than one needs Slurm (docs/cluster-training.md)."""
    workers: int = 0
    """Data loading processes per GPU (or per training without GPU)."""
    hours: float = 12.0
    """Wall time of one attempt; a training that needs more goes on in the next attempt."""
    attempts: int = 1
    """How often Snakemake starts a training that stopped itself or failed before it gives up."""
    state_minutes: float = 10.0
    """Time between two saved states."""
    heartbeat_seconds: float = 10.0
    """Time between two signs of life of the process that owns a training's states. Another one that wants them waits,
    and takes over after twelve times as long without any."""
    overrides: dict[str, Any] = field(default_factory=dict)
    """Recipe fields set by the scale or on the command line, without another recipe file."""

    def __post_init__(self) -> None:
        _check_least(
            self, threads=1, gpus=0, nodes=1, workers=0, hours=0, attempts=1, state_minutes=0, heartbeat_seconds=0
        )
        for name in ("hours", "heartbeat_seconds"):
            if getattr(self, name) == 0:
                raise ValueError(f"{name} must be positive, found 0")
        if self.heartbeat_seconds > LONGEST_HEARTBEAT:
            raise ValueError(f"heartbeat_seconds must be at most {LONGEST_HEARTBEAT:g}, found {self.heartbeat_seconds}")
        if self.gpus % self.nodes:
            raise ValueError(f"gpus ({self.gpus}, on all nodes together) must be divisible by nodes ({self.nodes})")

    @property
    def processes(self) -> int:
        """Processes that train together: one per GPU, or one per node without GPUs."""
        return max(self.gpus, self.nodes)


@dataclass(frozen=True)
class Pretraining(Training):
    """Means of the classification trainings, and which networks have a recipe of their own."""

    recipes: dict[str, str] = field(default_factory=dict, metadata=PATH)
    """Recipe by model name, of networks whose publication trained them otherwise; `overrides` do not apply to it."""


@dataclass(frozen=True)
class Evaluation:
    """Means of scoring checkpoints."""

    batch_size: int = 256
    threads: int = 1
    gpus: int = 0
    workers: int = 0

    def __post_init__(self) -> None:
        _check_least(self, batch_size=1, threads=1, gpus=0, workers=0)


@dataclass(frozen=True)
class Speed:
    """Protocol of the throughput measurement (Figure 6d, Table XVII); the paper's batch and GPU are not known."""

    batch_size: int
    warmup: int
    """Batches before the first timed one."""
    repeats: int
    """Timed measurements per network, interleaved over the networks; the median is reported."""
    seconds: float
    """Least duration of one timed measurement."""
    threads: int = 1
    gpus: int = 0

    def __post_init__(self) -> None:
        _check_least(self, batch_size=1, warmup=0, repeats=1, seconds=0, threads=1, gpus=0)


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
    """By name: retinanet, mask_rcnn; semantic_fpn."""
    evaluation: Evaluation = field(default_factory=lambda: Evaluation(batch_size=1))
    """With more than one image per batch, detectors see images of different sizes padded to a common one; segmentation
    always takes one image at a time."""


@dataclass(frozen=True)
class Robustness:
    """The perturbed sets of a scale and the runs that are measured on them (paper/protocol.md, section 5)."""

    sets: dict[str, DataSource]
    """By name: c, c_bar, a, r, sketch."""
    runs: tuple[RunGroup, ...]
    """Each must be a run of the scale."""
    evaluation: Evaluation = field(default_factory=Evaluation)
    passes: int = 1
    """Jobs per set among which the runs that the same tables show are divided; each decodes every image once."""
    shard: int = 10_000
    """Images after which the predictions are saved: what an interruption can lose."""
    hours: float = 12.0
    """Wall time of one attempt of a pass; one that needs more goes on in the next attempt."""
    attempts: int = 1
    """How often Snakemake starts a pass that stopped itself or failed before it gives up."""

    def __post_init__(self) -> None:
        _check_least(self, passes=1, shard=1, hours=0, attempts=1)
        if self.hours == 0:
            raise ValueError(f"hours must be positive, found {self.hours}")


@dataclass(frozen=True, kw_only=True)
class Inspection:
    """What looking inside networks takes, whatever is looked for (paper/protocol.md, sections 6 to 8)."""

    runs: tuple[RunGroup, ...]
    """Each must be a run of the scale."""
    evaluation: Evaluation = field(default_factory=Evaluation)
    passes: int = 1
    """Jobs among which the runs that the same tables show are divided; each decodes every image once."""
    attempts: int = 1
    """How often Snakemake starts a job that failed before it gives up."""

    def __post_init__(self) -> None:
        _check_least(self, passes=1, attempts=1)


@dataclass(frozen=True, kw_only=True)
class ShapeTexture(Inspection):
    """Shape and texture dimensions, and shape bias, on a cue-conflict set (Tables XII, XV)."""

    data: DataSource
    stage: int | None = None
    """Stage whose features are taken; None for the end of the network."""
    pooled: bool = True
    """Whether features are the mean over positions; otherwise the whole map."""
    pairs: int | None = None
    """Pairs drawn that share a factor; None for all."""
    resamples: int = 1000
    """Bootstrap samples of the pairs, for the intervals."""
    seed: int = 0
    """Of the draw of pairs and of the bootstrap."""

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_least(self, stage=1, pairs=2, resamples=1, seed=0)


@dataclass(frozen=True, kw_only=True)
class TextureNeighbours(Inspection):
    """Texture classification by the nearest neighbour among pooled features (Table XIII)."""

    data: DataSource
    gallery: tuple[Literal["train", "val", "test"], ...] = ("train",)
    """Parts of each split that neighbours are taken from."""
    query: Literal["train", "val", "test"] = "val"
    """Part that is classified; the paper says validation set."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.gallery or self.query in self.gallery:
            found = ", ".join(self.gallery) or "none"
            raise ValueError(f"gallery must name parts other than the query {self.query}, found {found}")


@dataclass(frozen=True, kw_only=True)
class ReceptiveField(Inspection):
    """Effective receptive field on the scale's validation images (Table VII, Figures 4 and 8)."""

    images: int = 50
    size: int = 1024
    """Pixels that images are squashed to."""
    normalization: Literal["imagenet", "recipe"] = "imagenet"
    """Mean and deviation of the pixels: ImageNet's, as RepLKNet's procedure has them, or those of the pretraining."""

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_least(self, images=1, size=32)
        if self.size > LARGEST_SIDE:
            raise ValueError(f"size must be at most {LARGEST_SIDE} pixels, found {self.size}")


def _check_least(section: Any, **least: int) -> None:
    values = {name: getattr(section, name) for name in least}
    low = {name: value for name, value in values.items() if value is not None and value < least[name]}
    problems = [f"{name} must be at least {least[name]}, found {value}" for name, value in low.items()]
    high = {name: value for name in PER_MACHINE if (value := values.get(name)) is not None and value > MOST}
    problems += [f"{name} must be at most {MOST}, found {value}" for name, value in high.items()]
    if problems:
        raise ValueError(", ".join(problems))


def _as_tuple(value: Any) -> tuple[Any, ...]:
    return value if isinstance(value, tuple) else (value,)
