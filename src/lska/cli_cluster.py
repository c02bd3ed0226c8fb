"""`lska gpus`: start a command on GPUs that no other job has."""

from __future__ import annotations

import argparse
import os

from lska.cli_options import Arguments, Commands
from lska.gpus import take


def add_gpus(commands: Commands) -> None:
    """Add the command."""
    command = commands.add_parser("gpus", help="run a command on GPUs of this machine that no other job has")
    command.add_argument("count", type=int, help="how many")
    command.add_argument("rest", nargs=argparse.REMAINDER, metavar="COMMAND", help="for example torchrun ...")
    command.set_defaults(command=_gpus)


def _gpus(arguments: Arguments) -> None:
    if arguments.count < 0 or not arguments.rest:
        raise ValueError("lska gpus needs a number from 0 up and a command, for example: lska gpus 2 torchrun ...")
    take(arguments.count)
    os.execvp(arguments.rest[0], arguments.rest)
