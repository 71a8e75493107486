"""The one thread in which a service's own code runs, so that the event loop never waits for it."""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Callable
from typing import Any

__all__ = ["ModelThread"]

Done = Callable[[Any, BaseException | None], None]


class ModelThread:
    """Runs jobs in the order in which they were submitted, and tells the event loop of each.

    One thread for the whole life of a service: what is bound to the thread that made it (SQLite, CUDA contexts) works.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._jobs: queue.SimpleQueue[tuple[Callable[[], Any], Done] | None] = queue.SimpleQueue()
        # A model that hangs must not keep a process from ending.
        self._thread = threading.Thread(target=self._work, name="hooke-model", daemon=True)
        self._thread.start()

    def submit(self, job: Callable[[], Any], done: Done) -> None:
        """Run `job` there; `done` gets its result, or what it raised, on the event loop."""
        self._jobs.put((job, done))

    async def run(self, job: Callable[[], Any]) -> Any:
        """Run `job` there and wait for it. Raises what it raises."""
        future: asyncio.Future[Any] = self._loop.create_future()

        def done(result: Any, error: BaseException | None) -> None:
            if not future.done():
                future.set_exception(error) if error is not None else future.set_result(result)

        self.submit(job, done)
        return await future

    def close(self, timeout_s: float = 1.0) -> None:
        """End the thread when its jobs are done; one that hangs is left behind."""
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
