"""A service request by request: an exact FIFO queue whose number of servers changes, with starts and graceful drains."""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hooke.autoscaling.replay import LoadSecond, RuleFamily, Station

__all__ = ["RequestOutcome", "simulate_requests", "spread_in_seconds"]


@dataclass(frozen=True, kw_only=True)
class RequestOutcome:
    """Requests that were judged, those of them that waited too long, and replica seconds until the end of each drain."""

    requests: int
    late: int
    replica_s: float

    @property
    def attained(self) -> float:
        return 1 - self.late / max(self.requests, 1)


class _Servers:
    """Starting, idle and busy replicas. `free` holds the time from which each of those that started is free."""

    def __init__(self, count: int) -> None:
        self.free: list[float] = [0.0] * count
        self.starting: deque[float] = deque()
        self.replica_s = 0.0

    def set(self, now: float, target: int, start_s: float) -> None:
        while self.starting and self.starting[0] <= now:
            heapq.heappush(self.free, self.starting.popleft())
        have = len(self.free) + len(self.starting)
        for _ in range(target - have):
            if start_s > 0:
                self.starting.append(now + start_s)
            else:
                heapq.heappush(self.free, now)
        for _ in range(have - target):
            if self.starting:
                self.starting.pop()
            else:  # the one that is free first; it finishes its request
                self.replica_s += max(heapq.heappop(self.free) - now, 0.0)


def simulate_requests(
    arrivals: NDArray[np.float64],
    services: Sequence[float],
    station: Station,
    family: RuleFamily,
    *,
    high: int,
    low: int = 1,
    begin: int = 0,
) -> RequestOutcome:
    """Run all arrivals (seconds, ascending), with `services` seconds each; those from second `begin` on are judged.

    `family` has one setting. A replica serves one request at a time.
    """
    seconds = int(arrivals[-1]) + 1
    bounds = np.searchsorted(arrivals, np.arange(seconds + 1)).tolist()
    times: list[float] = arrivals.tolist()
    servers, waiting = _Servers(low), deque[int]()
    late = requests = 0
    paid = busy = 0.0
    ready = low
    for second in range(seconds):
        working = sum(free > second for free in servers.free)
        arrived = bounds[second] - bounds[second - 1] if second else 0
        seen = LoadSecond(
            second,
            arrived,
            np.array([float(working + len(waiting))]),
            np.array([float(len(waiting))]),
            np.array([busy]),
            np.array([ready]),
        )
        target = int(min(max(int(family.decide(seen)[0]), low), high))
        servers.set(second, target, station.start_s if second else 0.0)
        ready, before = len(servers.free), servers.replica_s
        left_s = sum(free - second for free in servers.free if free > second)
        servers.replica_s = 0.0
        if second >= begin:
            paid += target + before
        waiting.extend(range(bounds[second], bounds[second + 1]))
        free, end, busy = servers.free, second + 1.0, left_s
        while waiting and free:
            at = max(times[waiting[0]], free[0])
            if at >= end:
                break
            one = waiting.popleft()
            heapq.heapreplace(free, at + services[one])
            busy += services[one]
            if times[one] >= begin:
                requests += 1
                late += at - times[one] > station.wait_s
        busy -= sum(until - end for until in free if until > end)
    left = sum(times[one] >= begin for one in waiting)
    return RequestOutcome(requests=requests + left, late=late + left, replica_s=paid)


def spread_in_seconds(counts: NDArray[np.int64], chance: np.random.Generator) -> NDArray[np.float64]:
    """Arrivals somewhere in their seconds, ascending."""
    return np.sort(np.repeat(np.arange(len(counts)), counts) + chance.random(int(counts.sum())))
