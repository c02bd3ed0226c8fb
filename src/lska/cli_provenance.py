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
    from lska.audit.explain import choose_cell, explain_cell, filled_table, list_cells
    from lska.audit.links import ScaleFiles
    from lska.audit.verify import first_broken

    table = filled_table(arguments.target, config)
    if arguments.cell is None:
        cells = [{"row": cell.row, "column": cell.column, "state": str(cell.state)} for cell in table.cells]
        say(json.dumps(cells, indent=2) if arguments.json else "\n".join(list_cells(table)))
        return
    cell, files = choose_cell(table, *arguments.cell), ScaleFiles(config)
    found, broken = explain_cell(table, cell, files), first_broken(table, cell, files)
    if arguments.json:
        say(json.dumps(found.to_json() | {"first_broken": None if broken is None else broken.to_json()}, indent=2))
        return
    say(found.to_text())
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
    from lska.audit.verify import verify_scale

    found = verify_scale(config, progress=_bar, drawings=arguments.drawings, recount=arguments.recount)
    say(json.dumps(found.to_json(), indent=2) if arguments.json else found.to_text())
    return 0 if found.sound(arguments.strict) else 1


def _bar(targets: Iterable[str]) -> Iterable[str]:
    from tqdm import tqdm

    return tqdm(targets, unit="target", leave=False, disable=None)
