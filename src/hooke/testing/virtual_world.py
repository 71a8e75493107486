"""The world of one simulated history: its clock, its chance, what happens at which time, and the trace of it all."""

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
"""Where virtual time begins: a plausible wall clock, so that float rounding is the real one."""

MOST_STEPS = 30_000
"""Waits and appends of one driver; the longest sound history needs a tenth of it."""


class DriverCrash(BaseException):
    """The driver's process is gone. Not an Exception: nothing in it may catch its own death."""


class Stuck(BaseException):
    """The run neither ends nor gets on."""


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Faults:
    """How often what goes wrong. Each is a chance between 0 and 1."""

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
    """Some faults at some strength; in one history of ten none at all."""
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
    """Time that passes when the world says so."""

    def __init__(self) -> None:
        self.time = EPOCH

    def now(self) -> float:
        """Virtual seconds since the epoch."""
        return self.time

    def monotonic(self) -> float:
        """The same."""
        return self.time


class World:
    """Time, chance, and what will happen when."""

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
        """A stream of chance of its own, so that a draw here does not move the draws there."""
        return Random(f"{self.seed}/{what}")

    def note(self, what: str, facts: Any = None) -> None:
        """Add to the trace."""
        self.trace.append(Record(self.clock.time, what, facts))

    def later(self, after_s: float, act: Callable[[], None], *, owner: object = None) -> None:
        """Let `act` happen in `after_s` seconds, unless its owner is gone by then."""
        self._count += 1
        heapq.heappush(self._agenda, (self.clock.time + after_s, self._count, owner, act))

    def forget(self, owner: object) -> None:
        """The owner is gone: nothing of its happens any more."""
        self._agenda = [entry for entry in self._agenda if entry[2] is not owner]
        heapq.heapify(self._agenda)

    def pass_time(self, until: float, enough: Callable[[], bool]) -> None:
        """Let things happen, in order, up to the time `until` or until it is `enough`."""
        while not enough():
            if not self._agenda or self._agenda[0][0] > until:
                self.clock.time = max(self.clock.time, until)
                return
            at, _, _, act = heapq.heappop(self._agenda)
            self.clock.time = max(self.clock.time, at)
            act()

    def begin(self, number: int) -> None:
        """A driver begins; its crash and its stop are drawn."""
        chance = self.chance(f"driver {number}")
        self._steps = 0
        self.crash_in = chance.randint(1, 120) if chance.random() < self.faults.crashes else -1
        stops = chance.random() < self.faults.stops
        self.stop_at = self.clock.time + chance.expovariate(0.1) if stops else None
        self.note("driver", number)

    def stop_requested(self) -> str | None:
        """By whom the driver is asked to stop now."""
        return "simulation" if self.stop_at is not None and self.clock.time >= self.stop_at else None

    def step(self) -> None:
        """The driver does something that the outside sees: here it may die, and here it is seen to go round in circles."""
        self._steps += 1
        if self._steps == self.crash_in:
            raise DriverCrash
        if self._steps > MOST_STEPS:
            raise Stuck
