"""The autoscaling policy of batch work: how many workers, and why. One pure function of an observation.

A worker is added while its work is worth its start, and released when it has idled for as long as another start would take
(the ski-rental rule: at most twice the least possible cost, whatever happens). The policy never exceeds the number that the
scaling law supports; a deadline gets just enough workers, and a budget stops the work before it is spent.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import msgspec
from msgspec.structs import replace

from hooke.autoscaling.observation import Observation, TaskWork
from hooke.base.formats import format_seconds

__all__ = ["CAUTION", "FleetDecision", "Forecast", "decide"]


LONG_REST = 2.0
"""Starts that fit into a rest that is known: then workers end at once. With less, one that starts sooner than usual might end again."""

# -- the forecast ----------------------------------------------------------------------------------

CAUTION = 2.0
"""Standard deviations that a pessimistic forecast adds; one case in forty is longer still."""


class Forecast(msgspec.Struct, frozen=True, kw_only=True):
    """How long the remaining work takes: `have` workers are ready, more join after `start_s`. With `caution` the pessimistic end."""

    works: tuple[TaskWork, ...]
    have: int
    start_s: float
    caution: float = 0.0
    slots: int = 1
    """Items that one worker does at once."""

    def seconds(self, workers: int) -> float:
        """Seconds until all known work is done; infinite where there is work but no worker.

        Items that can run now run together; waiting ones run after them, one task after another.
        """
        now = [work for work in self.works if work.now]
        later = [work for work in self.works if work.waiting]
        have, workers = self.have * self.slots, workers * self.slots
        passed, first = 0.0, self._together(now, have)
        if workers > have:
            # Ready workers begin, and the others join them.
            if first <= self.start_s:
                passed = first
            else:
                share = self.start_s / first if math.isfinite(first) else 0.0
                passed = self.start_s + (1 - share) * self._together(now, workers)
        else:
            passed = self._together(now, workers)
        return passed + sum(self._one(work, work.waiting, workers) for work in later)

    def each_s(self, work: TaskWork, count: int) -> float:
        """Mean seconds of an item. While none has ended, how long the longest has run, which is a lower bound."""
        if work.seconds is None:
            return work.longest_s
        # The mean is uncertain, and the remaining items are a sample of their own.
        doubt = math.sqrt(1 / max(work.measured, 1) + 1 / max(count, 1))
        return work.seconds + self.caution * work.spread * doubt

    def work_s(self) -> float:
        """Seconds that one worker needs for everything."""
        whole = sum(work.left * self.each_s(work, work.left) - work.begun_s for work in self.works)
        return max(whole, 0.0)

    def _together(self, works: Sequence[TaskWork], workers: int) -> float:
        """Seconds for all items that run or could run, side by side, so that each worker is busy while there is enough work."""
        if not works:
            return 0.0
        if len(works) == 1:
            begun = works[0].begun_s / max(min(workers, works[0].at_once), 1)
            return max(self._one(works[0], works[0].now, workers) - begun, 0.0)
        at_once = min(workers, sum(work.at_once for work in works))
        if at_once <= 0:
            return math.inf
        shared = sum(self._fluid(work, at_once) for work in works)
        longest = max(self.each_s(work, work.now) for work in works)
        return max(shared, longest - max(work.begun_s for work in works), 0.0)

    def _fluid(self, work: TaskWork, workers: int) -> float:
        seconds = work.now * self.each_s(work, work.now) - work.begun_s
        return max(seconds, 0.0) / self._speedup(work, workers)

    def _one(self, work: TaskWork, items: int, workers: int) -> float:
        """Seconds for items of one task, one per worker: as if divisible, or, with caution, in whole rounds and a last partial one."""
        if not items:
            return 0.0
        if workers <= 0:
            return math.inf
        at_once = min(workers, items, items if work.fits is None else work.fits)
        each = self.each_s(work, items)
        if not self.caution:
            return each * items / self._speedup(work, at_once)
        rounds, rest = divmod(items, at_once)
        seconds = rounds * each * at_once / self._speedup(work, at_once)
        return seconds + (each * rest / self._speedup(work, rest) if rest else 0.0)

    def _speedup(self, work: TaskWork, workers: int) -> float:
        if work.scaling is None:
            return float(workers)
        return work.scaling.of(workers, pessimistic=self.caution > 0)


class FleetDecision(msgspec.Struct, frozen=True):
    """The number of workers. `reason` is one plain sentence, whose words stay the same while only numbers change.

    `bound` is what limits the number: `work` (more have no work), `start` (the rest is not worth a start), `knee` or
    `law`, `cap`, `deadline` (more are not needed), `budget`, `gang` (it cannot use fewer); `idle` where workers are released. With `stop` the work ends now.
    """

    target: int
    reason: str
    bound: str = "work"
    stop: bool = False


def decide(now: float, seen: Observation) -> FleetDecision:
    """How many workers there should be now: never more than the limits, the work or the knee allow."""
    return _Choice(now, seen).made()


class _Most(msgspec.Struct, frozen=True):
    """An upper bound with its reason; `bound` is as in FleetDecision."""

    n: int
    why: str
    bound: str


class _Choice:
    """One decision in the making."""

    def __init__(self, now: float, seen: Observation) -> None:
        self.now = now
        self.seen = seen
        self.works = tuple(work for work in seen.works if work.left or work.open_ended)
        self.usable = -(-sum(work.at_once for work in self.works) // seen.slots)
        self.later = any(work.waiting or work.open_ended for work in self.works)
        start_s = seen.price.start_s
        self.likely = Forecast(works=self.works, have=seen.have, start_s=start_s, slots=seen.slots)
        self.cautious = replace(self.likely, caution=CAUTION)

    def made(self) -> FleetDecision:
        """The budget first, which may end the work; then hard bounds; then what is worth its cost."""
        allowed = self._allowed()
        stop = self._out_of_money(allowed)
        if stop is not None:
            return stop
        most = min((allowed, self._knee(), self._affordable(allowed.n)), key=lambda each: each.n)
        low, gang = self.seen.limits.low, self.seen.limits.gang
        least = max(min(max(low, gang), self._bears(allowed.n)), self._held())
        if not self.works:
            wanted = _Most(0, "nothing is left to do", "work")
        elif self.seen.limits.deadline is not None:
            wanted = self._in_time(most)
        else:
            wanted = self._that_pays(most)
        if self.works and least < self.seen.target > wanted.n:
            wanted = self._fall(wanted, most)
        if max(wanted.n, low) < gang <= min(least, allowed.n):
            wanted = _Most(gang, f"a gang runs at once or not at all, which takes {gang}", "gang")
        return self._said(min(max(wanted.n, least), allowed.n), wanted.why, wanted.bound)

    # -- what there must not be more of --------------------------------------------------------------

    def _allowed(self) -> _Most:
        limits, price = self.seen.limits, self.seen.price.usd_per_hour
        by_price = limits.high
        if price > 0 and math.isfinite(limits.usd_per_hour):
            by_price = int(limits.usd_per_hour / price + 1e-9)
        if by_price < limits.high:
            return _Most(by_price, f"no more than ${limits.usd_per_hour:.4g}/h is allowed", "cap")
        return _Most(limits.high, f"no more than {limits.high} are allowed", "cap")

    def _knee(self) -> _Most:
        """Of all that runs or could, each task up to its knee."""
        most, bent = 0, None
        for work in self.works:
            knee = work.scaling.knee if work.scaling is not None else None
            here = work.at_once if knee is None else min(work.at_once, max(math.floor(knee + 0.5), 1))
            most += here
            if here < work.at_once and (bent is None or work.at_once > bent.at_once):
                bent = work
        if bent is None or bent.scaling is None:
            return _Most(max(self.seen.limits.high, self.usable), "", "work")
        knee = bent.scaling.knee or 0.0
        whole = max(math.floor(knee + 0.5), 1)
        why = f"by its law ({bent.scaling.family}) {bent.task} gains nothing from more than {whole} at once: its knee is at {knee:.3g} or above"
        return _Most(max(most // self.seen.slots, 1), why, "knee")

    # -- money ---------------------------------------------------------------------------------------

    def _out_of_money(self, allowed: _Most) -> FleetDecision | None:
        """The end, where what even one worker costs until the next decision would be over the budget."""
        budget, price = self.seen.limits.budget_usd, self.seen.price
        if budget is None or not price.usd_per_hour or not self.works or not allowed.n:
            return None
        if self._bears(1) >= 1:
            return None
        spent = self.seen.spent_usd
        why = f"${spent:.4g} of ${budget:.4g} is spent, and what is left does not pay for one worker until the next decision"
        return FleetDecision(0, f"{self.seen.target} -> 0: {why}", "budget", stop=True)

    def _bears(self, most: int) -> int:
        """How many workers the rest of the budget pays for until the next decision, and until they are released then."""
        limits, price = self.seen.limits, self.seen.price
        if limits.budget_usd is None or not price.usd_per_hour:
            return most
        each = price.usd_per_hour / 3600 * (self.seen.look_s + price.release_s)
        rest = limits.budget_usd - self.seen.spent_usd
        return most if each * most <= rest else max(int(rest / each), 0)

    def _affordable(self, allowed: int) -> _Most:
        """The most with which all that is left stays within the budget; where no number does, the one that is cheapest."""
        budget = self.seen.limits.budget_usd
        if budget is None or not self.seen.price.usd_per_hour:
            return _Most(allowed, "", "budget")
        rest = budget - self.seen.spent_usd
        usd = [self._usd(n) for n in range(1, max(allowed, 1) + 1)]
        within = [n for n, each in enumerate(usd, start=1) if each <= rest]
        bears = self._bears(allowed)
        if within:
            n = min(within[-1], bears)
            why = f"${rest:.4g} of ${budget:.4g} is left, and {n} cost ${usd[n - 1]:.4g} until all is done"
        else:
            n = min(usd.index(min(usd)) + 1, bears)
            why = f"${rest:.4g} of ${budget:.4g} is left, which is not enough for all: ${usd[n - 1]:.4g} would be"
        return _Most(n, why, "budget")

    def _usd(self, workers: int) -> float:
        price = self.seen.price
        seconds = self.cautious.seconds(workers) + price.release_s
        return workers * seconds * price.usd_per_hour / 3600

    # -- what there should be ------------------------------------------------------------------------

    def _that_pays(self, most: _Most) -> _Most:
        """The fewest that are fastest, of those who find as much work as their start takes."""
        could = self._could(most)
        if could.n <= self.seen.target:
            return could
        best, shortest = self.seen.target, self.likely.seconds(self.seen.target)
        for n in range(self.seen.target + 1, could.n + 1):
            seconds = self.likely.seconds(n)
            worth = seconds >= 2 * self.seen.price.start_s or n == 1
            if worth and seconds < shortest * (1 - 1e-9):
                best, shortest = n, seconds
        if best == could.n:
            return could
        if self._law_ends(best):
            return _Most(best, f"{self._left()}, and by the law more would not be faster", "law")
        start = format_seconds(self.seen.price.start_s)
        return _Most(best, f"{self._left()}, which is not worth the start of more ({start})", "start")

    def _could(self, most: _Most) -> _Most:
        if most.n < self.usable and most.why:
            return _Most(most.n, f"{self._left()}; {most.why}", most.bound)
        return _Most(min(self.usable, most.n), self._left(), "work")

    def _law_ends(self, n: int) -> bool:
        here, more = n * self.seen.slots, (n + 1) * self.seen.slots
        return any(
            work.scaling is not None
            and work.at_once > here
            and work.scaling.of(more) <= work.scaling.of(here)
            for work in self.works
        )

    def _in_time(self, most: _Most) -> _Most:
        """The fewest that are done by the deadline, all going badly; as fast as can be where none are."""
        assert self.seen.limits.deadline is not None
        left_s = self.seen.limits.deadline - self.now
        could = self._could(most)
        enough = self._enough(left_s, could.n)
        if enough is not None and enough < self.seen.target:
            # Fewer only where there is time to start one again, should that turn out to be wrong.
            surely = self._enough(left_s - self.seen.price.start_s, could.n)
            enough = min(surely or could.n, self.seen.target)
        if enough is not None:
            return _Most(enough, self._why_enough(enough, left_s), "deadline")
        fastest = min(range(1, could.n + 1), key=self.cautious.seconds, default=0)
        late = format_seconds(max(self.cautious.seconds(fastest) - left_s, 0.0)) if fastest else ""
        if not fastest:
            return could
        return _Most(fastest, f"{could.why}; it may end {late} after the deadline", could.bound)

    def _enough(self, left_s: float, most: int) -> int | None:
        return next((n for n in range(1, most + 1) if self.cautious.seconds(n) <= left_s), None)

    def _why_enough(self, n: int, left_s: float) -> str:
        needs = format_seconds(self.cautious.seconds(n))
        fewer = f", and {n - 1} would need {format_seconds(self.cautious.seconds(n - 1))}" if n > 1 else ""
        unknown = [work.task for work in self.works if work.seconds is None and not work.longest_s]
        but = f"; how long {', '.join(unknown)} will take is not known" if unknown else ""
        return f"{format_seconds(left_s)} until the deadline, of which {n} need {needs} at most{fewer}{but}"

    # -- fewer ---------------------------------------------------------------------------------------

    def _fall(self, wanted: _Most, most: _Most) -> _Most:
        """What is forbidden or not needed for a deadline goes at once; what only has nothing to do, after a while."""
        target = self.seen.target
        if wanted.n >= most.n or wanted.bound == "deadline":
            return wanted
        patience = self.seen.price.start_s
        # Where an engine starts workers only for work, those that nothing asked for never come.
        coming = max(target - self.seen.have, 0)
        absent = coming if self.seen.asked_s >= 2 * patience else 0
        idle = [w.idle_s for w in self.seen.workers if w.idle_s is not None and not w.holds]
        if self.seen.rest_s >= LONG_REST * patience:
            gone = len(idle) // self.seen.slots + coming
            why = f"nothing to do for the next {format_seconds(self.seen.rest_s)}, until a retry"
        elif self.later:
            gone = absent + sum(1 for seconds in idle if seconds >= patience) // self.seen.slots
            why = f"nothing to do for {format_seconds(patience)}, in which another could be started"
        else:
            gone, why = (
                len(idle) // self.seen.slots + coming,
                "nothing to do, and no more work will come for them",
            )
        n = max(wanted.n, target - gone)
        if n > most.n:
            return _Most(most.n, f"{self._left()}; {most.why}", most.bound)
        if n == target:
            return _Most(
                target, f"{self._left()}; idle ones stay while starting them again would cost more", "idle"
            )
        return _Most(n, f"{self._left()}, and {target - n} had {why}", "idle")

    def _held(self) -> int:
        return -(-sum(1 for worker in self.seen.workers if worker.holds) // self.seen.slots)

    # -- words ---------------------------------------------------------------------------------------

    def _said(self, target: int, why: str, bound: str) -> FleetDecision:
        before = self.seen.target
        said = f"{before} -> {target}" if target != before else f"{target} stay"
        return FleetDecision(target, f"{said}: {why}", bound)

    def _left(self) -> str:
        left = sum(work.left for work in self.works)
        more = " or more" if any(work.open_ended for work in self.works) else ""
        now = sum(work.at_once for work in self.works)
        could = "all" if now == left and not more else f"{now}"
        first = max([work for work in self.works if work.now] or self.works, key=_weight)
        each = f", about {format_seconds(first.seconds)} each" if first.seconds is not None else ""
        if first.seconds is None and first.longest_s > 0:
            each = f", none ended within {format_seconds(first.longest_s)}"
        one = left == 1 and not more
        return f"{left}{more} {'item is' if one else 'items are'} left{each}; {could} could run now"


def _weight(work: TaskWork) -> float:
    return work.left * (work.seconds if work.seconds is not None else work.longest_s)
