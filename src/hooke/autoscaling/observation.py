"""What the fleet policy sees: the remaining work, the workers, the limits and the price."""

from __future__ import annotations

import math
import statistics
from collections import deque
from collections.abc import Mapping
from typing import TYPE_CHECKING

import msgspec

from hooke.base.errors import BeyondTheData
from hooke.journal import events

if TYPE_CHECKING:  # SciPy takes a third of a second
    from hooke.scaling.law import Law

__all__ = [
    "FleetLimits",
    "Observation",
    "Price",
    "ReadyWorker",
    "RunObserver",
    "Scaling",
    "TaskWork",
    "scaling_of",
]


class Scaling(msgspec.Struct, frozen=True, kw_only=True):
    """How far a task scales, by its law. Beyond the law's data more workers bring no gain."""

    speedup: tuple[float, ...]
    """The speed-up of 1, 2, 3, ... workers over one."""
    low: tuple[float, ...] = ()
    """The pessimistic ends of these; empty where unknown."""
    knee: float | None = None
    """The N beyond which more is not worth its cost, at the pessimistic end of its interval; None where undetermined."""
    family: str = ""

    def of(self, n: int, *, pessimistic: bool = False) -> float:
        """The speed-up of `n` workers; 0 of none."""
        table = self.low if pessimistic and self.low else self.speedup
        return table[min(n, len(table)) - 1] if n > 0 else 0.0


class TaskWork(msgspec.Struct, frozen=True, kw_only=True):
    """The remaining items of one task: those of its maps, and its calls."""

    task: str
    running: int = 0
    ready: int = 0
    """Items that could run now."""
    waiting: int = 0
    """Items that wait for results of others."""
    open_ended: bool = False
    """Whether there may be more: from a list that does not exist yet."""
    seconds: float | None = None
    """Mean seconds of an item; None while none has ended."""
    spread: float = 0.0
    """Standard deviation of single items."""
    measured: int = 0
    begun_s: float = 0.0
    """How long the running items have run in total; each counts at most `seconds`."""
    longest_s: float = 0.0
    """How long the longest running item has run."""
    fits: int | None = None
    """How many fit at once, by their cpus and memory; None for no limit."""
    scaling: Scaling | None = None

    @property
    def now(self) -> int:
        """Items that run or could run."""
        return self.running + self.ready

    @property
    def at_once(self) -> int:
        """How many of these can use a worker each now."""
        return self.now if self.fits is None else min(self.now, self.fits)

    @property
    def left(self) -> int:
        """All remaining items."""
        return self.now + self.waiting


class ReadyWorker(msgspec.Struct, frozen=True, kw_only=True):
    """A worker that is ready. It is idle when it does no useful work, whatever its processes do."""

    name: str
    idle_s: float | None = None
    """How long it has been idle; None while it works."""
    holds: str = ""
    """Why it must not be ended: `gang train`, `shuffle`; empty where it may be."""


class Price(msgspec.Struct, frozen=True, kw_only=True):
    """What a worker costs while it lives, useful or not."""

    usd_per_hour: float = 0.0
    start_s: float = 1.0
    """From the request for a worker until it works: time that costs money without use."""
    release_s: float = 0.0
    """From the release of a worker until it costs nothing."""


class FleetLimits(msgspec.Struct, frozen=True, kw_only=True):
    """The limits on a run's workers."""

    low: int = 0
    gang: int = 0
    """How many workers the running gangs, or one that could run, need at once."""
    high: int = 1
    usd_per_hour: float = math.inf
    """Of all workers together."""
    deadline: float | None = None
    """When the work must be done, on the policy's clock."""
    budget_usd: float | None = None


class Observation(msgspec.Struct, frozen=True, kw_only=True):
    """A fleet at one moment."""

    target: int
    """The last requested number of workers."""
    workers: tuple[ReadyWorker, ...] = ()
    slots: int = 1
    """Items that one worker runs at once."""
    works: tuple[TaskWork, ...] = ()
    """In the order in which they run."""
    limits: FleetLimits = FleetLimits()
    price: Price = Price()
    spent_usd: float = 0.0
    asked_s: float = 0.0
    """Seconds since more workers were last requested."""
    look_s: float = 1.0
    """Seconds until the next decision."""
    rest_s: float = 0.0
    """Seconds until anything can run, where nothing can now and that time is known: all that is left waits for retries."""

    @property
    def have(self) -> int:
        """Workers that are ready. Where one does several items at once, each of its slots is in `workers`."""
        return -(-len(self.workers) // self.slots)


# -- from a scaling law ----------------------------------------------------------------------------


def scaling_of(law: Law, most: int) -> Scaling:
    """A law's speed-ups of up to `most` workers, or to the N at which the law ends. The knee only where the data determine it."""
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


# -- from the events of a run ----------------------------------------------------------------------

STARTS_KEPT = 5
"""The median of the last starts is used, since a single one may be slow by chance."""


class Durations(msgspec.Struct):
    """Seconds of single items, estimated from attempts at several of them."""

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
        """The standard deviation of one item; 0 while it cannot be estimated."""
        return math.sqrt(max(self._squares, 0.0) / (self.attempts - 1)) if self.attempts > 1 else 0.0


class _Seen(msgspec.Struct):
    running: set[int] = msgspec.field(default_factory=set)
    since: float = 0.0


class RunObserver:
    """Folds a run's events, each with the time at which it was seen, on a monotonic clock."""

    def __init__(self, tasks: Mapping[int, str], *, start_s: float) -> None:
        """`tasks` is graph node -> its task; `start_s` is the time of a start until one has been seen."""
        self._tasks = tasks
        self._durations: dict[str, Durations] = {}
        self._workers: dict[str, _Seen] = {}
        self._starts: deque[float] = deque(maxlen=STARTS_KEPT)
        self._assumed_s = start_s
        self._asked: deque[float] = deque()

    def asked(self, now: float, more: int) -> None:
        """Record a request for so many more workers, or fewer if negative."""
        for _ in range(more):
            self._asked.append(now)
        for _ in range(min(-more, len(self._asked))):
            self._asked.pop()

    def apply(self, event: events.Event, now: float) -> None:
        """Fold one event."""
        match event:
            case events.WorkerStarted():
                self._workers[event.worker] = _Seen(since=now)
                if self._asked:
                    self._starts.append(now - self._asked.popleft())
            case events.WorkerStopped():
                self._workers.pop(event.worker, None)
            case events.AttemptStarted():
                for worker in event.workers or (event.worker,):
                    if worker in self._workers:
                        self._workers[worker].running.add(event.attempt)
            case events.AttemptFinished() | events.AttemptFailed():
                self._ended(event, now)
            case _:
                pass

    def durations(self, task: str) -> Durations | None:
        """Durations of a task's items; None while none has ended."""
        return self._durations.get(task)

    def workers(self, now: float) -> tuple[ReadyWorker, ...]:
        """The workers that are ready."""
        return tuple(
            ReadyWorker(name=name, idle_s=None if seen.running else now - seen.since)
            for name, seen in self._workers.items()
        )

    @property
    def start_s(self) -> float:
        """Seconds from the request for a worker until it is ready."""
        return statistics.median(self._starts) if self._starts else self._assumed_s

    def _ended(self, event: events.AttemptFinished | events.AttemptFailed, now: float) -> None:
        for seen in self._workers.values():
            if event.attempt in seen.running:
                seen.running.discard(event.attempt)
                seen.since = now
        task = self._tasks.get(event.node)
        if task is not None and isinstance(event, events.AttemptFinished) and event.hi > event.lo:
            self._durations.setdefault(task, Durations()).add(event.hi - event.lo, event.seconds)
