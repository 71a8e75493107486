"""What a policy is shown: the work that is left, the workers there are, and what was asked for."""

from __future__ import annotations

import math
import statistics
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field

from hooke.base.errors import BeyondTheData
from hooke.journal.events import (
    AttemptFailed,
    AttemptFinished,
    AttemptStarted,
    Event,
    WorkerStarted,
    WorkerStopped,
)
from hooke.scaling.law import Law

__all__ = [
    "Durations",
    "FleetLimits",
    "Observation",
    "Price",
    "ReadyWorker",
    "RunObserver",
    "Scaling",
    "TaskWork",
    "scaling_of",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Scaling:
    """How far a task scales, as a law tells it. Beyond what the law supports nothing is gained by more."""

    speedup: tuple[float, ...]
    """Of 1, 2, 3, ... workers over one."""
    low: tuple[float, ...] = ()
    """The pessimistic ends of the same; empty where they are not known."""
    knee: float | None = None
    """The N past which more does not pay, at the pessimistic end of its interval; None where it is not determined."""
    family: str = ""

    def of(self, n: int, *, pessimistic: bool = False) -> float:
        """The speed-up of `n` workers; 0 of none."""
        table = self.low if pessimistic and self.low else self.speedup
        return table[min(n, len(table)) - 1] if n > 0 else 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskWork:
    """What is left of one task, in items: those of its maps, and its calls."""

    task: str
    running: int = 0
    ready: int = 0
    """Could run now."""
    waiting: int = 0
    """Wait for results of others."""
    open_ended: bool = False
    """More may come: a list that does not exist yet."""
    seconds: float | None = None
    """The mean that one took; None while none has ended."""
    spread: float = 0.0
    """The standard deviation of that, of single items."""
    measured: int = 0
    begun_s: float = 0.0
    """What those that run have run so far, together; of each at most `seconds`."""
    longest_s: float = 0.0
    """What the one that runs longest has run so far."""
    fits: int | None = None
    """So many at once, at most, with what each asks of cpus and memory; None for no limit."""
    scaling: Scaling | None = None

    @property
    def now(self) -> int:
        """Items that run or could."""
        return self.running + self.ready

    @property
    def at_once(self) -> int:
        """Of these, what can use a worker of its own now."""
        return self.now if self.fits is None else min(self.now, self.fits)

    @property
    def left(self) -> int:
        """All of them."""
        return self.now + self.waiting


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadyWorker:
    """A worker that is ready. Idle is one that does no useful work, whatever its processes do."""

    name: str
    idle_s: float | None = None
    """How long it has had nothing to do; None while it works."""
    holds: str = ""
    """What must not be taken from it: `gang train`, `shuffle`. Empty for nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Price:
    """What a worker costs while it lives, useful or not."""

    usd_per_hour: float = 0.0
    start_s: float = 1.0
    """From asking for a worker until it works: it costs this long before it is of use."""
    release_s: float = 0.0
    """From giving one up until it costs nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetLimits:
    """What was asked for."""

    low: int = 0
    gang: int = 0
    """What the gangs that run, or one that could, need at once: fewer are of no use to them."""
    high: int = 1
    usd_per_hour: float = math.inf
    """Of all workers together."""
    deadline: float | None = None
    """When it must be done, in the time that the policy is given."""
    budget_usd: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Observation:
    """A fleet at one moment."""

    target: int
    """So many were asked for last."""
    workers: tuple[ReadyWorker, ...] = ()
    slots: int = 1
    """Items that one worker does at once."""
    works: tuple[TaskWork, ...] = ()
    """In the order in which they come: what runs first is first."""
    limits: FleetLimits = FleetLimits()
    price: Price = Price()
    spent_usd: float = 0.0
    asked_s: float = 0.0
    """Since more were last asked for."""
    look_s: float = 1.0
    """Until the next decision."""

    @property
    def have(self) -> int:
        """Workers that are ready. Where one does several items at once, each of its slots is in `workers`."""
        return -(-len(self.workers) // self.slots)


# --- A law of scaling as a policy reads it: speed-ups of whole numbers of workers, as far as the law supports them.


def scaling_of(law: Law, most: int) -> Scaling:
    """Up to `most` workers, or to the N at which the law ends. The knee only where the measurements determine it."""
    one = law.predict(1)
    speedup, low = [1.0], [one.interval[0] / one.value]
    for n in range(2, most + 1):
        try:
            there = law.predict(n)
        except BeyondTheData:
            break
        speedup.append(there.value / one.value)
        low.append(max(there.interval[0], 0.0) / one.value)
    try:
        knee = law.determined_knee().interval[0]
    except BeyondTheData:
        knee = None
    return Scaling(speedup=tuple(speedup), low=tuple(low), knee=knee, family=law.family)


# --- What a fleet did so far, from the events of a run: how long items took, who is idle since when, how long a start takes.

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


class RunObserver:
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

    def workers(self, now: float) -> tuple[ReadyWorker, ...]:
        """Those that are ready."""
        return tuple(
            ReadyWorker(name=name, idle_s=None if seen.running else now - seen.since)
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
