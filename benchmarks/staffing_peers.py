"""The rules by which others decide how many replicas there are, as their sources and documentation say; for simulations.

Ray Serve 2.60 and Knative (KPA, 2026-08) from their sources, the Horizontal Pod Autoscaler from its documentation; all with
their defaults, except for the target, which each needs to be told: requests in flight a replica.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, field

from hooke.autoscaling.service_policy import ServiceSnapshot

__all__ = ["Hpa", "Knative", "RayServe"]


@dataclass
class RayServe:
    """Desired = requests in flight / target, as a mean of 30 s; to be so for 30 s before more, for 600 s before fewer."""

    low: int
    high: int
    target: float = 2.0
    look_s: float = 30.0
    up_s: float = 30.0
    down_s: float = 600.0
    current: int = 1
    why: str = ""
    _seen: deque[tuple[float, int]] = field(default_factory=deque)
    _since: float | None = None
    _way: int = 0

    def __call__(self, now: float, seen: ServiceSnapshot) -> int:
        self._seen.append((now, seen.in_flight))
        while self._seen[0][0] < now - self.look_s:
            self._seen.popleft()
        mean = sum(count for _, count in self._seen) / len(self._seen)
        desired = min(max(math.ceil(mean / self.target), self.low), self.high)
        way = (desired > self.current) - (desired < self.current)
        if way != self._way:
            self._way, self._since = way, now
        delay = self.up_s if way > 0 else self.down_s
        if way and self._since is not None and now - self._since >= delay:
            self.current, self._way = desired, 0
        return self.current


@dataclass
class Knative:
    """Stable: mean of 60 s over 70 % of the target; panic: mean of 6 s, from twice what is ready, and then it never falls."""

    low: int
    high: int
    target: float = 100.0
    stable_s: float = 60.0
    panic_s: float = 6.0
    current: int = 1
    why: str = ""
    _seen: deque[tuple[float, int]] = field(default_factory=deque)
    _panic_until: float = -math.inf
    _most: int = 0

    def __call__(self, now: float, seen: ServiceSnapshot) -> int:
        self._seen.append((now, seen.in_flight))
        while self._seen[0][0] < now - self.stable_s:
            self._seen.popleft()
        ready = max(seen.ready, 1)
        wanted = {}
        for length in (self.stable_s, self.panic_s):
            counts = [count for at, count in self._seen if at >= now - length]
            raw = math.ceil(sum(counts) / len(counts) / (0.7 * self.target))
            wanted[length] = min(max(raw, math.floor(ready / 2)), math.ceil(1000 * ready))
        if wanted[self.panic_s] / ready >= 2:
            self._panic_until = now + self.stable_s
        desired = wanted[self.stable_s]
        if now < self._panic_until:
            self._most = max(self._most, wanted[self.panic_s], desired)
            desired = self._most
        else:
            self._most = 0
        self.current = min(max(desired, self.low), self.high)
        return self.current


@dataclass
class Hpa:
    """ceil(current x metric / target) every 15 s, unless within 10 %; up by 100 % or 4 in 15 s; down by the most of 300 s."""

    low: int
    high: int
    target: float = 2.0
    every_s: float = 15.0
    current: int = 1
    why: str = ""
    _wanted: deque[tuple[float, int]] = field(default_factory=deque)
    _last: float = -math.inf

    def __call__(self, now: float, seen: ServiceSnapshot) -> int:
        if now - self._last < self.every_s - 1e-9:
            return self.current
        self._last = now
        ratio = seen.in_flight / max(seen.ready, 1) / self.target
        desired = self.current if abs(ratio - 1) <= 0.1 else math.ceil(self.current * ratio)
        desired = min(desired, max(2 * self.current, self.current + 4))
        self._wanted.append((now, desired))
        while self._wanted[0][0] < now - 300:
            self._wanted.popleft()
        if desired < self.current:
            desired = max(count for _, count in self._wanted)
            desired = min(desired, self.current)
        self.current = min(max(desired, self.low), self.high)
        return self.current
