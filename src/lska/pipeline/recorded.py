"""What the files of a scale say of themselves: every data set, network and measurement as a `Product`.

Sidecars, records and metric files name what they were made of; this compares it with today's configuration.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lska.data.roots import images_gone
from lska.models.runs import Run
from lska.pipeline.checkpoints import Choices
from lska.pipeline.current import Product
from lska.provenance.files import vouched
from lska.provenance.outcomes import has_outcomes, outcomes_path
from lska.provenance.sidecars import measured_alike, read_sidecar
from lska.settings.scale import Config
from lska.settings.schema import DataSource
from lska.settings.tasks import CORRUPTED, Folders, Measured


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
        stale = "what the set is made of has changed"
    elif reference is not None and _md5(record, "reference") != _sidecar_md5(config, str(reference)):
        stale = "the classifier that chooses its images is another now"
    elif images_gone(data) or (corrupted and not _whole(data, record)):
        lost = "its record is there, the generated images are not"
    made_of = (f"data/{config.data.name}",) if corrupted else ()
    chosen_by = () if reference is None else (f"weights/{reference}",)
    return Product((path,), stale, lost, reads=made_of + chosen_by, follows=chosen_by)


def _whole(data: DataSource, record: dict[str, Any]) -> bool:
    """Whether all corruptions that a record names are there: sets of these grow corruption by corruption."""
    return all((Path(data.root) / corruption).is_dir() for corruption in record.get("parts") or {})


def _weights(config: Config, choices: Choices, name: str) -> Product:
    choice, weights = choices.of(name), config.weights_path(name)
    task, _, run = name.rpartition("/")
    job = config.fine_tuning(task, Run.parse(run)) if task else None
    stale = None if choice.vouched else choice.reason
    lost = None if choice.here or stale is not None else choice.reason
    start = () if job is None or job.backbone is None else (f"weights/{run}",)
    read = () if choice.fetched or choice.refused else (f"data/{(config if job is None else job).data.name}", *start)
    # A fetch leaves the sidecar as it is.
    made = (weights,) if choice.fetched else (weights, weights.with_suffix(".json"), config.training_log(name))
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
        stale = "measured in another way than today's settings"
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
    if not has_outcomes(metrics, measured):
        return "the outcomes beside its metric file are missing, or of another measurement"
    known = vouched(record).get("digest")
    if known is not None and (measured.get("data") or {}).get("digest") != known:
        return "measured on other data"
    return None


def _md5(content: dict[str, Any], of: str) -> str | None:
    return (content.get(of) or {}).get("md5")


def _sidecar_md5(config: Config, network: str) -> str | None:
    return read_sidecar(config.weights_path(network).with_suffix(".json")).get("md5")
