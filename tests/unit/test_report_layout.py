"""How wide tables lie on a page, in a browser: numbers below each other, nothing hidden below the first column."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from report_helpers import full_site
from test_report_browser import BROWSER, DESKTOP, PHONE, Visit, playwright, pytestmark  # noqa: F401

from lska import report


@pytest.fixture(scope="module")
def browsed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Any, Path]]:
    """A browser, and the folder of a complete site with invented results."""
    before = Path.cwd()
    config = full_site(tmp_path_factory.mktemp("layout"))
    folder = report.site_path(config.results).parent.resolve()
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        yield browser, folder
        browser.close()
    os.chdir(before)


@pytest.fixture(params=[DESKTOP, PHONE], ids=["desktop", "phone"])
def visit(browsed: tuple[Any, Path], request: pytest.FixtureRequest) -> Iterator[Visit]:
    made = Visit(*browsed, viewport=request.param)
    yield made
    made.context.close()


EDGES = """column => Array.from(document.querySelectorAll("table.data tbody tr"), row => row.cells[column])
    .map(cell => cell.querySelector(".ours")).filter(Boolean).map(part => part.getBoundingClientRect().right)"""


@pytest.mark.parametrize("name", ["table_03", "table_04", "table_17"])
def test_our_values_of_a_column_end_below_each_other(visit: Visit, name: str) -> None:
    page = visit.open(f"{name}.html")
    for column in range(1, page.locator("table.data thead th").count()):
        edges = page.evaluate(EDGES, column)
        # Whatever mark and value of the paper, with signs of its source or without, stand behind ours.
        assert max(edges, default=0) - min(edges, default=0) < 1, (name, column)


def test_a_cell_that_arrow_keys_go_to_is_not_below_the_first_column(visit: Visit) -> None:
    page = visit.open("table_04.html")
    page.locator("table.data .cell").first.focus()
    page.keyboard.press("End")
    for _ in range(8):
        page.keyboard.press("ArrowLeft")
        places = page.evaluate("""() => {
            const [cell, row] = [document.activeElement, document.activeElement.closest("tr")];
            return [row.cells[0].getBoundingClientRect().right, cell.getBoundingClientRect().left];
        }""")
        assert places[0] <= places[1] + 1


def test_details_leave_their_cell_in_sight(browsed: tuple[Any, Path]) -> None:
    made = Visit(*browsed, viewport={"width": 900, "height": 560})
    page = made.open("table_03.html")
    cell, panel = page.locator("table.data .cell").nth(9), page.locator("#details")
    # Playwright's own click would scroll a covered cell into sight.
    cell.evaluate("cell => cell.scrollIntoView({block: 'center'})")
    cell.evaluate("cell => cell.dispatchEvent(new MouseEvent('mouseenter'))")
    # Neither above nor below the cell is room for all that there is to say.
    assert panel.evaluate("panel => panel.scrollHeight") > 300
    own, told = cell.bounding_box(), panel.bounding_box()
    assert told["y"] >= own["y"] + own["height"] or told["y"] + told["height"] <= own["y"]
    made.context.close()


def test_a_wide_table_takes_the_room_beside_the_text_and_the_page_does_not_scroll(visit: Visit) -> None:
    page = visit.open("table_04.html")
    frame = page.locator("figure.table .scroll").bounding_box()
    width = page.viewport_size["width"]
    assert width - 40 <= frame["x"] + frame["width"] <= width
    assert page.evaluate("document.documentElement.scrollWidth") <= width
