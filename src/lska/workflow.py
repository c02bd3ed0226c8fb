"""What the Snakefile asks while it is read: which files each target needs. Imports nothing heavy."""

from __future__ import annotations

import functools
import hashlib
import json
import os
import shlex
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

from lska.config import Config, from_dict
from lska.finetuning import FineTuningJob
from lska.provenance import digest
from lska.runs import Run
from lska.sections import DataSource, Evaluation, Training
from lska.strict import merge
from lska.tables import TARGETS, load_spec, outputs, requirements, samples

TABLES = tuple(target for target in TARGETS if target.startswith("table"))
FIGURES = tuple(target for target in TARGETS if target.startswith("figure"))


class Plan:
    """The files of one scale, by target and task; the DAG follows from the tables' specs."""

    def __init__(self, values: Mapping[str, Any], files: Iterable[Path], overrides: Mapping[str, Any]) -> None:
        files = [Path(os.path.relpath(file)) for file in files]
        overrides = typed(overrides)
        where = " + ".join(map(str, files)) + (" + --config" if overrides else "")
        self.config: Config = from_dict(merge(values, overrides), where)
        self.settings = _settings(files, overrides)
        self._needs = {target: requirements(load_spec(target), self.config) for target in TARGETS}

    def job(self, task: str, run: str) -> FineTuningJob:
        """A fine-tuning of the configuration."""
        return FineTuningJob(self.config, task, Run.parse(run))

    def metrics(self, target: str) -> list[str]:
        """Metric files that a table or figure reads."""
        return [str(self.config.metric_path(task, run)) for task, run in self._needs[target]]

    def samples(self, target: str) -> list[str]:
        """Pictures of sample predictions that the notebook of a table or figure shows.

        They show images of the data set, so a clone has the metric files of a scale without them; that is no reason to
        measure again.
        """
        wanted = set(samples(load_spec(target), self.config))
        jobs = [job for job in self.config.fine_tunings if job.samples in wanted]
        return [str(job.samples) for job in jobs if job.samples.exists() or not self._dense_measured(job)]

    def names(self, task: str) -> list[str]:
        """Runs or modules for which any target needs `task`, each once, in a fixed order."""
        found = {str(run): run for needs in self._needs.values() for kind, run in needs if kind == task}
        return [name for name, run in sorted(found.items(), key=lambda item: _order(item[1]))]

    def files(self, task: str) -> list[str]:
        """Metric files of `task` that any target needs."""
        return [str(self.config.metric_path(task, name)) for name in self.names(task)]

    def accuracies(self) -> list[str]:
        """Accuracy files of all configured runs and fine-tunings, also of those that no table shows."""
        classified = [self.config.metric_path("classification", run) for run in self.config.runs]
        return [str(path) for path in (*classified, *(job.metrics for job in self.config.fine_tunings))]

    def outputs(self, target: str) -> list[str]:
        """The files that a table's or figure's notebook writes."""
        return [str(path) for path in outputs(target, self.config.results)]

    def notebook(self, target: str) -> str:
        """The executed notebook of a table or figure."""
        return str(self.config.results / "notebooks" / f"{target}.ipynb")

    def paper(self, target: str) -> str:
        """The file with the paper's values."""
        return f"paper/{load_spec(target).paper}.csv"

    def training_digest(self, run: str) -> str:
        """Identity of a training; Snakemake trains again when it changes."""
        return self.config.training_digest(Run.parse(run))

    def data_set(self, name: str) -> tuple[str, DataSource]:
        """Kind and settings of the scale's data set `name`."""
        dense = {kind: section.data for kind, section in self.config.dense.items() if section is not None}
        for kind, data in {"classification": self.config.data, **dense}.items():
            if data.name == name:
                return kind, data
        known = ", ".join(data.name for data in (self.config.data, *dense.values()))
        raise ValueError(f"{name!r} is no data set of scale {self.config.scale}; expected one of {known}")

    def data_digest(self, name: str) -> str:
        """Identity of what makes the data set `name` what it is, as far as it is known before it is read."""
        _, data = self.data_set(name)
        manifest = Path(data.manifest or f"src/lska/data/manifests/{data.name}.yaml")
        described = manifest.read_text(encoding="utf-8") if data.generate is None and manifest.is_file() else None
        sources = source_digest("data/synthetic") if data.generate is not None else None
        return digest({"root": data.root, "generate": data.generate, "manifest": described, "sources": sources})

    def speed_digest(self) -> str:
        """Identity of the throughput measurement: protocol, networks and image size."""
        recipe, architecture = self.config.recipe, self.config.architecture
        models = {Run.parse(name).model for name in self.names("speed")}
        networks = {model: architecture.get(model, {}) for model in sorted(models)}
        sizes = [recipe.image_size, recipe.channels_last]
        return digest([str(self.config.speed), networks, sizes, source_digest("models")])

    def scored(self, run: str, ancient: Callable[[Path], Any]) -> list[Any]:
        """Weights of `run` and their sidecar, marked `ancient` (Snakemake's) where they were scored already."""
        weights, metrics = self.config.weights_path(run), self.config.metric_path("classification", run)
        return _with_sidecar(weights, _measured(weights, metrics, self.training_digest(run)), ancient)

    def dense_scored(self, task: str, run: str, ancient: Callable[[Path], Any]) -> list[Any]:
        """As `scored`, for a fine-tuning."""
        job = self.job(task, run)
        return _with_sidecar(job.weights, self._dense_measured(job), ancient)

    def _dense_measured(self, job: FineTuningJob) -> bool:
        """As `_measured`; weights whose backbone is another by now are about to be trained too."""
        current = job.backbone is None or self._fine_tuned(job)
        return current and _measured(job.weights, job.metrics, job.digest())

    def backbone(self, task: str, run: str, ancient: Callable[[Path], Any]) -> list[Any]:
        """The pretrained weights that a fine-tuning starts from, marked `ancient` where it was done from them."""
        job = self.job(task, run)
        return [] if job.backbone is None else _with_sidecar(job.backbone, self._fine_tuned(job), ancient)

    def _fine_tuned(self, job: FineTuningJob) -> bool:
        """Whether the fine-tuned weights come from exactly the backbone that today's pretraining makes."""
        pretrained, sidecar = (_read(path.with_suffix(".json")) for path in (job.backbone, job.weights))
        current = pretrained.get("recipe") == self.config.training_digest(job.run) and job.backbone.is_file()
        return current and (sidecar.get("backbone") or {}).get("md5", "none") == pretrained.get("md5")


def launcher(training: Training) -> str:
    """How a training is started: by torchrun, one process per GPU, where it has several."""
    return f"torchrun --standalone --nproc-per-node {training.gpus} -m lska" if training.gpus > 1 else "lska"


def training_threads(training: Training) -> int:
    """Cores that a training keeps busy: its own threads, or every process with its loaders."""
    return max(training.threads, training.gpus * (training.workers + 1))


def evaluation_threads(evaluation: Evaluation) -> int:
    """Cores that scoring keeps busy."""
    return max(evaluation.threads, evaluation.workers)


def _with_sidecar(weights: Path, used: bool, ancient: Callable[[Path], Any]) -> list[Any]:
    """Weights and their sidecar, marked `ancient` where what is made of them was made of exactly these (`used`)."""
    files = [weights, weights.with_suffix(".json")]
    return [ancient(file) for file in files] if used else files


def _measured(weights: Path, metrics: Path, recipe: str) -> bool:
    """Whether a metric file was measured on exactly the weights that today's training (`recipe`, a digest) makes.

    Weights that are about to be trained must not be `ancient`: Snakemake passes nothing on through such inputs.
    """
    sidecar, measured = _read(weights.with_suffix(".json")), _read(metrics)
    current = weights.is_file() and sidecar.get("recipe") == recipe
    return current and (measured.get("weights") or {}).get("md5", "none") == sidecar.get("md5")


def _read(path: Path) -> dict[str, Any]:
    """A JSON file's mapping; an empty one where it is missing or damaged, and so vouches for nothing."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


@functools.cache
def source_digest(*places: str) -> str:
    """SHA-256 of the sources and specs below folders of the package, so that results of older code are remade."""
    package = Path(__file__).parent
    state = hashlib.sha256()
    for path in sorted(path for place in places for path in (package / place).rglob("*")):
        if path.suffix in (".py", ".yaml"):
            state.update(path.relative_to(package).as_posix().encode() + b"\0" + path.read_bytes())
    return state.hexdigest()


def typed(overrides: Any) -> Any:
    """`--config` values as YAML reads them: Snakemake hands over everything inside braces as text."""
    if isinstance(overrides, Mapping):
        return {key: typed(value) for key, value in overrides.items()}
    if isinstance(overrides, list | tuple):
        return [typed(value) for value in overrides]
    return yaml.safe_load(overrides) if isinstance(overrides, str) else overrides


def _order(run: Run | str) -> tuple[Any, ...]:
    return run.sort_key if isinstance(run, Run) else (run, 0, 0, 0)


def _settings(files: list[Path], overrides: Mapping[str, Any]) -> str:
    """The `--config` and `--set` options with which a command reads the same configuration as the Snakefile."""
    words = ["--config", *map(str, files)]
    if overrides:
        words += ["--set", json.dumps(overrides, sort_keys=True, separators=(",", ":"))]
    return shlex.join(words)
