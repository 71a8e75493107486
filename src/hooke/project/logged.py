"""What was logged in a run, read back from its journal."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from hooke.journal.attempts import AttemptsView
from hooke.journal.events import ArtifactLogged, Event, NotesLogged, PointsLogged
from hooke.journal.reader import Segment, read
from hooke.tracking.refused import Refused, refusals_in

__all__ = ["Artifact", "Logged", "Note", "Point", "logged_in"]


class Point(NamedTuple):
    """One value of a metric. `task` is empty for what the run itself logged, `item` None outside a map."""

    name: str
    value: float
    step: int
    at: float
    """Seconds since the epoch."""
    task: str
    item: int | None
    attempt: int | None


class Note(NamedTuple):
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
    """All that was logged in a run, in the order of time; of notes and artifacts of one name the last."""

    points: list[Point] = field(default_factory=list)
    params: list[Note] = field(default_factory=list)
    tags: list[Note] = field(default_factory=list)
    artifacts: list[Artifact] = field(default_factory=list)
    refused: dict[str, Refused] = field(default_factory=dict)
    """By segment, what could not be logged."""

    def metric(self, name: str) -> list[Point]:
        """The values of one metric."""
        return [point for point in self.points if point.name == name]


def logged_in(folder: Path) -> Logged:
    """What was logged in the run of this folder. Raises JournalError as `read` does."""
    segments = read(folder)
    view = AttemptsView()
    for event in _events(segments):
        view.apply(event)
    logged = Logged(refused=refusals_in(folder))
    params: dict[object, Note] = {}
    tags: dict[object, Note] = {}
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
                params |= {(name, whose): Note(name, value, *whose) for name, value in event.params.items()}
                tags |= {(name, whose): Note(name, value, *whose) for name, value in event.tags.items()}
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
