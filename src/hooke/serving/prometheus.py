"""What replicas counted in Prometheus' text format, written by prometheus_client when it is asked for."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import psutil

from hooke.serving.counts import Counts, ProcessCounts
from hooke.serving.front.stats import FrontStats
from hooke.serving.metrics import BOUNDS_S
from hooke.serving.problems import Problem

__all__ = ["MEDIA_TYPE", "Fleet", "process_now", "written", "written_of_all"]

MEDIA_TYPE = b"text/plain; version=0.0.4; charset=utf-8"


@dataclass(frozen=True, slots=True, kw_only=True)
class Fleet:
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
    front: FrontStats | None = None
    """None: it does not run, or does not say."""


def written(counts: Counts) -> bytes:
    """All families of one replica. Raises Problem (501) where prometheus_client is not installed."""
    return _generated(lambda core: _Families(core, {"": counts}, {}).collect())


def written_of_all(fleet: Fleet) -> bytes:
    """All families of all replicas, each sample with its `replica`; those of their supervisor and their front. Raises as `written`."""

    def collect(core: Any) -> Iterator[Any]:
        yield from _Families(core, fleet.live, fleet.ended, "replica").collect()
        yield from _supervisor(core, fleet)
        yield from _front(core, fleet.front)

    return _generated(collect)


def process_now() -> ProcessCounts:
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


def _supervisor(core: Any, fleet: Fleet) -> Iterator[Any]:
    states = core.GaugeMetricFamily("hooke_replicas", "Replicas, by state.", labels=["state"])
    for state, count in fleet.states.items():
        states.add_metric([state], count)
    yield states
    yield core.GaugeMetricFamily("hooke_replicas_wanted", "So many are to be ready.", value=fleet.wanted)
    ends = core.CounterMetricFamily(
        "hooke_replica_ends",
        "Replicas that ended, by cause; those that were not asked to are replaced.",
        labels=["cause"],
    )
    for cause, count in sorted(fleet.ends.items()):
        ends.add_metric([cause], count)
    yield ends
    decisions = core.CounterMetricFamily(
        "hooke_supervisor_events",
        "What was decided about replicas and happened to them, by the event of the journal.",
        labels=["event"],
    )
    for event, count in sorted(fleet.decisions.items()):
        decisions.add_metric([event], count)
    yield decisions


def _front(core: Any, stats: FrontStats | None) -> Iterator[Any]:
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
