"""Progress as plain lines: per task, to stderr or to a logger, or one summary per run."""

from __future__ import annotations

import logging
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TextIO

from hooke.base.formats import first_line, format_seconds, tries_text
from hooke.journal import events
from hooke.journal.events import FINISHED, WITH_FAILURES
from hooke.journal.run_folders import Transcript
from hooke.journal.run_view import RunView
from hooke.journal.task_view import TaskRow
from hooke.progress.display import TERMINAL, RunSnapshot
from hooke.progress.progress import gone

__all__ = ["Lines", "LoggedLines", "SummaryLines", "summary"]


EVERY_S = 5.0
"""The interval between progress lines of a running task."""
MOST_TROUBLES = 20
"""Only so many failures and retries of a task are printed."""


class Lines(AbstractContextManager["Lines"]):
    """Prints changes of state and at most one progress line per task and EVERY_S seconds. `earlier` is the view of a run that is resumed."""

    has_shown = False

    def __init__(self, out: TextIO | logging.Logger, earlier: RunView | None = None) -> None:
        self._out = out
        self._view = RunView() if earlier is None else earlier
        self._view.only_rows = True
        self._said: dict[str, str] = {}
        self._said_at: dict[str, float] = {}
        self._troubles: dict[str, int] = {}
        self._looked_at = 0.0
        self._waits_said_at = 0.0
        self._gone = False

    def __exit__(self, *_: object) -> None:
        """Nothing to do."""

    def observe(self, event: events.Event) -> None:
        """Print what is new in the event."""
        self._view.apply(event)
        match event:
            case events.RunStarted():
                begun = "resumed" if event.resumed else "started"
                self._say(f"run {event.run} {begun} on {event.place}")
            case events.AttemptFailed() if event.resized:
                self._say(f"{self._view.nodes[event.node].planned.task}: {event.failure.message}")
            case events.AttemptFailed():
                number, tries = self._view.nodes[event.node].tries_of(event)
                which = f" ({tries_text(number, tries)})" if tries > 1 else ""
                self._trouble(event.node, f"failed{which}: {_brief(event)}")
            case events.RetryPlanned():
                wait_s = max(0.0, event.due - event.at)
                when = f"in {format_seconds(wait_s)}" if wait_s else "now"
                self._trouble(
                    event.node,
                    f"runs again {when}: {event.reason}",
                    always=wait_s >= EVERY_S and event.at - self._waits_said_at >= EVERY_S,
                )
                if wait_s >= EVERY_S:
                    self._waits_said_at = event.at
            case events.WorkerStopped(signal=int()) | events.BackendTrouble() | events.StopRequested():
                self._say(_news(event))
            case events.RunFinished():
                self._finished(event)
            case events.NodePlanned():
                pass
            case _:
                self._look(event.at)

    def _look(self, now: float) -> None:
        """Print tasks that changed their state. It reads all tasks, so it skips events within 0.1 s."""
        if now - self._looked_at < 0.1:
            return
        self._looked_at = now
        for name, task in self._view.tasks.items():
            state, said = task.state, self._said.get(name, "waiting")
            settled = state in ("done", "cached")
            if (settled and said != state) or (state == "running" and said == "waiting"):
                self._tell(name, state, now)
            elif state in ("running", "partly") and now - self._said_at.get(name, now) >= EVERY_S:
                self._tell(name, said, now)

    def _tell(self, name: str, state: str, now: float) -> None:
        self._said[name], self._said_at[name] = state, now
        self._say(f"{name}: {_how_far(self._view.tasks[name].row(now))}")

    def _trouble(self, node: int, what: str, *, always: bool = False) -> None:
        """Print a failure or retry; after MOST_TROUBLES of a task only one that is to be printed `always`."""
        name = self._view.nodes[node].planned.task
        self._troubles[name] = count = self._troubles.get(name, 0) + 1
        if count <= MOST_TROUBLES or always:
            self._say(
                f"{name}: {what}" + (" (for further failures: hooke show)" if count == MOST_TROUBLES else "")
            )

    def _finished(self, event: events.RunFinished) -> None:
        for name, task in self._view.tasks.items():
            if task.state != self._said.get(name, "waiting") and task.state not in (
                "waiting",
                "running",
                "failed",
            ):
                self._tell(name, task.state, event.at)
        row = self._view.row(event.at)
        parts = [f"{row.done} done", f"{row.cached} cached", f"{row.failed} failed"]
        self._say(f"{row.ended_as} in {format_seconds(row.seconds)}: {', '.join(parts)}")

    def _say(self, line: str) -> None:
        if self._gone:
            return
        if isinstance(self._out, logging.Logger):
            self._out.info("%s", line)
            return
        try:
            TERMINAL.say(line, self._out)
        except (OSError, ValueError) as error:  # the reader is gone (`| head`); the run continues
            if not gone(error):
                raise
            self._gone = True


_run_log, _task_log = logging.getLogger("hooke.run"), logging.getLogger("hooke.tasks")


class LoggedLines(AbstractContextManager["LoggedLines"]):
    """Gives the same lines to the logger `hooke.run`, and what tasks print, when an attempt has ended, to `hooke.tasks`; all as INFO.

    `logs` is the folder with what tasks print.
    """

    has_shown = False

    def __init__(self, logs: Path, earlier: RunView | None = None) -> None:
        self._lines = Lines(_run_log, earlier)
        self._transcript = Transcript(logs)

    def __exit__(self, *_: object) -> None:
        """Nothing to do."""

    def observe(self, event: events.Event) -> None:
        """Log what is new in the event."""
        for line in self._transcript.event(event):
            _task_log.info("%s", line)
        self._lines.observe(event)


def _how_far(row: TaskRow) -> str:
    items = "?" if row.items is None else str(row.items)
    settled = row.done + row.cached
    if row.state in ("done", "cached", "not needed"):
        of = f" {settled} item{'s' * (settled != 1)}" if row.kind == "map" and settled else ""
        cached = f", {row.cached} of them cached" if row.cached and row.done else ""
        work = f", {format_seconds(row.seconds)} of work" if row.seconds and row.done else ""
        return f"{row.state}{of}{cached}{work}"
    if not settled:
        count = f"{row.least_ranks} to {row.gang}" if row.least_ranks else f"{row.gang}"
        ranks = f", {count} ranks{' each' * (row.items != 1)}" if row.gang else ""
        return f"running{ranks}" if row.items == 1 else f"running, {items} items{ranks}"
    rate = f", {row.rate:.3g}/s" if row.rate else ""
    left = f", about {format_seconds(row.remaining_s)} left" if row.remaining_s else ""
    failed = f", {row.failed} failed" if row.failed else ""
    return f"{settled} of {items}{failed}{rate}{left}"


def _news(event: events.WorkerStopped | events.BackendTrouble | events.StopRequested) -> str:
    match event:
        case events.WorkerStopped():
            return f"worker {event.worker} died: {event.cause}"
        case events.BackendTrouble():
            return f"{event.about}: {event.message}"
        case events.StopRequested():
            return f"stopping: {event.by}"


def _brief(event: events.AttemptFailed) -> str:
    return first_line(event.failure.whose + event.failure.message)


# --- One line for the whole run, for logs.

SUMMARY_EVERY_S = 5.0
"""The interval between lines with news."""
NOTHING_NEW_S = 60.0
"""The interval between lines without news, shorter than the timeout of CI systems for silent jobs."""
MOST_NAMES = 3
"""A line names at most so many running tasks."""


class SummaryLines:
    """Prints a line at the start, then at most one per SUMMARY_EVERY_S seconds, and one at the end.

    `patient` prints nothing while nothing happens, because tasks in this process may have stopped in a debugger.
    """

    every_s = 1.0

    def __init__(self, out: TextIO, *, patient: bool) -> None:
        self._out = out
        self._patient = patient
        self._said_at: float | None = None
        self._known: float | None = None

    def draw(self, snapshot: RunSnapshot) -> None:
        """Print the state if a line is due."""
        if not snapshot.run.run or not self._is_time(snapshot):
            return
        self._said_at, self._known = snapshot.now, snapshot.last_at
        TERMINAL.say(summary(snapshot), self._out)

    def close(self, snapshot: RunSnapshot) -> None:
        """Print the outcome."""
        TERMINAL.say(summary(snapshot), self._out)

    def _is_time(self, snapshot: RunSnapshot) -> bool:
        if self._known is None and self._patient:
            self._known = snapshot.last_at  # a task may already be in a debugger
            return False
        if self._said_at is None:
            return not self._patient or snapshot.last_at > (self._known or 0.0)
        waited = snapshot.now - self._said_at
        if snapshot.last_at > (self._known or 0.0):
            return waited >= SUMMARY_EVERY_S
        return waited >= NOTHING_NEW_S and not self._patient


def summary(snapshot: RunSnapshot) -> str:
    """The run in one line."""
    run = snapshot.run
    counts = [f"{run.done} done", f"{run.cached} cached", f"{run.failed} failed"]
    if run.status != "running":
        known = run.status in (FINISHED, WITH_FAILURES, "failed", "stopped")
        ended = run.ended_as if known else "ended"
        return f"run {run.run} {ended} in {format_seconds(run.seconds)}: {', '.join(counts)}"
    unknown = any(task.items is None for task in snapshot.tasks)
    state = f"stopping ({snapshot.stopping})" if snapshot.stopping else "running"
    parts = [f"{run.done + run.cached} of {run.items}{' or more' if unknown else ''} done"]
    parts += [f"{run.cached} of them cached"] if run.cached else []
    parts += [f"{run.failed} failed"] if run.failed else []
    return f"run {run.run} {state} for {format_seconds(run.seconds)}: {', '.join(parts + _now(snapshot))}"


def _now(snapshot: RunSnapshot) -> list[str]:
    names = [task.task for task in snapshot.tasks if task.state == "running"]
    more = f" and {len(names) - MOST_NAMES} more" if len(names) > MOST_NAMES else ""
    parts = [
        f"now {' and '.join(names[:MOST_NAMES]) if len(names) < 3 else ', '.join(names[:MOST_NAMES])}{more}"
    ]
    left = snapshot.run.remaining
    if left is not None and left.seconds:
        parts.append(f"{'at least' if left.untimed else 'about'} {format_seconds(left.seconds)} left")
    return parts if names else parts[1:]
