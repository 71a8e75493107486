"""Quantiles and shares of answers that are not independent of one another, with their intervals.

An interval from order statistics needs no form of the distribution, but counts each answer as a witness of its own. Those in
one queue are late together: n of them tell as much as n / inflation independent ones, where the inflation is the variance of
the means of consecutive batches over that of independent draws (Law and Kelton, "Simulation Modeling and Analysis", batch means).
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from scipy.special import bdtr, betaincinv

from hooke.scaling.estimate import Estimate
from hooke.scaling.families import Floats

__all__ = ["inflation", "quantile", "share"]

LEVEL = 0.95
BATCHES = 32
"""Of a level of some seconds each is longer than a queue remembers."""
FEWEST = 8
"""Answers in a batch; fewer, and the batches are fewer."""


def quantile(values: Floats, percent: float, *, level: float = LEVEL) -> Estimate:
    """The percentile of `values` (n,), which stand in the order of time. Infinite ends are those that so few cannot tell."""
    ordered = np.sort(values)
    p = percent / 100
    value = float(ordered[min(math.ceil(p * ordered.size), ordered.size) - 1])
    effective = max(values.size / inflation(values <= value), 1.0)
    low, high = _ranks(effective, p, level)
    name = f"p{percent:g}"
    return Estimate(name=name, value=value, interval=(_at(ordered, low), _at(ordered, high)), level=level)


def share(hits: NDArray[np.bool_], *, level: float = LEVEL) -> Estimate:
    """The share of `hits` (n,), in the order of time, by Clopper and Pearson with as many draws as they are worth."""
    effective = hits.size / inflation(hits)
    won = float(hits.mean()) * effective
    tail = (1 - level) / 2
    low = float(betaincinv(won, effective - won + 1, tail)) if won > 0 else 0.0
    high = float(betaincinv(won + 1, effective - won, 1 - tail)) if won < effective else 1.0
    return Estimate(name="share", value=float(hits.mean()), interval=(low, high), level=level)


def inflation(hits: NDArray[np.bool_]) -> float:
    """How many of `hits` (n,), in the order of time, tell as much as one independent draw; at least 1."""
    rate = float(hits.mean())
    count = min(BATCHES, hits.size // FEWEST)
    if count < 2 or not 0 < rate < 1:
        return 1.0
    size = hits.size // count
    means = hits[: size * count].reshape(count, size).mean(axis=1)
    return max(1.0, float(means.var(ddof=1)) * size / (rate * (1 - rate)))


def _ranks(count: float, p: float, level: float) -> tuple[float, float]:
    """Shares of the sample between whose order statistics the quantile lies; -inf and inf where they are not in it."""
    tail = (1 - level) / 2
    n = max(round(count), 1)
    chance = bdtr(np.arange(n + 1), n, p)
    # Of n draws fewer than `low` are below the quantile with a probability of at most `tail`, and so for those above.
    low = int(np.searchsorted(chance, tail, side="right"))
    high = int(np.searchsorted(chance, 1 - tail, side="left")) + 1
    return (low / n if low else -math.inf), (high / n if high <= n else math.inf)


def _at(ordered: Floats, part: float) -> float:
    if not math.isfinite(part):
        return 0.0 if part < 0 else math.inf
    return float(ordered[min(max(math.ceil(part * ordered.size), 1), ordered.size) - 1])
