"""Tables: Markdown, LaTeX, CSV and HTML."""

from __future__ import annotations

import csv
import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest
from table_helpers import (
    PAPER,
    TOP1,
    Scale,
    demo,
    entry,
    put,
    put_required,
)

from lska.tables.cell_text import caption, cell_text, legend
from lska.tables.collect import Table, collect
from lska.tables.specs import ColumnSpec, RowSpec, TableSpec, load_spec
from lska.tables.table_formats import (
    build_table,
    escape_latex,
    to_csv,
    to_html,
    to_latex,
    to_markdown,
    to_page,
    write_table,
)


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
    scale = demo(tmp_path, caption="demo scale: 100% generated_data & more")
    values = {"lka-k7": 4016200, "lka-k23": 4105800, "lska-k7": 4190000, "lska-k23": 4350000}
    for name, value in values.items():
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


MARKDOWN = """\
**Table III. A title. Demo scale: 100% generated\\_data \\& more. Counts are always those of the paper's own \
architectures, at 224x224 pixels. Measured on shapes.**

| model | Params (M) | top-1 (%) |
| --- | ---: | ---: |
| VAN-LKA k=7 | 4.02 ✓ (4.0) | 70.2 ± 1.5 ○ (74.0) |
| VAN-LKA k=23 | 4.11 ✓ (4.1§) | 70.2 ± 1.5 ○ (?) |
| reference: B0 | (?) | (75.4§) |
| VAN-LSKA k=7 | 4.19 ✓ᶜ (4.1‡) | 70.2 ± 1.5 ○ (?) |
| VAN-LSKA k=23 | 4.35 ✗ (4.1†) | 70.2 ± 1.5 ○ (?) |
| Net\\_5% \\& \\<b\\>\\|x\\| | n/a | not run |

- Ours, with the paper's value in brackets.
- One seed per network. ±: standard error over the images.
- ✓ reproduced: equal at the printed digits, or within tolerance or noise.
- ✗ deviates: measured as the paper did, with another result.
- ○ other data: from other data, a shrunken model or another count; the paper's value is for reference only.
- ᶜ equal to the printed value when ours is cut, not rounded, to its digits.
- (?) no printed value known.
- not run: nothing was trained or measured at this scale.
- reference rows: published elsewhere; nothing is measured here.
- n/a: the row, or what it was measured on, has no such quantity.
- † follows by arithmetic from a printed statement.
- ‡ not printed; counted on the official model code.
- § from another paper: VAN.
"""


def test_markdown_snapshot(tmp_path: Path) -> None:
    assert to_markdown(small_table(tmp_path)) == MARKDOWN


def test_legend_lists_only_what_occurs(tmp_path: Path) -> None:
    scale = demo(tmp_path)
    put_required("table_02", scale)
    lines = legend(collect(load_spec("table_02"), scale, PAPER, scale.results))
    assert [line[0] for line in lines] == ["O", "R", "✓", "‡"]
    assert lines[1] == "Read off the built networks."


def test_caption_states_scale_data_and_conditions(tmp_path: Path) -> None:
    scale = demo(tmp_path)
    put_required("table_17", scale)
    text = caption(collect(load_spec("table_17"), scale, PAPER, scale.results))
    assert "Demo scale: generated data." in text
    assert "Measured on shapes." in text
    assert text.endswith("Inference speed: cpu (Some CPU), batch size 32, image size 64 pixels.")


def test_latex_escapes_everything_and_is_balanced(tmp_path: Path) -> None:
    assert escape_latex(r"\a_b&c%d$e#f{g}h~i^j<k>") == (
        r"\textbackslash{}a\_b\&c\%d\$e\#f\{g\}h\textasciitilde{}i\textasciicircum{}j$<$k$>$"
    )
    text = to_latex(small_table(tmp_path))
    assert text.isascii()
    assert r"Net\_5\% \& $<$b$>$$|$x$|$ & n/a & not run \\" in text
    bare = re.sub(r"\\[\\{}$%&#_]", "", text)
    assert bare.count("{") == bare.count("}")
    assert bare.count("$") % 2 == 0
    assert re.findall(r"\\begin\{(\w+)\}", text) == re.findall(r"\\end\{(\w+)\}", text)[::-1] == ["table", "tabular"]
    assert text.startswith("% Table III.")
    body = text[text.index(r"\toprule") : text.index(r"\bottomrule")]
    rows = [line for line in body.splitlines() if line.endswith(r"\\")]
    assert len(rows) == 7
    assert {len(re.findall(r"(?<!\\)&", row)) for row in rows} == {2}
    assert r"\begin{tabular}{@{}lrr@{}}" in text


def test_csv_is_read_back_by_pandas_with_every_value(tmp_path: Path) -> None:
    import pandas

    table = small_table(tmp_path)
    (tmp_path / "table.csv").write_text(to_csv(table))
    frame = pandas.read_csv(tmp_path / "table.csv", dtype={"paper": str}, keep_default_na=False, na_values=[""])
    assert list(frame.columns[:12]) == [
        "table", "row", "column", "value", "unit", "deviation", "standard_error", "n", "paper", "paper_source", "state",
        "files",
    ]  # fmt: skip
    assert list(frame.columns[18:]) == ["scale", "model", "attention", "kernel", "seeds", "task", "metric"]
    assert len(frame) == len(table.rows) * len(table.spec.columns)
    for line, cell in zip(frame.to_dict("records"), table.cells, strict=True):
        assert (line["row"], line["column"], line["state"], line["n"]) == (cell.row, cell.column, cell.state, cell.n)
        for name in ("value", "standard_error", "paper"):
            expected = getattr(cell, name)
            assert line[name] == expected or (expected is None and pandas.isna(line[name]))
    assert frame["files"][0].endswith("metrics/complexity/van_tiny-lka-k7-s0.json")


def test_files_in_the_working_folder_are_named_relative_to_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    lines = list(csv.DictReader(to_csv(small_table(tmp_path)).splitlines()))
    assert lines[0]["files"] == "results/demo/metrics/complexity/van_tiny-lka-k7-s0.json"


def test_html_is_well_formed_and_says_where_numbers_come_from(tmp_path: Path) -> None:
    table = small_table(tmp_path)
    figure = ElementTree.fromstring(to_html(table, styled=False))
    cells = figure.findall(".//td")
    assert ["".join(cell.itertext()).strip() for cell in cells] == [str(cell_text(cell)) for cell in table.cells]
    assert [cell.get("class") for cell in cells] == [str(cell.state).replace(" ", "-") for cell in table.cells]
    assert "van_tiny-lka-k7-s0.json" in cells[0].get("title")
    assert figure.findall(".//tbody/tr/th")[-1].text == "Net_5% & <b>|x|"


def test_every_format_is_written_and_others_are_refused(tmp_path: Path) -> None:
    table = small_table(tmp_path)
    for render, suffix in ((to_markdown, "md"), (to_latex, "tex"), (to_csv, "csv"), (to_page, "html")):
        write_table(table, tmp_path / f"t.{suffix}")
        assert (tmp_path / f"t.{suffix}").read_text(encoding="utf-8") == render(table)
    with pytest.raises(ValueError, match=r"t\.docx.*\.md, \.tex, \.csv, \.html"):
        write_table(table, tmp_path / "t.docx")


def test_build_writes_what_was_asked_for_from_another_results_folder(tmp_path: Path) -> None:
    scale = demo(tmp_path)
    put_required("table_03", scale)
    moved = Scale(tmp_path / "nowhere", scale.runs)
    table = build_table("table_03", moved, [tmp_path / "out" / "t.md"], PAPER, results=scale.results)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["t.md"]
    assert (tmp_path / "out" / "t.md").read_text(encoding="utf-8") == to_markdown(table)
