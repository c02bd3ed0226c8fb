"""The site in a browser: pages load without errors and from the disk alone, details open by keyboard, figures enlarge,
and tables keep their numbers below each other.

Playwright drives a Chromium that is installed (`apt-get install chromium`); without one, these tests are skipped.
"""

from __future__ import annotations

import io
import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from report_helpers import folder_of

from lska.settings.scale import Config
from lska.tables.figure_parts import LOOKS
from lska.tables.figures import DARK_COLOURS, DARK_PAGE

playwright = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed (make test installs it)")

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
BROWSER = next(filter(None, map(shutil.which, NAMES)), None)
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(BROWSER is None, reason=f"no Chromium: none of {', '.join(NAMES)} is on the PATH"),
]

PHONE, DESKTOP = {"width": 375, "height": 740}, {"width": 1280, "height": 900}


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
        self.names = sorted(path.name for path in folder.glob("*.html"))
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


@pytest.fixture
def visit(request: pytest.FixtureRequest, built_site: tuple[Path, Config], chromium: Any) -> Iterator[Visit]:
    """A window of a desktop, or with the given options."""
    made = Visit(chromium, built_site[0] / folder_of(built_site[1]), **getattr(request, "param", {}))
    yield made
    made.context.close()


on_a_phone = pytest.mark.parametrize("visit", [{"viewport": PHONE, "has_touch": True}], ids=["phone"], indirect=True)


BARS = """Array.from(document.querySelectorAll(".scroll"), frame => frame.scrollHeight - frame.clientHeight)
    .filter(more => more > 0)"""


@on_a_phone
def test_every_page_loads_from_the_disk_alone_without_errors_and_fits_a_phone(visit: Visit) -> None:
    for name in visit.names:
        page = visit.open(name)
        assert page.evaluate("Array.from(document.images).every(i => !i.complete || i.naturalWidth)"), name
        # What a reader could scroll sideways to; tables scroll inside their own frame, and only sideways.
        assert page.evaluate(BARS) == [], name
        for width in (PHONE["width"], 800):
            page.set_viewport_size({**PHONE, "width": width})
            assert page.evaluate("document.documentElement.scrollWidth") <= width, (name, width)
        page.set_viewport_size(PHONE)
    assert visit.wrong == [] and len(visit.requested) > 3 * len(visit.names)
    assert all(url.startswith((visit.folder.as_uri(), "data:")) for url in visit.requested)
    # An error would be noticed.
    page.evaluate("setTimeout(() => { throw new Error('noticed') })")
    page.evaluate("fetch('https://example.invalid/').catch(() => 0)")
    page.wait_for_timeout(100)
    assert any("noticed" in text for text in visit.wrong)
    assert any("example.invalid" in url for url in visit.requested)


def test_the_menu_leads_to_its_pages_and_the_first_tab_skips_it(visit: Visit) -> None:
    visit.open("index.html")
    for label in ("Claims", "Tables", "Environment"):
        visit.page.locator("nav[aria-label=Pages]").get_by_text(label, exact=True).click()
        assert visit.page.locator("nav [aria-current]").inner_text() == label
    visit.open("table_03.html")
    visit.page.keyboard.press("Tab")
    assert visit.page.evaluate("document.activeElement.textContent") == "Skip to the content"
    visit.page.keyboard.press("Enter")
    visit.page.keyboard.press("Tab")
    assert visit.page.evaluate("document.activeElement.closest('main') !== null")
    assert visit.page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"


def test_details_are_reached_by_keyboard_alone(visit: Visit) -> None:
    visit.open("table_03.html")
    panel = visit.page.locator("#details")
    for _ in range(30):
        visit.page.keyboard.press("Tab")
        if visit.page.evaluate("document.activeElement.matches('.cell')"):
            break
    assert visit.page.evaluate("document.activeElement.closest('td').cellIndex") == 1 and panel.is_visible()
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
    visit.page.keyboard.press("Shift+Tab")
    for key in ("Home", "ArrowLeft"):
        visit.page.keyboard.press(key)
    assert not panel.is_visible()
    visit.page.keyboard.press("Enter")
    assert visit.page.locator("h1").inner_text() == "VAN-Tiny LSKA k=23"


COVERED = """() => {
    const box = place => document.querySelector(place).getBoundingClientRect();
    const [panel, cell] = [box("#details"), box("[aria-expanded=true]")];
    const over = other => panel.left < other.right - 1 && other.left < panel.right - 1
        && panel.top < other.bottom - 1 && other.top < panel.bottom - 1;
    const inside = Math.min(panel.top, panel.left, innerHeight - panel.bottom, innerWidth - panel.right) >= -1;
    return [inside, over(cell), over(box("h1")), over(box("table.data thead"))];
}"""


@pytest.mark.parametrize(
    "visit",
    [{"viewport": DESKTOP}, {"viewport": {"width": 800, "height": 600}}, {"viewport": PHONE, "has_touch": True}],
    ids=["desktop", "window", "phone"],
    indirect=True,
)
def test_details_cover_neither_title_nor_headings_nor_their_cell_and_scroll_below_their_own_title(visit: Visit) -> None:
    for name in ("table_03", "table_12"):
        page = visit.open(f"{name}.html")
        cells, panel = page.locator("table.data .cell"), page.locator("#details")
        for number in range(0, cells.count(), 5):
            for block in ("start", "center", "end"):
                cells.nth(number).evaluate("(cell, block) => cell.scrollIntoView({block, inline: 'center'})", block)
                cells.nth(number).evaluate("cell => cell.click()")
                page.wait_for_function("document.querySelector('#details').matches(':popover-open')")
                assert page.evaluate(COVERED) == [True, False, False, False], (name, number, block)
                page.keyboard.press("Escape")
    cells.first.evaluate("cell => cell.click()")
    page.set_viewport_size({**page.viewport_size, "height": 400})
    assert panel.evaluate("panel => panel.scrollHeight > panel.clientHeight")
    panel.evaluate("panel => panel.scrollBy(0, 80)")
    assert panel.evaluate("panel => panel.scrollTop") > 50
    assert 0 <= panel.locator("h2").bounding_box()["y"] - panel.bounding_box()["y"] < 5


SHOWN = "document.querySelectorAll('[data-entry]:not([hidden])').length"


@on_a_phone
def test_claims_are_folded_and_filtered_and_an_address_unfolds_its_claim(visit: Visit) -> None:
    page = visit.open("claims.html")
    claims = page.locator("details.claim")
    count, first = claims.count(), claims.first
    assert first.locator(".statement").is_visible() and not first.locator(".beside").first.is_visible()
    first.locator("summary").click()
    assert first.locator(".beside").first.is_visible()
    page.get_by_label("Verdict").select_option("not run")
    assert page.evaluate(SHOWN) == 1 and page.locator("output").inner_text() == f"1 of {count} shown"
    # The group of those that were not run is folded else; other groups have nothing to show.
    assert [group.get_attribute("id") for group in page.locator("details.group:visible").all()] == ["not-run"]
    assert page.locator("details.claim:visible").count() == 1
    page.get_by_label("Text").fill("statement NOTHING-LIKE-THIS")
    assert page.evaluate(SHOWN) == 0
    page.get_by_role("button", name="Show all").click()
    assert page.evaluate(SHOWN) == count
    assert not page.locator("details.group#not-run").evaluate("group => group.open")
    page.get_by_label("Text").fill("r02 statement")
    page.keyboard.press("Enter")
    assert page.evaluate(SHOWN) == 1 and page.locator("#R02").is_visible()
    hidden = page.locator("#not-run details.claim").get_attribute("id")
    page.goto(f"{(visit.folder / 'claims.html').as_uri()}#{hidden}")
    assert page.locator(f"#{hidden} .beside").first.is_visible()


@pytest.mark.parametrize("visit", [{"java_script_enabled": False}], ids=["no scripts"], indirect=True)
def test_without_scripts_claims_are_all_there_and_nothing_is_offered_that_needs_them(visit: Visit) -> None:
    page = visit.open("claims.html")
    folded = page.locator("details:not([open]) > summary").count()
    assert folded > 3 and not page.locator("form.filters").is_visible()
    page.locator("details.claim summary").first.click()
    assert page.locator("details.claim .beside").first.is_visible()


def test_a_figure_enlarges_shrinks_and_moves_by_click_keys_wheel_and_pointer(visit: Visit) -> None:
    page = visit.open("figure_01.html")
    page.locator("[data-zoom]").focus()
    page.keyboard.press("Enter")
    image = page.locator("#zoom img")
    assert image.is_visible() and image.get_attribute("src").endswith("figure_01.svg")
    assert image.evaluate("image => image.naturalWidth") > 0
    # The whole figure fills the window, without bars to scroll by.
    assert image.bounding_box() == {"x": 0, "y": 0, **DESKTOP}
    page.keyboard.press("+")
    by_key = image.bounding_box()["width"]
    assert by_key > DESKTOP["width"]
    page.mouse.move(400, 400)
    before = image.bounding_box()
    page.mouse.wheel(0, -300)
    after = image.bounding_box()
    assert after["width"] > by_key
    # What lies under the pointer stays there.
    places = [(400 - box["x"]) / box["width"] for box in (before, after)]
    assert places[0] == pytest.approx(places[1], abs=0.01)
    page.mouse.down()
    page.mouse.move(360, 380)
    page.mouse.up()
    assert image.bounding_box()["x"] == pytest.approx(after["x"] - 40, abs=2)
    page.keyboard.press("ArrowLeft")
    assert image.bounding_box()["x"] > after["x"]
    page.get_by_label("Whole figure").click()
    assert image.bounding_box()["width"] == DESKTOP["width"]
    page.keyboard.press("Escape")
    assert not image.is_visible() and page.evaluate("document.activeElement.hasAttribute('data-zoom')")


@on_a_phone
def test_on_a_phone_figures_are_wide_enough_to_read_and_scroll_in_their_frame(visit: Visit) -> None:
    page = visit.open("figure_01.html")
    plate = page.locator(".plate")
    assert plate.locator("img").bounding_box()["width"] > 700
    assert plate.evaluate("plate => plate.scrollWidth > 1.8 * plate.clientWidth")
    plate.click()
    box = page.locator("#zoom img").bounding_box()
    assert box["width"] > 700 and box["x"] == 0


def seen(picture: bytes) -> Counter[tuple[int, ...]]:
    """Pixels of a screenshot by colour."""
    return Counter(Image.open(io.BytesIO(picture)).convert("RGB").get_flattened_data())


@pytest.mark.parametrize("visit", [{"color_scheme": "light"}, {"color_scheme": "dark"}], indirect=True)
def test_a_figure_follows_the_colour_scheme_with_its_page(visit: Visit, request: pytest.FixtureRequest) -> None:
    dark = request.node.callspec.params["visit"]["color_scheme"] == "dark"
    page = visit.open("figure_01.html")
    colours = seen(page.locator(".plate img").screenshot())
    (ground, most), curve = colours.most_common(1)[0], LOOKS["lka"][0]
    assert most > 0.8 * colours.total()
    assert ground == (tuple(DARK_PAGE) if dark else (255, 255, 255))
    # Curves can be seen on either; one is too dark for a dark page, and lighter there.
    shown = [colours[tuple(bytes.fromhex(colour[1:]))] for colour in (curve, DARK_COLOURS[curve])]
    assert shown[dark] > 20 and shown[not dark] == 0


EDGES = """column => Array.from(document.querySelectorAll("table.data tbody tr"), row => row.cells[column])
    .map(cell => cell.querySelector(".ours")).filter(Boolean).map(part => part.getBoundingClientRect().right)"""

SEEN = """() => {
    const [cell, row] = [document.activeElement, document.activeElement.closest("tr")];
    return [row.cells[0].getBoundingClientRect().right, cell.getBoundingClientRect().left];
}"""


@on_a_phone
def test_wide_tables_scroll_in_their_frame_with_numbers_below_each_other(visit: Visit) -> None:
    for name in ("table_03", "table_17", "table_04"):
        page = visit.open(f"{name}.html")
        for column in range(1, page.locator("table.data thead th").count()):
            # Whatever mark and value of the paper, with signs of its source or without, stand behind ours.
            edges = page.evaluate(EDGES, column)
            assert max(edges, default=0) - min(edges, default=0) < 1, (name, column)
    # The frame takes the room beside the text, and the page itself does not scroll.
    frame = page.locator("figure.table .scroll")
    box = frame.bounding_box()
    assert PHONE["width"] - 40 <= box["x"] + box["width"] <= PHONE["width"]
    assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
    # The first column stays, and a cell that arrow keys go to does not come to lie below it.
    label = page.locator("table.data tbody th").first
    before = label.bounding_box()["x"]
    frame.evaluate("frame => frame.scrollBy(300, 0)")
    assert label.bounding_box()["x"] == pytest.approx(before, abs=1)
    page.locator("table.data .cell").first.focus()
    page.keyboard.press("End")
    for _ in range(8):
        page.keyboard.press("ArrowLeft")
        right, left = page.evaluate(SEEN)
        assert right <= left + 1
