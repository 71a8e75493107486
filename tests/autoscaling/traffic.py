"""A fleet of replicas under recorded or made-up traffic, and a policy that staffs it: the batcher's law, in virtual time."""

from __future__ import annotations

import heapq
import math
import random
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hooke.autoscaling.service_policy import Bounds, Capacity, ReplicaPolicy, ServiceSnapshot

__all__ = ["Fleet", "Ours", "Outcome", "Shape", "numbers", "poisson", "recorded", "simulate", "spike"]

Policy = Callable[[float, ServiceSnapshot], int]


@dataclass(frozen=True, kw_only=True)
class Shape:
    """Of a service: its law, and how long things take."""

    a: float = 1e-3
    b: float = 4e-3
    max_batch: int = 16
    limit_s: float = 0.05
    percent: float = 99.0
    timeout_s: float = 5.0
    start_s: float = 5.0
    noise: float = 0.1
    max_waiting: int = 1024


@dataclass(kw_only=True)
class Outcome:
    """What came of it. `targets` are (when, how many, why) of each change."""

    asked: int = 0
    within: int = 0
    late: int = 0
    refused: int = 0
    replica_s: float = 0.0
    targets: list[tuple[float, int, str]] = field(default_factory=list)
    ready: list[tuple[float, int]] = field(default_factory=list)

    @property
    def attained(self) -> float:
        return self.within / self.asked

    @property
    def turns(self) -> int:
        """How often it went up after it had gone down."""
        steps = [after - before for (_, before, _), (_, after, _) in pairwise(self.targets)]
        return sum(one < 0 < other for one, other in pairwise(steps))


@dataclass(eq=False)
class _Replica:
    ready: bool = False
    leaving: bool = False
    running: list[float] = field(default_factory=list)
    queue: deque[float] = field(default_factory=deque)
    began: float = 0.0

    @property
    def load(self) -> int:
        return len(self.queue) + len(self.running)


class Fleet:
    """The replicas, as events say; each has a batcher that fires when it is free."""

    def __init__(self, shape: Shape, seed: int) -> None:
        self.shape = shape
        self.chance = random.Random(seed)
        self.replicas: list[_Replica] = []
        self.events: list[tuple[float, int, str, object]] = []
        self.arrived = self.count = 0
        self.outcome = Outcome()

    def at(self, when: float, what: str, about: object = None) -> None:
        self.count += 1
        heapq.heappush(self.events, (when, self.count, what, about))

    def seen(self, capacity: Capacity | None) -> ServiceSnapshot:
        there = [one for one in self.replicas if not one.leaving]
        ready = sum(one.ready for one in there)
        return ServiceSnapshot(
            ready=ready,
            starting=len(there) - ready,
            in_flight=sum(one.load for one in self.replicas),
            arrived=self.arrived,
            start_s=self.shape.start_s,
            capacity=capacity,
        )

    def set(self, now: float, target: int) -> None:
        there = [one for one in self.replicas if not one.leaving]
        for _ in range(target - len(there)):
            one = _Replica(began=now)
            self.replicas.append(one)
            self.at(now + self.shape.start_s * self.chance.uniform(0.9, 1.1), "up", one)
        for one in sorted(there, key=lambda one: (one.ready, -one.began))[: max(len(there) - target, 0)]:
            one.leaving = True
            self._end_if_done(now, one)

    def up(self, now: float, one: _Replica) -> None:
        one.ready = True
        self._fire(now, one)

    def ask(self, now: float, _: object) -> None:
        self.arrived += 1
        self.outcome.asked += 1
        usable = [one for one in self.replicas if one.ready and not one.leaving]
        chosen = min(usable or self.replicas, key=lambda one: one.load)
        if len(chosen.queue) >= self.shape.max_waiting:
            self.outcome.refused += 1
            return
        chosen.queue.append(now)
        self._fire(now, chosen)

    def done(self, now: float, one: _Replica) -> None:
        self.outcome.within += sum(now - at <= self.shape.limit_s for at in one.running)
        one.running = []
        self._fire(now, one)
        self._end_if_done(now, one)

    def _fire(self, now: float, one: _Replica) -> None:
        while one.queue and now - one.queue[0] > self.shape.timeout_s:
            one.queue.popleft()
            self.outcome.late += 1
        if one.ready and not one.running and one.queue:
            one.running = [one.queue.popleft() for _ in range(min(len(one.queue), self.shape.max_batch))]
            mean = self.shape.a * len(one.running) + self.shape.b
            self.at(now + mean * math.exp(self.shape.noise * self.chance.gauss(0, 1)), "done", one)

    def _end_if_done(self, now: float, one: _Replica) -> None:
        if one.leaving and not one.load and one in self.replicas:
            self.replicas.remove(one)
            self.outcome.replica_s += now - one.began


def simulate(
    arrivals: Sequence[float],
    policy: Policy,
    shape: Shape,
    *,
    first: int = 1,
    every_s: float = 1.0,
    capacity: Capacity | None = None,
    seed: int = 0,
) -> Outcome:
    """All of the traffic, with `policy` asked every so often for how many replicas there should be."""
    fleet = Fleet(shape, seed)
    fleet.replicas = [_Replica(ready=True) for _ in range(first)]
    for when in arrivals:
        fleet.at(when, "ask")
    end, tick, target = arrivals[-1] + 10.0, every_s, first
    fleet.outcome.targets.append((0.0, first, ""))
    while fleet.events or tick < end:
        if not fleet.events or fleet.events[0][0] >= tick:
            now, tick = tick, tick + every_s
            if now > end:
                break
            seen = fleet.seen(capacity)
            fleet.outcome.ready.append((now, seen.ready))
            wanted = policy(now, seen)
            if wanted != target:
                fleet.outcome.targets.append((now, wanted, getattr(policy, "why", "")))
                target = wanted
            fleet.set(now, target)
            continue
        now, _, what, about = heapq.heappop(fleet.events)
        getattr(fleet, what)(now, about)
    fleet.outcome.replica_s += sum(end - one.began for one in fleet.replicas)
    return fleet.outcome


class Ours:
    """Our policy as the simulation asks it, with the reason of its last answer."""

    def __init__(self, bounds: Bounds) -> None:
        self.staffing, self.why = ReplicaPolicy(bounds), ""

    def __call__(self, now: float, seen: ServiceSnapshot) -> int:
        decision = self.staffing.decide(now, seen)
        self.why = decision.reason
        return decision.target


def poisson(
    chance: random.Random, rate: Callable[[float], float], most: float, seconds: float
) -> Iterator[float]:
    """Arrivals of a rate that changes with time, `most` at most (thinning: Lewis & Shedler 1979)."""
    at = 0.0
    while (at := at + chance.expovariate(most)) < seconds:
        if chance.random() * most < rate(at):
            yield at


def spike(seed: int = 0, *, rate: float = 200.0, times: float = 10.0) -> list[float]:
    """Two minutes of calm, one of ten times as much, four of calm."""
    chance = random.Random(seed)
    return list(poisson(chance, lambda at: rate * (times if 120 <= at < 180 else 1), rate * times, 420.0))


DATA = Path(__file__).parent / "data"


def numbers(name: str) -> NDArray[np.float64]:
    """The numbers of a file of data, after its first line."""
    return np.array((DATA / name).read_text(encoding="utf-8").partition("\n")[2].split(), dtype=np.float64)


def recorded(name: str, times: int, chance: random.Random) -> list[float]:
    """Arrivals by a file of counts per second, `times` as many, each somewhere in its second."""
    counts = numbers(name).astype(int).tolist()
    return sorted(
        second + chance.random() for second, count in enumerate(counts) for _ in range(times * count)
    )
