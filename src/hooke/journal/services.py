"""The events of a service: what its replicas were asked, and how long their models took for it."""

from __future__ import annotations

from typing import TypeAlias

import msgspec

from hooke.journal.replicas import ReplicaEvent

__all__ = ["BatchSize", "BatchWindow", "LoadMeasured", "MethodBatches", "ServiceBegan", "ServiceEvent"]


class ServiceBegan(msgspec.Struct, frozen=True, kw_only=True, tag_field="event", tag="service_began"):
    """What was declared of the service: what its windows are to be read with."""

    at: float = 0.0
    max_batch: int | None = None
    """None where no call is for several requests."""
    slo_percent: float | None = None
    slo_limit_s: float | None = None
    """So many percent of requests within so many seconds; None where nothing was promised."""
    timeout_s: float = 0.0
    replicas: tuple[int, int] = (1, 1)
    """The fewest and the most that were asked for."""


class BatchSize(msgspec.Struct, frozen=True, array_like=True):
    """Batches of about one size, together: how many, their rows, their seconds, and the squares of these seconds."""

    batches: int
    rows: int
    seconds: float
    squares: float


class MethodBatches(msgspec.Struct, frozen=True, kw_only=True):
    """What one method was called with."""

    method: str
    sizes: tuple[BatchSize, ...] = ()
    """Batches that gave their results, the smaller ones first."""
    failed: int = 0
    """Batches that raised; each is run again in halves, down to the request that is to blame."""
    failed_s: float = 0.0


class BatchWindow(msgspec.Struct, frozen=True, kw_only=True, tag_field="event", tag="batch_window"):
    """What one replica, or several, did in a stretch of time that ends at `at`. Nothing of it is a mean of means: windows add up."""

    at: float = 0.0
    """Wall clock, seconds since the epoch."""
    seconds: float = 0.0
    """How long it is."""
    replica: str = ""
    """Empty where it is the only one."""
    methods: tuple[MethodBatches, ...] = ()
    arrived: int = 0
    """Asked, whatever became of it; 0 in journals of before it was counted."""
    requests: int = 0
    """Answered with a result; an item of a stream counts as one."""
    failed: int = 0
    """Answered with an error of the service's own code."""
    refused: int = 0
    """Sent away, as too much waited."""
    late: int = 0
    """Not answered within the timeout."""
    over_slo: int = 0
    """Of `requests`, those that took longer than the SLO's limit."""
    gone: int = 0
    """Without an answer, as whoever asked had gone, or as the process ended."""
    gone_over_slo: int = 0
    """Of `gone`, those that went after the SLO's limit."""
    latencies: tuple[tuple[int, int], ...] = ()
    """Of `requests`, (bin, how many), the faster ones first; `hooke.serving.latencies` has the bins."""
    busy_s: float = 0.0
    """How long the model was at it."""
    request_s: float = 0.0
    """Requests waiting or running, integrated over time: over `seconds`, their mean number."""
    most_waiting: int = 0
    """The most rows that waited when a batch ended."""

    @property
    def batches(self) -> int:
        """Those that gave their results."""
        return sum(size.batches for each in self.methods for size in each.sizes)

    @property
    def rows(self) -> int:
        """Of these batches."""
        return sum(size.rows for each in self.methods for size in each.sizes)

    @property
    def ended(self) -> int:
        """Requests that counted for the SLO: those that were answered, and those that should have been."""
        return self.requests + self.failed + self.refused + self.late + self.gone_over_slo


class LoadMeasured(msgspec.Struct, frozen=True, kw_only=True, tag_field="event", tag="load_measured"):
    """In a study of a service, beside the Measured of its safe rate: what was under load, and what it took. For plans."""

    at: float = 0.0
    replicas: int = 1
    threads: int = 0
    """Of the model's libraries in each replica; 0 where that is not known."""
    slo_percent: float = 0.0
    slo_limit_s: float = 0.0
    rate: float = 0.0
    """Requests a second: the highest at which the promise surely held."""
    breaks_at: float | None = None
    """The lowest rate at which it surely broke; None where it broke at none."""
    cores: float = 0.0
    """CPU seconds a second of all its processes at that rate; 0 where that was not seen."""
    rss: int = 0
    """The most resident bytes of all its processes at once, at that rate."""
    batch_s: tuple[tuple[float, float, float], tuple[float, float, float]] | None = None
    """Seconds a row, and seconds a batch beside, each as (low, value, high); None where its batches do not tell."""
    arrivals: str = ""
    sent: str = ""
    """A hash of the bodies: loads of equal ones can be compared."""
    given: str = ""
    """What `setup` was given, as it was typed."""


ServiceEvent: TypeAlias = ServiceBegan | BatchWindow | LoadMeasured | ReplicaEvent
"""All events that only services have, in their runs and in studies of them."""
