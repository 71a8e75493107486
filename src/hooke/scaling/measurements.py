"""Measurements of throughput over N, their noise, and estimates with intervals."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import chdtri, stdtrit

from hooke.base.errors import UsageError
from hooke.base.table import Tabular
from hooke.scaling.families import Floats

__all__ = ["ENOUGH", "Estimate", "MeasurementSpread", "Measurements", "finite", "positive", "spread_of"]


def finite(value: float) -> float | None:
    """A number for JSON: None if it is infinite or unknown."""
    return value if math.isfinite(value) else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """A `value` with an `interval` (low, high) that contains the truth with probability `level`.

    `value` and `high` may be infinite, as for a law without a knee. `standard_error` is the asymptotic error of the
    least-squares fit that other programs print, or nan; the interval does not depend on it.
    """

    name: str
    value: float
    interval: tuple[float, float]
    level: float
    standard_error: float = math.nan

    @property
    def bounded(self) -> bool:
        """Whether both ends of the interval are finite."""
        return all(math.isfinite(end) for end in self.interval)

    @property
    def ends(self) -> tuple[float, float, float]:
        """(low, value, high)."""
        low, high = self.interval
        return low, self.value, high

    def shown(self, write: Callable[[float], str] = "{:.3g}".format) -> str:
        """`3m 05s (2m 40s to 3m 50s)`, where `write` makes text of a number."""
        low, value, high = map(write, self.ends)
        return f"{value} ({low} to {high})"

    def facts(self) -> dict[str, Any]:
        """The value, the interval and its level as plain values, for JSON; infinite and unknown numbers are None."""
        return {"value": finite(self.value), "interval": [*map(finite, self.interval)], "level": self.level}

    def __str__(self) -> str:
        low, high = self.interval
        return f"{self.name} {self.value:.4g} ({low:.4g} to {high:.4g} at {self.level:.0%})"


@dataclass(frozen=True, slots=True, init=False, eq=False, repr=False)
class Measurements(Tabular):
    """Throughput at each N. The arrays have one entry per measurement, ordered by N.

    `n` is what was varied: workers, threads, load, items per call. Pass either `throughput`, in work per second, or
    `seconds`, the time of `work` (default 1). Both have shape (len(n),), or (len(n), runs) with several runs per N; `n`
    may also repeat a value. If `work` is one whole number above 1, `fit` also considers that it may be items, which do not
    divide evenly among N. If a value is itself a mean of several runs, `repeats` is their number and its weight.
    `conditions` labels what else differed: machine, kind of work, hour. `work`, `repeats` and `conditions` are one
    value for all entries of `n`, or one each. `at` says when each entry was measured, in any unit: shape (len(n),) or that of
    the values; nan where it is unknown.

    Raises UsageError, with the entry and the fix, for shapes that do not match and for numbers that are not finite and
    positive.
    """

    n: Floats
    throughput: Floats
    work: Floats
    repeats: Floats
    conditions: NDArray[np.str_]
    at: Floats

    def __init__(  # noqa: PLR0913 - one keyword for each column
        self,
        n: ArrayLike,
        *,
        throughput: ArrayLike | None = None,
        seconds: ArrayLike | None = None,
        work: ArrayLike = 1.0,
        repeats: ArrayLike = 1.0,
        conditions: str | Sequence[str] = "",
        at: ArrayLike | None = None,
    ) -> None:
        levels = positive("n", n)
        if levels.ndim != 1 or not levels.size:
            raise UsageError(f"n has shape {levels.shape}", fix="pass a flat list with one N per measurement")
        done = _for_each("work", work, levels)
        values = _table(throughput, seconds, levels)
        rates = done[:, None] / values if throughput is None else values
        row = np.repeat(np.arange(levels.size), values.shape[1])
        order = np.argsort(levels[row], kind="stable")
        columns = {
            "n": levels[row],
            "throughput": rates.ravel(),
            "work": done[row],
            "repeats": _for_each("repeats", repeats, levels)[row],
            "conditions": _labels(conditions, levels)[row],
            "at": _times(at, values),
        }
        for name, column in columns.items():
            kept = column[order]
            kept.flags.writeable = False
            object.__setattr__(self, name, kept)

    def __len__(self) -> int:
        return self.n.size

    def __repr__(self) -> str:
        levels = ", ".join(f"{n:g}" for n in self.levels[:12])
        return f"Measurements({len(self)} at N = {levels}{' and more' * (self.levels.size > 12)})"

    def columns(self) -> dict[str, list[Any]]:
        """Column -> one value per measurement."""
        return {
            name: getattr(self, name).tolist()
            for name in ("n", "throughput", "work", "repeats", "conditions", "at")
        }

    @property
    def levels(self) -> Floats:
        """The distinct N, ascending."""
        return np.unique(self.n)

    @property
    def in_time(self) -> NDArray[np.intp] | None:
        """The entries in the order in which they were measured; None unless each has a time and no two are equal."""
        known = np.isfinite(self.at).all() and np.unique(self.at).size == self.at.size
        return np.argsort(self.at) if known else None

    @property
    def confounded(self) -> bool:
        """Whether every condition was measured at one N only, so that its effect cannot be separated from that of N."""
        labels = np.unique(self.conditions)
        return labels.size > 1 and all(
            np.unique(self.n[self.conditions == label]).size == 1 for label in labels
        )

    @property
    def items(self) -> int | None:
        """The number of items of each measurement: `work`, if that is one whole number above 1, else None."""
        most = float(self.work.max())
        return int(most) if most > 1 and most.is_integer() and (self.work == most).all() else None

    def means(self) -> tuple[Floats, Floats]:
        """The distinct N and the mean throughput at each, weighted by `repeats`."""
        levels, at = np.unique(self.n, return_inverse=True)
        return levels, np.bincount(at, self.repeats * self.throughput) / np.bincount(at, self.repeats)

    def each_n_once(self) -> Measurements:
        """One measurement per N, the geometric mean, all of equal weight. If all had the same work, so have these."""
        levels, at = np.unique(self.n, return_inverse=True)
        logs = np.bincount(at, self.repeats * np.log(self.throughput)) / np.bincount(at, self.repeats)
        work = self.work[0] if (self.work == self.work[0]).all() else 1.0
        return Measurements(levels, throughput=np.exp(logs), work=work)


def positive(name: str, values: ArrayLike) -> Floats:
    """`values` as an array. Raises UsageError, which names the entry, unless all are finite and positive."""
    try:
        numbers = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise UsageError(
            f"{name} is not an array of numbers: {error}", fix="pass numbers, equally many in each row"
        ) from error
    wrong = ~(np.isfinite(numbers) & (numbers > 0))
    if wrong.any():
        where = tuple(int(i) for i in np.argwhere(wrong)[0])
        place = "".join(f"[{i}]" for i in where)
        raise UsageError(
            f"{name}{place} is {numbers[where]:g}",
            fix="use finite numbers above zero, or leave the entry out",
        )
    return numbers


def _table(throughput: ArrayLike | None, seconds: ArrayLike | None, levels: Floats) -> Floats:
    """The measured values as (len(n), runs)."""
    if (throughput is None) == (seconds is None):
        raise UsageError(
            "measurements need exactly one of throughput and seconds",
            fix="Measurements(n, throughput=...) in work per second, or Measurements(n, seconds=..., work=...)",
        )
    name = "seconds" if throughput is None else "throughput"
    values = positive(name, np.asarray(seconds) if throughput is None else throughput)
    if values.ndim not in {1, 2} or len(values) != levels.size or not values.size:
        raise UsageError(
            f"{name} has shape {values.shape}, and n has {levels.size} entries",
            fix=f"use shape ({levels.size},), or ({levels.size}, runs) with one row per N",
        )
    return values.reshape(levels.size, -1)


def _for_each(name: str, values: ArrayLike, levels: Floats) -> Floats:
    numbers = positive(name, values)
    if numbers.shape not in {(), levels.shape}:
        raise UsageError(
            f"{name} has shape {numbers.shape}, and n has {levels.size} entries",
            fix=f"pass one number for all, or {levels.size} numbers",
        )
    return np.broadcast_to(numbers, levels.shape)


def _times(at: ArrayLike | None, values: Floats) -> Floats:
    """The time of each entry of `values` (len(n), runs), as a flat array."""
    times = np.full(values.shape, np.nan) if at is None else np.asarray(at, dtype=np.float64)
    if times.shape not in {values.shape, values.shape[:1]} or (values.shape[1] > 1 > times.ndim - 1):
        raise UsageError(
            f"at has shape {times.shape}, and the measured values have {values.shape}",
            fix="pass the time of each measured value",
        )
    return times.ravel()


def _labels(conditions: str | Sequence[str], levels: Floats) -> NDArray[np.str_]:
    labels = np.asarray(conditions, dtype=np.str_)
    if labels.shape not in {(), levels.shape}:
        raise UsageError(
            f"conditions has {labels.size} labels, and n has {levels.size} entries",
            fix=f"pass one label for all, or {levels.size} labels",
        )
    return np.broadcast_to(labels, levels.shape)


# --- The noise of equal measurements, and how many repeats would be enough.

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
