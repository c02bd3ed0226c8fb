"""`lska plan`: what Snakemake would run, why, and what it would cost."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
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
    command.add_argument("--json", action="store_true", help="print JSON")
    command.add_argument("--schema", action="store_true", help="print the JSON schema of what --json prints, and end")
    configured(command)
    command.add_argument("--configfile", nargs="+", type=as_path, dest="config", default=argparse.SUPPRESS,
                         metavar="FILE", help="the same as --config")  # fmt: skip
    command.set_defaults(command=_plan)


def _plan(arguments: Arguments) -> None:
    from lska.pipeline.dry_run import DryRun
    from lska.pipeline.plan_report import make_report, render_plan, report_schema

    if arguments.schema:
        say(json.dumps(report_schema(), indent=2))
        return
    load(arguments)
    asked = DryRun(arguments.config, arguments.set, arguments.targets, arguments.forcerun)
    means = (arguments.gpus, arguments.cores, arguments.throughput, arguments.hardware)
    report = make_report(asked, Path.cwd(), *means)
    if arguments.json:
        say(json.dumps(asdict(report), indent=2, sort_keys=True))
    else:
        say(render_plan(report, arguments.jobs))
