"""The site in a browser: pages load without errors, tables sort, details open by keyboard, and nothing leaves the disk.

Playwright drives a Chromium that is installed (`apt-get install chromium`); without one, these tests are skipped.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from report_helpers import full_site

from lska import report
from lska.config import Config

playwright = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed (make test installs it)")

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
BROWSER = next(filter(None, map(shutil.which, NAMES)), None)
pytestmark = pytest.mark.skipif(BROWSER is None, reason=f"no Chromium: none of {', '.join(NAMES)} is on the PATH")

PHONE, DESKTOP = {"width": 375, "height": 740}, {"width": 1280, "height": 900}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Config]:
    """A complete site with invented results."""
    before = Path.cwd()
    yield full_site(tmp_path_factory.mktemp("browser"))
    os.chdir(before)


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    """A running browser. It is given no sandbox, which needs rights that containers lack; the pages are our own."""
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        yield browser
        browser.close()


class Visit:
    """A tab that keeps what goes wrong in it."""

    def __init__(self, browser: Any, folder: Path, **options: Any) -> None:
        self.folder, self.wrong, self.requested = folder, [], []
        self.context = browser.new_context(**{"viewport": DESKTOP, **options})
        self.page = self.context.new_page()
        self.page.on("console", lambda message: self.wrong.append(message.text) if message.type != "log" else None)
        self.page.on("pageerror", lambda error: self.wrong.append(str(error)))
        self.page.on("requestfailed", self.failed)
        self.page.on("request", lambda request: self.requested.append(request.url))

    def failed(self, request: Any) -> None:
        """Keep a failure, unless the page was left before its icon had come."""
        if request.failure != "net::ERR_ABORTED":
            self.wrong.append(f"{request.failure}: {request.url}")

    def open(self, name: str) -> Any:
        self.page.goto((self.folder / name).as_uri())
        return self.page

    def column(self, number: int) -> list[str]:
        """The texts of a column of the page's first table."""
        rows = self.page.locator("table.sortable").first.locator("tbody tr")
        return rows.locator(f":scope > :nth-child({number + 1})").all_inner_texts()


@pytest.fixture
def visit(site: Config, chromium: Any) -> Iterator[Visit]:
    """A desktop's window."""
    made = Visit(chromium, report.site_path(site.results).parent.resolve())
    yield made
    made.context.close()


@pytest.fixture
def phone(site: Config, chromium: Any) -> Iterator[Visit]:
    """A phone's window."""
    made = Visit(chromium, report.site_path(site.results).parent.resolve(), viewport=PHONE, has_touch=True)
    yield made
    made.context.close()


def names(visit: Visit) -> list[str]:
    return sorted(path.name for path in visit.folder.glob("*.html"))


def test_every_page_loads_from_the_disk_alone_and_without_errors(visit: Visit) -> None:
    for name in names(visit):
        visit.open(name)
        broken = visit.page.evaluate("Array.from(document.images).filter(i => i.complete && !i.naturalWidth).length")
        assert broken == 0, name
    assert visit.wrong == []
    assert len(visit.requested) > 3 * len(names(visit))
    assert {url.split(":")[0] for url in visit.requested} <= {"file", "data"}
    assert all(url.startswith((visit.folder.as_uri(), "data:")) for url in visit.requested)


def test_an_error_on_a_page_would_be_noticed(visit: Visit) -> None:
    visit.open("index.html")
    visit.page.evaluate("setTimeout(() => { throw new Error('noticed') })")
    visit.page.evaluate("fetch('https://example.invalid/').catch(() => 0)")
    visit.page.wait_for_timeout(100)
    assert any("noticed" in text for text in visit.wrong)
    assert any("example.invalid" in url for url in visit.requested)


def test_all_links_of_the_menu_lead_to_their_pages(visit: Visit) -> None:
    visit.open("index.html")
    labels = visit.page.locator("nav[aria-label=Pages] a").all_inner_texts()
    assert len(labels) == 9
    for label in labels:
        visit.page.locator("nav[aria-label=Pages]").get_by_text(label, exact=True).click()
        assert visit.page.locator("nav [aria-current]").inner_text() == label
        assert visit.page.locator("h1").count() == 1


def test_a_click_sorts_a_column_up_then_down_then_as_printed(visit: Visit) -> None:
    visit.open("table_17.html")
    heads = visit.page.locator("table.data thead th")
    number = next(place for place, text in enumerate(heads.all_inner_texts()) if text.startswith("Params"))
    head, printed = heads.nth(number), visit.column(number)
    values = [float(text.split()[0]) for text in printed]
    assert values != sorted(values) and head.get_attribute("aria-sort") == "none"
    head.locator("button").click()
    assert head.get_attribute("aria-sort") == "ascending"
    assert [float(text.split()[0]) for text in visit.column(number)] == sorted(values)
    head.locator("button").click()
    assert head.get_attribute("aria-sort") == "descending"
    assert [float(text.split()[0]) for text in visit.column(number)] == sorted(values, reverse=True)
    head.locator("button").click()
    assert head.get_attribute("aria-sort") == "none" and visit.column(number) == printed


def test_keys_sort_too_and_one_column_at_a_time(visit: Visit) -> None:
    visit.open("table_17.html")
    labels = visit.column(0)
    visit.page.locator("thead button").first.focus()
    visit.page.keyboard.press("Enter")
    assert visit.column(0) != labels
    # Kernel sizes within labels are numbers: k=7 before k=11.
    lka = [label for label in visit.column(0) if label.startswith("VAN-Tiny LKA k=")]
    assert [int(label.partition("k=")[2]) for label in lka] == sorted(int(label.partition("k=")[2]) for label in lka)
    visit.page.keyboard.press("Tab")
    visit.page.keyboard.press("Space")
    sorts = [head.get_attribute("aria-sort") for head in visit.page.locator("table.data thead th").all()]
    assert sorts[:2] == ["none", "ascending"] and set(sorts[2:]) == {"none"}


def test_cells_without_a_value_come_last_both_ways(visit: Visit) -> None:
    visit.open("table_17.html")
    heads = visit.page.locator("table.data thead th").all_inner_texts()
    number = next(place for place, text in enumerate(heads) if "top-1" in text)
    missing = sum("not run" in text for text in visit.column(number))
    assert missing > 0
    for _ in ("ascending", "descending"):
        visit.page.locator("thead th").nth(number).locator("button").click()
        assert all("not run" in text for text in visit.column(number)[-missing:])


def test_details_are_reached_by_keyboard_alone(visit: Visit) -> None:
    visit.open("table_03.html")
    panel = visit.page.locator("#details")
    visit.page.locator("thead button").last.focus()
    visit.page.keyboard.press("Tab")
    first = visit.page.evaluate("document.activeElement.closest('td').cellIndex")
    assert first == 1 and panel.is_visible()
    for key in ("End", "ArrowDown"):
        visit.page.keyboard.press(key)
    assert panel.locator("h2").inner_text() == "VAN-LSKA-Tiny, top-1 (%)"
    text = panel.inner_text()
    file = "metrics/classification/van_tiny-lska-k23-s0.json"
    for part in ("other data", "standard error", file, "75.0 %", "Some CPU"):
        assert part in text
    visit.page.keyboard.press("Enter")
    assert visit.page.evaluate("document.activeElement.id") == "details"
    visit.page.keyboard.press("Escape")
    assert not panel.is_visible()
    assert visit.page.evaluate("document.activeElement.closest('tr').rowIndex") == 2
    visit.page.keyboard.press("Tab")
    assert visit.page.evaluate("document.activeElement.closest('table.data')") is None, "the table is one stop of Tab"


def test_details_open_under_the_pointer_and_close_when_it_leaves(visit: Visit) -> None:
    visit.open("table_03.html")
    panel, cell = visit.page.locator("#details"), visit.page.locator("table.data .cell").first
    cell.hover()
    assert panel.is_visible() and cell.get_attribute("aria-expanded") == "true"
    visit.page.mouse.move(5, 5)
    panel.wait_for(state="hidden", timeout=2000)
    cell.click()
    visit.page.mouse.move(5, 5)
    visit.page.wait_for_timeout(400)
    assert panel.is_visible(), "a click keeps it open"
    panel.locator("a").first.click()
    assert visit.page.url.endswith(".json")


def test_details_stay_within_the_window(visit: Visit) -> None:
    visit.open("table_04.html")
    for number in (0, 40, -1):
        cell = visit.page.locator("table.data .cell").nth(number)
        cell.click()
        box = visit.page.locator("#details").bounding_box()
        assert box["x"] >= 0 and box["y"] >= 0
        assert box["x"] + box["width"] <= DESKTOP["width"] and box["y"] + box["height"] <= DESKTOP["height"]
        visit.page.keyboard.press("Escape")


def test_a_figure_enlarges_and_shrinks_by_click_keys_and_wheel(visit: Visit) -> None:
    visit.open("figure_01.html")
    visit.page.locator("[data-zoom]").focus()
    visit.page.keyboard.press("Enter")
    image = visit.page.locator("#zoom img")
    assert image.is_visible() and image.get_attribute("src").endswith("figure_01.svg")
    assert visit.page.evaluate("document.querySelector('#zoom img').naturalWidth") > 0

    def size() -> float:
        return visit.page.evaluate("new DOMMatrix(getComputedStyle(document.querySelector('#zoom img')).transform).a")

    assert size() == 1
    visit.page.keyboard.press("+")
    by_key = size()
    assert by_key > 1
    visit.page.mouse.move(400, 400)
    visit.page.mouse.wheel(0, -300)
    assert size() > by_key
    visit.page.get_by_label("Whole figure").click()
    assert size() == 1
    visit.page.keyboard.press("Escape")
    assert not image.is_visible()
    assert visit.page.evaluate("document.activeElement.hasAttribute('data-zoom')")


def test_no_page_is_wider_than_a_phone(phone: Visit) -> None:
    for name in names(phone):
        phone.open(name)
        # What a reader could scroll sideways to; tables scroll inside their own frame.
        assert phone.page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"], name
    assert phone.wrong == []


def test_wide_tables_scroll_in_their_frame_beside_their_first_column(phone: Visit) -> None:
    phone.open("table_04.html")
    frame = phone.page.locator(".scroll").first
    assert frame.evaluate("frame => frame.scrollWidth > frame.clientWidth")
    label = phone.page.locator("table.data tbody th").first
    before = label.bounding_box()["x"]
    frame.evaluate("frame => frame.scrollBy(300, 0)")
    assert label.bounding_box()["x"] == pytest.approx(before, abs=1)


def test_a_tap_opens_details_on_a_phone(phone: Visit) -> None:
    phone.open("table_03.html")
    phone.page.locator("table.data .cell").nth(4).tap()
    box = phone.page.locator("#details").bounding_box()
    assert box["width"] == PHONE["width"] and box["y"] + box["height"] == pytest.approx(PHONE["height"], abs=1)


def test_dark_mode_follows_the_system(visit: Visit) -> None:
    colours = {}
    for mode in ("light", "dark"):
        visit.page.emulate_media(color_scheme=mode)
        for name in ("index.html", "notebook_table_03.html"):
            visit.open(name)
            found = visit.page.evaluate("(s => [s.backgroundColor, s.color])(getComputedStyle(document.body))")
            colours[mode, name] = [sum(map(int, text[4:-1].split(","))) for text in found]
    for name in ("index.html", "notebook_table_03.html"):
        (light_ground, light_ink), (dark_ground, dark_ink) = colours["light", name], colours["dark", name]
        assert light_ground > 700 > light_ink + 500 and dark_ground < 100 < dark_ink - 400


def test_pages_are_complete_without_scripts(site: Config, chromium: Any) -> None:
    plain = Visit(chromium, report.site_path(site.results).parent.resolve(), java_script_enabled=False)
    page = plain.open("table_03.html")
    assert page.locator("table.data tbody tr").count() == 9
    assert "Sort by a heading" not in page.locator("main").inner_text()
    plain.context.close()


def test_the_first_stop_of_the_tab_key_skips_the_menu(visit: Visit) -> None:
    visit.open("table_03.html")
    visit.page.keyboard.press("Tab")
    assert visit.page.evaluate("document.activeElement.textContent") == "Skip to the content"
    visit.page.keyboard.press("Enter")
    visit.page.keyboard.press("Tab")
    assert visit.page.evaluate("document.activeElement.closest('main') !== null")
    assert visit.page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"


def test_paper_shows_no_menu(visit: Visit) -> None:
    visit.page.emulate_media(media="print")
    visit.open("table_03.html")
    assert not visit.page.locator("nav[aria-label=Pages]").is_visible()
    assert visit.page.locator("table.data").is_visible()
