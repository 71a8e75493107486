"""The seconds of a call, from earlier timings: with more calls at once, and with more data to read."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from scipy.optimize import nnls
from scipy.special import stdtrit

from hooke.base.errors import BeyondTheData
from hooke.base.formats import format_bytes
from hooke.scaling.law import FARTHEST, Law

__all__ = [
    "APART",
    "FEWEST_SIZES",
    "LEVEL",
    "NORMAL",
    "PRIOR",
    "Calibration",
    "Ends",
    "PredictedRun",
    "SizeLaw",
    "Sized",
    "Slowdown",
    "TimeSpread",
    "Timing",
    "borrowed_spread",
    "calibrated",
    "combined",
    "distinct_sizes",
    "item_variance",
    "mean_seconds",
    "merged",
    "nearest_level",
    "other_size",
    "run_spread",
    "seconds_factor",
    "sized",
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
    `at_once` is how many items could run at once. `reads` is how many items of maps each call read, and `bytes` the size of all
    data that it read; 0 if that is not known. `run` is the run's id.
    """

    items: int
    seconds: float
    gap_s: float = 0.0
    spread: float = 0.0
    known: Mapping[int, float] = field(default_factory=dict)
    at_once: int = 1
    reads: float = 0
    bytes: float = 0
    run: str = ""


def merged(timings: Iterable[Timing]) -> list[Timing]:
    """One timing for each run, concurrency and size, because calls of one run are not independent."""
    groups: dict[tuple[str, int, float, float], list[Timing]] = {}
    for at, each in enumerate(timings):
        groups.setdefault((each.run or str(at), each.at_once, each.reads, each.bytes), []).append(each)
    return [own[0] if len(own) == 1 else _pooled(own) for own in groups.values()]


def _pooled(timings: Sequence[Timing]) -> Timing:
    items = sum(each.items for each in timings)
    seconds = sum(each.items * each.seconds for each in timings) / items
    logs = [math.log(each.seconds / seconds) if each.seconds > 0 else 0.0 for each in timings]
    squares = sum(each.items * (each.spread**2 + log**2) for each, log in zip(timings, logs, strict=True))
    return replace(
        timings[0],
        items=items,
        seconds=seconds,
        gap_s=sum(each.items * each.gap_s for each in timings) / items,
        spread=math.sqrt(squares / items),
        known={},
    )


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
    groups: dict[tuple[int, float, float], list[float]] = {}
    for each in timings:
        if each.seconds > 0:
            groups.setdefault((each.at_once, each.reads, each.bytes), []).append(math.log(each.seconds))
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

    `chance` is the part of its variance that comes from which items ran, and in which order, and `laws` the part of the laws
    of N and of size.
    """

    log_ratio: float
    runs: float
    chance: float = 0.0
    laws: float = 0.0


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
    (recursive residuals: Brown, Durbin and Evans, 1975). What laws add to an error is no spread between runs: such a
    prediction counts by the share of its variance that they do not explain.
    """
    known = FEW_PRIOR if prior is PRIOR and len(replays) < ENOUGH else prior
    spread, weights = known, [1.0] * len(replays)
    for _ in range(ROUNDS):
        weights = [_weight(each, spread.value**2) for each in replays]
        squares = sum(
            weight * weight * each.log_ratio**2 / (1 + 1 / each.runs)
            for each, weight in zip(replays, weights, strict=True)
        )
        spread = known.updated(squares, sum(weights))
    chance = sum(weight * each.chance for each, weight in zip(replays, weights, strict=True))
    return Calibration(spread, chance / spread.freedom)


ROUNDS = 5
"""Rounds until weights and spread agree; one is enough without laws."""


def _weight(replay: PredictedRun, variance: float) -> float:
    own = variance * (1 + 1 / replay.runs)
    return own / (own + replay.laws)


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
BEND = 0.04
"""The error of ln seconds, as a standard deviation: BEND b (1 + b) at b factors e beyond the measured sizes, because a slope
may be wrong there, and may change."""
LEAST_SPREAD = 0.03
"""Differences below this never tell a line from a power."""
NORMAL = 1.96
"""The normal distribution's quantile at the level."""
LINE_ODDS = 3.0
"""The prior odds of a line against a power: most calls do something once, and the rest for each unit of data."""
FEWEST_SIZES = 3
"""Sizes from which a fixed part and a part for each item can be told apart,"""
APART = 1.2
"""and the smallest ratio between two of them."""
SAME_BYTES = 0.05
"""Calls whose bytes differ by less than this share count as calls of one size."""
LEAST_ITEM = 1024
"""Bytes of an item from which it counts as data. Smaller ones are numbers and the like, whose bytes say nothing of the time."""
SAME_ITEMS = 1.25
"""Up to this ratio between their bytes, items count as equally large: then the number of items is the size of a call."""


@dataclass(frozen=True, slots=True)
class Sized:
    """The timings as if they were of calls of the size in question, and the factors within which that holds."""

    timings: list[Timing]
    ends: Ends = (1.0, 1.0, 1.0)


def sized(
    timings: Sequence[Timing], items: float, spread: TimeSpread = PRIOR, *, data: float = 0, error: float = 0
) -> Sized | None:
    """The timings for a call that reads so many items of maps, or so many bytes of `data`; None if no timing applies.

    Timings of this size are enough if they are all there are, or of three runs. Otherwise seconds follow the size: see `SizeLaw`. The bytes are the size of a call that
    reads no map, and of one whose items differ in their bytes; they are ignored where they were not recorded (0). `error`
    is the standard deviation of the natural logarithm of the size.
    """
    timed = [each for each in timings if each.items]
    if not timed:
        return None
    if _by_bytes(timed, items, data):
        return _sized_by_bytes([each for each in timed if each.bytes > 0], items, data, spread, error)
    exact = [each for each in timed if each.reads == items]
    own = [each for each in timed if each.reads > 0 and each.seconds > 0]
    if exact and not (error and own):
        return Sized(merged(replace(each, bytes=data) for each in exact))
    if not own or items <= 0:
        return None
    law = _law(own, [each.reads for each in own], spread)
    factors = [law.value(items) / law.value(each.reads) for each in own]
    return _moved(
        [replace(each, reads=items, bytes=data) for each in own], factors, _widened(law, items, error)
    )


def _by_bytes(timed: Sequence[Timing], items: float, data: float) -> bool:
    """Whether the bytes are the size: of calls that read no map, or items that are not equally large."""
    measured = [each for each in timed if each.bytes > 0 and bool(each.reads) == bool(items)]
    if data <= 0 or not measured:
        return False
    if not items:
        return True
    per_item = [data / items, *(each.bytes / each.reads for each in measured)]
    return min(per_item) >= LEAST_ITEM and max(per_item) > SAME_ITEMS * min(per_item)


def _sized_by_bytes(
    own: Sequence[Timing], items: float, data: float, spread: TimeSpread, error: float
) -> Sized | None:
    own = [each for each in own if bool(each.reads) == bool(items)]
    exact = [each for each in own if abs(math.log(data / each.bytes)) <= SAME_BYTES]
    if exact and not error and (len({each.run for each in exact}) >= ENOUGH or len(exact) == len(own)):
        return Sized(merged(replace(each, reads=items, bytes=data) for each in exact))
    own = [each for each in own if each.seconds > 0]
    if not own:
        return None
    law = _law(own, [each.bytes for each in own], spread)
    factors = [law.value(data) / law.value(each.bytes) for each in own]
    return _moved(
        [replace(each, reads=items, bytes=data) for each in own], factors, _widened(law, data, error)
    )


def _law(own: Sequence[Timing], sizes: Sequence[float], spread: TimeSpread) -> SizeLaw:
    return SizeLaw(sizes, [each.seconds for each in own], spread=run_spread(own, spread).value)


def _widened(law: SizeLaw, size: float, error: float) -> float:
    """The factor to either side that a law leaves at a size whose ln has an error."""
    shifted = abs(math.log(law.value(size * math.exp(error)) / law.value(size)))
    return math.exp(NORMAL * math.hypot(law.error(size), shifted))


def _moved(timings: Sequence[Timing], factors: Sequence[float], within: float) -> Sized:
    """The timings with their seconds multiplied, as one for each run."""
    moved = [
        replace(
            each,
            seconds=each.seconds * factor,
            known={item: seconds * factor for item, seconds in each.known.items()},
        )
        for each, factor in zip(timings, factors, strict=True)
    ]
    return Sized(merged(moved), (1 / within, 1.0, within))


class SizeLaw:
    """How a quantity above 0 follows the size of data: a power of it and, from three sizes, a line, weighted by likelihood.

    The power's exponent is drawn towards `slope` with the standard deviation `slope_error`; the line is a fixed part plus a
    part for each unit, neither below zero. `spread` is the standard deviation of ln values. `bend` is as in BEND.
    """

    def __init__(
        self,
        sizes: Sequence[float],
        values: Sequence[float],
        *,
        spread: float,
        slope: float = USUAL_SLOPE,
        slope_error: float = PRIOR_SLOPE,
        bend: float = BEND,
    ) -> None:
        self._x, self._y = np.log(np.asarray(sizes, float)), np.log(np.asarray(values, float))
        self._variance, self._bend = spread**2, bend
        self._centre, self._level = float(self._x.mean()), float(self._y.mean())
        x, y = self._x - self._centre, self._y - self._level
        prior = self._variance / slope_error**2
        self._power = float((x @ y + prior * slope) / (x @ x + prior))
        self._slope_error = math.sqrt(self._variance / float(x @ x + prior))
        self._line: tuple[float, float] | None = None
        self._line_weight = 0.0
        if distinct_sizes(sizes) >= FEWEST_SIZES:
            self._fit_line()

    def _fit_line(self) -> None:
        """A fixed part plus a part for each unit, neither below zero, with relative errors."""
        size, value = np.exp(self._x), np.exp(self._y)
        columns = np.stack([1 / value, size / value], axis=1)
        (fixed, each), _ = nnls(columns, np.ones(size.size))
        self._line = float(fixed), float(each)
        misfits = [
            float(((self._y - [form(x) for x in self._x]) ** 2).sum())
            for form in (self._by_line, self._by_power)
        ]
        odds = (misfits[0] - misfits[1]) / (2 * max(self._variance, LEAST_SPREAD**2))
        self._line_weight = LINE_ODDS / (LINE_ODDS + math.exp(min(odds, 50.0)))

    def _by_power(self, x: float) -> float:
        return self._level + self._power * (x - self._centre)

    def _by_line(self, x: float) -> float:
        assert self._line is not None
        return math.log(self._line[0] + self._line[1] * math.exp(x))

    def _log(self, x: float) -> float:
        if self._line is None:
            return self._by_power(x)
        return self._line_weight * self._by_line(x) + (1 - self._line_weight) * self._by_power(x)

    def value(self, size: float) -> float:
        """The expected value at a size."""
        return math.exp(self._log(math.log(size)))

    def error(self, size: float) -> float:
        """The standard deviation of the ln value that the law leaves at a size."""
        x = math.log(size)
        beyond = max(float(self._x.min()) - x, x - float(self._x.max()), 0.0)
        apart = 0.0
        if self._line is not None:
            weight = self._line_weight
            apart = math.sqrt(weight * (1 - weight)) * abs(self._by_line(x) - self._by_power(x))
        bent = self._bend * beyond * (1 + beyond)
        return math.hypot(self._slope_error * (x - self._centre), apart, bent)


def distinct_sizes(sizes: Iterable[float]) -> int:
    """How many sizes lie APART from one another."""
    count, last = 0, 0.0
    for size in sorted(sizes):
        if size >= APART * last:
            count, last = count + 1, size
    return count


def other_size(timings: Sequence[Timing], items: float, *, data: float = 0) -> str:
    """Which size a call has, which ones were timed, and which runs would determine it; the reach of a law is that for N."""
    if _by_bytes([each for each in timings if each.items], items, data):
        size, shown = data, format_bytes(round(data))
        others = [
            format_bytes(round(each)) for each in sorted({each.bytes for each in timings if each.bytes})
        ]
        largest = format_bytes(math.ceil(size / FARTHEST))
    else:
        shown, largest = f"{items:g} items", f"{math.ceil(items / FARTHEST)}"
        others = [f"{size:g}" for size in sorted({each.reads for each in timings})]
    return (
        f"a call reads {shown}, but was measured with {', '.join(others)}; "
        f"runs of {FEWEST_SIZES} sizes, the largest {largest} or more, would determine it"
    )
