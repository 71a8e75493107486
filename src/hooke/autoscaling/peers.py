"""How other autoscalers decide, by their documentation: for comparisons on a service's own traffic. Pure.

Kubernetes' Horizontal Pod Autoscaler on CPU, Knative's Pod Autoscaler on concurrency, KEDA on a Prometheus rate (which sets
the same HPA), and Ray Serve on ongoing requests. Each family runs all of its settings at once; what their users tune is the
target, how long they wait before they scale down, and the least number of replicas.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hooke.autoscaling.replay import (
    LoadSecond,
    RuleFamily,
    StaffingRule,
    StaffingRules,
    Station,
    constants,
    least_numbers,
    staffing_grid,
)
from hooke.base.formats import format_seconds

__all__ = [
    "CONSTANT",
    "OURS",
    "PEERS",
    "Hpa",
    "Knative",
    "PeerAutoscaler",
    "PeerSetting",
    "RayServe",
    "SideBySide",
    "all_families",
]

Floats = NDArray[np.floating[Any]]
Ints = NDArray[np.integer[Any]]


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerSetting:
    """What a user sets."""

    target: float
    """Of a replica: its busy share, its requests in flight, or its requests a second."""
    down_s: float = 300.0
    """The stabilization window, scale-down delay or downscale delay."""
    low: int = 1
    up_s: float = 30.0
    """Ray Serve's upscale delay."""

    def __str__(self) -> str:
        down = f"down after {format_seconds(self.down_s)}" if self.down_s else "down at once"
        return f"target {self.target:.3g}, {down}, at least {self.low}"


class _Means:
    """Trailing means of one value a setting."""

    def __init__(self, longest_s: int, settings: int) -> None:
        self._sums = np.zeros((longest_s + 1, settings))
        self._seconds = 0

    def add(self, values: Floats) -> None:
        length = len(self._sums)
        before = self._sums[self._seconds % length]
        self._seconds += 1
        self._sums[self._seconds % length] = before + values

    def of(self, seconds: int) -> Floats:
        length, span = len(self._sums), min(seconds, self._seconds)
        now, then = self._seconds % length, (self._seconds - span) % length
        return (self._sums[now] - self._sums[then]) / max(span, 1)


class _Lately:
    """The most of what was desired within each setting's own time, by steps of `every_s`."""

    def __init__(self, within_s: Floats, every_s: int) -> None:
        self._groups = [
            (np.flatnonzero(within_s == each), int(each) // every_s + 1)
            for each in sorted(set(within_s.tolist()))
        ]
        self._rings = [np.zeros((length, len(at)), dtype=np.int64) for at, length in self._groups]
        self._steps = 0

    def most(self, desired: Ints) -> Ints:
        out = np.empty_like(desired)
        for (at, length), ring in zip(self._groups, self._rings, strict=True):
            ring[self._steps % length] = desired[at]
            out[at] = ring.max(axis=0)
        self._steps += 1
        return out


def _columns(settings: Sequence[PeerSetting]) -> tuple[Floats, Floats, Ints]:
    return (
        np.array([one.target for one in settings]),
        np.array([one.down_s for one in settings]),
        np.array([one.low for one in settings]),
    )


class Hpa:
    """ceil(load / target) every 15 s, unless within 10 %; at most 4 or 100 % more at once; down to the most of a stabilization window.

    The load is `measure`, as a mean of `mean_s` seconds. Starting pods count as idle when it scales up.
    https://kubernetes.io/docs/tasks/run-application/horizontal-pod-autoscale
    """

    EVERY_S = 15
    TOLERANCE = 0.1

    def __init__(
        self,
        settings: Sequence[PeerSetting],
        measure: Callable[[LoadSecond], Floats],
        *,
        mean_s: int,
    ) -> None:
        self.settings = settings
        self._target, self._down_s, self._low = _columns(settings)
        self._measure, self._mean_s = measure, mean_s
        self._means = _Means(mean_s, len(settings))
        self._current = self._low.copy()
        self._lately = _Lately(self._down_s, self.EVERY_S)

    def decide(self, seen: LoadSecond) -> Ints:
        """The desired replicas."""
        self._means.add(self._measure(seen))
        if seen.second % self.EVERY_S:
            return self._current
        load = self._means.of(self._mean_s)
        ratio = load / np.maximum(seen.ready, 1) / self._target
        desired = np.ceil(load / self._target - 1e-9).astype(np.int64)
        desired = np.where(np.abs(ratio - 1) <= self.TOLERANCE, self._current, desired)
        desired = np.minimum(desired, np.maximum(2 * self._current, self._current + 4))
        lately = self._lately.most(desired)
        down = np.minimum(np.maximum(lately, desired), self._current)
        self._current = np.maximum(np.where(desired < self._current, down, desired), self._low)
        return self._current


class Knative:
    """Concurrency over the target as a mean of 60 s; in panic, as a mean of 6 s, from twice what is ready, and then it never falls.

    Down to the most of a scale-down delay. Every 2 s. https://knative.dev/docs/serving/autoscaling/kpa-specific
    """

    EVERY_S = 2
    STABLE_S, PANIC_S = 60, 6

    def __init__(self, settings: Sequence[PeerSetting]) -> None:
        self.settings = settings
        self._target, self._down_s, self._low = _columns(settings)
        self._means = _Means(self.STABLE_S, len(settings))
        self._current = self._low.copy()
        self._panic_until = np.full(len(settings), -1.0)
        self._most = np.zeros(len(settings), dtype=np.int64)
        self._lately = _Lately(self._down_s, self.EVERY_S)

    def decide(self, seen: LoadSecond) -> Ints:
        """The desired replicas."""
        self._means.add(seen.in_flight)
        if seen.second % self.EVERY_S:
            return self._current
        ready = np.maximum(seen.ready, 1)
        stable, panic = (
            np.maximum(np.ceil(self._means.of(length) / self._target - 1e-9).astype(np.int64), ready // 2)
            for length in (self.STABLE_S, self.PANIC_S)
        )
        self._panic_until = np.where(panic >= 2 * ready, seen.second + self.STABLE_S, self._panic_until)
        panics = seen.second < self._panic_until
        self._most = np.where(panics, np.maximum(self._most, np.maximum(panic, stable)), 0)
        desired = np.where(panics, self._most, stable)
        self._current = np.maximum(self._lately.most(desired), self._low)
        return self._current


class RayServe:
    """Ongoing requests over the target, as a mean of 30 s; to be so for the upscale delay before more, and for the downscale delay before fewer.

    https://docs.ray.io/en/latest/serve/advanced-guides/advanced-autoscaling.html
    """

    LOOK_S = 30

    def __init__(self, settings: Sequence[PeerSetting]) -> None:
        self.settings = settings
        self._target, self._down_s, self._low = _columns(settings)
        self._up_s = np.array([one.up_s for one in settings])
        self._means = _Means(self.LOOK_S, len(settings))
        self._current = self._low.copy()
        self._way = np.zeros(len(settings), dtype=np.int64)
        self._since = np.zeros(len(settings))

    def decide(self, seen: LoadSecond) -> Ints:
        """The desired replicas."""
        self._means.add(seen.in_flight)
        load = self._means.of(self.LOOK_S)
        desired = np.maximum(np.ceil(load / self._target - 1e-9).astype(np.int64), self._low)
        way = np.sign(desired - self._current)
        self._since = np.where(way != self._way, seen.second, self._since)
        delay = np.where(way > 0, self._up_s, self._down_s)
        moves = (way != 0) & (seen.second - self._since >= delay)
        self._current = np.where(moves, desired, self._current)
        self._way = np.where(moves, 0, way)
        return self._current


# --- The settings that are compared: what a careful user would try.

SHARES = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
"""Targets, as parts of what a busy replica does."""


def _hpa(settings: Sequence[PeerSetting]) -> Hpa:
    """On the busy share of the pods, as a mean of the 15 s that metrics-server sees."""
    return Hpa(settings, lambda seen: seen.busy, mean_s=15)


def _keda(settings: Sequence[PeerSetting]) -> Hpa:
    """Its Prometheus trigger: an HPA on requests a second, `rate(...[1m])`."""
    return Hpa(settings, lambda seen: np.full(len(settings), float(seen.arrived)), mean_s=60)


@dataclass(frozen=True, slots=True)
class PeerAutoscaler:
    """An autoscaler of others."""

    name: str
    make: Callable[[Sequence[PeerSetting]], RuleFamily]
    unit: Callable[[Station], float]
    """What a busy replica has of what the target counts."""
    downs: tuple[float, ...]
    ups: tuple[float, ...] = (30.0,)
    of_tokens: bool = False
    """Whether a replay of tokens knows what it scales by. A replica of a language model is as busy with one request as with many, and tokens do not tell open requests."""

    def settings(self, counts: Ints, station: Station, *, low: int, high: int) -> list[PeerSetting]:
        """What is compared for such traffic: each with the least numbers that our own rules get, too."""
        return [
            PeerSetting(target=share * self.unit(station), down_s=down, low=least, up_s=up_s)
            for share in SHARES
            for down in self.downs
            for up_s in self.ups
            for least in least_numbers(counts, station, low=low, high=high)
        ]


def _busy(_: Station) -> float:
    return 1.0


PEERS = (
    PeerAutoscaler("Kubernetes HPA", _hpa, _busy, (60.0, 300.0, 900.0)),
    PeerAutoscaler("Knative KPA", Knative, lambda station: station.in_service, (0.0, 60.0, 300.0, 900.0)),
    PeerAutoscaler("KEDA", _keda, lambda station: station.rate, (60.0, 300.0, 900.0), of_tokens=True),
    PeerAutoscaler(
        "Ray Serve", RayServe, lambda station: station.in_service, (60.0, 300.0, 600.0), (2.0, 30.0)
    ),
)
OURS, CONSTANT = "Hooke", "constant"


class SideBySide:
    """Several families as one, so that a single replay serves all."""

    def __init__(self, families: dict[str, RuleFamily]) -> None:
        self._families = list(families.values())
        self.settings = [one for each in self._families for one in each.settings]
        self.slices: dict[str, slice] = {}
        """Where each family's settings are."""
        at = 0
        for name, each in families.items():
            self.slices[name] = slice(at, at := at + len(each.settings))

    def decide(self, seen: LoadSecond) -> Ints:
        """What each family decides of its own replicas."""
        return np.concatenate(
            [
                each.decide(
                    LoadSecond(
                        seen.second,
                        seen.arrived,
                        seen.in_flight[part],
                        seen.waiting[part],
                        seen.busy[part],
                        seen.ready[part],
                    )
                )
                for each, part in zip(self._families, self.slices.values(), strict=True)
            ]
        )


def all_families(  # noqa: PLR0913 - the parts of an experiment
    counts: Ints,
    station: Station,
    *,
    low: int,
    high: int,
    first: int = 0,
    past: slice = slice(None),
    of_tokens: bool = False,
) -> SideBySide:
    """Ours, constants and those of others, for arrivals (seconds,) of requests or tokens; their settings are made for the `past` part of these."""
    grid = staffing_grid(counts[past], station, low=low, high=high)
    same = [StaffingRule(least=count) for count in constants(low, high)]
    families: dict[str, RuleFamily] = {
        OURS: StaffingRules(counts, station, grid, first=first),
        CONSTANT: StaffingRules(counts, station, same, first=first),
    }
    for peer in PEERS:
        if of_tokens and not peer.of_tokens:
            continue
        families[peer.name] = peer.make(peer.settings(counts[past], station, low=low, high=high))
    return SideBySide(families)
