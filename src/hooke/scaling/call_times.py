"""The seconds of a call, from earlier timings: with more calls at once, and with more items to read."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from scipy.special import stdtrit

from hooke.base.errors import BeyondTheData, NotEnoughData
from hooke.scaling.law import FARTHEST, Law, fit
from hooke.scaling.measurements import Measurements

__all__ = [
    "LEVEL",
    "SAME_SIZE",
    "Ends",
    "Sized",
    "Timing",
    "law_of_size",
    "nearest_level",
    "run_spread",
    "seconds_factor",
    "sized",
    "sizes_needed",
    "slowdown",
]


# --- Timings.

LEVEL = 0.95
"""The intended probability of each interval."""

PRIOR_SPREAD = 0.25
"""The prior standard deviation of ln seconds between runs of one task, measured on two shared cores
(docs/decisions/0015-planning.md)."""
PRIOR_FREEDOM = 4.0
"""The weight of the prior in degrees of freedom; real comparisons soon outweigh it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """The timing of one task in one run: the mean `seconds` of its `items`, and the mean `gap_s` to the worker's next item.

    `spread` is the standard deviation of ln seconds among items, `known` the seconds of single items by number.
    `at_once` is how many items could run at once. `reads` is how many items of maps each call read.
    """

    items: int
    seconds: float
    gap_s: float = 0.0
    spread: float = 0.0
    known: Mapping[int, float] = field(default_factory=dict)
    at_once: int = 1
    reads: int = 0


@dataclass(frozen=True, slots=True)
class TimeSpread:
    """The standard deviation of ln seconds between runs of one task, with its degrees of freedom."""

    value: float
    freedom: float

    @property
    def quantile(self) -> float:
        """Student's t at the level."""
        return float(stdtrit(self.freedom, (1 + LEVEL) / 2))


def run_spread(timings: Sequence[Timing]) -> TimeSpread:
    """The spread between runs of a task, shrunk towards the prior.

    (f0 s0^2 + sum of squares) / (f0 + f) with f0 + f degrees of freedom. Only runs with equally many at once are compared.
    """
    squares, freedom = PRIOR_FREEDOM * PRIOR_SPREAD**2, PRIOR_FREEDOM
    for level in {timing.at_once for timing in timings}:
        logs = [math.log(each.seconds) for each in timings if each.at_once == level and each.seconds > 0]
        if logs:
            mean = sum(logs) / len(logs)
            squares += sum((log - mean) ** 2 for log in logs)
            freedom += len(logs) - 1
    return TimeSpread(math.sqrt(squares / freedom), freedom)


def seconds_factor(timings: Sequence[Timing], spread: TimeSpread, *, items: int) -> float:
    """How far the mean seconds of `items` items may lie from the mean of these timings, as a factor above 1.

    Its squared logarithm is t^2 (s_run^2 (1 + 1 / runs) + s_item^2 (1 / timed + 1 / items)), from the spread of runs and
    of items. If each run had `items` items, they are assumed to be the same ones.
    """
    variance = spread.value**2 * (1 + 1 / len(timings))
    if any(timing.items != items for timing in timings):
        timed = sum(timing.items for timing in timings)
        within = sum(timing.items * timing.spread**2 for timing in timings) / timed
        variance += within * (1 / timed + 1 / items)
    return math.exp(spread.quantile * math.sqrt(variance))


# --- More calls at once.

Ends = tuple[float, float, float]
"""(low, value, high)."""


@dataclass(frozen=True, slots=True)
class Slowdown:
    """Seconds of a call with N at once, relative to the timed calls.

    If the measurements do not determine it, `open` says why, and `ends` are the bounds of no slowdown and of no additional
    throughput. `measure_at` is then the N to measure next.
    """

    ends: Ends
    open: str = ""
    measure_at: int = 0


def nearest_level(timings: Sequence[Timing], n: int) -> list[Timing]:
    """The timings whose number of calls at once is nearest to `n` as a ratio."""
    level = min({timing.at_once for timing in timings}, key=lambda at: (abs(math.log(at / n)), at))
    return [timing for timing in timings if timing.at_once == level]


def slowdown(law: Law | None, *, timed: int, n: int, lacking: str = "it has no law") -> Slowdown:
    """The slowdown with `n` at once of calls timed with `timed` at once. `lacking` is the reason if there is no law."""
    if n == timed:
        return Slowdown((1.0, 1.0, 1.0))
    if law is not None:
        return _slowdown_by_law(law, timed, n)
    return Slowdown(_bounds(n / timed), lacking, n if n < timed else min(n, 2 * timed))


def _slowdown_by_law(law: Law, timed: int, n: int) -> Slowdown:
    # Both throughputs are the law's, so its unit rate cancels; the timings replace it.
    per_call = timed / _throughput(law, timed)
    least, most = float(law.measurements.n[0]), float(law.measurements.n[-1])
    if n > FARTHEST * most:
        why = f"N = {n} is too far from the measured range, {least:g} to {most:g}"
        return _from_edge(law, per_call, n, Slowdown(_bounds(n / most), why, round(2 * most)))
    try:
        found = law.predict(n)
    except BeyondTheData as error:
        edge = float(np.clip(n, least, most))
        return _from_edge(
            law, per_call, n, Slowdown(_bounds(n / edge), error.what, round(error.measure_at or n))
        )
    low, high = found.interval
    return Slowdown((n / high / per_call, n / found.value / per_call, n / low / per_call))


def _from_edge(law: Law, per_call: float, n: int, beyond: Slowdown) -> Slowdown:
    """The law at the measured N nearest to `n`, times bounds from there on."""
    edge = float(np.clip(n, law.measurements.n[0], law.measurements.n[-1]))
    there = edge / _throughput(law, edge) / per_call
    low, value, high = beyond.ends
    return Slowdown((there * low, there * value, there * high), beyond.open, beyond.measure_at)


def _throughput(law: Law, n: float) -> float:
    return float(law.throughput(np.array([float(n)]))[0])


def _bounds(ratio: float) -> Ends:
    return min(ratio, 1.0), math.sqrt(ratio), max(ratio, 1.0)


SAME_SIZE = 1.5
"""Up to this multiple of the items read, the slowdown lies between 1 and the multiple."""
FEWEST_SIZES = 3
FAMILIES = ("gustafson", "power")
"""Families for seconds over items: a constant per call plus a constant per item, or a power of the items."""


@dataclass(frozen=True, slots=True)
class Sized:
    """Timings of calls of one size, and the relative seconds of the call in question."""

    timings: list[Timing]
    ends: Ends = (1.0, 1.0, 1.0)


def law_of_size(timings: Sequence[Timing]) -> Law | None:
    """The law of a call's seconds over the items that it reads; None for too few sizes.

    The curve of this law is seconds, not throughput; the families are the same.
    """
    own = [each for each in timings if each.reads and each.seconds > 0]
    if len({each.reads for each in own}) < FEWEST_SIZES:
        return None
    measured = Measurements([each.reads for each in own], throughput=[each.seconds for each in own])
    try:
        return fit(measured, families=FAMILIES)
    except NotEnoughData:
        return None


def sized(timings: Sequence[Timing], reads: int, law: Law | None) -> Sized | None:
    """The timings to use for a call that reads this many items; None if no timing applies."""
    own = [each for each in timings if each.items]
    if not own:
        return None
    nearest = min({each.reads for each in own}, key=lambda size: (_distance(size, reads), size))
    there = [each for each in own if each.reads == nearest]
    if nearest == reads:
        return Sized(there)
    if law is not None and (ends := _ends_by_law(law, nearest, reads)) is not None:
        return Sized(there, ends)
    if _distance(nearest, reads) > math.log(SAME_SIZE) + 1e-9:
        return None
    ratio = reads / nearest
    return Sized(there, (min(ratio, 1.0), math.sqrt(ratio), max(ratio, 1.0)))


def sizes_needed(reads: int) -> str:
    """The runs that would determine calls with this many items; the reach of a law is that for N."""
    return (
        f"runs of {FEWEST_SIZES} sizes, the largest {math.ceil(reads / FARTHEST)} or more, would determine it"
    )


def _distance(size: int, reads: int) -> float:
    """The distance of two sizes as |ln ratio|; infinite between zero and a positive size."""
    if size == reads:
        return 0.0
    return abs(math.log(size / reads)) if size and reads else math.inf


def _ends_by_law(law: Law, timed: int, reads: int) -> Ends | None:
    if not reads or not timed:
        return None
    try:
        found = law.predict(reads)
    except BeyondTheData:
        return None
    before = float(law.throughput(np.array([float(timed)]))[0])
    low, high = found.interval
    return low / before, found.value / before, high / before
