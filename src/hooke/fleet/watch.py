"""What a fleet did so far, from the events of a run: how long items took, who is idle since when, how long a start takes."""

from __future__ import annotations

import math
import statistics
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field

from hooke.fleet.observation import Worker
from hooke.journal.events import (
    AttemptFailed,
    AttemptFinished,
    AttemptStarted,
    Event,
    WorkerStarted,
    WorkerStopped,
)

__all__ = ["Durations", "Watch"]

STARTS_KEPT = 5
"""Their median is what a start takes: one that was slow by chance says little."""


@dataclass(slots=True)
class Durations:
    """Seconds that single items took, as far as attempts at several of them tell it."""

    items: int = 0
    attempts: int = 0
    mean: float = 0.0
    _squares: float = 0.0

    def add(self, items: int, seconds: float) -> None:
        """An attempt at `items` items took `seconds`."""
        each = seconds / items
        self.items += items
        self.attempts += 1
        before, self.mean = self.mean, self.mean + (each - self.mean) * items / self.items
        self._squares += items * (each - before) * (each - self.mean)

    @property
    def spread(self) -> float:
        """The standard deviation of one item; 0 while there is nothing to tell it from."""
        return math.sqrt(max(self._squares, 0.0) / (self.attempts - 1)) if self.attempts > 1 else 0.0


@dataclass(slots=True)
class _Seen:
    running: set[int] = field(default_factory=set)
    since: float = 0.0


class Watch:
    """Folds events, each with the time at which it was seen, on a clock that never goes back."""

    def __init__(self, tasks: Mapping[int, str], *, start_s: float) -> None:
        """`tasks` is graph node -> its task; `start_s` is what a start takes while none has been seen."""
        self._tasks = tasks
        self._durations: dict[str, Durations] = {}
        self._workers: dict[str, _Seen] = {}
        self._starts: deque[float] = deque(maxlen=STARTS_KEPT)
        self._assumed_s = start_s
        self._asked: deque[float] = deque()

    def asked(self, now: float, more: int) -> None:
        """So many more workers were asked for; less than 0 for fewer."""
        for _ in range(more):
            self._asked.append(now)
        for _ in range(min(-more, len(self._asked))):
            self._asked.pop()

    def apply(self, event: Event, now: float) -> None:
        """Fold one event."""
        match event:
            case WorkerStarted():
                self._workers[event.worker] = _Seen(since=now)
                if self._asked:
                    self._starts.append(now - self._asked.popleft())
            case WorkerStopped():
                self._workers.pop(event.worker, None)
            case AttemptStarted():
                for worker in event.workers or (event.worker,):
                    if worker in self._workers:
                        self._workers[worker].running.add(event.attempt)
            case AttemptFinished() | AttemptFailed():
                self._ended(event, now)
            case _:
                pass

    def durations(self, task: str) -> Durations | None:
        """Of the items of a task; None while none has ended."""
        return self._durations.get(task)

    def workers(self, now: float) -> tuple[Worker, ...]:
        """Those that are ready."""
        return tuple(
            Worker(name=name, idle_s=None if seen.running else now - seen.since)
            for name, seen in self._workers.items()
        )

    @property
    def start_s(self) -> float:
        """From asking for a worker until it is ready."""
        return statistics.median(self._starts) if self._starts else self._assumed_s

    def _ended(self, event: AttemptFinished | AttemptFailed, now: float) -> None:
        for seen in self._workers.values():
            if event.attempt in seen.running:
                seen.running.discard(event.attempt)
                seen.since = now
        task = self._tasks.get(event.node)
        if task is not None and isinstance(event, AttemptFinished) and event.hi > event.lo:
            self._durations.setdefault(task, Durations()).add(event.hi - event.lo, event.seconds)
