"""`lska explain` and `lska verify`: where numbers come from, and whether they still do."""

from __future__ import annotations

import json
from collections.abc import Iterable

from lska.cli_options import Arguments, Commands, configured, load, say


def add_explain(commands: Commands) -> None:
    """Add the command."""
    command = commands.add_parser("explain", help="print the chain of files behind a cell of a table or figure")
    command.add_argument("target", help="for example table_03 or figure_01")
    command.add_argument("--cell", nargs=2, metavar=("ROW", "COLUMN"),
                         help="labels of the cell; without, all cells are listed")  # fmt: skip
    command.add_argument("--json", action="store_true", help="for scripts")
    configured(command)
    command.set_defaults(command=_explain)


def _explain(arguments: Arguments) -> None:
    config = load(arguments)
    from lska import chain, verify

    table = chain.filled(arguments.target, config)
    if arguments.cell is None:
        cells = [{"row": cell.row, "column": cell.column, "state": str(cell.state)} for cell in table.cells]
        say(json.dumps(cells, indent=2) if arguments.json else "\n".join(chain.listing(table)))
        return
    cell = chain.choose(table, *arguments.cell)
    found, broken = chain.of(table, cell, config), verify.first_broken(table, cell, config)
    if arguments.json:
        content = chain.to_json(found) | {"first_broken": None if broken is None else verify.finding_json(broken)}
        say(json.dumps(content, indent=2))
        return
    say(chain.to_text(found))
    say("Every link holds." if broken is None else f"BROKEN: {broken.file.as_posix()}: {broken.place} {broken.text}")


def add_verify(commands: Commands) -> None:
    """Add the command."""
    command = commands.add_parser("verify", help="check every chain of a scale, offline; exit code 1: one is broken")
    command.add_argument("--strict", action="store_true", help="fail for outdated and unsealed files too")
    command.add_argument("--drawings", action="store_true", help="draw the figures anew too and compare them; slow")
    command.add_argument("--recount", action="store_true", help="count parameters and operations anew too; slow")
    command.add_argument("--json", action="store_true", help="for scripts")
    configured(command)
    command.set_defaults(command=_verify)


def _verify(arguments: Arguments) -> int:
    config = load(arguments)
    from lska import verify

    report = verify.verify(config, progress=_bar, drawings=arguments.drawings, recount=arguments.recount)
    if arguments.json:
        say(json.dumps(verify.to_json(report), indent=2))
    else:
        say(verify.to_text(report))
    return 0 if report.sound(arguments.strict) else 1


def _bar(targets: Iterable[str]) -> Iterable[str]:
    from tqdm import tqdm

    return tqdm(targets, unit="target", leave=False, disable=None)
