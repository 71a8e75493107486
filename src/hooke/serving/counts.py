"""What replicas counted, as plain values: of one now, and of all that a service ever had. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeVar

import msgspec

__all__ = ["Counts", "Gathered", "ProcessCounts", "RouteCounts", "added"]

K = TypeVar("K", int, str)

KEPT = 32
"""Ended replicas that are kept by their own names. A scrape a minute sees each of so many: dying ones start more slowly."""


class RouteCounts(msgspec.Struct, frozen=True):
    """Of one route; as `metrics.Meter`."""

    statuses: dict[int, int]
    buckets: list[int]
    seconds: float


class ProcessCounts(msgspec.Struct, frozen=True):
    """Of the replica's process, as the system tells."""

    began: float = 0.0
    """In seconds since 1970."""
    cpu_s: float = 0.0
    resident_bytes: int = 0
    open_files: int = 0


class Counts(msgspec.Struct, frozen=True, kw_only=True):
    """What there is to write of a replica. What only ever grows is what is left of it when it has ended."""

    service: str
    routes: dict[str, RouteCounts] = {}
    """By the paths of routes that were asked; '' for what was answered before one was found."""
    refused: dict[str, int] = {}
    sizes: list[int] = []
    """Batches, as `dispatch.Tally` has them."""
    rows: int = 0
    busy_s: float = 0.0
    process: ProcessCounts = ProcessCounts()
    active: int = 0
    waiting_rows: int = 0
    body_bytes: int = 0
    """Of bodies that are being received or answered, but for small ones."""
    body_room: int = 0
    """So many there may be."""
    ready: bool = False
    ready_at: float | None = None
    """When it was set up, in seconds since 1970; None: not yet."""

    def asked(self) -> int:
        """Answers on the service's own routes: without those that ask how it is, and those of no route."""
        return sum(sum(route.statuses.values()) for route in self._own())

    def buckets(self) -> list[int]:
        """Of the service's own routes together."""
        return _sum_lists(route.buckets for route in self._own())

    def _own(self) -> list[RouteCounts]:
        return [route for path, route in self.routes.items() if path and not path.startswith("/-/")]


def added(one: Counts, other: Counts) -> Counts:
    """Two together, as if one replica had done what both did; of what does not only grow, nothing."""
    paths = {**one.routes, **other.routes}
    cpu_s = one.process.cpu_s + other.process.cpu_s
    return Counts(
        service=one.service,
        routes={path: _of_both(one.routes.get(path), other.routes.get(path)) for path in paths},
        refused=_sum(one.refused, other.refused),
        sizes=_sum_lists([one.sizes, other.sizes]),
        rows=one.rows + other.rows,
        busy_s=one.busy_s + other.busy_s,
        process=ProcessCounts(cpu_s=cpu_s),
    )


class Gathered:
    """What all replicas counted, as they told it last, since somebody listens.

    What an ended one counted stays, so that no sum ever falls: under its own name, in which a rate sees what it did after
    the last look, and only then among `earlier` ones. The name that those have together says how many they are: it is another one when
    another comes to them, since in a sum that jumped a rate would see their requests a second time.
    """

    def __init__(self) -> None:
        self.live: dict[str, Counts] = {}
        self.ended: dict[str, Counts] = {}
        self._earlier: Counts | None = None
        self._how_many = 0

    def take(self, name: str, counts: Counts) -> None:
        """A replica told what it has counted so far."""
        self.live[name] = counts

    def end(self, name: str) -> None:
        """It is gone."""
        last = self.live.pop(name, None)
        if last is None:
            return
        ended = {**self.ended, name: last}
        if len(ended) > KEPT + (self._earlier is not None):
            ended.pop(self._together(), None)
            first = next(iter(ended))
            gone = ended.pop(first)
            self._earlier = gone if self._earlier is None else added(self._earlier, gone)
            self._how_many += 1
            ended = {self._together(): self._earlier, **ended}
        self.ended = ended  # at once: another thread may read it

    def _together(self) -> str:
        return f"earlier-{self._how_many}"


def _of_both(one: RouteCounts | None, other: RouteCounts | None) -> RouteCounts:
    there = [route for route in (one, other) if route is not None]
    statuses: dict[int, int] = {}
    for route in there:
        statuses = _sum(statuses, route.statuses)
    buckets = _sum_lists(route.buckets for route in there)
    return RouteCounts(statuses, buckets, sum(route.seconds for route in there))


def _sum(one: dict[K, int], other: dict[K, int]) -> dict[K, int]:
    return {key: one.get(key, 0) + other.get(key, 0) for key in {**one, **other}}


def _sum_lists(lists: Iterable[list[int]]) -> list[int]:
    several = [each for each in lists if each]
    return [sum(each) for each in zip(*several, strict=True)]
