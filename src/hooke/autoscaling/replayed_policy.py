"""The policy of a running service: the rule that the replay chose, with the reactive policy as its fallback and its net. Pure."""

from __future__ import annotations

import math
from collections import deque

from hooke.autoscaling.replay import GUARD_S, RuleChoice, Station
from hooke.autoscaling.service_policy import ReplicaPolicy, ServiceDecision, ServiceSnapshot

__all__ = ["BudgetSpent", "ReplayedPolicy"]

RUNNING_OUT = 0.75
"""From this part of the day's late requests on, the reactive policy may raise the number."""
FEWEST = 1000
"""A day has at least so many requests: the few that a new service has had do not say what a day's budget is."""


class BudgetSpent:
    """Requests and late ones of about the last day, in steps of some minutes."""

    STEP_S, STEPS = 600.0, 144

    def __init__(self) -> None:
        self._steps: deque[tuple[float, int, int]] = deque()

    def add(self, now: float, ended: int, late: int) -> None:
        """So many requests ended since the last call, of which so many were late, refused or failed."""
        if self._steps and now - self._steps[-1][0] < self.STEP_S:
            since, before, before_late = self._steps.pop()
            self._steps.append((since, before + ended, before_late + late))
        else:
            self._steps.append((now, ended, late))
        while now - self._steps[0][0] > self.STEP_S * self.STEPS:
            self._steps.popleft()

    def share(self, budget: float) -> float:
        """The spent part of what may be late."""
        ended, late = self.counts()
        return late / max(max(ended, FEWEST) * budget, 1.0)

    def counts(self) -> tuple[int, int]:
        """How many requests ended, and how many of them were late, refused or failed."""
        return sum(step[1] for step in self._steps), sum(step[2] for step in self._steps)


class ReplayedPolicy:
    """Decides as `ReplicaPolicy` until it has a choice to follow. All times are seconds of one monotonic clock."""

    def __init__(self, reactive: ReplicaPolicy) -> None:
        self.reactive = reactive
        self.target = reactive.target
        self._choice: RuleChoice | None = None
        self._station: Station | None = None
        self._chosen = -math.inf
        self._seen: deque[tuple[float, float]] = deque()
        self._needs: deque[tuple[float, int]] = deque()
        """When, and a need; only those that no later one exceeds."""

    def follow(self, choice: RuleChoice | None, station: Station | None, now: float) -> None:
        """Use this rule from now on; without one, the reactive policy."""
        self._choice, self._station, self._chosen = choice, station, now
        self._needs.clear()
        if choice is not None and choice.rule.window_s:
            # What ran so far stays for a hold: a new rule does not know what the old one saw.
            self._needs.append((now, self.target))

    def decide(self, now: float, seen: ServiceSnapshot, *, spent: float = 0.0) -> ServiceDecision:
        """The number of replicas needed now; `spent` is the part of the day's budget of late requests that is used up."""
        if self._choice is None:
            self.reactive.target = self.target
        reactive = self.reactive.decide(now, seen)
        self._seen.append((now, seen.arrived))
        keep_s = max(GUARD_S, self._choice.rule.window_s if self._choice is not None else 0)
        while len(self._seen) > 2 and now - self._seen[1][0] >= keep_s:
            self._seen.popleft()
        if self._choice is None or self._station is None:
            self.target = reactive.target
            return reactive
        wanted, why = self._by_rule(now, seen, self._choice, self._station)
        load = self._load(now, GUARD_S)
        if reactive.target > wanted:
            net = reactive.reason.partition(": ")[2] or reactive.reason
            if load > self._choice.greatest_load:
                wanted, why = reactive.target, f"{load:.3g} {seen.unit}/s are more than the replay saw; {net}"
            elif not self._choice.kept:
                wanted, why = reactive.target, f"no rule kept the promise in the replay; {net}"
            elif spent >= RUNNING_OUT:
                wanted, why = reactive.target, f"{spent:.0%} of the day's late requests are spent; {net}"
        wanted = min(max(wanted, self.reactive.low), self.reactive.high)
        before, self.target = self.target, wanted
        if wanted == before:
            return ServiceDecision(wanted, f"{wanted} stay: {why}")
        return ServiceDecision(wanted, f"{before} -> {wanted}: {why}")

    def _by_rule(
        self, now: float, seen: ServiceSnapshot, choice: RuleChoice, station: Station
    ) -> tuple[int, str]:
        rule = choice.rule
        if not rule.window_s:
            return rule.least, f"{rule}, as replayed"
        rho = self._load(now, rule.window_s) / station.rate
        need = math.ceil(rho + rule.beta * math.sqrt(rho) - 1e-9)
        while self._needs and self._needs[-1][1] <= need:
            self._needs.pop()
        self._needs.append((now, need))
        while now - self._needs[0][0] >= rule.hold_s:
            self._needs.popleft()
        minute = int((now - self._chosen) // 60)
        floor = choice.floors[minute] if minute < len(choice.floors) else 0
        base = max(self._needs[0][1], floor, rule.least)
        waiting = max(seen.in_flight - seen.ready * station.in_service, 0.0)
        if waiting > max(seen.ready, 1) * station.rate * max(station.wait_s, 0.0) / 2:
            more = math.ceil(waiting / (station.rate * max(station.start_s, 1.0)))
            return base + more, f"{waiting:.0f} wait, for which {more} more work within a start; {rule}"
        return base, f"{self._load(now, rule.window_s):.3g} {seen.unit}/s keep {rho:.2g} busy; {rule}"

    def _load(self, now: float, window_s: float) -> float:
        """Requests a second of the last `window_s`, or of as long as is known."""
        began, first = self._seen[0]
        for at, arrived in self._seen:
            if now - at < window_s - 0.5:
                break
            began, first = at, arrived
        return max(self._seen[-1][1] - first, 0) / max(now - began, 1e-9) if now > began else 0.0
