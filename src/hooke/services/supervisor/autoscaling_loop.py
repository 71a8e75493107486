"""The autoscaler of a running service: feeds load, starts and the law of one replica to the policy, once a second.

A thread of its own fits laws, keeps the log of arrivals, and replays it: a few minutes after the first arrivals, then whenever
there is a quarter more of them, and once a day in the end.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import replace

from hooke.autoscaling.replay import DAY_S, HISTORY_S, RuleChoice, Station, choose
from hooke.autoscaling.replayed_policy import BudgetSpent, ReplayedPolicy
from hooke.autoscaling.service_policy import Bounds, Capacity, ReplicaPolicy, ServiceSnapshot
from hooke.autoscaling.token_policy import TokenDemand, replica_tokens, token_station
from hooke.base.errors import NotEnoughData
from hooke.generation.token_scheduler import TokenLimits
from hooke.journal.service_events import BatchWindow, RuleChosen
from hooke.services.arrival_log import ArrivalLog, ServiceFacts, read_arrivals
from hooke.services.supervisor.replica_events import ReplicaPhase, Scale
from hooke.services.supervisor.supervision import Supervision
from hooke.serving.service import Service
from hooke.serving.stats_windows import merge_windows

__all__ = ["Autoscaler"]

EVERY_S = 1.0
LAW_EVERY_S = 10.0
"""A law changes slowly, and a fit takes as long as some requests."""
WINDOWS = 240
"""Windows of all replicas together: some minutes of a new service."""
STARTS = 3
"""The assumed start time is the longest of so many."""
ASSUMED_START_S = 5.0
"""Until a start has been seen."""
LEAST_HISTORY_S, LEAST_ARRIVALS = 600, 1000
"""Enough to choose a rule by; arrivals are requests."""
SHARE, LEAST_EVERY_S = 0.25, 300.0
"""A rule is chosen anew when there is a quarter more to choose by, after five minutes at least, and each day."""
MORE_EVERY_S = 60.0
ASSUMED_SLOTS = 8
"""Requests that a language model computes at once, until its first window says it."""
FACTS_EVERY_S = 300.0


class Autoscaler:
    """Scales one service between `low` and `high` replicas; if these are equal it only keeps the log of arrivals."""

    def __init__(self, declared: Service, log: ArrivalLog, say: Callable[[str], None]) -> None:
        """`say` is called in the thread of the log when it cannot be written or read."""
        self._declared = declared
        self._policy: ReplayedPolicy | None = None
        self._bounds = (1, 1)
        self._windows: deque[BatchWindow] = deque(maxlen=WINDOWS)
        self._starts: deque[float] = deque(maxlen=STARTS)
        self._decided = 0.0
        self._capacity: Capacity | None = None
        self._station: Station | None = None
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None
        self._spent = BudgetSpent()
        self._keeper = _Keeper(log, say)
        self._demand = TokenDemand() if declared.protocol is not None and declared.command is None else None
        """Of a language model, whose load is tokens and not requests. Engines of others do not report theirs: open requests count."""
        self._say = say
        self._arrived = self._shed = 0
        self._due = 0.0
        self._new: tuple[tuple[int, int], RuleChoice] | None = None
        """What the thread has chosen, and between which bounds, until the loop takes it."""
        self.choice: RuleChoice | None = None

    def between(self, low: int, high: int, *, now_wanted: int) -> None:
        """Set the bounds."""
        self._policy = None
        self._bounds, self._due = (low, high), 0.0
        self._new = self.choice = None
        if low < high:
            command = self._declared.command
            # Half a batch waits or runs while a model still has time to spare.
            assumed = command.concurrency if command else max(2.0, (self._declared.max_batch or 1) / 2)
            reactive = ReplicaPolicy(Bounds(low=low, high=high, assumed_in_flight=assumed))
            reactive.target = min(max(now_wanted, low), high)
            self._policy = ReplayedPolicy(reactive)
        if self._thread is None:
            self._thread = threading.Thread(target=self._learn, name="hooke-laws", daemon=True)
            self._thread.start()

    def window(self, window: BatchWindow) -> None:
        """A replica reported a window."""
        self._windows.append(window)
        self._keeper.windows.append(window)
        late = window.over_slo + window.failed + window.refused + window.late + window.gone_over_slo
        self._spent.add(time.monotonic(), window.ended, late)

    def slo_facts(self) -> dict[str, object] | None:
        """The SLO and how many requests kept it in the last day, for `hooke serve status`; None without one."""
        if self._declared.slo is None:
            return None
        ended, late = self._spent.counts()
        return {"promised": str(self._declared.slo), "requests": ended, "kept": ended - late}

    def started(self, seconds: float) -> None:
        """A replica took so long to start."""
        self._starts.append(seconds)
        self._keeper.starts.append(seconds)

    @property
    def start_s(self) -> float:
        """The time that a start is expected to take."""
        return max(self._starts, default=ASSUMED_START_S)

    def decide(
        self, now: float, core: Supervision, *, called: int, held: int = 0, shed: int = 0
    ) -> Scale | None:
        """A different number of replicas with the reason; None if the number stays.

        `called`: calls of methods so far; `held`: those that wait for the first replica; `shed`: those that the proxy refused so far,
        which no replica has counted: more replicas would have answered them.
        """
        if now - self._decided < EVERY_S:
            return None
        self._decided = now
        arrived = called + shed
        if self._demand is None:
            self._keeper.arrivals.append((int(time.time()), arrived - self._arrived))
        else:
            self._count_tokens(self._demand, core, arrived, held)
        if shed > self._shed:
            self._spent.add(now, shed - self._shed, shed - self._shed)
        self._arrived, self._shed = arrived, shed
        if self._policy is None or not core.ever_ready or not core.wanted:
            return None
        members = core.members.values()
        ready = sum(member.restarting_since is None for member in core.ready())
        starting = sum(member.phase is ReplicaPhase.STARTING for member in members)
        seen = ServiceSnapshot(
            ready=ready,
            starting=starting + len(core.ready()) - ready,  # a model that is being set up again comes back
            in_flight=core.open_calls() + held,
            arrived=arrived,
            start_s=self.start_s,
            capacity=self._capacity,
        )
        if self._demand is not None:
            seen = replace(
                seen,
                in_flight=self._demand.outstanding,
                arrived=self._demand.arrived,
                unit="tokens",
                grain=self._demand.grain,
            )
        slo = self._declared.slo
        spent = self._spent.share(1 - slo.percent / 100) if slo is not None else 0.0
        decision = self._policy.decide(now, seen, spent=spent)
        if decision.target == core.wanted:
            return None
        return Scale(decision.target, decision.reason.partition(": ")[2] or decision.reason)

    def _count_tokens(self, demand: TokenDemand, core: Supervision, called: int, held: int) -> None:
        before = round(demand.arrived)
        loads = {
            name: member.report.tokens
            for name, member in core.members.items()
            if member.report.tokens is not None and not core.mirrored(name)
        }
        demand.update(loads, called, held)
        if demand.weight:  # else prompts count nothing yet, and the log would tell of less than there was
            self._keeper.arrivals.append((int(time.time()), round(demand.arrived) - before))
        limits = next(
            (window.token_limits for window in reversed(self._windows) if window.token_limits), None
        )
        if self._policy is not None:
            # Without a law: the slots are full, and nearly as many requests wait.
            self._policy.reactive.assumed = (limits[0] if limits else ASSUMED_SLOTS) * demand.mix.answer

    def chosen(self, now: float) -> RuleChosen | None:
        """Take over what the replay has chosen; the event, where it is another rule."""
        made, self._new = self._new, None
        if made is None or self._policy is None or made[0] != self._bounds:
            return None
        new = made[1]
        before, self.choice = self.choice, new
        if before is not None and before.rule == new.rule and before.floors == new.floors:
            return None
        self._policy.follow(new, self._station, now)
        if before is not None and before.rule == new.rule:
            return None
        return RuleChosen(
            rule=str(new.rule), before=str(before.rule) if before is not None else "", reason=new.reason
        )

    def close(self) -> None:
        """Stop the thread, which writes the rest of the log first."""
        self._ended.set()
        if self._thread is not None:
            self._thread.join(5.0)

    def _learn(self) -> None:
        """In its own thread: importing SciPy takes half a second, a replay seconds, and children must not wait for it."""
        from hooke.autoscaling.service_policy import capacity_of, station_of

        while not self._ended.wait(LAW_EVERY_S):
            windows = list(self._windows)
            declared = self._declared
            if self._demand is not None:
                self._learn_tokens(self._demand, windows)
            elif windows:
                self._capacity = capacity_of(windows, max_batch=declared.max_batch, slo=declared.slo)
                if declared.slo is not None:
                    self._station = station_of(
                        windows, max_batch=declared.max_batch, slo=declared.slo, start_s=self.start_s
                    )
            self._keeper.keep(time.time())
            if self._policy is not None and self._station is not None:
                self._replay(self._station)
        self._keeper.keep(time.time(), ends=True)

    def _learn_tokens(self, demand: TokenDemand, windows: list[BatchWindow]) -> None:
        """The law of a language model's steps, and what a replica does by it."""
        from hooke.generation.token_law import token_law

        limits = next((window.token_limits for window in reversed(windows) if window.token_limits), None)
        if limits is None:
            return
        slots, step_tokens, context, pages, page_tokens = limits
        try:
            law = token_law(windows)
        except NotEnoughData:
            return
        made = TokenLimits(
            slots=slots, step_tokens=step_tokens, context=context, pages=pages, page_tokens=page_tokens
        )
        slo = self._declared.slo
        tokens = replica_tokens(law, made, demand.mix, slo)
        demand.weight, self._capacity = tokens.prompt, tokens.capacity
        if slo is not None:
            self._station = token_station(tokens, slo, start_s=self.start_s, grain=demand.grain)

    def _replay(self, station: Station) -> None:
        now, bounds = time.monotonic(), self._bounds
        if now < self._due:
            return
        clock = time.time()
        try:
            first, counts = read_arrivals(self._keeper.log.folder, since=clock - HISTORY_S, until=clock)
        except OSError as error:
            self._say(f"arrivals cannot be read, so no rule is chosen by them now: {error}")
            self._due = now + LEAST_EVERY_S
            return
        known_s = clock - first
        # The log of a language model is in tokens.
        least = LEAST_ARRIVALS * (self._demand.grain if self._demand is not None else 1.0)
        if len(counts) < LEAST_HISTORY_S or counts.sum() < least:
            self._due = now + MORE_EVERY_S
            return
        self._new = bounds, choose(counts, station, low=bounds[0], high=bounds[1])
        every_s = min(max(SHARE * known_s, LEAST_EVERY_S), DAY_S)
        # A choice between former bounds is of no use: those of now get theirs at once.
        self._due = now + every_s if bounds == self._bounds else 0.0


class _Keeper:
    """What the log gets: filled by the loop, written by the thread."""

    def __init__(self, log: ArrivalLog, say: Callable[[str], None]) -> None:
        self.log, self._say = log, say
        self.arrivals: deque[tuple[int, int]] = deque()
        self.windows: deque[BatchWindow] = deque()
        self.starts: deque[float] = deque()
        self._facts_at = time.time()
        self._trouble = ""

    def keep(self, now: float, *, ends: bool = False) -> None:
        """Write what is complete, or everything at the end."""
        while self.arrivals:
            self.log.add(*self.arrivals.popleft())
        if ends:
            self.log.end_block()
        if self.windows and (ends or now - self._facts_at >= FACTS_EVERY_S):
            self.log.facts(self._facts(now))
            self._facts_at = now
        try:
            self.log.flush()
        except OSError as error:
            if str(error) != self._trouble:
                self._say(f"arrivals cannot be written; they are kept in memory for a day: {error}")
            self._trouble = str(error)
        else:
            self._trouble = ""

    def _facts(self, now: float) -> ServiceFacts:
        several = [self.windows.popleft() for _ in range(len(self.windows))]
        starts = tuple(self.starts.popleft() for _ in range(len(self.starts)))
        whole = merge_windows(several, side_by_side=True)
        sizes = [size for each in whole.methods for size in each.sizes]
        return ServiceFacts(
            at=now,
            seconds=now - self._facts_at,
            requests=whole.requests,
            batches=whole.batches,
            rows=whole.rows,
            batch_s=sum(size.seconds for size in sizes),
            squares=sum(size.squares for size in sizes),
            request_s=whole.request_s,
            over_slo=whole.over_slo,
            starts_s=starts,
        )
