"""The results that a configuration names, by their places; what else lies there is left over. Imports nothing heavy."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from lska.claims.listing import Claim, claim_files, claim_needs
from lska.claims.summaries import COUNTED, summary_files, summary_needs
from lska.provenance.metric_files import keeps_outcomes, outcomes_path
from lska.settings.scale import Config
from lska.tables.specs import TARGETS, load_spec, outputs, requirements


def named_metrics(config: Config, claims: tuple[Claim, ...] | None = None) -> dict[Path, str]:
    """The metric files that the scale's runs, tables, claims and summaries ask for, with their tasks.

    Args:
        claims: those of `paper/claims.csv` where None; ValueError where that is damaged.
    """
    needs = [need for target in TARGETS for need in requirements(load_spec(target), config)]
    needs += claim_needs(config, claims)
    counted = {str(run) for task, run in needs if task == COUNTED}
    needs += [need for one in summary_needs(config, counted).values() for need in one]
    return {config.metric_path(task, run): task for task, run in needs}


def named_sidecars(config: Config) -> list[Path]:
    """The sidecars of everything that is trained."""
    return [config.weights_path(name).with_suffix(".json") for name in config.network_names]


def named_records(config: Config) -> list[Path]:
    """The records of every data set."""
    return [config.record_of(data) for _, data in config.sources]


def named_results(config: Config) -> Iterator[Path]:
    """Everything that is written to results and checkpoints but executed notebooks and the site; ValueError as
    `named_metrics`."""
    for path, task in named_metrics(config).items():
        yield path
        yield from [outcomes_path(path)] if keeps_outcomes(task) else []
    for item in config.measured:
        yield from (path for run in config.runs_of(item.task) for path in item.outputs(run))
    for name in config.network_names:
        weights = config.weights_path(name)
        yield from (weights, weights.with_suffix(".json"), config.training_log(name))
    yield from named_records(config)
    yield from (item.strips for item in config.perturbed)
    yield from (job.samples for job in config.fine_tunings)
    yield from (path for target in TARGETS for path in outputs(target, config.results))
    yield from (*claim_files(config.results), *map(Path, summary_files(config)))
