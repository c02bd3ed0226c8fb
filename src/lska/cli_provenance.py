"""`lska explain` and `lska verify`: where numbers come from, and whether they still do."""

from __future__ import annotations

import json

from lska.cli_options import Arguments, Commands, configured, load


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
    from lska import chain

    table = chain.filled(arguments.target, config)
    if arguments.cell is None:
        cells = [{"row": cell.row, "column": cell.column, "state": str(cell.state)} for cell in table.cells]
        print(json.dumps(cells, indent=2, ensure_ascii=False) if arguments.json else "\n".join(chain.listing(table)))
        return
    found = chain.of(table, chain.choose(table, *arguments.cell), config)
    print(json.dumps(chain.to_json(found), indent=2, ensure_ascii=False) if arguments.json else chain.to_text(found))
