"""A replica's counts in Prometheus' text format, written by prometheus_client when they are asked for."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import psutil

from hooke.serving.dispatch import Tally
from hooke.serving.metrics import BOUNDS_S, Meter, Refusals
from hooke.serving.problems import Problem

__all__ = ["MEDIA_TYPE", "Counts", "written"]

MEDIA_TYPE = b"text/plain; version=0.0.4; charset=utf-8"


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """What there is to write of a replica now."""

    service: str
    meters: Mapping[str, Meter]
    """By the paths of routes; '' for what was answered before one was found."""
    refused: Refusals
    active: int
    waiting_rows: int
    tally: Tally
    ready: bool
    ready_at: float | None
    """When it was set up, in seconds since 1970; None: not yet."""


def written(counts: Counts) -> bytes:
    """All families. Raises Problem (501) where prometheus_client is not installed."""
    try:
        from prometheus_client import core, exposition
    except ModuleNotFoundError:
        raise Problem(501, 'metrics need prometheus_client: pip install "hooke[serve]"') from None
    return exposition.generate_latest(_Families(counts, core))


class _Families:
    """A collector, as prometheus_client has them."""

    def __init__(self, counts: Counts, core: Any) -> None:
        self._counts = counts
        self._core = core

    def collect(self) -> Iterator[Any]:
        """Each family once, by the conventions of Prometheus: base units, counters ending in _total."""
        yield from self._requests()
        yield from self._model()
        yield from self._process()

    def _requests(self) -> Iterator[Any]:
        counts = self._counts
        seen = {path: meter for path, meter in counts.meters.items() if meter.statuses}
        total = self._counter(
            "hooke_requests", "Answers, by route and status. 499: the caller went.", "route", "status"
        )
        took = self._core.HistogramMetricFamily(
            "hooke_request_duration_seconds",
            "From the request's head to the end of its answer.",
            labels=["route"],
        )
        for path, meter in seen.items():
            for status, count in sorted(meter.statuses.items()):
                total.add_metric([path, str(status)], count)
            took.add_metric([path], _buckets(BOUNDS_S, meter.buckets), meter.seconds)
        yield total
        yield took
        yield self._gauge("hooke_requests_in_flight", "Requests being answered, this one too.", counts.active)
        yield self._refusals(counts.refused)

    def _refusals(self, refused: Refusals) -> Any:
        family = self._counter(
            "hooke_refused", "Requests and connections that were refused, by reason.", "reason"
        )
        for reason, count in sorted(refused.items()):
            family.add_metric([reason], count)
        return family

    def _model(self) -> Iterator[Any]:
        tally = self._counts.tally
        yield self._gauge("hooke_queue_rows", "Rows that wait for the model.", self._counts.waiting_rows)
        bounds = [float(2**power) for power in range(len(tally.sizes) - 1)]
        sizes = self._core.HistogramMetricFamily("hooke_batch_rows", "Rows of a batch that gave its results.")
        sizes.add_metric([], _buckets(bounds, tally.sizes), tally.rows)
        yield sizes
        busy = self._counter(
            "hooke_model_busy_seconds",
            "Seconds in which the model ran; calls of async def count where they are batches.",
        )
        busy.add_metric([], tally.busy_s)
        yield busy

    def _process(self) -> Iterator[Any]:
        counts, process = self._counts, psutil.Process()
        with process.oneshot():
            began, used, memory = process.create_time(), process.cpu_times(), process.memory_info()
        if counts.ready_at is not None:
            said = "From the process's start until the service was set up."
            yield self._gauge("hooke_startup_seconds", said, counts.ready_at - began)
        yield self._gauge("hooke_ready", "Whether requests should come here.", float(counts.ready))
        info = self._core.GaugeMetricFamily(
            "hooke_service_info", "What is served: always 1.", labels=["service"]
        )
        info.add_metric([counts.service], 1)
        yield info
        cpu = self._counter("process_cpu_seconds", "Seconds of user and system time.")
        cpu.add_metric([], used.user + used.system)
        yield cpu
        yield self._gauge("process_resident_memory_bytes", "Memory that is in RAM.", memory.rss)
        yield self._gauge("process_start_time_seconds", "Since 1970.", began)
        yield self._gauge("process_open_fds", "Open files and connections.", process.num_fds())

    def _counter(self, name: str, said: str, *labels: str) -> Any:
        return self._core.CounterMetricFamily(name, said, labels=list(labels))

    def _gauge(self, name: str, said: str, value: float) -> Any:
        return self._core.GaugeMetricFamily(name, said, value=value)


def _buckets(bounds: Iterable[float], counts: Sequence[int]) -> list[tuple[str, float]]:
    """Each bucket with all before it, as Prometheus wants them."""
    names = [*(f"{bound:g}" if bound < 1 else str(bound) for bound in bounds), "+Inf"]
    return list(zip(names, map(float, itertools.accumulate(counts)), strict=True))
