"""The thread that draws."""

from __future__ import annotations

import threading
import time
from typing import Protocol

from hooke.base.forks import on_fork

__all__ = ["WATCH", "Watch", "Watched"]

TICK_S = 0.2
"""Five pictures a second look like motion, and cost little."""
IDLE_S = 2.0
"""How long the thread outlives the last run: a start costs more than all else that a short run's progress does."""


class Watched(Protocol):
    """What wants to be told that time passes."""

    def tick(self, now: float) -> None:
        """Called every TICK_S with `time.monotonic()`, in the watch's thread. Must not raise."""
        ...


class Watch:
    """Tells time to runs in one thread, which begins with the first run and ends IDLE_S after the last. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._watched: list[Watched] = []
        self._thread: threading.Thread | None = None

    def add(self, watched: Watched) -> None:
        """Begin to tell it. Raises RuntimeError where the machine gives no more threads."""
        with self._lock:
            self._watched.append(watched)
            if self._thread is None:
                on_fork(self)
                thread = threading.Thread(target=self._go_on, name="hooke-progress", daemon=True)
                thread.start()
                self._thread = thread

    def remove(self, watched: Watched) -> None:
        """Tell it no more; a tick that is going on may still end. What was not added is no error."""
        with self._lock:
            if watched in self._watched:
                self._watched.remove(watched)

    def after_fork(self) -> None:
        """In a child: the thread and the runs are the parent's."""
        self.__init__()  # type: ignore[misc]

    def _go_on(self) -> None:
        idle_since = time.monotonic()
        while True:
            time.sleep(TICK_S)
            now = time.monotonic()
            with self._lock:
                watched = tuple(self._watched)
                if watched:
                    idle_since = now
                elif now - idle_since >= IDLE_S:
                    self._thread = None
                    return
            for each in watched:
                each.tick(now)


WATCH = Watch()
"""The process's own: one thread however many runs there are, so that no two draw at once."""
