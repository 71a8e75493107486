"""The events of a service: what its replicas were asked, and how long their models took for it."""

from __future__ import annotations

from typing import TypeAlias

import msgspec

__all__ = [
    "BatchSize",
    "BatchWindow",
    "LoadMeasured",
    "MethodBatches",
    "ModelBack",
    "ModelDied",
    "ModelEvent",
    "ReplicaAdopted",
    "ReplicaEnded",
    "ReplicaEvent",
    "ReplicaLeft",
    "ReplicaReady",
    "ReplicaStarted",
    "RollOutChanged",
    "ServiceBegan",
    "ServiceEvent",
    "ServiceScaled",
    "StartDelayed",
]


# --- The events of a service of several replicas: each replica's life, how many there are to be and why, what replaced what.


class _Event(msgspec.Struct, frozen=True, kw_only=True, tag_field="event"):
    at: float = 0.0
    """Wall clock, seconds since the epoch."""


class _Replica(_Event, frozen=True, kw_only=True):
    replica: str
    """Its name: a number that no other replica of the service has had."""
    generation: str = ""
    """What it serves: replicas of equal generation have the same code, values and models."""


class ReplicaStarted(_Replica, frozen=True, kw_only=True, tag="replica_started"):
    """A process was started for it, and `reason` says why."""

    pid: int
    port: int
    reason: str


class ReplicaAdopted(_Replica, frozen=True, kw_only=True, tag="replica_adopted"):
    """It ran already when its supervisor began: an earlier one had started it."""

    pid: int
    port: int


class ReplicaReady(_Replica, frozen=True, kw_only=True, tag="replica_ready"):
    """It answers requests; `seconds` after its start."""

    seconds: float


class ReplicaLeft(_Replica, frozen=True, kw_only=True, tag="replica_left"):
    """No new request is sent to it, by decision; it ends when those that it has are answered."""

    reason: str
    in_flight: int = 0


class ReplicaEnded(_Replica, frozen=True, kw_only=True, tag="replica_ended"):
    """Its process is gone. `expected` where that had been asked of it and it had nothing left to answer."""

    cause: str
    expected: bool
    kind: str = ""
    """The cause in a word, to be counted: `asked`, `memory`, `cut` (it had something left), `hung`, `not ready` (in time), `exit`, `signal`, `unknown`."""
    exit_code: int | None = None
    """Minus the signal where one ended it; None where nobody knows."""
    in_flight: int = 0
    """Requests that it had, as far as it had told."""
    seconds: float = 0.0
    """Since its start."""
    log_tail: tuple[str, ...] = ()


class StartDelayed(_Event, frozen=True, kw_only=True, tag="start_delayed"):
    """Replicas of a generation died soon after their start: the next start waits."""

    generation: str
    failures: int
    """In a row."""
    seconds: float
    reason: str


class ServiceScaled(_Event, frozen=True, kw_only=True, tag="service_scaled"):
    """Another number of replicas is wanted, and why."""

    before: int
    after: int
    reason: str


class RollOutChanged(_Event, frozen=True, kw_only=True, tag="roll_out_changed"):
    """A roll-out `began`, is `done`, or went `back`; `reason` says why."""

    generation: str
    before: str
    """The generation that served until then."""
    status: str
    reason: str


class ModelDied(_Event, frozen=True, kw_only=True, tag="model_died"):
    """The process in which a replica's model ran ended, which nobody asked for; the replica goes on."""

    replica: str = ""
    """Empty where it is the only one."""
    cause: str
    method: str = ""
    """What it was at; empty where it was at nothing."""
    requests: int = 0
    """That it was at, and that had no answer of it."""
    exit_code: int | None = None
    """Minus the signal where one ended it."""
    peak_bytes: int | None = None
    """Of its memory; None where nobody knows."""
    seconds: float = 0.0
    """Since its start."""
    starts_in_s: float = 0.0
    log_tail: tuple[str, ...] = ()


class ModelBack(_Event, frozen=True, kw_only=True, tag="model_back"):
    """Another process is set up in place of the model's that died, `seconds` after its start."""

    replica: str = ""
    seconds: float


ModelEvent: TypeAlias = ModelDied | ModelBack
"""The events of a model in a process of its own."""

ReplicaEvent: TypeAlias = (
    ReplicaStarted
    | ReplicaAdopted
    | ReplicaReady
    | ReplicaLeft
    | ReplicaEnded
    | StartDelayed
    | ServiceScaled
    | RollOutChanged
    | ModelEvent
)
"""All events of replicas."""


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
    """Of `requests`, (bin, how many), the faster ones first; `hooke.serving.stats_windows` has the bins."""
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
