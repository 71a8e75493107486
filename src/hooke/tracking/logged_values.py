"""Logged values of a run, and a count of dropped calls, in a file with reserved room so that it works on a full disk."""

from __future__ import annotations

import contextlib
import itertools
import logging
import math
import os
import threading
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from operator import attrgetter
from pathlib import Path
from typing import NamedTuple, TypeAlias

import msgspec

from hooke.base.table import TableDict, TableKind, TableList, fields_by_name
from hooke.base.this_process import on_fork
from hooke.journal.events import ArtifactLogged, Event, NotesLogged, PointsLogged
from hooke.journal.reader import Segment, read
from hooke.journal.run_view import AttemptFacts, AttemptsView

__all__ = [
    "ARTIFACTS",
    "SUFFIX",
    "Artifact",
    "CurvePart",
    "DroppedCallCounter",
    "DroppedCalls",
    "HistogramFile",
    "Logged",
    "LoggedHistogram",
    "LoggedNote",
    "Metric",
    "Owner",
    "Point",
    "curve_parts",
    "dropped_calls_in",
    "full_names",
    "limits_before",
    "logged_in",
    "logged_of",
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


# --- Curves across attempts: a training that goes on from a checkpoint has one curve.

Owner: TypeAlias = tuple[int | None, int | None]
"""The attempt and item that logged something; both None for the run itself."""


class CurvePart(NamedTuple):
    """Which values of an attempt count: those of a metric below its limit, a step. Without limits, all."""

    ends_in: int | None
    """The attempt with the end of the curve."""
    limits: Mapping[str, float] | None = None

    def limit(self, metric: str) -> float:
        """The step from which on a later attempt's values replace this one's."""
        return math.inf if self.limits is None else self.limits.get(metric, -math.inf)


_Steps = Mapping[str, tuple[int, int]]
"""Metric -> its first and last step."""


def curve_parts(
    steps: Mapping[Owner, _Steps], attempts: Mapping[int, AttemptFacts]
) -> dict[Owner, CurvePart]:
    """Which values of these owners count. Those that are left out count not at all.

    Of several attempts at one item the one that finished counts, else the
    last. An earlier one counts up to the step at which that one went on, if it went on after the first step: then
    it began from a checkpoint. Otherwise it began anew, and nothing of the earlier ones counts.
    """
    groups: dict[object, list[tuple[bool, int, Owner]]] = defaultdict(list)
    for owner in steps:
        known = attempts.get(owner[0]) if owner[0] is not None else None
        group = (known.node, known.task, owner[1]) if known is not None else owner
        is_done = known is not None and known.status == "finished"
        groups[group].append((is_done, owner[0] or 0, owner))
    parts: dict[Owner, CurvePart] = {}
    for members in groups.values():
        _, number, counts = max(members)
        parts[counts] = CurvePart(counts[0])
        earlier = sorted(
            (owner for _, other, owner in members if other < number), key=lambda owner: -(owner[0] or 0)
        )
        same = [owner for owner in earlier if _key(owner, attempts) == _key(counts, attempts)]
        limits = limits_before({name: low for name, (low, _) in steps[counts].items()}, same, steps)
        parts |= {owner: CurvePart(counts[0], found) for owner, found in limits.items()}
    return parts


def _key(owner: Owner, attempts: Mapping[int, AttemptFacts]) -> str:
    """The key of an attempt's node: another one if it was edited between."""
    known = attempts.get(owner[0] or 0)
    return known.key if known is not None else ""


def limits_before(
    first: Mapping[str, int], earlier: Iterable[Owner], steps: Mapping[Owner, _Steps]
) -> dict[Owner, Mapping[str, float]]:
    """The limits of `earlier` attempts, the latest first, before one with these `first` steps of its metrics."""
    limits: dict[Owner, Mapping[str, float]] = {}
    lowest = dict(first)
    for owner in earlier:
        found = _went_on_at(lowest, steps[owner])
        if found is None:
            continue
        limits[owner] = found
        for name, (low, _) in steps[owner].items():
            if low < found[name]:
                lowest[name] = min(low, lowest.get(name, low))
    return limits


def _went_on_at(first: Mapping[str, int], earlier: _Steps) -> Mapping[str, float] | None:
    """Metric of the earlier attempt -> the step up to which it counts, before an attempt with these `first` steps.

    None if that attempt began anew. One that logged no metric continues at the end.
    """
    if not first:
        return dict.fromkeys(earlier, math.inf)
    later = [first[name] for name, (low, _) in earlier.items() if first.get(name, low) > low]
    if not later:
        return None
    return {name: min(first.get(name, math.inf), *later) for name in earlier}


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


class Metric(NamedTuple):
    """The values of a metric that count, in short: the last by time with its step, the smallest, the largest, and how many."""

    last: float
    step: int
    min: float
    max: float
    count: int


class Artifact(NamedTuple):
    """A file that was kept with the run: `file` is where it lies, `path` the name that it was logged with."""

    path: str
    file: Path
    size: int
    """Bytes."""
    task: str
    item: int | None
    attempt: int | None
    kind: str = ""
    """`image`, `histogram`, or empty."""
    name: str = ""
    """The name of the image or histogram."""
    step: int = 0


def _moment(point: Point) -> datetime:
    return datetime.fromtimestamp(point.at, UTC)


def _file(artifact: Artifact) -> str:
    return str(artifact.file)


_OWNER = fields_by_name("task", "item", "attempt")

_POINTS: TableKind[Point] = TableKind(
    one="value",
    columns=fields_by_name("name", "step", "value") | {"at": _moment} | _OWNER,
)
_NOTES: TableKind[LoggedNote] = TableKind(
    one="note",
    columns=fields_by_name("name", "value") | _OWNER,
    label=lambda note: f"{note.name}={note.value}",
)
ARTIFACTS: TableKind[Artifact] = TableKind(
    one="artifact",
    columns=fields_by_name("path", "size") | _OWNER | fields_by_name("kind") | {"file": _file},
    label=attrgetter("path"),
)
_METRICS: TableKind[Metric] = TableKind(one="metric", columns=fields_by_name(*Metric._fields))


class LoggedHistogram(NamedTuple):
    """How many values lie between each two `edges`. The last bin includes its upper edge.

    `edges` and `counts` are empty if no value is finite.
    """

    name: str
    step: int
    edges: list[float]
    counts: list[int]
    nan: int
    negative_infinity: int
    positive_infinity: int
    task: str
    item: int | None
    attempt: int | None

    def __repr__(self) -> str:
        within = f" from {self.edges[0]:g} to {self.edges[-1]:g}" if self.edges else ""
        return f"LoggedHistogram({self.name!r}, step {self.step}: {sum(self.counts):,} values{within})"


class HistogramFile(msgspec.Struct, frozen=True, kw_only=True):
    """The content of a histogram's file, as JSON."""

    edges: list[float]
    counts: list[int]
    nan: int = 0
    negative_infinity: int = 0
    positive_infinity: int = 0

    @classmethod
    def read(cls, file: Path) -> HistogramFile:
        """Read one. Raises OSError."""
        return msgspec.json.decode(file.read_bytes(), type=cls)


@dataclass(slots=True, repr=False)
class Logged:
    """All logged values of a run, in the order of time; of notes and artifacts with one name the last.

    Each list is a table: `points.to_frame()` has a row for each value.
    """

    points: TableList[Point] = field(default_factory=partial(TableList, kind=_POINTS))
    params: TableList[LoggedNote] = field(default_factory=partial(TableList, kind=_NOTES))
    tags: TableList[LoggedNote] = field(default_factory=partial(TableList, kind=_NOTES))
    artifacts: TableList[Artifact] = field(default_factory=partial(TableList, kind=ARTIFACTS))
    refused: dict[str, DroppedCalls] = field(default_factory=dict)
    """The dropped calls, by segment."""
    _parts: dict[Owner, CurvePart] = field(default_factory=dict)

    def __repr__(self) -> str:
        counts = {"value": self.points, "param": self.params, "tag": self.tags, "artifact": self.artifacts}
        told = [f"{len(each):,} {what}{'s' * (len(each) != 1)}" for what, each in counts.items() if each]
        return f"<logged: {', '.join(told) or 'nothing'}>"

    def _repr_html_(self) -> str:
        titled = {
            "metrics": self.metrics(),
            "params": self.params,
            "tags": self.tags,
            "artifacts": self.artifacts,
        }
        shown = [f"<b>{title}</b>{each._repr_html_()}" for title, each in titled.items() if each]
        return f"<div>{''.join(shown) or 'nothing was logged'}</div>"

    def metric(self, name: str) -> TableList[Point]:
        """The values of one metric, also of attempts that failed."""
        return TableList((point for point in self.points if point.name == name), kind=_POINTS)

    def curve(self, name: str) -> TableList[Point]:
        """The values of one metric that count, as in tables and charts.

        Of several attempts at the same items, the one that finished counts, and the part of earlier ones before the step
        at which it went on from a checkpoint.
        """
        counting = (point for point in self.points if point.name == name and self._counts(point))
        return TableList(counting, kind=_POINTS)

    def image(self, name: str) -> list[Artifact]:
        """The images of one name, in the order of their steps; of equal steps, in that of items."""
        return self._series("image", name)

    def histogram(self, name: str) -> list[LoggedHistogram]:
        """The histograms of one name, in the same order. Raises OSError if a file is gone."""
        found = []
        for each in self._series("histogram", name):
            file = HistogramFile.read(each.file)
            infinite = (file.negative_infinity, file.positive_infinity)
            whose = (each.task, each.item, each.attempt)
            found.append(
                LoggedHistogram(name, each.step, file.edges, file.counts, file.nan, *infinite, *whose)
            )
        return found

    def _series(self, kind: str, name: str) -> list[Artifact]:
        """Of what was logged again at a step, by a retry too, the last."""
        found = {
            (each.step, -1 if each.item is None else each.item, each.task): each
            for each in self.artifacts
            if (each.kind, each.name) == (kind, name)
        }
        return [found[key] for key in sorted(found)]

    def metrics(self) -> TableDict[Metric]:
        """Each metric in short, without system metrics. Its name is `TASK.NAME` where others logged NAME, too."""
        values: dict[tuple[str, str], list[Point]] = defaultdict(list)
        for point in self.points:
            if self._counts(point) and not point.name.startswith("system/"):
                values[point.task, point.name].append(point)
        found = {name: _metric(values[key]) for key, name in full_names(values).items()}
        return TableDict(found, kind=_METRICS)

    def _counts(self, point: Point) -> bool:
        part = self._parts.get((point.attempt, point.item))
        return part is not None and point.step < part.limit(point.name)


def _metric(points: list[Point]) -> Metric:
    """`nan` counts only as the last."""
    last = points[-1]
    known = [point.value for point in points if not math.isnan(point.value)] or [math.nan]
    return Metric(last.value, last.step, min(known), max(known), len(points))


def full_names(logged: Iterable[tuple[str, str]]) -> dict[tuple[str, str], str]:
    """(task, name) -> its name alone if nothing else has that name or the run itself logged it, else `TASK.NAME`."""
    keys = list(logged)
    owners = Counter(name for _, name in keys)
    return {(task, name): f"{task}.{name}" if task and owners[name] > 1 else name for task, name in keys}


def logged_in(folder: Path) -> Logged:
    """The logged values of the run in this folder. Raises JournalError as `read` does."""
    segments = read(folder)
    view = AttemptsView()
    for event in _events(segments):
        view.apply(event)
    return logged_of(folder, _events(segments), view.attempts)


def logged_of(folder: Path, events: Iterable[Event], attempts: Mapping[int, AttemptFacts]) -> Logged:
    """What these events of the run in this folder log. `attempts` are those that they name; of others, the task is not known."""
    logged = Logged(refused=dropped_calls_in(folder))
    params: dict[object, LoggedNote] = {}
    tags: dict[object, LoggedNote] = {}
    artifacts: dict[object, Artifact] = {}
    apart = False
    told = [event for event in events if isinstance(event, PointsLogged | NotesLogged | ArtifactLogged)]
    for event in sorted(told, key=lambda event: event.at):
        whose = (_task(attempts, event.attempt), event.item, event.attempt)
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
                media = event.media or ("", "", 0)
                kept = Artifact(event.path, folder / event.file, event.size, *whose, *media)
                artifacts[event.path, whose] = kept
    if apart:  # events with times of their own overlap
        logged.points.sort(key=lambda point: point.at)
    logged.params.extend(params.values())
    logged.tags.extend(tags.values())
    logged.artifacts.extend(artifacts.values())
    logged._parts = curve_parts(_steps(logged.points), attempts)  # noqa: SLF001 - it makes the object
    return logged


def _steps(points: Iterable[Point]) -> dict[Owner, dict[str, tuple[int, int]]]:
    found: dict[Owner, dict[str, tuple[int, int]]] = defaultdict(dict)
    for point in points:
        of_owner = found[point.attempt, point.item]
        low, high = of_owner.get(point.name, (point.step, point.step))
        of_owner[point.name] = min(low, point.step), max(high, point.step)
    return found


def _events(segments: list[Segment]) -> Iterable[Event]:
    for segment in segments:
        yield from segment.events


def _task(attempts: Mapping[int, AttemptFacts], attempt: int | None) -> str:
    if attempt is None:
        return ""
    known = attempts.get(attempt)
    return known.task if known is not None else f"attempt {attempt}"
