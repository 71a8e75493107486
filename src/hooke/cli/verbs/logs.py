"""`hooke logs`: the output of a run's tasks, each line with its task and attempt."""

from __future__ import annotations

import json
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

import click

from hooke.cli.options import complete_run, in_project, run_and_task
from hooke.cli.screens import command
from hooke.journal import events
from hooke.journal.reader import SegmentReader
from hooke.journal.run_folders import DRIVER
from hooke.project.folder import Project

__all__ = ["LogLine", "Transcript", "logs"]

POLL_S = 0.2
"""The polling interval."""


@click.command()
@click.argument("run", required=False, default="", shell_complete=complete_run)
@click.argument("task", required=False, default="")
@click.option("--follow", "-f", is_flag=True, help="Continue until the run ends, like `tail -f`.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object per line.")
@in_project
def logs(*, run: str, task: str, follow: bool, as_json: bool, project: Project) -> int:
    """Print the stdout and stderr of the tasks of RUN (by default the last run), or of TASK only.

    Each line starts with the task, the item of a map, and the attempt.
    """
    name, only = run_and_task(project, run, task, verb="logs")
    transcript = Transcript(project.runs.folder(name) / "logs", only=only)
    count = 0
    for line in _following(project, name, transcript) if follow else _so_far(project, name, transcript):
        count += 1
        click.echo(json.dumps(asdict(line)) if as_json else str(line))
    if not count:
        what = f"task {only} of run {name}" if only else f"run {name}"
        click.echo(f"{what} printed nothing\n  next: {command(f'hooke show {name}', project)}", err=True)
    return 0


def _so_far(project: Project, run: str, transcript: Transcript) -> Iterator[LogLine]:
    for event in project.runs.events(run):
        yield from transcript.event(event)
    yield from transcript.unfinished()


def _following(project: Project, run: str, transcript: Transcript) -> Iterator[LogLine]:
    """Like `_so_far`, until the run has no driver."""
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
    """A line of an attempt. `items` are the items of a map, as `[3]` or `[0..9]`; empty for a call."""

    task: str
    items: str
    attempt: int
    text: str

    def __str__(self) -> str:
        return click.style(f"{self.task}{self.items} #{self.attempt} | ", fg="cyan") + self.text


@dataclass(slots=True)
class Transcript:
    """Turns a run's events into the lines of its attempts, each once.

    Each worker has a file. The last event of an attempt names its span of that file. Output after the last span belongs
    to the attempt that the worker is running, or was running when it died.
    """

    folder: Path
    only: str = ""
    _tasks: dict[int, events.NodePlanned] = field(default_factory=dict)
    _running: dict[str, events.AttemptStarted] = field(default_factory=dict)
    _told: dict[str, int] = field(default_factory=lambda: defaultdict(int))

    def event(self, event: events.Event) -> Iterator[LogLine]:
        """The lines that become known with the event."""
        match event:
            case events.RunStarted():
                self._tasks.clear()
                self._running.clear()
            case events.NodePlanned():
                self._tasks[event.node] = event
            case events.AttemptStarted():
                for worker in event.workers or (event.worker,):
                    self._running[worker] = event
            case events.AttemptFinished() | events.AttemptFailed():
                yield from self._ended(event)
            case _:
                pass

    def unfinished(self) -> Iterator[LogLine]:
        """The lines of running attempts so far."""
        for worker, started in list(self._running.items()):
            name = f"{worker}.log"
            yield from self._lines(started, events.LogSpan(name, self._told[name], self._whole_lines(name)))

    def _ended(self, event: events.AttemptFinished | events.AttemptFailed) -> Iterator[LogLine]:
        running = self._running.pop(event.worker, None)
        name = f"{event.worker}.log"
        if running is not None and running.workers:
            for worker in running.workers:
                self._running.pop(worker, None)
                name = f"{worker}.log"
                yield from self._lines(running, events.LogSpan(name, self._told[name], self._size(name)))
        elif event.log is not None:
            yield from self._lines(event, event.log)
        elif isinstance(event, events.AttemptFailed) and running is not None and event.failure.log_tail:
            # No event names the span of a worker that died: the rest of its file is its last attempt's.
            yield from self._lines(event, events.LogSpan(name, self._told[name], self._size(name)))

    def _lines(
        self,
        event: events.AttemptStarted | events.AttemptFinished | events.AttemptFailed,
        span: events.LogSpan,
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
        # Progress bars send carriage returns; show their last state.
        for line in text.rstrip("\r\n").split("\n"):
            said = line.rstrip("\r").rpartition("\r")[2]
            items = _items(event, planned) + _rank(event, span)
            yield LogLine(task=task, items=items, attempt=event.attempt, text=said)

    def _size(self, name: str) -> int:
        path = self.folder / name
        return path.stat().st_size if path.exists() else 0

    def _whole_lines(self, name: str) -> int:
        """The end of the last complete line."""
        size, start = self._size(name), self._told[name]
        if size <= start:
            return start
        with (self.folder / name).open("rb") as file:
            file.seek(start)
            return start + file.read(size - start).rfind(b"\n") + 1


def _rank(
    event: events.AttemptStarted | events.AttemptFinished | events.AttemptFailed, span: events.LogSpan
) -> str:
    """The rank of a gang that printed the span; its fresh workers print nothing else."""
    workers = event.workers if isinstance(event, events.AttemptStarted) else ()
    worker = span.name.removesuffix(".log")
    return f" rank {workers.index(worker)}" if worker in workers else ""


def _items(
    event: events.AttemptStarted | events.AttemptFinished | events.AttemptFailed,
    planned: events.NodePlanned | None,
) -> str:
    if planned is None or planned.kind != "map":
        return ""
    if event.hi - event.lo == 0:
        return "[list]"
    return f"[{event.lo}]" if event.hi - event.lo == 1 else f"[{event.lo}..{event.hi - 1}]"
