"""What a service's run went through, from its journal: load, answers and their times, replicas, and why there were so many.

Pure. Moments are of the wall clock, as the journal has them.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import msgspec

from hooke.journal.replicas import (
    ReplicaAdopted,
    ReplicaEnded,
    ReplicaEvent,
    ReplicaLeft,
    ReplicaReady,
    ReplicaStarted,
    ServiceScaled,
)
from hooke.journal.services import BatchWindow
from hooke.serving.latencies import quantile_s
from hooke.serving.windows import LEAST_S

__all__ = ["Staff", "Stretch", "changes", "staff_of", "starts_s", "stretch_of", "stretches_of"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Staff:
    """From a moment on: how many replicas answered, and how many there were to be."""

    at: float
    ready: int
    wanted: int


@dataclass(slots=True, kw_only=True)
class Stretch:
    """A part of a run. A window that is in it with a part of its length counts with that part, so counts are no whole numbers."""

    began: float
    seconds: float
    asked: float = 0.0
    answered: float = 0.0
    unanswered: float = 0.0
    """Those that failed, were refused or too late, and those who asked and went after the SLO's limit."""
    over_slo: float = 0.0
    """Of `answered`, those that took longer than the limit."""
    busy_s: float = 0.0
    request_s: float = 0.0
    batches: float = 0.0
    rows: float = 0.0
    latencies: dict[int, float] = field(default_factory=dict)
    ready: float = 0.0
    """Replicas that answered, on average."""
    wanted: int = 0
    """At its end."""

    @property
    def within(self) -> float | None:
        """The share that was answered within the SLO's limit; None where nothing was asked."""
        counted = self.answered + self.unanswered
        return max(self.answered - self.over_slo, 0.0) / counted if counted > 1e-9 else None

    def quantile_s(self, percent: float) -> float | None:
        """Of the answers' times; None where nothing was answered, or the journal is of before these were counted."""
        return quantile_s(self.latencies, percent)

    def add(self, window: BatchWindow, share: float) -> None:
        """That part of a window."""
        self.asked += share * (window.arrived or window.ended)
        self.answered += share * window.requests
        self.unanswered += share * (window.ended - window.requests)
        self.over_slo += share * window.over_slo
        self.busy_s += share * window.busy_s
        self.request_s += share * window.request_s
        self.batches += share * window.batches
        self.rows += share * window.rows
        for at, count in window.latencies:
            self.latencies[at] = self.latencies.get(at, 0.0) + share * count


def staff_of(events: Sequence[ReplicaEvent], *, low: int) -> tuple[Staff, ...]:
    """How many there were, after each event that changed it. `low` were to be at the beginning, if no event says otherwise."""
    scaled = changes(events)
    wanted = scaled[0].before if scaled else max(low, 1)
    ready: set[str] = set()
    found: list[Staff] = []
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
        found.append(Staff(at=event.at, ready=len(ready), wanted=wanted))
    return tuple(found)


def changes(events: Iterable[ReplicaEvent]) -> list[ServiceScaled]:
    """Each time that another number was wanted, with its reason."""
    return [event for event in events if isinstance(event, ServiceScaled)]


def starts_s(events: Iterable[ReplicaEvent]) -> list[float]:
    """What each start took, from asking to answering."""
    return [event.seconds for event in events if isinstance(event, ReplicaReady)]


def stretch_of(
    windows: Iterable[BatchWindow], staff: Sequence[Staff], *, began: float, ended: float
) -> Stretch:
    """What of a run lies between two moments."""
    return _filled([Stretch(began=began, seconds=ended - began)], windows, staff)[0]


def stretches_of(
    windows: Iterable[BatchWindow], staff: Sequence[Staff], *, began: float, ended: float, most: int
) -> list[Stretch]:
    """The time between two moments in about so many stretches, of equal length but for the first and the last one.

    They end where windows do, so that few of these are in two of them. All that the windows hold is in them: what a replica that
    was taken over did before counts in the first stretch.
    """
    length = LEAST_S * max(1, math.ceil((ended - began) / LEAST_S / most - 1e-9))
    first, last = math.floor((began + length / 2) / length) + 1, math.ceil((ended - length / 2) / length)
    edges = [began, *(at * length for at in range(first, last)), ended]
    return _filled(
        [Stretch(began=since, seconds=until - since) for since, until in pairwise(edges)],
        (_since(window, began) for window in windows),
        staff,
    )


def _since(window: BatchWindow, began: float) -> BatchWindow:
    """The window with all of it after a moment."""
    if window.at - window.seconds >= began:
        return window
    at = max(window.at, began + 1e-6)
    return msgspec.structs.replace(window, at=at, seconds=at - began)


def _filled(parts: list[Stretch], windows: Iterable[BatchWindow], staff: Sequence[Staff]) -> list[Stretch]:
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
    window: BatchWindow, parts: Sequence[Stretch], ends: Sequence[float]
) -> Iterator[tuple[int, float]]:
    """Which stretches it is in, with which part of it."""
    since = window.at - window.seconds
    for at in range(bisect_right(ends, since), len(parts)):
        if parts[at].began >= window.at:
            return
        overlap = min(window.at, ends[at]) - max(since, parts[at].began)
        if overlap > 0:
            yield at, overlap / window.seconds


def _staff_in(part: Stretch, staff: Sequence[Staff]) -> tuple[float, int]:
    """The mean of those that answered, and how many were wanted at its end."""
    ends = part.began + part.seconds
    moments = [each.at for each in staff]
    first = bisect_right(moments, part.began)
    inside = [each for each in staff[first:] if each.at < ends]
    before = staff[first - 1] if first else Staff(at=part.began, ready=0, wanted=staff[0].wanted)
    steps = [(part.began, before.ready), *((each.at, each.ready) for each in inside), (ends, 0)]
    ready = sum(count * (until - since) for (since, count), (until, _) in pairwise(steps))
    return ready / max(part.seconds, 1e-9), inside[-1].wanted if inside else before.wanted
