"""What files of a scale say of themselves, which results are current, and why the others are made again.

Sidecars, records and metric files name what they were made of; `recorded` compares it with today's configuration, and
`pending` decides, a pure function. A result is current while it is there, what it says it was made of is what today's
configuration asks for, and what it was made of is current. Times of files decide nothing: a clone gives them in
arbitrary order.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lska.data.roots import images_gone
from lska.models.designs import other_attention
from lska.models.runs import Run, attention_of
from lska.pipeline.checkpoints import Choices, training_of
from lska.provenance.files import vouched
from lska.provenance.metric_files import has_outcomes, outcomes_path
from lska.provenance.sidecars import measured_alike, read_sidecar
from lska.settings.scale import Config
from lska.settings.schema import DataSource
from lska.settings.tasks import CORRUPTED, FineTuningJob, Folders, Measured

OTHER_SETTINGS = "measured with other settings than today's"


@dataclass(frozen=True)
class Product:
    """What one job makes, as its files and the configuration have it."""

    files: tuple[Path, ...] = ()
    """Places of everything that is made with it."""
    stale: str | None = None
    """Why it is not what today's configuration gives: missing, damaged, or made of something else."""
    lost: str | None = None
    """What of it is not here although nothing is wrong with it, so that it is made only for something that reads it."""
    exact: bool = True
    """Whether a lost one is made as it was, so that what was made of it stays current: generated images, published
    weights; not weights that are trained once more."""
    reads: tuple[str, ...] = ()
    """The products that it is made of, by name."""
    follows: tuple[str, ...] = ()
    """Those of them with which it becomes stale."""


def pending(products: Mapping[str, Product]) -> dict[str, str]:
    """The products that are to be made, each with the reason.

    Args:
        products: by name, `<kind>/<name>`; every name in `reads` and `follows` is one of them.
    """
    reasons = {name: one.stale for name, one in products.items() if one.stale is not None}
    changing = set(reasons)
    while True:
        before = len(reasons), len(changing)
        wanted = {read for name in reasons for read in products[name].reads}
        for name, one in products.items():
            source = next((source for source in one.follows if source in changing), None)
            if source is not None:
                reasons.setdefault(name, f"its {source.partition('/')[0]} are to be made again")
                changing.add(name)
            elif one.lost is not None and name in wanted:
                reasons.setdefault(name, one.lost)
                changing |= set() if one.exact else {name}
        if (len(reasons), len(changing)) == before:
            return reasons


def recorded(config: Config, choices: Choices) -> dict[str, Product]:
    """Everything that a scale trains, measures and draws from images, by name.

    Names are `data/<set>`, `weights/<network>`, `metrics/<task>/<run>` and `pictures/<perturbed set>`.

    Raises:
        UnreadableFileError: a file may be whole and cannot be read.
    """
    own = {item.data.name: item for item in config.measured if item.data.name != config.data.name}
    found = {f"data/{data.name}": _data(config, kind, data, own.get(data.name)) for kind, data in config.sources}
    for name in config.network_names:
        found[f"weights/{name}"] = _weights(config, choices, name)
    for run in config.runs:
        found[f"metrics/classification/{run}"] = _scored(config, "classification", run, str(run), config.data)
    for job in config.fine_tunings:
        found[f"metrics/{job.place}"] = _scored(config, job.task, job.run, job.place, job.data, job.samples)
    for item in config.measured:
        for run in config.runs_of(item.task):
            found[f"metrics/{item.task}/{run}"] = _passed(item, run)
    for item in config.perturbed:
        data = f"data/{item.data.name}"
        drawn = None if item.strips.exists() else "never drawn"
        found[f"pictures/{item.name}"] = Product((item.strips,), drawn, reads=(data,), follows=(data,))
    return found


def _data(config: Config, kind: str, data: DataSource, item: Measured | None) -> Product:
    path = config.record_of(data)
    record, corrupted = vouched(path), kind in CORRUPTED and data.generate is not None
    reference = None if item is None or item.reference is None else item.reference.run
    stale = lost = None
    if not path.exists():
        stale = "not generated yet" if data.generate is not None else "not checked yet"
    elif not record:
        stale = "its record is damaged"
    elif item is not None and record.get("inputs") != item.inputs():
        stale = "what the set is made from has changed"
    elif reference is not None and _md5(record, "reference") != _sidecar_md5(config, str(reference)):
        stale = "the classifier that chooses its images has changed"
    elif images_gone(data) or (corrupted and not _whole(data, record)):
        lost = "its generated images are missing"
    made_of = (f"data/{config.data.name}",) if corrupted else ()
    chosen_by = () if reference is None else (f"weights/{reference}",)
    return Product((path,), stale, lost, reads=made_of + chosen_by, follows=chosen_by)


def _whole(data: DataSource, record: dict[str, Any]) -> bool:
    """Whether all corruptions that a record names are there: sets of these grow corruption by corruption."""
    return all((Path(data.root) / corruption).is_dir() for corruption in record.get("parts") or {})


def _weights(config: Config, choices: Choices, name: str) -> Product:
    choice, job = choices.of(name), training_of(config, name)
    stale = None if choice.vouched else choice.reason
    lost = None if choice.here or stale is not None else choice.reason
    start = (f"weights/{job.run}",) if isinstance(job, FineTuningJob) and job.backbone is not None else ()
    read = () if choice.fetched or choice.brought or choice.refused else (f"data/{job.data.name}", *start)
    # A fetch leaves the sidecar as it is, and nothing is trained by an import.
    written = (job.weights.with_suffix(".json"),) if choice.brought else (job.weights.with_suffix(".json"), job.log)
    made = (job.weights,) if choice.fetched else (job.weights, *written)
    return Product(made, stale, lost, choice.fetched or choice.kept, read, start)


def _scored(
    config: Config, task: str, run: Run, network: str, data: DataSource, *others: Path
) -> Product:
    metrics, weights, images = config.metric_path(task, run), f"weights/{network}", f"data/{data.name}"
    stale = _difference(metrics, config, network, config.record_of(data))
    return Product((metrics, outcomes_path(metrics), *others), stale, reads=(weights, images), follows=(weights,))


def _passed(item: Measured, run: Run) -> Product:
    stale = _difference(item.metrics(run), item, str(run), item.record)
    if stale is None and (vouched(item.metrics(run)).get("detail") or {}).get("protocol") != item.protocol():
        stale = OTHER_SETTINGS
    if stale is None and not all(path.exists() for path in item.outputs(run)):
        stale = "a file of its results is missing"
    sources = (f"weights/{run}", f"data/{item.data.name}")
    return Product(tuple(item.outputs(run)), stale, reads=sources, follows=sources)


def _difference(metrics: Path, folders: Folders, network: str, record: Path) -> str | None:
    """Why a measurement is missing, or is one of other weights or images than those here; None if it is neither."""
    measured, sidecar = vouched(metrics), read_sidecar(folders.weights_path(network).with_suffix(".json"))
    if not measured:
        return "its metric file is damaged" if metrics.exists() else "never measured"
    if not measured_alike(measured, sidecar):
        same = _md5(measured, "weights") == sidecar.get("md5")
        return "measured with other preprocessing" if same else "measured on other weights"
    if (other := _superseded(measured, metrics.stem)) is not None:
        return other
    if not has_outcomes(metrics, measured):
        return "the outcomes beside its metric file are missing, or of another measurement"
    known = vouched(record).get("digest")
    if known is not None and (measured.get("data") or {}).get("digest") != known:
        return "measured on other data"
    return None


def superseded(config: Config, measured: Mapping[str, Path]) -> dict[str, Product]:
    """Those of measurements of architectures alone that were made with another version of their attention, or are
    throughputs of another network, image size or protocol than today's.

    Whether the others are there is for Snakemake to see.

    Args:
        measured: metric files by name, `metrics/<task>/<run>`.
    """
    found = {}
    for name, path in measured.items():
        content = vouched(path)
        reason = _superseded(content, path.stem)
        if reason is None and content and name.startswith("metrics/speed/"):
            today = config.classifier(Run.parse(path.stem)).speed_protocol(config.speed)
            reason = OTHER_SETTINGS if (content.get("detail") or {}).get("protocol") != today else None
        if reason is not None:
            found[name] = Product((path,), reason)
    return found


def _superseded(measured: Mapping[str, Any], name: str) -> str | None:
    """Why a measurement is of another version of its attention than today's; None if it is not, or not readable."""
    other = other_attention(measured.get("detail") or {}, attention_of(name)) if measured else None
    return None if other is None else f"measured with {other}"


def _md5(content: dict[str, Any], of: str) -> str | None:
    return (content.get(of) or {}).get("md5")


def _sidecar_md5(config: Config, network: str) -> str | None:
    return read_sidecar(config.weights_path(network).with_suffix(".json")).get("md5")
