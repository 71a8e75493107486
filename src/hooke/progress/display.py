"""What a display is given to draw, and what one is."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import Protocol, TextIO

from hooke.journal.run_view import RunRow, RunView
from hooke.journal.task_view import TaskRow

__all__ = ["TERMINAL", "Display", "RunSnapshot", "Terminal", "clock", "most_telling", "snapshot_of"]


@dataclass(frozen=True, slots=True, kw_only=True)
class RunSnapshot:
    """A run at one moment, apart from its view: it can be drawn while the view goes on.

    `now` and `last_at` (of the last event) are wall-clock seconds; `workers` are process ids.
    """

    now: float
    last_at: float
    run: RunRow
    tasks: list[TaskRow]
    workers: tuple[int, ...]
    stopping: str | None


class Display(Protocol):
    """Shows snapshots of one run. Its methods are called one at a time, in any thread; `close` is the last call.

    What they raise ends the display, and nothing else.
    """

    every_s: float
    """How often it likes to draw."""

    def draw(self, snapshot: RunSnapshot) -> None:
        """Show where the run stands."""
        ...

    def close(self, snapshot: RunSnapshot) -> None:
        """Show the last state, and leave the place as it was found."""
        ...


def snapshot_of(view: RunView, now: float) -> RunSnapshot:
    """The run at `now`; costs the number of its graph's nodes."""
    return RunSnapshot(
        now=now,
        last_at=view.last_at,
        run=view.row(now),
        tasks=view.rows(now),
        workers=tuple(worker.pid for worker in view.workers.values() if worker.pid),
        stopping=view.stopping_by,
    )


def clock(seconds: float) -> str:
    """Steady to look at: `0:07`, `1:02:45`."""
    minutes, second = divmod(int(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02d}:{second:02d}" if hours else f"{minute}:{second:02d}"


def most_telling(tasks: list[TaskRow], most: int) -> list[TaskRow]:
    """At most so many tasks, in their order: those that run or failed first, then those that wait, then the others."""
    if len(tasks) <= most:
        return tasks
    order = {"running": 0, "failed": 0, "partly": 1, "waiting": 2}
    ranked = sorted(range(len(tasks)), key=lambda at: (order.get(tasks[at].state, 3), at))
    return [tasks[at] for at in sorted(ranked[: most - 1])]


# --- stderr as the runs of one process share it.


class Above(Protocol):
    """A picture that is drawn again and again at the end of a terminal."""

    def above(self, line: str) -> None:
        """Print a line above the picture."""
        ...


class Terminal:
    """Holds at most one live picture; lines of other runs go above it, for below it the next frame would tear. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._picture: Above | None = None

    def claim(self, picture: Above) -> bool:
        """Take the place for a live picture; False where there is one already."""
        with self._lock:
            if self._picture is not None:
                return False
            self._picture = picture
            return True

    def release(self, picture: Above) -> None:
        """Give the place back."""
        with self._lock:
            if self._picture is picture:
                self._picture = None

    def say(self, line: str, out: TextIO) -> None:
        """Print a line to `out`. Raises what printing raises."""
        with self._lock:
            if self._picture is not None and out.isatty():
                self._picture.above(line)
            else:
                # One write: two runs' lines must not be woven into one another.
                out.write(f"{line}\n")
                out.flush()


TERMINAL = Terminal()
"""The process's own."""
