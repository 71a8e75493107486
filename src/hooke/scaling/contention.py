"""How much longer a call takes where more of them run at once: by the task's law, or by bounds where it has none."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from hooke.base.errors import BeyondTheData
from hooke.scaling.law import FARTHEST, Law
from hooke.scaling.timing import Timing

__all__ = ["Ends", "Slowdown", "nearest_level", "slowdown"]

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
        return _by_law(law, timed, n)
    return Slowdown(_bounds(n / timed), lacking, n if n < timed else min(n, 2 * timed))


def _by_law(law: Law, timed: int, n: int) -> Slowdown:
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
