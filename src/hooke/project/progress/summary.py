"""Progress for logs: now and then one line for the whole run."""

from __future__ import annotations

from typing import TextIO

from hooke.base.formats import format_seconds
from hooke.project.progress.display import Snapshot
from hooke.project.progress.terminal import TERMINAL

__all__ = ["Summary", "summary"]

EVERY_S = 5.0
"""How often something new is said."""
NOTHING_NEW_S = 60.0
"""How often it is said that a run goes on of which nothing new is known: shorter than what kills a silent job."""
MOST_NAMES = 3
"""How many running tasks a line names."""


class Summary:
    """Writes a line when it opens, at most one each EVERY_S seconds from then on, and one at the end.

    `patient`: nothing is said while nothing happens, for the tasks run in this process and may have stopped in a debugger.
    """

    every_s = 1.0

    def __init__(self, out: TextIO, *, patient: bool) -> None:
        self._out = out
        self._patient = patient
        self._said_at: float | None = None
        self._known: float | None = None

    def draw(self, snapshot: Snapshot) -> None:
        """Say where the run stands, if it is time to."""
        if not snapshot.run.run or not self._is_time(snapshot):
            return
        self._said_at, self._known = snapshot.now, snapshot.last_at
        TERMINAL.say(summary(snapshot), self._out)

    def close(self, snapshot: Snapshot) -> None:
        """Say what the run came to."""
        TERMINAL.say(summary(snapshot), self._out)

    def _is_time(self, snapshot: Snapshot) -> bool:
        if self._known is None and self._patient:
            self._known = snapshot.last_at  # it may be in a debugger already
            return False
        if self._said_at is None:
            return not self._patient or snapshot.last_at > (self._known or 0.0)
        waited = snapshot.now - self._said_at
        if snapshot.last_at > (self._known or 0.0):
            return waited >= EVERY_S
        return waited >= NOTHING_NEW_S and not self._patient


def summary(snapshot: Snapshot) -> str:
    """The run in one line."""
    run = snapshot.run
    counts = [f"{run.done} done", f"{run.cached} cached", f"{run.failed} failed"]
    if run.status != "running":
        ended = run.status if run.status in ("finished", "failed", "stopped") else "ended"
        return f"run {run.run} {ended} in {format_seconds(run.seconds)}: {', '.join(counts)}"
    unknown = any(task.items is None for task in snapshot.tasks)
    state = f"stopping ({snapshot.stopping})" if snapshot.stopping else "running"
    parts = [f"{run.done + run.cached} of {run.items}{' or more' if unknown else ''} done"]
    parts += [f"{run.cached} of them cached"] if run.cached else []
    parts += [f"{run.failed} failed"] if run.failed else []
    return f"run {run.run} {state} for {format_seconds(run.seconds)}: {', '.join(parts + _now(snapshot))}"


def _now(snapshot: Snapshot) -> list[str]:
    names = [task.task for task in snapshot.tasks if task.state == "running"]
    more = f" and {len(names) - MOST_NAMES} more" if len(names) > MOST_NAMES else ""
    parts = [
        f"now {' and '.join(names[:MOST_NAMES]) if len(names) < 3 else ', '.join(names[:MOST_NAMES])}{more}"
    ]
    left = snapshot.run.remaining
    if left is not None and left.seconds:
        parts.append(f"{'at least' if left.untimed else 'about'} {format_seconds(left.seconds)} left")
    return parts if names else parts[1:]
