"""Work that begins later, each in a thread of its own. No thread starts for work that is cancelled before: most runs are short."""

from __future__ import annotations

import heapq
import itertools
import threading
import time
from collections.abc import Callable

from hooke.base.this_process import on_fork

__all__ = ["LATER", "Later", "LaterWork"]

IDLE_S = 5.0
"""The thread that waits ends when nothing was asked for so long: a process may make many runs, one after another."""

AGAIN_S = 1.0
"""How long before the next try, if the system has no room for a thread."""


class LaterWork:
    """What is to begin later."""

    __slots__ = ("_is_cancelled", "_lock", "_thread", "name", "run")

    def __init__(self, run: Callable[[], None], name: str) -> None:
        self.run = run
        self.name = name
        self._lock = threading.Lock()
        self._is_cancelled = False
        self._thread: threading.Thread | None = None

    def begin(self) -> None:
        """Start its thread, unless it was cancelled. Raises RuntimeError or MemoryError if no thread can start."""
        with self._lock:
            if not self._is_cancelled:
                thread = threading.Thread(target=self.run, name=self.name, daemon=True)
                thread.start()
                self._thread = thread

    def cancel(self) -> None:
        """See that it does not begin. If it has begun, wait for its end."""
        with self._lock:
            self._is_cancelled = True
        if self._thread is not None:
            self._thread.join()


class Later:
    """Begins all such work of a process. One thread waits for it, from the first work until IDLE_S after the last. Thread-safe."""

    def __init__(self) -> None:
        self._changed = threading.Condition(threading.Lock())
        self._waiting: list[tuple[float, int, LaterWork]] = []
        self._count = itertools.count()
        self._awake_s = 0.0
        """When the thread looks again by itself."""
        self._thread: threading.Thread | None = None

    def after(self, seconds: float, run: Callable[[], None], *, name: str) -> LaterWork:
        """Have `run` begin in so many seconds, in a thread of this name. Raises RuntimeError if no thread can wait for it; then it never begins."""
        work, due_s = LaterWork(run, name), time.monotonic() + seconds
        with self._changed:
            if self._thread is None:
                on_fork(self)
                thread = threading.Thread(target=self._wait, name="hooke-later", daemon=True)
                thread.start()
                self._thread = thread
            heapq.heappush(self._waiting, (due_s, next(self._count), work))
            if due_s < self._awake_s:
                self._changed.notify()
        return work

    def after_fork(self) -> None:
        """In a child: the thread, and what waits, are the parent's."""
        self.__init__()  # type: ignore[misc]

    def _wait(self) -> None:
        while True:
            with self._changed:
                now = time.monotonic()
                idle = not self._waiting
                self._awake_s = now + IDLE_S if idle else self._waiting[0][0]
                if self._awake_s > now:
                    self._changed.wait(self._awake_s - now)
                if idle and not self._waiting:
                    self._thread = None
                    return
                due: list[LaterWork] = []
                while self._waiting and self._waiting[0][0] <= time.monotonic():
                    due.append(heapq.heappop(self._waiting)[2])
            for work in due:
                try:
                    work.begin()
                except (RuntimeError, MemoryError):  # the system has no room for a thread now
                    with self._changed:
                        heapq.heappush(self._waiting, (time.monotonic() + AGAIN_S, next(self._count), work))


LATER = Later()
"""That of this process."""
