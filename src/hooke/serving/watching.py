"""Work for a request whose caller may go, and may not wait for ever; what is done at once costs next to nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Generator
from typing import Any

__all__ = ["CallerGone", "Receive", "TooLate", "Watches", "begun"]

Receive = Callable[[], Awaitable[Any]]


class CallerGone(Exception):
    """Whoever asked has closed the connection."""


class TooLate(Exception):
    """The work went on beyond its deadline."""


class _Watch:
    __slots__ = ("deadline", "listener", "outcome", "receive", "since", "task")

    def __init__(self, receive: Receive, since: float, deadline: float) -> None:
        self.receive = receive
        self.since = since
        self.deadline = deadline
        self.task = asyncio.current_task()
        self.listener: asyncio.Task[None] | None = None
        self.outcome: type[Exception] | None = None

    def end(self, outcome: type[Exception]) -> None:
        if self.outcome is None and self.task is not None:
            self.outcome = outcome
            self.task.cancel()

    async def listen(self) -> None:
        while (await self.receive())["type"] != "http.disconnect":
            pass
        self.end(CallerGone)


class Watches:
    """All work that is not done yet, looked at every `every_s` seconds by one timer: a timer for each would cost more than most work."""

    def __init__(self, every_s: float) -> None:
        self._every_s = every_s
        self._loop = asyncio.get_running_loop()
        self._open: dict[_Watch, None] = {}
        self._sweeping = False

    async def over(self, work: Awaitable[Any], receive: Receive, deadline: float) -> Any:
        """What `work` gives. Raises CallerGone or TooLate, after cancelling it; a connection is listened to once work takes long."""
        watch = _Watch(receive, self._loop.time(), deadline)
        self._open[watch] = None
        if not self._sweeping:
            self._sweeping = True
            self._loop.call_later(self._every_s, self._sweep)
        try:
            return await work
        except asyncio.CancelledError:
            if watch.outcome is None or watch.task is None:
                raise
            watch.task.uncancel()
            raise watch.outcome from None
        finally:
            del self._open[watch]
            if watch.listener is not None:
                watch.listener.cancel()

    def _sweep(self) -> None:
        now = self._loop.time()
        for watch in list(self._open):
            if now >= watch.deadline:
                watch.end(TooLate)
            elif watch.listener is None and now - watch.since >= self._every_s:
                watch.listener = self._loop.create_task(watch.listen())
        self._sweeping = bool(self._open)
        if self._sweeping:
            self._loop.call_later(self._every_s, self._sweep)


class begun:  # noqa: N801 - it is called as a function, and awaited
    """A coroutine that has run up to its first wait. `done` tells whether there was none, and then `value` is its result.

    Raises what the coroutine raises before it waits.
    """

    __slots__ = ("_coroutine", "_first", "done", "value")

    def __init__(self, coroutine: Coroutine[Any, Any, Any]) -> None:
        self._coroutine = coroutine
        self.value: Any = None
        try:
            self._first = coroutine.send(None)
        except StopIteration as stop:
            self.done, self.value = True, stop.value
        else:
            self.done = False

    def __await__(self) -> Generator[Any, Any, Any]:
        """Go on with it, once. What it waits for is waited for by the task that awaits this."""
        yielded = self._first
        while True:
            try:
                sent = yield yielded
            except BaseException as thrown:  # noqa: BLE001 - handed on to the coroutine, whatever it is
                step, value = self._coroutine.throw, thrown
            else:
                step, value = self._coroutine.send, sent
            try:
                yielded = step(value)
            except StopIteration as stop:
                return stop.value
