"""Where to measure next: the N whose throughput tells most about the knee."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from hooke.scaling.families import Floats
from hooke.scaling.fitted import Fitted

__all__ = ["NextMeasurement", "next_measurement"]

FARTHER = 2.0
"""The farthest N advised, as a multiple of the largest measured: what lies beyond is better approached twice."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NextMeasurement:
    """Measure at `n`: that is expected to take the share `gain` off the variance of 1 / knee."""

    n: int
    gain: float

    def __str__(self) -> str:
        return f"measure at N = {self.n}"


def next_measurement(fits: Sequence[Fitted]) -> NextMeasurement:
    """The N, up to twice the largest measured, whose throughput tells most about the knee.

    Over the laws that the measurements allow, a throughput tells about the answer as far as the two are correlated
    and its own spread exceeds the noise. The gain is Cov^2 / (Var X + noise^2) / Var answer, the reduction of variance
    in a linear model with normal errors. The answer is 1 / knee, which is 0 for a law without one. Where no law that the
    measurements allow has a knee, the farthest N is advised: there one would show first.
    """
    most = float(fits[0].problem.measured.n.max())
    candidates = np.unique(np.round(np.geomspace(1, max(FARTHER * most, 2), 64)))
    clouds = [_cloud(fitted, candidates) for fitted in fits]
    answer, spread = (np.concatenate(parts) for parts in zip(*clouds, strict=True))
    answer, spread = answer - answer.mean(), spread - spread.mean(axis=0)
    noise = np.min([fitted.relative_scatter(candidates) for fitted in fits], axis=0)
    together = (answer[:, None] * spread).mean(axis=0)
    gains = (
        together**2 / ((spread**2).mean(axis=0) + noise**2) / max((answer**2).mean(), np.finfo(float).tiny)
    )
    best = gains.argmax() if gains.any() else -1
    return NextMeasurement(n=int(candidates[best]), gain=float(gains[best]))


def _cloud(fitted: Fitted, n: Floats) -> tuple[Floats, Floats]:
    """1 / knee (2k,) and log X (2k, m) of the laws in the family's region, at both ends of the unit rate."""
    region = fitted.region
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        answer = 1 / fitted.knee_of(region.shape, region.low_rate)
        curve = np.log(fitted.family.curve(n, region.shape))
    # With constant errors a unit rate of zero may be allowed, whose logarithm would outweigh all else.
    rates = np.log(np.maximum([region.low_rate, region.high_rate], fitted.rate / 10)).ravel()
    return np.tile(answer, 2), rates[:, None] + np.tile(curve, (2, 1))
