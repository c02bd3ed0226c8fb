"""From a configuration and runs to metric files on a perturbed set: what `lska evaluate robustness` does."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from lska.data.perturbed.names import FAMILIES
from lska.data.perturbed.parts import CLEAN, Part, open_parts, read_perturbed_record
from lska.evaluate.members import Member, open_file, open_run
from lska.evaluate.predictions import Store
from lska.evaluate.scores import (
    Errors,
    corruption_metrics,
    corruption_outcomes,
    masked_metrics,
    plain_metrics,
    plain_outcomes,
)
from lska.evaluate.scoring_passes import ScoringPass, ShardLabels
from lska.models.runs import Run
from lska.models.threads import use_threads
from lska.provenance.errors import InputError
from lska.provenance.metric_files import write_metrics
from lska.provenance.outcomes import Outcomes, with_errors
from lska.settings.perturbed_sets import MASKED, PerturbedSet
from lska.settings.scale import Config
from lska.train.interrupt import StopRequest

logger = logging.getLogger(__name__)


def training_classes(config: Config) -> tuple[str, ...]:
    """Names of the classes that the networks of a scale tell apart, in the order of their outputs; reads no image.

    Raises:
        ValueError: no manifest of the training data, or a setting of their generator is wrong.
    """
    from lska.data.generators import generator_settings
    from lska.data.manifest import load_manifest

    data = config.data
    if data.generate is not None:
        return generator_settings("classification", data).class_names
    return load_manifest(Path(data.manifest) if data.manifest else data.name).classes


def measure_robustness(item: PerturbedSet, chosen: Sequence[Run | Path], stop: StopRequest | None = None) -> None:
    """Score checkpoints on a perturbed set in one pass and write a metric file for each.

    Args:
        chosen: runs of the configuration, or weight files with a sidecar beside them.
        stop: says when to stop; complete shards are kept. None for never.

    Raises:
        DataError: the set was not prepared, was changed since, or holds an unreadable image.
        StaleWeightsError, ValueError: a checkpoint is missing, damaged or of another architecture, or one of a run that
            another one is of.
        PredictionError: a file of predictions is damaged.
        Interrupted: `stop` asked for it.
    """
    started = datetime.now(UTC)
    evaluation = item.section.evaluation
    use_threads(evaluation.threads)
    device = torch.device("cuda" if evaluation.gpus else "cpu")
    parts, classes = open_parts(item), training_classes(item.config)
    members = [_open(item.config, one, len(classes), device) for one in chosen]
    _check_distinct(members, chosen)
    labels = {part.name: ShardLabels.of(part, classes, item.name in MASKED) for part in parts}
    scoring = ScoringPass(
        members, parts, labels, Store(item.predictions), item.config.stored_images == "as_stored",
        item.section.shard, evaluation.batch_size, evaluation.workers, device,
    )  # fmt: skip
    decoded = scoring.run(StopRequest(None) if stop is None else stop)
    logger.info("%s: %d images decoded for %d checkpoints", item.data.name, decoded, len(members))
    for member in members:
        metrics, outcomes = _results(item, scoring, member, parts)
        _write(item, member, metrics, outcomes, started, device)


def _open(config: Config, one: Run | Path, classes: int, device: torch.device) -> Member:
    return open_file(config, one, classes, device) if isinstance(one, Path) else open_run(config, one, classes, device)


def _check_distinct(members: Sequence[Member], chosen: Sequence[Run | Path]) -> None:
    """Results are kept by run: two checkpoints of one run would overwrite each other's."""
    by_run: dict[Run, list[str]] = {}
    for member, one in zip(members, chosen, strict=True):
        by_run.setdefault(member.run, []).append(str(one))
    twice = "; ".join(f"{run}: {', '.join(names)}" for run, names in by_run.items() if len(names) > 1)
    if twice:
        raise InputError(f"--checkpoints: expected one checkpoint per run, found several of the same ({twice})")


def _results(
    item: PerturbedSet, scoring: ScoringPass, member: Member, parts: Sequence[Part]
) -> tuple[dict[str, dict[str, Any]], Outcomes]:
    """Metrics of a member, and what is kept of their images; errors of calibration follow from the latter."""
    if item.corrupted:
        cells = {part.cell: scoring.outcomes(member, part) for part in parts if part.cell is not None}
        clean = next((scoring.outcomes(member, part) for part in parts if part.name == CLEAN), None)
        errors = Errors(item.name, cells, clean)
        metrics, outcomes = corruption_metrics(errors), corruption_outcomes(errors)
    else:
        (part,) = parts
        kinds = {"": "masked", "_unmasked": "full"} if item.name in MASKED else {"": "full"}
        found = {end: scoring.outcomes(member, part, kind) for end, kind in kinds.items()}
        metrics = (masked_metrics if item.name in MASKED else plain_metrics)(*found.values())
        outcomes = plain_outcomes(found)
    return with_errors(metrics, outcomes), outcomes


def _write(
    item: PerturbedSet,
    member: Member,
    metrics: dict[str, dict[str, Any]],
    outcomes: Outcomes,
    started: datetime,
    device: torch.device,
) -> None:
    stored, sidecar = read_perturbed_record(item), member.sidecar
    detail: dict[str, Any] = {"protocol": item.protocol(), "classes": stored.get("classes")}
    detail["preprocessing"] = member.own.to_dict()
    if item.corrupted:
        detail |= {
            "stored_images": item.config.stored_images,
            "corruptions": len(FAMILIES[item.name]),
            "parts": sum(map(len, stored["parts"].values())),
            "missing": stored["missing"],
        }
    write_metrics(
        item.metrics(member.run),
        task=item.task,
        run=str(member.run),
        scale=item.config.scale,
        metrics=metrics,
        weights={"md5": sidecar["md5"], "origin": sidecar["origin"]},
        recipe=sidecar.get("recipe"),
        data={"name": stored["name"], "digest": stored["digest"]},
        device=str(device),
        started=started,
        extra=detail,
        outcomes=outcomes,
    )
