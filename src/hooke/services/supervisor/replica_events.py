"""One replica as its supervisor knows it, the rules, and the events and actions of the supervision."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from typing import TypeAlias

import msgspec

from hooke.generation.token_scheduler import TokenLoad
from hooke.journal.service_events import (
    ReplicaEnded,
    ReplicaLeft,
    ReplicaReady,
    RollOutChanged,
    ServiceScaled,
    StartDelayed,
)
from hooke.services.supervisor.canary import CanaryRules, ReplicaOutcomes

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
    "JudgeRollOut",
    "KillReplica",
    "OutcomesReported",
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
"""The state that a replica reports; as `hooke.serving.replica.State`."""


class ReplicaReport(msgspec.Struct, frozen=True, kw_only=True):
    """A replica's report, made several times a second in a thread that neither the model nor the event loop can block."""

    state: str = STARTING
    in_flight: int = 0
    """Requests of all kinds, health checks included: it ends only without any."""
    answered: int = 0
    """Requests of all kinds that ended."""
    asked: int = 0
    """Those of them that asked for work, without those that it passed on to another replica."""
    open_calls: int = 0
    """Calls of the service's methods in progress, which are its load."""
    called: int = 0
    """Calls of the service's methods so far, as in `MethodCalls.called`."""
    room: int | None = None
    """How many requests it can have inside and answer all within the SLO; None if that is not known."""
    memory_bytes: int = 0
    loop_late_s: float = 0.0
    """How long its event loop has not turned."""
    batch_s: float = 0.0
    """How long the current batch has run; 0 without one."""
    tokens: TokenLoad | None = None
    """What its language model has to do; None of other services."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """Time limits in seconds, and the memory limit of a replica."""

    timeout_s: float = 30.0
    """The service's timeout: every request is answered within it."""
    ready_s: float = 300.0
    """From a process's start to its first answer, and from its model's end until another is set up, all tries included: enough to read a model of many GB from a disk."""
    healthy_s: float = 10.0
    """A replica that was ready for so long is healthy: its start is not what kills it later."""
    quiet_s: float = 0.5
    """A leaving replica is ended after so long without open requests: the proxy stops sending within 35 ms."""
    silent_s: float = 10.0
    """A replica hangs if it does not report, or its event loop does not turn, for so long; see `hung_s`."""
    still_s: float = 2.0
    """After so long without a report it gets no new requests if others can: ten missing reports are no accident."""
    idempotent: bool = False
    """Whether requests may be sent again: those of a hanging replica are answered by others once it is killed."""
    least_spare_s: float = 1.0
    """From the moment at which others get a silent replica's new requests to its end: a pause of the machine is shorter as a rule."""
    spare_s: float = 5.0
    """Added wherever the service's timeout bounds a wait."""
    backoff_s: float = 0.5
    backoff_cap_s: float = 60.0
    tries: int = 3
    """If so many replicas die before any was ready, the service is given up: the service itself is wrong."""
    roll_out_tries: int = 2
    """If so many of the new replicas die, a roll-out is rolled back: one may have been killed by chance."""
    canary: CanaryRules | None = None
    """How a new version is tried before it gets all requests; None: it only has to stay ready."""
    most_starting: int = 4
    """Starts at once: each reads a model and needs a core."""
    memory_bytes: int | None = None
    """A replica above this is replaced."""

    @property
    def hung_s(self) -> float:
        """After so long without a sign of life a replica is ended if others answer: early enough for them to answer its requests in time, where these may be sent again."""
        if not self.idempotent:
            return self.silent_s
        return min(self.silent_s, max(self.still_s + self.least_spare_s, self.timeout_s / 2))

    @property
    def leave_s(self) -> float:
        """How long a leaving replica may have open requests."""
        return self.timeout_s + self.spare_s

    @property
    def term_s(self) -> float:
        """From SIGTERM to SIGKILL: the replica's own drain may take the timeout and five seconds."""
        return self.timeout_s + 2 * self.spare_s

    @property
    def batch_s(self) -> float:
        """No client waits for a batch that runs longer, and it blocks all others."""
        return self.timeout_s + self.spare_s


class ReplicaPhase(enum.Enum):
    """A replica's phase of life; it never goes back."""

    STARTING = "starting"
    READY = "ready"
    LEAVING = "leaving"
    """It gets no new requests, and answers its open ones."""
    ENDING = "ending"
    """It got SIGTERM, or ends by itself."""
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
    """When its last report came."""
    phase: ReplicaPhase = ReplicaPhase.STARTING
    ready_at: float | None = None
    idle_since: float | None = None
    """Since when it has reported no open requests after the proxy stopped sending to it."""
    report: ReplicaReport = field(default_factory=ReplicaReport)
    restarting_since: float | None = None
    """Since when it has reported that its model is being set up again; None: its model answers."""
    unrouted: bool = False
    """Whether the proxy has acknowledged that it sends nothing to it."""
    replace_reason: str = ""
    """Why another replica takes its place; empty if none does."""
    over_memory: bool = False
    """Whether it is replaced for its memory."""
    end_reason: str = ""
    """Why it is ended."""
    failed: bool = False
    """Whether it was ended because it did no work."""

    @property
    def serves(self) -> bool:
        """Whether it counts as one of the wanted replicas."""
        return self.phase is ReplicaPhase.READY and not self.replace_reason

    def update(self, report: ReplicaReport, now: float) -> bool:
        """Take a report; returns whether its model has gone since the last one."""
        before, unavailable = self.restarting_since, report.state == RESTARTING
        self.report, self.heard_at = report, now
        self.restarting_since = (now if before is None else before) if unavailable else None
        return unavailable and before is None

    def enter(self, phase: ReplicaPhase, now: float) -> None:
        """Enter the next phase."""
        self.phase, self.since = phase, now

    def healthy(self, now: float, rules: Rules) -> bool:
        """Whether it has been ready long enough."""
        return self.ready_at is not None and now - self.ready_at >= rules.healthy_s

    def end_kind(self, exit_code: int | None, *, expected: bool) -> str:
        """The kind of its end; as in `ReplicaEnded.kind`."""
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
        """Seconds without a sign that it can answer."""
        return max(now - self.heard_at, self.report.loop_late_s)

    def failure(self, now: float, rules: Rules, *, others: bool) -> str:
        """Why it does no work although its process lives; empty if it works. `others`: whether another replica can answer.

        Progress is what counts: a replica whose port answers may still be stuck.
        """
        unheard, limit_s = now - self.heard_at, rules.hung_s if others else rules.silent_s
        if unheard > limit_s:
            return f"it sent no report for {unheard:.0f} s"
        if self.report.loop_late_s > limit_s:
            return f"its event loop did not turn for {self.report.loop_late_s:.0f} s"
        if self.report.batch_s > rules.batch_s:
            return f"its model is busy with one batch for {self.report.batch_s:.0f} s"
        if self.restarting_since is not None and now - self.restarting_since > rules.ready_s:
            return f"its model ended, and was not set up again within {rules.ready_s:g} s"
        return ""


# --- The events and actions of a supervision.


@dataclass(frozen=True, slots=True, kw_only=True)
class Adopted:
    """A running replica that an earlier supervisor started `age_s` seconds ago."""

    name: str
    generation: str
    report: ReplicaReport
    age_s: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class SupervisionBegan:
    """The first event: the replicas that run already, and the roll-out that an earlier supervisor had not ended."""

    adopted: tuple[Adopted, ...] = ()
    serving: str = ""
    """The generation that is served, if the new one is on trial or was rolled back; empty: no such roll-out is known."""
    refused: bool = False
    """Whether the new one was rolled back."""
    accepted: bool = False
    """Whether its trial is over."""


@dataclass(frozen=True, slots=True)
class Reported:
    """A replica's report."""

    name: str
    report: ReplicaReport


@dataclass(frozen=True, slots=True)
class OutcomesReported:
    """What became of the requests to a replica since its last report."""

    name: str
    outcomes: ReplicaOutcomes


@dataclass(frozen=True, slots=True, kw_only=True)
class Exited:
    """A replica's process is gone, or could not be started. `exit_code` is minus the signal, None if unknown."""

    name: str
    exit_code: int | None = None
    log_tail: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Published:
    """The proxy sends new requests to these replicas only."""

    names: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Replace:
    """Another replica is to take this one's place."""

    name: str
    reason: str


@dataclass(frozen=True, slots=True)
class Scale:
    """The number of wanted replicas changes."""

    wanted: int
    reason: str


@dataclass(frozen=True, slots=True)
class RollOut:
    """Another generation is to be served."""

    generation: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class JudgeRollOut:
    """A person ends the trial of a new generation."""

    accept: bool
    by: str


@dataclass(frozen=True, slots=True)
class DrainService:
    """The service is to end when its open requests are answered."""

    by: str


@dataclass(frozen=True, slots=True)
class ProxyDrained:
    """No more requests come through the proxy."""


@dataclass(frozen=True, slots=True)
class CutService:
    """The service is to end now."""

    by: str


@dataclass(frozen=True, slots=True)
class SupervisionTick:
    """Time has passed. `listened` is when reports were last read; None: now.

    A supervisor that was stopped itself received nothing meanwhile, and must not count that as its replicas' silence.
    """

    listened: float | None = None


Event: TypeAlias = (
    SupervisionBegan
    | Reported
    | OutcomesReported
    | Published
    | Exited
    | Replace
    | Scale
    | RollOut
    | JudgeRollOut
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
    """Send new requests to these replicas only, before any other action of the step; `Published` follows."""

    names: tuple[str, ...]
    new: tuple[str, ...] = ()
    """Those on trial, in a mirrored trial beside `names`."""
    share: float | None = None
    """The part of the requests for the new ones; None: each replica gets as many as any other."""
    mirror: bool = False
    """Whether the new ones get copies only."""


@dataclass(frozen=True, slots=True)
class Terminate:
    """Send SIGTERM to a replica."""

    name: str


@dataclass(frozen=True, slots=True)
class KillReplica:
    """Send SIGKILL to a replica and the processes that it started."""

    name: str


@dataclass(frozen=True, slots=True)
class DrainProxy:
    """Let the proxy accept no new connections, and end its connections after their answer; `ProxyDrained` follows."""


@dataclass(frozen=True, slots=True)
class Announce:
    """Tell people something that may be over in a moment."""

    text: str


@dataclass(frozen=True, slots=True)
class RecordEvent:
    """Write this event to the journal, and tell people."""

    event: ReplicaReady | ReplicaLeft | ReplicaEnded | StartDelayed | ServiceScaled | RollOutChanged


@dataclass(frozen=True, slots=True, kw_only=True)
class GiveUp:
    """No replica was ever ready, and more tries do not help. `SupervisionDone` follows when all are gone."""

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
