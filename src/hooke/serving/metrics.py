"""The counters of a replica and of a service, and their text for Prometheus."""

from __future__ import annotations

import itertools
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import msgspec
import psutil

from hooke.base.distributions import install_command
from hooke.generation.prompt_balancer import BLOCK, BalancerFacts
from hooke.serving.problems import Problem
from hooke.serving.stats_windows import quantile_s
from hooke.serving.token_metrics import TokenFamily, add_families, token_families

__all__ = [
    "BOUNDS_S",
    "CLIENT_GONE",
    "MEDIA_TYPE",
    "Counts",
    "GatheredCounts",
    "Meter",
    "ModelUse",
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


# --- Counters as plain values: of one replica now, and of all that a service ever had. Pure.

K = TypeVar("K", int, str)

KEPT = 32
"""Ended replicas kept under their own names. A scrape a minute sees each: replicas that die restart more slowly."""


class RouteCounts(msgspec.Struct, frozen=True):
    """The counts of one route; as `Meter`."""

    statuses: dict[int, int]
    buckets: list[int]
    seconds: float


class ProcessCounts(msgspec.Struct, frozen=True):
    """The replica's process, from the operating system."""

    began: float = 0.0
    """In seconds since 1970."""
    cpu_s: float = 0.0
    resident_bytes: int = 0
    open_files: int = 0


class ModelUse(msgspec.Struct, kw_only=True):
    """The counts of a model that requests name."""

    requests: int = 0
    loads: int = 0
    load_s: float = 0.0
    """Of all its loads together."""
    evictions: int = 0
    bytes: int = 0
    """Its size; 0 while it is not loaded."""


class Counts(msgspec.Struct, frozen=True, kw_only=True):
    """The counters of a replica. Its totals remain after its end."""

    service: str
    routes: dict[str, RouteCounts] = {}
    """By path of the routes that were called; '' counts answers before a route was found."""
    refused: dict[str, int] = {}
    raised: dict[str, int] = {}
    """Exceptions of the service's code, by method, type and line; at most `replica.MOST_RAISED` different ones."""
    sizes: list[int] = []
    """Finished batches, as in `dispatch.Tally`."""
    rows: int = 0
    busy_s: float = 0.0
    process: ProcessCounts = ProcessCounts()
    active: int = 0
    waiting_rows: int = 0
    body_bytes: int = 0
    """Bytes of bodies in progress, without small ones."""
    body_room: int = 0
    """The budget for these."""
    ready: bool = False
    ready_at: float | None = None
    """When it was set up, in seconds since 1970; None: not yet."""
    unseen: dict[str, int] = {}
    """Lines of the request log and spans that were lost."""
    models: dict[str, ModelUse] = {}
    """The models that requests named."""
    tokens: list[TokenFamily] | None = None
    """What is measured of a language model; None: as reported before."""

    def requests(self) -> int:
        """Answers on the service's own routes, without health checks and unknown paths."""
        return sum(sum(route.statuses.values()) for route in self._own())

    def buckets(self) -> list[int]:
        """Answer times of the service's own routes together."""
        return _sum_lists(route.buckets for route in self._own())

    def p99_s(self, before: Counts | None = None) -> float | None:
        """The seconds within which 99 % of the answers (since `before`) came, as near as the buckets tell; None without any."""
        buckets, others = self.buckets(), before.buckets() if before is not None else []
        since = {at: count - (others[at] if others else 0) for at, count in enumerate(buckets)}
        return quantile_s(since, 99.0, BOUNDS_S)

    def _own(self) -> list[RouteCounts]:
        return [route for path, route in self.routes.items() if path and not path.startswith("/-/")]


def add_counts(one: Counts, other: Counts) -> Counts:
    """The totals of both, as of one replica; gauges are left out."""
    paths = {**one.routes, **other.routes}
    cpu_s = one.process.cpu_s + other.process.cpu_s
    return Counts(
        service=one.service,
        routes={path: _of_both(one.routes.get(path), other.routes.get(path)) for path in paths},
        refused=_sum(one.refused, other.refused),
        sizes=_sum_lists([one.sizes, other.sizes]),
        rows=one.rows + other.rows,
        busy_s=one.busy_s + other.busy_s,
        unseen=_sum(one.unseen, other.unseen),
        models={name: _use_of_both(one, other, name) for name in {**one.models, **other.models}},
        process=ProcessCounts(cpu_s=cpu_s),
        tokens=add_families(one.tokens or (), other.tokens or ()) or None,
    )


class GatheredCounts:
    """The last reported counts of all replicas since the supervisor began.

    Counts of an ended replica stay, so that no sum ever falls: first under its own name, where a rate sees what it did after
    the last scrape, and later among the `earlier` ones. The name of these includes their number, and so changes when one
    joins them: if the same series jumped, a rate would count its requests a second time.
    """

    def __init__(self) -> None:
        self.live: dict[str, Counts] = {}
        self.ended: dict[str, Counts] = {}
        self._earlier: Counts | None = None
        self._how_many = 0

    def take(self, name: str, counts: Counts) -> None:
        """A replica reported its counts."""
        before = self.live.get(name)
        if counts.tokens is None and before is not None and before.tokens is not None:
            counts = msgspec.structs.replace(counts, tokens=before.tokens)
        self.live[name] = counts

    def end(self, name: str) -> None:
        """A replica is gone."""
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
        self.ended = ended  # in one assignment: another thread may read it

    def _together(self) -> str:
        return f"earlier-{self._how_many}"


def _of_both(one: RouteCounts | None, other: RouteCounts | None) -> RouteCounts:
    there = [route for route in (one, other) if route is not None]
    statuses: dict[int, int] = {}
    for route in there:
        statuses = _sum(statuses, route.statuses)
    buckets = _sum_lists(route.buckets for route in there)
    return RouteCounts(statuses, buckets, sum(route.seconds for route in there))


def _use_of_both(one: Counts, other: Counts, name: str) -> ModelUse:
    uses = [counts.models[name] for counts in (one, other) if name in counts.models]
    return ModelUse(
        requests=sum(use.requests for use in uses),
        loads=sum(use.loads for use in uses),
        load_s=sum(use.load_s for use in uses),
        evictions=sum(use.evictions for use in uses),
    )


def _sum(one: dict[K, int], other: dict[K, int]) -> dict[K, int]:
    return {key: one.get(key, 0) + other.get(key, 0) for key in {**one, **other}}


def _sum_lists(lists: Iterable[list[int]]) -> list[int]:
    several = [each for each in lists if each]
    return [sum(each) for each in zip(*several, strict=True)]


# --- The proxy's counters.


@dataclass(frozen=True, slots=True, kw_only=True)
class UpstreamStats:
    """The proxy's view of one replica."""

    active: int
    """Open requests."""
    requests: int
    failed: int
    """Requests without an answer, or with a status of 500 and above."""
    unreachable: int
    """Connections that failed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KeeperFacts:
    """What the stream keeper has done so far."""

    resumed: int = 0
    """How often a stream went on on another replica."""
    cut: int = 0
    """Answers that ended with their replica: no other one could go on with them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProxyStats:
    """The proxy's counters since its start."""

    connections: int
    """Client connections now."""
    active: int
    """Requests without an answer yet."""
    requests: int
    answers: dict[str, int]
    """Answers by class, `2xx` to `5xx`."""
    retries: int
    not_retried: int
    """Too many concurrent retries, or the body was too long to keep."""
    shed: int
    """Requests that it refused itself, because the replicas had as many as they can answer in time."""
    ejected: int
    """Replicas that could not be reached, and get no requests now."""
    ejections: int
    memory_bytes: int
    """Its heap now."""
    replicas: dict[str, UpstreamStats]
    """By `Upstream.place`: published replicas, and those that left and may have open requests."""
    unrouted: int = 0
    """Prompts that went to the least busy replica, as the endpoint picker did not answer."""
    prompts: BalancerFacts | None = None
    """What the endpoint picker has done; None for a service that is no language model."""
    kept: KeeperFacts | None = None
    """What the stream keeper has done; None where no stream can go on on another replica."""


BOUNDS_S = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
"""Upper bounds of the buckets of answer times."""
CLIENT_GONE = 499
"""Stands for a status if the client left before there was one, as in proxies."""

Refusals = dict[str, int]
"""Refusals by reason."""


class Meter:
    """Counts the answers of one route."""

    __slots__ = ("buckets", "seconds", "statuses")

    def __init__(self) -> None:
        self.statuses: dict[int, int] = {}
        self.buckets = [0] * (len(BOUNDS_S) + 1)
        """By BOUNDS_S, not cumulative; the last bucket is above all bounds."""
        self.seconds = 0.0
        """Total of all answers."""

    def done(self, status: int, seconds: float) -> None:
        """Count an answer with this status after so many seconds."""
        statuses = self.statuses
        statuses[status] = statuses.get(status, 0) + 1
        self.buckets[bisect_left(BOUNDS_S, seconds)] += 1
        self.seconds += seconds


def size_bucket(rows: int) -> int:
    """The bucket of a batch: bucket k holds batches of at most 2**k rows."""
    return (rows - 1).bit_length()


# --- The text format of Prometheus, written by prometheus_client when it is requested.

MEDIA_TYPE = b"text/plain; version=0.0.4; charset=utf-8"


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaSetMetrics:
    """The metrics of a service of several replicas, beside the counts of each."""

    live: Mapping[str, Counts]
    """By replica."""
    ended: Mapping[str, Counts] = field(default_factory=dict)
    """The counts of ended replicas."""
    states: Mapping[str, int] = field(default_factory=dict)
    """The number of replicas in each state."""
    wanted: int = 0
    ends: Mapping[str, int] = field(default_factory=dict)
    """The number of ends, by cause."""
    decisions: Mapping[str, int] = field(default_factory=dict)
    """Supervision events, by their names in the journal."""
    proxy: ProxyStats | None = None
    """None: it does not run, or does not answer."""


def prometheus_text(counts: Counts) -> bytes:
    """All metric families of one replica. Raises Problem (501) if prometheus_client is not installed."""
    return _generated(lambda core: _replicas(core, {"": counts}, {}))


def service_prometheus_text(metrics: ReplicaSetMetrics) -> bytes:
    """All metric families of all replicas, each sample with its `replica`, and of supervisor and proxy. Raises as `prometheus_text`."""

    def collect(core: Any) -> Iterator[Any]:
        yield from _replicas(core, metrics.live, metrics.ended, "replica")
        yield from _supervisor(core, metrics)
        yield from _proxy(core, metrics.proxy)

    return _generated(collect)


def process_counts() -> ProcessCounts:
    """This process's facts from the operating system."""
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
        raise Problem(501, f"metrics need prometheus_client: {install_command('serve')}") from None
    return exposition.generate_latest(_Collector(list(collect(core))))


class _Collector:
    """The interface of a collector for prometheus_client."""

    def __init__(self, families: list[Any]) -> None:
        self._families = families

    def collect(self) -> list[Any]:
        return self._families


_GAUGES: Mapping[str, tuple[str, Callable[[Counts], float | None]]] = {
    "hooke_requests_in_flight": ("Requests in progress, including the scrape.", lambda c: c.active),
    "hooke_body_bytes": ("Bytes of request bodies in progress, without small ones.", lambda c: c.body_bytes),
    "hooke_body_room_bytes": ("Limit of bytes of request bodies in progress.", lambda c: c.body_room),
    "hooke_queue_rows": ("Rows waiting for the model.", lambda c: c.waiting_rows),
    "hooke_startup_seconds": (
        "Seconds from the process's start until the service was set up.",
        lambda c: None if c.ready_at is None else c.ready_at - c.process.began,
    ),
    "hooke_ready": ("Whether the replica is ready for requests.", lambda c: float(c.ready)),
    "process_resident_memory_bytes": ("Resident memory in bytes.", lambda c: c.process.resident_bytes),
    "process_start_time_seconds": ("Since 1970.", lambda c: c.process.began),
    "process_open_fds": ("Open files and connections.", lambda c: c.process.open_files),
}
_COUNTERS: Mapping[str, tuple[str, Callable[[Counts], float]]] = {
    "hooke_model_busy_seconds": (
        "Seconds that the model ran; calls of async def count only as batches, and steps of a language model not at all.",
        lambda c: c.busy_s,
    ),
    "process_cpu_seconds": ("Total user and system CPU time in seconds.", lambda c: c.process.cpu_s),
}


def _replicas(
    core: Any, live: Mapping[str, Counts], ended: Mapping[str, Counts], *label: str
) -> Iterator[Any]:
    """Families of replicas, by Prometheus' conventions: base units, counters end in _total. `label` names the replica."""
    running = [([name] if label else [], counts) for name, counts in live.items()]
    every = [([name] if label else [], counts) for name, counts in {**ended, **live}.items()]
    yield from _labelled(core, every, label)
    info = core.GaugeMetricFamily(
        "hooke_service_info", "The name of the service; always 1.", labels=[*label, "service"]
    )
    for which, counts in running:
        info.add_metric([*which, counts.service], 1)
    yield info
    for kind, table, whose in (
        (core.GaugeMetricFamily, _GAUGES, running),
        (core.CounterMetricFamily, _COUNTERS, every),
    ):
        for name, (said, value) in table.items():
            family = kind(name, said, labels=label)
            for which, counts in whose:
                if (now := value(counts)) is not None:
                    family.add_metric(which, now)
            yield family
    ends = [(name, counts) for name, counts in ended.items() if name not in live]
    yield from token_families(
        core,
        *(
            [({label[0]: name} if label else {}, counts.tokens or ()) for name, counts in which]
            for which in (live.items(), ends)
        ),
    )


def _labelled(core: Any, every: Sequence[tuple[list[str], Counts]], label: Sequence[str]) -> Iterator[Any]:
    """Requests, refusals and batch sizes, whose samples have further labels or buckets."""
    said = "Answers, by route and status. 499: the client disconnected."
    total = core.CounterMetricFamily("hooke_requests", said, labels=[*label, "route", "status"])
    said = "Seconds from the request's head to the end of its answer."
    took = core.HistogramMetricFamily("hooke_request_duration_seconds", said, labels=[*label, "route"])
    said = "Refused requests and connections, by reason."
    refused = core.CounterMetricFamily("hooke_refused", said, labels=[*label, "reason"])
    said = "Lines of the request log, and spans, that could not be written."
    unseen = core.CounterMetricFamily("hooke_unseen", said, labels=[*label, "what"])
    sizes = core.HistogramMetricFamily("hooke_batch_rows", "Rows of finished batches.", labels=label)
    for which, counts in every:
        for path, route in counts.routes.items():
            for status, count in sorted(route.statuses.items()):
                total.add_metric([*which, path, str(status)], count)
            took.add_metric([*which, path], _buckets(BOUNDS_S, route.buckets), route.seconds)
        for reason, count in sorted(counts.refused.items()):
            refused.add_metric([*which, reason], count)
        for what, count in counts.unseen.items():
            unseen.add_metric([*which, what], count)
        if counts.sizes:
            bounds = [float(2**power) for power in range(len(counts.sizes) - 1)]
            sizes.add_metric(which, _buckets(bounds, counts.sizes), counts.rows)
    yield from (total, took, refused, unseen, sizes)
    if any(counts.models for _, counts in every):
        yield from _models(core, every, label)


_OF_MODELS: Mapping[str, tuple[str, Callable[[ModelUse], float]]] = {
    "requests": ("Requests that named the model.", lambda use: use.requests),
    "loads": ("Loads of the model.", lambda use: use.loads),
    "load_seconds": ("Seconds of its loads.", lambda use: use.load_s),
    "evictions": ("How often it gave way to another one.", lambda use: use.evictions),
}


def _models(core: Any, every: Sequence[tuple[list[str], Counts]], label: Sequence[str]) -> Iterator[Any]:
    """Counts of the models that requests name."""
    labels = [*label, "model"]
    sizes = core.GaugeMetricFamily("hooke_model_bytes", "The size of a loaded model.", labels=labels)
    for which, counts in every:
        for name, use in counts.models.items():
            sizes.add_metric([*which, name], use.bytes)
    yield sizes
    for kind, (said, value) in _OF_MODELS.items():
        family = core.CounterMetricFamily(f"hooke_model_{kind}", said, labels=labels)
        for which, counts in every:
            for name, use in counts.models.items():
                family.add_metric([*which, name], value(use))
        yield family


def _supervisor(core: Any, metrics: ReplicaSetMetrics) -> Iterator[Any]:
    yield _by(core.GaugeMetricFamily, "hooke_replicas", "Replicas, by state.", "state", metrics.states)
    yield core.GaugeMetricFamily("hooke_replicas_wanted", "Desired replicas.", value=metrics.wanted)
    said = "Ended replicas, by cause; those that died are replaced."
    yield _by(core.CounterMetricFamily, "hooke_replica_ends", said, "cause", metrics.ends)
    said = "Decisions and events of replicas, by the name of the journal's event."
    yield _by(core.CounterMetricFamily, "hooke_supervisor_events", said, "event", metrics.decisions)


def _proxy(core: Any, stats: ProxyStats | None) -> Iterator[Any]:
    said = "Whether Envoy runs and reports its counters."
    yield core.GaugeMetricFamily("hooke_front_up", said, value=stats is not None)
    if stats is None:
        return
    not_retried = "Requests not retried: too many retries at once, or the body was too long."
    gauge, counter = core.GaugeMetricFamily, core.CounterMetricFamily
    for kind, name, said, value in (
        (gauge, "connections", "Open client connections.", stats.connections),
        (gauge, "requests_in_flight", "Requests without an answer yet.", stats.active),
        (gauge, "ejected_replicas", "Ejected replicas: they could not be reached.", stats.ejected),
        (gauge, "memory_bytes", "Envoy's heap.", stats.memory_bytes),
        (counter, "requests", "Requests received, including scrapes.", stats.requests),
        (counter, "retries", "Requests retried on another replica.", stats.retries),
        (counter, "not_retried", not_retried, stats.not_retried),
        (counter, "ejections", "Ejections of replicas.", stats.ejections),
        (counter, "shed", "Requests refused by Envoy itself: the replicas had enough.", stats.shed),
    ):
        yield kind(f"hooke_front_{name}", said, value=value)
    said = "Answers of replicas and of Envoy itself, by the class of their status."
    yield _by(counter, "hooke_front_answers", said, "class", stats.answers)
    if stats.prompts is not None:
        yield from _prompts(core, stats.prompts, stats.unrouted)
    if stats.kept is not None:
        said = "Streams that went on on another replica when theirs ended."
        yield counter("hooke_front_streams_resumed", said, value=stats.kept.resumed)
        yield counter(
            "hooke_front_answers_cut", "Answers that were cut when their replica ended.", value=stats.kept.cut
        )


def _prompts(core: Any, facts: BalancerFacts, unrouted: int) -> Iterator[Any]:
    for name, said, value in (
        ("prompts_routed", "Prompts sent to the replica that the endpoint picker chose.", facts.prompts),
        ("prompts_unrouted", "Prompts sent without the endpoint picker, which did not answer.", unrouted),
        ("prompts_unread", "Prompts whose body the endpoint picker could not read.", facts.unread),
        ("prompts_spilled", "Prompts sent elsewhere: who knew them had too much to do.", facts.spilled),
        ("prompt_blocks", f"Blocks of {BLOCK} bytes of routed prompts.", facts.blocks),
        ("prompt_blocks_known", "Those that their replica should have in memory.", facts.known),
        ("sessions_moved", "Sessions that left their replica.", facts.moved),
    ):
        yield core.CounterMetricFamily(f"hooke_front_{name}", said, value=value)
    said = "Speed of the slowest replica, beside that of the fastest."
    yield core.GaugeMetricFamily("hooke_front_slowest_replica", said, value=facts.slowest)


def _by(kind: Any, name: str, said: str, label: str, counts: Mapping[str, int]) -> Any:
    """A family with a sample for each key of `counts`."""
    family = kind(name, said, labels=[label])
    for key, count in counts.items():
        family.add_metric([key], count)
    return family


def _buckets(bounds: Iterable[float], counts: Sequence[int]) -> list[tuple[str, float]]:
    """Cumulative counts, as Prometheus wants them."""
    names = [*(f"{bound:g}" if bound < 1 else str(bound) for bound in bounds), "+Inf"]
    return list(zip(names, map(float, itertools.accumulate(counts)), strict=True))
