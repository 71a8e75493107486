"""The seconds of a call, from earlier timings: with more calls at once, and with more items to read."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from scipy.optimize import nnls
from scipy.special import stdtrit

from hooke.base.errors import BeyondTheData
from hooke.scaling.law import FARTHEST, Law

__all__ = [
    "LEVEL",
    "PRIOR",
    "Calibration",
    "Ends",
    "PredictedRun",
    "Sized",
    "Slowdown",
    "TimeSpread",
    "Timing",
    "borrowed_spread",
    "calibrated",
    "combined",
    "item_variance",
    "mean_seconds",
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

PRIOR_SPREAD = 0.06
"""The prior standard deviation of ln seconds between runs of one task: between that of a quiet machine (0.03) and of a
shared one (0.4; docs/decisions/0015-planning.md)."""
PRIOR_FREEDOM = 1.0
"""The weight of the prior in degrees of freedom: wide after one run, and outweighed by two comparisons."""
MOST_BORROWED = 4.0
"""The largest weight, in degrees of freedom, of what other tasks show, because tasks differ in their spread."""


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
    reads: float = 0


@dataclass(frozen=True, slots=True)
class TimeSpread:
    """A standard deviation of ln seconds between runs, with its degrees of freedom."""

    value: float
    freedom: float

    @property
    def quantile(self) -> float:
        """Student's t at the level."""
        return float(stdtrit(self.freedom, (1 + LEVEL) / 2))

    def updated(self, squares: float, freedom: float) -> TimeSpread:
        """With a sum of squared deviations more: (f0 s0^2 + squares) / (f0 + f) with f0 + f degrees of freedom."""
        most = self.freedom + freedom
        return TimeSpread(math.sqrt((self.freedom * self.value**2 + squares) / most), most)


PRIOR = TimeSpread(PRIOR_SPREAD, PRIOR_FREEDOM)
"""What is assumed of a machine of which nothing is known."""
FEW_PRIOR = TimeSpread(0.15, 4.0)
"""The same of whole runs, until ENOUGH of them were predicted from earlier ones: fewer do not show that a machine is noisy."""
ENOUGH = 3


def run_spread(timings: Sequence[Timing], prior: TimeSpread = PRIOR) -> TimeSpread:
    """The spread between runs of a task, shrunk towards the prior. Only runs with equal calls at once and sizes are compared."""
    return prior.updated(*_squares(timings))


def borrowed_spread(tasks: Iterable[Sequence[Timing]]) -> TimeSpread:
    """The prior for a task with few runs, from the runs of all tasks: an empirical Bayes estimate.

    Its weight is at most MOST_BORROWED degrees of freedom.
    """
    sums = [_squares(timings) for timings in tasks]
    found = PRIOR.updated(sum(squares for squares, _ in sums), sum(freedom for _, freedom in sums))
    return TimeSpread(found.value, min(found.freedom, MOST_BORROWED))


def _squares(timings: Sequence[Timing]) -> tuple[float, float]:
    """The sum of squared deviations of ln seconds from the mean of equal conditions, and its degrees of freedom."""
    groups: dict[tuple[int, float], list[float]] = {}
    for each in timings:
        if each.seconds > 0:
            groups.setdefault((each.at_once, each.reads), []).append(math.log(each.seconds))
    squares = freedom = 0.0
    for logs in groups.values():
        mean = sum(logs) / len(logs)
        squares += sum((log - mean) ** 2 for log in logs)
        freedom += len(logs) - 1
    return squares, freedom


# --- How well earlier predictions held.


@dataclass(frozen=True, slots=True)
class PredictedRun:
    """A past run, predicted from the `runs` runs before it: the natural logarithm of actual over predicted seconds.

    `chance` is the part of its variance that comes from which items ran, and in which order.
    """

    log_ratio: float
    runs: float
    chance: float = 0.0


@dataclass(frozen=True, slots=True)
class Calibration:
    """The spread of one run's seconds about the expected ones, and the variance of `chance` that it includes."""

    spread: TimeSpread = PRIOR
    chance: float = 0.0

    def half_width(self, runs: float, chance: float) -> float:
        """The half width in ln seconds of a prediction from `runs` runs, for work whose `chance` has this variance."""
        more = max(chance - self.chance, 0.0)
        return self.spread.quantile * math.sqrt(self.spread.value**2 * (1 + 1 / runs) + more)


def calibrated(replays: Sequence[PredictedRun], prior: TimeSpread = PRIOR) -> Calibration:
    """What earlier predictions and what the runs then took tell of the next one.

    A prediction from k runs is off by s sqrt(1 + 1/k), and the errors of successive predictions are independent
    (recursive residuals: Brown, Durbin and Evans, 1975).
    """
    squares = sum(each.log_ratio**2 / (1 + 1 / each.runs) for each in replays)
    known = FEW_PRIOR if prior is PRIOR and len(replays) < ENOUGH else prior
    spread = known.updated(squares, len(replays))
    return Calibration(spread, sum(each.chance for each in replays) / spread.freedom)


def seconds_factor(timings: Sequence[Timing], spread: TimeSpread, *, items: int) -> float:
    """How far the mean seconds of `items` items may lie from the mean of these timings, as a factor above 1.

    Its squared logarithm is t^2 (s_run^2 (1 + 1 / runs) + s_item^2 (1 / timed + 1 / items)), from the spread of runs and
    of items. If each run had `items` items, they are assumed to be the same ones.
    """
    variance = spread.value**2 * (1 + 1 / len(timings)) + item_variance(timings, items=items)
    return math.exp(spread.quantile * math.sqrt(variance))


def item_variance(timings: Sequence[Timing], *, items: int) -> float:
    """The variance of ln mean seconds of `items` items that were drawn as the timed ones were; 0 if they are the same."""
    if all(timing.items == items for timing in timings):
        return 0.0
    timed = sum(timing.items for timing in timings)
    within = sum(timing.items * math.expm1(min(timing.spread, 2.0) ** 2) for timing in timings) / timed
    return within * (1 / timed + 1 / items)


def mean_seconds(timings: Sequence[Timing], spread: TimeSpread) -> float:
    """The expected seconds of an item: the geometric mean of the runs, which count by their precision.

    The variance of a run's ln mean is s_run^2 + s_item^2 / items.
    """
    counted = [each for each in timings if each.seconds > 0]
    if not counted:
        return 0.0
    weights = [
        1 / (spread.value**2 + math.expm1(min(each.spread, 2.0) ** 2) / each.items) for each in counted
    ]
    logs = [math.log(each.seconds) for each in counted]
    whole = sum(weights)
    return math.exp(sum(weight * log for weight, log in zip(weights, logs, strict=True)) / whole)


# --- More calls at once.

Ends = tuple[float, float, float]
"""(low, value, high)."""


def combined(one: Ends, other: Ends) -> Ends:
    """The product of two factors with independent errors: the logarithms of their half widths add in quadrature."""
    value = one[1] * other[1]
    below = math.hypot(*(math.log(each[1] / each[0]) for each in (one, other)))
    above = math.hypot(*(math.log(each[2] / each[1]) for each in (one, other)))
    return value * math.exp(-below), value, value * math.exp(above)


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


# --- More data to read.

USUAL_SLOPE, PRIOR_SLOPE = 0.6, 0.4
"""The prior mean and standard deviation of d ln seconds / d ln size: a constant is 0, and proportional seconds are 1. The
interval, -0.2 to 1.4, includes n log n and a share of fixed costs."""
BEND = 0.1
"""The error of ln seconds for each factor e beyond the measured sizes, as a standard deviation."""
LEAST_SPREAD = 0.03
"""Differences below this never tell a line from a power."""
NORMAL = 1.96
"""The normal distribution's quantile at the level."""
FEWEST_SIZES = 3
"""Sizes from which a fixed part and a part for each item can be told apart."""


@dataclass(frozen=True, slots=True)
class Sized:
    """The timings as if they were of calls of the size in question, and the factors within which that holds."""

    timings: list[Timing]
    ends: Ends = (1.0, 1.0, 1.0)


def sized(timings: Sequence[Timing], size: float, spread: TimeSpread = PRIOR) -> Sized | None:
    """The timings for a call on data of this size; None if no timing applies.

    Timings of exactly this size are enough. Otherwise seconds follow the size: a power of it, whose exponent is drawn
    towards USUAL_SLOPE, or from three sizes also a fixed part plus a part for each item. The two count by their likelihood.
    The interval includes their difference, and a bend that grows with the distance from the measured sizes.
    """
    timed = [each for each in timings if each.items]
    exact = [each for each in timed if each.reads == size]
    if exact or not timed:
        return Sized(exact) if exact else None
    own = [each for each in timed if each.reads > 0 and each.seconds > 0]
    if not own or size <= 0:
        return None
    law = _SizeLaw(own, spread)
    moved = [
        replace(
            each, seconds=each.seconds * law.seconds(size) / law.seconds(each.reads), reads=size, known={}
        )
        for each in own
    ]
    factor = math.exp(NORMAL * law.error(size))
    return Sized(moved, (1 / factor, 1.0, factor))


class _SizeLaw:
    """ln seconds over ln size: a power and, from three sizes, a line, weighted by their likelihood."""

    def __init__(self, own: Sequence[Timing], spread: TimeSpread) -> None:
        self._x = np.array([math.log(each.reads) for each in own])
        self._y = np.array([math.log(each.seconds) for each in own])
        self._variance = spread.value**2
        self._centre, self._level = float(self._x.mean()), float(self._y.mean())
        x, y = self._x - self._centre, self._y - self._level
        prior = self._variance / PRIOR_SLOPE**2
        self._power = float((x @ y + prior * USUAL_SLOPE) / (x @ x + prior))
        self._slope_error = math.sqrt(self._variance / float(x @ x + prior))
        self._line: tuple[float, float] | None = None
        self._line_weight = 0.0
        if len({each.reads for each in own}) >= FEWEST_SIZES:
            self._fit_line()

    def _fit_line(self) -> None:
        """A fixed part plus a part for each item, neither below zero, with relative errors."""
        size, seconds = np.exp(self._x), np.exp(self._y)
        columns = np.stack([1 / seconds, size / seconds], axis=1)
        (fixed, each), _ = nnls(columns, np.ones(size.size))
        self._line = float(fixed), float(each)
        misfits = [
            float(((self._y - [form(x) for x in self._x]) ** 2).sum())
            for form in (self._by_line, self._by_power)
        ]
        odds = (misfits[0] - misfits[1]) / (2 * max(self._variance, LEAST_SPREAD**2))
        self._line_weight = 1 / (1 + math.exp(min(odds, 50.0)))

    def _by_power(self, x: float) -> float:
        return self._level + self._power * (x - self._centre)

    def _by_line(self, x: float) -> float:
        assert self._line is not None
        return math.log(self._line[0] + self._line[1] * math.exp(x))

    def _log(self, x: float) -> float:
        if self._line is None:
            return self._by_power(x)
        return self._line_weight * self._by_line(x) + (1 - self._line_weight) * self._by_power(x)

    def seconds(self, size: float) -> float:
        """The expected seconds of a call."""
        return math.exp(self._log(math.log(size)))

    def error(self, size: float) -> float:
        """The standard deviation of ln seconds that the law leaves at a size."""
        x = math.log(size)
        beyond = max(float(self._x.min()) - x, x - float(self._x.max()), 0.0)
        apart = 0.0
        if self._line is not None:
            weight = self._line_weight
            apart = math.sqrt(weight * (1 - weight)) * abs(self._by_line(x) - self._by_power(x))
        return math.hypot(self._slope_error * (x - self._centre), apart, BEND * beyond)


def sizes_needed(size: float) -> str:
    """The runs that would determine calls of this size; the reach of a law is that for N."""
    return (
        f"runs of {FEWEST_SIZES} sizes, the largest {math.ceil(size / FARTHEST)} or more, would determine it"
    )
