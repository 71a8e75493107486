"""The one thread in which a service's own code runs, so that the event loop never waits for it."""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from hooke.serving.payloads import Method
from hooke.serving.problems import Problem
from hooke.serving.service import Service
from hooke.serving.work import Arguments, Done, Made, Work, make

__all__ = ["ModelThread"]


class ModelThread:
    """Does work in the order in which it was submitted, and tells the event loop of each piece.

    One thread for the whole life of a service: what is bound to the thread that made it (SQLite, CUDA contexts) works.
    """

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._jobs: queue.SimpleQueue[tuple[Callable[[], Any], Done] | None] = queue.SimpleQueue()
        # A model that hangs must not keep a process from ending.
        self._thread = threading.Thread(target=self._work, name="hooke-model", daemon=True)
        self._thread.start()
        self._made: Made | None = None

    async def start(self, declared: Service, methods: Mapping[str, Method], arguments: Arguments) -> Made:
        """Make the object there, and set it up. Raises HookeError for what that raised."""
        future: asyncio.Future[Made] = self._loop.create_future()

        def done(result: Any, error: BaseException | None) -> None:
            if not future.done():
                future.set_exception(error) if error is not None else future.set_result(result)

        self._jobs.put((lambda: make(declared, methods, arguments), done))
        self._made = await future
        return self._made

    def submit(self, work: Work, done: Done) -> None:
        """Do it there; `done` is called on the event loop."""
        assert self._made is not None, "it is set up before"
        self._jobs.put((partial(self._made.do, work), done))

    def away(self) -> Problem | None:
        """None: it ends with this process alone."""
        return None

    def when_back(self, back: Callable[[], None]) -> None:
        """Never."""

    def memory_bytes(self) -> int:
        """None beside this process's own."""
        return 0

    def close(self, timeout_s: float = 1.0) -> None:
        """End the thread when its work is done; one that hangs is left behind."""
        self._jobs.put(None)
        self._thread.join(timeout_s)

    def _work(self) -> None:
        while (item := self._jobs.get()) is not None:
            job, done = item
            result, error = None, None
            try:
                result = job()
            except StopIteration as stop:
                error = RuntimeError(f"StopIteration({stop.value!r}) was raised outside a generator")
            except BaseException as raised:  # noqa: BLE001 - exit() in a service's code is a failed request, too
                error = raised
            try:
                self._loop.call_soon_threadsafe(done, result, error)
            except RuntimeError:  # the loop is closed: nobody waits
                return
