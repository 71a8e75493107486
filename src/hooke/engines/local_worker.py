"""The worker process of the local engine: `python -m hooke.engines.local_worker FD LIFELINE`.

It reads attempts from a socket that it shares with the driver and answers with journal events. The
lifeline is a pipe whose other end only the driver holds: when it closes, the driver is dead, and the
worker ends itself and whatever the task started.
"""

from __future__ import annotations

import os
import pickle
import signal
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import msgspec

from hooke.base.clock import SystemClock
from hooke.base.errors import EnvironmentMismatch, HookeError
from hooke.journal.events import AttemptFailed, AttemptFinished, AttemptStarted, Event
from hooke.pipeline.execute import Work, Worker, check_code
from hooke.pipeline.failures import failure_of
from hooke.store.store import Store

__all__ = ["Hello", "Task", "main"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Hello:
    """What a worker is told first."""

    worker: str
    sys_path: list[str]
    store: str
    secret: bytes | None
    log: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """An attempt for a worker; `pickle` and `parts` come with the first attempt of each function."""

    attempt: int
    node: int
    number: int
    kind: str
    lo: int
    hi: int
    payload: bytes
    shown: str
    name: str
    digest: str
    pickle: bytes | None
    parts: dict[str, str]


class _Output:
    """The worker's own stdout and stderr, which the driver pointed at the log file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.name = path.name

    def position(self) -> int:
        sys.stdout.flush()
        sys.stderr.flush()
        return os.fstat(1).st_size

    def tail(self, start: int, lines: int) -> tuple[str, ...]:
        from hooke.pipeline.logs import last_lines

        return last_lines(self.path, start, lines)


class _Functions:
    """Functions by digest, each loaded and checked once."""

    def __init__(self) -> None:
        self._loaded: dict[str, Callable[..., Any]] = {}

    def get(self, task: Task) -> Callable[..., Any]:
        if task.digest not in self._loaded:
            assert task.pickle is not None
            function = _load(task.name, task.pickle)
            check_code(function, name=task.name, parts=task.parts)
            self._loaded[task.digest] = function
        return self._loaded[task.digest]


def _load(name: str, data: bytes) -> Callable[..., Any]:
    try:
        loaded = pickle.loads(data)
    except ImportError as error:
        raise EnvironmentMismatch(
            f"{name}: the worker cannot import what the task needs",
            task=name,
            why=f"{type(error).__name__}: {error}",
            mend="install the missing module where workers run, or put its folder on sys.path before the run starts",
        ) from error
    function: Callable[..., Any] = loaded.function
    return function


def main(fd: int, lifeline: int) -> None:
    """Serve attempts until told to end or the driver is gone."""
    threading.Thread(target=_follow_driver, args=(lifeline,), daemon=True).start()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    connection = Connection(fd)
    hello: Hello = pickle.loads(connection.recv_bytes())
    sys.path[:] = hello.sys_path
    output = _Output(hello.log)
    worker = Worker(
        name=hello.worker, store=Store.open(hello.store, secret=hello.secret), clock=SystemClock(), log=output
    )
    connection.send_bytes(b"")
    functions = _Functions()
    while True:
        try:
            data = connection.recv_bytes()
        except EOFError:
            return
        if not data:
            return
        task: Task = pickle.loads(data)
        _send(connection, _started(task, worker))
        _send(connection, _run(task, worker, functions))


def _started(task: Task, worker: Worker) -> AttemptStarted:
    return AttemptStarted(
        at=worker.clock.now(),
        attempt=task.attempt,
        node=task.node,
        lo=task.lo,
        hi=task.hi,
        worker=worker.name,
        number=task.number,
        expand=task.kind == "expand",
    )


def _run(task: Task, worker: Worker, functions: _Functions) -> AttemptFinished | AttemptFailed:
    try:
        function = functions.get(task)
    except HookeError as error:
        return _not_run(task, worker, error)
    work = Work(
        attempt=task.attempt,
        node=task.node,
        kind=task.kind,
        lo=task.lo,
        hi=task.hi,
        function=function,
        payload=task.payload,
        shown=task.shown,
    )
    return worker.run(work)


def _not_run(task: Task, worker: Worker, error: HookeError) -> AttemptFailed:
    return AttemptFailed(
        at=worker.clock.now(),
        attempt=task.attempt,
        node=task.node,
        lo=task.lo,
        hi=task.hi,
        worker=worker.name,
        failure=failure_of(error, arguments=task.shown),
    )


def _send(connection: Connection, event: Event) -> None:
    try:
        connection.send_bytes(msgspec.msgpack.encode(event))
    except BrokenPipeError:
        sys.exit(0)


def _follow_driver(lifeline: int) -> None:
    os.read(lifeline, 1)
    os.killpg(0, signal.SIGKILL)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
