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
from lska.provenance import digest
from lska.runs import Run
from lska.strict import merge
from lska.tables import TARGETS, load_spec, outputs, requirements

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

    @property
    def launcher(self) -> str:
        """How a training is started: by torchrun, one process per GPU, where it has several."""
        gpus = self.config.training.gpus
        return f"torchrun --standalone --nproc-per-node {gpus} -m lska" if gpus > 1 else "lska"

    @property
    def training_threads(self) -> int:
        """Cores that a training keeps busy: its own threads, or every process with its loaders."""
        training = self.config.training
        return max(training.threads, training.gpus * (training.workers + 1))

    def metrics(self, target: str) -> list[str]:
        """Metric files that a table or figure reads."""
        return [str(self.config.metric_path(task, run)) for task, run in self._needs[target]]

    def names(self, task: str) -> list[str]:
        """Runs or modules for which any target needs `task`, each once, in a fixed order."""
        found = {str(run): run for needs in self._needs.values() for kind, run in needs if kind == task}
        return [name for name, run in sorted(found.items(), key=lambda item: _order(item[1]))]

    def files(self, task: str) -> list[str]:
        """Metric files of `task` that any target needs."""
        return [str(self.config.metric_path(task, name)) for name in self.names(task)]

    def accuracies(self) -> list[str]:
        """Accuracy files of all configured runs, also of those that no table shows."""
        return [str(self.config.metric_path("classification", run)) for run in self.config.runs]

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

    def data_digest(self) -> str:
        """Identity of what makes the data set what it is, as far as it is known before it is read."""
        data = self.config.data
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
        weights = self.config.weights_path(run)
        files = [weights, weights.with_suffix(".json")]
        return [ancient(file) for file in files] if self._measured(run) else files

    def _measured(self, run: str) -> bool:
        """Whether the accuracy file of `run` was measured on exactly the weights that today's training makes.

        Weights that are about to be trained must not be `ancient`: Snakemake passes nothing on through such inputs.
        """
        try:
            metrics = json.loads(self.config.metric_path("classification", run).read_text(encoding="utf-8"))
            sidecar = json.loads(self.config.weights_path(run).with_suffix(".json").read_text(encoding="utf-8"))
            current = self.config.weights_path(run).is_file() and sidecar["recipe"] == self.training_digest(run)
            return current and metrics["weights"]["md5"] == sidecar["md5"]
        except (OSError, ValueError, KeyError, TypeError):
            return False


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
