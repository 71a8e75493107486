"""The supervision of one service: `step(event, now)` folds an event and returns actions. Pure."""

from __future__ import annotations

import math
import re
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from signal import SIGTERM
from typing import Any

from hooke.base.formats import format_bytes, format_seconds
from hooke.journal.service_events import (
    ReplicaEnded,
    ReplicaLeft,
    ReplicaReady,
    RollOutChanged,
    ServiceScaled,
    StartDelayed,
)
from hooke.processes.exit_report import ended_by
from hooke.processes.lease import Backoff
from hooke.services.supervisor import replica_events as events
from hooke.services.supervisor.canary import CanaryTrial, CanaryVerdict

__all__ = ["ProxyRoutes", "Rolling", "Supervision"]

ADMITTED = 0.9
"""The part of the replicas' room that the proxy gives away."""


# --- The replicas that the proxy sends to, or may yet: its acknowledgements come late, and may be older than the last order.


class ProxyRoutes:
    """What the proxy was told to publish, and what it has acknowledged."""

    def __init__(self) -> None:
        self._routed: tuple[str, ...] = ()
        self._pending: list[tuple[str, ...]] = []
        """Published and not acknowledged yet; the oldest first."""

    def published(self, names: tuple[str, ...]) -> None:
        """The proxy is told to send to these replicas only."""
        self._pending.append(names)

    def heard_at(self, names: tuple[str, ...]) -> None:
        """The proxy acknowledges these. It may skip some of the orders, but keeps their sequence."""
        self._routed = names
        if names in self._pending:
            del self._pending[: self._pending.index(names) + 1]

    def reaches(self, name: str) -> bool:
        """Whether requests reach a replica, or may yet."""
        return name in self._routed or any(name in names for names in self._pending)


@dataclass(slots=True, kw_only=True)
class Rolling:
    """A generation that is to take over."""

    generation: str
    reason: str
    deaths: int = 0
    cause: str = ""
    """Of the last death."""
    trial: CanaryTrial | None = None
    """Its trial with some of the requests; None without one, and once it is passed."""
    proven: bool = False
    """Whether a replica of it has been ready for a while."""


class Supervision:
    """The replicas of a service, as far as they are known. All times are seconds of one monotonic clock.

    Its invariants: by its own decision there are never fewer ready replicas than wanted, so one leaves only when its successor
    is ready; a replica leaves the proxy, then finishes its open requests (or runs out of time), then gets SIGTERM, and SIGKILL only
    after its deadline; a new generation takes over when it has passed its trial and all of it has been ready for a while, else the
    old one stays. The old one keeps all its replicas until the trial is over.
    """

    def __init__(self, rules: events.Rules, *, generation: str, wanted: int) -> None:
        self.rules = rules
        self.generation = generation
        """The generation that is served; during a roll-out the old one."""
        self.wanted = wanted
        self.rolling: Rolling | None = None
        self.members: dict[str, events.ReplicaMember] = {}
        self.refused = ""
        """The generation that was rolled back last: it is not tried again."""
        self.closing = ""
        """Who asked for the end; empty while the service goes on."""
        self.ever_ready = False
        self._began = False
        self._proxy_drained = False
        self._done = False
        self._last_name = 0
        self._published: events.Publish | None = None
        self._routes = ProxyRoutes()
        self._listened: float | None = None
        self._backoffs: dict[str, Backoff] = {}
        self._reasons: deque[str] = deque()
        self._out: list[events.Action] = []
        self._handlers: dict[type[Any], Callable[[Any, float], None]] = {
            events.SupervisionBegan: self._begin,
            events.Reported: self._reported,
            events.OutcomesReported: self._observed,
            events.Published: self._is_published,
            events.Exited: self._exited,
            events.Replace: self._replace,
            events.Scale: self._scale,
            events.RollOut: self._roll_out,
            events.JudgeRollOut: self._judge,
            events.DrainService: self._drain,
            events.ProxyDrained: self._proxy_is_drained,
            events.CutService: self._cut,
            events.SupervisionTick: self._tick,
        }

    def step(self, event: events.Event, now: float) -> list[events.Action]:
        """Fold the event; returns the actions, in order."""
        self._out = []
        self._handlers[type(event)](event, now)
        if self._began:
            for member in list(self.members.values()):
                self._watch(member, now)
            if self.closing:
                self._close(now)
            else:
                self._reset_backoffs(now)
                self._advance_roll_out(now)
                self._start_missing(now)
                self._end_surplus(now)
            self._publish(self._silence_ends(now))
        unrouted = self._out
        self._out = []
        return unrouted

    # -- for readers -------------------------------------------------------------------------------

    @property
    def target(self) -> str:
        """The generation that is to be served in the end."""
        return self.rolling.generation if self.rolling else self.generation

    @property
    def needed(self) -> int:
        """Replicas of the target that are to serve: as many as are wanted, on trial enough for its share, and one to prove it."""
        if self.rolling is None:
            return self.wanted
        if self.rolling.trial is None:
            return max(self.wanted, 1)
        if not self.wanted:
            return 0 if self.rolling.proven else 1
        return max(1, math.ceil(self.rolling.trial.share * self.wanted - 1e-9))

    @property
    def trial(self) -> CanaryTrial | None:
        """The trial under way."""
        return self.rolling.trial if self.rolling is not None else None

    def mirrored(self, name: str) -> bool:
        """Whether a replica gets copies of requests only, which are no load of the service's."""
        member = self.members.get(name)
        return (
            self.trial is not None
            and self.trial.rules.mirror
            and member is not None
            and member.generation == self.target
        )

    def starts(self) -> int:
        """Replicas that start, or whose model is being set up again."""
        return sum(
            one.phase is events.ReplicaPhase.STARTING or (one.serves and one.restarting_since is not None)
            for one in self.members.values()
        )

    def ready(self) -> list[events.ReplicaMember]:
        """Replicas that get new requests, unless they cannot answer at this moment and others can."""
        return [member for member in self.members.values() if member.phase is events.ReplicaPhase.READY]

    def open_calls(self) -> int:
        """Calls in progress in all replicas, by their last reports."""
        return sum(
            member.report.open_calls for name, member in self.members.items() if not self.mirrored(name)
        )

    def room(self) -> int | None:
        """How many requests the proxy admits at once, so that all are answered within the SLO; None if no replica knows.

        It is nine tenths of what the ready replicas have room for: what is too much then ends at the proxy, and does not cost them
        the time of a refusal. One that has measured nothing yet counts as the mean of the others.
        """
        able = [member for member in self.ready() if member.restarting_since is None]
        if self.trial is not None:  # the new ones get their share only
            able = [member for member in able if member.generation == self.generation] or able
        ready = [member.report.room for member in able]
        known = [room for room in ready if room is not None]
        return (
            max(math.ceil(ADMITTED * sum(known) / len(known) * len(ready)), 2 * len(ready)) if known else None
        )

    # -- events ------------------------------------------------------------------------------------

    def _begin(self, event: events.SupervisionBegan, now: float) -> None:
        self._began = True
        for one in event.adopted:
            started = now - one.age_s
            member = events.ReplicaMember(
                name=one.name, generation=one.generation, started=started, since=now, heard_at=now
            )
            self.members[one.name] = member
            self._last_name = max(self._last_name, _number(one.name))
            if one.report.state == events.READY:  # it was ready before this supervisor looked
                member.phase, member.ready_at, self.ever_ready = (
                    events.ReplicaPhase.READY,
                    now - self.rules.healthy_s,
                    True,
                )
            self._take(member, one.report, now)
        new = self.generation
        others = [member.generation for member in self.ready() if member.generation != new]
        if event.serving:
            self.generation = event.serving
        elif others:
            self.generation = others[0]
        if event.refused:
            self.refused = new
        self._roll_out(events.RollOut(new, "this supervisor was started with it"), now)
        if event.accepted and self.rolling is not None:
            self.rolling.trial = None

    def _reported(self, event: events.Reported, now: float) -> None:
        member = self.members.get(event.name)
        if member is not None:
            self._take(member, event.report, now)

    def _observed(self, event: events.OutcomesReported, _now: float) -> None:
        member, trial = self.members.get(event.name), self.trial
        if trial is not None and member is not None and member.generation in (self.target, self.generation):
            trial.observe(event.outcomes, new=member.generation == self.target)

    def _judge(self, event: events.JudgeRollOut, _now: float) -> None:
        if self.trial is not None:
            self.trial.ordered = CanaryVerdict(accepted=event.accept, reason=f"as ordered by {event.by}")

    def _tick(self, event: events.SupervisionTick, now: float) -> None:
        self._listened = now if event.listened is None else event.listened

    def _silence_ends(self, now: float) -> float:
        """Silence counts up to the last moment at which all could be heard."""
        return now if self._listened is None else self._listened

    def _is_published(self, event: events.Published, _now: float) -> None:
        self._routes.heard_at(event.names)
        for member in self.members.values():
            if member.phase is events.ReplicaPhase.LEAVING and not self._routes.reaches(member.name):
                member.unrouted = True

    def _replace(self, event: events.Replace, _now: float) -> None:
        member = self.members.get(event.name)
        if member is not None and member.serves:
            self._plan_replacement(member, event.reason)

    def _take(self, member: events.ReplicaMember, report: events.ReplicaReport, now: float) -> None:
        went, rolling = member.update(report, now), self.rolling
        if went and rolling is not None and member.generation == rolling.generation:
            rolling.deaths, rolling.cause = rolling.deaths + 1, "the process of its model ended"
        if report.state == events.READY and member.phase is events.ReplicaPhase.STARTING:
            member.enter(events.ReplicaPhase.READY, now)
            member.ready_at = now
            self.ever_ready = True
            seconds = now - member.started
            self._record(ReplicaReady(replica=member.name, generation=member.generation, seconds=seconds))
        elif (
            report.state == events.DRAINING and member.phase is events.ReplicaPhase.READY
        ):  # a starting one has failed: it exits
            member.end_reason = "it drains without an order"
            self._note_replacement(member)
            member.enter(events.ReplicaPhase.ENDING, now)
        elif member.phase is events.ReplicaPhase.LEAVING:
            if report.in_flight or not member.unrouted:
                member.idle_since = None
            elif member.idle_since is None:
                member.idle_since = now

    def _exited(self, event: events.Exited, now: float) -> None:
        member = self.members.pop(event.name, None)
        if member is None:
            return
        alive = member.phase in (events.ReplicaPhase.STARTING, events.ReplicaPhase.READY)
        cause = ended_by(event.exit_code, asked=member.phase is events.ReplicaPhase.KILLED)
        lost = member.report.in_flight if member.phase is not events.ReplicaPhase.STARTING else 0
        asked = member.phase is events.ReplicaPhase.ENDING or (
            member.phase is events.ReplicaPhase.LEAVING and not lost
        )
        expected = asked and event.exit_code in (0, None, -SIGTERM) and not member.failed
        self._record(
            ReplicaEnded(
                replica=member.name,
                generation=member.generation,
                cause=f"{member.end_reason}; {cause}" if member.end_reason and not expected else cause,
                expected=expected,
                kind=member.end_kind(event.exit_code, expected=expected),
                exit_code=event.exit_code,
                in_flight=0 if expected else lost,
                seconds=now - member.started,
                log_tail=() if expected else event.log_tail,
            )
        )
        if alive and not self.closing:
            self._failed(member, cause, now, event.log_tail)

    def _scale(self, event: events.Scale, _now: float) -> None:
        if event.wanted != self.wanted and not self.closing:
            self._record(ServiceScaled(before=self.wanted, after=event.wanted, reason=event.reason))
            self.wanted = event.wanted

    def _roll_out(self, event: events.RollOut, now: float) -> None:
        if self.closing or event.generation in (self.target, self.refused):
            return
        if self.rolling is not None:
            self._roll_back("another generation was ordered", now, refuse=False)
        if event.generation != self.generation:
            trial = CanaryTrial(self.rules.canary) if self.rules.canary is not None else None
            self.rolling = Rolling(generation=event.generation, reason=event.reason, trial=trial)
            self._record_roll_out(event.generation, "began", event.reason)

    def _drain(self, event: events.DrainService, _now: float) -> None:
        if not self.closing:
            self.closing = event.by
            self._out.append(events.DrainProxy())

    def _proxy_is_drained(self, _event: events.ProxyDrained, _now: float) -> None:
        self._proxy_drained = True

    def _cut(self, event: events.CutService, now: float) -> None:
        self.closing = self.closing or event.by
        self._proxy_drained = True
        for member in self.members.values():
            member.end_reason = member.end_reason or f"cut by {event.by}"
            self._kill(member, now)

    # -- decisions ---------------------------------------------------------------------------------

    def _watch(self, member: events.ReplicaMember, now: float) -> None:
        rules, heard_by = self.rules, self._silence_ends(now)
        age = heard_by - member.since
        if member.phase is events.ReplicaPhase.STARTING and age > rules.ready_s:
            self._end_failed(member, f"it was not ready within {rules.ready_s:g} s", now)
        elif member.phase is events.ReplicaPhase.READY:
            others = any(one is not member and self._turns(one, heard_by) for one in self.ready())
            failure = member.failure(heard_by, rules, others=others)
            if failure:
                self._end_failed(member, failure, now)
                if rules.idempotent and member.unresponsive_s(heard_by) > rules.hung_s:
                    self._kill(member, now)
            elif rules.memory_bytes is not None and member.report.memory_bytes > rules.memory_bytes:
                has, limit = format_bytes(member.report.memory_bytes), format_bytes(rules.memory_bytes)
                self._plan_replacement(member, f"its memory is {has}, above the limit of {limit}")
                member.over_memory = True
        elif member.phase is events.ReplicaPhase.LEAVING:
            idle = member.idle_since is not None and now - member.idle_since >= rules.quiet_s
            if idle or age > rules.leave_s:
                self._terminate(member, now)
        elif member.phase is events.ReplicaPhase.ENDING and age > rules.term_s:
            self._kill(member, now)

    def _plan_replacement(self, member: events.ReplicaMember, why: str) -> None:
        if not member.replace_reason:
            member.replace_reason = why
            self._reasons.append(f"in place of replica {member.name}: {why}")

    def _end_failed(self, member: events.ReplicaMember, why: str, now: float) -> None:
        """It does not work: it gets no more requests, and ends."""
        left = member.phase is events.ReplicaPhase.READY
        member.end_reason, member.failed = why, True
        if left:
            self._record_left(member, why)
        self._terminate(member, now)
        self._failed(member, why, now, ())

    def _failed(
        self, member: events.ReplicaMember, cause: str, now: float, log_tail: tuple[str, ...]
    ) -> None:
        """A replica ended, or is ended, without a decision that it leaves."""
        self._note_replacement(member)
        rolling = self.rolling
        if rolling is not None and member.generation == rolling.generation:
            rolling.deaths, rolling.cause = rolling.deaths + 1, cause
            if member.ready_at is None and "not ready" in cause:
                rolling.deaths = (
                    self.rules.roll_out_tries
                )  # it has had its time: a second one would need as long
        if member.healthy(now, self.rules):
            return
        backoff = self._backoff(member.generation)
        waits_s = backoff.failed(now)
        if not self.ever_ready and backoff.failures >= self.rules.tries:
            self._out.append(events.GiveUp(cause=cause, log_tail=log_tail))
            self.closing, self._proxy_drained = "the service was given up", True
            return
        self._record(
            StartDelayed(
                generation=member.generation, failures=backoff.failures, seconds=waits_s, reason=cause
            )
        )

    def _reset_backoffs(self, now: float) -> None:
        for member in self.members.values():
            ready_at = member.ready_at
            if (
                member.phase is events.ReplicaPhase.READY
                and ready_at is not None
                and member.healthy(now, self.rules)
            ):
                self._backoff(member.generation).succeeded(ready_at)

    def _advance_roll_out(self, now: float) -> None:
        rolling = self.rolling
        if rolling is None:
            return
        new = self._serving(rolling.generation)
        if rolling.deaths >= self.rules.roll_out_tries:
            self._roll_back(f"{rolling.deaths} of its replicas failed; the last: {rolling.cause}", now)
        elif rolling.trial is not None:
            rolling.proven = rolling.proven or any(member.healthy(now, self.rules) for member in new)
            self._advance_trial(rolling, rolling.trial, now)
        elif len(new) >= self.needed and all(
            member.healthy(now, self.rules) and member.restarting_since is None for member in new
        ):
            self.rolling = None
            before, self.generation = self.generation, rolling.generation
            reason = f"{len(new)} of its replicas have been ready for {self.rules.healthy_s:g} s"
            self._record(
                RollOutChanged(generation=self.generation, before=before, status="done", reason=reason)
            )

    def _advance_trial(self, rolling: Rolling, trial: CanaryTrial, now: float) -> None:
        answering = {one.generation for one in self._able(self._silence_ends(now))}
        exposed = bool(self.wanted) and {rolling.generation, self.generation} <= answering
        trial.advance(now, exposed=exposed)
        verdict = trial.verdict()
        if verdict is None:
            return
        if not verdict.accepted:
            self._roll_back(verdict.reason, now)
            return
        rolling.trial = None
        self._record_roll_out(rolling.generation, "accepted", verdict.reason)

    def _roll_back(self, reason: str, now: float, *, refuse: bool = True) -> None:
        """Drop the new generation; the old one is still there."""
        rolling, self.rolling = self.rolling, None
        assert rolling is not None
        if refuse:
            self.refused = rolling.generation
        self._record_roll_out(rolling.generation, "back", reason)
        for member in list(self.members.values()):
            if member.generation == rolling.generation:
                member.replace_reason = member.replace_reason or "its roll-out went back"
                if member.phase is events.ReplicaPhase.STARTING:
                    self._end_start(member, now)

    def _start_missing(self, now: float) -> None:
        target = self.target
        self._start(target, self.needed - len(self._serving(target)) - len(self._starting(target)), now)
        if self.rolling is not None:
            # The old ones serve until the new ones do: a dead one is replaced meanwhile.
            old = len(self._serving(self.generation)) + len(self._starting(self.generation))
            self._start(self.generation, self.wanted - old - self._substitutes(), now)

    def _substitutes(self) -> int:
        """New replicas that may take the place of old ones: none on trial."""
        return len(self._serving(self.target)) if self.trial is None else 0

    def _start(self, generation: str, count: int, now: float) -> None:
        if now < self._backoff(generation).not_before:
            return
        starting = sum(member.phase is events.ReplicaPhase.STARTING for member in self.members.values())
        for _ in range(min(count, self.rules.most_starting - starting)):
            self._last_name += 1
            name = str(self._last_name)
            self.members[name] = events.ReplicaMember(
                name=name, generation=generation, started=now, since=now, heard_at=now
            )
            self._out.append(
                events.StartReplica(name=name, generation=generation, reason=self._reason(generation))
            )

    def _reason(self, generation: str) -> str:
        if self.rolling is not None and generation == self.rolling.generation:
            return f"roll-out: {self.rolling.reason}"
        return self._reasons.popleft() if self._reasons else f"{self.wanted} wanted"

    def _end_surplus(self, now: float) -> None:
        """End surplus replicas; a ready one only if enough others are ready."""
        kept = {self.generation, self.target}
        for member in [one for one in self.members.values() if one.phase is events.ReplicaPhase.STARTING]:
            if member.generation not in kept or member.replace_reason:
                self._end_start(member, now)
        target = self.target
        served = len(self._serving(target))
        self._end_starts(target, served + len(self._starting(target)) - self.needed, now)
        if self.rolling is not None:
            old = len(self._serving(self.generation)) + len(self._starting(self.generation))
            self._end_starts(self.generation, old + self._substitutes() - self.wanted, now)
        for member, reason in self._surplus(kept):
            if self._can_spare(member):
                self._leave(member, reason, now)

    def _can_spare(self, member: events.ReplicaMember) -> bool:
        """Whether enough are ready without it. One on trial stands in for none, and none for it; one that was rolled back leaves for any other."""
        ready = [one for one in self.ready() if one.generation != self.refused]
        if member.generation == self.refused:
            return bool(ready)
        if self.trial is not None:
            on_trial = [one for one in ready if one.generation == self.target]
            if member in on_trial:
                return len(on_trial) > self.needed
            ready = [one for one in ready if one not in on_trial]
            if member.generation == self.generation:
                ready = [one for one in ready if one.generation == self.generation]
            return len(ready) > self.wanted
        return len(ready) > self.needed

    def _surplus(self, kept: set[str]) -> Iterable[tuple[events.ReplicaMember, str]]:
        """Surplus ready replicas, in the order in which they are to leave."""
        ready = self.ready()
        for member in ready:
            if member.replace_reason:
                yield member, member.replace_reason
        for member in ready:
            if not member.replace_reason and member.generation not in kept:
                yield member, "another generation is served now"
        for generation in kept:
            able_first = sorted(self._serving(generation), key=lambda one: one.restarting_since is not None)
            most = self.needed if generation == self.target or self.trial is None else self.wanted
            for member in reversed(able_first[most:]):
                yield member, f"{self.wanted} wanted"

    def _end_starts(self, generation: str, count: int, now: float) -> None:
        for member in reversed(self._starting(generation)[-count:] if count > 0 else []):
            self._end_start(member, now)

    def _end_start(self, member: events.ReplicaMember, now: float) -> None:
        member.end_reason = member.replace_reason or "it is not needed any more"
        self._terminate(member, now)

    def _close(self, now: float) -> None:
        for member in list(self.members.values()):
            if member.phase is events.ReplicaPhase.STARTING:
                if self._proxy_drained or self.ready():  # else requests may be held for it
                    self._end_start(member, now)
            elif member.phase is events.ReplicaPhase.READY and self._proxy_drained:
                self._leave(member, self.closing, now)
        if not self.members and self._proxy_drained and not self._done:
            self._done = True
            self._out.append(events.SupervisionDone())

    def _leave(self, member: events.ReplicaMember, reason: str, now: float) -> None:
        member.enter(events.ReplicaPhase.LEAVING, now)
        member.idle_since = None
        published = self._published.names if self._published is not None else ()
        member.unrouted = member.name not in published and not self._routes.reaches(member.name)
        self._record_left(member, reason)

    def _terminate(self, member: events.ReplicaMember, now: float) -> None:
        member.enter(events.ReplicaPhase.ENDING, now)
        self._out.append(events.Terminate(member.name))

    def _kill(self, member: events.ReplicaMember, now: float) -> None:
        if member.phase is not events.ReplicaPhase.KILLED:
            member.enter(events.ReplicaPhase.KILLED, now)
            self._out.append(events.KillReplica(member.name))

    def _publish(self, heard_by: float) -> None:
        able = self._able(heard_by)
        names = _sorted_names(able)
        order, trial = events.Publish(names), self.trial
        if trial is not None:
            new = _sorted_names(one for one in able if one.generation == self.target)
            mirror = trial.rules.mirror
            kept = tuple(name for name in names if name not in new) if mirror else names
            # One replica of many is not given a share that it cannot bear.
            share = min(trial.share, 1.0 if mirror else len(new) / max(self.wanted, 1))
            order = events.Publish(kept, new=new, share=share, mirror=mirror) if new else order
        if order != self._published:
            self._announce_unresponsive([one for one in self.ready() if one not in able], heard_by)
            self._published = order
            self._routes.published(order.names)
            self._out.insert(0, order)

    def _able(self, heard_by: float) -> list[events.ReplicaMember]:
        """The ready replicas that can answer, as far as is known."""
        ready = self.ready()
        if self.trial is not None and (not self.wanted or self._old_comes()):
            ready = [one for one in ready if one.generation != self.target]
        turning = [one for one in ready if self._turns(one, heard_by)] or ready
        # A replica whose model is away answers 503 at once, and so looks least busy; it gets requests only if there is no other.
        return [one for one in turning if one.restarting_since is None] or turning

    def _old_comes(self) -> bool:
        """Whether the service comes from zero, and no old replica is ready yet: a version on trial does not answer alone."""
        old = [one for one in self.members.values() if one.generation == self.generation]
        return (
            not any(one.phase is events.ReplicaPhase.READY for one in old)
            and any(one.phase is events.ReplicaPhase.STARTING for one in old)
            and not self._backoff(self.generation).failures
        )

    def _announce_unresponsive(self, still: Iterable[events.ReplicaMember], heard_by: float) -> None:
        published = self._published.names if self._published is not None else ()
        for one in still:
            if one.name in published and not self._turns(one, heard_by):
                shown = format_seconds(one.unresponsive_s(heard_by))
                text = (
                    f"replica {one.name} has not responded for {shown}: others get new requests until it does"
                )
                self._out.append(events.Announce(text))

    # -- helpers -----------------------------------------------------------------------------------

    def _turns(self, member: events.ReplicaMember, heard_by: float) -> bool:
        """Whether it can answer, as far as is known."""
        return member.unresponsive_s(heard_by) <= self.rules.still_s

    def _serving(self, generation: str) -> list[events.ReplicaMember]:
        return [one for one in self.members.values() if one.generation == generation and one.serves]

    def _starting(self, generation: str) -> list[events.ReplicaMember]:
        return [
            one
            for one in self.members.values()
            if one.generation == generation
            and one.phase is events.ReplicaPhase.STARTING
            and not one.replace_reason
        ]

    def _backoff(self, generation: str) -> Backoff:
        rules = self.rules
        made = Backoff(first_s=rules.backoff_s, cap_s=rules.backoff_cap_s)
        return self._backoffs.setdefault(generation, made)

    def _note_replacement(self, member: events.ReplicaMember) -> None:
        self._reasons.append(f"in place of replica {member.name}")

    def _record_left(self, member: events.ReplicaMember, reason: str) -> None:
        count = member.report.in_flight
        self._record(
            ReplicaLeft(replica=member.name, generation=member.generation, reason=reason, in_flight=count)
        )

    def _record_roll_out(self, generation: str, status: str, reason: str) -> None:
        before = self.generation
        self._record(RollOutChanged(generation=generation, before=before, status=status, reason=reason))

    def _record(
        self,
        event: ReplicaReady | ReplicaLeft | ReplicaEnded | StartDelayed | ServiceScaled | RollOutChanged,
    ) -> None:
        self._out.append(events.RecordEvent(event))


def _sorted_names(members: Iterable[events.ReplicaMember]) -> tuple[str, ...]:
    return tuple(sorted((one.name for one in members), key=_number))


def _number(name: str) -> int:
    digits = re.sub(r"\D", "", name)
    return int(digits) if digits else 0
