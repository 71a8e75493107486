"""Pages about other things than one run: runs side by side, searches, models, the store and fleets, of a project that has them all."""

import importlib.util
import json
import os
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.fixtures.shop import copy_tables
from tests.pages.conftest import SCRIPT, Pages, hooke, served
from tests.support.browser import Browser

from hooke.journal.study_records import SEARCH_PREFIX

pytestmark = pytest.mark.needs("processes")

AXE = Path(importlib.util.find_spec("axe_core_python").origin).parent / "axe.min.js"

JOB = f"""
import os, time
import hooke
from hooke import log_metric, log_param, pipeline, task

SCRIPT = {SCRIPT!r}

@task
def climb(x: float, kind: str) -> float:
    for step in range(4):
        log_metric("height" + SCRIPT[:9], x * step, step)
    if kind == "plain" and x > 0.9:
        raise ValueError(SCRIPT)
    return x * (2 if kind == SCRIPT else 1)

@task
def wait(x: float) -> float:
    while not os.path.exists("go"):
        time.sleep(0.02)
    return x

@task
def fit(depth: int, note: str) -> float:
    for step in range(5):
        log_metric("loss", 1 / (depth + step), step)
    log_param("note", note)
    return 1 / depth

@pipeline
def sweep(depth: int, note: str = SCRIPT):
    return fit(depth, note)
"""
SEARCHED = """
import hooke
from job import SCRIPT, climb, fit, sweep

class Doubles:
    def predict(self, rows):
        return 2 * rows

found = hooke.search(climb, {"x": (0.0, 1.0), "kind": ["plain", SCRIPT]}, trials=12, direction="maximize", workers=1)
runs = [hooke.run(sweep, depth=depth, workers=1) for depth in (2, 3, 1)]
print(found.id, *[run.id for run in runs])
print(hooke.register(Doubles(), "flights", alias="champion", run=runs[2], metrics={"loss": 0.5}))
"""
WAITS = """
import hooke
from job import wait

hooke.search(wait, {"x": (0.0, 1.0)}, trials=2, workers=1)
"""
SLEEPER = "import time\nwhile True: time.sleep(0.1)"


@pytest.fixture(scope="module")
def others(tmp_path_factory, tables) -> Iterator[Pages]:
    """`runs` has a search and three runs of a script, which registers a model of the last one; a fleet of two processes is up."""
    folder = tmp_path_factory.mktemp("others")
    command = json.dumps([sys.executable, "-c", SLEEPER])
    (folder / "hooke.toml").write_text(
        f"[fleets.pool]\ncommand = {command}\nmachines = 3\nusd_per_hour = 3.6\nmax_usd_per_hour = 20\n[fleets.idle]\ncommand = {command}\n"
    )
    for name, text in (("job", JOB), ("searched", SEARCHED), ("waits", WAITS)):
        (folder / f"{name}.py").write_text(textwrap.dedent(text), "utf-8")
    copy_tables(tables, folder / "mlflow.db", artifacts=str(folder / "mlruns" / "0"))
    keeper = subprocess.Popen(
        [sys.executable, "-m", "hooke", "fleet", "scale", "pool", "2", "--keep"],
        cwd=folder,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        done = python(folder, "searched.py")
        assert "flights:1" in done.stdout, done.stdout + done.stderr
        ids = done.stdout.splitlines()[0].split()
        runs = dict(zip(("search", "two", "three", "registered"), ids, strict=True))
        with served(folder) as opening:
            address = opening.partition("/?")[0]
            yield Pages(address, opening, folder, runs)
    finally:
        keeper.terminate()
        keeper.wait()
        assert hooke(folder, "fleet", "down", "pool").returncode == 0


def python(folder: Path, script: str) -> subprocess.CompletedProcess:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MLFLOW_")}
    return subprocess.run(
        [sys.executable, script],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )


SHIFTS = (
    "window.shifts = 0; new PerformanceObserver(list => { for (const each of list.getEntries()) window.shifts += each.value; })"
    ".observe({type: 'layout-shift'}); 0"
)
"""Has the page add up by how much its parts move, as Web Vitals do it."""


@pytest.fixture
def seen(browser: Browser, others: Pages) -> Iterator[Browser]:
    """The browser, with the token; at the end it must not have seen any trouble, nor anything from elsewhere."""
    browser.look(width=1280)
    browser.open(others.opening)
    browser.troubles.clear()
    browser.asked.clear()
    yield browser
    assert browser.troubles == []
    assert {"/".join(each.split("/")[:3]) for each in browser.asked} == {others.address}


def compared(others: Pages, *names: str) -> str:
    return f"{others.address}/compare?" + "&".join(f"run={others.runs[name]}" for name in names)


def pages_of(others: Pages) -> dict[str, str]:
    address = others.address
    return {
        "runs": f"{address}/runs",
        "compare": compared(others, "two", "three", "registered"),
        "searches": f"{address}/searches",
        "search": f"{address}/searches/{others.runs['search']}",
        "models": f"{address}/models",
        "model": f"{address}/models/flights",
        "store": f"{address}/store?max=1kB",
        "fleets": f"{address}/fleets",
        "fleet": f"{address}/fleets/pool",
    }


@pytest.mark.needs("cpu")
@pytest.mark.parametrize(
    ("width", "theme", "audited"),
    [(390, "light", True), (390, "dark", False), (1280, "light", False), (1280, "dark", True)],
)
def test_they_fit_can_be_read_and_run_no_text(seen, others, tmp_path, width, theme, audited):
    """axe finds nothing serious, nothing is wider than the screen, and script in what users wrote stays text."""
    seen.look(width=width, theme=theme)
    for name, address in pages_of(others).items():
        seen.open(address)
        seen.wait("!document.body.textContent.includes('fills in by itself')")
        assert seen.js("document.scrollingElement.scrollWidth") <= width, address
        assert seen.js("window.hacked === undefined"), address
        assert seen.js("document.querySelectorAll('script').length") == 1
        seen.picture(Path(os.environ.get("HOOKE_PICTURES", tmp_path)) / f"{name}-{width}-{theme}.png")
        if not audited:
            continue
        seen.js(AXE.read_text("utf-8") + "; 0")
        found = seen.js(
            "axe.run().then(r => r.violations.map(v => [v.id, v.impact, v.nodes.map(n => n.html)]))"
        )
        assert [each for each in found if each[1] in ("serious", "critical")] == [], address


def test_runs_that_are_ticked_are_compared(seen, others):
    seen.open(f"{others.address}/runs")
    for name in ("two", "three"):
        seen.js(f"document.querySelector('input[value=\"{others.runs[name]}\"]').click()")
    seen.js("document.querySelector('form[action=\"/compare\"] button').click()")
    seen.wait("location.pathname === '/compare' && document.querySelector('#parameters') !== null")
    rows = "[...document.querySelectorAll('#parameters tbody tr')].map(r => [r.className, ...[...r.children].map(c => c.textContent)])"
    assert ["differs", "depth", "3", "2"] in seen.js(rows)
    assert ["same", "fit.note", SCRIPT, SCRIPT] in seen.js(rows)
    metrics = "[...document.querySelectorAll('#metrics tr.differs')].map(r => r.children[0].textContent)"
    assert {"loss", "loss.min", "loss.max"} <= set(seen.js(metrics))
    assert "host" in seen.js("document.querySelector('#conditions').textContent")
    assert seen.js("document.querySelectorAll('#figures .plot polyline:not(.reach)').length") == 2
    assert seen.js("document.querySelector('#figures .parallel')") is None
    seen.open(compared(others, "two", "three", "registered"))
    assert seen.js("document.querySelectorAll('#figures .parallel g').length") == 3


@pytest.mark.needs("cpu")
def test_what_is_ticked_stays_while_the_list_goes_on(seen, others):
    """A new run comes into the list; the tick and the keyboard stay where they were."""
    seen.open(f"{others.address}/runs?q=sweep")
    seen.wait("document.getElementById('live').textContent === 'live'")
    box = f"document.querySelector('input[value=\"{others.runs['two']}\"]')"
    seen.js(f"{box}.click(), {box}.focus()")
    rows = seen.js("document.querySelectorAll('#runs tbody tr').length")
    assert hooke(others.folder, "run", "job.py:sweep", "--depth", "2", "--on", "local:1").returncode == 0
    seen.wait(f"document.querySelectorAll('#runs tbody tr').length === {rows + 1}")
    assert seen.js(f"{box}.checked && document.activeElement === {box}")
    assert seen.js("document.querySelectorAll('#runs input:checked').length") == 1


def test_what_is_said_under_the_pointer(seen, others):
    seen.open(pages_of(others)["search"])
    lines = seen.js("[...document.querySelectorAll('.parallel g')].map(g => g.dataset.t)")
    assert len(lines) >= 8
    assert any(SCRIPT[:20] in line for line in lines)
    seen.js(
        "document.querySelector('.parallel g.best').dispatchEvent(new PointerEvent('pointermove', {bubbles: true, clientX: 300, clientY: 300}))"
    )
    assert seen.js("document.getElementById('tip').textContent").startswith("trial ")


@pytest.mark.needs("cpu")
def test_links_lead_somewhere_and_origins_to_their_runs(seen, others):
    todo, done = list(pages_of(others).values()), set()
    while todo:
        address = todo.pop()
        if address in done or "/artifacts/" in address or address.endswith("/report"):
            continue
        done.add(address)
        status, links = seen.js(
            f"fetch({address!r}).then(async r => [r.status, [...new DOMParser().parseFromString(await r.text(), 'text/html')"
            ".querySelectorAll('a[href]')].map(e => new URL(e.getAttribute('href'), r.url).href.split('#')[0])])"
        )
        assert status == 200, address
        todo += links
    seen.open(pages_of(others)["model"])
    assert (
        seen.js("document.querySelector('#version-1 a').getAttribute('href')")
        == f"/runs/{others.runs['registered']}"
    )
    origin = seen.js("document.querySelector('#version-1').textContent")
    assert "depth" in origin and "code of fit" in origin and "champion" in origin


def test_the_store_says_what_an_eviction_takes(seen, others):
    seen.open(f"{others.address}/store")
    seen.wait("document.querySelector('#tasks tbody') !== null")
    assert {"climb", "fit"} <= set(
        seen.js("[...document.querySelectorAll('#tasks tbody th')].map(e => e.textContent)")
    )
    assert "has no limit" in seen.js("document.querySelector('#eviction').textContent")
    seen.open(f"{others.address}/store?max=0")
    seen.wait("document.querySelectorAll('#eviction li').length > 0")
    said = seen.js("document.querySelector('#eviction').textContent")
    assert "hooke cache gc --max 0" in said
    assert "to recompute for" in said


def test_a_fleet_is_followed_live(seen, others):
    seen.look(width=390)
    seen.open(f"{others.address}/fleets/pool")
    seen.js(SHIFTS)
    seen.wait("document.querySelectorAll('#machines tbody tr').length === 2")
    seen.js("window.same = true")
    cost = "document.querySelector('#machines tbody .n').textContent"
    before = seen.js(cost)
    seen.wait(f"{cost} !== {before!r}")
    assert "hooke fleet down pool" in seen.js("document.querySelector('#head').textContent")
    assert "2 wanted, 0 before, by hooke fleet scale" in seen.js(
        "document.querySelector('#events').textContent"
    )
    assert seen.js("window.same") is True
    assert seen.js("window.shifts") < 0.02


@pytest.mark.needs("cpu")
def test_a_search_is_followed_live(seen, others):
    seen.open(f"{others.address}/searches")
    seen.js("window.same = true")
    going = subprocess.Popen(
        [sys.executable, "waits.py"],
        cwd=others.folder,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        seen.wait(f"document.querySelector('#searches a[href^=\"/searches/{SEARCH_PREFIX}wait\"]') !== null")
        assert seen.js("window.same") is True
        seen.js(f"document.querySelector('#searches a[href^=\"/searches/{SEARCH_PREFIX}wait\"]').click()")
        seen.wait(
            "document.querySelector('#trials tbody tr') !== null && document.getElementById('live').textContent === 'live'"
        )
        seen.js("window.same = true")
        seen.js(SHIFTS)
        (others.folder / "go").touch()
        seen.wait("document.querySelector('#head .state').textContent === 'finished'")
        assert seen.js("document.querySelectorAll('#history .dot').length") == 2
        assert seen.js("window.same") is True
        assert seen.js("window.shifts") < 0.1
    finally:
        going.kill()
        going.wait()


def test_what_there_is_not_is_said(seen, others):
    """In the browser this would be an error of its console; so it is asked for by itself."""
    for path, status in (
        ("/searches/search-none-20261130-000000-x", 404),
        (f"/searches/{others.runs['two']}", 404),
        ("/models/none", 404),
        ("/models/a%20b", 404),
        ("/fleets/none", 404),
        ("/fleets/none/events", 404),
        ("/compare", 200),
        (f"/compare?run={others.runs['two']}", 200),
        ("/compare?run=..&run=x", 404),
        ("/store?max=much", 400),
    ):
        seen.call("Network.setCacheDisabled", cacheDisabled=True)
        answered = seen.js(f"fetch({path!r}).then(async r => [r.status, await r.text()])")
        assert answered[0] == status, path
        assert "Traceback" not in answered[1]
    seen.troubles.clear()
