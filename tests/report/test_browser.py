"""The page in a real browser: Chromium without a network, driven by Playwright.

Skipped where Chromium or Playwright is missing. axe-core checks accessibility where it is installed
(``npm install --no-save axe-core`` in the root of the repository, or its file named by ``AXE_CORE``).
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from report.results import HOSTILE, report_data

from spark_semdedup.report.html import render

pytest.importorskip("jinja2")
pytest.importorskip("matplotlib")
playwright = pytest.importorskip("playwright.sync_api", reason="Playwright's Python package is not installed")

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
AXE = Path(os.environ.get("AXE_CORE", Path(__file__).parents[2] / "node_modules" / "axe-core" / "axe.min.js"))
ARGUMENTS = (
    "--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync"
)

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium on the PATH"),
]

WIDTHS, SCHEMES = (375, 1440), ("light", "dark")


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("report") / "report.html"
    path.write_text(render(report_data()), "utf-8")
    return path.as_uri()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as tools:
        chromium = tools.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS.split())
        yield chromium
        chromium.close()


@pytest.fixture
def open_page(browser: Any, address: str) -> Iterator[Callable[..., Any]]:
    """Opens the report in a window of its own. At the end the file must be the only request, and the console empty."""
    contexts, requests, messages = [], [], []

    def opened(width: int = 1440, scheme: str = "light", **options: Any) -> Any:
        context = browser.new_context(
            viewport={"width": width, "height": 900}, color_scheme=scheme, offline=True, **options
        )
        contexts.append(context)
        page = context.new_page()
        page.on("request", lambda request: requests.append(request.url))
        page.on("console", lambda message: messages.append(message.text))
        page.on("pageerror", lambda error: messages.append(str(error)))
        page.goto(address)
        return page

    yield opened
    for context in contexts:
        context.close()
    assert {url for url in requests if not url.startswith("data:")} == {address}
    assert messages == []


def visible(page: Any, selector: str) -> int:
    return page.locator(f"{selector}:visible").count()


def test_hostile_text_is_shown_and_does_not_run(open_page: Callable[..., Any]):
    page = open_page()
    assert page.evaluate("window.hacked") is None
    assert HOSTILE in page.locator("#group-1").inner_text()


def test_an_injected_script_would_not_run(browser: Any, address: str):
    page = browser.new_page(offline=True)
    page.goto(address)
    page.evaluate("document.body.append(Object.assign(document.createElement('script'), {text: 'window.hacked = 1'}))")
    assert page.evaluate("window.hacked") is None
    page.close()


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("width", WIDTHS)
def test_nothing_is_wider_than_the_window(open_page: Callable[..., Any], width: int, scheme: str):
    page = open_page(width, scheme)
    page.evaluate("document.querySelectorAll('details').forEach((each) => { each.open = true })")
    assert page.evaluate("document.documentElement.scrollWidth") == width
    assert visible(page, "svg.chart") == 5
    assert visible(page, f"svg.chart.{'narrow' if width == 375 else 'wide'}") == 5
    red, green, blue = page.evaluate("getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number)")
    assert (red + green + blue > 600) == (scheme == "light")


@pytest.mark.parametrize("width", WIDTHS)
def test_words_in_charts_can_be_read(open_page: Callable[..., Any], width: int):
    page = open_page(width)
    sizes = page.evaluate(
        "[...document.querySelectorAll('svg.chart text')].filter((t) => t.getClientRects().length)"
        ".map((t) => t.getBoundingClientRect().height).filter(Boolean)"
    )
    assert min(sizes) >= 9  # CSS pixels, of lines of text, whichever way they run


def test_search_and_filters(open_page: Callable[..., Any]):
    page = open_page()
    every = page.locator(".filtered").count()
    assert page.locator("#matches").inner_text() == f"{every} groups and pairs"
    page.fill("#search", "SOUNDS library")
    assert visible(page, ".pair") == 2  # at the threshold, and in its band
    assert page.locator("#matches").inner_text() == f"3 of {every} groups and pairs"
    page.fill("#search", "no such words")
    assert visible(page, ".filtered") == 0
    page.fill("#search", "")
    page.select_option("#state", "kept")
    assert visible(page, ".pair") == 2
    assert page.locator(".pair:visible .tag.removed").count() == 0
    page.select_option("#state", "")
    page.select_option("#band", "0.9 – 0.95")
    assert visible(page, ".filtered") == 1
    page.select_option("#band", "")
    assert page.locator("#matches").inner_text() == f"{every} groups and pairs"


def test_without_javascript_all_is_there(open_page: Callable[..., Any]):
    page = open_page(java_script_enabled=False)
    assert visible(page, "form.filter") == 0
    assert visible(page, "#group-1") == 1
    assert visible(page, ".pair") >= 3
    assert visible(page, "svg.chart") == 5
    summary = page.locator("details.cluster > summary").first
    summary.click()
    assert visible(page, "details.cluster[open] li") > 0


def test_a_cluster_of_the_map_opens_by_keyboard(open_page: Callable[..., Any]):
    page = open_page()
    link = page.locator("svg.chart.wide a").first
    target = link.get_attribute("href")
    link.focus()
    page.keyboard.press("Enter")
    page.wait_for_function(f"document.querySelector('{target}').open")
    assert page.evaluate("document.activeElement.parentElement.id") == target.lstrip("#")


def test_a_link_of_the_tiles_leads_to_the_least_similar_pair(open_page: Callable[..., Any]):
    page = open_page()
    page.get_by_role("link", name="least similar pair removed").click()
    page.wait_for_function("location.hash === '#above'")
    assert page.locator("section:has(> #above) .pair").first.inner_text().startswith("0.9503")


@pytest.mark.skipif(not AXE.is_file(), reason="axe-core is not installed: npm install --no-save axe-core")
@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("width", WIDTHS)
def test_axe_finds_nothing(open_page: Callable[..., Any], width: int, scheme: str):
    page = open_page(width, scheme, bypass_csp=True)
    page.evaluate("document.querySelectorAll('details').forEach((each) => { each.open = true })")
    page.evaluate(AXE.read_text("utf-8"))
    result = page.evaluate("axe.run({resultTypes: ['violations']})")
    assert [(each["impact"], each["id"], each["nodes"][0]["html"]) for each in result["violations"]] == []
