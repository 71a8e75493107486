"""How much longer a call takes that reads more items than those that were timed."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from scipy.special import stdtrit

from hooke.base.errors import BeyondTheData, NotEnoughData
from hooke.scaling.fitting import fit
from hooke.scaling.law import FARTHEST, Law
from hooke.scaling.measurements import Measurements

__all__ = [
    "LEVEL",
    "PRIOR_FREEDOM",
    "PRIOR_SPREAD",
    "SAME_SIZE",
    "Ends",
    "Sized",
    "Slowdown",
    "TimeSpread",
    "Timing",
    "law_of_size",
    "nearest_level",
    "run_spread",
    "seconds_factor",
    "sized",
    "sizes_needed",
    "slowdown",
]


# --- How long a call will take, from how long it took before, with an interval.

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
class TimeSpread:
    """How much runs of one task differ: a standard deviation of ln seconds, with its degrees of freedom."""

    value: float
    freedom: float

    @property
    def quantile(self) -> float:
        """Student's t at the level."""
        return float(stdtrit(self.freedom, (1 + LEVEL) / 2))


def run_spread(timings: Sequence[Timing]) -> TimeSpread:
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
    return TimeSpread(math.sqrt(squares / freedom), freedom)


def seconds_factor(timings: Sequence[Timing], spread: TimeSpread, *, items: int) -> float:
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


# --- How much longer a call takes where more of them run at once: by the task's law, or by bounds where it has none.

Ends = tuple[float, float, float]
"""(low, value, high)."""


@dataclass(frozen=True, slots=True)
class Slowdown:
    """Seconds of a call with N at once over those that were timed.

    Where the measurements do not tell, `open` says why, and `ends` are bounds: more at once slow nothing down, or give
    no more throughput at all. `measure_at` is then the N whose measurement would tell most.
    """

    ends: Ends
    open: str = ""
    measure_at: int = 0


def nearest_level(timings: Sequence[Timing], n: int) -> list[Timing]:
    """The timings taken with so many at once that is nearest to `n` as a ratio."""
    level = min({timing.at_once for timing in timings}, key=lambda at: (abs(math.log(at / n)), at))
    return [timing for timing in timings if timing.at_once == level]


def slowdown(law: Law | None, *, timed: int, n: int, lacking: str = "it has no law") -> Slowdown:
    """With `n` at once, where `timed` ran at once when they were timed. `lacking` is said where there is no law."""
    if n == timed:
        return Slowdown((1.0, 1.0, 1.0))
    if law is not None:
        return _slowdown_by_law(law, timed, n)
    return Slowdown(_bounds(n / timed), lacking, n if n < timed else min(n, 2 * timed))


def _slowdown_by_law(law: Law, timed: int, n: int) -> Slowdown:
    # Both throughputs are the law's, so that its unit rate, which the timings replace, cancels.
    per_call = timed / _throughput(law, timed)
    least, most = float(law.measurements.n[0]), float(law.measurements.n[-1])
    if n > FARTHEST * most:
        why = f"N = {n} is too far from what was measured, {least:g} to {most:g}"
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
    """What the law says at the measured N that is nearest to `n`, and from there on bounds alone."""
    edge = float(np.clip(n, law.measurements.n[0], law.measurements.n[-1]))
    there = edge / _throughput(law, edge) / per_call
    low, value, high = beyond.ends
    return Slowdown((there * low, there * value, there * high), beyond.open, beyond.measure_at)


def _throughput(law: Law, n: float) -> float:
    return float(law.throughput(np.array([float(n)]))[0])


def _bounds(ratio: float) -> Ends:
    return min(ratio, 1.0), math.sqrt(ratio), max(ratio, 1.0)


SAME_SIZE = 1.5
"""Up to this multiple of the items that the timed calls read, a call takes between as long and that many times as long."""
FEWEST_SIZES = 3
FAMILIES = ("gustafson", "power")
"""Of seconds by items, as curves: so much a call and so much an item; or a power of the items."""


@dataclass(frozen=True, slots=True)
class Sized:
    """Timings of calls of one size, and the seconds of the call in question over theirs."""

    timings: list[Timing]
    ends: Ends = (1.0, 1.0, 1.0)


def law_of_size(timings: Sequence[Timing]) -> Law | None:
    """Seconds of a call by the items that it reads, as far as timings of several sizes tell; None for too few.

    A law's curve is then no throughput: it is the seconds that are fitted, which have the same families.
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
    """What tells of a call that reads so many items; None where nothing does."""
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
    """Which runs would tell of calls that read so many: no law leads farther than it does for N."""
    return f"runs of {FEWEST_SIZES} sizes, the largest {math.ceil(reads / FARTHEST)} or more, would tell"


def _distance(size: int, reads: int) -> float:
    """How far two sizes are apart, as |ln ratio|; no ratio leads from nothing to something."""
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
