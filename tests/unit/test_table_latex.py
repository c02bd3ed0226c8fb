"""Tables in LaTeX: what is stacked and divided, and that pdflatex sets every table on its page."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from table_helpers import DENSE, PAPER, Scale, demo, put_required

from lska.runs import ATTENTIONS, Run
from lska.tables.cell_text import cell_text
from lska.tables.collect import Table, collect
from lska.tables.latex import Panel, panels
from lska.tables.specs import TARGETS, load_spec
from lska.tables.table_formats import escape_latex, to_latex

TABLES = [target for target in TARGETS if target.startswith("table")]
BAD = re.compile(r"^(!|Overfull|.*(?:Float too large|Missing character|undefined|multiply defined)).*", re.MULTILINE)


def filled(target: str, scale: Scale) -> Table:
    put_required(target, scale)
    return collect(load_spec(target), scale, PAPER, scale.results)


def many(tmp_path: Path) -> Scale:
    """Several seeds, controls, and kernel sizes that the paper lacks: the longest rows and tables."""
    runs = [Run("van_tiny", a, k, s) for a in ATTENTIONS for k in (7, 9, 23, 41, 53) for s in (0, 1, 2)]
    runs += [Run(model, a, 23, s) for model in ("van_small", "van_base") for a in ("lka", "lska") for s in (0, 1, 2)]
    return Scale(tmp_path / "results" / "demo", tuple(runs), fine_tuned=DENSE)


def shown_columns(table: Table, parts: list[Panel]) -> set[tuple[int, int]]:
    return {(row, column) for panel in parts for row in panel.rows for column in panel.columns}


@pytest.mark.parametrize("target", TABLES)
def test_panels_show_every_cell_that_a_row_has_once(target: str, tmp_path: Path) -> None:
    table = filled(target, demo(tmp_path))
    parts = panels(table)
    shown = shown_columns(table, parts)
    assert len(shown) == sum(len(panel.rows) * len(panel.columns) for panel in parts)
    left_out = [
        str(cell_text(cell))
        for number, row in enumerate(table.rows)
        for column, cell in enumerate(row.cells)
        if (number, column) not in shown
    ]
    assert set(left_out) <= {"n/a"}
    assert [column for panel in parts for column in panel.columns] == list(range(len(table.spec.columns)))


def test_columns_of_other_rows_stand_in_panels_of_their_own(tmp_path: Path) -> None:
    table = filled("table_04", demo(tmp_path))
    labels = [column.label for column in table.spec.columns]
    for panel in panels(table):
        names = {labels[column] for column in panel.columns}
        heads = {table.rows[row].label.removeprefix("reference: ").removeprefix("control: ")[:4] for row in panel.rows}
        assert heads == {"AP": {"Reti"}, "APb": {"Mask"}}.get(min(names, key=labels.index), heads)
        assert not ({"AP50", "APb50"} <= names)


def test_narrow_tables_are_one_tabular_and_long_ones_go_on_under_their_number(tmp_path: Path) -> None:
    assert to_latex(filled("table_08", demo(tmp_path))).count(r"\begin{tabular}{") == 1
    text = to_latex(filled("table_17", demo(tmp_path)))
    assert text.count(r"\begin{table}") == 2
    assert text.count(r"\addtocounter{table}{-1}\caption[(continued)]{(continued)}") == 1
    assert text.count("Ours, with the paper's value in brackets.") == text.count(r"\label{tab:table_17}") == 1


def test_captions_in_latex_name_the_papers_table_the_scale_and_the_data(tmp_path: Path) -> None:
    text = to_latex(filled("table_03", demo(tmp_path)))
    (caption,) = re.findall(r"\\caption\[(?:.*?)\]\{(.*)\}\n", text)
    assert "kernel size 23 (Table III of the paper). Demo scale: generated data." in caption
    assert "Measured on shapes." in caption
    assert packages(text) == r"\usepackage{booktabs,graphicx,amssymb}"


def test_signs_without_a_place_in_the_fonts_are_replaced() -> None:
    text = "−0.5 ± 0.1 ✓ᶜ ✗ ○ (4.1†, 4.2‡, 4.3§) a|b → ≤ ≥ × – — … µ"
    assert escape_latex(text).isascii()


def packages(text: str) -> str:
    """What the second line of a table says that the preamble needs."""
    return text.splitlines()[1].removeprefix("% ")


def compile_pdf(folder: Path, name: str, body: str, first: str) -> str:
    """Set a document of `body`, twice because of references; what pdflatex wrote into its log."""
    source = "\n".join([r"\documentclass{article}", packages(first), r"\begin{document}", body, r"\end{document}"])
    (folder / f"{name}.tex").write_text(source, encoding="utf-8")
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", f"{name}.tex"]
    for _ in range(2):
        done = subprocess.run(command, cwd=folder, capture_output=True, check=False, timeout=120)
    log = (folder / f"{name}.log").read_text(encoding="utf-8", errors="replace")
    assert done.returncode == 0, log[-3000:]
    return log


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="needs pdflatex (texlive-latex-recommended)")
@pytest.mark.parametrize("make", [demo, many, Scale], ids=["demo", "several seeds", "nothing run"])
def test_pdflatex_sets_all_tables_without_complaint(make: object, tmp_path: Path) -> None:
    scale = make(tmp_path)
    for target in TABLES:
        (tmp_path / f"{target}.tex").write_text(to_latex(filled(target, scale)), encoding="utf-8")
    body = "\n".join(rf"\input{{{target}}}\clearpage" for target in TABLES)
    log = compile_pdf(tmp_path, "all", rf"{body}\sloppy\listoftables See \ref{{tab:table_01}}, \ref{{tab:table_17}}.",
                      (tmp_path / "table_01.tex").read_text())
    assert [match[0] for match in BAD.finditer(log)] == []
    pdf = (tmp_path / "all.pdf").read_bytes()
    assert b"/Type3" not in pdf  # bitmaps: a sign was taken from a font that has no outlines
    assert pdf.startswith(b"%PDF")


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="needs pdflatex (texlive-latex-recommended)")
@pytest.mark.parametrize("target", ["table_03", "table_09"])
def test_pdflatex_sets_a_table_alone(target: str, tmp_path: Path) -> None:
    text = to_latex(filled(target, demo(tmp_path)))
    log = compile_pdf(tmp_path, "alone", text, text)
    assert [match[0] for match in BAD.finditer(log)] == []
