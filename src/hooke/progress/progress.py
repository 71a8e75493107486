"""From a run's events to a display, without making the run wait."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Protocol, Self

from hooke.base.forks import on_fork
from hooke.journal.events import Event
from hooke.journal.run_view import RunView
from hooke.progress.display import Display, RunSnapshot, snapshot_of

__all__ = ["WATCH", "ClockListener", "Drawn", "Progress", "ProgressClock", "Silent", "gone"]


# --- The thread that draws.

TICK_S = 0.2
"""Five pictures a second look like motion, and cost little."""
IDLE_S = 2.0
"""How long the thread outlives the last run: a start costs more than all else that a short run's progress does."""


class ClockListener(Protocol):
    """What wants to be told that time passes."""

    def tick(self, now: float) -> None:
        """Called every TICK_S with `time.monotonic()`, in the watch's thread. Must not raise."""
        ...


class ProgressClock:
    """Tells time to runs in one thread, which begins with the first run and ends IDLE_S after the last. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._watched: list[ClockListener] = []
        self._thread: threading.Thread | None = None

    def add(self, watched: ClockListener) -> None:
        """Begin to tell it. Raises RuntimeError where the machine gives no more threads."""
        with self._lock:
            self._watched.append(watched)
            if self._thread is None:
                on_fork(self)
                thread = threading.Thread(target=self._go_on, name="hooke-progress", daemon=True)
                thread.start()
                self._thread = thread

    def remove(self, watched: ClockListener) -> None:
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


WATCH = ProgressClock()
"""The process's own: one thread however many runs there are, so that no two draw at once."""


MOST_UNREAD = 10_000
"""So many events wait for the drawing thread; then the run's own thread folds them, so that memory stays bounded."""

_log = logging.getLogger(__name__)


class Progress(AbstractContextManager["Progress"], Protocol):
    """Shows a run while it is the current context. `observe` is called in the driver's thread: it is quick and raises nothing."""

    def observe(self, event: Event) -> None:
        """Take note of what happened."""
        ...


class Silent(AbstractContextManager["Silent"]):
    """Shows nothing."""

    def __exit__(self, *_: object) -> None:
        """Nothing to end."""

    def observe(self, event: Event) -> None:
        """Nothing to note."""


class Drawn(AbstractContextManager["Drawn"]):
    """Opens a display once the run has lasted `delay_s`, and has it drawn by the watch's thread; at the end, by the run's own.

    Until then an event costs its place in a queue, and a run that ends sooner shows nothing.
    """

    def __init__(self, open_display: Callable[[], Display], *, delay_s: float) -> None:
        self._open_display = open_display
        self._delay_s = delay_s
        self._due = 0.0
        self._unread: deque[Event] = deque()
        self._view = RunView()
        self._folding = threading.Lock()  # never held while something is written
        self._drawing = threading.Lock()
        self._display: Display | None = None
        self._ended = False

    def __enter__(self) -> Self:
        now = time.monotonic()
        self._due = now + self._delay_s
        if not self._delay_s:
            self.tick(now)
        try:
            WATCH.add(self)
        except RuntimeError:  # no more threads for this process: what it is to compute has need of them too
            self._ended = True
        return self

    def __exit__(self, *_: object) -> None:
        WATCH.remove(self)
        with self._drawing:
            if not self._ended and self._display is not None:
                self._close(self._display)
            self._ended = True

    def observe(self, event: Event) -> None:
        """Keep the event for the next picture."""
        self._unread.append(event)
        if len(self._unread) >= MOST_UNREAD:
            self._fold()

    def tick(self, now: float) -> None:
        """Draw if it is time to. Raises nothing."""
        with self._drawing:
            if self._ended:
                self._unread.clear()
            elif now >= self._due:
                self._draw()
                self._due = now + (self._display.every_s if self._display is not None else 0.0)

    def _draw(self) -> None:
        try:
            if self._display is None:
                self._display = self._open_display()
            self._display.draw(self._snapshot())
        except Exception as error:  # noqa: BLE001 - the run is not for its audience
            self._break_off(error)

    def _close(self, display: Display) -> None:
        try:
            display.close(self._snapshot())
        except Exception as error:  # noqa: BLE001 - the run is not for its audience
            if not gone(error):
                _log.warning("the progress of a run could not be ended", exc_info=True)

    def _break_off(self, error: Exception) -> None:
        self._ended = True
        if not gone(error):
            _log.warning("the progress of a run is shown no more; the run goes on", exc_info=error)
        if self._display is not None:
            with contextlib.suppress(Exception):  # it cannot write, and yet it leaves the terminal as it was
                self._display.close(self._snapshot())

    def _fold(self) -> None:
        with self._folding:
            while self._unread:
                self._view.apply(self._unread.popleft())

    def _snapshot(self) -> RunSnapshot:
        self._fold()
        with self._folding:
            return snapshot_of(self._view, time.time())


def gone(error: Exception) -> bool:
    """Whether an error of writing says that nobody reads any more: a pipe without a reader, a closed file or terminal."""
    return isinstance(error, OSError) or (isinstance(error, ValueError) and "closed file" in str(error))
