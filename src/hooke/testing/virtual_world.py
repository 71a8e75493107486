"""The world of one simulated history: its clock, its randomness, its pending actions and its trace."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Any, NamedTuple

__all__ = [
    "NO_FAULTS",
    "DriverCrash",
    "Faults",
    "HandedAttempt",
    "Record",
    "Stuck",
    "VirtualClock",
    "World",
    "draw_faults",
]

EPOCH = 1_800_000_000.0
"""Start of virtual time: a realistic wall clock, for realistic float rounding."""

MOST_STEPS = 30_000
"""Limit of a driver's waits and appends; the longest correct history needs a tenth of it."""


class DriverCrash(BaseException):
    """The driver's process died. A BaseException, so that the driver does not catch its own death."""


class Stuck(BaseException):
    """The run neither ends nor makes progress."""


class Record(NamedTuple):
    """Something that happened: when, what, and the facts (events, numbers, text)."""

    at: float
    what: str
    facts: Any


class HandedAttempt(NamedTuple):
    """An attempt as it was handed to the engine."""

    attempt: int
    node: int
    kind: str
    items: range
    memory: int | None
    twin_of: int | None = None
    short: bool = False
    ranks: int = 0
    after: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Faults:
    """Fault rates. Each is a probability between 0 and 1."""

    failures: float = 0.0
    """Of an item: to fail some of its tries."""
    hopeless: float = 0.0
    """Of a failing item: to fail more tries than it has, or for good, so that the run fails and is resumed."""
    deaths: float = 0.0
    """Of an attempt: to lose its worker."""
    doubles: float = 0.0
    """Of an answer: to come again, and of a cancelled or dead attempt: to be answered all the same."""
    stragglers: float = 0.0
    """Of a map: that the first attempt at one of its items takes far longer than the others, and maybe the next one too."""
    resizes: float = 0.0
    """Of the place: to change its size, at every few seconds."""
    stops: float = 0.0
    """Of a driver: to be asked to stop."""
    crashes: float = 0.0
    """Of a driver: to be killed between two of its steps."""
    rivals: float = 0.0
    """Of a key: to be computed by another process first."""
    stored: float = 0.0
    """Of a node: to have results in the store, all or some."""


NO_FAULTS = Faults()


def draw_faults(random: Random) -> Faults:
    """Random faults at random rates; one history in ten has none."""
    if random.random() < 0.1:
        return NO_FAULTS

    def some(most: float) -> float:
        return random.choice((0.0, most / 4, most))

    return Faults(
        failures=some(0.3),
        hopeless=some(0.2),
        deaths=some(0.2),
        doubles=some(0.4),
        resizes=some(0.6),
        stops=some(0.3),
        crashes=some(0.7),
        rivals=some(0.3),
        stored=some(0.3),
        stragglers=random.choice((0.0, 0.7, 1.0)),
    )


class VirtualClock:
    """A clock of virtual time."""

    def __init__(self) -> None:
        self.time = EPOCH

    def now(self) -> float:
        """Virtual seconds since the epoch."""
        return self.time

    def monotonic(self) -> float:
        """The same."""
        return self.time


class World:
    """Virtual time, randomness, and pending actions."""

    def __init__(self, seed: int, faults: Faults | None = None) -> None:
        self.seed = seed
        self.faults = draw_faults(self.chance("faults")) if faults is None else faults
        self.clock = VirtualClock()
        self.trace: list[Record] = []
        self.crash_in = -1
        self.stop_at: float | None = None
        self._agenda: list[tuple[float, int, object, Callable[[], None]]] = []
        self._count = 0
        self._steps = 0

    def chance(self, what: str) -> Random:
        """A separate random stream, so that draws from one do not change another."""
        return Random(f"{self.seed}/{what}")

    def note(self, what: str, facts: Any = None) -> None:
        """Add to the trace."""
        self.trace.append(Record(self.clock.time, what, facts))

    def later(self, after_s: float, act: Callable[[], None], *, owner: object = None) -> None:
        """Call `act` in `after_s` seconds, unless its owner is gone by then."""
        self._count += 1
        heapq.heappush(self._agenda, (self.clock.time + after_s, self._count, owner, act))

    def forget(self, owner: object) -> None:
        """The owner is gone: cancel its actions."""
        self._agenda = [entry for entry in self._agenda if entry[2] is not owner]
        heapq.heapify(self._agenda)

    def pass_time(self, until: float, enough: Callable[[], bool]) -> None:
        """Run actions, in order, up to the time `until` or until `enough` is true."""
        while not enough():
            if not self._agenda or self._agenda[0][0] > until:
                self.clock.time = max(self.clock.time, until)
                return
            at, _, _, act = heapq.heappop(self._agenda)
            self.clock.time = max(self.clock.time, at)
            act()

    def begin(self, number: int) -> None:
        """A driver starts; draw its crash and its stop."""
        chance = self.chance(f"driver {number}")
        self._steps = 0
        self.crash_in = chance.randint(1, 120) if chance.random() < self.faults.crashes else -1
        stops = chance.random() < self.faults.stops
        self.stop_at = self.clock.time + chance.expovariate(0.1) if stops else None
        self.note("driver", number)

    def stop_requested(self) -> str | None:
        """The author of a stop request to the driver, if there is one now."""
        return "simulation" if self.stop_at is not None and self.clock.time >= self.stop_at else None

    def step(self) -> None:
        """Count a visible step of the driver: here it may die, and a driver without progress is detected."""
        self._steps += 1
        if self._steps == self.crash_in:
            raise DriverCrash
        if self._steps > MOST_STEPS:
            raise Stuck
