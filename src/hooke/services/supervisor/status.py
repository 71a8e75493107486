"""The status and the metrics of a supervised service."""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Mapping
from typing import Any, TypeVar

import msgspec

from hooke.journal.service_events import ColdStart, ReplicaEnded, ReplicaEvent
from hooke.services.supervisor.children import Child
from hooke.services.supervisor.replica_events import RESTARTING, ReplicaMember, ReplicaPhase
from hooke.services.supervisor.supervision import Supervision
from hooke.serving.metrics import Counts, GatheredCounts, ProxyStats, ReplicaSetMetrics
from hooke.serving.token_metrics import TokenFamily, TokenRates, token_rates

__all__ = ["RecentCounts", "SupervisorView", "status_of"]


# --- The counters of replicas and proxy, and the events of replicas.

T = TypeVar("T")
LATELY_S = 60.0
"""The period of rates and quantiles: long enough for some requests, short enough to be current."""
STEP_S = 1.0


class RecentCounts:
    """The counts of one replica over about the last minute."""

    def __init__(self) -> None:
        self._seen: deque[tuple[float, Counts]] = deque()
        self._tokens: deque[tuple[float, list[TokenFamily]]] = deque()
        """Not each report has them."""

    def take(self, now: float, counts: Counts) -> None:
        """Add its current counts."""
        _add(self._seen, now, counts)
        if counts.tokens is not None:
            _add(self._tokens, now, counts.tokens)

    def rate(self) -> float | None:
        """Answers a second on the service's own routes; None if too little was seen."""
        if len(self._seen) < 2:
            return None
        (since, before), (until, after) = self._seen[0], self._seen[-1]
        return (after.requests() - before.requests()) / max(until - since, 1e-9)

    def p99_s(self) -> float | None:
        """The seconds within which 99 % of the answers came, as near as the buckets tell; None without any."""
        if len(self._seen) < 2:
            return None
        return self._seen[-1][1].p99_s(before=self._seen[0][1])

    def tokens(self) -> TokenRates | None:
        """Of a language model; None for others, or if too little was seen."""
        if len(self._tokens) < 2:
            return None
        (since, before), (until, after) = self._tokens[0], self._tokens[-1]
        return token_rates(after, until - since, before)


def _add(seen: deque[tuple[float, T]], now: float, what: T) -> None:
    """Append it, a second after the one before at least, and drop what is not needed for the last minute."""
    if len(seen) > 1 and now - seen[-2][0] < STEP_S:
        seen.pop()
    seen.append((now, what))
    while len(seen) > 2 and now - seen[1][0] >= LATELY_S:
        seen.popleft()


class SupervisorView:
    """Updated by the supervisor's loop; any thread may call `metrics`."""

    def __init__(self) -> None:
        self._gathered = GatheredCounts()
        self._recent: dict[str, RecentCounts] = {}
        self._ends: Counter[str] = Counter()
        self._events: Counter[str] = Counter()
        self._states: Mapping[str, int] = {}
        self._wanted = 0
        self._cold_start_s: float | None = None
        self.proxy: ProxyStats | None = None
        """The proxy's last counters; None while it does not run."""

    def take(self, name: str, counts: Counts, now: float) -> None:
        """A replica reported its counts."""
        self._gathered.take(name, counts)
        self._recent.setdefault(name, RecentCounts()).take(now, counts)

    def end(self, name: str) -> None:
        """A replica is gone."""
        self._gathered.end(name)
        self._recent.pop(name, None)

    def record(self, event: ReplicaEvent) -> None:
        """Count an event of the journal."""
        self._events[str(type(event).__struct_config__.tag)] += 1
        if isinstance(event, ReplicaEnded):
            self._ends[event.kind] += 1
        if isinstance(event, ColdStart):
            self._cold_start_s = event.seconds

    def update(self, core: Supervision, proxy: ProxyStats | None) -> None:
        """Take the current states."""
        states = Counter(member.phase.value for member in core.members.values())
        self._states = {phase.value: states[phase.value] for phase in ReplicaPhase}
        self._wanted, self.proxy = core.wanted, proxy

    def metrics(self) -> ReplicaSetMetrics:
        """All that `/-/metrics` shows."""
        return ReplicaSetMetrics(
            live=dict(self._gathered.live),
            ended=self._gathered.ended,
            states=self._states,
            wanted=self._wanted,
            ends=dict(self._ends),
            decisions=dict(self._events),
            proxy=self.proxy,
        )

    def recent(self, name: str) -> dict[str, object]:
        """A replica's rate and 99 % quantile, and what a language model did, for `hooke serve status`."""
        found = self._recent.get(name) or RecentCounts()
        return {
            "rate": found.rate(),
            "p99_s": found.p99_s(),
            "tokens": msgspec.to_builtins(found.tokens()),
        }

    def cold_starts(self) -> dict[str, object]:
        """Their number and the last one's seconds, for `hooke serve status`."""
        return {"cold_starts": self._events["cold_start"], "last_cold_start_s": self._cold_start_s}

    def proxy_facts(self) -> dict[str, object] | None:
        """The proxy's counters, for `hooke serve status`."""
        if self.proxy is None:
            return None
        facts: dict[str, object] = msgspec.to_builtins(self.proxy)
        facts.pop("replicas")
        return facts


def status_of(core: Supervision, children: Mapping[str, Child], view: SupervisorView) -> dict[str, Any]:
    """The status of replicas and proxy, for `hooke serve status --json`: times in seconds, memory in bytes, rates a second."""
    now = time.time()
    replicas = []
    for name, member in core.members.items():
        child = children.get(name)
        if child is None:
            continue
        replicas.append(
            {
                "replica": name,
                "state": _state_of(member),
                "generation": member.generation,
                "pid": child.record.pid,
                "port": child.record.port,
                "age_s": max(0.0, now - child.record.started_at),
                "in_flight": member.report.in_flight,
                "answered": member.report.asked,
                "memory_bytes": member.report.memory_bytes,
                **view.recent(name),
                "why": member.replace_reason or member.end_reason,
                "log": child.record.log,
            }
        )
    return {
        "state": _service_state(core),
        "wanted": core.wanted,
        "generation": core.generation,
        "rolling_out": core.rolling.generation if core.rolling is not None else None,
        "trial": core.trial.facts() if core.trial is not None else None,
        "front": view.proxy_facts(),
        "replicas": replicas,
    }


def _service_state(core: Supervision) -> str:
    if core.closing:
        return "draining"
    if core.ready():
        return "serving"
    return "starting" if core.wanted else "idle"


def _state_of(member: ReplicaMember) -> str:
    unavailable = member.phase is ReplicaPhase.READY and member.restarting_since is not None
    return RESTARTING if unavailable else member.phase.value
