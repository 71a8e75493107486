"""The folders of a project's runs, `<path>/<run id>/{driver.journal, *.journal, logs/, driver.lock, stop}`, and the lines in `logs/`."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

import msgspec

from hooke.base.background_fsync import sync_files
from hooke.base.errors import JournalError, UsageError
from hooke.base.files import FileLock, write_atomic
from hooke.base.formats import readable, tries_text
from hooke.journal import events
from hooke.journal.events import Event
from hooke.journal.reader import read
from hooke.journal.segments import segment_files

__all__ = ["DRIVER", "LOCK", "LogLine", "RunElsewhere", "RunsFolder", "Transcript"]

DRIVER = "driver"
"""The segment of the process that drives the run."""
LOCK = "driver.lock"
STOP = "stop"
ELSEWHERE = "cluster.json"
MOST_NAMED = 10
"""How many run ids an error lists."""


class RunElsewhere(msgspec.Struct, frozen=True, kw_only=True):
    """A run whose journal is in a cluster: where it is, and what was known of it when it was sent there."""

    place: str = ""
    namespace: str = ""
    job: str = ""
    pipeline: str = ""
    typed: tuple[str, ...] = ()
    """The words after `hooke run`."""
    started_at: float = 0.0


class RunsFolder:
    """All runs below `path`, which need not exist yet. Each folder in it is a run; its name is the run's id."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)

    def names(self) -> list[str]:
        """Run ids, the newest first (by the time in the id, then by when the folder last changed)."""
        try:
            with os.scandir(self.path) as listed:
                entries = [entry for entry in listed if entry.is_dir()]
        except FileNotFoundError:
            return []
        found: list[tuple[str, int]] = []
        for entry in entries:
            with contextlib.suppress(FileNotFoundError):  # it was just removed
                found.append((entry.name, entry.stat().st_mtime_ns))
        return [name for name, _ in sorted(found, key=lambda run: (_time_in(run[0]), run[1]), reverse=True)]

    def folder(self, run: str) -> Path:
        """The run's folder, whether or not it exists."""
        return self.path / run

    def events(self, run: str, segment: str | None = DRIVER) -> list[Event]:
        """The events of one segment of the run, in order; of all segments, the driver's first, for None. Raises JournalError."""
        return [event for each in read(self.folder(run), segment) for event in each.events]

    def create(self, run: str) -> Path:
        """The run's folder, created with `logs` if it does not exist. Raises OSError."""
        folder = self.folder(run)
        (folder / "logs").mkdir(parents=True, exist_ok=True)
        return folder

    def sync(self, run: str) -> None:
        """Return when the segments of the run's workers are on the disk: they may have ended before they synced them.

        The driver's own writer syncs the driver's. Raises JournalError.
        """
        files = segment_files(self.folder(run))
        try:
            sync_files(file for file in files if file.stem != DRIVER)
        except OSError as error:
            raise JournalError(
                "the run's journals are written, but the disk did not confirm them",
                where=str(self.folder(run)),
                why=str(error),
                fix="check the disk (dmesg); the latest events may be lost if the machine goes down",
            ) from error

    def find(self, prefix: str = "") -> str:
        """The run whose id is `prefix` or begins with it; the newest run for an empty prefix.

        Raises UsageError, with candidates, if no run or more than one matches.
        """
        names = self.names()
        if not names:
            raise UsageError("there are no runs yet", where=str(self.path), next="hooke run FILE.py")
        if not prefix or prefix in names:
            return prefix or names[0]
        fitting = [name for name in names if name.startswith(prefix)]
        if len(fitting) == 1:
            return fitting[0]
        if fitting:
            what, listed = f"{len(fitting)} runs begin with {prefix!r}", fitting
        else:
            what = f"no run begins with {prefix!r}"
            listed = get_close_matches(prefix, names, MOST_NAMED, 0.5) or names
        raise UsageError(what, where=str(self.path), fix=f"name one of: {_some(listed)}", next="hooke runs")

    def current(self) -> str:
        """The only running run, else the newest. Raises UsageError if several are running, or if there is none."""
        running = [name for name in self.names() if self.alive(name)]
        if len(running) > 1:
            raise UsageError(
                f"{len(running)} runs are running",
                fix=f"pass one of: {', '.join(running)}",
                next=f"hooke attach {running[0]}",
            )
        return running[0] if running else self.find()

    def alive(self, run: str) -> bool:
        """Whether a process drives the run now: it holds the lock on `driver.lock`."""
        return FileLock(self.folder(run) / LOCK).taken()

    def last_written(self, run: str) -> float:
        """When a segment of the run was last written, in seconds since the epoch; 0 if there is none."""
        return max((file.stat().st_mtime for file in segment_files(self.folder(run))), default=0.0)

    def request_stop(self, run: str, by: str) -> None:
        """Ask the run's driver to stop; it checks for the request between events. `by` goes into the journal.

        Raises UsageError if the run does not exist.
        """
        try:
            write_atomic(self.folder(run) / STOP, by.encode())
        except FileNotFoundError as error:
            raise UsageError(f"there is no run {run!r}", where=str(self.path), next="hooke runs") from error

    def stop_requested(self, run: str) -> str | None:
        """The `by` of a stop request; None if there is none."""
        try:
            return (self.folder(run) / STOP).read_text(encoding="utf-8")
        except FileNotFoundError:
            return None

    def elsewhere(self, run: str) -> RunElsewhere | None:
        """Where the run is, if its journal is not here. Raises JournalError for a damaged note."""
        path = self.folder(run) / ELSEWHERE
        try:
            return msgspec.json.decode(path.read_bytes(), type=RunElsewhere)
        except FileNotFoundError:
            return None
        except msgspec.DecodeError as error:
            raise JournalError("where the run is cannot be read", where=str(path), why=str(error)) from error

    def note_elsewhere(self, run: str, record: RunElsewhere) -> None:
        """Note where a run is whose journal is not here. Raises OSError."""
        self.create(run)
        write_atomic(self.folder(run) / ELSEWHERE, msgspec.json.encode(record))

    def forget_elsewhere(self, run: str) -> None:
        """Remove what is here of a run that did not begin."""
        shutil.rmtree(self.folder(run))

    def clear_stop(self, run: str) -> None:
        """Remove a stop request, before the run is resumed."""
        (self.folder(run) / STOP).unlink(missing_ok=True)


def _time_in(name: str) -> tuple[str, ...]:
    """The `20261125-004622` of `delays-20261125-004622-x7k2`; empty for other names, which sort last."""
    parts = name.split("-")[-3:-1]
    return tuple(parts) if len(parts) == 2 and all(part.isdigit() for part in parts) else ()


def _some(names: list[str]) -> str:
    more = f" and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else ""
    return ", ".join(names[:MOST_NAMED]) + more


# --- The output of tasks in a run's folder.


@dataclass(frozen=True, slots=True, kw_only=True)
class LogLine:
    """A line that a task printed. `items` are the items of a map, as `[3]` or `[0..9]`; empty for a call.

    `attempt` is the attempt's number in the run, `number` which of the task's `tries` it was. `twin` is True for a second attempt beside
    a slow one.
    """

    task: str
    items: str
    attempt: int
    number: int
    tries: int
    twin: bool
    text: str

    @property
    def whose(self) -> str:
        """The task, the items, the attempt, and which try it is, if not the first: `fit[3] #7, try 2 of 3`."""
        again = f", {tries_text(self.number, self.tries)}" if self.number > 1 else ""
        return f"{self.task}{self.items} #{self.attempt}{again}{', twin' if self.twin else ''}"

    def __str__(self) -> str:
        return f"{self.whose} | {readable(self.text)}"


class Transcript(msgspec.Struct):
    """Turns a run's events into the lines of its attempts, each once.

    Each worker has a file. The last event of an attempt names its span of that file. Output after the last span belongs
    to the attempt that the worker is running, or was running when it died.
    """

    folder: Path
    only: str = ""
    _tasks: dict[int, events.NodePlanned] = msgspec.field(default_factory=dict)
    _tries: dict[tuple[int, int], int] = msgspec.field(default_factory=dict)
    """Node and item -> which of its tries comes next or runs, if not the first."""
    _started: dict[int, tuple[int, bool]] = msgspec.field(default_factory=dict)
    """Attempt -> which try, and whether it is a second attempt, if it is not plainly the first."""
    _running: dict[str, events.AttemptStarted] = msgspec.field(default_factory=dict)
    _told: dict[str, int] = msgspec.field(default_factory=lambda: defaultdict(int))

    def event(self, event: events.Event) -> Iterator[LogLine]:
        """The lines that become known with the event."""
        match event:
            case events.RunStarted():
                self._tasks.clear()
                self._tries.clear()
                self._running.clear()
            case events.NodePlanned():
                self._tasks[event.node] = event
            case events.RetryPlanned(counted=number) if number:
                self._tries[event.node, event.lo] = number
            case events.AttemptStarted():
                number = self._tries.get((event.node, -1 if event.expand else event.lo), 1)
                if number > 1 or event.twin_of is not None:
                    self._started[event.attempt] = number, event.twin_of is not None
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
            number, twin = self._started.get(event.attempt, (1, False))
            yield LogLine(
                task=task,
                items=items,
                attempt=event.attempt,
                number=number,
                tries=planned.retries + 1 if planned is not None else 1,
                twin=twin,
                text=said,
            )

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
