"""The `lska` command: what Snakemake's rules call, and what a person calls to look at one part."""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from lska.cli_claims import add_claims
from lska.cli_cluster import add_gpus, add_supervise
from lska.cli_data import add_data
from lska.cli_evaluate import add_complexity, add_evaluate
from lska.cli_launch import add_launch
from lska.cli_options import Arguments, Commands, Parser, as_path, budgeted, configured, load, require_data, say
from lska.cli_plan import add_plan
from lska.cli_provenance import add_explain, add_verify
from lska.cli_report import add_report
from lska.cli_weights import add_weights
from lska.files import printable
from lska.finetuning import FineTuningJob
from lska.gpus import take
from lska.launching import budget_seconds
from lska.runs import Run
from lska.surroundings import LONGEST, require_own_code, speak_plainly
from lska.train.interrupt import CONTINUE_LATER, Interrupted
from lska.warm import delegate, run_beside_server

INTERRUPTED = 130
"""Exit code after Ctrl-C, as shells give it."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit code: 0, 1 for an error that was explained, 75 for "call me again"."""
    speak_plainly()
    argv = list(sys.argv[1:] if argv is None else argv)
    arguments = parser().parse_args(argv)
    log = logging.StreamHandler()
    log.setFormatter(_Formatter("%(asctime)s %(levelname)s %(message)s", "%H:%M:%S"))
    logging.basicConfig(level=logging.INFO, handlers=[log], force=True)
    # Fonts that matplotlib puts into PDF files are told glyph by glyph, hundreds of lines for each figure.
    logging.getLogger("fontTools").setLevel(logging.WARNING)
    try:
        require_own_code(Path.cwd())
        code = delegate(argv) if arguments.heavy else None
        return arguments.command(arguments) or 0 if code is None else code
    except KeyboardInterrupt:
        print("lska: interrupted; start it again to go on", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        # The reader, such as `head`, has seen enough; Python would complain once more when it closes the stream.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (ValueError, RuntimeError, OSError) as error:
        if isinstance(error, Interrupted):
            print(f"lska: stopped: {printable(str(error), LONGEST)}; start it again to go on", file=sys.stderr)
            return CONTINUE_LATER
        if isinstance(error, RuntimeError) and not type(error).__module__.startswith("lska."):
            raise  # not one of ours: its traceback is needed
        if os.environ.get("LSKA_TRACEBACK"):
            raise
        print(f"lska: error: {printable(str(error), LONGEST)}", file=sys.stderr)
        return 1


class _Formatter(logging.Formatter):
    """Messages may quote foreign names."""

    def format(self, record: logging.LogRecord) -> str:
        return printable(super().format(record))


def parser() -> Parser:
    """All commands with their options."""
    top = Parser(prog="lska", description=__doc__)
    # Commands that import torch and timm, which a server may have done already (lska.warm).
    top.set_defaults(heavy=False)
    commands = top.add_subparsers(required=True, metavar="command")
    for add in (
        add_data, _add_train, add_launch, _add_mmconfig, add_evaluate, add_complexity, _add_properties, _add_notebook,
        add_claims, add_plan, _add_lab, add_report, _add_summary, add_explain, add_verify, add_weights, _add_warm,
        add_gpus, add_supervise,
    ):  # fmt: skip
        add(commands)
    return top


def _add_train(commands: Commands) -> None:
    command = commands.add_parser("train", help="train one run, or go on with it; exit code 75: call again")
    command.add_argument("run", help="run id, for example van_tiny-lska-k23-s0")
    budgeted(command)
    command.add_argument("--task", help="fine-tune the run for this task, for example detection/retinanet")
    configured(command)
    command.set_defaults(command=_train, heavy=True)


def _train(arguments: Arguments) -> None:
    config, run = load(arguments), Run.parse(arguments.run)
    budget = budget_seconds(arguments.budget_hours, arguments.job_minutes)
    if arguments.task is not None:
        job = FineTuningJob(config, arguments.task, run)
        require_data(arguments, config, job.kind)
        take(job.settings.gpus)
        from lska.openmmlab.launch import fine_tune

        # The libraries talk about their reading of annotations on standard output.
        with contextlib.redirect_stdout(sys.stderr):
            fine_tune(job, budget)
        return
    require_data(arguments, config, "classification")
    take(config.training.gpus)
    from lska.train.launch import train

    train(config, run, budget)


def _add_mmconfig(commands: Commands) -> None:
    command = commands.add_parser("mmconfig", help="print a fine-tuning's configuration in mmengine's own form")
    command.add_argument("run", help="run id of the backbone, for example van_tiny-lska-k23-s0")
    command.add_argument("--task", required=True, help="for example detection/retinanet")
    configured(command)
    command.set_defaults(command=_mmconfig, heavy=True)


def _mmconfig(arguments: Arguments) -> None:
    job = FineTuningJob(load(arguments), arguments.task, Run.parse(arguments.run))
    from lska.openmmlab.configs import configuration
    from lska.openmmlab.launch import open_splits

    with contextlib.redirect_stdout(sys.stderr):
        settings = configuration(job, open_splits(job, "train", "val"))
    say(settings.pretty_text)


def _add_properties(commands: Commands) -> None:
    command = commands.add_parser("properties", help="what attention designs can do (Table I), measured on the modules")
    configured(command)
    command.set_defaults(command=_properties, heavy=True)


def _properties(arguments: Arguments) -> None:
    config = load(arguments)
    from lska.evaluate.complexity import measure_properties

    measure_properties(config)


def _add_notebook(commands: Commands) -> None:
    command = commands.add_parser("notebook", help="make one table or figure through its notebook")
    command.add_argument("target", help="for example table_03 or figure_01")
    command.add_argument("--log", type=as_path, required=True, help="where the notebook is executed, kept on failure")
    command.add_argument("--output", type=as_path, required=True, help="where it is copied on success")
    configured(command)
    command.set_defaults(command=_notebook)


def _notebook(arguments: Arguments) -> None:
    load(arguments)
    from lska.notebook import execute_target

    execute_target(arguments.target, arguments.config, arguments.set, log=arguments.log, output=arguments.output)


def _add_lab(commands: Commands) -> None:
    command = commands.add_parser("lab", help="open the executed notebooks of a scale in JupyterLab")
    configured(command)
    command.add_argument("rest", nargs=argparse.REMAINDER, metavar="-- OPTION", help="options of JupyterLab")
    command.set_defaults(command=_lab)


def _lab(arguments: Arguments) -> None:
    config = load(arguments)
    from lska.report.lab import open_notebooks

    open_notebooks(config, arguments.config, [word for word in arguments.rest if word != "--"])


def _add_summary(commands: Commands) -> None:
    command = commands.add_parser("summary", help="say where the tables and figures of a scale are")
    command.add_argument("--write", action="store_true", help="write what DVC compares between commits instead")
    configured(command)
    command.set_defaults(command=_summary)


def _summary(arguments: Arguments) -> None:
    config = load(arguments)
    if arguments.write:
        from lska.summaries.contents import write

        say(*write(config))
        return
    from lska.report.terminal_summary import summary

    say(summary(config))


def _add_warm(commands: Commands) -> None:
    command = commands.add_parser("warm", help="run a command whose many `lska` jobs share one start-up")
    command.add_argument("rest", nargs=argparse.REMAINDER, metavar="COMMAND", help="for example snakemake --cores 2")
    command.set_defaults(command=_warm)


def _warm(arguments: Arguments) -> int:
    if not arguments.rest:
        raise ValueError("lska warm needs a command, for example: lska warm snakemake --cores 2")
    return run_beside_server(arguments.rest)
