"""`lska plan`: what Snakemake would run, why, and what it would cost."""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path

from lska.cli_options import COUNT, Arguments, Commands, as_path, configured, load, say


def add_plan(commands: Commands) -> None:
    """Add the command."""
    command = commands.add_parser("plan", help="say what Snakemake would run, why, and what it would cost")
    command.add_argument("targets", nargs="*", metavar="TARGET",
                         help="what Snakemake would be asked for, for example table_03 (default: all)")  # fmt: skip
    command.add_argument("--gpus", type=COUNT, help="GPUs for the wall time (default: as the largest job asks)")
    command.add_argument("--cores", type=COUNT,
                         help="cores for the wall time (default: this machine's where no GPU is used)")  # fmt: skip
    command.add_argument("--throughput", nargs="+", type=as_path, default=[], metavar="FILE",
                         help="your measurements: tables (config/throughput), metric files, sidecars")  # fmt: skip
    command.add_argument("--hardware", help="use only measurements of hardware with this in its name")
    command.add_argument("--forcerun", nargs="+", default=[], metavar="RULE", help="rules or files to make again")
    command.add_argument("--jobs", action="store_true", help="also one line per job, with its reason")
    command.add_argument("--json", action="store_true", help="print JSON (src/lska/schemas/plan.schema.json)")
    configured(command)
    command.add_argument("--configfile", nargs="+", type=as_path, dest="config", default=argparse.SUPPRESS,
                         metavar="FILE", help="the same as --config")  # fmt: skip
    command.set_defaults(command=_plan)


def _plan(arguments: Arguments) -> None:
    config = load(arguments)
    from lska.planning.dag import Request
    from lska.planning.document import Means, make, uses_gpus
    from lska.planning.text import render

    cores = arguments.cores
    if cores is None and not uses_gpus(config):
        cores = os.cpu_count()
    request = Request(arguments.config, arguments.set, arguments.targets, cores, arguments.forcerun)
    means = Means(arguments.gpus, cores, arguments.throughput, arguments.hardware)
    document = make(request, means, Path.cwd())
    if arguments.json:
        say(json.dumps(document, indent=2, sort_keys=True))
    else:
        say(render(document, arguments.jobs))
