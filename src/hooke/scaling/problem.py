"""A family and a model of errors against measurements: how far each law of the family misses them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from hooke.scaling.families import Family, Floats
from hooke.scaling.measurements import Measurements
from hooke.scaling.noise import Noise

__all__ = ["Problem"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """One family against one set of measurements."""

    family: Family
    noise: Noise
    measured: Measurements

    def misfit(self, shape: Floats, weights: Floats | None = None) -> tuple[Floats, Floats]:
        """For shapes (..., p): the best unit rate, and the weighted sum of squared residuals there, two of (...)."""
        weights = self.measured.repeats if weights is None else weights
        curve = self.family.curve(self.measured.n, shape)
        rate = self.noise.unit_rate(self.measured.throughput, weights, curve)
        residuals = self.noise.residuals(self.measured.throughput, rate, curve)
        return rate, (weights * residuals**2).sum(axis=-1)

    def normal(self, shape: Floats, weights: Floats) -> tuple[Floats, Floats]:
        """Half the misfit's downhill gradient (..., p), and the Gauss-Newton matrix (..., p, p)."""
        curve = self.family.curve(self.measured.n, shape)
        rate = self.noise.unit_rate(self.measured.throughput, weights, curve)
        residuals = self.noise.residuals(self.measured.throughput, rate, curve)
        slopes = self.family.log_slopes(self.measured.n, shape)
        steep = self.noise.sensitivities(weights, rate, curve, slopes)
        weighted = np.swapaxes(steep, -1, -2) * weights[..., None, :]
        return (weighted @ residuals[..., None])[..., 0], weighted @ steep
