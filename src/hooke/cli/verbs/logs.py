"""`hooke logs`: what the tasks of a run printed, each line with its task and attempt before it."""

from __future__ import annotations

import json
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

import click

from hooke.cli.options import complete_run, in_project, run_and_task, the_project
from hooke.cli.screens import CommandSession, command
from hooke.journal.events import (
    AttemptFailed,
    AttemptFinished,
    AttemptStarted,
    Event,
    LogSpan,
    NodePlanned,
    RunStarted,
)
from hooke.journal.reader import SegmentReader
from hooke.journal.run_folders import DRIVER
from hooke.project.folder import Project

__all__ = ["LogLine", "Transcript", "logs"]

POLL_S = 0.2
"""How late a line may be shown that a task has just printed."""


@click.command()
@click.argument("run", required=False, default="", shell_complete=complete_run)
@click.argument("task", required=False, default="")
@click.option("--follow", "-f", is_flag=True, help="Go on until the run ends, as `tail -f` does.")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON object for each line.")
@in_project
@click.pass_obj
def logs(
    session: CommandSession, *, run: str, task: str, follow: bool, as_json: bool, project: Path | None
) -> int:
    """Print what the tasks of RUN (by default the last one) wrote to stdout and stderr, or TASK alone.

    Before each line stands the task, the item of a map, and the attempt.
    """
    where = the_project(session, project)
    name, only = run_and_task(where, run, task, verb="logs")
    transcript = Transcript(where.runs.folder(name) / "logs", only=only)
    count = 0
    for line in _following(where, name, transcript) if follow else _so_far(where, name, transcript):
        count += 1
        click.echo(json.dumps(asdict(line)) if as_json else str(line))
    if not count:
        what = f"task {only} of run {name}" if only else f"run {name}"
        click.echo(f"{what} printed nothing\n  next: {command(f'hooke show {name}', where)}", err=True)
    return 0


def _so_far(project: Project, run: str, transcript: Transcript) -> Iterator[LogLine]:
    for event in project.runs.events(run):
        yield from transcript.event(event)
    yield from transcript.unfinished()


def _following(project: Project, run: str, transcript: Transcript) -> Iterator[LogLine]:
    """As `_so_far`, until nobody drives the run any more."""
    with SegmentReader(project.runs.folder(run) / f"{DRIVER}.journal") as reader:
        while True:
            alive = project.runs.alive(run)
            for event in reader:
                yield from transcript.event(event)
            yield from transcript.unfinished()
            if not alive:
                return
            time.sleep(POLL_S)


@dataclass(frozen=True, slots=True, kw_only=True)
class LogLine:
    """A line that an attempt printed. `items` says which of a map, as `[3]` or `[0..9]`; it is empty for a call."""

    task: str
    items: str
    attempt: int
    text: str

    def __str__(self) -> str:
        return click.style(f"{self.task}{self.items} #{self.attempt} | ", fg="cyan") + self.text


@dataclass(slots=True)
class Transcript:
    """Turns a run's events into the lines that its attempts printed. Nothing is said twice.

    Each worker has a file; an attempt's output is a span of it that its last event names. What lies behind the last
    such span is that of the attempt which the worker runs, or ran when it died.
    """

    folder: Path
    only: str = ""
    _tasks: dict[int, NodePlanned] = field(default_factory=dict)
    _running: dict[str, AttemptStarted] = field(default_factory=dict)
    _told: dict[str, int] = field(default_factory=lambda: defaultdict(int))

    def event(self, event: Event) -> Iterator[LogLine]:
        """The lines that the event makes known."""
        match event:
            case RunStarted():
                self._tasks.clear()
                self._running.clear()
            case NodePlanned():
                self._tasks[event.node] = event
            case AttemptStarted():
                for worker in event.workers or (event.worker,):
                    self._running[worker] = event
            case AttemptFinished() | AttemptFailed():
                yield from self._ended(event)
            case _:
                pass

    def unfinished(self) -> Iterator[LogLine]:
        """What attempts have printed that have not ended."""
        for worker, started in list(self._running.items()):
            name = f"{worker}.log"
            yield from self._lines(started, LogSpan(name, self._told[name], self._whole_lines(name)))

    def _ended(self, event: AttemptFinished | AttemptFailed) -> Iterator[LogLine]:
        running = self._running.pop(event.worker, None)
        name = f"{event.worker}.log"
        if running is not None and running.workers:
            for worker in running.workers:
                self._running.pop(worker, None)
                name = f"{worker}.log"
                yield from self._lines(running, LogSpan(name, self._told[name], self._size(name)))
        elif event.log is not None:
            yield from self._lines(event, event.log)
        elif isinstance(event, AttemptFailed) and running is not None and event.failure.log_tail:
            # A worker that died names no span: what lies in its file is its last attempt's.
            yield from self._lines(event, LogSpan(name, self._told[name], self._size(name)))

    def _lines(
        self, event: AttemptStarted | AttemptFinished | AttemptFailed, span: LogSpan
    ) -> Iterator[LogLine]:
        start = max(span.start, self._told[span.name])
        self._told[span.name] = max(span.end, start)
        planned = self._tasks.get(event.node)
        task = planned.task if planned is not None else "?"
        if start >= span.end or (self.only and task != self.only):
            return
        with (self.folder / span.name).open("rb") as file:
            file.seek(start)
            text = file.read(span.end - start).decode("utf-8", "replace")
        # A task that draws a progress bar sends carriage returns: its last state is what a log shows.
        for line in text.rstrip("\r\n").split("\n"):
            said = line.rstrip("\r").rpartition("\r")[2]
            items = _items(event, planned) + _rank(event, span)
            yield LogLine(task=task, items=items, attempt=event.attempt, text=said)

    def _size(self, name: str) -> int:
        path = self.folder / name
        return path.stat().st_size if path.exists() else 0

    def _whole_lines(self, name: str) -> int:
        """Where the last whole line ends, so that no line is shown in two halves."""
        size, start = self._size(name), self._told[name]
        if size <= start:
            return start
        with (self.folder / name).open("rb") as file:
            file.seek(start)
            return start + file.read(size - start).rfind(b"\n") + 1


def _rank(event: AttemptStarted | AttemptFinished | AttemptFailed, span: LogSpan) -> str:
    """Which rank of a gang printed the span: its fresh workers print nothing else."""
    workers = event.workers if isinstance(event, AttemptStarted) else ()
    worker = span.name.removesuffix(".log")
    return f" rank {workers.index(worker)}" if worker in workers else ""


def _items(event: AttemptStarted | AttemptFinished | AttemptFailed, planned: NodePlanned | None) -> str:
    if planned is None or planned.kind != "map":
        return ""
    if event.hi - event.lo == 0:
        return "[list]"
    return f"[{event.lo}]" if event.hi - event.lo == 1 else f"[{event.lo}..{event.hi - 1}]"
