"""`lska gpus` and `lska supervise`: run a command on GPUs of its own; run Snakemake and watch it."""

from __future__ import annotations

import argparse
import os

from lska.cli_options import COUNT_OR_NONE, MINUTES, SECONDS, Arguments, Commands
from lska.train.gpus import take


def add_gpus(commands: Commands) -> None:
    """Add the command."""
    command = commands.add_parser("gpus", help="run a command on GPUs of this machine that no other job has")
    command.add_argument("count", type=COUNT_OR_NONE, help="how many")
    command.add_argument("rest", nargs=argparse.REMAINDER, metavar="COMMAND", help="for example torchrun ...")
    command.set_defaults(command=_gpus)


def _gpus(arguments: Arguments) -> None:
    if not arguments.rest:
        raise ValueError("lska gpus needs a number from 0 up and a command, for example: lska gpus 2 torchrun ...")
    take(arguments.count)
    os.execvp(arguments.rest[0], arguments.rest)


def add_supervise(commands: Commands) -> None:
    """Add the command."""
    command = commands.add_parser("supervise", help="run Snakemake on a cluster and start it again where it has to be")
    command.add_argument("--restarts", type=COUNT_OR_NONE, default=10,
                         help="how often it is started again (default: 10)")  # fmt: skip
    command.add_argument("--poll-seconds", type=SECONDS, default=60.0, help="time between two looks at the queue")
    command.add_argument("--quiet-minutes", type=MINUTES, default=15.0,
                         help="how long Snakemake may wait without any job in the queue (default: 15)")  # fmt: skip
    command.add_argument("rest", nargs=argparse.REMAINDER, metavar="snakemake ...", help="the call of Snakemake")
    command.set_defaults(command=_supervise)


def _supervise(arguments: Arguments) -> int:
    from lska.pipeline.supervise import Patience, supervise

    patience = Patience(arguments.restarts, arguments.poll_seconds, 60 * arguments.quiet_minutes)
    return supervise(arguments.rest, patience)
