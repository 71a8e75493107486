"""What a replica counts of its requests: whole numbers and sums, on the hot path, for whoever wants to write them out."""

from __future__ import annotations

import itertools
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import msgspec
import psutil

from hooke.serving.problems import Problem
from hooke.serving.stats_windows import quantile_s

__all__ = [
    "BOUNDS_S",
    "CLIENT_GONE",
    "MEDIA_TYPE",
    "Counts",
    "GatheredCounts",
    "Meter",
    "ProcessCounts",
    "ProxyStats",
    "Refusals",
    "ReplicaSetMetrics",
    "RouteCounts",
    "UpstreamStats",
    "add_counts",
    "process_counts",
    "prometheus_text",
    "service_prometheus_text",
    "size_bucket",
]


# --- What replicas counted, as plain values: of one now, and of all that a service ever had. Pure.

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

    def requests(self) -> int:
        """Answers on the service's own routes: without those that ask how it is, and those of no route."""
        return sum(sum(route.statuses.values()) for route in self._own())

    def buckets(self) -> list[int]:
        """Of the service's own routes together."""
        return _sum_lists(route.buckets for route in self._own())

    def p99_s(self, before: Counts | None = None) -> float | None:
        """The seconds within which 99 % of the answers (since `before`) came, as near as the buckets tell; None without any."""
        buckets, others = self.buckets(), before.buckets() if before is not None else []
        since = {at: count - (others[at] if others else 0) for at, count in enumerate(buckets)}
        return quantile_s(since, 99.0, BOUNDS_S)

    def _own(self) -> list[RouteCounts]:
        return [route for path, route in self.routes.items() if path and not path.startswith("/-/")]


def add_counts(one: Counts, other: Counts) -> Counts:
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


class GatheredCounts:
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
            self._earlier = gone if self._earlier is None else add_counts(self._earlier, gone)
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


# --- What the front counted.


@dataclass(frozen=True, slots=True, kw_only=True)
class UpstreamStats:
    """What the front saw of one replica since it has it."""

    active: int
    """Requests that it has now."""
    requests: int
    failed: int
    """Those without an answer, or with one of 500 and above."""
    unreachable: int
    """Connections that it did not take."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProxyStats:
    """Counted since the front started."""

    connections: int
    """Of clients, now."""
    active: int
    """Requests that have no answer yet."""
    requests: int
    answers: dict[str, int]
    """By `2xx` to `5xx`."""
    retries: int
    not_retried: int
    """Too many retries went on at once, or the body was too long to be kept for one."""
    ejected: int
    """Replicas that it sends nothing to now, as they could not be reached."""
    ejections: int
    memory_bytes: int
    """Of its heap, now."""
    replicas: dict[str, UpstreamStats]
    """By `Upstream.place`: those that are published, and those that left and may have requests still."""


BOUNDS_S = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
"""Upper bounds of the buckets of answers by their seconds."""
CLIENT_GONE = 499
"""Stands for a status where the caller went before there was one; proxies write the same."""

Refusals = dict[str, int]
"""How often something was refused, by the reason."""


class Meter:
    """Counts the answers of one route."""

    __slots__ = ("buckets", "seconds", "statuses")

    def __init__(self) -> None:
        self.statuses: dict[int, int] = {}
        self.buckets = [0] * (len(BOUNDS_S) + 1)
        """By BOUNDS_S, each not counted in the next; the last is for those above all bounds."""
        self.seconds = 0.0
        """Of all answers together."""

    def done(self, status: int, seconds: float) -> None:
        """An answer of this status began or ended after so many seconds."""
        statuses = self.statuses
        statuses[status] = statuses.get(status, 0) + 1
        self.buckets[bisect_left(BOUNDS_S, seconds)] += 1
        self.seconds += seconds


def size_bucket(rows: int) -> int:
    """The bucket of a batch of so many rows: bucket k holds those of at most 2**k."""
    return (rows - 1).bit_length()


# --- What replicas counted in Prometheus' text format, written by prometheus_client when it is asked for.

MEDIA_TYPE = b"text/plain; version=0.0.4; charset=utf-8"


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaSetMetrics:
    """What there is to write of a service of several replicas, beside what each counted."""

    live: Mapping[str, Counts]
    """By replica."""
    ended: Mapping[str, Counts] = field(default_factory=dict)
    """What those counted that are no more."""
    states: Mapping[str, int] = field(default_factory=dict)
    """How many replicas are in each state."""
    wanted: int = 0
    ends: Mapping[str, int] = field(default_factory=dict)
    """How many ended, by cause."""
    decisions: Mapping[str, int] = field(default_factory=dict)
    """Events of the supervision, by their names in the journal."""
    proxy: ProxyStats | None = None
    """None: it does not run, or does not say."""


def prometheus_text(counts: Counts) -> bytes:
    """All families of one replica. Raises Problem (501) where prometheus_client is not installed."""
    return _generated(lambda core: _Families(core, {"": counts}, {}).collect())


def service_prometheus_text(metrics: ReplicaSetMetrics) -> bytes:
    """All families of all replicas, each sample with its `replica`; those of their supervisor and their front. Raises as `written`."""

    def collect(core: Any) -> Iterator[Any]:
        yield from _Families(core, metrics.live, metrics.ended, "replica").collect()
        yield from _supervisor(core, metrics)
        yield from _proxy(core, metrics.proxy)

    return _generated(collect)


def process_counts() -> ProcessCounts:
    """What the system tells of this process."""
    process = psutil.Process()
    with process.oneshot():
        used = process.cpu_times()
        return ProcessCounts(
            began=process.create_time(),
            cpu_s=used.user + used.system,
            resident_bytes=process.memory_info().rss,
            open_files=process.num_fds(),
        )


def _generated(collect: Callable[[Any], Iterable[Any]]) -> bytes:
    try:
        from prometheus_client import core, exposition
    except ModuleNotFoundError:
        raise Problem(501, 'metrics need prometheus_client: pip install "hooke[serve]"') from None
    return exposition.generate_latest(_Collector(list(collect(core))))


class _Collector:
    """As prometheus_client has them."""

    def __init__(self, families: list[Any]) -> None:
        self._families = families

    def collect(self) -> list[Any]:
        return self._families


class _Families:
    """Of replicas, by the conventions of Prometheus: base units, counters ending in _total. `label` says which replica."""

    def __init__(
        self, core: Any, live: Mapping[str, Counts], ended: Mapping[str, Counts], *label: str
    ) -> None:
        self._core = core
        self._label = label
        self._live = live
        self._all = {**ended, **live}

    def collect(self) -> Iterator[Any]:
        """Each family once."""
        yield from self._requests()
        yield from self._model()
        yield from self._process()

    def _requests(self) -> Iterator[Any]:
        total = self._counter(
            "hooke_requests", "Answers, by route and status. 499: the caller went.", "route", "status"
        )
        took = self._histogram(
            "hooke_request_duration_seconds", "From the request's head to the end of its answer.", "route"
        )
        refused = self._counter(
            "hooke_refused", "Requests and connections that were refused, by reason.", "reason"
        )
        for which, counts in self._counted():
            for path, route in counts.routes.items():
                for status, count in sorted(route.statuses.items()):
                    total.add_metric([*which, path, str(status)], count)
                took.add_metric([*which, path], _buckets(BOUNDS_S, route.buckets), route.seconds)
            for reason, count in sorted(counts.refused.items()):
                refused.add_metric([*which, reason], count)
        yield total
        yield took
        said = "Requests being answered, one that asks for this too."
        yield self._gauge("hooke_requests_in_flight", said, lambda counts: counts.active)
        said = "Bytes of the bodies that are being received or answered, but for small ones."
        yield self._gauge("hooke_body_bytes", said, lambda counts: counts.body_bytes)
        said = "So many bytes of bodies there may be."
        yield self._gauge("hooke_body_room_bytes", said, lambda counts: counts.body_room)
        yield refused

    def _model(self) -> Iterator[Any]:
        said = "Rows that wait for the model."
        yield self._gauge("hooke_queue_rows", said, lambda counts: counts.waiting_rows)
        sizes = self._histogram("hooke_batch_rows", "Rows of a batch that gave its results.")
        for which, counts in self._counted():
            bounds = [float(2**power) for power in range(len(counts.sizes) - 1)]
            if counts.sizes:
                sizes.add_metric(which, _buckets(bounds, counts.sizes), counts.rows)
        yield sizes
        said = "Seconds in which the model ran; calls of async def count where they are batches."
        yield self._sums("hooke_model_busy_seconds", said, lambda counts: counts.busy_s)

    def _process(self) -> Iterator[Any]:
        said = "From the process's start until the service was set up."
        yield self._gauge(
            "hooke_startup_seconds",
            said,
            lambda counts: None if counts.ready_at is None else counts.ready_at - counts.process.began,
        )
        said = "Whether requests should come here."
        yield self._gauge("hooke_ready", said, lambda counts: float(counts.ready))
        info = self._core.GaugeMetricFamily(
            "hooke_service_info", "What is served: always 1.", labels=[*self._label, "service"]
        )
        for which, counts in self._counted(self._live):
            info.add_metric([*which, counts.service], 1)
        yield info
        said = "Seconds of user and system time."
        yield self._sums("process_cpu_seconds", said, lambda counts: counts.process.cpu_s)
        said = "Memory that is in RAM."
        yield self._gauge("process_resident_memory_bytes", said, lambda counts: counts.process.resident_bytes)
        yield self._gauge("process_start_time_seconds", "Since 1970.", lambda counts: counts.process.began)
        said = "Open files and connections."
        yield self._gauge("process_open_fds", said, lambda counts: counts.process.open_files)

    def _counted(self, of: Mapping[str, Counts] | None = None) -> Iterator[tuple[list[str], Counts]]:
        for name, counts in (self._all if of is None else of).items():
            yield [name] if self._label else [], counts

    def _counter(self, name: str, said: str, *labels: str) -> Any:
        return self._core.CounterMetricFamily(name, said, labels=[*self._label, *labels])

    def _histogram(self, name: str, said: str, *labels: str) -> Any:
        return self._core.HistogramMetricFamily(name, said, labels=[*self._label, *labels])

    def _sums(self, name: str, said: str, value: Callable[[Counts], float]) -> Any:
        family = self._counter(name, said)
        for which, counts in self._counted():
            family.add_metric(which, value(counts))
        return family

    def _gauge(self, name: str, said: str, value: Callable[[Counts], float | None]) -> Any:
        family = self._core.GaugeMetricFamily(name, said, labels=list(self._label))
        for which, counts in self._counted(self._live):
            if (now := value(counts)) is not None:
                family.add_metric(which, now)
        return family


def _supervisor(core: Any, metrics: ReplicaSetMetrics) -> Iterator[Any]:
    states = core.GaugeMetricFamily("hooke_replicas", "Replicas, by state.", labels=["state"])
    for state, count in metrics.states.items():
        states.add_metric([state], count)
    yield states
    yield core.GaugeMetricFamily("hooke_replicas_wanted", "So many are to be ready.", value=metrics.wanted)
    ends = core.CounterMetricFamily(
        "hooke_replica_ends",
        "Replicas that ended, by cause; those that were not asked to are replaced.",
        labels=["cause"],
    )
    for cause, count in sorted(metrics.ends.items()):
        ends.add_metric([cause], count)
    yield ends
    decisions = core.CounterMetricFamily(
        "hooke_supervisor_events",
        "What was decided about replicas and happened to them, by the event of the journal.",
        labels=["event"],
    )
    for event, count in sorted(metrics.decisions.items()):
        decisions.add_metric([event], count)
    yield decisions


def _proxy(core: Any, stats: ProxyStats | None) -> Iterator[Any]:
    yield core.GaugeMetricFamily(
        "hooke_front_up", "Whether Envoy runs and says how it is.", value=stats is not None
    )
    if stats is None:
        return
    for name, said, value in (
        ("connections", "Clients' connections.", stats.connections),
        ("requests_in_flight", "Requests without an answer yet.", stats.active),
        (
            "ejected_replicas",
            "Replicas that it sends nothing to, as they could not be reached.",
            stats.ejected,
        ),
        ("memory_bytes", "Envoy's heap.", stats.memory_bytes),
    ):
        yield core.GaugeMetricFamily(f"hooke_front_{name}", said, value=value)
    for name, said, value in (
        ("requests", "Requests that came, those that ask for this too.", stats.requests),
        ("retries", "Requests that were sent to another replica.", stats.retries),
        (
            "not_retried",
            "Requests that were not, as too many were, or as their body was too long.",
            stats.not_retried,
        ),
        ("ejections", "How often a replica was set aside.", stats.ejections),
    ):
        yield core.CounterMetricFamily(f"hooke_front_{name}", said, value=value)
    answers = core.CounterMetricFamily(
        "hooke_front_answers",
        "Answers, of replicas and of Envoy itself, by the first digit of their status.",
        labels=["class"],
    )
    for kind, count in stats.answers.items():
        answers.add_metric([kind], count)
    yield answers


def _buckets(bounds: Iterable[float], counts: Sequence[int]) -> list[tuple[str, float]]:
    """Each bucket with all before it, as Prometheus wants them."""
    names = [*(f"{bound:g}" if bound < 1 else str(bound) for bound in bounds), "+Inf"]
    return list(zip(names, map(float, itertools.accumulate(counts)), strict=True))
