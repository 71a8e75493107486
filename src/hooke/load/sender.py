"""Sends requests when they are due, over as many connections as it takes."""

from __future__ import annotations

import asyncio
import gc
import ssl
import time
from array import array
from collections import deque
from typing import Any

import numpy as np

from hooke.load.alarm import Alarm
from hooke.load.connection import Connection
from hooke.load.outcomes import Fate
from hooke.load.wire import Goal, Level, Report

__all__ = ["Sender"]

SWEEP_S = 0.02
"""How late a timeout is noticed."""
_now = time.perf_counter


class Sender:
    """Keeps the connections of one goal, and runs one level at a time. Lives on one event loop."""

    def __init__(self, goal: Goal) -> None:
        self._goal = goal
        self._loop = asyncio.get_running_loop()
        self._context = ssl.create_default_context(cafile=goal.ca or None) if goal.tls else None
        self._idle: deque[Connection] = deque()
        self._open = 0
        self._opening: set[asyncio.Task[None]] = set()
        self._flying: dict[int, Connection] = {}
        self._sweeper: asyncio.TimerHandle | None = None
        self._timeout_s = 0.0
        self._clear(array("d"))
        self._loop.set_exception_handler(self._broken)

    def _clear(self, due: array[float]) -> None:
        """Nothing of a level yet."""
        self._due = due
        self._begun = array("d", bytes(8 * len(due)))
        self._ended = array("d", bytes(8 * len(due)))
        self._status = array("h", bytes(2 * len(due)))
        self._next = self._oldest = self._done = 0
        self._opened = self._waited = 0
        self._most = self._open  # a level goes on with those of the one before
        self._pending: deque[int] = deque()
        self._said: dict[int, str] = {}
        self._cpu_s = self._start = 0.0
        self._over = self._loop.create_future()

    async def run(self, level: Level) -> Report:
        """Send all of a level and wait for what becomes of it."""
        self._clear(array("d", level.due))
        self._timeout_s = level.timeout_s
        self._alarm = Alarm(self._loop, self._fire)
        gc.collect()
        gc.disable()  # a collection stops everything for milliseconds; a level makes few cycles
        try:
            before = time.process_time()
            started, self._start = time.monotonic(), _now()
            self._fire()
            self._sweep()
            stopped = await self._over
        finally:
            gc.enable()
            self._alarm.close()
            if self._sweeper is not None:
                self._sweeper.cancel()
        return Report(
            begun=self._begun.tobytes(),
            ended=self._ended.tobytes(),
            status=self._status.tobytes(),
            cpu_s=(self._cpu_s or time.process_time()) - before,
            wall_s=max(self._due[-1], self._begun[-1]) or _now() - self._start,
            started=started,
            opened=self._opened,
            most=self._most,
            waited=self._waited,
            stopped=stopped,
            said=self._said,
        )

    def stop(self) -> None:
        """End the level: what has no answer yet is cut."""
        now = _now() - self._start
        for request in np.flatnonzero(np.asarray(self._status) == 0).tolist():
            self._status[request] = Fate.CUT
            self._ended[request] = now
            if request >= self._next:
                self._begun[request] = now
        self._next = len(self._due)
        for connection in self._flying.values():
            connection.drop()
        self._flying.clear()
        self._finish(stopped=True)

    def settled(self, request: int, status: int, said: bytes) -> None:
        """As Keeper has it."""
        self._flying.pop(request, None)
        if not self._status[request]:
            self._settle(request, self._judged(request, status, said), said)

    def free(self, connection: Connection) -> None:
        """As Keeper has it."""
        if not connection.usable:
            return  # it is told to be gone soon
        request = self._next_pending()
        if request is None:
            self._idle.append(connection)
        else:
            self._send(connection, request)

    def gone(self, connection: Connection) -> None:  # noqa: ARG002 - Keeper's signature
        """As Keeper has it."""
        self._open -= 1
        self._open_more()

    def _fire(self) -> None:
        """Begin all that is due, and see to be called for the next."""
        due, count = self._due, len(self._due)
        now = _now() - self._start
        while self._next < count and due[self._next] <= now:
            request = self._next
            self._next += 1
            self._begun[request] = now
            self._begin(request)
            now = _now() - self._start
        if self._next < count:
            self._alarm.set(due[self._next] - now)
        elif not self._cpu_s:
            self._cpu_s = time.process_time()

    def _begin(self, request: int) -> None:
        while self._idle:
            connection = self._idle.popleft()
            if connection.usable:
                self._send(connection, request)
                return
        self._pending.append(request)
        if not self._open_more() and self._open >= self._goal.connections:
            self._waited += 1

    def _send(self, connection: Connection, request: int) -> None:
        self._flying[request] = connection
        requests = self._goal.requests
        connection.send(request, requests[request % len(requests)])

    def _open_more(self) -> bool:
        """Open a connection if one is missing: no more than there are requests without one, and than are allowed."""
        wanted = len(self._opening) < len(self._pending) and self._open < self._goal.connections
        if wanted:
            self._open += 1
            task = self._loop.create_task(self._connect())
            self._opening.add(task)
            task.add_done_callback(self._opening.discard)
        return wanted

    async def _connect(self) -> None:
        goal = self._goal
        try:
            _, connection = await asyncio.wait_for(
                self._loop.create_connection(
                    lambda: Connection(self, keeps=bool(goal.answers)),
                    goal.host,
                    goal.port,
                    ssl=self._context,
                ),
                self._timeout_s,
            )
        except (OSError, TimeoutError) as error:
            self._open -= 1
            self._said.setdefault(Fate.REFUSED, str(error) or type(error).__name__)
            self._opening.discard(asyncio.current_task())  # type: ignore[arg-type] - it is one
            self._fail_one(Fate.REFUSED)
            self._open_more()
            return
        self._opened += 1
        self._most = max(self._most, self._open)
        if connection.usable:
            self.free(connection)
        else:
            self._fail_one(Fate.LOST)

    def _fail_one(self, fate: Fate) -> None:
        """The request that a connection was made for."""
        request = self._next_pending()
        if request is not None:
            self._settle(request, fate, b"")

    def _next_pending(self) -> int | None:
        """The oldest that waits for a connection and was not given up."""
        while self._pending:
            request = self._pending.popleft()
            if not self._status[request]:
                return request
        return None

    def _judged(self, request: int, status: int, said: bytes) -> int:
        """The status, but for a good one whose answer is not what it may be."""
        answers = self._goal.answers
        if not answers or not 200 <= status < 300 or said in answers[request % len(answers)]:
            return status
        return Fate.WRONG

    def _settle(self, request: int, status: int, said: bytes) -> None:
        self._ended[request] = _now() - self._start
        self._status[request] = status
        if said and not 200 <= status < 300 and status not in self._said:
            self._said[status] = said.decode(errors="replace")
        self._done += 1
        if self._done == len(self._due):
            self._finish(stopped=False)

    def _broken(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """A callback failed: the level would never end."""
        loop.default_exception_handler(context)
        if not self._over.done():
            self._over.set_exception(context.get("exception") or RuntimeError(context["message"]))

    def _finish(self, *, stopped: bool) -> None:
        if not self._over.done():
            self._over.set_result(stopped)

    def _sweep(self) -> None:
        """Give up what has waited too long, wherever it is."""
        late = _now() - self._start - self._timeout_s
        while self._oldest < self._next and (self._status[self._oldest] or self._due[self._oldest] <= late):
            request = self._oldest
            self._oldest += 1
            if not self._status[request]:
                connection = self._flying.pop(request, None)
                if connection is not None:
                    connection.drop()
                self._settle(request, Fate.TIMED_OUT, b"")
        self._sweeper = self._loop.call_later(SWEEP_S, self._sweep)
