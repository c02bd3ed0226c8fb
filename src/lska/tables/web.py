"""A filled table as HTML: a fragment for notebooks and other pages, and a page of its own."""

from __future__ import annotations

import html

from lska.tables.collect import Cell, Table, TableRow
from lska.tables.tidy import place
from lska.tables.words import caption, cell_text, headings, legend

STYLE = (
    ".lska{font:14px/1.45 system-ui,sans-serif;margin:1em 0;max-width:100%}"
    ".lska .scroll{overflow-x:auto}"
    ".lska table{border-collapse:collapse;border-top:2px solid;border-bottom:2px solid}"
    ".lska td{font-variant-numeric:tabular-nums}"
    ".lska th,.lska td{padding:.2em .8em;text-align:right;white-space:nowrap}"
    ".lska thead th{border-bottom:1px solid;vertical-align:bottom;white-space:normal}"
    ".lska th:first-child{text-align:left;font-weight:normal}"
    "@media(max-width:40em){.lska tbody th{white-space:normal;min-width:8em}}"
    ".lska .paper{opacity:.75}.lska .mark{font-weight:bold}"
    ".lska .reproduced .mark{color:#00875a}.lska .deviates .mark{color:#d1480f}"
    ".lska .not-run,.lska .does-not-apply{opacity:.65}.lska tr.reference th,.lska tr.control th{font-style:italic}"
    ".lska figcaption{margin:.4em 0;max-width:60em;text-align:left}"
    ".lska ul{font-size:.9em;list-style:none;padding:0;max-width:66em}"
)
"""Colours of marks have contrast on white and on black; everything else takes those of the page around it."""

PAGE = """\
<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>:root{{color-scheme:light dark}}body{{margin:1em}}{style}</style>
</head>
<body>
{table}</body>
</html>
"""


def to_page(table: Table) -> str:
    """A page that opens from the file system, in the reader's light or dark mode."""
    title = html.escape(f"{table.spec.number}. {table.spec.title}")
    return PAGE.format(title=title, style=STYLE, table=to_html(table, styled=False))


def to_html(table: Table, styled: bool = True) -> str:
    """A self-contained `<figure>`; each cell's title names its state, its note and the metric files it came from.

    Args:
        styled: whether it brings its style; a page that shows several tables needs `STYLE` once, in its head.
    """
    name = table.spec.target
    head = "".join(f'<th scope="col">{html.escape(text)}</th>' for text in headings(table))
    rows = "\n".join(map(_row, table.rows))
    notes = "".join(f"<li>{html.escape(line)}</li>" for line in legend(table))
    style = f"<style>{STYLE}</style>\n" if styled else ""
    return (
        f'{style}<figure class="lska" id="{name}">\n'
        f'<figcaption id="{name}-caption">{html.escape(caption(table))}</figcaption>\n'
        f'<div class="scroll" tabindex="0" role="region" aria-labelledby="{name}-caption">'
        f'<table aria-labelledby="{name}-caption">\n<thead><tr>{head}</tr></thead>\n<tbody>\n{rows}\n</tbody>\n'
        f"</table></div>\n<ul>{notes}</ul>\n</figure>\n"
    )


def _row(row: TableRow) -> str:
    kind = ' class="reference"' if row.source is None else ' class="control"' if row.source.spec.control else ""
    return f'<tr{kind}><th scope="row">{html.escape(row.label)}</th>{"".join(map(_cell, row.cells))}</tr>'


def _cell(cell: Cell) -> str:
    text = cell_text(cell)
    title = "; ".join(part for part in (str(cell.state), cell.note, _interval(cell), *map(place, cell.files)) if part)
    mark = f' <span class="mark">{text.mark}</span>' if text.mark else ""
    paper = f' <span class="paper">({html.escape(text.paper)})</span>' if text.paper else ""
    kind = str(cell.state).replace(" ", "-")
    return f'<td class="{kind}" title="{html.escape(title)}">{html.escape(text.ours)}{mark}{paper}</td>'


def _interval(cell: Cell) -> str:
    """The interval that the measurement of one run gives."""
    if cell.low is None or cell.high is None:
        return ""
    return f"interval {cell.low:.{cell.digits}f} to {cell.high:.{cell.digits}f}"
