"""When requests are due: seconds from the start, drawn before anything is sent."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from hooke.base.errors import UsageError
from hooke.scaling.families import Floats

__all__ = ["Arrivals", "constant", "poisson", "recorded"]

Arrivals = Callable[[float, float, int], Floats]
"""(rate, seconds, seed) -> ascending times (n,) within [0, seconds), `rate` of them a second on the average."""


def constant(rate: float, seconds: float, seed: int = 0) -> Floats:  # noqa: ARG001 - there is no chance in it
    """One each 1/rate seconds."""
    return np.arange(max(round(rate * seconds), 1)) / rate


def poisson(rate: float, seconds: float, seed: int = 0) -> Floats:
    """As many independent users make them: the gaps are exponential, so some come close together."""
    chance = np.random.default_rng(seed)
    # Given their number, arrivals of a Poisson process are uniform; the number is held so that levels can be compared.
    return np.sort(chance.uniform(0.0, seconds, max(round(rate * seconds), 1)))


def recorded(times: Floats) -> Arrivals:
    """The arrivals of a trace (n,), in its own bursts and lulls, with time stretched until their mean rate is the one asked for.

    Where more are needed than there are, the trace begins anew; the seed says where in it the excerpt begins.
    Raises UsageError for a trace of fewer than two moments.
    """
    moments = np.sort(np.asarray(times, dtype=np.float64))
    if moments.size < 2 or not np.isfinite(moments).all() or moments[-1] <= moments[0]:
        raise UsageError(
            "the trace has no two different times", mend="give a CSV file with a column of times in seconds"
        )
    gaps = np.diff(moments)
    round_s = float(moments[-1] - moments[0]) + float(gaps.mean())

    def excerpt(rate: float, seconds: float, seed: int = 0) -> Floats:
        count = max(round(rate * seconds), 1)
        begin = int(np.random.default_rng(seed).integers(moments.size))
        at = begin + np.arange(count + 1)
        unrolled = moments[at % moments.size] + round_s * (at // moments.size)
        span = float(unrolled[-1] - unrolled[0])
        if span <= 0:
            return constant(rate, seconds)
        due = (unrolled[:-1] - unrolled[0]) * (seconds / span)
        return np.minimum(due, math.nextafter(seconds, 0.0))

    return excerpt
