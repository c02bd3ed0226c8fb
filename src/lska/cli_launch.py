"""`lska launch`: one training in several processes, on one node or several."""

from __future__ import annotations

import argparse
import os

from lska.cli_options import COUNT, PROCESSES, Arguments, Commands


def add_launch(commands: Commands) -> None:
    """Add the command."""
    command = commands.add_parser("launch", help="start a training in several processes, as torchrun does")
    command.add_argument("--processes", type=PROCESSES, required=True, help="on each node, one per GPU")
    command.add_argument("--nodes", type=COUNT, default=1, help="nodes of the Slurm step in which this runs on each")
    command.add_argument("rest", nargs=argparse.REMAINDER, metavar="-- train RUN ...", help="the command of lska")
    command.set_defaults(command=_launch)


def _launch(arguments: Arguments) -> int:
    from lska.train.launcher import launch, of_slurm

    words = [word for word in arguments.rest if word != "--"]
    if words[:1] != ["train"]:
        found = " ".join(words) or "nothing"
        raise ValueError(f"lska launch starts trainings: expected `-- train RUN ...`, found {found}")
    return launch(words, arguments.processes, of_slurm(arguments.nodes, os.environ) if arguments.nodes > 1 else None)
