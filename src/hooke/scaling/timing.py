"""How long a call will take, from how long it took before, with an interval."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from scipy.special import stdtrit

__all__ = ["LEVEL", "PRIOR_FREEDOM", "PRIOR_SPREAD", "Spread", "Timing", "run_spread", "seconds_factor"]

LEVEL = 0.95
"""The probability with which each interval is meant to hold."""

PRIOR_SPREAD = 0.25
"""How much two runs of one task differ, as the standard deviation of ln seconds, before any were compared: measured on
two cores that others used too (docs/decisions/0015-planning.md)."""
PRIOR_FREEDOM = 4.0
"""How many comparisons that is worth: those that were made soon outweigh it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """What one run tells of one task: `items` took `seconds` each on average, and `gap_s` from each to the worker's next.

    `spread` is the standard deviation of ln seconds among its items, and `known` the seconds of single ones by number.
    `at_once` is how many of them could run at once: those that fitted, and no more than there were. `reads` is how many
    items of maps each call read, since a call that reads ten times as many does other work.
    """

    items: int
    seconds: float
    gap_s: float = 0.0
    spread: float = 0.0
    known: Mapping[int, float] = field(default_factory=dict)
    at_once: int = 1
    reads: int = 0


@dataclass(frozen=True, slots=True)
class Spread:
    """How much runs of one task differ: a standard deviation of ln seconds, with its degrees of freedom."""

    value: float
    freedom: float

    @property
    def quantile(self) -> float:
        """Student's t at the level."""
        return float(stdtrit(self.freedom, (1 + LEVEL) / 2))


def run_spread(timings: Sequence[Timing]) -> Spread:
    """How much runs of a task differ, from its timings in several runs, drawn towards the prior.

    (f0 s0^2 + sum of squares) / (f0 + f) with f0 + f degrees of freedom. Only runs with as many at once are compared.
    """
    squares, freedom = PRIOR_FREEDOM * PRIOR_SPREAD**2, PRIOR_FREEDOM
    for level in {timing.at_once for timing in timings}:
        logs = [math.log(each.seconds) for each in timings if each.at_once == level and each.seconds > 0]
        if logs:
            mean = sum(logs) / len(logs)
            squares += sum((log - mean) ** 2 for log in logs)
            freedom += len(logs) - 1
    return Spread(math.sqrt(squares / freedom), freedom)


def seconds_factor(timings: Sequence[Timing], spread: Spread, *, items: int) -> float:
    """How far the mean seconds of `items` items may lie from that of these timings, as a factor above 1.

    Its squared logarithm is t^2 (s_run^2 (1 + 1 / runs) + s_item^2 (1 / timed + 1 / items)): this run differs as runs
    do, and these items as items do. Where each run had as many items, they are taken to be the same ones.
    """
    variance = spread.value**2 * (1 + 1 / len(timings))
    if any(timing.items != items for timing in timings):
        timed = sum(timing.items for timing in timings)
        within = sum(timing.items * timing.spread**2 for timing in timings) / timed
        variance += within * (1 / timed + 1 / items)
    return math.exp(spread.quantile * math.sqrt(variance))
