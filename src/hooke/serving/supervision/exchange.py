"""What a supervision is told, and what it wants done."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from hooke.journal.replicas import (
    ReplicaEnded,
    ReplicaLeft,
    ReplicaReady,
    RollOutChanged,
    ServiceScaled,
    StartDelayed,
)
from hooke.serving.supervision.member import Report

__all__ = [
    "Action",
    "Adopted",
    "Begin",
    "Cut",
    "Done",
    "Drain",
    "DrainFront",
    "Event",
    "Exited",
    "FrontDrained",
    "GiveUp",
    "Kill",
    "Note",
    "Publish",
    "Published",
    "Replace",
    "Reported",
    "RollOut",
    "Scale",
    "Start",
    "Tell",
    "Terminate",
    "Tick",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Adopted:
    """A replica that an earlier supervisor started and that still runs, for `age_s` seconds by now."""

    name: str
    generation: str
    report: Report
    age_s: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Begin:
    """The first event: what runs already."""

    adopted: tuple[Adopted, ...] = ()


@dataclass(frozen=True, slots=True)
class Reported:
    """A replica told how it is."""

    name: str
    report: Report


@dataclass(frozen=True, slots=True, kw_only=True)
class Exited:
    """A replica's process is gone, or could not be started. `exit_code` is minus the signal, None where nobody knows."""

    name: str
    exit_code: int | None = None
    log_tail: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Published:
    """The front sends new requests to these, and to no others."""

    names: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Replace:
    """Another replica is to take this one's place."""

    name: str
    reason: str


@dataclass(frozen=True, slots=True)
class Scale:
    """So many replicas are wanted from now on."""

    wanted: int
    reason: str


@dataclass(frozen=True, slots=True)
class RollOut:
    """Another generation is to be served."""

    generation: str
    reason: str


@dataclass(frozen=True, slots=True)
class Drain:
    """The service is to end when what was asked of it is answered."""

    by: str


@dataclass(frozen=True, slots=True)
class FrontDrained:
    """Nothing comes through the front any more."""


@dataclass(frozen=True, slots=True)
class Cut:
    """The service is to end now."""

    by: str


@dataclass(frozen=True, slots=True)
class Tick:
    """Time has passed. `listened` is when replicas were last given the chance to be heard; None: now.

    A supervisor that was stopped itself has heard nothing for that time, and must not take it for their silence.
    """

    listened: float | None = None


Event: TypeAlias = (
    Begin | Reported | Published | Exited | Replace | Scale | RollOut | Drain | FrontDrained | Cut | Tick
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """Start a replica's process."""

    name: str
    generation: str
    reason: str


@dataclass(frozen=True, slots=True)
class Publish:
    """These replicas, and no others, get new requests; before any other action of the same step. Say Published when it is so."""

    names: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Terminate:
    """Send SIGTERM to a replica."""

    name: str


@dataclass(frozen=True, slots=True)
class Kill:
    """Send SIGKILL to a replica and to what it started."""

    name: str


@dataclass(frozen=True, slots=True)
class DrainFront:
    """Let the front take no new connections, and end those that it has after their answer; then say FrontDrained."""


@dataclass(frozen=True, slots=True)
class Note:
    """Say this; it may be over in a moment."""

    text: str


@dataclass(frozen=True, slots=True)
class Tell:
    """Write this into the journal, and say it."""

    event: ReplicaReady | ReplicaLeft | ReplicaEnded | StartDelayed | ServiceScaled | RollOutChanged


@dataclass(frozen=True, slots=True, kw_only=True)
class GiveUp:
    """No replica was ever ready, and trying again does not help. Done follows when all are gone."""

    cause: str
    log_tail: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Done:
    """No replica is left, and none is to come."""


Action: TypeAlias = Start | Publish | Terminate | Kill | DrainFront | Note | Tell | GiveUp | Done
