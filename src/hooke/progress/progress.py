"""Observers of a run's events, and the thread that draws, so that the run never waits for a display."""

from __future__ import annotations

import contextlib
import logging
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Protocol, Self

from hooke.base.this_process import on_fork, silence
from hooke.journal.events import Event
from hooke.journal.run_view import RunView
from hooke.progress.display import Display, RunSnapshot, snapshot_of

__all__ = ["WATCH", "ClockListener", "Drawn", "Progress", "ProgressClock", "Silent", "gone"]


# --- The thread that draws.

TICK_S = 0.2
"""Five frames per second look smooth and cost little."""
IDLE_S = 2.0
"""The thread stays for this long after the last run, because starting it is the main cost of a short run's progress."""


class ClockListener(Protocol):
    """A listener of the progress clock."""

    def tick(self, now: float) -> None:
        """Called every TICK_S with `time.monotonic()` in the clock's thread. Must not raise."""


class ProgressClock:
    """Ticks all runs from one thread, which starts with the first run and ends IDLE_S after the last. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._watched: list[ClockListener] = []
        self._thread: threading.Thread | None = None

    def add(self, watched: ClockListener) -> None:
        """Add a listener. Raises RuntimeError if no thread can start."""
        with self._lock:
            self._watched.append(watched)
            if self._thread is None:
                on_fork(self)
                thread = threading.Thread(target=self._go_on, name="hooke-progress", daemon=True)
                thread.start()
                self._thread = thread

    def remove(self, watched: ClockListener) -> None:
        """Remove a listener, if present. A current tick may still finish."""
        with self._lock:
            if watched in self._watched:
                self._watched.remove(watched)

    def after_fork(self) -> None:
        """Reset in a child process; the thread and the runs belong to the parent."""
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
"""The clock of this process: one thread for all runs, so only one draws at a time."""


MOST_UNREAD = 10_000
"""At most so many events wait for the drawing thread; then the run's thread folds them, which bounds memory."""

_log = logging.getLogger(__name__)


class Progress(AbstractContextManager["Progress"], Protocol):
    """Shows a run while its context is open. `observe` runs in the driver's thread; it is quick and raises nothing."""

    @property
    def has_shown(self) -> bool:
        """Whether there is a display, on a terminal or in a notebook."""

    def observe(self, event: Event) -> None:
        """Record an event."""


class Silent(AbstractContextManager["Silent"]):
    """No display."""

    has_shown = False

    def __exit__(self, *_: object) -> None:
        """Nothing to do."""

    def observe(self, event: Event) -> None:
        """Nothing to do."""


class Drawn(AbstractContextManager["Drawn"]):
    """Opens a display after `delay_s`. The clock's thread draws it, and the run's thread draws the end.

    Before that, events only queue up, and a shorter run shows nothing. `earlier` is the view of a run that is resumed.
    """

    def __init__(
        self, open_display: Callable[[], Display], *, delay_s: float, earlier: RunView | None = None
    ) -> None:
        self._open_display = open_display
        self._delay_s = delay_s
        self._due = 0.0
        self._unread: deque[Event] = deque()
        self._view = RunView() if earlier is None else earlier
        self._view.only_rows = True
        self._folding = threading.Lock()  # never held while writing
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
        except RuntimeError:  # no thread available, so no display
            self._ended = True
        return self

    def __exit__(self, *_: object) -> None:
        WATCH.remove(self)
        with self._drawing:
            if not self._ended and self._display is not None:
                self._close(self._display)
            self._ended = True

    @property
    def has_shown(self) -> bool:
        """Whether the run took long enough to be shown."""
        return self._display is not None

    def observe(self, event: Event) -> None:
        """Queue the event for the next frame."""
        self._unread.append(event)
        if len(self._unread) >= MOST_UNREAD:
            self._fold()

    def tick(self, now: float) -> None:
        """Draw if due. Raises nothing."""
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
        except Exception as error:  # noqa: BLE001 - a display must not fail the run
            self._break_off(error)

    def _close(self, display: Display) -> None:
        try:
            display.close(self._snapshot())
        except Exception as error:  # noqa: BLE001 - a display must not fail the run
            if not gone(error):
                _log.warning("the progress display could not close", exc_info=True)

    def _break_off(self, error: Exception) -> None:
        self._ended = True
        if gone(error):
            silence(sys.stderr)
        else:
            _log.warning("the progress display failed; the run continues", exc_info=error)
        if self._display is not None:
            with contextlib.suppress(Exception):  # restores the terminal even if it cannot write
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
    """Whether a write failed because the reader is gone: a broken pipe, a closed file or terminal."""
    return isinstance(error, OSError) or (isinstance(error, ValueError) and "closed file" in str(error))
