"""The one frame of every measurement: from networks and data to a metric file for each network.

A measurement is a function that gets opened networks and yields the `Values` of each. Whatever it measures, `measure`
opens the networks, sets threads and device, and writes what the values rest on. Nothing of that needs a configuration:
a job says where results are kept, a `Subject` what a network is and what vouches for its weights.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

import torch
from timm.data import create_transform
from torch import Tensor, nn
from torch.utils.data import Dataset

from lska.data.decoding import decode
from lska.data.generators import generator_settings
from lska.data.manifest import load_manifest
from lska.models.designs import attention_version
from lska.models.pretrained import load_weights
from lska.models.runs import attention_of
from lska.models.scoring import memory_format, use_threads
from lska.provenance.errors import InputError, LskaError
from lska.provenance.files import quoted
from lska.provenance.metric_files import digest, write_metrics
from lska.provenance.outcomes import Outcomes, with_errors
from lska.provenance.progress_bar import Bar
from lska.provenance.sidecars import (
    Geometry,
    Normalization,
    Preprocessing,
    changes,
    imported,
    occupied,
    other,
    own_preprocessing,
    pointer_path,
    read_sidecar,
    unusable,
    unvouched,
)
from lska.settings.schema import DataSource
from lska.settings.tasks import ClassifierJob, FineTuningJob, MeasurementJob
from lska.train.classifier import build_network
from lska.train.loading import Loader, Stopping

# --- The frame -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Subject:
    """A network in evaluation mode on the device of a measurement, and what its results are kept with."""

    name: str
    """The run, by which results are kept."""
    network: nn.Module
    sidecar: Mapping[str, Any] = field(default_factory=lambda: {"md5": None, "origin": "none"})
    """What vouches for the weights."""
    own: Normalization | None = None
    """How images are prepared for it; a `Preprocessing` for classifiers."""
    architecture: Mapping[str, Any] = field(default_factory=dict)
    """Settings that it was made with, beside those that the name tells."""
    channels_last: bool = False
    fresh: Callable[[], nn.Module] | None = None
    """Makes the same network with weights as before its training."""
    detail: Mapping[str, Any] = field(default_factory=dict)
    """Further facts that its metric files keep."""

    def preprocessing(self, stored: bool) -> Preprocessing:
        """Preprocessing of images; `stored` ones of the input size are taken as they are."""
        return dataclasses.replace(self.own, test_crop=1.0) if stored else self.own

    @property
    def version(self) -> dict[str, int]:
        """The version of its attention, where that is above 1."""
        own = attention_version(getattr(self.network, "attention", None))
        return own or attention_version(attention_of(self.name))


@dataclass(frozen=True)
class Values:
    """What a measurement yields of one network: metric entries, what lies behind their errors, and further facts."""

    metrics: Mapping[str, dict[str, Any]]
    outcomes: Outcomes = field(default_factory=Outcomes)
    detail: Mapping[str, Any] = field(default_factory=dict)


def measure(
    job: MeasurementJob | FineTuningJob,
    subjects: Iterable[Callable[[torch.device], Subject]],
    values: Callable[[list[Subject], torch.device], Iterable[Values]],
    data: Mapping[str, str] | None = None,
) -> None:
    """Open the `subjects` and write a metric file of `job` for each, with what `values` yields of it.

    Bootstrap samples among the outcomes give the standard errors of their metrics. `data` are name and digest of the
    images, None where there are none.
    """
    started, means = datetime.now(UTC), job.evaluation if isinstance(job, FineTuningJob) else job.means
    if means is not None and means.threads is not None:
        use_threads(means.threads)
    device = torch.device("cuda" if means is not None and means.gpus else "cpu")
    opened = [open_subject(device) for open_subject in subjects]
    for subject, found in zip(opened, values(opened, device), strict=True):
        prepared = {} if subject.own is None else {"preprocessing": subject.own.to_dict()}
        write_metrics(
            job.metric_path(job.task, subject.name),
            task=job.task,
            run=subject.name,
            scale=job.scale,
            metrics=with_errors(found.metrics, found.outcomes),
            weights={name: subject.sidecar[name] for name in ("md5", "origin")},
            recipe=subject.sidecar.get("recipe"),
            data=data,
            device=str(device),
            started=started,
            extra={**subject.version, **prepared, **subject.detail, **found.detail},
            outcomes=found.outcomes,
        )


# --- Networks and what vouches for them ------------------------------------------------------------------------------


class StaleWeightsError(LskaError, ValueError):
    """Weights and sidecar do not belong together."""


def training_classes(data: DataSource) -> tuple[str, ...]:
    """Names of the classes that networks trained on a set tell apart, in the order of their outputs; reads no image."""
    if data.generate is not None:
        return generator_settings("classification", data).class_names
    return load_manifest(data.manifest or data.name).classes


def open_weights(
    name: str, network: nn.Module, weights: Path, sidecar: Mapping[str, Any], own: Normalization | None,
    device: torch.device, **more: Any,
) -> Subject:  # fmt: skip
    """A subject of any network and file of weights, with `more` of its fields; raises ValueError with the names where
    these do not fit."""
    load_weights(network, weights)
    subject = Subject(name, network, sidecar, own, **more)
    network.eval().to(device, memory_format=memory_format(subject.channels_last))
    return subject


class Openable(Protocol):
    """A network that can be measured, from wherever it is."""

    def open(self, device: torch.device) -> Subject:
        """The network on a device; raises ValueError where its weights cannot be used."""


Network = ClassifierJob | Openable
"""A run of a scale, or any other network."""


def openers(networks: Sequence[Network], classes: int) -> list[Callable[[torch.device], Subject]]:
    """How each network is opened; runs of the scale, which knows so many `classes`, by `open_run`."""
    return [
        functools.partial(open_run, one, classes) if isinstance(one, ClassifierJob) else one.open for one in networks
    ]


def open_run(job: ClassifierJob, classes: int, device: torch.device) -> Subject:
    """A run of the scale, trained as its configuration says today, or imported and prepared for as its sidecar says;
    raises as `vouched_run` and `open_weights`."""
    sidecar, own = vouched_run(job)
    architecture, layout = job.architecture, job.recipe.channels_last
    if imported(sidecar):
        architecture = (sidecar.get("spec") or {}).get("architecture", architecture)
    fresh = functools.partial(build_network, job.run, architecture, classes)
    return open_weights(
        str(job.run), fresh(), job.weights, sidecar, own, device, architecture=architecture, channels_last=layout,
        fresh=fresh,
    )  # fmt: skip


def vouched_run(job: ClassifierJob) -> tuple[dict[str, Any], Preprocessing]:
    """The sidecar of a run of the configuration, which vouches for its weights, and how images are prepared for them.

    Raises:
        StaleWeightsError: as `vouched_sidecar` and `check_origin`.
        ValueError: the sidecar of imported weights is of another run, or does not say how images are prepared.
    """
    sidecar, where = vouched_sidecar(job.weights, f"lska train {job.run}"), str(job.weights.with_suffix(".json"))
    if not imported(sidecar):
        check_origin(sidecar, job.weights, job.spec(), job.data.identity())
        return sidecar, Preprocessing.of(job.recipe.to_dict(), "recipe")
    if (stated := (sidecar.get("spec") or {}).get("run", str(job.run))) != str(job.run):
        raise InputError(f"{where}: spec.run: expected {job.run}, found {quoted(stated)}; correct the sidecar")
    return sidecar, own_preprocessing(sidecar, where)


def vouched_sidecar(weights: Path, command: str) -> dict[str, Any]:
    """The sidecar of `weights`, which `command` trains, after checking that it vouches for exactly this file.

    Raises:
        StaleWeightsError: weights or sidecar are missing or damaged, or the weights' MD5 is another than the sidecar's.
    """
    path, training = weights.with_suffix(".json"), f"train the run first: `{command}` with the same options"
    if not occupied(weights) and not occupied(path):
        raise StaleWeightsError(f"{weights} is missing; {training}")
    sidecar = read_sidecar(path)
    if not sidecar:
        raise StaleWeightsError(unvouched(weights))
    if not occupied(weights):
        pointer = pointer_path(weights)
        fetch = f"fetch them from DVC (`lska weights fetch`, or `dvc pull {pointer}`), or " if pointer.exists() else ""
        remedy = f"{fetch}{'bring them back' if imported(sidecar) else training}"
        raise StaleWeightsError(f"{weights} is missing, only its sidecar {path.name} is there; {remedy}")
    if (problem := unusable(weights) or other(weights, sidecar["md5"])) is not None:
        raise StaleWeightsError(problem)
    return sidecar


def check_origin(sidecar: Mapping[str, Any], weights: Path, spec: Mapping[str, Any], data: Mapping[str, str]) -> None:
    """Raise StaleWeightsError, with what differs, for weights that were trained here otherwise, or on other data, than
    `spec` and `data` say today."""
    where, remedy = weights.with_suffix(".json"), "train the run again or restore the configuration"
    if sidecar.get("recipe") != digest(spec):
        differences = changes(sidecar.get("spec") or {}, spec)
        raise StaleWeightsError(
            f"{where}: the weights were trained with other settings than today's ({differences}); {remedy}"
        )
    if sidecar.get("data") != data:
        raise StaleWeightsError(
            f"{where}: the weights were trained with data {quoted(sidecar.get('data'))}, the configuration now has "
            f"{quoted(data)}; {remedy}"
        )


# --- Images that are decoded once for all networks -------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Shard:
    """Images that are scored together: `indices` of a set that has `read(index)` and `name(index)`."""

    images: Any
    indices: Sequence[int]
    subjects: Sequence[Subject]
    stored: bool = False
    """Whether the images are taken as they are."""

    @functools.cached_property
    def geometries(self) -> tuple[Geometry, ...]:
        """What the subjects make of each image, each once."""
        return tuple(dict.fromkeys(subject.preprocessing(self.stored).geometry for subject in self.subjects))


def shared_batches(
    shards: Sequence[Shard], batch_size: int, workers: int, device: torch.device, stopping: Stopping = lambda: None
) -> Iterator[tuple[Shard, Sequence[int], Iterator[tuple[Subject, Tensor]]]]:
    """The images of `shards` in batches, each of one shard: which of its indices they have, and what every subject gets
    of them, float32 (B, 3, size, size) on the device.

    Every image is decoded once, cut once for all subjects that agree on how, and likewise normalised. Progress shows on
    a terminal. Raises DataError where an image cannot be decoded, Interrupted where `stopping` says why no batch comes.
    """
    plan = [(n, first) for n, shard in enumerate(shards) for first in range(0, len(shard.indices), batch_size)]
    # No shard itself is given to loading processes: its subjects are networks, which they have no use for.
    sources = [(shard.images, shard.indices, shard.geometries) for shard in shards]
    # batch_size=None: the data set makes whole batches.
    loader = Loader(_CutBatches(sources, batch_size), workers, stopping, batch_size=None, sampler=plan)
    with Bar(total=sum(len(shard.indices) for shard in shards), unit="images") as bar:
        for (number, first), cuts in zip(plan, loader, strict=True):
            shard = shards[number]
            indices = shard.indices[first : first + batch_size]
            yield shard, indices, _inputs(shard, cuts, device)
            bar.update(len(indices))


class _CutBatches(Dataset):
    """Batches by (shard, first place): for each of its geometries a uint8 tensor (B, 3, size, size)."""

    def __init__(self, sources: Sequence[tuple[Any, Sequence[int], tuple[Geometry, ...]]], size: int) -> None:
        from torchvision.transforms import Compose, PILToTensor

        self.sources, self.size, self.cuts = sources, size, {}
        for how in {geometry for *_, geometries in sources for geometry in geometries}:
            whole = create_transform(how.size, is_training=False, crop_pct=how.crop, interpolation=how.interpolation)
            # timm's test transform up to the pixels: resize, centre crop.
            self.cuts[how] = Compose([*whole.transforms[:-2], PILToTensor()])

    def __getitem__(self, key: tuple[int, int]) -> list[Tensor]:
        number, first = key
        images, indices, geometries = self.sources[number]
        cuts = []
        for index in indices[first : first + self.size]:
            image = decode(images.read(index), images.name(index))
            cuts.append([self.cuts[geometry](image) for geometry in geometries])
        return [torch.stack(alike) for alike in zip(*cuts, strict=True)]


def _inputs(shard: Shard, cuts: Sequence[Tensor], device: torch.device) -> Iterator[tuple[Subject, Tensor]]:
    sizes = dict(zip(shard.geometries, cuts, strict=True))
    ready: dict[tuple[Preprocessing, bool], Tensor] = {}
    for subject in shard.subjects:
        how = (subject.preprocessing(shard.stored), subject.channels_last)
        if how not in ready:
            ready[how] = normalized(sizes[how[0].geometry].to(device, non_blocking=True), *how)
        yield subject, ready[how]


def normalized(images: Tensor, how: Normalization, channels_last: bool) -> Tensor:
    """uint8 (B, 3, H, W) as the networks' input, with the same operations, and so bits, as timm's transform."""
    mean, deviation = (torch.tensor(v, device=images.device)[:, None, None] for v in (how.mean, how.deviation))
    scaled = images.to(torch.float32, memory_format=memory_format(channels_last)).div(255)
    return scaled.sub_(mean).div_(deviation)
