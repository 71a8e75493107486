"""The run of a service: its start, its windows of batches, its replicas and its end, written beside the event loop."""

from __future__ import annotations

import logging
import math
import queue
import threading
from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from types import TracebackType
from typing import Self

import msgspec

from hooke.base.clock import Clock, SystemClock
from hooke.base.errors import JournalError
from hooke.journal.events import RunFinished, RunStarted
from hooke.journal.service_events import (
    BatchWindow,
    ColdStart,
    ReplicaAdopted,
    ReplicaEnded,
    ReplicaEvent,
    ReplicaLeft,
    ReplicaReady,
    ReplicaStarted,
    ServiceBegan,
    ServiceEvent,
    ServiceScaled,
)
from hooke.project.folder import Project, lock_run, new_run_id, open_run
from hooke.serving.service import Service
from hooke.serving.stats_windows import (
    SHORTEST_WINDOW_S,
    StepTotals,
    merge_windows,
    quantile_s,
    window_length_s,
)

__all__ = [
    "KIND",
    "ReplicaCount",
    "ServiceRun",
    "TimeSlice",
    "replica_counts",
    "scalings",
    "start_times_s",
    "time_slice",
    "time_slices",
]


# --- The history of a service's run, from its journal: load, answer times, replicas.


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaCount:
    """How many replicas answered from a moment on, and how many were wanted."""

    at: float
    ready: int
    wanted: int


@dataclass(slots=True, kw_only=True)
class TimeSlice:
    """A part of a run. A window that overlaps it counts with its share, so counts are fractions."""

    began: float
    seconds: float
    asked: float = 0.0
    answered: float = 0.0
    unanswered: float = 0.0
    """Requests that failed, were refused or came too late, and those whose client left after the SLO's limit."""
    over_slo: float = 0.0
    """Of `answered`, those that broke the SLO."""
    busy_s: float = 0.0
    request_s: float = 0.0
    batches: float = 0.0
    """Of a language model, steps."""
    rows: float = 0.0
    """Of a language model, the requests of each step, added up."""
    tokens: float = 0.0
    """Tokens of answers."""
    latencies: dict[int, float] = field(default_factory=dict)
    ready: float = 0.0
    """Mean number of replicas that answered."""
    wanted: int = 0
    """At its end."""

    @property
    def within(self) -> float | None:
        """The share answered within the SLO; None without requests."""
        counted = self.answered + self.unanswered
        return max(self.answered - self.over_slo, 0.0) / counted if counted > 1e-9 else None

    def quantile_s(self, percent: float) -> float | None:
        """A quantile of the answer times; None without answers, or for an old journal without them."""
        return quantile_s(self.latencies, percent)

    def add(self, window: BatchWindow, share: float) -> None:
        """Add that share of a window."""
        self.asked += share * (window.arrived or window.ended)
        self.answered += share * window.requests
        self.unanswered += share * (window.ended - window.requests)
        self.over_slo += share * window.over_slo
        steps = StepTotals.of(window.steps)
        self.busy_s += share * (window.busy_s + steps.seconds)
        self.request_s += share * window.request_s
        self.batches += share * (window.batches + steps.steps)
        self.rows += share * (window.rows + steps.requests)
        self.tokens += share * window.answer_tokens
        for at, count in window.latencies:
            self.latencies[at] = self.latencies.get(at, 0.0) + share * count


def replica_counts(events: Sequence[ReplicaEvent], *, low: int) -> tuple[ReplicaCount, ...]:
    """The number of replicas after each event that changed it. `low` is the number wanted at the start, unless an event says otherwise."""
    scaled = scalings(events)
    wanted = scaled[0].before if scaled else max(low, 1)
    ready: set[str] = set()
    found: list[ReplicaCount] = []
    for event in sorted(events, key=lambda each: each.at):
        match event:
            case ReplicaReady() | ReplicaAdopted():
                ready.add(event.replica)
            case ReplicaLeft() | ReplicaEnded():
                ready.discard(event.replica)
            case ServiceScaled():
                wanted = event.after
            case ReplicaStarted() if not found:
                pass
            case _:
                continue
        found.append(ReplicaCount(at=event.at, ready=len(ready), wanted=wanted))
    return tuple(found)


def scalings(events: Iterable[ReplicaEvent]) -> list[ServiceScaled]:
    """Each change of the number wanted, with its reason."""
    return [event for event in events if isinstance(event, ServiceScaled)]


def start_times_s(events: Iterable[ReplicaEvent]) -> list[float]:
    """The duration of each start, from the order to the first answer."""
    return [event.seconds for event in events if isinstance(event, ReplicaReady)]


def cold_starts_s(events: Iterable[ReplicaEvent]) -> list[float]:
    """The seconds from the first request to its answer, for each time that there was no replica."""
    return [event.seconds for event in events if isinstance(event, ColdStart)]


def time_slice(
    windows: Iterable[BatchWindow], staff: Sequence[ReplicaCount], *, began: float, ended: float
) -> TimeSlice:
    """The part of a run between two moments."""
    return _filled([TimeSlice(began=began, seconds=ended - began)], windows, staff)[0]


def time_slices(
    windows: Iterable[BatchWindow], staff: Sequence[ReplicaCount], *, began: float, ended: float, most: int
) -> list[TimeSlice]:
    """The time between two moments in about `most` slices of equal length, except the first and the last.

    They end where windows do, so that few windows lie in two slices. All windows are included: what an adopted replica
    did before counts in the first slice.
    """
    length = SHORTEST_WINDOW_S * max(1, math.ceil((ended - began) / SHORTEST_WINDOW_S / most - 1e-9))
    first, last = math.floor((began + length / 2) / length) + 1, math.ceil((ended - length / 2) / length)
    edges = [began, *(at * length for at in range(first, last)), ended]
    return _filled(
        [TimeSlice(began=since, seconds=until - since) for since, until in pairwise(edges)],
        (_since(window, began) for window in windows),
        staff,
    )


def _since(window: BatchWindow, began: float) -> BatchWindow:
    """The window, shifted so that all of it lies after a moment."""
    if window.at - window.seconds >= began:
        return window
    at = max(window.at, began + 1e-6)
    return msgspec.structs.replace(window, at=at, seconds=at - began)


def _filled(
    parts: list[TimeSlice], windows: Iterable[BatchWindow], staff: Sequence[ReplicaCount]
) -> list[TimeSlice]:
    ends = [part.began + part.seconds for part in parts]
    names = [set[str]() for _ in parts]
    for window in windows:
        for at, share in _shares(window, parts, ends):
            parts[at].add(window, share)
            names[at].add(window.replica)
    for part, seen in zip(parts, names, strict=True):
        part.ready, part.wanted = _staff_in(part, staff) if staff else (len(seen), len(seen))
    return parts


def _shares(
    window: BatchWindow, parts: Sequence[TimeSlice], ends: Sequence[float]
) -> Iterator[tuple[int, float]]:
    """The slices that it overlaps, each with its share."""
    since = window.at - window.seconds
    for at in range(bisect_right(ends, since), len(parts)):
        if parts[at].began >= window.at:
            return
        overlap = min(window.at, ends[at]) - max(since, parts[at].began)
        if overlap > 0:
            yield at, overlap / window.seconds


def _staff_in(part: TimeSlice, staff: Sequence[ReplicaCount]) -> tuple[float, int]:
    """The mean number of replicas that answered, and the number wanted at its end."""
    ends = part.began + part.seconds
    moments = [each.at for each in staff]
    first = bisect_right(moments, part.began)
    inside = [each for each in staff[first:] if each.at < ends]
    before = staff[first - 1] if first else ReplicaCount(at=part.began, ready=0, wanted=staff[0].wanted)
    steps = [(part.began, before.ready), *((each.at, each.ready) for each in inside), (ends, 0)]
    ready = sum(count * (until - since) for (since, count), (until, _) in pairwise(steps))
    return ready / max(part.seconds, 1e-9), inside[-1].wanted if inside else before.wanted


KIND = "service"
_log = logging.getLogger("hooke")


class ServiceRun:
    """A run of kind `service`, from `with` to its end: `failed` after an exception, else `finished`.

    `window` and `say` may be called from any thread, and do not wait for the disk. While the disk is full the windows
    grow together; a warning is logged, and the next one tries again. Entering it raises HookeError if the run's folder
    cannot be written.
    """

    def __init__(
        self,
        project: Project,
        declared: Service,
        *,
        entry: str,
        shown: Mapping[str, str],
        replicas: tuple[int, int] | None = None,
        clock: Clock | None = None,
    ) -> None:
        self.project = project
        self._clock = clock or SystemClock()
        self.id = new_run_id(declared.name, self._clock.now())
        self._began = self._clock.monotonic()
        self._started = RunStarted(
            run=self.id,
            pipeline=declared.name,
            entry=entry,
            shown=dict(shown),
            place="here",
            kind=KIND,
        )
        slo = declared.slo
        self._declared = ServiceBegan(
            max_batch=declared.max_batch,
            slo_percent=slo.percent if slo else None,
            slo_limit_s=slo.limit_s if slo else None,
            slo_each_s=slo.each_s if slo else None,
            tokens=declared.protocol is not None and declared.command is None,
            timeout_s=declared.timeout_s,
            replicas=replicas or declared.replicas,
        )
        self._said: queue.SimpleQueue[ServiceEvent | None] = queue.SimpleQueue()
        self._pending: dict[str, BatchWindow] = {}
        self._unwritten: deque[ServiceEvent] = deque()
        """Other events that wait for room on the disk, in order."""
        self.lost = ""
        """What the journal lacks at the end, in words; empty if nothing."""
        self._begun: set[str] = set()
        self._warned = False
        self._thread = threading.Thread(target=self._write_on, name="hooke-journal", daemon=True)

    def __enter__(self) -> Self:
        self._lock = lock_run(self.project, self.id)
        self._journal = open_run(self.project, self._started, clock=self._clock)
        self._journal.append(self._declared)
        self._thread.start()
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self._said.put(None)
        self._thread.join()
        self._tell_lost()
        try:
            status, message = ("finished", "") if error is None else ("failed", str(error))
            seconds = self._clock.monotonic() - self._began
            self._write(
                lambda: self._journal.append(RunFinished(status=status, message=message, seconds=seconds))
            )
            self._write(self._journal.close)
        finally:
            self._lock.release()

    def window(self, window: BatchWindow) -> None:
        """Record what a replica did since its last window. Short windows are merged, the more so the longer the service is up."""
        self._said.put(msgspec.structs.replace(window, at=window.at or self._clock.now()))

    def say(self, event: ServiceEvent) -> None:
        """Record another event of the service."""
        self._said.put(msgspec.structs.replace(event, at=event.at or self._clock.now()))

    def _write_on(self) -> None:
        while (event := self._said.get()) is not None:
            if isinstance(event, BatchWindow):
                self._keep(event)
            else:
                self._unwritten.append(event)
                self._write_events()
        self._write_events()
        for replica in list(self._pending):
            self._flush(replica)

    def _write_events(self) -> None:
        while self._unwritten and self._write(lambda: self._journal.append(self._unwritten[0])):
            self._unwritten.popleft()

    def _tell_lost(self) -> None:
        """Say what there was no room for up to the end: a reader of the journal would take its sums for all."""
        requests = sum(window.arrived for window in self._pending.values())
        parts = [f"{requests} requests"] * bool(self._pending)
        parts += [f"{len(self._unwritten)} events of replicas"] * bool(self._unwritten)
        self.lost = " and ".join(parts)
        if self.lost:
            _log.warning(
                "the journal of %s lacks %s: there was no room for them up to the end", self.id, self.lost
            )

    def _keep(self, window: BatchWindow) -> None:
        first = window.replica not in self._begun
        self._begun.add(window.replica)
        before = self._pending.get(window.replica)
        if before is None and not _eventful(window):
            return
        pending = window if before is None else merge_windows([before, window], replica=window.replica)
        self._pending[window.replica] = pending
        # Of a shorter one what a crash would lose is little, and waiting for more would only make it late. A replica's first one
        # ends where those of all do; put to the next, it would lie across that.
        if first or pending.seconds >= 0.99 * window_length_s(self._clock.monotonic() - self._began):
            self._flush(window.replica)

    def _flush(self, replica: str) -> None:
        if self._write(lambda: self._journal.append(self._pending[replica])):
            del self._pending[replica]

    def _write(self, work: Callable[[], None]) -> bool:
        try:
            work()
        except JournalError as error:
            if not self._warned:
                _log.warning("the journal cannot be written, the service continues: %s", error)
            self._warned = True
            return False
        self._warned = False
        return True


def _eventful(window: BatchWindow) -> bool:
    return bool(
        window.methods or window.requests or window.refused or window.late or window.gone or window.steps
    )
