"""The explorer in a real browser: a headless Chromium of the system, driven by Playwright."""

import shutil
from urllib.parse import parse_qsl, urlsplit

import explorers
import pytest
import test_explorer

from diito.explorer.command import make_page
from diito.explorer.settings import ExploreSettings
from diito.explorer.view import View

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium: apt-get install chromium"),
]
WAIT = 20_000
"""Milliseconds for an answer; a busy machine takes its time."""


@pytest.fixture(scope="module")
def address():
    """The page of the tiny masked language models, served in this process."""
    gradio = pytest.importorskip("gradio", reason="gradio is not installed: pip install 'diito[explorer]'")
    from diito.explorer.command import serve

    page = make_page(explorers.looking("masked-lm", against="undistilled").subjects)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRADIO_ANALYTICS_ENABLED", "False")
        _, url, shared = serve(page, ExploreSettings(port=None), wait=False)
    assert shared is None and url.startswith("http://127.0.0.1:")
    yield url
    page.close()
    gradio.close_all()


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: pip install playwright")
    with playwright.sync_playwright() as started:
        opened = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture
def page(browser, address):
    """A page of the width of a desk, which must ask nobody but the explorer, run no dialog, and fail in no script."""
    context = browser.new_context(viewport={"width": 1280, "height": 800}, accept_downloads=True)
    opened = context.new_page()
    opened.set_default_timeout(WAIT)
    wrong = []
    opened.on("request", lambda request: wrong.append(request.url) if not own(request.url, address) else None)
    opened.on("dialog", lambda dialog: wrong.append(dialog.message))
    opened.on("pageerror", lambda error: wrong.append(str(error)))
    yield opened
    context.close()
    assert not wrong


def own(url, address):
    return url.startswith((address, "data:", "blob:"))


def open_view(page, address, query=""):
    page.goto(f"{address}?{query}" if query else address)
    page.wait_for_selector("#map .grids")


def view_of(page):
    """The view that the address holds."""
    return View.of_link(dict(parse_qsl(urlsplit(page.url).query, keep_blank_values=True)))


def wait_for(page, **parts):
    """Until the address says so."""
    wanted = [f"{name}={value}" for name, value in parts.items()]
    said = "wanted => wanted.every(each => location.search.slice(1).split('&').includes(each))"
    try:
        page.wait_for_function(said, arg=wanted)
    except Exception as error:
        shown = page.locator("#board").inner_text()[:300]
        raise AssertionError(f"{wanted} are not in {page.url}, which shows {shown!r}") from error
    return view_of(page)


def check_answers(page):
    """The page shows for each model the likeliest answer that diito.interchange gives for the view in its address."""
    looking, view = explorers.looking("masked-lm", against="undistilled"), view_of(page)
    for role in looking.subjects.models:
        expected = test_explorer.of_interchange(looking, view, role).softmax(-1)[0].max(-1)
        shown = page.locator(f"section.{role} .run").nth(2).locator("li").first
        assert shown.locator("span").inner_text() == looking.subjects.output_name(int(expected.indices))
        assert float(shown.locator("i").inner_text()) == pytest.approx(100 * float(expected.values), abs=0.06)


def token(page, strip, place):
    return page.locator(f"[data-strip={strip}] .token").nth(place)


def test_type_drag_press_and_restore(page, address):
    open_view(page, address)
    page.get_by_label("base: what is asked").fill("w1 w2 [MASK] w3 w4 w5")
    page.get_by_label("base: what is asked").press("Enter")
    wait_for(page, base="w1+w2+%5BMASK%5D+w3+w4+w5")
    page.get_by_label("source: whose states").fill("w9 w8 [MASK] w7 w6 w5")
    page.get_by_label("source: whose states").press("Enter")
    view = wait_for(page, source="w9+w8+%5BMASK%5D+w7+w6+w5")
    assert (view.base, view.slot) == ("w1 w2 [MASK] w3 w4 w5", 3)
    check_answers(page)

    before = page.locator(".models").inner_text()
    start, end = (token(page, "base", place).bounding_box() for place in (1, 5))
    page.mouse.move(start["x"] + 5, start["y"] + 5)
    page.mouse.down()
    page.mouse.move(end["x"] + 5, end["y"] + 5, steps=4)
    page.mouse.up()
    view = wait_for(page, first=1, last=5)
    check_answers(page)
    assert page.locator(".models").inner_text() != before
    assert page.locator("[data-strip=source] .swapped").count() == 5

    page.locator("#map .teacher button.cell[data-key=teacher-0-4]").click()
    view = wait_for(page, first=4, last=4, teacher="0%2C1", student=0)
    check_answers(page)
    shown, link = page.locator(".board").inner_text(), page.url
    page.goto("about:blank")
    page.goto(link)
    page.wait_for_selector("#map .grids")
    assert view_of(page) == view and page.locator(".board").inner_text() == shown
    assert page.get_by_label("base: what is asked").input_value() == view.base

    page.get_by_label("map", exact=True).click()
    page.get_by_role("option", name="mean of 5 held-out pairs").click()
    page.get_by_text("mean of 5 held-out pairs, by distance").wait_for()
    page.locator("#map .student button.cell[data-key='student-1--1']").click()
    wait_for(page, first=2, last=2, student=1)


def test_the_keyboard_alone_can_swap(page, address):
    open_view(page, address, "base=w1+w2+%5BMASK%5D+w3&source=w4+w5+%5BMASK%5D+w6&first=1&last=1")
    token(page, "base", 1).focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Enter")
    wait_for(page, first=2, last=2)
    page.wait_for_function("document.activeElement.dataset.key === 'base2'")
    page.keyboard.press("Shift+ArrowRight")
    wait_for(page, first=2, last=3)
    check_answers(page)
    page.locator("#map button.cell[data-key=student-0-2]").focus()
    page.keyboard.press("ArrowUp")
    page.keyboard.press("Space")
    wait_for(page, first=2, last=2, student=1)


def test_hostile_text_is_text_and_a_wrong_link_a_sentence(page, address):
    text = "<script>alert(1)</script><img src=x onerror=alert(1)> ${alert(1)} {{x}} [MASK]"
    open_view(page, address)
    page.get_by_label("base: what is asked").fill(text)
    page.get_by_label("base: what is asked").press("Enter")
    page.get_by_role("alert").or_(page.locator("[data-strip=base] .token").nth(20)).wait_for()
    assert page.locator("#board script, #board img").count() == 0
    page.goto(f"{address}?base=w1&source=%3Cscript%3Ealert(1)%3C/script%3E&first=99&last=99")
    assert "has no tokens 99 to 99" in page.get_by_role("alert").inner_text()


def test_the_view_is_saved_as_png_and_json(page, address):
    open_view(page, address)
    for kind, begins in (("PNG", b"\x89PNG"), ("JSON", b"{")):
        with page.expect_download() as download:
            page.get_by_role("button", name=kind).click()
        content = download.value.path().read_bytes()
        assert content.startswith(begins) and download.value.suggested_filename == f"diito-view.{kind.lower()}"


def test_a_phone_shows_it_without_scrolling_sideways(page, address):
    page.set_viewport_size({"width": 390, "height": 844})
    open_view(page, address)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    token(page, "base", 1).click()
    wait_for(page, first=1, last=1)
