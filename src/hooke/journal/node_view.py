"""One graph node as its journal tells it: which items are done, cached, running and failed, as ranges."""

from __future__ import annotations

from hooke.base.intervals import IntervalSet, SegmentMap
from hooke.base.ref import Ref
from hooke.journal.events import (
    AttemptFailed,
    AttemptFinished,
    AttemptStarted,
    ItemsFound,
    NodePlanned,
    RetryPlanned,
)

__all__ = ["NodeView"]


class NodeView:
    """What is known of a node. Every change costs the number of ranges at most, however many items they span.

    `results` holds which stored object has which items. `items` is None while a dynamic map's list does not exist.
    `twins` counts second attempts beside one that ran long, `twins_won` those that finished first.
    `needed`, `open_children` (nodes that still need this one) and `closed` (it needs its parents no more) belong to
    `hooke.journal.demand`.
    """

    __slots__ = (
        "attempts",
        "cached",
        "closed",
        "expansion_failed",
        "failed",
        "failure",
        "items",
        "needed",
        "open_children",
        "planned",
        "results",
        "running",
        "twins",
        "twins_won",
    )

    def __init__(self, planned: NodePlanned) -> None:
        self.planned = planned
        self.items = planned.items
        self.results = SegmentMap()
        self.cached = IntervalSet()
        self.failed = IntervalSet()
        self.running: dict[int, AttemptStarted] = {}
        self.attempts = 0
        self.twins = 0
        self.twins_won = 0
        self.failure: AttemptFailed | None = None
        self.expansion_failed = False
        self.needed = True
        self.closed = False
        self.open_children = 0

    @property
    def settled_count(self) -> int:
        """Items that have a result, whoever computed it."""
        return len(self.results)

    @property
    def cached_count(self) -> int:
        """Items whose result another run computed."""
        return self.cached.count

    @property
    def done_count(self) -> int:
        """Items whose result this run computed, before it was resumed or after."""
        return len(self.results) - self.cached.count

    @property
    def failed_count(self) -> int:
        """Items that failed and are not to be tried again, as far as is known yet; 1 for a list that cannot be read."""
        return self.failed.count + self.expansion_failed

    @property
    def running_count(self) -> int:
        """Items in attempts that run now; one that has two attempts counts once."""
        return sum(started.hi - started.lo for started in self.firsts)

    @property
    def firsts(self) -> list[AttemptStarted]:
        """Attempts that run now, without the second ones beside another."""
        running = self.running
        return [started for started in running.values() if started.twin_of not in running]

    def beside(self, attempt: int) -> AttemptStarted | None:
        """The other attempt at the same items, where both run."""
        mine = self.running.get(attempt)
        if mine is None or not self.twins:
            return None
        if mine.twin_of is not None:
            return self.running.get(mine.twin_of)
        return next((other for other in self.running.values() if other.twin_of == attempt), None)

    @property
    def waiting_count(self) -> int | None:
        """Items that are neither settled, running nor failed; None while the number of items is not known.

        None of a node that is not needed, since all that would read it has its results.
        """
        if not self.needed:
            return 0
        if self.items is None:
            return None
        return max(self.items - self.settled_count - self.running_count - self.failed.count, 0)

    @property
    def complete(self) -> bool:
        """Whether every item has a result."""
        return self.items is not None and self.settled_count >= self.items

    def take_over(self, former: NodeView) -> None:
        """The node had the same key before the run was resumed: what it had done is done."""
        self.items = former.items if self.items is None else self.items
        self.results, self.cached = former.results, former.cached
        self.attempts = former.attempts
        self.twins, self.twins_won = former.twins, former.twins_won

    def started(self, event: AttemptStarted) -> None:
        """An attempt began: its items are neither failed nor waiting."""
        self.attempts += 1
        self.twins += event.twin_of is not None
        self.running[event.attempt] = event
        self.failed.remove(event.lo, event.hi)
        self.expansion_failed = self.expansion_failed and not event.expand

    def finished(self, event: AttemptFinished) -> int:
        """An attempt ended well, and the other one at its items with it. Returns how many items have a result that had none."""
        beaten, won = self.beside(event.attempt), self.running.pop(event.attempt, None)
        if beaten is not None:
            del self.running[beaten.attempt]
        self.twins_won += won is not None and won.twin_of is not None
        return self._settle(event.lo, event.hi, event.ref)

    def broke(self, event: AttemptFailed) -> int:
        """An attempt failed, after some of its items maybe. Returns how many items have a result that had none."""
        alone = self.beside(event.attempt) is None
        self.running.pop(event.attempt, None)
        if not alone:  # the other one decides
            return 0
        self.failure = event
        good = event.lo + event.done
        new = self._settle(event.lo, good, event.ref) if event.ref is not None else 0
        if event.hi > good:
            self.failed.add(good, good + 1)
        elif event.hi == event.lo:
            self.expansion_failed = True
        return new

    def retried(self, event: RetryPlanned) -> None:
        """Failed items will run again, so they wait."""
        self.failed.remove(event.lo, event.hi)
        self.expansion_failed = False

    def found(self, event: ItemsFound) -> int:
        """Results turned up. Returns how many items have a result that had none."""
        new = self.results.items.gaps(event.lo, event.hi)
        if event.source == "cache":
            for lo, hi in new:
                self.cached.add(lo, hi)
        self.results.replace(event.lo, event.hi, event.ref, event.start)
        self.failed.remove(event.lo, event.hi)
        return sum(hi - lo for lo, hi in new)

    def _settle(self, lo: int, hi: int, ref: Ref) -> int:
        before = len(self.results)
        self.results.replace(lo, hi, ref)
        self.cached.remove(lo, hi)
        self.failed.remove(lo, hi)
        return len(self.results) - before
