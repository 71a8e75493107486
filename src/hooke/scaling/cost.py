"""COST: the smallest N that beats a plain call of the same work in one thread without an engine.

McSherry, Isard and Murray, "Scalability! But at what COST?", HotOS 2015. The plain call is measured, not assumed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import stdtrit

from hooke.base.errors import NotEnoughData, UsageError
from hooke.scaling.families import Floats
from hooke.scaling.law import Law
from hooke.scaling.measurements import Measurements, finite, positive

__all__ = ["Cost", "ShellCost", "cost", "shell_cost"]

LEVEL = 0.95
"""The level of the interval without a law."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """The smallest N that beats the plain call, infinite if none does. `plain` is the plain call's throughput."""

    n: float
    interval: tuple[float, float]
    level: float
    plain: float

    @property
    def never(self) -> bool:
        """Whether no N beats the plain call."""
        return math.isinf(self.n)

    def facts(self) -> dict[str, Any]:
        """The COST as plain values, for JSON; infinite numbers are None."""
        ends = [*map(finite, self.interval)]
        return {"n": finite(self.n), "interval": ends, "plain": self.plain, "never": self.never}

    def __str__(self) -> str:
        low, high = ("infinity" if math.isinf(end) else f"{end:g}" for end in self.interval)
        ends = low if low == high else f"{low} to {high}"
        n = "no number suffices" if self.never else f"{self.n:g}"
        return f"Workers needed to beat plain Python (COST): {n} ({self.level:.0%}: {ends})"


def cost(scaled: Law | Measurements, plain_seconds: ArrayLike, *, work: float | None = None) -> Cost:
    """The COST against a plain call that took `plain_seconds`, measured once or several times.

    `work` is the work of the plain call in the units of the measurements, by default the work of each measurement. With
    a law the answer may lie between the N measured or somewhat beyond; with bare measurements it is one of their N, or
    infinite. The plain call is assumed to be as noisy as the measurements.

    Raises BeyondTheData if the law reaches the plain call only beyond what its measurements support.
    """
    measured = scaled.measurements if isinstance(scaled, Law) else scaled
    seconds = np.atleast_1d(positive("plain_seconds", plain_seconds))
    plain = _work(measured, work) / float(np.exp(np.log(seconds).mean()))
    return (
        _of_law(scaled, plain, seconds.size)
        if isinstance(scaled, Law)
        else _of_points(scaled, plain, seconds.size)
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class ShellCost:
    """COST from the shell, start-up included: from how many `items` on `n` workers beat plain Python; infinite if never.

    `start_s` is the start-up of that command, `plain_start_s` that of plain Python.
    """

    items: float
    interval: tuple[float, float]
    n: int
    start_s: float
    plain_start_s: float

    def facts(self) -> dict[str, Any]:
        """As plain values, for JSON; infinite numbers are None."""
        return {
            "items": finite(self.items),
            "interval": [*map(finite, self.interval)],
            "n": self.n,
            "start_s": self.start_s,
            "plain_start_s": self.plain_start_s,
        }


def shell_cost(
    starts: Mapping[int, float],
    rates: Mapping[int, float],
    *,
    plain_start_s: float,
    plain_rate: float,
    error: float,
) -> ShellCost:
    """The fewest items at which a command, with its start-up, is done before plain Python with its own.

    `starts` are seconds and `rates` items per second by number of workers. Each rate is uncertain by the share `error`. N
    workers break even at (start - plain start) / (1 / plain rate - 1 / rate) items. Raises NotEnoughData without any N.
    """
    if not starts:
        raise NotEnoughData("no start-up was measured")

    def items(n: int, share: float) -> float:
        if not share:  # the error is infinite, because nothing was repeated
            return math.inf
        saved = share / plain_rate - 1 / (rates[n] * share)
        later = max(starts[n] - plain_start_s, 0.0)
        return later / saved if saved > 0 else math.inf

    best = min(starts, key=lambda n: (items(n, 1.0), n))
    low, high = (min(items(n, share) for n in starts) for share in (1 + error, 1 / (1 + error)))
    return ShellCost(
        items=_whole(items(best, 1.0)),
        interval=(_whole(low), _whole(high)),
        n=best,
        start_s=starts[best],
        plain_start_s=plain_start_s,
    )


def _of_law(law: Law, plain: float, runs: int) -> Cost:
    size = law.fitted.quantile * law.scatter / math.sqrt(runs)
    at = np.array(plain)
    slower, faster = law.fitted.problem.noise.widened(at, (at, at), size)
    # Constant errors may exceed the plain call's throughput; then any N may beat it.
    least = max(float(slower), plain * np.finfo(float).eps)
    low, high = law.reaching(least).interval[0], law.reaching(float(faster)).interval[1]
    found = law.n_for(plain).value
    return Cost(n=_whole(found), interval=(_whole(low), _whole(high)), level=law.level, plain=plain)


def _of_points(measured: Measurements, plain: float, runs: int) -> Cost:
    """From the mean at each N. Without repeats the noise is unknown, and the interval covers everything."""
    n, means = measured.means()
    group = np.searchsorted(n, measured.n)
    counts = np.bincount(group)
    freedom = len(measured) - n.size
    half = np.full(n.size, np.inf)
    if freedom:
        scatter = np.sqrt((np.log(measured.throughput / means[group]) ** 2).sum() / freedom)
        half = stdtrit(freedom, (1 + LEVEL) / 2) * scatter * np.sqrt(1 / counts + 1 / runs)
    ahead = np.log(means / plain)
    low, value, high = (_first(n, ahead > margin) for margin in (-half, 0.0, half))
    return Cost(n=value, interval=(low, high), level=LEVEL, plain=plain)


def _first(n: Floats, wins: NDArray[np.bool_]) -> float:
    return float(n[wins.argmax()]) if wins.any() else math.inf


def _whole(n: float) -> float:
    """The next whole N, tolerant of rounding errors; infinity stays."""
    return float(math.ceil(n * (1 - 1e-12))) if math.isfinite(n) else n


def _work(measured: Measurements, work: float | None) -> float:
    if work is not None:
        return float(positive("work", work))
    if np.unique(measured.work).size > 1:
        raise UsageError(
            "the measurements did different amounts of work, so the work of the plain call is unknown",
            fix="pass cost(..., work=...) in the units of the measurements",
        )
    return float(measured.work[0])
