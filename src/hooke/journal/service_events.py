"""The events of a service: the life of its replicas, their requests, and the time of their models."""

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
    "PromptsUnrouted",
    "ReplicaAdopted",
    "ReplicaEnded",
    "ReplicaEvent",
    "ReplicaLeft",
    "ReplicaReady",
    "ReplicaStarted",
    "RollOutChanged",
    "RuleChosen",
    "ServiceBegan",
    "ServiceEvent",
    "ServiceScaled",
    "StartDelayed",
    "StepSums",
]


# --- Events of a service with replicas: the life of each replica, the desired number and its reason, roll-outs.


class _Event(msgspec.Struct, frozen=True, kw_only=True, tag_field="event"):
    at: float = 0.0
    """Wall clock, seconds since the epoch."""


class _Replica(_Event, frozen=True, kw_only=True):
    replica: str
    """Its name: a number that is unique in the service."""
    generation: str = ""
    """Its generation: replicas of equal generation have the same code, values and models."""


class ReplicaStarted(_Replica, frozen=True, kw_only=True, tag="replica_started"):
    """A process was started for the replica; `reason` says why."""

    pid: int
    port: int
    reason: str


class ReplicaAdopted(_Replica, frozen=True, kw_only=True, tag="replica_adopted"):
    """It was already running when its supervisor started: an earlier supervisor had started it."""

    pid: int
    port: int


class ReplicaReady(_Replica, frozen=True, kw_only=True, tag="replica_ready"):
    """The replica answers requests, `seconds` after its start."""

    seconds: float


class ReplicaLeft(_Replica, frozen=True, kw_only=True, tag="replica_left"):
    """The replica is draining: it gets no new requests, and ends when it has answered those that it has."""

    reason: str
    in_flight: int = 0


class ReplicaEnded(_Replica, frozen=True, kw_only=True, tag="replica_ended"):
    """The replica's process ended. `expected`: it was asked to end and had no request left."""

    cause: str
    expected: bool
    kind: str = ""
    """The cause, for counters: `asked`, `memory`, `cut` (with requests left), `hung`, `not ready` (in time), `exit`, `signal`, `unknown`."""
    exit_code: int | None = None
    """Minus the signal that ended it; None if it is not known."""
    in_flight: int = 0
    """Requests that it had, by its last report."""
    seconds: float = 0.0
    """Since its start."""
    log_tail: tuple[str, ...] = ()


class StartDelayed(_Event, frozen=True, kw_only=True, tag="start_delayed"):
    """Replicas of a generation died soon after their start, so the next start waits."""

    generation: str
    failures: int
    """In a row."""
    seconds: float
    reason: str


class ServiceScaled(_Event, frozen=True, kw_only=True, tag="service_scaled"):
    """The desired number of replicas changed, with the reason."""

    before: int
    after: int
    reason: str


class ColdStart(_Event, frozen=True, kw_only=True, tag="cold_start"):
    """The first answer of a service that had no replica, `seconds` after its request arrived."""

    seconds: float
    replica: str = ""
    """The newest ready replica then."""
    held: int = 0
    """The most requests that waited at once."""
    refused: int = 0
    """Requests for which there was no room, or no time."""
    gone: int = 0
    """Requests whose clients left before that."""


class PromptsUnrouted(_Event, frozen=True, kw_only=True, tag="prompts_unrouted"):
    """Prompts for a language model went to the least busy replica, since the endpoint picker did not answer in time."""

    prompts: int
    """Since the last such event."""


class RuleChosen(_Event, frozen=True, kw_only=True, tag="rule_chosen"):
    """A replay of the arrivals chose another rule by which the service scales; `reason` says why."""

    rule: str
    before: str = ""
    """The rule until then; empty for the reactive policy."""
    reason: str


class RollOutChanged(_Event, frozen=True, kw_only=True, tag="roll_out_changed"):
    """A roll-out `began`, its trial was passed (`accepted`), it is `done`, or it was rolled `back`; `reason` says why."""

    generation: str
    before: str
    """The generation that served until then."""
    status: str
    reason: str


class ModelDied(_Event, frozen=True, kw_only=True, tag="model_died"):
    """The process of a replica's model died; the replica continues."""

    replica: str = ""
    """Empty where it is the only one."""
    cause: str
    method: str = ""
    """The method that it was running; empty if it was idle."""
    requests: int = 0
    """The requests that it was working on."""
    exit_code: int | None = None
    """Minus the signal that ended it."""
    peak_bytes: int | None = None
    """Its peak memory; None if it is not known."""
    seconds: float = 0.0
    """Since its start."""
    starts_in_s: float = 0.0
    log_tail: tuple[str, ...] = ()


class ModelBack(_Event, frozen=True, kw_only=True, tag="model_back"):
    """A new process replaces the dead process of a model, ready `seconds` after its start."""

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
    | ColdStart
    | RuleChosen
    | RollOutChanged
    | PromptsUnrouted
    | ModelEvent
)
"""All events of replicas."""


class ServiceBegan(msgspec.Struct, frozen=True, kw_only=True, tag_field="event", tag="service_began"):
    """The service's declaration, which readers of its windows need."""

    at: float = 0.0
    max_batch: int | None = None
    """None if no call is batched."""
    slo_percent: float | None = None
    slo_limit_s: float | None = None
    """The SLO as (percent of requests, seconds); None if there is none."""
    slo_each_s: float | None = None
    """Of a language model's SLO, the seconds of each other token; `slo_limit_s` are those to the first one."""
    tokens: bool = False
    """Whether it is a language model, whose windows have steps and tokens."""
    timeout_s: float = 0.0
    replicas: tuple[int, int] = (1, 1)
    """The lowest and the highest number of replicas."""


class BatchSize(msgspec.Struct, frozen=True, array_like=True):
    """Batches of about one size: their number, and the sums of rows, seconds and squared seconds."""

    batches: int
    rows: int
    seconds: float
    squares: float


class MethodBatches(msgspec.Struct, frozen=True, kw_only=True):
    """The batches of one method."""

    method: str
    sizes: tuple[BatchSize, ...] = ()
    """Successful batches, the smaller ones first."""
    failed: int = 0
    """Batches that raised. Each is run again in halves, down to the request that caused it."""
    failed_s: float = 0.0


class StepSums(msgspec.Struct, frozen=True, array_like=True):
    """Steps of a language model of about one size: the sums that fit the law of a step's time.

    `products` are the sums over the steps of z_i z_j for i <= j, row by row, with z = (1, tokens of prompts, requests, tokens in memory
    that answers read, pairs of a prompt's token and one that it sees, seconds).
    """

    size: int
    """The bin of size; `hooke.serving.stats_windows` has the bins."""
    products: tuple[float, ...]


class BatchWindow(msgspec.Struct, frozen=True, kw_only=True, tag_field="event", tag="batch_window"):
    """The work of one or several replicas in a span of time that ends at `at`. All fields are sums, so windows add up."""

    at: float = 0.0
    """Wall clock, seconds since the epoch."""
    seconds: float = 0.0
    """How long it is."""
    replica: str = ""
    """Empty where it is the only one."""
    methods: tuple[MethodBatches, ...] = ()
    arrived: int = 0
    """All requests, whatever their outcome; 0 in older journals, which did not count them."""
    requests: int = 0
    """Answered with a result; an item of a stream counts as one."""
    failed: int = 0
    """Answered with an error from the service's code."""
    refused: int = 0
    """Rejected, because too many waited."""
    late: int = 0
    """Not answered within the timeout."""
    over_slo: int = 0
    """Of `requests`, those that broke the SLO: they took longer than its limit, or those of a language model had their tokens too late."""
    gone: int = 0
    """Without an answer, because the client left or the process ended."""
    gone_over_slo: int = 0
    """Of `gone`, those that left after the SLO's limit."""
    latencies: tuple[tuple[int, int], ...] = ()
    """Of `requests`, (bin, count), the faster ones first; `hooke.serving.stats_windows` has the bins."""
    busy_s: float = 0.0
    """Seconds that the model was busy."""
    request_s: float = 0.0
    """Requests waiting or running, integrated over time; divided by `seconds`, their mean number."""
    most_waiting: int = 0
    """The most rows that waited when a batch ended."""
    steps: tuple[StepSums, ...] = ()
    """Steps of a language model, the smaller ones first."""
    step_pairs: tuple[tuple[float, ...], ...] = ()
    """Some of these, as drawn evenly: the four kinds of work and the seconds of one, then those of the one after it."""
    answers: int = 0
    """Of a language model: answers that began."""
    answer_tokens: int = 0
    """Tokens of answers."""
    token_limits: tuple[int, ...] = ()
    """Of a language model: requests and tokens of a step, tokens of a prompt with its answer, pages, and tokens of a page."""

    @property
    def batches(self) -> int:
        """Rows of successful batches."""
        return sum(size.batches for each in self.methods for size in each.sizes)

    @property
    def rows(self) -> int:
        """Of these batches."""
        return sum(size.rows for each in self.methods for size in each.sizes)

    @property
    def ended(self) -> int:
        """Requests that count for the SLO: those that were answered, and those that should have been."""
        return self.requests + self.failed + self.refused + self.late + self.gone_over_slo


class LoadMeasured(msgspec.Struct, frozen=True, kw_only=True, tag_field="event", tag="load_measured"):
    """In a study of a service, with the Measured of its safe rate: the service under load, and its use, for plans."""

    at: float = 0.0
    replicas: int = 1
    threads: int = 0
    """Threads of the model's libraries in each replica; 0 if not known."""
    slo_percent: float = 0.0
    slo_limit_s: float = 0.0
    rate: float = 0.0
    """The highest rate, in requests a second, that surely met the SLO."""
    breaks_at: float | None = None
    """The lowest rate that surely broke the SLO; None if none did."""
    cores: float = 0.0
    """CPU seconds a second of all its processes at that rate; 0 if not measured."""
    rss: int = 0
    """Peak resident bytes of all its processes together, at that rate."""
    batch_s: tuple[tuple[float, float, float], tuple[float, float, float]] | None = None
    """Seconds for a row, and the fixed seconds of a batch, each as (low, value, high); None if its batches do not tell."""
    arrivals: str = ""
    sent: str = ""
    """A hash of the request bodies: only loads with equal bodies are comparable."""
    given: str = ""
    """The arguments of `setup`, as they were typed."""


ServiceEvent: TypeAlias = ServiceBegan | BatchWindow | LoadMeasured | ReplicaEvent
"""All events that only services have, in their runs and in studies of them."""
