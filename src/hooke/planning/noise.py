"""The noise of measurements: whether they are precise enough, and how many repeats would be. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import chdtri, stdtrit

__all__ = ["ENOUGH", "MeasurementSpread", "spread_of"]

ENOUGH = 0.25
"""The required precision of the mean at each N: half the 95 % interval, as a share of throughput.

The ratio of two such means is then known to about a third, which is just enough to see a speed-up of two.
"""

MOST_REPEATS = 1000
"""With more repeats than this, use a quieter machine instead."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasurementSpread:
    """The spread of equal measurements: `share` is the standard deviation of one, relative to its mean.

    It is pooled over `groups`, each measured several times; `freedom` are the degrees of freedom.
    """

    share: float
    freedom: int
    groups: int

    def half_width(self, repeats: int) -> float:
        """Half the 95 % interval of the mean of so many, as a share; infinite if nothing was repeated."""
        return _half_width(self.share, repeats, self.freedom)

    def repeats_needed(self) -> int:
        """How many repeats of each N are enough."""
        return _repeats_needed(self.share, self.groups)

    def hopeless(self, repeats: int) -> bool:
        """Whether `repeats` of each N cannot be enough, even with the smallest spread that is plausible at 95 %."""
        if not self.freedom:
            return False
        least = self.share * math.sqrt(self.freedom / float(chdtri(self.freedom, 0.05)))
        return _repeats_needed(least, self.groups) > repeats


def spread_of(groups: Mapping[int, Sequence[float]] | Iterable[Sequence[float]]) -> MeasurementSpread:
    """The spread of throughputs within `groups`, each of one N. A group of one adds nothing."""
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
