"""What the Snakefile asks while it is read: which files each target needs. Imports nothing heavy."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from lska.config import Config, from_dict
from lska.runs import Run
from lska.tables import TARGETS, load_spec, outputs, requirements


class Plan:
    """The files of one scale, by target and task; the DAG follows from the tables' specs."""

    def __init__(self, values: Mapping[str, Any], files: Iterable[Path], overrides: Mapping[str, Any]) -> None:
        files = list(files)
        self.config: Config = from_dict(values, " + ".join(map(str, files)) or "config")
        self.settings = _settings(files, overrides)
        self._needs = {target: requirements(load_spec(target), self.config) for target in TARGETS}

    @property
    def launcher(self) -> str:
        """How a training is started: by torchrun, one process per GPU, where it has several."""
        gpus = self.config.training.gpus
        return f"torchrun --standalone --nproc-per-node {gpus} -m lska" if gpus > 1 else "lska"

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

    def outputs(self, target: str) -> list[str]:
        """The files that a table's or figure's notebook writes."""
        return [str(path) for path in outputs(target, self.config.results)]

    def notebook(self, target: str) -> str:
        """The executed notebook of a table or figure."""
        return str(self.config.results / "notebooks" / f"{target}.ipynb")

    def paper(self, target: str) -> str:
        """The file with the paper's values."""
        return f"paper/{load_spec(target).paper}.csv"

    def spec_digest(self, run: str) -> str:
        """Identity of a training; Snakemake trains again when it changes."""
        return self.config.training_digest(Run.parse(run))


def _order(run: Run | str) -> tuple[Any, ...]:
    return run.sort_key if isinstance(run, Run) else (run, 0, 0, 0)


def _settings(files: list[Path], overrides: Mapping[str, Any]) -> str:
    """The `--config` and `--set` options with which a command reads the same configuration as the Snakefile."""
    words = ["--config", *map(str, files)]
    if overrides:
        words += ["--set", json.dumps(overrides, sort_keys=True, separators=(",", ":"))]
    return shlex.join(words)


TABLES = tuple(target for target in TARGETS if target.startswith("table"))
FIGURES = tuple(target for target in TARGETS if target.startswith("figure"))
