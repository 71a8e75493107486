"""Whether what was measured can answer, and how often it would have to be measured to do so. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import chdtri, stdtrit

__all__ = ["ENOUGH", "MeasurementSpread", "spread_of"]

ENOUGH = 0.25
"""The half-width, as a share of throughput, to which the mean at each N is to be known at 95 %.

The ratio of two such means is known to about a third: enough to tell twice as fast from as fast, and little more.
"""

MOST_REPEATS = 1000
"""More than this nobody measures: the answer is then another machine."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasurementSpread:
    """How far measurements of the same thing lie apart: `share` is the standard deviation of one, of its mean.

    It is pooled over `groups`, each measured several times; `freedom` is how many comparisons there were.
    """

    share: float
    freedom: int
    groups: int

    def half_width(self, repeats: int) -> float:
        """To which share the mean of so many is known, at 95 %; infinite where nothing was repeated."""
        return _half_width(self.share, repeats, self.freedom)

    def repeats_needed(self) -> int:
        """How many repeats of each N would do."""
        return _repeats_needed(self.share, self.groups)

    def hopeless(self, repeats: int) -> bool:
        """Whether `repeats` of each N cannot do, even if the spread was met at its worst so far (at 95 %)."""
        if not self.freedom:
            return False
        least = self.share * math.sqrt(self.freedom / float(chdtri(self.freedom, 0.05)))
        return _repeats_needed(least, self.groups) > repeats


def spread_of(groups: Mapping[int, Sequence[float]] | Iterable[Sequence[float]]) -> MeasurementSpread:
    """The spread of throughputs within `groups`, each of one N. Groups of one say nothing."""
    values = groups.values() if isinstance(groups, Mapping) else groups
    logs = [np.log(np.asarray(group, dtype=np.float64)) for group in values if len(group)]
    freedom = sum(log.size - 1 for log in logs)
    squares = sum(float(((log - log.mean()) ** 2).sum()) for log in logs)
    share = math.sqrt(squares / freedom) if freedom else math.nan
    return MeasurementSpread(share=share, freedom=freedom, groups=len(logs))


def _half_width(share: float, repeats: int, freedom: int) -> float:
    if not freedom:
        return math.inf
    return float(stdtrit(freedom, 0.975)) * share / math.sqrt(repeats)


def _repeats_needed(share: float, groups: int) -> int:
    for repeats in range(2, MOST_REPEATS):
        if _half_width(share, repeats, groups * (repeats - 1)) <= ENOUGH:
            return repeats
    return MOST_REPEATS
