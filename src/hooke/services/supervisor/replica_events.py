"""One replica as its supervisor knows it, what it tells of itself, and the rules that all are kept to."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from typing import TypeAlias

import msgspec

from hooke.journal.service_events import (
    ReplicaEnded,
    ReplicaLeft,
    ReplicaReady,
    RollOutChanged,
    ServiceScaled,
    StartDelayed,
)

__all__ = [
    "DRAINING",
    "READY",
    "RESTARTING",
    "STARTING",
    "Action",
    "Adopted",
    "Announce",
    "CutService",
    "DrainProxy",
    "DrainService",
    "Event",
    "Exited",
    "GiveUp",
    "KillReplica",
    "ProxyDrained",
    "Publish",
    "Published",
    "RecordEvent",
    "Replace",
    "ReplicaMember",
    "ReplicaPhase",
    "ReplicaReport",
    "Reported",
    "RollOut",
    "Rules",
    "Scale",
    "StartReplica",
    "SupervisionBegan",
    "SupervisionDone",
    "SupervisionTick",
    "Terminate",
]


STARTING, READY, RESTARTING, DRAINING = "starting", "ready", "restarting", "draining"
"""What a replica says of itself; as `hooke.serving.replica.State`."""


class ReplicaReport(msgspec.Struct, frozen=True, kw_only=True):
    """What a replica tells, several times a second, from a thread that neither the model nor the event loop can stop."""

    state: str = STARTING
    in_flight: int = 0
    answered: int = 0
    memory_bytes: int = 0
    loop_late_s: float = 0.0
    """How long its event loop has not turned."""
    batch_s: float = 0.0
    """How long its model has been busy with the batch that it runs; 0 where it runs none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """How long things may take, in seconds, and how much memory a replica may have."""

    timeout_s: float = 30.0
    """The service's: within it each request has its answer."""
    ready_s: float = 300.0
    """From a process's start to its first answer, and from its model's end until another is set up, with all tries: models of many GB are read from a disk within that."""
    healthy_s: float = 10.0
    """A replica that was ready for so long is healthy: what kills it then is not its start."""
    quiet_s: float = 0.5
    """A replica that left has nothing in flight for so long before it is ended: the front heard of it within 35 ms."""
    silent_s: float = 10.0
    """A replica that tells nothing for so long, or whose event loop does not turn, hangs."""
    still_s: float = 2.0
    """After so much of that it gets nothing new, where others can: ten times that it told nothing are no chance."""
    idempotent: bool = False
    """Whether requests may be sent again: those of one that hangs are answered by others once it is killed."""
    spare_s: float = 5.0
    """What is added wherever the service's timeout bounds a wait."""
    backoff_s: float = 0.5
    backoff_cap_s: float = 60.0
    tries: int = 3
    """So many replicas die before any was ever ready, and the service is given up: it is what was asked for that is wrong."""
    roll_out_tries: int = 2
    """So many of the new ones die, and a roll-out goes back: one may have been killed by chance."""
    most_starting: int = 4
    """Starts at once: each reads a model and wants a core."""
    memory_bytes: int | None = None
    """A replica with more is replaced."""

    @property
    def leave_s(self) -> float:
        """How long a replica that left may have something in flight."""
        return self.timeout_s + self.spare_s

    @property
    def term_s(self) -> float:
        """From SIGTERM to SIGKILL: the replica's own drain may take the timeout and five seconds."""
        return self.timeout_s + 2 * self.spare_s

    @property
    def batch_s(self) -> float:
        """A batch that runs longer has nobody who waits for it, and keeps all others waiting."""
        return self.timeout_s + self.spare_s


class ReplicaPhase(enum.Enum):
    """Where a replica is in its life; it never goes back."""

    STARTING = "starting"
    READY = "ready"
    LEAVING = "leaving"
    """It gets no new requests, and answers those that it has."""
    ENDING = "ending"
    """It was sent SIGTERM, or ends by itself."""
    KILLED = "killed"


@dataclass(slots=True, kw_only=True, eq=False)
class ReplicaMember:
    """One replica. Times are seconds of the supervisor's clock."""

    name: str
    generation: str
    started: float
    since: float
    """When its phase began."""
    heard_at: float
    """When it told something last."""
    phase: ReplicaPhase = ReplicaPhase.STARTING
    ready_at: float | None = None
    idle_since: float | None = None
    """Since when it has told, after the front let go of it, that nothing is in flight."""
    report: ReplicaReport = field(default_factory=ReplicaReport)
    restarting_since: float | None = None
    """Since when it tells that its model is being set up anew; None: it is there."""
    unrouted: bool = False
    """Whether the front has said, after it left, that it sends nothing to it."""
    replace_reason: str = ""
    """Why another is to take its place; empty where none is."""
    over_memory: bool = False
    """Whether that is for its memory."""
    end_reason: str = ""
    """Why it was ended."""
    failed: bool = False
    """Whether it was ended because it did no work."""

    @property
    def serves(self) -> bool:
        """Whether it is one of those that are counted as wanted."""
        return self.phase is ReplicaPhase.READY and not self.replace_reason

    def update(self, report: ReplicaReport, now: float) -> bool:
        """What it told now; whether its model is away by that, and was not before."""
        before, unavailable = self.restarting_since, report.state == RESTARTING
        self.report, self.heard_at = report, now
        self.restarting_since = (now if before is None else before) if unavailable else None
        return unavailable and before is None

    def enter(self, phase: ReplicaPhase, now: float) -> None:
        """Go on to the next phase."""
        self.phase, self.since = phase, now

    def healthy(self, now: float, rules: Rules) -> bool:
        """Whether it has been ready for long enough."""
        return self.ready_at is not None and now - self.ready_at >= rules.healthy_s

    def end_kind(self, exit_code: int | None, *, expected: bool) -> str:
        """Why it ended, in a word; as `ReplicaEnded.kind` has them."""
        if self.failed:
            return "not ready" if self.ready_at is None or self.restarting_since is not None else "hung"
        if expected:
            return "memory" if self.over_memory else "asked"
        if self.phase not in (ReplicaPhase.STARTING, ReplicaPhase.READY):
            return "cut"
        if exit_code is None:
            return "unknown"
        return "signal" if exit_code < 0 else "exit"

    def unresponsive_s(self, now: float) -> float:
        """Seconds without a sign that it can answer anything."""
        return max(now - self.heard_at, self.report.loop_late_s)

    def failure(self, now: float, rules: Rules) -> str:
        """Why it does no work any more although its process lives; empty where it does.

        It is progress that is looked at: a replica whose port answers may be stuck all the same.
        """
        unheard = now - self.heard_at
        if unheard > rules.silent_s:
            return f"it told nothing for {unheard:.0f} s"
        if self.report.loop_late_s > rules.silent_s:
            return f"its event loop did not turn for {self.report.loop_late_s:.0f} s"
        if self.report.batch_s > rules.batch_s:
            return f"its model is busy with one batch for {self.report.batch_s:.0f} s"
        if self.restarting_since is not None and now - self.restarting_since > rules.ready_s:
            return f"its model ended, and was not set up anew within {rules.ready_s:g} s"
        return ""


# --- What a supervision is told, and what it wants done.


@dataclass(frozen=True, slots=True, kw_only=True)
class Adopted:
    """A replica that an earlier supervisor started and that still runs, for `age_s` seconds by now."""

    name: str
    generation: str
    report: ReplicaReport
    age_s: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class SupervisionBegan:
    """The first event: what runs already."""

    adopted: tuple[Adopted, ...] = ()


@dataclass(frozen=True, slots=True)
class Reported:
    """A replica told how it is."""

    name: str
    report: ReplicaReport


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
class DrainService:
    """The service is to end when what was asked of it is answered."""

    by: str


@dataclass(frozen=True, slots=True)
class ProxyDrained:
    """Nothing comes through the front any more."""


@dataclass(frozen=True, slots=True)
class CutService:
    """The service is to end now."""

    by: str


@dataclass(frozen=True, slots=True)
class SupervisionTick:
    """Time has passed. `listened` is when replicas were last given the chance to be heard; None: now.

    A supervisor that was stopped itself has heard nothing for that time, and must not take it for their silence.
    """

    listened: float | None = None


Event: TypeAlias = (
    SupervisionBegan
    | Reported
    | Published
    | Exited
    | Replace
    | Scale
    | RollOut
    | DrainService
    | ProxyDrained
    | CutService
    | SupervisionTick
)


@dataclass(frozen=True, slots=True, kw_only=True)
class StartReplica:
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
class KillReplica:
    """Send SIGKILL to a replica and to what it started."""

    name: str


@dataclass(frozen=True, slots=True)
class DrainProxy:
    """Let the front take no new connections, and end those that it has after their answer; then say FrontDrained."""


@dataclass(frozen=True, slots=True)
class Announce:
    """Say this; it may be over in a moment."""

    text: str


@dataclass(frozen=True, slots=True)
class RecordEvent:
    """Write this into the journal, and say it."""

    event: ReplicaReady | ReplicaLeft | ReplicaEnded | StartDelayed | ServiceScaled | RollOutChanged


@dataclass(frozen=True, slots=True, kw_only=True)
class GiveUp:
    """No replica was ever ready, and trying again does not help. Done follows when all are gone."""

    cause: str
    log_tail: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class SupervisionDone:
    """No replica is left, and none is to come."""


Action: TypeAlias = (
    StartReplica
    | Publish
    | Terminate
    | KillReplica
    | DrainProxy
    | Announce
    | RecordEvent
    | GiveUp
    | SupervisionDone
)
