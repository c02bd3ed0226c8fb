"""What the Snakefile asks while it is read: which files each target needs. Imports nothing heavy."""

from __future__ import annotations

import functools
import hashlib
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from lska.claims.listing import claim_files, claim_needs
from lska.claims.summaries import summary_files
from lska.data.roots import Settings, unmakeable
from lska.models.designs import attention_version
from lska.models.runs import Run, attention_of
from lska.pipeline.checkpoints import Choices
from lska.pipeline.current import Product, pending, recorded, superseded
from lska.provenance.files import read_json, write_json
from lska.provenance.metric_files import digest, keeps_outcomes, outcomes_path
from lska.provenance.sidecars import ForeignWeightsError
from lska.provenance.strict import build, merge
from lska.settings.scale import Config, as_options, from_dict, typed
from lska.settings.tasks import HEADS, FineTuningJob, Measured, Pass
from lska.tables.specs import TARGETS, load_spec, outputs, requirements, samples

TABLES = tuple(target for target in TARGETS if target.startswith("table"))
FIGURES = tuple(target for target in TARGETS if target.startswith("figure"))

COUNTED = ("complexity", *(f"complexity/{head}" for heads in HEADS.values() for head in heads), "speed", "properties")
"""Tasks that are measured on architectures alone."""


@dataclass(frozen=True)
class Decisions:
    """What the process that plans decided, which its jobs on other nodes keep to whatever files are there by then."""

    pending: dict[str, str]
    """The products that are to be made, each with the reason (`lska.pipeline.current`)."""
    weights: dict[str, str]
    """Where the weights of each network come from (`Choice.state`)."""


class Plan:
    """The files of one scale, by target and task; the DAG follows from the tables' specs."""

    def __init__(self, values: Mapping[str, Any], files: Iterable[Path], overrides: Mapping[str, Any]) -> None:
        files = [Path(os.path.relpath(file)) for file in files]
        overrides = typed(overrides)
        where = " + ".join(map(str, files)) + (" + --config" if overrides else "")
        merged = merge(values, overrides)
        self.config: Config = from_dict(merged, where, unmakeable)
        self.digest = digest(merged)
        """Identity of the whole configuration."""
        self.origin = Settings(self.config.sources, files, overrides, "--configfile")
        self.settings = as_options(files, overrides)
        self.choices = Choices(self.config)
        for name in filter(self.config.retrains, self.config.network_names):
            if (problem := self.choices.of(name).refused) is not None:
                raise ForeignWeightsError(problem)
        self._needs = {target: requirements(load_spec(target), self.config) for target in TARGETS}

    def job(self, task: str, run: str) -> FineTuningJob:
        """A fine-tuning of the configuration."""
        return self.config.fine_tuning(task, Run.parse(run))

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
        pending = self.decided.pending
        return [str(job.samples) for job in jobs if job.samples.exists() or f"metrics/{job.place}" in pending]

    def names(self, task: str) -> list[str]:
        """Runs or modules for which any target needs `task`, each once, in a fixed order."""
        found = {str(run): run for needs in self._needs.values() for kind, run in needs if kind == task}
        return [name for name, run in sorted(found.items(), key=lambda item: _order(item[1]))]

    def files(self, task: str, names: Iterable[str] | None = None) -> list[str]:
        """Metric files of `task` for `names`, by default all that any target needs."""
        return [str(self.config.metric_path(task, name)) for name in (self.names(task) if names is None else names)]

    def counted(self, task: str) -> dict[str, list[str]]:
        """The names that need `task`, by the end of the name of the rule that measures them in one process.

        Networks of an attention whose version was raised have a rule of their own, so that raising it leaves the
        metric files of the others as they are.
        """
        found: dict[str, list[str]] = {}
        for name in self.names(task):
            attention = attention_of(name)
            found.setdefault(f"_{attention}" if attention_version(attention) else "", []).append(name)
        return found

    def superseded(self, task: str, names: Iterable[str]) -> list[str]:
        """Those products among `metrics/<task>/<name>` that were measured otherwise than today."""
        return [product for name in names if (product := f"metrics/{task}/{name}") in self.decided.pending]

    def accuracies(self) -> list[str]:
        """Metric files and outcomes of all configured runs, fine-tunings and passes, also where no table shows them."""
        classified = [self.config.metric_path("classification", run) for run in self.config.runs]
        tuned = [job.metrics for job in self.config.fine_tunings]
        passed = [item.metrics(run) for item in self.config.measured for run in self.config.runs_of(item.task)]
        return [str(path) for file in (*classified, *tuned, *passed) for path in (file, outcomes_path(file))]

    @functools.cached_property
    def claimed(self) -> list[str]:
        """Metric files and outcomes that the claims of the paper are judged by, as far as the scale has them."""
        needs = [(task, self.config.metric_path(task, run)) for task, run in claim_needs(self.config)]
        outcomes = [outcomes_path(path) for task, path in needs if keeps_outcomes(task)]
        return [str(path) for path in (*(path for _, path in needs), *outcomes)]

    @property
    def verdicts(self) -> list[str]:
        """What the rule of the claims writes."""
        return [str(path) for path in claim_files(self.config.results)]

    @property
    def summaries(self) -> list[str]:
        """What the rule of the summaries writes."""
        return summary_files(self.config)

    def outputs(self, target: str) -> list[str]:
        """The files that a table's or figure's notebook writes."""
        return [str(path) for path in outputs(target, self.config.results)]

    def notebook(self, target: str) -> str:
        """The executed notebook of a table or figure."""
        return str(self.config.results / "notebooks" / f"{target}.ipynb")

    def kind_of(self, name: str) -> str:
        """What the scale's data set `name` serves (see `Config.sources`)."""
        return next(kind for kind, data in self.config.sources if data.name == name)

    @functools.cached_property
    def products(self) -> dict[str, Product]:
        """Everything that is trained, measured or drawn from images, as its files say (`lska.pipeline.current`)."""
        counted = {f"metrics/{task}/{name}": task for task in COUNTED for name in self.names(task)}
        files = {name: self.config.results / f"{name}.json" for name in counted}
        return recorded(self.config, self.choices) | superseded(self.config, files)

    @functools.cached_property
    def decided(self) -> Decisions:
        """What is made, and where weights come from."""
        return Decisions(pending(self.products), self.choices.states())

    @property
    def decisions(self) -> Path:
        """Where a Snakemake that starts jobs keeps what it decided."""
        return self.config.work / "decisions" / f"{self.digest.removeprefix('sha256:')[:12]}.json"

    def keep(self) -> None:
        """Write what was decided, for the jobs."""
        write_json(self.decisions, asdict(self.decided))

    def follow(self) -> None:
        """Keep to what the Snakemake decided that started this job, as far as that is to be seen from here."""
        if self.decisions.is_file():
            self.decided = build(Decisions, read_json(self.decisions), str(self.decisions))

    def made(self, kind: str, pattern: str, end: str = ".") -> str:
        """Regular expression of the names in `pattern` of a kind of products that are to be made.

        What is current has no rule, so that neither times of files nor options can have it made again.

        Args:
            end: what follows a name in its files.
        """
        names = [name.removeprefix(f"{kind}/") for name in self.decided.pending if name.startswith(f"{kind}/")]
        return rf"(?={_any_of(names)}{re.escape(end)}){pattern}"

    def weights(self, state: str, pattern: str) -> str:
        """As `made`, of networks whose weights are to be fetched (`state` is `fetch`) or trained (`train`).

        Also of those that nothing needs, which somebody may ask for.
        """
        names = [name for name, found in self.decided.weights.items() if found == state]
        return rf"(?={_any_of(names)}\.){pattern}"

    def reason(self, name: str) -> str:
        """Why a product is made; for weights that nothing needs, why they would be."""
        return self.decided.pending.get(name) or self.products[name].lost or "asked for"

    @functools.cached_property
    def makers(self) -> dict[str, str]:
        """The product that each file belongs to."""
        return {str(file): name for name, one in self.products.items() for file in one.files}

    def reasons(self, outputs: Iterable[str], otherwise: str = "") -> str:
        """Why a job is done, by the files that it makes; or Snakemake's reason `otherwise`, without the files and
        parameters that follow a colon."""
        products = dict.fromkeys(self.makers[file] for file in outputs if file in self.makers)
        return "; ".join(dict.fromkeys(map(self.reason, products))) or re.sub(r":.*?(?=; [A-Z]|$)", "", otherwise)

    def family(self, rule: str) -> str:
        """What a rule is counted with: the passes of one set are one family, and so are all notebooks."""
        passes = {one.name: one.item.rule for one in self.passes}
        return passes.get(rule) or re.sub("^notebook_(?=table|figure).*", "notebook", rule)

    def inputs(self, *names: str) -> list[Path]:
        """The files that the job which makes these products reads.

        Raises:
            ForeignWeightsError: weights among them can be neither used nor made; says why and what to do.
        """
        found: dict[Path, None] = {}
        for read in dict.fromkeys(read for name in names for read in self.products[name].reads):
            kind, _, rest = read.partition("/")
            found |= dict.fromkeys(self.choices.files(rest) if kind == "weights" else self.products[read].files)
        return list(found)

    def current(self) -> list[str]:
        """The files that are there and that no rule makes, as nothing is to be done about them."""
        current = (one for name, one in self.products.items() if name not in self.decided.pending)
        return list(dict.fromkeys(str(file) for one in current for file in one.files if file.exists()))

    def existing(self, *names: str) -> list[str]:
        """The files of products that are there, and so to be replaced."""
        return [str(file) for name in names for file in self.products[name].files if file.exists()]

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
            Pass(item, number, tuple(run for run in runs if f"metrics/{item.task}/{run}" in self.decided.pending))
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

    def examples(self, target: str) -> list[str]:
        """Pictures of the perturbed sets that the notebook of a table or figure shows, as `samples`."""
        shown = [item for item in self.config.perturbed if item.task in {task for task, _ in self._needs[target]}]
        pending = {one.item.name for one in self.passes}
        return [str(item.strips) for item in shown if item.strips.exists() or item.name in pending]


def _any_of(names: Iterable[str]) -> str:
    return f"(?:{'|'.join(map(re.escape, names)) or '(?!)'})"


def _order(run: Run | str) -> tuple[Any, ...]:
    return run.sort_key if isinstance(run, Run) else (run, 0, 0, 0)


_SOURCES = (".py", ".yaml", ".jinja", ".html", ".css", ".js", ".svg")


@functools.cache
def source_digest(*places: str) -> str:
    """SHA-256 of sources and specs, files of the package or all below folders of it.

    What is only drawn or written from results is made anew by changed code; results themselves have declared versions.

    Raises:
        FileNotFoundError: a place does not exist, as after it was renamed.
    """
    package = Path(__file__).parents[1]
    missing = [place for place in places if not (package / place).exists()]
    if missing:
        raise FileNotFoundError(f"{package}: holds no {', '.join(missing)}; results would not follow their sources")
    state = hashlib.sha256()
    files = [path for place in places for path in (package / place, *(package / place).rglob("*"))]
    for path in sorted(files):
        if path.suffix in _SOURCES:
            state.update(path.relative_to(package).as_posix().encode() + b"\0" + path.read_bytes())
    return state.hexdigest()
