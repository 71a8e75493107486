"""The events of a service of several replicas: each replica's life, how many there are to be and why, what replaced what."""

from __future__ import annotations

from typing import TypeAlias

import msgspec

__all__ = [
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
    "ServiceScaled",
    "StartDelayed",
]


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
