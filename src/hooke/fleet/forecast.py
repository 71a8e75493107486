"""How long the work that is left will take with so many workers, from what it took so far."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from hooke.fleet.observation import Work

__all__ = ["CAUTION", "Forecast"]

CAUTION = 2.0
"""Standard deviations by which a pessimistic forecast is longer: one in forty is longer still."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Forecast:
    """Forecasts of one moment: `have` workers are ready, another comes after `start_s`. With `caution`, the pessimistic end."""

    works: tuple[Work, ...]
    have: int
    start_s: float
    caution: float = 0.0
    slots: int = 1
    """Items that one worker does at once."""

    def seconds(self, workers: int) -> float:
        """Until all that is known is done. Infinite where there is work and nobody for it.

        What can run now runs together; what waits runs after it, one task after the other.
        """
        now = [work for work in self.works if work.now]
        later = [work for work in self.works if work.waiting]
        have, workers = self.have * self.slots, workers * self.slots
        passed, first = 0.0, self._together(now, have)
        if workers > have:
            # Those who are here begin; the others join them.
            if first <= self.start_s:
                passed = first
            else:
                share = self.start_s / first if math.isfinite(first) else 0.0
                passed = self.start_s + (1 - share) * self._together(now, workers)
        else:
            passed = self._together(now, workers)
        return passed + sum(self._one(work, work.waiting, workers) for work in later)

    def each_s(self, work: Work, count: int) -> float:
        """What an item takes on average. While none has ended: what the longest one has run already, which is a lower bound."""
        if work.seconds is None:
            return work.longest_s
        # The mean is not known exactly, and the items that are left are a sample of their own.
        doubt = math.sqrt(1 / max(work.measured, 1) + 1 / max(count, 1))
        return work.seconds + self.caution * work.spread * doubt

    def work_s(self) -> float:
        """Seconds of one worker for everything."""
        whole = sum(work.left * self.each_s(work, work.left) - work.begun_s for work in self.works)
        return max(whole, 0.0)

    def _together(self, works: Sequence[Work], workers: int) -> float:
        """Of what runs or could: all at once, so that each worker has something to do while there is enough."""
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

    def _fluid(self, work: Work, workers: int) -> float:
        seconds = work.now * self.each_s(work, work.now) - work.begun_s
        return max(seconds, 0.0) / self._speedup(work, workers)

    def _one(self, work: Work, items: int, workers: int) -> float:
        """Items of one task, a worker each: as if they could be cut, or, cautiously, in whole rounds and one of the rest."""
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

    def _speedup(self, work: Work, workers: int) -> float:
        if work.scaling is None:
            return float(workers)
        return work.scaling.of(workers, pessimistic=self.caution > 0)
