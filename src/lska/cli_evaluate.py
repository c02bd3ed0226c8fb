"""`lska evaluate` and `lska complexity`: measurements."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path

from lska.cli_options import Arguments, Commands, budgeted, configured, load, require_data, runs_of
from lska.finetuning import HEADS, FineTuningJob
from lska.inspection import OWN_DATA, InspectionJob
from lska.launching import budget_seconds
from lska.robustness import SETS, PerturbedSet
from lska.runs import Run
from lska.train.gpus import take
from lska.train.interrupt import stop_request

INSPECTIONS = {
    "shape_texture": "shape and texture dimensions, and shape bias",
    "texture_knn": "nearest textures",
    "receptive_field": "effective receptive field",
}
"""Tasks of `lska.inspection`, with what they measure."""


def add_evaluate(commands: Commands) -> None:
    """Add the command with a task each."""
    tasks = commands.add_parser("evaluate", help="measure trained runs").add_subparsers(required=True)
    classification = tasks.add_parser("classification", help="top-1 and top-5, one pass for all runs given")
    classification.set_defaults(command=_classification, heavy=True)
    speed = tasks.add_parser("speed", help="inference throughput, side by side")
    speed.set_defaults(command=_speed, heavy=True)
    for command in (classification, speed):
        command.add_argument("runs", nargs="*", help="run ids (default: all of the configuration)")
        configured(command)
    dense = tasks.add_parser("dense", help="COCO average precision or mIoU of a fine-tuned run")
    dense.add_argument("run", help="run id of the backbone")
    dense.add_argument("--task", required=True, help="for example detection/retinanet")
    configured(dense)
    dense.set_defaults(command=_dense, heavy=True)
    robustness = tasks.add_parser("robustness", help="perturbed sets, one pass for all checkpoints given")
    robustness.add_argument("sets", nargs="*", metavar="SET",
                            help=f"some of {', '.join(SETS)} (default: all of the scale)")  # fmt: skip
    robustness.add_argument("--checkpoints", nargs="+", default=[], metavar="RUN",
                            help="run ids, or weight files beside their sidecars (default: the scale's)")  # fmt: skip
    budgeted(robustness)
    configured(robustness)
    robustness.set_defaults(command=_robustness, heavy=True)
    for name, text in INSPECTIONS.items():
        inspection = tasks.add_parser(name, help=f"{text}, one pass for all runs given")
        inspection.add_argument("--checkpoints", nargs="+", default=[], metavar="RUN",
                                help="run ids (default: those of the scale's section)")  # fmt: skip
        configured(inspection)
        inspection.set_defaults(command=_inspection, heavy=True, inspection=name)


def _classification(arguments: Arguments) -> None:
    config = load(arguments)
    runs = runs_of(arguments, config)
    require_data(arguments, config, "classification")
    take(config.evaluation.gpus)
    from lska.evaluate.classify import classify

    classify(config, runs)


def _speed(arguments: Arguments) -> None:
    config = load(arguments)
    runs = runs_of(arguments, config)
    take(config.speed.gpus)
    from lska.evaluate.speed import measure

    measure(config, runs)


def _dense(arguments: Arguments) -> None:
    job = FineTuningJob(load(arguments), arguments.task, Run.parse(arguments.run))
    require_data(arguments, job.config, job.kind)
    take(job.section.evaluation.gpus)
    if job.kind == "detection":
        from lska.evaluate.detection import evaluate
    else:
        from lska.evaluate.segmentation import evaluate
    with contextlib.redirect_stdout(sys.stderr):
        evaluate(job)


def _robustness(arguments: Arguments) -> None:
    config = load(arguments)
    budget = budget_seconds(arguments.budget_hours, arguments.job_minutes)
    items = [PerturbedSet(config, name) for name in arguments.sets] if arguments.sets else config.perturbed
    if not items:
        raise ValueError(f"{' + '.join(map(str, arguments.config))}: scale {config.scale} has no section robustness")
    chosen = [Path(name) if name.endswith(".safetensors") else Run.parse(name) for name in arguments.checkpoints]
    require_data(arguments, config, *(item.name for item in items))
    take(config.robustness.evaluation.gpus)
    from lska.evaluate.robustness.measure import measure

    with stop_request(budget) as stop:
        for item in items:
            measure(item, chosen or config.runs_of(item.task), stop)


def _inspection(arguments: Arguments) -> None:
    job = InspectionJob(load(arguments), arguments.inspection)
    runs = [Run.parse(text) for text in arguments.checkpoints] or job.config.runs_of(job.task)
    require_data(arguments, job.config, job.name if job.name in OWN_DATA else "classification")
    take(job.section.evaluation.gpus)
    from lska.evaluate.inspections import measure

    measure(job, runs)


def add_complexity(commands: Commands) -> None:
    """Add the command."""
    command = commands.add_parser("complexity", help="parameters and FLOPs of the paper's networks")
    command.add_argument("runs", nargs="+", help="run ids; the seed does not matter")
    command.add_argument("--head", choices=sum(HEADS.values(), ()), help="count a detector or segmentor on the network")
    configured(command)
    command.set_defaults(command=_complexity, heavy=True)


def _complexity(arguments: Arguments) -> None:
    config = load(arguments)
    runs = runs_of(arguments, config)
    if arguments.head is not None:
        from lska.evaluate.dense_complexity import measure as measure_head

        measure_head(config, arguments.head, runs)
        return
    from lska.evaluate.complexity import measure

    measure(config, runs)
