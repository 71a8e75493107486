"""What one replica does within its SLO, from the law of its batches: pure arithmetic."""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist

__all__ = ["Capacity", "batched", "one_by_one"]

LONE_TIMES = 10.0
"""Where nothing was promised, a request may take so many times what it takes alone."""
BISECTIONS = 50


@dataclass(frozen=True, slots=True, kw_only=True)
class Capacity:
    """Of one replica: the load that it bears within the limit, and what waits or runs in it when the limit is just kept."""

    rate: float
    """Requests a second."""
    in_flight: float


def batched(
    a: float, b: float, *, max_batch: int, limit_s: float | None, percent: float = 99.0, rows: float = 1.0
) -> Capacity:
    """Where a batch of n rows takes a n + b seconds and fires when the model is free; requests have `rows` rows on average.

    A row waits for the batch that runs, and runs in the next: both within the limit. While one of n runs, the next gathers,
    n' = Poisson(load (a n + b)). So n has the mean m = load b / (1 - load a) and the variance m / (1 - (load a)^2), and
    the load is the highest at which its `percent` quantile still keeps the limit: that of a normal distribution, corrected
    for a skewness of at least a Poisson's (Cornish & Fisher 1938).

    Where the limit allows for several full batches, rows may also queue for these: by no more than one batch longer than
    rows that are taken one by one, each in its part of a full batch.
    """
    limit = limit_s if limit_s is not None else LONE_TIMES * (a + b)
    most = min(float(max_batch), (limit / 2 - b) / a if a > 0 else math.inf)
    if limit < a + b or most < 1:
        # Two in a row are too long: only a replica that is asked now and then keeps the limit.
        return one_by_one(a + b, limit_s=limit, percent=percent)
    z = NormalDist().inv_cdf(percent / 100)

    def fits(load: float) -> bool:
        share = load * a
        if share >= 1:
            return False
        mean = load * b / (1 - share)
        return mean + z * math.sqrt(mean / (1 - share**2)) + (z**2 - 1) / (6 * (1 - share)) <= most

    low, high = 0.0, most / (a * most + b)
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    full_s = a * most + b
    queued = one_by_one(full_s / most, limit_s=limit - 2 * full_s + full_s / most, percent=percent)
    well = most * max(limit / full_s, 2.0)
    alone = one_by_one(a + b, limit_s=limit, percent=percent)  # who is asked now and then has batches of one
    return Capacity(rate=max(low, queued.rate, alone.rate) / rows, in_flight=max(well / rows, 1.0))


def one_by_one(seconds: float, *, limit_s: float | None, percent: float = 99.0) -> Capacity:
    """Where each call is for one request and takes so long.

    With Poisson arrivals and even service the wait is longer than w with probability C exp(-t w), where t solves
    u (exp(t seconds) - 1) = t seconds and C = (1 - u) / (u exp(t seconds) - 1), u being the share of time that it is
    busy (Cramer & Lundberg; Asmussen, "Applied Probability and Queues", 2003, XIII.5).
    """
    limit = limit_s if limit_s is not None else LONE_TIMES * seconds
    calls = limit / seconds - 1
    if calls <= 0:
        return Capacity(rate=0.0, in_flight=1.0)
    tail = 1 - percent / 100
    low, high = 0.0, 1.0
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        low, high = (middle, high) if _late(middle, calls) <= tail else (low, middle)
    return Capacity(rate=low / seconds, in_flight=max(limit / seconds, 1.0))


def _late(busy: float, calls: float) -> float:
    """The probability of a wait of more than so many calls."""
    low, high = 1e-9, 100.0
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        low, high = (middle, high) if busy * math.expm1(middle) < middle else (low, middle)
    steep = busy * math.exp(low) - 1
    return min((1 - busy) / steep * math.exp(-low * calls), 1.0) if steep > 0 else 1.0
