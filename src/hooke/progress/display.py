"""The protocol of displays, the snapshots that they draw, and the shared terminal."""

from __future__ import annotations

import threading
from typing import Protocol, TextIO

import msgspec

from hooke.base.formats import readable
from hooke.base.this_process import silence
from hooke.journal.run_view import RunRow, RunView
from hooke.journal.task_view import TaskRow

__all__ = ["TERMINAL", "Display", "RunSnapshot", "Terminal", "clock", "most_telling", "snapshot_of"]


class RunSnapshot(msgspec.Struct, frozen=True, kw_only=True):
    """A run at one moment, independent of its view, so that drawing and observing can overlap.

    `now` and `last_at` (of the last event) are wall-clock seconds; `workers` are process ids.
    """

    now: float
    last_at: float
    run: RunRow
    tasks: list[TaskRow]
    workers: tuple[int, ...]
    stopping: str | None


class Display(Protocol):
    """Shows snapshots of one run. Calls come one at a time from any thread, `close` last.

    An exception ends the display, but not the run.
    """

    every_s: float
    """The interval between draws."""

    def draw(self, snapshot: RunSnapshot) -> None:
        """Show the current state."""

    def close(self, snapshot: RunSnapshot) -> None:
        """Show the final state, and restore the terminal."""


def snapshot_of(view: RunView, now: float) -> RunSnapshot:
    """The run at `now`; it costs the tasks, and the nodes that changed since the last one."""
    return RunSnapshot(
        now=now,
        last_at=view.last_at,
        run=view.row(now),
        tasks=view.rows(now),
        workers=tuple(worker.pid for worker in view.workers.values() if worker.pid),
        stopping=view.stopping_by,
    )


def clock(seconds: float) -> str:
    """A duration of stable width: `0:07`, `1:02:45`."""
    minutes, second = divmod(int(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02d}:{second:02d}" if hours else f"{minute}:{second:02d}"


def most_telling(tasks: list[TaskRow], most: int) -> list[TaskRow]:
    """At most `most` tasks in their order, preferring running and failed ones, then waiting ones."""
    if len(tasks) <= most:
        return tasks
    order = {"running": 0, "failed": 0, "partly": 1, "waiting": 2}
    ranked = sorted(range(len(tasks)), key=lambda at: (order.get(tasks[at].state, 3), at))
    return [tasks[at] for at in sorted(ranked[: most - 1])]


# --- The terminal, shared by the runs of one process.


class Above(Protocol):
    """A picture that is redrawn at the end of a terminal."""

    def above(self, line: str) -> None:
        """Print a line above the picture."""


class Terminal:
    """Holds at most one live picture, and prints the lines of other runs above it. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._picture: Above | None = None

    def claim(self, picture: Above) -> bool:
        """Reserve the terminal for a live picture; False if it has one."""
        with self._lock:
            if self._picture is not None:
                return False
            self._picture = picture
            return True

    def release(self, picture: Above) -> None:
        """Release the terminal."""
        with self._lock:
            if self._picture is picture:
                self._picture = None

    def say(self, line: str, out: TextIO) -> None:
        """Print a line to `out`. Raises OSError and ValueError of writing."""
        line = readable(line)
        with self._lock:
            if self._picture is not None and out.isatty():
                self._picture.above(line)
            else:
                # One write, so that lines of two runs do not interleave.
                try:
                    out.write(f"{line}\n")
                    out.flush()
                except OSError:
                    silence(out)
                    raise


TERMINAL = Terminal()
"""The terminal of this process."""
