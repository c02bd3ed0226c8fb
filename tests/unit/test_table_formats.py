"""Tables as other programs read them: Markdown of code hosts, HTML, CSV; and how many seeds are behind a number."""

from __future__ import annotations

import io
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace

import pandas
import pytest
from markdown_it import MarkdownIt
from table_helpers import PAPER, TOP1, Scale, demo, entry, one_cell, put, put_required

from lska.runs import Run
from lska.tables.cell_text import caption, cell_text, headings, legend
from lska.tables.collect import Table, collect
from lska.tables.paper_values import REFERENCE
from lska.tables.specs import TARGETS, ColumnSpec, RowSpec, TableSpec, load_spec
from lska.tables.table_formats import CSV_COLUMNS, to_csv, to_html, to_markdown, to_page

AWKWARD = "a_b_c *d* <e> |f| `g` ~~h~~ [i](j) &amp; $k$ \\l #m"


def filled(target: str, scale: Scale) -> Table:
    put_required(target, scale)
    return collect(load_spec(target), scale, PAPER, scale.results)


def awkward(tmp_path: Path) -> Table:
    """A table in which every text is full of characters with a meaning in some format."""
    columns = (ColumnSpec(f"p {AWKWARD}", "speed", "x", unit="%"), ColumnSpec("second", "speed", "x", unit="%"))
    rows = (RowSpec(AWKWARD, remarks={columns[0].label: AWKWARD}),)
    spec = TableSpec("table_03", AWKWARD, AWKWARD, rows, columns, "", "table_03", notes=(AWKWARD,))
    (tmp_path / "table_03.csv").write_text("table,row,column,value,unit,source,detail\n")
    return collect(spec, Scale(tmp_path, caption=AWKWARD), tmp_path, tmp_path)


def parsed(text: str) -> SimpleNamespace:
    """What a code host makes of Markdown: the kinds of blocks, the rows of the only table, list items, and text."""
    tokens = MarkdownIt("commonmark").enable(["table", "strikethrough"]).parse(text)
    rows, items, bold, inside = [], [], "", []
    for token in tokens:
        inside.append(token.type) if token.nesting == 1 else inside.pop() if token.nesting == -1 else None
        if token.type == "tr_open":
            rows.append([])
        elif token.type == "inline":
            kinds = {child.type for child in token.children}
            words = "".join(child.content for child in token.children)
            if "tr_open" in inside:
                assert kinds <= {"text", "text_special"}, words
                rows[-1].append(words)
            elif "list_item_open" in inside:
                assert kinds <= {"text", "text_special"}, words
                items.append(words)
            else:
                assert kinds <= {"text", "text_special", "strong_open", "strong_close"}, words
                bold += words
    top = [token.type for token in tokens if token.level == 0 and token.nesting == 1]
    return SimpleNamespace(blocks=top, rows=rows, items=items, caption=bold)


def check_markdown(table: Table) -> None:
    found = parsed(to_markdown(table))
    assert found.blocks == ["paragraph_open", "table_open", "bullet_list_open"]
    assert found.caption == caption(table)
    expected = [[row.label, *(str(cell_text(cell)) for cell in row.cells)] for row in table.rows]
    assert found.rows == [headings(table), *expected]
    assert found.items == legend(table)


@pytest.mark.parametrize("target", TARGETS)
def test_a_code_host_reads_the_table_that_was_written(target: str, tmp_path: Path) -> None:
    check_markdown(filled(target, demo(tmp_path)))


def test_no_character_of_a_label_means_anything_in_markdown(tmp_path: Path) -> None:
    check_markdown(awkward(tmp_path))
    assert "\\$k\\$" in to_markdown(awkward(tmp_path))  # mathematics, on some hosts


class Document(HTMLParser):
    """Elements with their attributes and text; fails where an end tag does not match, or an id occurs twice."""

    VOID = ("meta", "br", "img")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open, self.elements, self.ids = [], [], set()
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        element = SimpleNamespace(tag=tag, attributes=dict(attrs), text="", parents=[item.tag for item in self.open])
        assert len(dict(attrs)) == len(attrs)
        assert element.attributes.get("id") not in self.ids
        self.ids |= {element.attributes["id"]} if "id" in element.attributes else set()
        self.elements.append(element)
        if tag not in self.VOID:
            self.open.append(element)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop().tag == tag

    def handle_data(self, data: str) -> None:
        for element in self.open:
            element.text += data

    def all(self, tag: str) -> list[SimpleNamespace]:
        return [element for element in self.elements if element.tag == tag]


@pytest.mark.parametrize("target", [target for target in TARGETS if target.startswith("table")])
def test_a_page_says_in_html_what_the_table_says(target: str, tmp_path: Path) -> None:
    table = filled(target, demo(tmp_path))
    page = Document(to_page(table))
    assert to_page(table).startswith("<!DOCTYPE html>\n")
    assert [element.tag for element in page.elements[:3]] == ["html", "head", "meta"]
    assert page.all("meta")[0].attributes == {"charset": "utf-8"}
    assert page.all("style")[0].parents == ["html", "head"]  # nowhere else is it valid
    rows = [[row.label, *(str(cell_text(cell)) for cell in row.cells)] for row in table.rows]
    cells = iter(page.all("td"))
    assert [[head.text, *(next(cells).text.strip() for _ in table.spec.columns)] for head, _ in zip(
        (element for element in page.all("th") if element.attributes["scope"] == "row"), rows, strict=True
    )] == rows  # fmt: skip
    assert [e.text for e in page.all("th") if e.attributes["scope"] == "col"] == headings(table)
    assert [element.text for element in page.all("li")] == legend(table)
    assert page.all("figcaption")[0].text == caption(table)


def test_a_fragment_stands_alone_scrolls_by_keyboard_and_loads_nothing(tmp_path: Path) -> None:
    text = to_html(filled("table_06", demo(tmp_path)))
    fragment = Document(text)
    (scroll,) = fragment.all("div")
    assert scroll.attributes["tabindex"] == "0" and scroll.attributes["aria-labelledby"] in fragment.ids
    assert fragment.all("table")[0].attributes["aria-labelledby"] in fragment.ids
    assert not {"script", "link", "img"} & {element.tag for element in fragment.elements}
    assert "http" not in text and "url(" not in text
    assert ".scroll{overflow-x:auto}" in text
    assert "<style>" not in to_html(filled("table_06", demo(tmp_path)), styled=False)


def test_a_cell_tells_its_interval(tmp_path: Path) -> None:
    table = filled("table_17", demo(tmp_path))
    titles = [cell.attributes["title"] for cell in Document(to_html(table)).all("td")]
    measured = [cell for cell in table.cells if cell.low is not None]
    assert [title.split("; ")[1] for title in titles if "; interval " in title] == [
        f"interval {cell.low:.0f} to {cell.high:.0f}" for cell in measured
    ]
    assert len(measured) == 8 and all(cell.column == "inference speed" for cell in measured)


def luminance(colour: str) -> float:
    parts = (int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5))
    linear = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return sum(weight * part for weight, part in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def test_marks_can_be_seen_on_white_and_on_black(tmp_path: Path) -> None:
    import re

    colours = re.findall(r"color:(#[0-9a-f]{6})", to_html(awkward(tmp_path)))
    assert len(colours) == 2
    for colour in colours:
        shade = luminance(colour)
        assert 1.05 / (shade + 0.05) > 4 and (shade + 0.05) / (luminance("#111111") + 0.05) > 4


def test_no_character_of_a_label_means_anything_in_html(tmp_path: Path) -> None:
    page = Document(to_page(awkward(tmp_path)))
    assert [element.text for element in page.all("th")][0] == AWKWARD
    assert page.all("title")[0].text == f"Table III. {AWKWARD}"
    assert page.all("td")[0].attributes["title"] == f"not run; {AWKWARD}"


def read(table: Table) -> pandas.DataFrame:
    return pandas.read_csv(io.StringIO(to_csv(table)), dtype={"paper": str, "seeds": str})


@pytest.mark.parametrize("target", TARGETS)
def test_csv_is_tidy_and_typed(target: str, tmp_path: Path) -> None:
    table = filled(target, demo(tmp_path))
    frame = read(table)
    assert tuple(frame.columns) == CSV_COLUMNS
    assert not frame.duplicated(["row", "column"]).any() and len(frame) == len(table.cells)
    assert frame[["table", "scale", "row", "column", "state", "n"]].notna().all().all()
    numeric = ["deviation", "standard_error", "low", "high", "kernel", "n"]
    words = any(column.text or column.choices or column.task == "design" for column in table.spec.columns)
    for name in [*numeric, *([] if words else ["value"])]:
        assert pandas.api.types.is_numeric_dtype(frame[name]), name
    for line, cell in zip(frame.itertuples(), table.cells, strict=True):
        # Every digit is written; pandas' fast reader may miss the last bit.
        if isinstance(cell.value, float):
            assert float(line.value) == pytest.approx(cell.value, rel=1e-15)
        else:
            assert line.value == cell.value or pandas.isna(line.value) and cell.value is None
        assert (line.paper if isinstance(line.paper, str) else None) == cell.paper


def test_csv_names_the_network_the_metric_and_the_seeds(tmp_path: Path) -> None:
    frame = read(filled("table_10", demo(tmp_path)))
    chosen = frame[(frame["attention"] == "lska") & (frame["metric"] == "mce_15") & frame["value"].notna()]
    assert list(chosen["kernel"]) == [7, 23]
    assert set(chosen["task"]) == {"robustness/c"} and set(chosen["model"]) == {"van_tiny"}
    assert set(chosen["seeds"]) == {"0"}
    references = read(filled("table_03", demo(tmp_path)))
    references = references[references["row"].str.startswith(REFERENCE)]
    assert len(references) == 15 and references[["model", "task", "metric"]].isna().all().all()


def test_the_documentation_names_every_column_of_the_csv_files() -> None:
    text = (PAPER.parent / "docs" / "extend.md").read_text(encoding="utf-8")
    assert [name for name in CSV_COLUMNS if f"`{name}`" not in text] == []


def seeds_of(tmp_path: Path, **values: tuple[float, ...]) -> Table:
    """A table of LKA and LSKA with one value for each seed."""
    runs = [Run("van_tiny", name, 23, seed) for name, found in values.items() for seed in range(len(found))]
    scale = Scale(tmp_path, tuple(runs))
    for run in runs:
        value = values[run.attention][run.seed]
        put(scale, "classification", run, {"top1": entry(value, "%", n=500, standard_error=1.5)}, "shapes")
    row = RowSpec("VAN-{attention}", models=("van_tiny",), attentions=("lka", "lska"), kernels=(23,))
    return collect(one_cell(tmp_path, TOP1, "74.7", row=row), scale, tmp_path, tmp_path)


def test_the_number_of_seeds_stands_beside_a_mean_and_in_the_legend(tmp_path: Path) -> None:
    table = seeds_of(tmp_path, lka=(70.0, 71.0, 75.0), lska=(71.0,))
    lka, lska = table.cells
    assert (str(cell_text(lka)), lka.seeds) == ("72.0 ± 2.6 [3] ○ (74.7)", (0, 1, 2))
    assert (str(cell_text(lska)), lska.seeds) == ("71.0 ± 1.5 ○ (?)", (0,))
    line = (
        "[n]: mean and, after ±, sample standard deviation over n seeds. "
        "Without [n]: one seed; ±: standard error over the images."
    )
    assert line in legend(table) and line in parsed(to_markdown(table)).items
    assert list(read(table)["seeds"]) == ["0;1;2", "0"]
    assert list(read(table)["n"]) == [3, 1]


def test_the_legend_says_when_all_have_one_seed_or_all_several(tmp_path: Path) -> None:
    one = seeds_of(tmp_path, lka=(70.0,), lska=(71.0,))
    assert "One seed per network. ±: standard error over the images." in legend(one)
    several = seeds_of(tmp_path, lka=(70.0, 71.0), lska=(71.0, 72.0))
    assert "[n]: mean and, after ±, sample standard deviation over n seeds." in legend(several)
    counted = filled("table_02", demo(tmp_path))
    assert not any("seed" in line for line in legend(counted))
    assert {cell.seeds for cell in counted.cells} == {()}


def test_negative_numbers_have_a_minus_sign(tmp_path: Path) -> None:
    table = seeds_of(tmp_path, lka=(-0.25,), lska=(1.0,))
    assert str(cell_text(table.cells[0])).startswith("−0.2 ± 1.5")
    assert read(table)["value"][0] == -0.25


def test_captions_say_when_no_data_set_enters(tmp_path: Path) -> None:
    assert caption(filled("table_01", demo(tmp_path))).endswith("Demo scale: generated data. No data set enters it.")
