"""The measured points of a picture: the mean at each N with its interval."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy.special import stdtrit

from hooke.scaling.families import Floats
from hooke.scaling.law import Law

__all__ = ["Points", "points_of"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Points:
    """The mean throughput at each distinct `n` (m,) within `low` and `high`, and how many measurements each is of.

    `repeats_tell` says where the intervals are from: the scatter of repeats at one N, or else that about the law.
    """

    n: Floats
    value: Floats
    low: Floats
    high: Floats
    count: Floats
    repeats_tell: bool

    def over(self, unit: Floats | float) -> Points:
        """The same in other units: divided by `unit`, a number or one a point."""
        return Points(
            n=self.n,
            value=self.value / unit,
            low=self.low / unit,
            high=self.high / unit,
            count=self.count,
            repeats_tell=self.repeats_tell,
        )


def points_of(law: Law) -> Points:
    """The means that the law was fitted to, each with its interval at the law's level.

    From the pooled scatter of repeats where there are some and they are independent; else from the scatter about the law.
    """
    measured, noise = law.measurements, law.fitted.problem.noise
    levels, group = np.unique(measured.n, return_inverse=True)
    weights = np.bincount(group, measured.repeats)
    means = noise.unit_rate(
        measured.throughput,
        np.where(group == np.arange(levels.size)[:, None], measured.repeats, 0.0),
        np.ones((levels.size, len(measured))),
    )
    left = len(measured) - levels.size
    # Where each N counts once, repeats share errors, and their own scatter is not that of a mean.
    shared = len(law.fitted.problem.measured) < len(measured)
    tell = left > 0 and not shared
    if tell:
        residuals = noise.residuals(measured.throughput, np.array(1.0), means[group])
        scatter = math.sqrt(float((measured.repeats * residuals**2).sum()) / left)
        quantile = float(stdtrit(left, (1 + law.level) / 2))
    else:
        scatter, quantile = law.scatter, law.fitted.quantile
    size = quantile * scatter / np.sqrt(np.ones(levels.size) if shared else weights)
    ends = [
        noise.widened(each[None], (each[None], each[None]), float(half))
        for each, half in zip(means, size, strict=True)
    ]
    return Points(
        n=levels,
        value=means,
        low=np.array([max(float(low[0]), 0.0) for low, _ in ends]),
        high=np.array([float(high[0]) for _, high in ends]),
        count=np.bincount(group).astype(np.float64),
        repeats_tell=tell,
    )
