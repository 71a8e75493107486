"""One family fitted: the best law, how large the noise is, and the interval of whatever follows from the law."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.special import stdtrit

from hooke.base.errors import NotEnoughData
from hooke.scaling.descent import descend
from hooke.scaling.estimate import Estimate
from hooke.scaling.families import Family, Floats
from hooke.scaling.problem import Problem
from hooke.scaling.region import Region, region

__all__ = ["Fitted", "fit_family"]

Quantity = Callable[[Floats, Floats], Floats]
"""A number (k,) that follows from laws, given as shapes (k, p) and unit rates (k,); monotone in the unit rate."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fitted:
    """The best law of a family, and the region of those that the measurements allow at `level`."""

    problem: Problem
    level: float
    shape: Floats
    rate: float
    misfit: float
    region: Region

    @property
    def family(self) -> Family:
        """The form of the law."""
        return self.problem.family

    @property
    def freedom(self) -> int:
        """Residual degrees of freedom: measurements less parameters."""
        return len(self.problem.measured) - self.shape.size - 1

    @property
    def scatter(self) -> float:
        """The residual standard deviation: a share with relative errors, else in units of throughput."""
        return math.sqrt(self.misfit / self.freedom)

    @property
    def quantile(self) -> float:
        """Student's t at the level."""
        return float(stdtrit(self.freedom, (1 + self.level) / 2))

    def throughput(self, n: Floats) -> Floats:
        """X at each of `n` (m,)."""
        return self.rate * self.family.curve(n, self.shape)

    def band(self, n: Floats) -> tuple[Floats, Floats]:
        """The interval of X at each of `n` (m,): two of (m,)."""
        curve = self.family.curve(n, self.region.shape)
        low, high = self.region.low_rate[:, None] * curve, self.region.high_rate[:, None] * curve
        return low.min(axis=0), high.max(axis=0)

    def relative_scatter(self, n: Floats) -> Floats:
        """The noise of one measurement as a share of X, at each of `n` (m,)."""
        return self.problem.noise.relative(self.scatter, self.throughput(n))

    def estimate(self, name: str, quantity: Quantity, standard_error: float = math.nan) -> Estimate:
        """What follows from the law, with its interval over the region."""
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            value = quantity(self.shape[None, :], np.array([self.rate]))[0]
            low, high = (
                quantity(self.region.shape, rate) for rate in (self.region.low_rate, self.region.high_rate)
            )
        interval = (float(min(low.min(), high.min())), float(max(low.max(), high.max())))
        return Estimate(
            name=name, value=float(value), interval=interval, level=self.level, standard_error=standard_error
        )

    def knee_of(self, shape: Floats, rate: Floats) -> Floats:
        """The knees (k,) of laws of this family."""
        del rate  # a knee does not depend on it
        return self.family.reach(self.family.knee_share * self.family.ceiling(shape), shape)

    def parameters(self) -> dict[str, Estimate]:
        """The family's parameters by symbol, with the asymptotic standard errors of least squares."""
        errors = self._standard_errors()
        return {
            symbol: self.estimate(
                meaning,
                lambda shape, rate, symbol=symbol: self.family.parameters(shape, rate)[symbol],
                errors[symbol],
            )
            for symbol, meaning in self.family.symbols.items()
        }

    def _standard_errors(self) -> dict[str, float]:
        """From s^2 (J'WJ)^-1, carried to the parameters by the delta method; nan where a parameter is undetermined."""
        measured, family = self.problem.measured, self.family
        curve, slopes = family.curve(measured.n, self.shape), family.log_slopes(measured.n, self.shape)
        jacobian = self.problem.noise.jacobian(self.rate, curve, slopes)
        scale = np.sqrt((measured.repeats[:, None] * jacobian**2).sum(axis=0))
        with np.errstate(divide="ignore", invalid="ignore"):
            scaled = np.sqrt(measured.repeats)[:, None] * jacobian / scale
            if not np.isfinite(scaled).all() or np.linalg.cond(scaled) > 1 / np.finfo(float).eps:
                return dict.fromkeys(family.symbols, math.nan)
            covariance = self.scatter**2 * np.linalg.inv(scaled.T @ scaled) / np.multiply.outer(scale, scale)
            return {
                symbol: math.sqrt(slope @ covariance @ slope)
                for symbol, slope in self._parameter_slopes().items()
            }

    def _parameter_slopes(self) -> dict[str, Floats]:
        """Derivatives of each parameter by shape and unit rate, by the complex step (Squire & Trapp, SIAM Rev. 1998)."""
        step = 1e-30
        moved: Any = np.append(self.shape, self.rate) + 1j * step * np.eye(self.shape.size + 1)
        parameters = self.family.parameters(moved[:, :-1], moved[:, -1])
        return {symbol: values.imag / step for symbol, values in parameters.items()}


def fit_family(problem: Problem, level: float) -> Fitted:
    """The best law of the problem's family, with its region. Raises NotEnoughData where nothing is left for the noise."""
    measured, parameters = problem.measured, len(problem.family.lower) + 1
    freedom = len(measured) - parameters
    if freedom < 1:
        raise NotEnoughData(
            f"{len(measured)} measurements cannot show how well the family {problem.family.name} fits",
            why=f"it has {parameters} parameters, and the noise is what is left over",
            mend=f"at least {parameters + 1} measurements, better {parameters + 4}; repeats count",
        )
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        shapes, misfits = descend(problem, problem.family.starts(float(measured.n.max())))
        order = np.argsort(misfits, kind="stable")
        best, floor = order[0], problem.noise.negligible(measured.throughput) ** 2 * len(measured)
        least = max(float(misfits[best]), floor)
        room = float(stdtrit(freedom, (1 + level) / 2)) ** 2 * least / freedom
        allowed = order[misfits[order] <= misfits[best] + room]
        return Fitted(
            problem=problem,
            level=level,
            shape=shapes[best],
            rate=float(problem.misfit(shapes[best])[0]),
            misfit=least,
            region=region(problem, shapes[allowed], float(misfits[best]), room),
        )
