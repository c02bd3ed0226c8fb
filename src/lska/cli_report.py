"""`lska report`: the site of a scale, and the notebooks that a rule renders for it."""

from __future__ import annotations

from lska.cli_options import Arguments, Commands, configured, load, say


def add_report(commands: Commands) -> None:
    """Add the command."""
    command = commands.add_parser("report", help="build the site of a scale, results/<scale>/report/index.html")
    command.add_argument("part", nargs="?", choices=("site", "notebooks"), default="site",
                         help="`notebooks` renders the executed ones for the site (default: site)")  # fmt: skip
    configured(command)
    command.set_defaults(command=_report)


def _report(arguments: Arguments) -> None:
    config = load(arguments)
    from lska.report.site import build_site, render_notebooks

    if arguments.part == "site":
        say(build_site(config))
    else:
        say(*render_notebooks(config))
