"""What the pages of `hooke ui` cost: lists of many runs, a run of 100,000 calls, first paint, and a run that is followed live.

python -m benchmarks.pages --record
"""

from __future__ import annotations

import argparse
import http.cookiejar
import json
import os
import platform
import re
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
from tests.fixtures.played_runs import Played
from tests.support.browser import Browser

from hooke.base.files import FileLock
from hooke.base.ref import Ref
from hooke.journal.events import AttemptFinished, AttemptStarted, NodePlanned
from hooke.journal.run_folders import LOCK
from hooke.project.folder import Project
from hooke.running.run_page import run_html_file

RECORD = Path(__file__).parent / "records" / "pages.json"
RUNS, FEW, CALLS = 10_000, 1_000, 100_000
RATE, FOLLOWED = 1_000, 10_000
PAINTS = 7
REF = Ref(digest="0" * 64, size=1)
CODE = {"job.fit": "a" * 32, "python": "b" * 32}


class Server:
    """`hooke ui` of a project, and a client that has its token."""

    def __init__(self, folder: Path) -> None:
        command = [sys.executable, "-P", "-m", "hooke", "ui", "--port", "0"]
        self.process = subprocess.Popen(
            command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        assert self.process.stdout is not None
        self.opening = re.search(r"http://\S+", self.process.stdout.readline())[0]
        self.address = self.opening.partition("/?")[0]
        jar = urllib.request.HTTPCookieProcessor(http.cookiejar.CookieJar())
        self._client = urllib.request.build_opener(urllib.request.ProxyHandler({}), jar)
        self._client.open(self.opening).close()

    def get(self, path: str) -> tuple[str, float]:
        """A page, and the seconds that it took."""
        began = time.monotonic()
        with self._client.open(self.address + path) as answer:
            return answer.read().decode(), round(time.monotonic() - began, 3)

    @property
    def peak_mb(self) -> int:
        """The most memory that it had."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.search(r"VmHWM:\s+(\d+)", status)[1]) // 1024

    @property
    def cpu_s(self) -> float:
        """Its CPU so far."""
        times = psutil.Process(self.process.pid).cpu_times()
        return times.user + times.system


@contextmanager
def served(folder: Path) -> Iterator[Server]:
    server = Server(folder)
    try:
        yield server
    finally:
        server.process.terminate()
        server.process.wait()
        server.process.stdout.close()


def play_runs(folder: Path, count: int) -> None:
    (folder / "hooke.toml").touch()
    for number in range(count):
        name = f"sweep-20261125-{number:06d}-bench"
        played = Played(folder, name, at=1.79e9 + number, depth=str(number % 7))
        played.attempt("fit", items=100)
        played.end("failed" if number % 50 == 0 else "finished")


def play_calls(folder: Path, calls: int) -> str:
    """A run of `calls` calls in two tasks, by eight workers."""
    (folder / "hooke.toml").touch()
    played = Played(folder, "calls-20261125-000001-bench", pipeline="calls")
    plan(played, calls)
    for node in range(calls):
        at, worker = played.at + node / 1000, f"w{node % 8}"
        played.driver.append(AttemptStarted(at=at, attempt=node, node=node, lo=0, hi=1, worker=worker))
        ended = {"at": at + 0.007, "seconds": 0.005, "worker": worker}
        played.driver.append(AttemptFinished(attempt=node, node=node, lo=0, hi=1, ref=REF, **ended))
    played.log(("loss", 1.0, 0), attempt=0)
    played.end(seconds=calls / 1000)
    return played.run


def lists() -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        play_runs(folder, RUNS)
        with served(folder) as server:
            first, again = server.get("/runs")[1], server.get("/runs")[1]
            searches: list[float] = []
            while True:
                page, took = server.get("/runs?status=failed&sort=took")
                searches.append(took)
                if "were looked at so far" not in page:
                    break
            warm = server.get("/runs?q=depth%3D3")[1]
            facts = {
                "runs": RUNS,
                "first_s": first,
                "again_s": again,
                "search_s": searches,
                "next_search_s": warm,
            }
            return facts | {"peak_mb": server.peak_mb}


def calls() -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        run = play_calls(folder, CALLS)
        facts: dict[str, Any] = {"calls": CALLS}
        facts["journal_mb"] = (folder / ".hooke" / "runs" / run / "driver.journal").stat().st_size >> 20
        with served(folder) as server:
            facts["list_s"] = server.get("/runs")[1]
            began, opened = time.monotonic(), []
            while True:
                page, took = server.get(f"/runs/{run}")
                opened.append(took)
                if "Reading the journal" not in page:
                    break
            facts |= {"opened_s": opened[0], "whole_s": round(time.monotonic() - began, 2)}
            facts |= {"again_s": server.get(f"/runs/{run}")[1], "peak_mb": server.peak_mb}
        with served(folder) as server:
            page, took = server.get(f"/runs/{run}")
            facts |= {
                "new_server_s": took,
                "new_server_mb": server.peak_mb,
                "page_kb": len(page.encode()) >> 10,
            }
        facts["file_kb"] = len(run_html_file(Project.find(folder), run).encode()) >> 10
        return facts


def paint() -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        play_runs(folder, FEW)
        browser = Browser()
        try:
            with served(folder) as server:
                browser.look(width=1280)
                browser.open(server.opening)
                paints = []
                for _ in range(PAINTS):
                    browser.call("Page.reload")
                    entry = "performance.getEntriesByName('first-contentful-paint')[0]"
                    browser.wait(f"document.readyState === 'complete' && {entry} !== undefined")
                    paints.append(round(browser.js(f"{entry}.startTime")))
                return {"runs": FEW, "first_paint_ms": paints}
        finally:
            browser.close()


def live() -> dict[str, Any]:
    """A run of FOLLOWED calls that appends RATE events a second, followed by a browser: how late the page is, and both's memory."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "hooke.toml").touch()
        played = Played(folder, "live-20261125-000001-bench", at=time.time())
        lock = FileLock(played.folder / LOCK)
        assert lock.try_acquire()
        plan(played, FOLLOWED)
        browser = Browser()
        try:
            with served(folder) as server:
                browser.open(server.opening)
                browser.open(f"{server.address}/runs/{played.run}")
                before, empty = server.cpu_s, browser_mb(browser)
                began, call, lags, sizes = time.monotonic(), 0, [], []
                while call < FOLLOWED:
                    while call < FOLLOWED and call * 2 < RATE * (time.monotonic() - began):
                        at = {"attempt": call, "node": call, "lo": 0, "hi": 1, "worker": f"w{call % 8}"}
                        played.driver.append(AttemptStarted(at=time.time(), **at))
                        played.driver.append(AttemptFinished(at=time.time(), ref=REF, seconds=0.001, **at))
                        call += 1
                    lags.append(round((call - shown_done(browser)) * 2 / RATE, 2))
                    sizes.append(browser_mb(browser))
                    time.sleep(0.1)
                took = time.monotonic() - began
                facts = {"calls": call, "seconds": round(took, 1), "cpu_s": round(server.cpu_s - before, 2)}
                facts |= {"lag_s": round(statistics.median(lags), 2), "worst_lag_s": max(lags)}
                facts |= {"browser_mb": empty, "browser_more_mb": max(sizes) - empty}
                return facts | {"peak_mb": server.peak_mb}
        finally:
            browser.close()
            lock.release()


def plan(played: Played, calls: int) -> None:
    """The plans of `calls` calls, of two tasks in turn."""
    for node in range(calls):
        parents = (node - 1,) if node % 2 else ()
        planned = {
            "node": node,
            "task": ("fit", "score")[node % 2],
            "key": f"{node:032x}",
            "parents": parents,
        }
        played.driver.append(NodePlanned(at=played.at, code=CODE, where="job.py:3", **planned))


def shown_done(browser: Browser) -> int:
    """The number of items that the page calls done."""
    return int(browser.js("document.querySelector('.facts dd')?.textContent.replaceAll(',', '') || '0'"))


def browser_mb(browser: Browser) -> int:
    """The memory of all its processes; what they share counts once."""
    own = psutil.Process(browser.pid)
    return sum(each.memory_full_info().pss for each in [own, *own.children(recursive=True)]) >> 20


JOB = """
import time
from hooke import pipeline, task

@task
def fit(row: int) -> int:
    until = time.process_time() + 0.003
    while time.process_time() < until:
        pass
    return row

@pipeline
def many():
    return [fit(row) for row in range(8_000)]
"""


def real() -> dict[str, Any]:
    """A run whose calls compute for 3 ms each, followed by a browser: CPU of the run, and that of the page's server."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "hooke.toml").touch()
        (folder / "job.py").write_text(JOB, "utf-8")
        browser = Browser()
        try:
            with served(folder) as server:
                browser.open(server.opening)
                before = os.times()
                command = [sys.executable, "-P", "-m", "hooke", "run", "job.py"]
                run = subprocess.Popen(
                    command, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
                )
                browser.wait("document.querySelector('#runs tbody a') !== null")
                used, began = server.cpu_s, time.monotonic()
                path = browser.js("document.querySelector('#runs tbody a').pathname")
                browser.open(server.address + path)
                assert run.wait(timeout=600) == 0
                took, after = time.monotonic() - began, os.times()
                cpu = sum(after[2:4]) - sum(before[2:4])
                facts = {"seconds": round(took, 1), "run_cpu_s": round(cpu, 1)}
                return facts | {"events": 16_000, "server_cpu_s": round(server.cpu_s - used, 2)}
        finally:
            browser.close()


def table(record: dict[str, Any]) -> str:
    """The figures, for the decision page."""
    many, one, paints = (record[name] for name in ("lists", "calls", "paint"))
    followed, real_run = record["live"], record["real"]
    searched = len(many["search_s"])
    rows = [
        ("a list of 10,000 runs opens", f"{many['first_s']:.2f} s"),
        ("a first search through all of them", f"{sum(many['search_s']):.1f} s, in {searched} requests"),
        ("the next search", f"{many['next_search_s']:.2f} s"),
        ("memory of the server then, at most", f"{many['peak_mb']} MB"),
        (f"a run of 100,000 calls ({one['journal_mb']} MB of journal) opens", f"{one['opened_s']:.2f} s"),
        ("its page is complete", f"{one['whole_s']:.1f} s"),
        ("it opens again, also in a new server", f"{one['again_s']:.2f} s, {one['new_server_s']:.2f} s"),
        ("memory of the server, at most; of the new one", f"{one['peak_mb']} MB; {one['new_server_mb']} MB"),
        ("its `run.html`", f"{one['file_kb']} KB"),
        (
            "first paint of a list of 1,000 runs, median of 7",
            f"{statistics.median(paints['first_paint_ms']):.0f} ms",
        ),
        (
            f"CPU of the server while a browser follows a run of {real_run['events'] / real_run['seconds']:.0f} events a second",
            f"{100 * real_run['server_cpu_s'] / real_run['run_cpu_s']:.1f} % of the run's",
        ),
        (
            f"the same, of {2 * followed['calls'] / followed['seconds']:.0f} replayed events a second",
            f"{100 * followed['cpu_s'] / followed['seconds']:.1f} % of a core",
        ),
        (
            "what the browser shows then is old by, median and most",
            f"{followed['lag_s']:.2f} s, {followed['worst_lag_s']:.2f} s",
        ),
        ("memory that the browser takes for it", f"{followed['browser_more_mb']} MB"),
    ]
    return "| what | measured |\n|---|---|\n" + "".join(f"| {name} | {value} |\n" for name, value in rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--record", action="store_true", help=f"write {RECORD}")
    asked = parser.parse_args()
    record = {
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}",
        "lists": lists(),
        "calls": calls(),
        "paint": paint(),
        "live": live(),
        "real": real(),
        "load_at_the_end": round(os.getloadavg()[0], 1),
    }
    print(json.dumps(record, indent=1))
    if asked.record:
        RECORD.write_text(json.dumps(record, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
