"""`lska report`: the site of a scale, and the two parts that rules make for it."""

from __future__ import annotations

from lska.cli_options import Arguments, Commands, configured, load, say

PARTS = ("site", "notebooks", "rules")


def add_report(commands: Commands) -> None:
    """Add the command."""
    command = commands.add_parser("report", help="build the site of a scale, results/<scale>/report/index.html")
    command.add_argument("part", nargs="?", choices=PARTS, default="site",
                         help="`notebooks` renders the executed ones, `rules` asks Snakemake for its graph of rules; "
                         "the site shows both (default: site)")  # fmt: skip
    configured(command)
    command.set_defaults(command=_report)


def _report(arguments: Arguments) -> None:
    config = load(arguments)
    from lska import report

    if arguments.part == "site":
        say(report.build(config))
    elif arguments.part == "notebooks":
        from lska.report.notebooks import render_all

        say(*render_all(config))
    else:
        from lska.report.rules import write_graph

        say(write_graph(config, arguments.config, arguments.set))
