"""What the Snakefile asks while it is read: which files each target needs. Imports nothing heavy."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from lska import claims, outdated, summaries
from lska.config import KINDS, Config, from_dict
from lska.files import vouched
from lska.finetuning import FineTuningJob
from lska.options import as_options, typed
from lska.outcomes import has_outcomes, keeps_outcomes, outcomes_path
from lska.passes import Measured, Pass
from lska.provenance import digest
from lska.robustness import CORRUPTED, data_inputs, source_digest
from lska.roots import Settings
from lska.runs import Run
from lska.sections import DataSource
from lska.strict import merge
from lska.tables import TARGETS, load_spec, outputs, requirements, samples
from lska.weights.choices import Choices
from lska.weights.sidecars import imported_size, measured_alike, read_sidecar

TABLES = tuple(target for target in TARGETS if target.startswith("table"))
FIGURES = tuple(target for target in TARGETS if target.startswith("figure"))


class Plan:
    """The files of one scale, by target and task; the DAG follows from the tables' specs."""

    def __init__(self, values: Mapping[str, Any], files: Iterable[Path], overrides: Mapping[str, Any]) -> None:
        files = [Path(os.path.relpath(file)) for file in files]
        overrides = typed(overrides)
        where = " + ".join(map(str, files)) + (" + --config" if overrides else "")
        merged = merge(values, overrides)
        self.config: Config = from_dict(merged, where)
        if any(data.generate is not None for _, data in self.config.sources):
            # Imported here, as the generators import NumPy, which planning needs for nothing else.
            from lska.data.generators import check_generators

            check_generators(self.config, where)
        self.origin = Settings(self.config, files, overrides, "--configfile")
        self.settings = as_options(files, overrides)
        self.choices = Choices(self.config)
        self._needs = {target: requirements(load_spec(target), self.config) for target in TARGETS}

    def job(self, task: str, run: str) -> FineTuningJob:
        """A fine-tuning of the configuration."""
        return FineTuningJob(self.config, task, Run.parse(run))

    def metrics(self, target: str) -> list[str]:
        """Metric files that a table or figure reads."""
        return [str(self.config.metric_path(task, run)) for task, run in self._needs[target]]

    def outcomes(self, target: str) -> list[str]:
        """What lies beside these, so that a table asks for it as it asks for its metric files."""
        return [
            str(outcomes_path(self.config.metric_path(task, run)))
            for task, run in self._needs[target]
            if keeps_outcomes(task)
        ]

    def fields(self, target: str) -> list[str]:
        """Contribution maps that a figure of receptive fields draws."""
        needs = [run for task, run in self._needs[target] if task == "receptive_field"]
        drawn = load_spec(target).drawing == "receptive_fields"
        return [str(self.item("receptive_field").field(run)) for run in needs if drawn]

    def samples(self, target: str) -> list[str]:
        """Pictures of sample predictions that the notebook of a table or figure shows.

        They show images of the data set, so a clone has the metric files of a scale without them; that is no reason to
        measure again.
        """
        wanted = set(samples(load_spec(target), self.config))
        jobs = [job for job in self.config.fine_tunings if job.samples in wanted]
        return [str(job.samples) for job in jobs if job.samples.exists() or not self._measured(job.place, job.metrics)]

    def names(self, task: str) -> list[str]:
        """Runs or modules for which any target needs `task`, each once, in a fixed order."""
        found = {str(run): run for needs in self._needs.values() for kind, run in needs if kind == task}
        return [name for name, run in sorted(found.items(), key=lambda item: _order(item[1]))]

    def files(self, task: str) -> list[str]:
        """Metric files of `task` that any target needs."""
        return [str(self.config.metric_path(task, name)) for name in self.names(task)]

    def accuracies(self) -> list[str]:
        """Metric files and outcomes of all configured runs, fine-tunings and passes, also where no table shows them."""
        classified = [self.config.metric_path("classification", run) for run in self.config.runs]
        tuned = [job.metrics for job in self.config.fine_tunings]
        passed = [item.metrics(run) for item in self.config.measured for run in self.config.runs_of(item.task)]
        return [str(path) for file in (*classified, *tuned, *passed) for path in (file, outcomes_path(file))]

    @functools.cached_property
    def claimed(self) -> list[str]:
        """Metric files and outcomes that the claims of the paper are judged by, as far as the scale has them."""
        needs = [(task, self.config.metric_path(task, run)) for task, run in claims.requirements(self.config)]
        outcomes = [outcomes_path(path) for task, path in needs if keeps_outcomes(task)]
        return [str(path) for path in (*(path for _, path in needs), *outcomes)]

    @property
    def verdicts(self) -> list[str]:
        """What the rule of the claims writes."""
        return [str(path) for path in claims.outputs(self.config.results)]

    @property
    def summaries(self) -> list[str]:
        """What the rule of the summaries writes."""
        return summaries.outputs(self.config)

    def labels(self, target: str) -> dict[str, str]:
        """What Snakemake's own report calls a table or figure."""
        spec = load_spec(target)
        return {"number": spec.number, "title": spec.title}

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
        """What the scale's data set `name` serves (see `Config.sources`), and its settings."""
        for kind, data in self.config.sources:
            if data.name == name:
                return kind, data
        known = ", ".join(data.name for _, data in self.config.sources)
        raise ValueError(f"{name!r} is no data set of scale {self.config.scale}; expected one of {known}")

    def data_digest(self, name: str) -> str:
        """Identity of what makes the data set `name` what it is, as far as it is known before it is read."""
        kind, data = self.data_set(name)
        return data_inputs(data) if kind in KINDS else digest([data.root, self.item(kind).inputs()])

    def speed_digest(self) -> str:
        """Identity of the throughput measurement: protocol, networks and image size."""
        architecture, runs = self.config.architecture, [Run.parse(name) for name in self.names("speed")]
        recipes, models = [self.config.recipe_of(run) for run in runs], {run.model for run in runs}
        networks = {model: architecture.get(model, {}) for model in sorted(models)}
        own = {name: imported_size(self.config.weights_path(name).with_suffix(".json")) for name in self.names("speed")}
        sizes: list[Any] = [*dict.fromkeys(value for one in recipes for value in (one.image_size, one.channels_last))]
        sizes += [{name: size} for name, size in own.items() if size is not None]
        return digest([str(self.config.speed), networks, sizes, source_digest("models")])

    def fetched(self, name: str) -> list[Any]:
        """What a fetch needs: nothing, where its weights may be replaced."""
        self.choices.check_forced(name)
        return []

    def learned(self, run: str, ancient: Callable[[Path], Any]) -> Any:
        """The data record that a training needs, marked `ancient` (Snakemake's) where its weights are today's.

        That data were checked again makes no weights stale, nor those that were left out of a clone. But Snakemake
        forgets every other reason for a job, also missing outputs, whose only input to be remade is ancient; so a
        record is ancient only for jobs without any.
        """
        return self._learned_from(self.config.data_record, run, ancient)

    def fine_tuned(self, task: str, run: str, ancient: Callable[[Path], Any]) -> Any:
        """As `learned`, for a fine-tuning."""
        return self._learned_from(self.config.record_of(self.job(task, run).data), f"{task}/{run}", ancient)

    def _learned_from(self, record: Path, name: str, ancient: Callable[[Path], Any]) -> Any:
        self.choices.check_forced(name)
        done = self.choices.of(name).here or (record.exists() and self.choices.lasting(name))
        return ancient(record) if done else record

    def scored(self, run: str, ancient: Callable[[Path], Any]) -> list[Any]:
        """Weights of `run`, their sidecar and the data record, marked `ancient` where they were scored already."""
        metrics = self.config.metric_path("classification", run)
        return self._scored(run, metrics, self.config.data_record, ancient)

    def dense_scored(self, task: str, run: str, ancient: Callable[[Path], Any]) -> list[Any]:
        """As `scored`, for a fine-tuning."""
        job = self.job(task, run)
        return self._scored(job.place, job.metrics, self.config.record_of(job.data), ancient)

    def _scored(self, name: str, metrics: Path, record: Path, ancient: Callable[[Path], Any]) -> list[Any]:
        done = self._measured(name, metrics)
        files = self.choices.used(name) if done else self.choices.files(name)
        return _ancient([*files, record], done, ancient)

    def shown(self, name: str, ancient: Callable[[Path], Any]) -> Any:
        """The record of a perturbed set, `ancient` where the picture of it is there."""
        item = self.item(name)
        return ancient(item.record) if item.strips.exists() else item.record

    def backbone(self, task: str, run: str, ancient: Callable[[Path], Any]) -> list[Any]:
        """The pretrained weights that a fine-tuning starts from, marked `ancient` where it was done from them."""
        job = self.job(task, run)
        if job.backbone is None:
            return []
        done = self.choices.of(job.place).available
        files = self.choices.used(str(job.run)) if done else self.choices.files(str(job.run))
        return _ancient(files, self._fine_tuned(job), ancient)

    def _fine_tuned(self, job: FineTuningJob) -> bool:
        """Whether the fine-tuned weights come from exactly the backbone that today's pretraining makes."""
        pretrained, sidecar = (read_sidecar(path.with_suffix(".json")) for path in (job.backbone, job.weights))
        same = (sidecar.get("backbone") or {}).get("md5", "none") == pretrained.get("md5")
        return same and self.choices.lasting(str(job.run))

    def made_of(self, name: str, ancient: Callable[[Path], Any]) -> list[Any]:
        """What a data set is generated from: clean images, by their record, or the classifier that chooses images."""
        kind, data = self.data_set(name)
        if kind in KINDS or data.generate is None:
            return []
        item = self.item(kind)
        current = vouched(item.record).get("inputs") == item.inputs()
        current = current and (item.reference is None or self._chosen(item))
        if item.reference is not None:
            # Where the set is current but its images are gone, the classifier chooses them once more.
            files = (self.choices.existing if current else self.choices.files)(str(item.reference))
        else:
            files = [self.config.data_record] if kind in CORRUPTED else []
        return _ancient(files, current and not self._remade_with_clean(item), ancient)

    def _remade_with_clean(self, item: Measured) -> bool:
        """Whether corruptions are to be made again, for a pass, of clean images that are to be made again as well.

        Both records are then made anew, of which Snakemake would do only the former if the latter were ancient for it.
        """
        gone = outdated.of_images(self.config, [item.record])
        return str(self.config.data_record) in gone and any(one.item.name == item.name for one in self.passes)

    def _chosen(self, item: Measured) -> bool:
        """Whether a set was chosen by exactly the weights that today's training of its reference makes."""
        sidecar = read_sidecar(self.config.weights_path(item.reference).with_suffix(".json"))
        current = self.choices.lasting(str(item.reference))
        return current and (vouched(item.record).get("reference") or {}).get("md5", "none") == sidecar.get("md5")

    def _measured(self, name: str, metrics: Path) -> bool:
        """Whether a metric file was measured on exactly the weights that today's training of a network makes, and the
        outcomes beside it are its own.

        Weights that are about to be trained must not be `ancient`: Snakemake passes nothing on through such inputs.
        """
        sidecar, measured = read_sidecar(self.config.weights_path(name).with_suffix(".json")), vouched(metrics)
        return measured_alike(measured, sidecar) and self.choices.lasting(name) and has_outcomes(metrics, measured)

    def item(self, name: str) -> Measured:
        """A perturbed set, or what is looked for inside networks, by its name."""
        return next(item for item in self.config.measured if item.name == name)

    @functools.cached_property
    def passes(self) -> list[Pass]:
        """The passes that have something to measure; what was measured on today's weights and data is in none.

        A run's pass follows from the configuration and the tables alone, so that neither what is measured already nor
        the node that asks changes it.
        """
        shares = ((item, *share) for item in self.config.measured for share in enumerate(self._shares(item)))
        pending = (
            Pass(item, number, tuple(run for run in runs if not self._passed(item, run)))
            for item, number, runs in shares
        )
        return [one for one in pending if one.runs]

    def _shares(self, item: Measured) -> list[tuple[Run, ...]]:
        """The runs of an item by pass: those that the same tables and figures show, divided by the configured number.

        A pass for all would make each table wait for the training of networks that it does not show.
        """
        alike: dict[tuple[str, ...], list[Run]] = {}
        for run in self.config.runs_of(item.task):
            shown = tuple(target for target, needs in self._needs.items() if (item.task, run) in needs)
            alike.setdefault(shown, []).append(run)
        count = item.section.passes
        return [tuple(runs[number::count]) for runs in alike.values() for number in range(count)]

    def _passed(self, item: Measured, run: Run) -> bool:
        """Whether all files of a run were made from today's weights and images, in today's way."""
        record, measured = vouched(item.record), vouched(item.metrics(run))
        same_data = (measured.get("data") or {}).get("digest", "none") == record.get("digest")
        same_way = (measured.get("detail") or {}).get("protocol") == item.protocol()
        current = record.get("inputs") == item.inputs() and (item.reference is None or self._chosen(item))
        sound = current and same_data and same_way and all(path.exists() for path in item.outputs(run))
        return sound and self._measured(str(run), item.metrics(run))

    def examples(self, target: str) -> list[str]:
        """Pictures of the perturbed sets that the notebook of a table or figure shows, as `samples`."""
        shown = [item for item in self.config.perturbed if item.task in {task for task, _ in self._needs[target]}]
        pending = {one.item.name for one in self.passes}
        return [str(item.strips) for item in shown if item.strips.exists() or item.name in pending]


def _ancient(files: list[Path], used: bool, ancient: Callable[[Path], Any]) -> list[Any]:
    """The files, marked `ancient` where what is made of them was made of exactly these (`used`)."""
    return [ancient(file) for file in files] if used else files


def _order(run: Run | str) -> tuple[Any, ...]:
    return run.sort_key if isinstance(run, Run) else (run, 0, 0, 0)
