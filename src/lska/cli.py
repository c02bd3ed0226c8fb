"""The `lska` command: what Snakemake's rules call, and what a person calls to look at one part."""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from lska import config as configuration
from lska.finetuning import HEADS, FineTuningJob
from lska.runs import Run
from lska.train.interrupt import CONTINUE_LATER, Interrupted
from lska.warm import delegate, run_beside_server

if TYPE_CHECKING:
    from lska.data.check import Report

Parser = argparse.ArgumentParser
Arguments = argparse.Namespace


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit code: 0, 1 for an error that was explained, 75 for "call me again"."""
    argv = list(sys.argv[1:] if argv is None else argv)
    arguments = parser().parse_args(argv)
    if arguments.heavy and (code := delegate(argv)) is not None:
        return code
    logging.basicConfig(
        level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", datefmt="%H:%M:%S", force=True
    )
    try:
        return arguments.command(arguments) or 0
    except (ValueError, RuntimeError, OSError) as error:
        if isinstance(error, Interrupted):
            print(f"lska: stopped: {error}; start it again to go on", file=sys.stderr)
            return CONTINUE_LATER
        if isinstance(error, RuntimeError) and not type(error).__module__.startswith("lska."):
            raise  # not one of ours: its traceback is needed
        if os.environ.get("LSKA_TRACEBACK"):
            raise
        print(f"lska: error: {error}", file=sys.stderr)
        return 1


def parser() -> Parser:
    """All commands with their options."""
    top = Parser(prog="lska", description=__doc__)
    # Commands that import torch and timm, which a server may have done already (lska.warm).
    top.set_defaults(heavy=False)
    commands = top.add_subparsers(required=True, metavar="command")
    for add in (
        _add_data, _add_train, _add_mmconfig, _add_evaluate, _add_complexity, _add_properties, _add_notebook,
        _add_summary, _add_warm,
    ):  # fmt: skip
        add(commands)
    return top


def _configured(command: Parser) -> None:
    group = command.add_argument_group("configuration")
    group.add_argument("--config", nargs="+", type=Path, default=[Path("config/demo.yaml")], metavar="FILE",
                       help="configuration files, later ones over earlier ones (default: %(default)s)")  # fmt: skip
    group.add_argument("--set", type=json.loads, default={}, metavar="JSON", help="settings over those of the files")


def _load(arguments: Arguments) -> configuration.Config:
    return configuration.load(arguments.config, arguments.set)


def _runs(arguments: Arguments, config: configuration.Config) -> list[Run]:
    """The runs named on the command line, or all of the configuration."""
    return [Run.parse(text) for text in arguments.runs] or list(config.runs)


def _add_data(commands: argparse._SubParsersAction) -> None:
    actions = commands.add_parser("data", help="prepare and check data sets").add_subparsers(required=True)
    prepare = actions.add_parser("prepare", help="generate or check the data of a scale and record their manifest")
    prepare.add_argument("--kind", choices=("classification", "detection", "segmentation"), default="classification",
                         help="which of the scale's data sets (default: %(default)s)")  # fmt: skip
    _configured(prepare)
    prepare.set_defaults(command=_prepare)
    check = actions.add_parser("check", help="say what is missing or too much in a data set")
    check.add_argument("name", help="name of a bundled manifest, or the path of one")
    check.add_argument("--root", type=Path, required=True, help="folder or tar file with the data")
    check.add_argument("--contents", action="store_true", help="decode every image too")
    check.set_defaults(command=_check)


def _prepare(arguments: Arguments) -> None:
    config, kind = _load(arguments), arguments.kind
    if kind == "classification":
        from lska.data.prepare import prepare

        prepare(config)
        return
    from lska.data import dense

    section = config.dense[kind]
    if section is None:
        raise ValueError(f"{' + '.join(map(str, arguments.config))}: scale {config.scale} has no section {kind!r}")
    dense.prepare(kind, section.data, config.record_of(section.data), config.work / "cache")


def _check(arguments: Arguments) -> int:
    from lska.data.check import check, render
    from lska.data.manifest import kind_of, load_manifest, manifest_path
    from lska.strict import read_yaml

    path = manifest_path(arguments.name)
    kind = kind_of(read_yaml(path))
    if kind == "classification":
        report = check(load_manifest(arguments.name), arguments.root, arguments.contents)
    else:
        report = _check_dense(kind, path, arguments.root)
    print(render(report), end="")
    return 0 if report.ok else 1


def _check_dense(kind: str, manifest: Path, root: Path) -> Report:
    """A set of detection or segmentation; what has to be unpacked or converted for it is thrown away."""
    from lska.data import dense
    from lska.data.dense_manifest import load_dense_manifest
    from lska.sections import DataSource

    name = load_dense_manifest(kind, manifest).name
    with tempfile.TemporaryDirectory(prefix="lska-") as cache:
        return dense.check(kind, DataSource(name, str(root), str(manifest)), Path(cache))


def _add_train(commands: argparse._SubParsersAction) -> None:
    command = commands.add_parser("train", help="train one run, or go on with it; exit code 75: call again")
    command.add_argument("run", help="run id, for example van_tiny-lska-k23-s0")
    command.add_argument("--budget-hours", type=float, help="stop in time before this wall time is over")
    command.add_argument("--task", help="fine-tune the run for this task, for example detection/retinanet")
    _configured(command)
    command.set_defaults(command=_train, heavy=True)


def _train(arguments: Arguments) -> None:
    config, run = _load(arguments), Run.parse(arguments.run)
    budget = None if arguments.budget_hours is None else 3600 * arguments.budget_hours
    if arguments.task is not None:
        job = FineTuningJob(config, arguments.task, run)
        from lska.openmmlab.launch import fine_tune

        # The libraries talk about their reading of annotations on standard output.
        with contextlib.redirect_stdout(sys.stderr):
            fine_tune(job, budget)
        return
    from lska.train.launch import train

    train(config, run, budget)


def _add_mmconfig(commands: argparse._SubParsersAction) -> None:
    command = commands.add_parser("mmconfig", help="print a fine-tuning's configuration in mmengine's own form")
    command.add_argument("run", help="run id of the backbone, for example van_tiny-lska-k23-s0")
    command.add_argument("--task", required=True, help="for example detection/retinanet")
    _configured(command)
    command.set_defaults(command=_mmconfig, heavy=True)


def _mmconfig(arguments: Arguments) -> None:
    job = FineTuningJob(_load(arguments), arguments.task, Run.parse(arguments.run))
    from lska.openmmlab.configs import configuration
    from lska.openmmlab.launch import open_splits

    with contextlib.redirect_stdout(sys.stderr):
        settings = configuration(job, open_splits(job, "train", "val"))
    print(settings.pretty_text)


def _add_evaluate(commands: argparse._SubParsersAction) -> None:
    tasks = commands.add_parser("evaluate", help="measure trained runs").add_subparsers(required=True)
    classification = tasks.add_parser("classification", help="top-1 and top-5, one pass for all runs given")
    classification.set_defaults(command=_classification, heavy=True)
    speed = tasks.add_parser("speed", help="inference throughput, side by side")
    speed.set_defaults(command=_speed, heavy=True)
    for command in (classification, speed):
        command.add_argument("runs", nargs="*", help="run ids (default: all of the configuration)")
        _configured(command)
    dense = tasks.add_parser("dense", help="COCO average precision or mIoU of a fine-tuned run")
    dense.add_argument("run", help="run id of the backbone")
    dense.add_argument("--task", required=True, help="for example detection/retinanet")
    _configured(dense)
    dense.set_defaults(command=_dense, heavy=True)


def _classification(arguments: Arguments) -> None:
    config = _load(arguments)
    runs = _runs(arguments, config)
    from lska.evaluate.classify import classify

    classify(config, runs)


def _speed(arguments: Arguments) -> None:
    config = _load(arguments)
    runs = _runs(arguments, config)
    from lska.evaluate.speed import measure

    measure(config, runs)


def _dense(arguments: Arguments) -> None:
    job = FineTuningJob(_load(arguments), arguments.task, Run.parse(arguments.run))
    if job.kind == "detection":
        from lska.evaluate.detection import evaluate
    else:
        from lska.evaluate.segmentation import evaluate
    with contextlib.redirect_stdout(sys.stderr):
        evaluate(job)


def _add_complexity(commands: argparse._SubParsersAction) -> None:
    command = commands.add_parser("complexity", help="parameters and FLOPs of the paper's networks")
    command.add_argument("runs", nargs="+", help="run ids; the seed does not matter")
    command.add_argument("--head", choices=sum(HEADS.values(), ()), help="count a detector or segmentor on the network")
    _configured(command)
    command.set_defaults(command=_complexity, heavy=True)


def _complexity(arguments: Arguments) -> None:
    config = _load(arguments)
    runs = _runs(arguments, config)
    if arguments.head is not None:
        from lska.evaluate.dense_complexity import measure as measure_head

        measure_head(config, arguments.head, runs)
        return
    from lska.evaluate.complexity import measure

    measure(config, runs)


def _add_properties(commands: argparse._SubParsersAction) -> None:
    command = commands.add_parser("properties", help="what attention designs can do (Table I), measured on the modules")
    _configured(command)
    command.set_defaults(command=_properties, heavy=True)


def _properties(arguments: Arguments) -> None:
    config = _load(arguments)
    from lska.evaluate.complexity import measure_properties

    measure_properties(config)


def _add_notebook(commands: argparse._SubParsersAction) -> None:
    command = commands.add_parser("notebook", help="make one table or figure through its notebook")
    command.add_argument("target", help="for example table_03 or figure_01")
    command.add_argument("--log", type=Path, required=True, help="where the notebook is executed, kept on failure")
    command.add_argument("--output", type=Path, required=True, help="where it is copied on success")
    _configured(command)
    command.set_defaults(command=_notebook)


def _notebook(arguments: Arguments) -> None:
    _load(arguments)
    from lska.notebook import execute_target

    execute_target(arguments.target, arguments.config, arguments.set, log=arguments.log, output=arguments.output)


def _add_summary(commands: argparse._SubParsersAction) -> None:
    command = commands.add_parser("summary", help="say where the tables and figures of a scale are")
    _configured(command)
    command.set_defaults(command=_summary)


def _summary(arguments: Arguments) -> None:
    from lska.summary import summary

    print(summary(_load(arguments)), end="")


def _add_warm(commands: argparse._SubParsersAction) -> None:
    command = commands.add_parser("warm", help="run a command whose many `lska` jobs share one start-up")
    command.add_argument("rest", nargs=argparse.REMAINDER, metavar="COMMAND", help="for example snakemake --cores 2")
    command.set_defaults(command=_warm)


def _warm(arguments: Arguments) -> int:
    if not arguments.rest:
        raise ValueError("lska warm needs a command, for example: lska warm snakemake --cores 2")
    return run_beside_server(arguments.rest)
