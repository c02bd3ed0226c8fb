"""Tables as other programs read them: Markdown of code hosts, LaTeX, HTML, CSV; and what stands beside the numbers."""

from __future__ import annotations

import io
import re
import shutil
import subprocess
from pathlib import Path

import pandas
import pytest
from bs4 import BeautifulSoup
from markdown_it import MarkdownIt
from syrupy.assertion import SnapshotAssertion
from table_helpers import DENSE, PAPER, TOP1, Scale, demo, entry, filled, one_cell, put

from lska.models.runs import ATTENTIONS, Run
from lska.settings.scale import load
from lska.tables import table_summary
from lska.tables.cell_text import caption, cell_text, facts, headings, legend, shown
from lska.tables.collect import Table, collect
from lska.tables.specs import TABLE_FORMATS, TARGETS, ColumnSpec, RowSpec, TableSpec, outputs
from lska.tables.table_formats import (
    CSV_COLUMNS,
    WRITERS,
    build_table,
    escape_latex,
    escape_markdown,
    table_panels,
    to_csv,
    to_html,
    to_latex,
    to_markdown,
    write_table,
)

PROJECT = PAPER.parent
AWKWARD = "[n]: a_b_c *d* <e> |f| `g` ~~h~~ [[i] o](j) ![p](q) [r][n] [n] &amp; $k$ \\l #m"
TABLES = [target for target in TARGETS if target.startswith("table")]


def small_table(tmp_path: Path) -> Table:
    """A table in which every state occurs."""
    columns = (
        ColumnSpec("Params", "complexity", "params", unit="M", factor=1e-6, measured_on="architecture",
                   tolerance="printed or cut"),
        TOP1,
    )  # fmt: skip
    rows = (
        RowSpec("VAN-{attention} k={kernel}", models=("van_tiny",), attentions=("lka", "lska"), kernels=(7, 23)),
        RowSpec("Net_5% & <b>|x|", columns=("top-1",)),
    )
    scale = demo(Path(), caption="demo scale: 100% generated_data & more")
    for name, value in {"lka-k7": 4016200, "lka-k23": 4105800, "lska-k7": 4190000, "lska-k23": 4350000}.items():
        put(scale, "complexity", f"van_tiny-{name}-s0", {"params": entry(value, "1")})
        top1 = {"top1": entry(70.25, "%", standard_error=1.5)}
        put(scale, "classification", f"van_tiny-{name}-s0", top1, "shapes")
    lines = [
        "table,row,column,value,unit,source,detail",
        "t,VAN-LKA k=7,Params,4.0,M,printed,",
        "t,VAN-LKA k=7,top-1,74.0,%,printed,",
        "t,VAN-LKA k=23,Params,4.1,M,other-paper:VAN,",
        "t,reference: B0,top-1,75.4,%,other-paper:VAN,",
        "t,VAN-LSKA k=7,Params,4.1,M,computed,",
        "t,VAN-LSKA k=23,Params,4.1,M,derived,",
    ]
    (tmp_path / "table_03.csv").write_text("\n".join(lines) + "\n")
    spec = TableSpec("table_03", "A title", "model", rows, columns, "Prose.", "table_03")
    return collect(spec, scale, tmp_path, scale.results)


def awkward(tmp_path: Path) -> Table:
    """A table in which every text is full of characters with a meaning in some format."""
    columns = (ColumnSpec(f"p {AWKWARD}", "speed", "x", unit="%"), ColumnSpec("second", "speed", "x", unit="%"))
    rows = (RowSpec(AWKWARD, remarks={columns[0].label: AWKWARD}),)
    spec = TableSpec("table_03", AWKWARD, AWKWARD, rows, columns, "", "table_03", notes=(AWKWARD,))
    (tmp_path / "table_03.csv").write_text("table,row,column,value,unit,source,detail\n")
    return collect(spec, Scale(tmp_path, caption=AWKWARD), tmp_path, tmp_path)


# What is written.


def test_every_state_in_every_format(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, snapshot: SnapshotAssertion
) -> None:
    monkeypatch.chdir(tmp_path)
    table = small_table(tmp_path)
    for suffix, render in WRITERS.items():
        write_table(table, tmp_path / f"t{suffix}")
        assert (tmp_path / f"t{suffix}").read_text(encoding="utf-8") == render(table) == snapshot(name=suffix)
    with pytest.raises(ValueError, match=r"t\.docx.*\.md, \.tex, \.csv, \.html"):
        write_table(table, tmp_path / "t.docx")
    notebook = [table_summary.figure_numbers(table)]
    functions = ("state_counts", "not_run", "printed", "provenance", "further")
    notebook += [getattr(table_summary, name)(table) for name in functions]
    assert "\n\n---\n\n".join(notebook) == snapshot(name="notebook")


def test_notebooks_say_where_there_is_nothing_to_show(tmp_path: Path, every: dict[str, Table]) -> None:
    assert table_summary.figure_numbers(every["figure_s1"]).startswith("570 rows, in the CSV file beside the figure.")
    assert table_summary.not_run(every["table_02"]).startswith("Nothing: every network")
    assert table_summary.printed(every["table_07"]).startswith("None is known")
    assert table_summary.provenance(every["figure_02"]).startswith("The numbers come from the code itself")
    assert "No cell deviates." in table_summary.state_counts(every["table_02"])
    assert table_summary.further(every["figure_02"]) == table_summary.FURTHER


def test_committed_tables_of_the_small_scale_are_current(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(PROJECT)
    scale = load([Path("config/small.yaml")])
    outdated = []
    for target in TARGETS:
        committed = [path for path in outputs(target, scale.results) if path.suffix in TABLE_FORMATS]
        build_table(target, scale, [tmp_path / path.name for path in committed])
        outdated += [path for path in committed if path.read_bytes() != (tmp_path / path.name).read_bytes()]
    assert outdated == [], "snakemake --configfile config/small.yaml --cores 2 -- all_notebooks"


# Markdown.


def test_a_code_host_reads_the_table_that_was_written(tmp_path: Path, every: dict[str, Table]) -> None:
    for table in (*every.values(), awkward(tmp_path)):
        html = MarkdownIt("commonmark").enable(["table", "strikethrough"]).render(to_markdown(table))
        page = BeautifulSoup(html, "html.parser")
        assert [element.name for element in page.find_all(recursive=False)] == ["p", "table", "ul"]
        # Nothing but the caption means anything to Markdown.
        known = {"p", "strong", "table", "thead", "tbody", "tr", "th", "td", "ul", "li"}
        assert {element.name for element in page.find_all()} == known
        assert page.p.strong.text == page.p.text == caption(table)
        expected = [[row.label, *(str(cell_text(cell)) for cell in row.cells)] for row in table.rows]
        assert [[cell.text for cell in row(["th", "td"])] for row in page("tr")] == [headings(table), *expected]
        assert [item.text for item in page("li")] == legend(table)
    assert "\\$k\\$" in to_markdown(awkward(tmp_path))  # mathematics, on some hosts
    assert escape_markdown("mean [0.5, 0.5] ± 0.1 [3] (4)") == "mean [0.5, 0.5] ± 0.1 [3] (4)"


def test_a_caption_says_where_curves_are_highest_and_never_more_than_the_errors_do(tmp_path: Path) -> None:
    measured = {"lka": {7: (70.0, 0.6), 23: (71.6, 0.6), 53: (71.9, 0.6)}, "lska": {7: (73.0, 0.3), 23: (72.1, 0.3)}}
    runs = tuple(Run("van_tiny", attention, kernel, 0) for attention, sizes in measured.items() for kernel in sizes)
    scale = Scale(tmp_path, (*runs, Run("van_tiny", "lska_trivial", 7, 0)))
    for run in scale.runs:
        value, error = measured.get(run.attention, {}).get(run.kernel, (99.0, 0.1))
        put(scale, "classification", run, {"top1": entry(value, "%", standard_error=error)}, "shapes")
    (tmp_path / "t.csv").write_text("table,row,column,value,unit,source,detail\n")
    rows = (RowSpec("{attention} k={kernel}", models=("van_tiny",), attentions=tuple(ATTENTIONS), kernels=(7, 23, 53)),)
    spec = TableSpec("table_17", "T", "model", rows, (TOP1,), "", "t", trend=("top-1",))
    # 1.9 and 0.9 are more than twice the errors of the differences, 1.70 and 0.85; 0.3 is not.
    expected = "Lower by more than two standard errors of the difference: only {}LSKA at k=23."
    *_, highest, lower = facts(collect(spec, scale, tmp_path, tmp_path))
    assert (highest, lower) == ("Highest top-1: LKA at k=53; LSKA at k=7.", expected.format("LKA at k=7; "))
    put(scale, "classification", runs[0], {"top1": entry(70.3, "%", standard_error=0.6)}, "shapes")
    put(scale, "classification", runs[1], {"top1": entry(71.9, "%", standard_error=0.6)}, "shapes")
    *_, highest, lower = facts(collect(spec, scale, tmp_path, tmp_path))
    assert (highest, lower) == ("Highest top-1: LKA at k=23, 53; LSKA at k=7.", expected.format(""))
    # A second seed of LKA k=7, 1.6 points from the first, shows how trainings differ: 0.9 is too little then.
    scale = Scale(tmp_path, (*scale.runs, runs[0].with_seed(1)))
    put(scale, "classification", scale.runs[-1], {"top1": entry(71.9, "%", standard_error=0.6)}, "shapes")
    *_, lower = facts(collect(spec, scale, tmp_path, tmp_path))
    assert lower == "Lower by more than two standard errors of the difference: none."


# HTML.


def test_a_page_says_in_html_what_the_table_says(tmp_path: Path, every: dict[str, Table]) -> None:
    for table in (*(every[target] for target in TABLES), awkward(tmp_path)):
        text = to_html(table, page=True)
        page = BeautifulSoup(text, "html.parser")
        assert text.startswith("<!DOCTYPE html>\n<html") and page.style.parent.name == "head"
        assert [cell.text.strip() for cell in page("td")] == [str(cell_text(cell)) for cell in table.cells]
        assert [head.text for head in page("th", scope="row")] == [row.label for row in table.rows]
        assert [head.text for head in page("th", scope="col")] == headings(table)
        assert [element.text for element in page("li")] == legend(table)
        assert page.figcaption.text == caption(table)
        for cell, shown_cell in zip(table.cells, page("td"), strict=True):
            title = shown_cell["title"].split("; ")
            assert title[0] == cell.state and (title[1] if cell.note else "").startswith(cell.note.split("; ")[0])
            assert cell.low is None or f"interval {cell.low:.{cell.digits}f} to {cell.high:.{cell.digits}f}" in title


# LaTeX.


def test_latex_escapes_everything() -> None:
    assert escape_latex(r"\a_b&c%d$e#f{g}h~i^j<k>") == (
        r"\textbackslash{}a\_b\&c\%d\$e\#f\{g\}h\textasciitilde{}i\textasciicircum{}j$<$k$>$"
    )
    assert escape_latex("−0.5 ± 0.1 ✓ᶜ ✗ ○ (4.1†, 4.2‡, 4.3§) a|b → ≤ ≥ × – — … µ").isascii()


def test_panels_show_every_cell_that_a_row_has_once_and_long_tables_go_on(every: dict[str, Table]) -> None:
    for table in (every[target] for target in TABLES):
        parts, columns = table_panels(table), range(len(table.spec.columns))
        shown_cells = {(row, column) for panel in parts for row in panel.rows for column in panel.columns}
        assert len(shown_cells) == sum(len(panel.rows) * len(panel.columns) for panel in parts)
        left_out = {(row, column) for row in range(len(table.rows)) for column in columns} - shown_cells
        assert {str(cell_text(table.rows[row].cells[column])) for row, column in left_out} <= {"n/a"}
        assert [column for panel in parts for column in panel.columns] == list(columns)
    assert to_latex(every["table_08"]).count(r"\begin{tabular}{") == 1
    text = to_latex(every["table_17"])
    assert text.count(r"\begin{table}") == 2
    assert text.count(r"\addtocounter{table}{-1}\caption[(continued)]{(continued)}") == 1
    assert text.count("Ours, with the paper's value in brackets.") == text.count(r"\label{tab:table_17}") == 1


def many(tmp_path: Path) -> Scale:
    """Several seeds, controls, and kernel sizes that the paper lacks: the longest rows and tables."""
    runs = [Run("van_tiny", a, k, s) for a in ATTENTIONS for k in (7, 9, 23, 41, 53) for s in (0, 1, 2)]
    runs += [Run(model, a, 23, s) for model in ("van_small", "van_base") for a in ("lka", "lska") for s in (0, 1, 2)]
    return Scale(tmp_path / "results" / "demo", tuple(runs), fine_tuned=DENSE)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="needs pdflatex (texlive-latex-recommended)")
def test_pdflatex_sets_all_tables_without_complaint(tmp_path: Path) -> None:
    scale = many(tmp_path)
    for target in TABLES:
        (tmp_path / f"{target}.tex").write_text(to_latex(filled(target, scale)), encoding="utf-8")
    packages = (tmp_path / "table_01.tex").read_text().splitlines()[1].removeprefix("% ")
    body = "\n".join(rf"\input{{{target}}}\clearpage" for target in TABLES)
    body += r"\sloppy\listoftables See \ref{tab:table_01}, \ref{tab:table_17}."
    source = "\n".join([r"\documentclass{article}", packages, r"\begin{document}", body, r"\end{document}"])
    (tmp_path / "all.tex").write_text(source, encoding="utf-8")
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "all.tex"]
    for _ in range(2):  # because of references
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, check=False, timeout=120)
    log = (tmp_path / "all.log").read_text(encoding="utf-8", errors="replace")
    assert done.returncode == 0, log[-3000:]
    bad = r"^(?:!|Overfull|.*(?:Float too large|Missing character|undefined|multiply defined)).*"
    assert re.findall(bad, log, re.MULTILINE) == []
    pdf = (tmp_path / "all.pdf").read_bytes()
    assert b"/Type3" not in pdf  # bitmaps: a sign was taken from a font that has no outlines
    assert pdf.startswith(b"%PDF")


# CSV.


def read(table: Table) -> pandas.DataFrame:
    return pandas.read_csv(io.StringIO(to_csv(table)), dtype={"paper": str, "seeds": str})


def test_csv_is_tidy_and_typed(every: dict[str, Table]) -> None:
    text = (PROJECT / "docs" / "extend.md").read_text(encoding="utf-8")
    assert [name for name in CSV_COLUMNS if f"`{name}`" not in text] == []
    for table in every.values():
        frame = read(table)
        assert tuple(frame.columns) == CSV_COLUMNS
        assert not frame.duplicated(["row", "column"]).any() and len(frame) == len(table.cells)
        assert frame[["table", "scale", "row", "column", "state", "n"]].notna().all().all()
        for name in ("deviation", "standard_error", "low", "high", "kernel", "n"):
            assert pandas.api.types.is_numeric_dtype(frame[name]), name
        for line, cell in zip(frame.itertuples(), table.cells, strict=True):
            # Every digit is written; pandas' fast reader may miss the last bit.
            if isinstance(cell.value, float):
                assert float(line.value) == pytest.approx(cell.value, rel=1e-15)
            else:
                assert line.value == cell.value or pandas.isna(line.value) and cell.value is None
            assert (line.paper if isinstance(line.paper, str) else None) == cell.paper


# Captions, legends and numbers.


def test_captions_state_scale_sizes_data_and_conditions(every: dict[str, Table], snapshot: SnapshotAssertion) -> None:
    assert {target: caption(every[target]) for target in TARGETS} == snapshot


def test_the_number_of_seeds_stands_beside_a_mean_and_in_the_legend(tmp_path: Path, every: dict[str, Table]) -> None:
    def seeds_of(**values: tuple[float, ...]) -> Table:
        """Two networks of Table III with one seed per value."""
        runs = tuple(Run("van_tiny", name, 23, seed) for name, given in values.items() for seed in range(len(given)))
        scale = Scale(tmp_path, runs)
        for run in runs:
            top1 = entry(values[run.attention][run.seed], "%", n=500, standard_error=1.5)
            put(scale, "classification", run, {"top1": top1}, "shapes")
        row = RowSpec("VAN-{attention}", models=("van_tiny",), attentions=("lka", "lska"), kernels=(23,))
        return collect(one_cell(tmp_path, TOP1, "74.7", row=row), scale, tmp_path, tmp_path)

    several, one = "[n]: mean and, after ±, sample standard deviation over n seeds.", "standard error over the images."
    both = seeds_of(lka=(70.0, 71.0, 75.0), lska=(71.0,))
    assert [str(cell_text(cell)) for cell in both.cells] == ["72.0 ± 2.6 [3] ○ (74.7)", "71.0 ± 1.5 ○ (?)"]
    assert f"{several} Without [n]: one seed; ±: {one}" in legend(both)
    assert list(read(both)["seeds"]) == ["0;1;2", "0"] and list(read(both)["n"]) == [3, 1]
    alone = seeds_of(lka=(-0.25,), lska=(71.0,))
    assert f"One seed per network. ±: {one}" in legend(alone)
    assert str(cell_text(alone.cells[0])).startswith("−0.2 ± 1.5") and read(alone)["value"][0] == -0.25
    assert several in legend(seeds_of(lka=(70.0, 71.0), lska=(71.0, 72.0)))
    assert not any("seed" in line for line in legend(every["table_02"]))


def test_a_number_is_shown_with_fixed_decimals_or_significant_digits() -> None:
    values = (4029000, 0.0001234567, 76800, 2.0, -0.52948)
    assert [shown(value) for value in values] == ["4,029,000", "0.0001235", "76,800", "2", "-0.5295"]
    assert (shown(0.52948, 2), shown(72, decimals=1, spread=2.646), shown(0.5, decimals=0)) == (
        "0.53", "72.0 ± 2.6", "0",
    )  # fmt: skip
