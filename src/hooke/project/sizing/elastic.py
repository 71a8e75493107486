"""The one who is asked, while a run goes on, how many workers it should have: it looks, asks the policy, and adds up what was spent."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Protocol

from hooke.base.clock import Clock
from hooke.fleet.observation import Limits, Observation, Price, Scaling, Work
from hooke.fleet.policy import Decision, decide
from hooke.fleet.watch import Watch
from hooke.journal.events import CapacityChanged, Event
from hooke.journal.fleets import FleetDecided
from hooke.pipeline.remains import Remains, remains_of
from hooke.pipeline.run_state import RunState

__all__ = ["Elastic", "Past", "Told"]

LEAST_LOOK_S, MOST_LOOK_S = 0.1, 5.0
LOOKS_A_START = 4.0
"""Decisions are made so often within the time that a start takes: what changes faster, no start could follow."""
MOST_SHARE = 0.02
"""Of the driver's time, what deciding may take."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """What earlier runs and studies tell of a task: how far it scales, and the seconds that an item took."""

    scaling: Scaling | None = None
    seconds: float | None = None
    spread: float = 0.0
    measured: int = 0


class Past(Protocol):
    """What is known of tasks from earlier."""

    def told(self) -> Mapping[str, Told] | None:
        """Task -> what is known; None while that is still being read."""
        ...


_NOTHING = Told()


class Elastic:
    """Of one run. `observe` is an observer of its journal, `decide` what the runner asks."""

    def __init__(
        self,
        limits: Limits,
        tasks: Mapping[int, str],
        *,
        price: Price,
        clock: Clock,
        past: Past,
        joined: bool = False,
    ) -> None:
        """`tasks` is graph node -> its task; `price` says what a start takes while none has been seen.

        A place that was `joined` is somebody else's: the run begins with the workers that it has.
        """
        self.joined = joined
        self.target = max(limits.low, 1)
        """So many are asked for; the run begins with them."""
        self.spent_usd = 0.0
        self._limits = limits
        self._price = price
        self._clock = clock
        self._past = past
        self._watch = Watch(tasks, start_s=price.start_s)
        self._place: CapacityChanged | None = None
        self._paid_until = clock.monotonic()
        self._next_look = -math.inf
        self._took_s = 0.0
        """The last decision."""
        self._rose = -math.inf
        self._said: set[tuple[int, str]] = set()
        self._decided = False

    def observe(self, event: Event) -> None:
        """Fold an event of the run."""
        if isinstance(event, CapacityChanged):
            if self.joined and not self._decided:  # its workers are found one after the other
                self.target = event.workers or event.slots
            self._place = event
        self._watch.apply(event, self._clock.monotonic())

    def decide(self, now: float, state: RunState) -> FleetDecided | None:
        """The next decision, where it is time for one and it says something new."""
        at = self._clock.monotonic()
        past = self._past.told() if at >= self._next_look else None
        if past is None or self._place is None:
            return None
        seen = self._observation(at, remains_of(state, now), past)
        made = decide(now, seen)
        # A budget is guarded until then, so that this one's slowness only delays those after the next.
        self._took_s = self._clock.monotonic() - at
        self._next_look = at + max(seen.look_s, self._took_s)
        return self._told(at, made, seen)

    def _told(self, at: float, made: Decision, seen: Observation) -> FleetDecided | None:
        before, self.target, self._decided = self.target, made.target, True
        if made.target != before:
            self._said.clear()
            self._watch.asked(at, made.target - before)
            self._rose = at if made.target > before else self._rose
        plain = made.target == before and made.bound in {"work", "idle", "start"}
        if not made.stop and (plain or (made.target, made.bound) in self._said):
            return None
        self._said.add((made.target, made.bound))
        return FleetDecided(
            before=before,
            after=made.target,
            reason=made.reason,
            bound=made.bound,
            stop=made.stop,
            workers=seen.have,
            could=sum(work.now for work in seen.works),
            left=sum(work.left for work in seen.works),
            spent_usd=self.spent_usd,
        )

    def _observation(self, at: float, left: list[Remains], past: Mapping[str, Told]) -> Observation:
        assert self._place is not None
        workers = self._watch.workers(at)
        gangs = max((each.slots for each in left), default=0)
        slots = max(self._place.slots // self._place.workers, 1) if self._place.workers else 1
        self._pay(at, max(-(-len(workers) // slots), self.target))
        start_s = self._watch.start_s
        return Observation(
            target=self.target,
            workers=workers,
            slots=slots,
            works=tuple(self._work(each, past.get(each.task, _NOTHING)) for each in left),
            limits=replace(self._limits, gang=min(gangs, self._limits.high)),
            price=replace(self._price, start_s=start_s),
            spent_usd=self.spent_usd,
            asked_s=at - self._rose,
            look_s=max(
                min(max(start_s / LOOKS_A_START, LEAST_LOOK_S), MOST_LOOK_S), self._took_s / MOST_SHARE
            ),
        )

    def _pay(self, at: float, workers: int) -> None:
        self.spent_usd += workers * (at - self._paid_until) * self._price.usd_per_hour / 3600
        self._paid_until = at

    def _work(self, left: Remains, told: Told) -> Work:
        mean, spread, measured = self._durations(left, told)
        return Work(
            task=left.task,
            running=left.running,
            ready=left.ready,
            waiting=left.waiting,
            open_ended=left.open_ended,
            seconds=mean,
            spread=spread,
            measured=measured,
            begun_s=sum(min(since, items * mean) for since, items in left.running_s) if mean else 0.0,
            longest_s=max((since / items for since, items in left.running_s), default=0.0),
            fits=self._fits(left),
            scaling=told.scaling,
        )

    def _durations(self, left: Remains, told: Told) -> tuple[float | None, float, int]:
        """Mean, spread and number of what items took: in this run, else in earlier ones."""
        seen = self._watch.durations(left.task)
        if seen is not None:
            return seen.mean, seen.spread, seen.attempts
        if left.expected_s:
            return statistics.fmean(left.expected_s), statistics.pstdev(left.expected_s), len(left.expected_s)
        return told.seconds, told.spread, told.measured

    def _fits(self, left: Remains) -> int | None:
        """How many at once the place could take were all its workers there."""
        assert self._place is not None
        place, high = self._place, self._limits.high
        asked = (
            (left.cpus, max(place.cpus, float(high)) if left.cpus > 1 else None),
            (left.memory, place.memory),
            (left.gpus, place.gpus),
        )
        fitting = [max(int(total / amount + 1e-9), 1) for amount, total in asked if amount and total]
        return min(fitting, default=None)
