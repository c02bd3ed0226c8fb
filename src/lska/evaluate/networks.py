"""Networks from anywhere put through the paper's protocols: what `lska evaluate <protocol> --model ...` does.

Data, batch sizes and settings of a protocol are those of a scale. Results, the same metric files, go to a folder of
their own, never among those of the scale: `metrics/<task>/<name>.json`, `data/` with the records of the checked data
sets, `fields/` with contribution maps, and `work/`, which may be deleted.
"""

from __future__ import annotations

import copy
import functools
import logging
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from timm.data import resolve_data_config
from torch import nn

from lska.data.checking import prepare_inspected
from lska.data.entries import DataError
from lska.data.perturbed.parts import prepare_perturbed
from lska.data.preparing import prepare
from lska.data.roots import absence, images_gone
from lska.evaluate.accuracy import classify, measure_robustness
from lska.evaluate.efficiency import measure_speed, network_counts
from lska.evaluate.inspecting import measure_inspection
from lska.evaluate.measurement import Subject, Values, measure, training_classes
from lska.models import create
from lska.models.pretrained import fitted_network, open_network, read_wrapped
from lska.provenance.errors import InputError
from lska.provenance.files import plain, quoted, vouched
from lska.provenance.metric_files import file_md5, has_outcomes, keeps_outcomes
from lska.provenance.sidecars import FIELDS, Preprocessing, load_sidecar, own_preprocessing, preprocessing_text
from lska.provenance.strict import build, merge
from lska.provenance.surroundings import expanded
from lska.settings.scale import Config
from lska.settings.schema import FileStem
from lska.settings.tasks import (
    INSPECTIONS,
    OWN_DATA,
    SETS,
    WITHOUT_WEIGHTS,
    InspectionJob,
    MeasurementJob,
    PerturbedSet,
    ScaleData,
    place,
)
from lska.train.gpus import take, visible
from lska.train.interrupt import stop_request

logger = logging.getLogger(__name__)

PROTOCOLS = ("complexity", "classification", *(f"robustness/{name}" for name in SETS), *INSPECTIONS, "speed")
"""Everything that a network can be put through, in order."""

KNOWN_CLASSES = ("classification", *(f"robustness/{name}" for name in SETS))
"""Protocols in which a network has to know the classes of the images."""


def preprocessing_of(
    network: nn.Module, weights: Path | None = None, changes: Mapping[str, object] | None = None
) -> tuple[Preprocessing, str]:
    """How images are prepared for a network with a file of weights, and in words where that is said.

    It is the sidecar beside the file (the same name with `.json`), or timm's `config.json` in its folder, if that is
    of the same architecture, or the `pretrained_cfg` of the network, at the size that timm tests it with; `changes`
    (fields of `Preprocessing`) go over it. Raises ValueError, which names the place, where that says no square input of
    three channels that is cut from the centre of an image, and for a sidecar that is of other weights.
    """
    if unknown := sorted(set(changes or {}) - set(FIELDS)):
        raise InputError(f"--preprocessing: expected some of {', '.join(FIELDS)}, found {', '.join(unknown)}")
    stated, source = network.pretrained_cfg, "pretrained_cfg of the network"
    if weights is not None and (sidecar := _sidecar_beside(weights)) is not None:
        source = str(weights.with_suffix(".json"))
        found = own_preprocessing(sidecar, source).to_dict()
    else:
        if weights is not None and (published := _config_beside(weights, stated.get("architecture"))) is not None:
            stated, source = published, str(weights.with_name("config.json"))
        data = resolve_data_config(pretrained_cfg=dict(stated), use_test_size=True)
        channels, height, width = data["input_size"]
        if channels != 3 or height != width or data["crop_mode"] != "center":
            raise InputError(
                f"{source}: expected a square input of 3 channels from the centre of an image, found input_size "
                f"{quoted(data['input_size'])} and crop_mode {quoted(data['crop_mode'])}"
            )
        found = {
            "image_size": height, "test_crop": data["crop_pct"], "test_interpolation": data["interpolation"],
            "mean": data["mean"], "deviation": data["std"],
        }  # fmt: skip
    where = f"{source} with --preprocessing" if changes else source
    return Preprocessing.of(found | dict(changes or {}), where), source


def _sidecar_beside(weights: Path) -> dict[str, Any] | None:
    """The sidecar of a file of weights; None where there is none, or another JSON file of its name."""
    path = weights.with_suffix(".json")
    if not {"md5", "origin"} <= set(vouched(path)):
        return None
    content = load_sidecar(path)
    if (found := file_md5(weights)) != content["md5"]:
        raise InputError(
            f"{path}: is the sidecar of other weights (md5 {content['md5']}) than {weights} (md5 {found}); bring those "
            "back, or move the sidecar away"
        )
    return content


def _config_beside(weights: Path, architecture: str | None) -> dict[str, Any] | None:
    """What timm's `config.json` in the folder of a file of weights says of an architecture."""
    content = vouched(weights.with_name("config.json"))
    stated = content.get("pretrained_cfg")
    return stated if isinstance(stated, dict) and content.get("architecture", architecture) == architecture else None


@dataclass(frozen=True, eq=False)
class OutsideNetwork:
    """A network that no configuration names."""

    name: FileStem
    """By which its results are kept."""
    model: str
    """Its name in timm, ours included."""
    settings: dict[str, Any] = field(default_factory=dict)
    """Keyword arguments of the model, such as attention and kernel_size."""
    weights: Path | None = None
    """A file as `lska.models.pretrained.read_weights` takes it; None for random weights."""
    key: str | None = None
    """Which mapping of the file holds the weights, such as `model_ema`; None for the usual one."""
    changes: dict[str, Any] = field(default_factory=dict)
    """Fields of its preprocessing that stand over what file and model say."""

    def open(self, device: torch.device) -> Subject:
        """A copy of the network with its weights on a device.

        Raises:
            CheckpointError, FileNotFoundError, ValueError: as `open_network` and `preprocessing_of`, or it is no
                classifier of images of the size that these have.
        """
        read = self._read
        return replace(read, network=copy.deepcopy(read.network).to(device))

    @functools.cached_property
    def _read(self) -> Subject:
        """The network as its file has it, read and tried once for all protocols."""
        if self.weights is None:
            key, network = None, open_network(self.model, **self.settings)
        else:
            key, tensors = read_wrapped(self.weights, self.key)
            network = fitted_network(self.model, tensors, str(self.weights), **self.settings)
        own, source = preprocessing_of(network, self.weights, self.changes)
        _check_classifier(network, own.image_size, self.model)
        sidecar = {"md5": None, "origin": "random"}
        if self.weights is not None:
            sidecar = {"md5": file_md5(self.weights), "origin": "imported"}
        described = {
            "model": self.model, "settings": plain(self.settings), "classes": network.num_classes,
            "weights": None if self.weights is None else self.weights.name, "key": key,
            "preprocessing": own.to_dict(), "preprocessing_source": Path(source).name,
        }  # fmt: skip
        known = self.settings | {"num_classes": network.num_classes}
        return Subject(
            self.name, network, sidecar, own, {"model": self.model, "key": key, **plain(known)},
            fresh=functools.partial(_fresh, self.model, **known), detail={"network": described},
        )  # fmt: skip


def _check_classifier(network: nn.Module, size: int, model: str) -> None:
    try:
        with torch.inference_mode():
            found = network(torch.zeros(1, 3, size, size))
    except (RuntimeError, AssertionError, ValueError) as error:
        raise InputError(
            f"--model {model}: takes no images of 3 channels and {size} pixels ({quoted(str(error))}); give the size "
            "that it takes, --preprocessing image_size=PIXELS, or other --model-args"
        ) from error
    classes = getattr(network, "num_classes", 0)
    if not classes or not isinstance(found, torch.Tensor) or found.shape != (1, classes):
        raise InputError(f"--model {model}: expected a classifier, with a number for each class; change --model-args")


def _fresh(model: str, **settings: Any) -> nn.Module:
    """The network with the same weights every time, so that a control can be measured again."""
    torch.manual_seed(0)
    return create(model, **settings)


def outside_network(model: str, weights: Path | None = None, name: str | None = None, **more: Any) -> OutsideNetwork:
    """A network as it is named on the command line, by default after its file; ValueError names what is wrong."""
    name = name or (model if weights is None else weights.stem.removesuffix(".pth"))  # x.pth.tar is x
    where = f"--model {model} --name {quoted(name)}"
    return build(OutsideNetwork, {"name": name, "model": model, "weights": weights, **more}, where)


def located(config: Config, places: Sequence[str], protocols: Sequence[str]) -> dict[str, Any]:
    """Settings that say where data of a scale lie, from texts `SET=FOLDER`, or one folder where one set is asked for.

    Raises:
        ValueError: the scale has no such set or generates it, or which one a folder holds is not clear.
    """
    sources, found = dict(config.sources), {}
    kinds = {protocol.rpartition("/")[2] for protocol in protocols}
    asked = {kind if kind in (*SETS, *OWN_DATA) else "classification" for kind in kinds}
    for text in places:
        kind, equals, root = text.partition("=")
        if not equals and len(asked) == 1:
            (kind,), root = asked, text
        if kind not in sources or not root:
            raise InputError(f"--data {text}: expected SET=FOLDER with SET one of {', '.join(sources)}")
        if sources[kind].generate is not None:
            raise InputError(
                f"--data {text}: scale {config.scale} generates its set for {kind}; choose the scale whose data these "
                "are (--config config/paper.yaml: ImageNet-1K and its perturbed sets), or make one of your images: "
                "lska new-scale NAME --data FOLDER"
            )
        setting: Any = str(Path(expanded(root)))
        for key in reversed([*place(kind).split("."), "root"]):
            setting = {key: setting}
        found = merge(found, setting)
    return found


@dataclass(frozen=True)
class LeftOut:
    """What was not measured, and why; `network` is None where that concerns all of them."""

    protocol: str
    network: str | None
    reason: str


def left_out_text(left: Iterable[LeftOut]) -> list[str]:
    """A line for each reason, with the protocols that it keeps from being measured."""
    found: dict[tuple[str | None, str], list[str]] = {}
    for one in left:
        found.setdefault((one.network, one.reason), []).append(one.protocol)
    return [
        f"{', '.join(protocols)}{'' if network is None else f' of {network}'}: {reason}"
        for (network, reason), protocols in found.items()
    ]


def evaluate_networks(
    config: Config, networks: Sequence[OutsideNetwork], protocols: Sequence[str], folder: Path, strict: bool = True,
    budget_seconds: float | None = None,
) -> list[LeftOut]:  # fmt: skip
    """Put networks through protocols of a scale, all in one pass over the images of each, and write a metric file for
    each network and protocol below `folder`. What is measured already, of the same weights on the same data, is not
    measured again, but for counts, which take seconds, and speeds, which are compared side by side.

    Args:
        protocols: some of `PROTOCOLS`.
        folder: outside of the scales' own folders.
        strict: whether what cannot be measured is an error; otherwise it is returned, with the reason.
        budget_seconds: wall time before whose end a pass over a perturbed set stops itself; complete shards of
            predictions are kept, as where a signal ends it.

    Raises:
        ValueError: weights do not fit their network, a name is given twice, `folder` is a scale's, or, if `strict`,
            a protocol cannot be measured: no weights, no data, other classes.
        Interrupted: a pass over a perturbed set was stopped.
    """
    begun = time.monotonic()
    _check_folder(folder, config.scale)
    if len({one.name for one in networks}) < len(networks):
        raise InputError(f"--name: expected different names, found {', '.join(one.name for one in networks)}")
    # Opened once before anything begins with a wrong file; what is kept of that is what stands in metric files.
    opened = {one: one.open(torch.device("meta")) for one in networks}
    for one, subject in opened.items():
        known = subject.detail["network"]
        logger.info(
            "%s: %s, %d classes; images: %s (%s%s)", one.name, one.model, known["classes"],
            preprocessing_text(known["preprocessing"]), known["preprocessing_source"],
            " and --preprocessing" if one.changes else "; --preprocessing changes it",
        )  # fmt: skip
    left: list[LeftOut] = []
    for protocol in protocols:
        fit = []
        for one, subject in opened.items():
            reason = _unfit(config, protocol, one, subject)
            fit += [one] if reason is None else []
            left += [] if reason is None else [LeftOut(protocol, one.name, reason)]
        if fit:
            try:
                job = _job(config, protocol, folder)
                todo = [one for one in fit if not _measured(job, opened[one])]
                logger.info("%s: %d of %d networks to measure", protocol, len(todo), len(fit))
                if todo:
                    _measure(job, todo, budget_seconds, begun)
            except (_UnavailableError, DataError) as error:
                left.append(LeftOut(protocol, None, str(error)))
        if strict and left:
            raise InputError("\n".join(left_out_text(left)))
    return left


class _UnavailableError(InputError):
    """A scale cannot offer a protocol."""


def _check_folder(folder: Path, scale: str) -> None:
    for name in ("results", "checkpoints"):
        if folder.resolve().is_relative_to(Path(name).resolve()):
            raise InputError(
                f"--output: {folder} is among the scales' own {name}, which tables are made of; choose another folder"
            )
    for path in (folder / "metrics").rglob("*.json"):
        if (found := vouched(path).get("scale")) not in (None, scale):
            raise InputError(
                f"--output: {path} was measured by the protocols and on the data of scale {quoted(found)}, and this is "
                f"scale {scale}; choose another folder, or that scale's --config"
            )


def _unfit(config: Config, protocol: str, one: OutsideNetwork, subject: Subject) -> str | None:
    """Why a network cannot be put through a protocol, whatever data there are."""
    if one.weights is None and protocol not in WITHOUT_WEIGHTS:
        return "it has no weights; give a file with --weights"
    classes = subject.detail["network"]["classes"]
    if protocol in KNOWN_CLASSES and classes != (known := len(training_classes(config.images))):
        return (
            f"it tells {classes} classes apart and {config.images.name} has {known}; choose the scale of its data with "
            "--config (config/paper.yaml: ImageNet-1K)"
        )
    if protocol == "receptive_field" and config.receptive_field is not None:
        size = config.receptive_field.size
        try:
            with torch.device("meta"):
                network = create(one.model, **one.settings).eval()
                found = network.forward_features(torch.empty(1, 3, size, size))
        except (RuntimeError, AssertionError, ValueError) as error:
            return f"it takes no images of {size} pixels ({quoted(str(error))})"
        if found.ndim != 4:
            return "it keeps no feature map to its end, whose centre could be looked at"
    return None


# --- Jobs that keep their results elsewhere --------------------------------------------------------------------------


def _job(config: Config, protocol: str, folder: Path) -> MeasurementJob:
    """The job of a protocol with its data prepared, recorded in `folder`, and with the GPUs that there are."""
    group, _, name = protocol.partition("/")
    if group in ("complexity", "speed"):
        job = config.measurement(group)
        return replace(job, folder=folder, means=job.means and _on_this_machine(job.means))
    clean = replace(config.images, record=folder / "data" / config.images.record.name)
    if group == "classification":
        job = config.measurement(group)
        _prepare(clean, config.images, None, lambda: prepare(clean))
        return replace(job, folder=folder, means=_on_this_machine(job.means), data=clean)
    if (name or group) not in dict(config.sources) and group not in config.inspections:
        section = f"robustness.sets.{name}" if name else group
        raise _UnavailableError(f"scale {config.scale} has no section {section}")
    found = config.perturbed_set(name) if name else config.inspection(group)
    data = replace(found.data, record=folder / "data" / found.data.record.name)
    job = replace(found, folder=folder, means=_on_this_machine(found.means), data=data, clean=clean)
    if group == "receptive_field" or absence("classification", clean) is None:
        _prepare(clean, config.images, None, lambda: prepare(clean))
    if isinstance(job, PerturbedSet):
        _prepare(data, found.data, job.inputs(), functools.partial(_prepare_perturbed, job))
    elif group in OWN_DATA:
        _prepare(data, found.data, job.inputs(), lambda: prepare_inspected(job))
    return job


def _prepare(data: ScaleData, own: ScaleData, inputs: str | None, make: Callable[[], None]) -> None:
    """See to the record of a data set: the one of an earlier call, the scale's own, or a new one by `make`, as always
    for generated images whose record does not tell what made them."""
    generated = data.generate is not None
    if not generated and (reason := absence(data.kind, data)) is not None:
        told = f"data set {data.name} is missing: {reason}"
        raise _UnavailableError(f"{told}; say where it is with --data {data.kind}=FOLDER")
    for record in () if generated and inputs is None else (data.record, own.record):
        content = vouched(record)
        if content and content.get("inputs") == inputs and not (generated and images_gone(data)):
            if record != data.record:
                data.record.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(record, data.record)
            return
    make()


def _prepare_perturbed(job: PerturbedSet) -> None:
    if job.reference is not None:
        raise _UnavailableError(
            f"data set {job.data.name} is generated with a network of scale {job.scale}; make it with the scale's own "
            f"results first (rule prepare_a, or `snakemake all`)"
        )
    prepare_perturbed(job)


def _on_this_machine(means: Any) -> Any:
    """Means without a GPU where there is none; otherwise one of them is taken."""
    if means.gpus and not _taken_gpu():
        logger.warning("the scale asks for a GPU; this machine has none")
        return replace(means, gpus=0)
    return means


@functools.cache
def _taken_gpu() -> bool:
    """Whether there is a GPU, which this process has from now on."""
    there = bool(visible())
    take(int(there))
    return there


def _measured(job: MeasurementJob, subject: Subject) -> bool:
    """Whether a metric file is of the same weights, prepared in the same way, of the same data and protocol."""
    content = vouched(job.metrics(subject.name)) if job.task not in WITHOUT_WEIGHTS else {}
    there = has_outcomes(job.metrics(subject.name), content) or not keeps_outcomes(job.task)
    if not content or not there or not all(path.is_file() for path in job.outputs(subject.name)[2:]):
        return False
    protocol = job.protocol() if isinstance(job, PerturbedSet | InspectionJob) else None
    detail = content["detail"]
    stated = (content["weights"]["md5"], detail.get("network"), content["data"], detail.get("protocol"))
    now = (subject.sidecar["md5"], subject.detail["network"], job.data.identity(), protocol)
    version = {name: detail[name] for name in ("attention_version",) if name in detail}
    return (stated, version) == (now, subject.version)


def _measure(job: MeasurementJob, networks: Sequence[OutsideNetwork], budget: float | None, begun: float) -> None:
    if job.task == "complexity":
        measure(job, [one.open for one in networks], _counts)
    elif job.task == "classification":
        classify(job, networks)
    elif job.task == "speed":
        measure_speed(job, networks)
    elif isinstance(job, InspectionJob):
        measure_inspection(job, networks)
    else:
        # Signals are listened to here only: what else there is begins anew.
        with stop_request(budget, begun) as stop:
            measure_robustness(job, networks, stop)


def _counts(subjects: Sequence[Subject], device: torch.device) -> Iterator[Values]:
    for subject in subjects:
        metrics, detail = network_counts(subject.network, (3, subject.own.image_size, subject.own.image_size))
        yield Values(metrics, detail=detail)
