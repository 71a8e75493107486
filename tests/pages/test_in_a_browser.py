"""Pages in a real browser: nothing is loaded from elsewhere, no policy is violated, all of it works and can be read by everybody."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
from tests.pages.conftest import SCRIPT, Pages, hooke
from tests.support.browser import Browser

pytestmark = pytest.mark.needs("processes")

AXE = Path(importlib.util.find_spec("axe_core_python").origin).parent / "axe.min.js"


@pytest.fixture
def seen(browser: Browser, pages: Pages) -> Browser:
    """The browser, with the token, before it has seen any trouble; at the end it must not have seen one."""
    browser.look(width=1280)
    browser.open(pages.opening)
    browser.troubles.clear()
    browser.asked.clear()
    return browser


def pages_of(pages: Pages) -> list[str]:
    return [f"{pages.address}/runs", pages.of("good"), pages.of("bad"), pages.of("bad", "/logs")]


@pytest.mark.needs("cpu")
def test_each_page_loads_nothing_from_elsewhere_and_runs_no_text(seen, pages):
    for address in pages_of(pages):
        seen.open(address)
        assert seen.js("window.hacked === undefined"), address
    assert {"/".join(each.split("/")[:3]) for each in seen.asked} == {pages.address}
    assert seen.troubles == []


def test_what_users_wrote_is_there_as_text(seen, pages):
    seen.open(pages.of("bad"))
    text = seen.js("document.body.innerText + document.body.textContent")
    assert SCRIPT[:40] in text
    assert "KeyError" in text
    assert seen.js("document.querySelectorAll('#failures code')[0].textContent").endswith(
        "raise KeyError(SCRIPT)"
    )
    assert seen.js("document.querySelectorAll('script').length") == 1
    assert seen.js("[...document.images].every(each => each.alt && each.src.startsWith(location.origin))")
    seen.open(pages.of("good"))
    assert "the server was away" in seen.js("document.getElementById('retries').textContent")
    assert seen.troubles == []


@pytest.mark.needs("cpu")
@pytest.mark.parametrize(
    ("width", "theme", "audited"),
    [(390, "light", True), (390, "dark", False), (1280, "light", False), (1280, "dark", True)],
)
def test_it_fits_and_can_be_read(seen, pages, tmp_path, width, theme, audited):
    """axe finds nothing serious: names, roles, contrast (AA), keyboard; nothing is wider than the screen."""
    seen.look(width=width, theme=theme)
    for number, address in enumerate(pages_of(pages)):
        seen.open(address)
        assert seen.js("document.scrollingElement.scrollWidth") <= width, address
        save_picture(seen, tmp_path, f"page{number}-{width}-{theme}")
        if audited:
            assert_accessible(seen)
    assert seen.troubles == []


def save_picture(seen: Browser, folder: Path, name: str) -> None:
    """For people to look at, where HOOKE_PICTURES names a folder."""
    seen.picture(Path(os.environ.get("HOOKE_PICTURES", folder)) / f"{name}.png")


def assert_accessible(seen: Browser) -> None:
    """axe finds nothing serious."""
    seen.js(AXE.read_text("utf-8") + "; 0")
    found = seen.js("axe.run().then(r => r.violations.map(v => [v.id, v.impact, v.nodes.map(n => n.html)]))")
    assert [each for each in found if each[1] in ("serious", "critical")] == []


def test_filter_sort_and_zoom(seen, pages):
    seen.open(pages.of("good"))
    seen.js(
        "(() => { const box = document.querySelector('[data-filter=tasks-table]'); box.value = 'fit'; "
        "box.dispatchEvent(new Event('input', {bubbles: true})); })()"
    )
    shown = "[...document.querySelectorAll('#tasks-table tbody tr')].filter(r => !r.hidden).map(r => r.dataset.task)"
    assert seen.js(shown) == ["fit"]
    seen.js(
        "(() => { const box = document.querySelector('[data-filter=tasks-table]'); box.value = ''; box.dispatchEvent(new Event('input', {bubbles: true})); })()"
    )
    seen.js("document.querySelector('#tasks-table th button').click()")
    assert seen.js(shown) == ["fit", "load", "score"]
    seen.js("document.querySelector('#tasks-table th button').click()")
    assert seen.js(shown) == ["score", "load", "fit"]
    assert seen.js("document.querySelector('#tasks-table th').getAttribute('aria-sort')") == "descending"
    axis = "[...document.querySelectorAll('#lanes .axis span')].map(each => each.textContent)"
    whole = seen.js(axis)
    seen.js("document.getElementById('lanes').dataset.seconds = 40000")
    seen.js("document.querySelector('[data-zoom=in]').click()")
    assert seen.js("document.querySelector('#lanes svg').getAttribute('viewBox')") == "250 0 500 20"
    assert seen.js(axis) == ["10000 s", "30000 s"]
    seen.js("document.querySelector('[data-zoom=out]').click()")
    assert seen.js(axis) == whole
    assert seen.troubles == []


HIDE = "Object.defineProperty(document, 'hidden', {value: true, configurable: true}), document.dispatchEvent(new Event('visibilitychange'))"
SHOW = "delete document.hidden, document.dispatchEvent(new Event('visibilitychange'))"


def test_links_lead_somewhere(seen, pages):
    todo, done = [f"{pages.address}/runs"], set()
    while todo:
        address = todo.pop()
        if address in done:
            continue
        done.add(address)
        status, links = seen.js(
            f"fetch({address!r}).then(async r => [r.status, (r.headers.get('content-type') || '').startsWith('text/html') && !r.headers.get('content-disposition')"
            " ? [...new DOMParser().parseFromString(await r.text(), 'text/html').querySelectorAll('a[href], img[src]')].map(e => new URL(e.getAttribute('href') || e.getAttribute('src'), r.url).href.split('#')[0]) : []])"
        )
        assert status == 200, address
        todo += links
    kinds = {each.rpartition("/")[2] for each in done}
    assert {"runs", "logs", "report", "0", *pages.runs.values()} <= kinds
    assert seen.troubles == []


@pytest.mark.needs("cpu")
def test_a_run_is_followed_live(seen, pages):
    """It begins, is there in the list and on its page, and what happens shows on both without a reload."""
    box = "document.querySelector('[data-filter=tasks-table]')"
    seen.open(f"{pages.address}/runs?q=slow")
    seen.js("window.same = true")
    driver = subprocess.Popen(
        [sys.executable, "-P", "-m", "hooke", "run", "job.py:slow", "--on", "local:1"],
        cwd=pages.folder,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        seen.wait("document.querySelector('#runs tbody a') !== null")
        seen.js("document.querySelector('#runs tbody a').click()")
        seen.wait("document.querySelector('#graph .dg-running') !== null")
        seen.js("window.same = true")
        # A part of the page is missing, so the whole page is put in place; what a reader did stays.
        seen.js("document.getElementById('as-of').remove()")
        seen.js(f"({box}).value = 'wait', ({box}).focus(), ({box}).setSelectionRange(2, 2)")
        seen.js(HIDE)
        (pages.folder / "go").touch()
        seen.js(SHOW)
        took = seen.wait("document.querySelector('#head .state').textContent === 'finished'")
        assert took < 30
        seen.wait("document.querySelector('#logs-list').textContent.includes('gone on')")
        assert seen.js("window.same") is True
        seen.wait("document.getElementById('live').textContent === ''")
        assert seen.js("document.getElementById('as-of') !== null")
        assert seen.js(f"({box}).value === 'wait' && document.activeElement === {box}")
        assert seen.js(f"({box}).selectionStart") == 2
    finally:
        driver.kill()
        driver.wait()
    assert seen.troubles == []


@pytest.mark.needs("cpu")
def test_a_file_needs_no_network(browser, pages, tmp_path):
    done = hooke(pages.folder, "report", pages.runs["bad"], "-o", str(tmp_path / "run.html"))
    assert done.returncode == 0, done.stderr
    file = tmp_path / "run.html"
    assert file.stat().st_size < 2_000_000
    assert 'content="default-src &#39;none&#39;; ' in file.read_text("utf-8")
    browser.look(width=1280)
    browser.troubles.clear()
    browser.asked.clear()
    browser.open(file.as_uri())
    assert browser.js("window.hacked === undefined")
    assert browser.js("document.images.length") == 1
    assert browser.js("document.images[0].naturalWidth") == 60
    browser.js("document.querySelector('[data-zoom=in]').click()")
    assert browser.js("document.querySelector('#lanes svg').getAttribute('viewBox')") == "250 0 500 20"
    assert [each for each in browser.asked if not each.startswith(("data:", "file:"))] == []
    assert browser.troubles == []
    assert browser.call("Page.printToPDF")["data"]


def test_a_browser_without_the_token_sees_nothing(browser, pages):
    browser.call("Network.clearBrowserCookies")
    browser.open(pages.of("good"))
    assert "the token is missing" in browser.js("document.body.textContent")
