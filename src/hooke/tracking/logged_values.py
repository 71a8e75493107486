"""Logged values of a run, and a count of dropped calls, in a file with reserved room so that it works on a full disk."""

from __future__ import annotations

import contextlib
import itertools
import logging
import os
import threading
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import msgspec

from hooke.base.forks import on_fork
from hooke.journal.events import ArtifactLogged, Event, NotesLogged, PointsLogged
from hooke.journal.reader import Segment, read
from hooke.journal.run_view import AttemptsView

__all__ = [
    "SUFFIX",
    "Artifact",
    "DroppedCallCounter",
    "DroppedCalls",
    "Logged",
    "LoggedNote",
    "Point",
    "dropped_calls_in",
    "logged_in",
]


SUFFIX = ".refused"
ROOM_BYTES = 1024

_log = logging.getLogger("hooke")


class DroppedCalls(msgspec.Struct, frozen=True, kw_only=True):
    """How many calls of a process were dropped, since when, and why: the first reason, and how many had another."""

    calls: int
    first_at: float
    last_at: float
    why: str
    otherwise: int = 0


class DroppedCallCounter:
    """The dropped calls of one process, in the file `<path>`, rewritten at each drop: 2 us, and no further room.

    Threads may share it. Calls that are dropped before the file exists are counted here, and written when it does.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.total: DroppedCalls | None = None
        self._fd = -1
        self._lock = threading.Lock()
        on_fork(self)

    def reserve(self) -> None:
        """Reserve the room, in an existing folder. Raises OSError if the disk is already full."""
        if self._fd >= 0:
            return
        fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            os.pwrite(fd, bytes(ROOM_BYTES), 0)
        except OSError:
            os.close(fd)
            raise
        self._fd = fd

    def add(self, calls: int, why: str, now: float) -> None:
        """Count dropped calls. The first one of a process also goes to the logger `hooke`."""
        with self._lock:
            before = self.total
            if before is None:
                self.total = DroppedCalls(calls=calls, first_at=now, last_at=now, why=why)
            else:
                self.total = msgspec.structs.replace(
                    before,
                    calls=before.calls + calls,
                    last_at=now,
                    otherwise=before.otherwise + (calls if why != before.why else 0),
                )
            self._write(self.total)
        if before is None:
            _log.warning("not logged: %s. The program continues, and Hooke counts further failures", why)

    def keep(self) -> None:
        """Write the count again, if an earlier write failed and there is room now."""
        with self._lock:
            if self.total is not None:
                self._write(self.total)

    def close(self) -> None:
        """Release the room; the file stays only if calls were dropped."""
        with self._lock:
            fd, self._fd = self._fd, -1
            if fd >= 0:
                os.close(fd)
                if self.total is None:
                    self.path.unlink(missing_ok=True)

    def after_fork(self) -> None:
        """In a child: the file is the parent's."""
        self._lock = threading.Lock()
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    def _write(self, total: DroppedCalls) -> None:
        shown = msgspec.structs.replace(total, why=total.why[:400])
        # On a full disk there may be no room for the file; the next drop tries again.
        with contextlib.suppress(OSError):
            if self._fd < 0:
                self.reserve()
            os.pwrite(self._fd, msgspec.json.encode(shown).ljust(ROOM_BYTES), 0)


def dropped_calls_in(folder: Path) -> dict[str, DroppedCalls]:
    """The dropped calls of the run in `folder`, by segment."""
    found = {}
    for path in sorted(folder.glob(f".*{SUFFIX}")):
        if text := path.read_bytes().strip(b"\0 "):
            found[path.stem.removeprefix(".")] = msgspec.json.decode(text, type=DroppedCalls)
    return found


# --- The logged values of a run, read from its journal.


class Point(NamedTuple):
    """One value of a metric. `task` is empty for values of the run itself, `item` is None outside a map."""

    name: str
    value: float
    step: int
    at: float
    """Seconds since the epoch."""
    task: str
    item: int | None
    attempt: int | None


class LoggedNote(NamedTuple):
    """A parameter or a tag."""

    name: str
    value: str
    task: str
    item: int | None
    attempt: int | None


class Artifact(NamedTuple):
    """A file that was kept with the run."""

    path: str
    file: Path
    size: int
    """Bytes."""
    task: str
    item: int | None
    attempt: int | None


@dataclass(slots=True)
class Logged:
    """All logged values of a run, in the order of time; of notes and artifacts with one name the last."""

    points: list[Point] = field(default_factory=list)
    params: list[LoggedNote] = field(default_factory=list)
    tags: list[LoggedNote] = field(default_factory=list)
    artifacts: list[Artifact] = field(default_factory=list)
    refused: dict[str, DroppedCalls] = field(default_factory=dict)
    """The dropped calls, by segment."""

    def metric(self, name: str) -> list[Point]:
        """The values of one metric."""
        return [point for point in self.points if point.name == name]


def logged_in(folder: Path) -> Logged:
    """The logged values of the run in this folder. Raises JournalError as `read` does."""
    segments = read(folder)
    view = AttemptsView()
    for event in _events(segments):
        view.apply(event)
    logged = Logged(refused=dropped_calls_in(folder))
    params: dict[object, LoggedNote] = {}
    tags: dict[object, LoggedNote] = {}
    artifacts: dict[object, Artifact] = {}
    apart = False
    for event in sorted(_events(segments), key=lambda event: event.at):
        if not isinstance(event, PointsLogged | NotesLogged | ArtifactLogged):
            continue
        whose = (_task(view, event.attempt), event.item, event.attempt)
        match event:
            case PointsLogged():
                times = event.times or itertools.repeat(event.at)
                logged.points += [
                    Point(name, value, step, at, *whose)
                    for (name, value, step), at in zip(event.points, times, strict=False)
                ]
                apart = apart or bool(event.times)
            case NotesLogged():
                params |= {
                    (name, whose): LoggedNote(name, value, *whose) for name, value in event.params.items()
                }
                tags |= {(name, whose): LoggedNote(name, value, *whose) for name, value in event.tags.items()}
            case ArtifactLogged():
                artifacts[event.path, whose] = Artifact(event.path, folder / event.file, event.size, *whose)
    if apart:  # events with times of their own overlap
        logged.points.sort(key=lambda point: point.at)
    logged.params, logged.tags = list(params.values()), list(tags.values())
    logged.artifacts = list(artifacts.values())
    return logged


def _events(segments: list[Segment]) -> Iterable[Event]:
    for segment in segments:
        yield from segment.events


def _task(view: AttemptsView, attempt: int | None) -> str:
    if attempt is None:
        return ""
    known = view.attempts.get(attempt)
    return known.task if known is not None else f"attempt {attempt}"
