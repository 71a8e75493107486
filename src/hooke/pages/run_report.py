"""Everything that the page of a run says, as plain values read from its journal."""

from __future__ import annotations

import base64
import contextlib
import math
import re
import sys
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from operator import itemgetter
from pathlib import Path
from typing import Any, Generic, NamedTuple, TypeVar

import msgspec

from hooke.base.files import write_atomic
from hooke.base.formats import clip, first_line, format_seconds, text_of
from hooke.base.ref import Ref
from hooke.base.user_code import raising_line, user_frames
from hooke.diagrams.task_diagram import DrawnCall, TaskDiagram, diagram_of
from hooke.journal.events import (
    AttemptFailed,
    AttemptFinished,
    AttemptStarted,
    Event,
    LogSpan,
    MadeOf,
    NodePlanned,
    PointsLogged,
    RetryPlanned,
    RunMadeOf,
    RunStarted,
    StudyStarted,
)
from hooke.journal.reader import SegmentReader, read
from hooke.journal.run_folders import DRIVER, RunsFolder
from hooke.journal.run_view import AttemptFacts, RunRow, RunView
from hooke.journal.segments import HEADER_BYTES, SUFFIX, segment_files
from hooke.journal.task_view import NodeView, TaskRow
from hooke.pages.timeline import Timeline, TimelineView
from hooke.sync.outbox import logged_segments
from hooke.tracking.logged_values import Artifact, Logged, LoggedNote, Point, full_names, logged_of
from hooke.tracking.system_metrics import SEGMENT
from hooke.tracking.tracker import PREFIX

__all__ = [
    "WORTH_EVENTS",
    "RarelyMade",
    "ReportedFile",
    "ReportedLog",
    "RunFollower",
    "RunReport",
    "environment_of",
    "image_type",
    "keep_report",
    "kept_report",
    "polyline",
]

T = TypeVar("T")

MOST_ROWS = 500
"""Of each table on the page."""
OTHER_REASONS = "other reasons"
"""Retries for one of so many reasons that not each has a row: often there is an id in them."""
MOST_FAILURES = 20
MOST_LOGS = 200
"""Attempts whose output the page has: the last ones."""
LOOK_EVERY = 500
"""Events between two looks at the clock."""
LOG_TAIL = 4096
"""Bytes of the output of one attempt."""
MOST_TRACEBACK = 6000
LINE_POINTS = 150
"""Stretches of a line, each with two points at most."""
MOST_LINES = 30
"""Metrics with a line."""
MOST_CURVES = 20
"""Items of a map whose curves of a metric are drawn together."""
MOST_POINTS = 100_000
"""With more values, no metric has a line: sorting them would take seconds."""
PART_SHARE = 100
"""The graph and the timeline of a long run are made again no sooner than this many times what that took: 1 % of a core each."""
PREVIEW_BYTES = 200_000
"""Larger images are listed, not shown."""


class ReportedMetric(NamedTuple):
    """A metric in short. `line` are its values over its steps, as points of a polyline of 1000 x 100, or several with `;` between; empty for one value."""

    name: str
    last: float
    low: float
    high: float
    count: int
    line: str = ""


class ReportedUsage(NamedTuple):
    """How much of something of the driver's machine was used, in percent; `line` over the time, as of a metric."""

    name: str
    last: float
    mean: float
    high: float
    line: str


class ReportedRetry(NamedTuple):
    """Retries of a task for one reason."""

    task: str
    reason: str
    count: int
    first_at: float


class ReportedFailure(NamedTuple):
    """A failure: what happened, in which line of the user's code, with the traceback and the last lines printed."""

    whose: str
    said: str
    source: str
    traceback: str
    arguments: str
    tries: str


class ReportedLog(NamedTuple):
    """The end of what one attempt printed. `cut` are the bytes before."""

    whose: str
    text: str
    cut: int


class ReportedFile(NamedTuple):
    """An artifact. `number` is its index in the run; `kind` is the media type of an image that may be shown, else empty."""

    number: int
    name: str
    task: str
    size: int
    kind: str
    file: Path

    @property
    def preview(self) -> str:
        """A data URI; empty for a file that is not a small image of a known type."""
        if not self.kind or self.size > PREVIEW_BYTES:
            return ""
        data = self.file.read_bytes() if self.file.is_file() else b""
        return f"data:{self.kind};base64,{base64.b64encode(data).decode()}" if data else ""


class ReportedCode(NamedTuple):
    """A part of the code of a task."""

    task: str
    part: str
    where: str
    digest: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RunReport:
    """A run at one moment, for its page."""

    row: RunRow
    kind: str
    now: float
    resume: str
    stopped_by: str
    error: str
    cost: str = ""
    parameters: list[tuple[str, str]] = field(default_factory=list)
    tags: list[tuple[str, str]] = field(default_factory=list)
    metrics: list[ReportedMetric] = field(default_factory=list)
    usage: list[ReportedUsage] = field(default_factory=list)
    tasks: list[TaskRow] = field(default_factory=list)
    diagram: TaskDiagram | None = None
    timeline: Timeline | None = None
    retries: list[ReportedRetry] = field(default_factory=list)
    failures: list[ReportedFailure] = field(default_factory=list)
    failed: int = 0
    """All failures; `failures` has the first."""
    logs: list[ReportedLog] = field(default_factory=list)
    files: list[ReportedFile] = field(default_factory=list)
    code: list[ReportedCode] = field(default_factory=list)
    environment: list[tuple[str, str]] = field(default_factory=list)
    cached: list[tuple[str, str, str]] = field(default_factory=list)
    """Task, what happened with it, and why."""
    reading: str = ""
    """How far the journal has been read, where that takes longer than a request waits."""
    left_out: dict[str, int] = field(default_factory=dict)
    """Table -> rows that are not on the page."""


class RarelyMade(Generic[T]):
    """A part of the report that takes long to make, made again only once in PART_SHARE times what that takes."""

    def __init__(self, make: Callable[[float], T]) -> None:
        self._make = make
        self._made: T | None = None
        self._of = -1
        self._due_at = 0.0

    def at(self, now: float, events: int, *, over: bool) -> T:
        """As it is after so many events, or a little older; not if the run is `over`."""
        if self._made is None or (self._of != events and (over or time.monotonic() >= self._due_at)):
            began = time.monotonic()
            self._made, self._of = self._make(now), events
            ended = time.monotonic()
            self._due_at = ended + PART_SHARE * (ended - began)
        return self._made

    def due(self, events: int) -> bool:
        """Whether a report would make it again."""
        return self._made is not None and self._of != events and time.monotonic() >= self._due_at


class _OfSegments(Generic[T]):
    """What some segments say, read again when one has grown."""

    def __init__(self, make: Callable[[list[Path]], T]) -> None:
        self._make = make
        self._made: T | None = None
        self._stamp: object = None

    def at(self, files: list[Path], events: int = 0) -> T:
        """As these say it after so many events of the driver."""
        stamp = events, [(file.name, file.stat().st_size) for file in files]
        if self._made is None or self._stamp != stamp:
            self._made, self._stamp = self._make(files), stamp
        return self._made


class _UserLogged(NamedTuple):
    """What user code logged, in short: its points may be a million."""

    metrics: Sequence[ReportedMetric] = ()
    params: Sequence[LoggedNote] = ()
    artifacts: Sequence[Artifact] = ()


_SOME_REF = Ref(digest="", size=0)
"""Instead of each result's own, which no page names."""


class RunFollower:
    """Reads a run's journal as it grows; `report` is the state of what was read. Not thread-safe."""

    def __init__(self, runs: RunsFolder, run: str) -> None:
        """Raises JournalError as a reader does, also when `report` reads on."""
        self.run = run
        self.folder = runs.folder(run)
        self._runs = runs
        self._file = self.folder / f"{DRIVER}{SUFFIX}"
        self._reader: SegmentReader | None = None
        self._offset = HEADER_BYTES
        self.share_left = 0.0
        """Of the journal, after a `read` with a time limit."""
        self.view = RunView()
        self.events = 0
        """How many were read."""
        self._timeline = TimelineView()
        self._logs = _LogTails(self.folder / "logs")
        self._retries: dict[tuple[str, str], ReportedRetry] = {}
        self._made_of: MadeOf | None = None
        self._diagram = RarelyMade(lambda _: _diagram(self.view))
        self._drawn_timeline = RarelyMade(self._timeline.drawn)
        self._codes: dict[tuple[str, ...], dict[str, str]] = {}
        """Digests of the parts of a task's code -> one dict for all its calls."""
        self._plans: dict[int, NodePlanned] = {}
        """Attempt -> the call that it was at; `_finished` are those that finished."""
        self._finished: set[int] = set()
        self._logged = _OfSegments(self._read_logged)
        self._usage = _OfSegments(_usage)

    def close(self) -> None:
        """Close the journal; a later `read` goes on where this one was."""
        if self._reader is not None:
            self._offset = self._reader.offset
            self._reader.close()
            self._reader = None

    def read(self, most_s: float | None = None) -> bool:
        """Read what is new, for about `most_s` seconds; whether anything was. `share_left` is what is left."""
        if self._reader is None:
            if not self._file.exists():
                return False
            self._reader = SegmentReader(self._file, self._offset)
        before = self.events
        deadline = math.inf if most_s is None else time.monotonic() + most_s
        self.share_left = 0.0
        for event in self._reader:
            self.events += 1
            self._apply(event)
            if self.events % LOOK_EVERY == 0 and time.monotonic() > deadline:
                self.share_left = 1 - self._reader.offset / max(self._file.stat().st_size, 1)
                break
        return self.events > before

    @property
    def goes_on(self) -> bool:
        """Whether there is more to come: the journal is not read to its end, or a process drives the run."""
        return self.share_left > 0 or (self.view.ended is None and self._runs.alive(self.run))

    def _slim(self, event: Event) -> Event:
        """The event without what the page does not say: of a hundred thousand calls that is 140 MB.

        The run is that of its folder, which may be a copy of another one's.
        """
        if isinstance(event, RunStarted):
            return msgspec.structs.replace(event, run=self.run)
        if isinstance(event, StudyStarted):
            return msgspec.structs.replace(event, study=self.run)
        if isinstance(event, NodePlanned):
            code = self._codes.setdefault(tuple(event.code.values()), event.code)
            task, kind, where = sys.intern(event.task), sys.intern(event.kind), sys.intern(event.where)
            return msgspec.structs.replace(
                event, task=task, kind=kind, where=where, code=code, inputs={}, shown={}, data={}
            )
        return msgspec.structs.replace(event, ref=_SOME_REF) if isinstance(event, AttemptFinished) else event

    def _apply(self, event: Event) -> None:
        event = self._slim(event)
        self.view.apply(event)
        match event:
            case AttemptStarted() | RunStarted():
                self._timeline.apply(event)
                self._logs.began(event)
                if isinstance(event, AttemptStarted) and event.node in self.view.nodes:
                    self._plans[event.attempt] = self.view.nodes[event.node].planned
            case AttemptFinished() | AttemptFailed():
                node = self.view.nodes.get(event.node)
                planned = node.planned if node is not None else None
                if isinstance(event, AttemptFinished):
                    self._finished.add(event.attempt)
                self._timeline.apply(event, planned.task if planned is not None else "?")
                self._logs.ended(event, planned)
            case RetryPlanned() if event.node in self.view.nodes:
                self._retried(event)
            case RunMadeOf():
                self._made_of = event.record
            case _:
                pass

    def _retried(self, event: RetryPlanned) -> None:
        task, reason = self.view.nodes[event.node].planned.task, first_line(event.reason)
        if (task, reason) not in self._retries and len(self._retries) >= MOST_ROWS:
            reason = OTHER_REASONS
        known = self._retries.get((task, reason))
        items = max(event.hi - event.lo, 1) + (known.count if known else 0)
        self._retries[task, reason] = ReportedRetry(
            task, reason, items, known.first_at if known else event.at
        )

    def report(self, now: float, *, cost: str = "", causes: Mapping[str, str] | None = None) -> RunReport:
        """The run by what was read. `cost` is what it has cost, as text; `causes` say why tasks ran, by task."""
        view = self.view
        view.driver_alive(
            None if self.share_left else self._runs.alive(self.run), self._runs.last_written(self.run)
        )
        row, error = msgspec.structs.replace(view.row(now), run=self.run), view.error(self.run)
        logged = _UserLogged() if self.share_left else self._user_logged()
        found, begun = view.failures(), view.begun
        diagram, timeline = self._drawn(now, over=row.status != "running")
        tables: dict[str, Sequence[Any]] = {
            "parameters": self._parameters(logged.params),
            "tags": [*row.tags.items()],
            "metrics": logged.metrics,
            "tasks": view.rows(now),
            "retries": [*self._retries.values()],
            "failures": [_failure(view, item, event) for item, event in found[:MOST_FAILURES]],
            "files": self._files_in(logged.artifacts),
            "code": _code(view),
            "environment": environment_of(view, self._made_of),
        }
        tables["cached"] = [_cached(view, task, causes or {}) for task in tables["tasks"]]
        return RunReport(
            row=row,
            kind=begun.kind if begun is not None else "",
            now=now,
            resume=view.resume_command if row.status in ("failed", "stopped", "lost") else "",
            stopped_by=view.stopping_by or "",
            error=first_line(error.what if error is not None else row.message),
            cost=cost,
            usage=self._usage.at(self._segments(of_system=True)),
            diagram=diagram,
            timeline=timeline,
            failed=len(found),
            logs=self.logs(),
            reading=f"{1 - self.share_left:.0%}" if self.share_left else "",
            left_out={name: len(rows) - MOST_ROWS for name, rows in tables.items() if len(rows) > MOST_ROWS},
            **{name: list(rows[:MOST_ROWS]) for name, rows in tables.items()},
        )

    def _parameters(self, logged: Sequence[LoggedNote]) -> list[tuple[str, str]]:
        """Those that were given, and those that were logged."""
        begun = self.view.begun
        given = (begun.parameters or begun.shown) if begun is not None else {}
        values = {("", name): text_of(value) for name, value in given.items()}
        values |= {(note.task, note.name): note.value for note in logged}
        return [(name, values[key]) for key, name in full_names(values).items()]

    def _drawn(self, now: float, *, over: bool) -> tuple[TaskDiagram | None, Timeline | None]:
        """The graph and the timeline, once the journal was read to its end."""
        if not self.view.nodes or self.share_left:
            return None, None
        # Attempts that were abandoned for their twins have no end of their own.
        timeline = self._drawn_timeline.at(self.view.last_at if over else now, self.events, over=over)
        return self._diagram.at(now, self.events, over=over), timeline

    def file(self, number: int) -> ReportedFile | None:
        """The artifact with this number; None if there is none."""
        artifacts = self._user_logged().artifacts
        return next(iter(self._files_in(artifacts[number : number + 1], number)), None)

    def _files_in(self, artifacts: Sequence[Artifact], first: int = 0) -> list[ReportedFile]:
        """The artifacts; one that lies outside the run's folder, as a damaged journal may have it, is left out."""
        inside = self.folder.resolve()
        return [
            ReportedFile(number, each.path, each.task, each.size, image_type(each.file), each.file)
            for number, each in enumerate(artifacts, first)
            if each.file.resolve().is_relative_to(inside)
        ]

    def _segments(self, *, of_system: bool) -> list[Path]:
        """The segments with what was sampled of the driver's machine, or those with what user code logged."""
        files = logged_segments(self.folder)
        return [file for file in files if file.name.startswith(f"{PREFIX}{SEGMENT}-") is of_system]

    def _user_logged(self) -> _UserLogged:
        files = self._segments(of_system=False)
        return self._logged.at(files, self.events) if files else _UserLogged()

    def _read_logged(self, files: list[Path]) -> _UserLogged:
        """From these segments alone: what is to be known of their attempts was read with the driver's."""
        events = [event for file in files for segment in read(file) for event in segment.events]
        attempts: dict[int, AttemptFacts] = {}
        for number in self._plans.keys() & {getattr(event, "attempt", None) for event in events}:
            plan, status = self._plans[number], "finished" if number in self._finished else "running"
            attempts[number] = AttemptFacts(
                task=plan.task, node=plan.node, key=plan.key, number=1, started_at=0.0, status=status
            )
        logged = logged_of(self.folder, events, attempts)
        return _UserLogged(_metrics(logged), logged.params, logged.artifacts)

    @property
    def is_behind(self) -> bool:
        """Whether the last report has a graph or a timeline older than the events, and the next would not."""
        return self._diagram.due(self.events) or self._drawn_timeline.due(self.events)

    def logs_size(self) -> int:
        """Bytes that running attempts have printed so far."""
        return self._logs.unfinished_size()

    def logs(self) -> list[ReportedLog]:
        """The ends of what the last attempts printed."""
        return self._logs.tails(over=not self.goes_on)


# --- The report of a long run that has ended, kept in its folder: reading its journal again would take seconds.

KEPT = ".page"
WORTH_EVENTS = 20_000
"""A shorter journal is read again, in less than a second."""
_FORM = 3


class _Kept(msgspec.Struct):
    form: int
    stamp: int
    report: RunReport


def keep_report(folder: Path, report: RunReport) -> None:
    """Keep the report of an ended run. A project that cannot be written is read again next time."""
    kept = _Kept(form=_FORM, stamp=_journal_bytes(folder), report=report)
    with contextlib.suppress(OSError):
        write_atomic(folder / KEPT, msgspec.msgpack.encode(kept, enc_hook=str))


def kept_report(folder: Path, now: float) -> RunReport | None:
    """The kept report; None if there is none, it is of another version or run (of which the folder is a copy), or the run has gone on or logged since."""
    try:
        data = (folder / KEPT).read_bytes()
        kept = msgspec.msgpack.decode(data, type=_Kept, dec_hook=lambda kind, value: kind(value))
    except (FileNotFoundError, msgspec.MsgspecError):
        return None
    current = kept.form == _FORM and kept.stamp == _journal_bytes(folder)
    return replace(kept.report, now=now) if current and kept.report.row.run == folder.name else None


def _journal_bytes(folder: Path) -> int:
    return sum(file.stat().st_size for file in segment_files(folder))


# --- The graph, with one state a call.


def _diagram(view: RunView) -> TaskDiagram:
    calls = (
        DrawnCall(
            number=number,
            task=node.planned.task,
            is_map=node.planned.kind == "map",
            items=node.items,
            parents=node.planned.parents,
            within=node.planned.within,
            where=node.planned.where,
            state=_state(node),
            settled=node.settled_count,
        )
        for number, node in view.nodes.items()
    )
    return diagram_of(view.begun.pipeline if view.begun is not None else "", calls, len(view.nodes))


def _state(node: NodeView) -> str:
    if node.running:
        return "running"
    if node.failed_count:
        return "failed"
    if node.complete:
        return "cached" if node.cached_count == node.settled_count and node.cached_count else "done"
    if node.settled_count:
        return "partly"
    return "waiting" if node.needed else "not needed"


# --- Tables.


def _metrics(logged: Logged) -> list[ReportedMetric]:
    found: list[ReportedMetric] = []
    points: list[Point] = logged.points if len(logged.points) <= MOST_POINTS else []
    keys = dict.fromkeys((each.task, each.name) for each in points if not each.name.startswith("system/"))
    whose = {shown: key for key, shown in full_names(keys).items()}
    for name, (last, _, low, high, count) in sorted(logged.metrics().items()):
        line = ""
        if count > 1 and name in whose and len(found) < MOST_LINES:
            task, own = whose[name]
            line = _lines((each for each in logged.curve(own) if each.task == task), low, high)
        found.append(ReportedMetric(name, last, low, high, count, line))
    return found


def _lines(points: Iterable[Point], low: float, high: float) -> str:
    """A polyline for each item of a map that logged a curve, separated by `;`; one through all, where none logged more than a value."""
    curves: dict[int | None, list[tuple[float, float]]] = {}
    for each in points:
        curves.setdefault(each.item, []).append((each.step, each.value))
    whole = sorted(point for curve in curves.values() for point in curve)
    several = [sorted(curve) for curve in curves.values() if len(curve) > 1] or [whole]
    span = whole[0][0], whole[-1][0]
    drawn = (polyline(curve, low, high, span) for curve in several[:MOST_CURVES])
    return ";".join(filter(None, drawn))


def _usage(files: list[Path]) -> list[ReportedUsage]:
    """CPU, memory and GPUs of the machine that drove the run, as these segments have it."""
    samples: dict[str, list[tuple[float, float]]] = {}
    for file in files:
        with SegmentReader(file) as reader:
            for event in reader:
                for name, value, _ in event.points if isinstance(event, PointsLogged) else ():
                    if (shown := _USED.fullmatch(name)) is not None:
                        samples.setdefault(_used_name(shown), []).append((event.at, value))
    return [
        ReportedUsage(
            name,
            values[-1][1],
            sum(value for _, value in values) / len(values),
            max(value for _, value in values),
            polyline(sorted(values), 0.0, 100.0),
        )
        for name, values in samples.items()
        if len(values) > 1
    ]


_USED = re.compile(
    r"system/(?:(cpu)_utilization|system_(memory)_usage|gpu_(\d+)_(memory_usage|utilization))_percentage"
)


def _used_name(shown: re.Match[str]) -> str:
    if shown[1]:
        return "CPU"
    if shown[2]:
        return "memory"
    return f"GPU {shown[3]}{' memory' if shown[4] == 'memory_usage' else ''}"


def polyline(
    points: Sequence[tuple[float, float]], low: float, high: float, span: tuple[float, float] | None = None
) -> str:
    """Points in a box of 1000 x 100, `low` at its bottom: of very many, the least and the most of each stretch.

    `span` are the first and last place of the box, by default those of the points.
    """
    known = [(x, y) for x, y in points if math.isfinite(y)]
    if len(known) < 2 or not math.isfinite(high - low):
        return ""
    size = -(-len(known) // LINE_POINTS)
    kept: list[tuple[float, float]] = []
    for at in range(0, len(known), size):
        stretch = known[at : at + size]
        both = {min(stretch, key=itemgetter(1)), max(stretch, key=itemgetter(1))}
        kept += sorted(both | ({stretch[-1]} if at + size >= len(known) else set()))
    first, last = span or (known[0][0], known[-1][0])
    across, up = (last - first) or 1.0, (high - low) or 1.0
    return " ".join(
        f"{1000 * ((x - first) / across):.1f},{100 - 100 * ((y - low) / up):.1f}" for x, y in kept
    )


_IMAGES = (
    (b"\x89PNG\r\n\x1a\n", "image/png"),
    (b"\xff\xd8\xff", "image/jpeg"),
    (b"GIF87a", "image/gif"),
    (b"GIF89a", "image/gif"),
)


def image_type(file: Path) -> str:
    """The media type of a picture that cannot hold a script, by its first bytes; empty for all else, such as SVG."""
    try:
        with file.open("rb") as opened:
            head = opened.read(12)
    except OSError:
        return ""
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "image/webp"
    return next((kind for magic, kind in _IMAGES if head.startswith(magic)), "")


def _failure(view: RunView, item: int | None, event: AttemptFailed) -> ReportedFailure:
    node = view.nodes[event.node]
    tried, tries = node.tries_of(event)
    traceback = "\n".join(user_frames(event.failure.traceback)) if event.failure.traceback else ""
    lines = [*event.failure.log_tail[-20:]]
    tail = f"\n\nlast lines that it printed:\n{chr(10).join(lines)}" if lines else ""
    said = event.failure
    folder = f"{view.begun.folder}/" if view.begun is not None and view.begun.folder else ""
    what = said.message if said.message.startswith(said.error_type) else f"{said.error_type}: {said.message}"
    return ReportedFailure(
        whose=node.planned.task + ("" if item is None else f"[{item}]"),
        said=clip(said.whose + (what or said.kind), 1000),
        source=raising_line(traceback).removeprefix(folder),
        traceback=clip(traceback + tail, MOST_TRACEBACK).strip(),
        arguments=clip(said.arguments, 500),
        tries=f"try {tried} of {tries}" if tries > 1 else "",
    )


def _code(view: RunView) -> list[ReportedCode]:
    found: dict[ReportedCode, None] = {}
    for task in view.tasks.values():
        for part, digest in task.first.code.items() if task.first is not None else ():
            seen = view.code.get(digest)
            found[ReportedCode(task.name, part, seen.where if seen is not None else "", digest[:12])] = None
    return list(found)


def environment_of(view: RunView, made_of: MadeOf | None) -> list[tuple[str, str]]:
    """Where and by what a run ran, as far as it is known: host, versions, commit, hardware, data files."""
    begun = view.begun
    if begun is None:
        return []
    facts = {"entry": begun.entry, "backend": begun.place, "host": begun.host, "folder": begun.folder}
    facts |= {"Python": begun.python, "Hooke": begun.hooke}
    if made_of is not None:
        state = {True: ", with uncommitted changes", False: "", None: ""}[made_of.dirty]
        facts |= {
            "commit": f"{made_of.commit[:12]}{state}" if made_of.commit else made_of.trouble,
            "branch": made_of.branch,
            "tree": made_of.tree[:12],
            "environment": made_of.environment[:12],
            **{f"hardware: {name}": value for name, value in made_of.hardware.items()},
            **{f"threads: {name}": value for name, value in made_of.threads.items()},
            "data files": ", ".join([*made_of.files][:20]),
            "seed": str(made_of.seed) if made_of.seed else "",
        }
    return [(name, clip(value, 500)) for name, value in facts.items() if value]


def _cached(view: RunView, row: TaskRow, causes: Mapping[str, str]) -> tuple[str, str, str]:
    """What of a task came from the cache, and why the rest did not."""
    parts = []
    if row.cached:
        saved = f", {format_seconds(row.saved_s)} of work saved" if row.saved_s else ""
        parts.append(f"{row.cached:,} of {row.items if row.items is not None else '?'} stored before{saved}")
    if row.done:
        parts.append(f"{row.done:,} computed")
    if row.state == "not needed":
        parts.append("not needed")
    why = causes.get(row.task, "")
    if not why and row.cached and not row.done:
        why = "an earlier run had the same code and arguments"
    if not why and row.state == "not needed":
        why = "everything that uses it was stored"
    first = view.tasks[row.task].first
    found = (*first.notes, view.nodes[first.node].unsettled) if first is not None else ()
    reasons = [each for each in (why, *found) if each]
    return row.task, "; ".join(parts) or row.state, "; ".join(reasons)


# --- The ends of what tasks printed, without reading the rest.


class _LogTails:
    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._spans: deque[tuple[str, LogSpan]] = deque(maxlen=MOST_LOGS)
        self._running: dict[str, int] = {}
        """Worker -> its attempt."""
        self._workers: dict[int, tuple[str, ...]] = {}
        """Running attempt -> its workers; of a gang there are several."""
        self._told: Counter[str] = Counter()

    def began(self, event: AttemptStarted | RunStarted) -> None:
        if isinstance(event, RunStarted):
            self._running.clear()
            self._workers.clear()
            return
        workers = event.workers or (event.worker,)
        for worker in workers:
            if worker in self._running:  # its last attempt has no end: a twin was faster
                self._workers.pop(self._running[worker], None)
            self._running[worker] = event.attempt
        self._workers[event.attempt] = workers

    def ended(self, event: AttemptFinished | AttemptFailed, planned: NodePlanned | None) -> None:
        for worker in self._workers.pop(event.attempt, ()):
            self._running.pop(worker, None)
        spans = event.logs or ((event.log,) if event.log is not None else ())
        for span in spans:
            self._told[span.name] = max(self._told[span.name], span.end)
            if span.end > span.start:
                self._spans.append((_whose(event, planned), span))

    def tails(self, *, over: bool) -> list[ReportedLog]:
        """Those that ended, then those that run, or, if the run is `over`, did not end."""
        tails = [self._tail(whose, span) for whose, span in self._spans]
        unfinished = self._unfinished("did not end, on" if over else "running on")
        return [tail for tail in [*tails, *unfinished] if tail.text.strip()]

    def unfinished_size(self) -> int:
        return sum(self._size(f"{worker}.log") for worker in self._running)

    def _size(self, name: str) -> int:
        file = self._folder / name
        return file.stat().st_size if file.exists() else 0

    def _unfinished(self, state: str) -> Iterator[ReportedLog]:
        for worker, attempt in list(self._running.items()):
            name = f"{worker}.log"
            size = self._size(name)
            if size > self._told[name]:
                yield self._tail(f"#{attempt}, {state} {worker}", LogSpan(name, self._told[name], size))

    def _tail(self, whose: str, span: LogSpan) -> ReportedLog:
        start = max(span.start, span.end - LOG_TAIL)
        try:
            with (self._folder / span.name).open("rb") as file:
                file.seek(start)
                data = file.read(span.end - start)
        except FileNotFoundError:
            data = b"(the log is gone)"
        text = data.decode("utf-8", "replace").rstrip("\r\n")
        if start > span.start and "\n" in text:  # the first line is cut, unless it is the only one
            text = text.partition("\n")[2]
        # Progress bars send carriage returns; the last state is shown.
        lines = [line.rstrip("\r").rpartition("\r")[2] for line in text.split("\n")]
        return ReportedLog(whose, "\n".join(lines), start - span.start)


def _whose(event: AttemptFinished | AttemptFailed, planned: NodePlanned | None) -> str:
    task = planned.task if planned is not None else "?"
    items = ""
    if planned is not None and planned.kind == "map":
        items = (
            f"[{event.lo}]" if event.hi - event.lo == 1 else f"[{event.lo}..{max(event.hi - 1, event.lo)}]"
        )
    return f"{task}{items} #{event.attempt}"
