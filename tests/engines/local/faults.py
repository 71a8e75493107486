"""What the fault tests share: a project to break things in, and eyes on every process that it may start."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from tests.fixtures.workshop import Workshop

from hooke.engines.worker.pool import shared_pool
from hooke.journal.events import Event
from hooke.running.resume import resume
from hooke.running.run import Run

__all__ = [
    "HEAD",
    "Faults",
    "begin",
    "events_of",
    "faults",
    "fork_servers",
    "gone",
    "let_go",
    "wait_until",
    "went_on",
]

PATIENCE_S = 60.0

HEAD = """
    import ctypes, os, signal, sys, time
    from pathlib import Path
    from hooke import task, pipeline, run

    HERE = Path(os.environ.get("FAULTS_AT", Path(__file__).parent))

    def note(what, value):
        with open(HERE / what, "a") as file:
            file.write(f"{value}\\n")

    def wait_for(name):
        while not (HERE / name).exists():
            time.sleep(0.005)
"""


class Faults(Workshop):
    """A workshop whose file begins with HEAD, and which notes pids in files."""

    drivers: list[subprocess.Popen[str]]

    def source(self, text: str) -> None:
        import textwrap

        self.write(textwrap.dedent(HEAD) + textwrap.dedent(text))

    def noted(self, what: str) -> list[str]:
        path = self.folder / what
        return path.read_text().split() if path.exists() else []

    def pids(self, what: str) -> list[int]:
        return [int(pid) for pid in self.noted(what)]

    def last(self) -> Run:
        return Run(self.project, self.project.runs.names()[0])

    def go(self, *args: Any, on: str = "local:2", **params: Any) -> Run:
        return self.run(*args, on=on, **params)


@pytest.fixture
def faults(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Faults]:
    """A project; when the test is over, nothing that was started below this process may be left."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    shared_pool().close()
    before = set(_below())
    shop = Faults(tmp_path)
    shop.drivers = []
    yield shop
    for driver in shop.drivers:
        if driver.poll() is None:
            driver.kill()
        driver.communicate()
    sys.modules.pop(shop.file.stem, None)
    gc.collect()
    shared_pool().close()
    gone_of(lambda: set(_below()) - before)
    gone(sorted(_everyone_noted(shop)))


def _everyone_noted(shop: Faults) -> set[int]:
    return {pid for file in shop.folder.glob("*.pid") for pid in shop.pids(file.name)}


def _process(pid: int) -> psutil.Process | None:
    try:
        return psutil.Process(pid)
    except psutil.NoSuchProcess:
        return None


def _below(pid: int | None = None) -> list[psutil.Process]:
    return psutil.Process(pid).children(recursive=True)


def living(processes: set[psutil.Process | None]) -> list[str]:
    """Those that run, in words; a zombie that init has not reaped yet does not."""
    found = []
    for process in processes:
        try:
            if process is not None and process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
                found.append(f"{process.pid} {process.cmdline()}")
        except psutil.NoSuchProcess:
            continue
    return found


def gone(pids: list[int]) -> None:
    """Fail unless all of them end."""
    gone_of(lambda: {_process(pid) for pid in pids})


def gone_of(asked: Callable[[], set[psutil.Process] | set[psutil.Process | None]]) -> None:
    """Fail unless none of these is left at last; a busy machine takes its time."""
    end = time.monotonic() + PATIENCE_S
    while left := living({*asked()}):
        assert time.monotonic() < end, f"left running after {PATIENCE_S:g} s: {left}"
        time.sleep(0.01)


def fork_servers(pid: int | None = None) -> list[int]:
    """The fork servers right below a process (this one)."""
    return [
        child.pid
        for child in psutil.Process(pid).children()
        if child.status() != psutil.STATUS_ZOMBIE and "hooke.engines.worker.fork_server" in child.cmdline()
    ]


def let_go(shop: Faults, *names: str) -> None:
    """Let tasks go on that `wait_for(name)`."""
    for name in names:
        (shop.folder / name).touch()


def wait_until(condition: Callable[[], Any], what: str = "it", *, within_s: float = 120.0) -> Any:
    """What the condition gives as soon as that is true."""
    end = time.monotonic() + within_s
    while not (found := condition()):
        assert time.monotonic() < end, f"waited {within_s:g} s for {what}"
        time.sleep(0.01)
    return found


def events_of(run: Run, kind: type[Any]) -> list[Any]:
    """The events of one kind in a run's journal."""
    return [event for event in _journal(run) if isinstance(event, kind)]


def _journal(run: Run) -> list[Event]:
    return list(run.journal)


def went_on(shop: Faults, run: Run) -> Run:
    """Resume a run in this process, to its end."""
    driver = resume(shop.project, run.id)
    assert driver is not None
    driver.drive()
    return Run(shop.project, run.id)


def begin(shop: Faults, *args: object, **environment: str) -> subprocess.Popen[str]:
    """Run the workshop's file as a script: a driver of its own."""
    driver = subprocess.Popen(
        [sys.executable, str(shop.file), *map(str, args)],
        cwd=shop.folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=dict(os.environ) | environment,
    )
    shop.drivers.append(driver)
    return driver
