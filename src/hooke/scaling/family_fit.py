"""The fit of one family: the best law, the size of the noise, and the interval of any quantity of the law."""

from __future__ import annotations

import math

# ruff: noqa: ARG002 - both error models share one interface
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtrit

from hooke.base.errors import NotEnoughData
from hooke.scaling.families import Family, Floats
from hooke.scaling.measurements import Estimate, Measurements

__all__ = ["NOISES", "Drift", "FitProblem", "Fitted", "Noise", "Region", "descend", "fit_family", "region"]


# --- Error models.

ROUNDING = 1e-10
"""Residuals below this share of the measured values are rounding, not noise."""


class Noise(Protocol):
    """An error model with one unknown size; `residuals` are in its units."""

    def unit_rate(self, x: Floats, weights: Floats, curve: Floats) -> Floats:
        """The best unit rate of each curve: (...)."""

    def residuals(self, x: Floats, rate: Floats, curve: Floats) -> Floats:
        """Measured minus predicted: (..., m)."""

    def sensitivities(self, weights: Floats, rate: Floats, curve: Floats, slopes: Floats) -> Floats:
        """The derivative of the prediction by the shape, with the best unit rate for each shape: (..., m, p)."""

    def rate_range(self, weights: Floats, rate: Floats, curve: Floats, room: Floats) -> tuple[Floats, Floats]:
        """The range of unit rates within which the misfit grows by at most `room`: two arrays (...)."""

    def jacobian(self, rate: float, curve: Floats, slopes: Floats) -> Floats:
        """The derivatives of one law's prediction by its shape and its unit rate: (m, p + 1)."""

    def widened(self, value: Floats, ends: tuple[Floats, Floats], size: float) -> tuple[Floats, Floats]:
        """The interval `ends` about `value`, widened by an independent error of `size`."""

    def relative(self, size: float, x: Floats) -> Floats:
        """Errors of `size` as a share of each of `x`."""

    def negligible(self, x: Floats) -> float:
        """The size of errors that counts as rounding."""


class _Relative:
    """log X = log(g C) + error. The law's X is the median; seconds and throughput fit alike."""

    def unit_rate(self, x: Floats, weights: Floats, curve: Floats) -> Floats:
        return np.exp(_mean(np.log(x / curve), weights))

    def residuals(self, x: Floats, rate: Floats, curve: Floats) -> Floats:
        return np.log(x / (rate[..., None] * curve))

    def sensitivities(self, weights: Floats, rate: Floats, curve: Floats, slopes: Floats) -> Floats:
        return slopes - _mean(slopes, weights[..., None], axis=-2)[..., None, :]

    def rate_range(self, weights: Floats, rate: Floats, curve: Floats, room: Floats) -> tuple[Floats, Floats]:
        half = np.sqrt(room / weights.sum(axis=-1))
        return rate * np.exp(-half), rate * np.exp(half)

    def jacobian(self, rate: float, curve: Floats, slopes: Floats) -> Floats:
        return np.column_stack([slopes, np.full(curve.shape, 1 / rate)])

    def widened(self, value: Floats, ends: tuple[Floats, Floats], size: float) -> tuple[Floats, Floats]:
        less, more = np.hypot(np.log(value / ends[0]), size), np.hypot(np.log(ends[1] / value), size)
        return value * np.exp(-less), value * np.exp(more)

    def relative(self, size: float, x: Floats) -> Floats:
        return np.full(x.shape, size)

    def negligible(self, x: Floats) -> float:
        return ROUNDING


class _Constant:
    """X = g C + error."""

    def unit_rate(self, x: Floats, weights: Floats, curve: Floats) -> Floats:
        return (weights * x * curve).sum(axis=-1) / (weights * curve**2).sum(axis=-1)

    def residuals(self, x: Floats, rate: Floats, curve: Floats) -> Floats:
        return x - rate[..., None] * curve

    def sensitivities(self, weights: Floats, rate: Floats, curve: Floats, slopes: Floats) -> Floats:
        steep = rate[..., None, None] * curve[..., None] * slopes
        along = _mean(steep / curve[..., None], (weights * curve**2)[..., None], axis=-2)
        return steep - along[..., None, :] * curve[..., None]

    def rate_range(self, weights: Floats, rate: Floats, curve: Floats, room: Floats) -> tuple[Floats, Floats]:
        half = np.sqrt(room / (weights * curve**2).sum(axis=-1))
        return np.maximum(rate - half, 0), rate + half

    def jacobian(self, rate: float, curve: Floats, slopes: Floats) -> Floats:
        return np.column_stack([rate * curve[:, None] * slopes, curve])

    def widened(self, value: Floats, ends: tuple[Floats, Floats], size: float) -> tuple[Floats, Floats]:
        return value - np.hypot(value - ends[0], size), value + np.hypot(ends[1] - value, size)

    def relative(self, size: float, x: Floats) -> Floats:
        return size / x

    def negligible(self, x: Floats) -> float:
        return ROUNDING * float(x.mean())


NOISES: Mapping[str, Noise] = {"relative": _Relative(), "constant": _Constant()}
"""The error models by their name in `fit(errors=...)`."""


def _mean(values: Floats, weights: Floats, axis: int = -1) -> Floats:
    return (weights * values).sum(axis=axis) / np.broadcast_to(weights, values.shape).sum(axis=axis)


# --- Drift: errors of successive measurements that resemble each other.


@dataclass(frozen=True, slots=True, kw_only=True)
class Drift:
    """How the errors of measurements depend on their order in time (see `diagnostics.drift`).

    Either they follow a line, which is taken off: `line` is its relative change from the first measurement to the last. Or they are
    a first-order autoregression, and `correlation` is that of successive errors. `change` is the relative change along a line in
    either case. `inflation` is the factor on the variance of the law's parameters, in the worst direction; 1 without drift.
    `reported` says whether the drift is certain enough to be reported.
    """

    correlation: float = 0.0
    line: float = 0.0
    change: float = 0.0
    inflation: float = 1.0
    reported: bool = False


# --- The misfit of a family's laws.


@dataclass(frozen=True, slots=True, kw_only=True)
class FitProblem:
    """One family against one set of measurements."""

    family: Family
    noise: Noise
    measured: Measurements
    drift: Drift = Drift()
    """Of the errors in time; if it has a line, the line is already taken off `measured`."""

    def misfit(self, shape: Floats, weights: Floats | None = None) -> tuple[Floats, Floats]:
        """For shapes (..., p): the best unit rate and its weighted sum of squared residuals, two arrays (...)."""
        weights = self.measured.repeats if weights is None else weights
        curve = self.family.curve(self.measured.n, shape)
        rate = self.noise.unit_rate(self.measured.throughput, weights, curve)
        residuals = self.noise.residuals(self.measured.throughput, rate, curve)
        return rate, (weights * residuals**2).sum(axis=-1)

    def best_starts(self) -> tuple[Floats, Floats]:
        """The likeliest of the family's starting shapes (k, p), and their misfits (k,), the smallest first."""
        starts = self.family.starts(float(self.measured.n.max()))
        misfit = self.misfit(starts)[1]
        order = np.argsort(misfit, kind="stable")[:MOST_STARTS]
        return starts[order], misfit[order]

    def normal(self, shape: Floats, weights: Floats) -> tuple[Floats, Floats]:
        """Half the negative gradient of the misfit (..., p), and the Gauss-Newton matrix (..., p, p)."""
        curve = self.family.curve(self.measured.n, shape)
        rate = self.noise.unit_rate(self.measured.throughput, weights, curve)
        residuals = self.noise.residuals(self.measured.throughput, rate, curve)
        slopes = self.family.log_slopes(self.measured.n, shape)
        steep = self.noise.sensitivities(weights, rate, curve, slopes)
        weighted = np.swapaxes(steep, -1, -2) * weights[..., None, :]
        return (weighted @ residuals[..., None])[..., 0], weighted @ steep


# --- The best law: bounded least squares from many starts at once.

MOST_STARTS = 24
"""The search begins at so many of a family's starts, those with the smallest misfit."""
MOST_STEPS = 200
SMALLEST_STEP = 1e-12
"""The search ends when steps are below this share of the values."""


def descend(problem: FitProblem, starts: Floats, weights: Floats | None = None) -> tuple[Floats, Floats]:
    """The optimal shape (k, p) from each of `starts` (k, p), and its misfit (k,). `weights` may be (k, m)."""
    weights = problem.measured.repeats if weights is None else weights
    lower, upper = np.array(problem.family.lower), np.array(problem.family.upper)
    shape = np.clip(starts, lower, upper)
    misfit = problem.misfit(shape, weights)[1]
    damping = np.full(len(shape), 1e-3)
    for _ in range(MOST_STEPS):
        downhill, matrix = problem.normal(shape, weights)
        held = ((shape <= lower) & (downhill <= 0)) | ((shape >= upper) & (downhill >= 0))
        trial = np.clip(shape + _step(downhill, matrix, damping, held), lower, upper)
        after = problem.misfit(trial, weights)[1]
        better = after < misfit
        moved = (np.abs(trial - shape) > SMALLEST_STEP * (SMALLEST_STEP + np.abs(shape))).any(axis=-1)
        shape = np.where(better[:, None], trial, shape)
        misfit = np.where(better, after, misfit)
        damping = np.clip(np.where(better, damping / 5, damping * 4), 1e-14, 1e14)
        if not (moved & (better | (damping < 1e10))).any():
            break
    return shape, misfit


def _step(downhill: Floats, matrix: Floats, damping: Floats, held: NDArray[np.bool_]) -> Floats:
    """The damped Gauss-Newton step (k, p). Coordinates that are held, or do not affect the misfit, stay."""
    held = held | (np.diagonal(matrix, axis1=-2, axis2=-1) <= 0)
    eye = np.eye(matrix.shape[-1])
    damped = matrix * (1 + damping[:, None, None] * eye)
    free = ~held[:, :, None] & ~held[:, None, :]
    return np.linalg.solve(np.where(free, damped, eye), np.where(held, 0.0, downhill)[..., None])[..., 0]


# --- The likelihood region: a cloud of allowed laws, and the interval of any quantity over it.

DIRECTIONS = 64
"""Rays from the optimum in two dimensions; extents are short by at most 1 - cos(pi / 64), 0.1 %."""
DOUBLINGS = np.concatenate([[0.0], 2.0 ** np.arange(-4, 60)])
BISECTIONS = 30
ALONG = np.sin(np.linspace(0, np.pi / 2, 12))
"""Positions on a ray, dense near its end, where the range of unit rates shrinks as a square root."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Region:
    """Shapes (k, p) of laws, each with its lowest and highest allowed unit rate (k,)."""

    shape: Floats
    low_rate: Floats
    high_rate: Floats


def region(problem: FitProblem, optima: Floats, least: float, room: float) -> Region:
    """The laws with a misfit of at most `least + room` on rays from each of `optima` (k, p), the best optimum first."""
    shapes = np.empty((0, optima.shape[1]))
    for optimum in optima:
        # Most optima coincide; another one adds rays only if it lies outside the region so far.
        if not len(shapes) or ((optimum < shapes.min(axis=0)) | (optimum > shapes.max(axis=0))).any():
            shapes = np.concatenate([shapes, _along_rays(problem, optimum, least + room)])
    rate, misfit = problem.misfit(shapes)
    curve = problem.family.curve(problem.measured.n, shapes)
    left = np.maximum(least + room - misfit, 0)
    low, high = problem.noise.rate_range(problem.measured.repeats, rate, curve, left)
    return Region(shape=shapes, low_rate=low, high_rate=high)


def _along_rays(problem: FitProblem, optimum: Floats, most: float) -> Floats:
    """Shapes on the rays from `optimum` up to where the misfit first exceeds `most`."""
    lower, upper = np.array(problem.family.lower), np.array(problem.family.upper)
    ways = _directions(problem, optimum, most - float(problem.misfit(optimum)[1]))

    def at(distance: Floats) -> Floats:
        # A ray that meets a bound slides along it to the corner of bound and region.
        return np.clip(optimum + distance[..., None] * ways, lower, upper)

    reached = problem.misfit(at(np.multiply.outer(DOUBLINGS, np.ones(len(ways)))))[1] <= most
    first = np.where(reached.all(axis=0), len(DOUBLINGS), reached.argmin(axis=0))
    inside = DOUBLINGS[first - 1]
    outside = DOUBLINGS[np.minimum(first, len(DOUBLINGS) - 1)]
    for _ in range(BISECTIONS):
        middle = (inside + outside) / 2
        within = problem.misfit(at(middle))[1] <= most
        inside, outside = np.where(within, middle, inside), np.where(within, outside, middle)
    return at(np.multiply.outer(ALONG, inside)).reshape(ALONG.size * len(ways), optimum.size)


def _directions(problem: FitProblem, optimum: Floats, room: float) -> Floats:
    """Steps (k, p) to the edge of the ellipse of the Gauss-Newton matrix at the optimum."""
    size = optimum.size
    angles = np.linspace(0, 2 * np.pi, DIRECTIONS, endpoint=False)
    circle = np.stack([np.cos(angles), np.sin(angles)], axis=-1)
    sphere = (np.zeros((1, 0)), np.array([[-1.0], [1.0]]), circle)[size]
    matrix = problem.normal(optimum, problem.measured.repeats)[1]
    width = np.array(problem.family.upper) - np.array(problem.family.lower)
    # Scaled, because contention and coherency differ by orders of magnitude; limited to the width of the bounds.
    scale = 1 / np.sqrt(np.maximum(np.diagonal(matrix), room / width**2))
    stretch, axes = np.linalg.eigh(matrix * np.multiply.outer(scale, scale))
    return np.sqrt(room) * (sphere / np.sqrt(np.maximum(stretch, 1e-12))) @ axes.T * scale


Quantity = Callable[[Floats, Floats], Floats]
"""A function of laws, given as shapes (k, p) and unit rates (k,), to numbers (k,); monotone in the unit rate."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fitted:
    """The best law of a family, and the region of laws that the measurements allow at `level`."""

    problem: FitProblem
    level: float
    shape: Floats
    rate: float
    misfit: float
    region: Region

    @property
    def family(self) -> Family:
        """The family of the law."""
        return self.problem.family

    @property
    def freedom(self) -> int:
        """Residual degrees of freedom: measurements minus parameters."""
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
        """The interval of X at each of `n` (m,), two arrays (m,)."""
        curve = self.family.curve(n, self.region.shape)
        low, high = self.region.low_rate[:, None] * curve, self.region.high_rate[:, None] * curve
        return low.min(axis=0), high.max(axis=0)

    def relative_scatter(self, n: Floats) -> Floats:
        """The noise of one measurement as a share of X, at each of `n` (m,)."""
        return self.problem.noise.relative(self.scatter, self.throughput(n))

    def estimate(self, name: str, quantity: Quantity, standard_error: float = math.nan) -> Estimate:
        """A quantity of the law with its interval over the region."""
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
        """From s^2 (J'WJ)^-1 by the delta method; nan for an undetermined parameter."""
        measured, family = self.problem.measured, self.family
        curve, slopes = family.curve(measured.n, self.shape), family.log_slopes(measured.n, self.shape)
        jacobian = self.problem.noise.jacobian(self.rate, curve, slopes)
        scale = np.sqrt((measured.repeats[:, None] * jacobian**2).sum(axis=0))
        with np.errstate(divide="ignore", invalid="ignore"):
            scaled = np.sqrt(measured.repeats)[:, None] * jacobian / scale
            if not np.isfinite(scaled).all() or np.linalg.cond(scaled) > 1 / np.finfo(float).eps:
                return dict.fromkeys(family.symbols, math.nan)
            # By the triangle of QR: the normal equations would square the condition number.
            triangle = np.linalg.inv(np.linalg.qr(scaled, mode="r"))
            covariance = self.scatter**2 * (triangle @ triangle.T) / np.multiply.outer(scale, scale)
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


def fit_family(problem: FitProblem, level: float) -> Fitted:
    """The best law of the family and its region. Raises NotEnoughData if no measurements are left to estimate the noise."""
    measured, parameters = problem.measured, len(problem.family.lower) + 1
    freedom = len(measured) - parameters
    if freedom < 1:
        raise NotEnoughData(
            f"{len(measured)} measurements cannot show how well the family {problem.family.name} fits",
            why=f"it has {parameters} parameters, and the noise needs further measurements",
            fix=f"take at least {parameters + 1} measurements, better {parameters + 4}; repeats count",
        )
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        shapes, misfits = descend(problem, problem.best_starts()[0])
        order = np.argsort(misfits, kind="stable")
        best, floor = order[0], problem.noise.negligible(measured.throughput) ** 2 * len(measured)
        least = max(float(misfits[best]), floor)
        room = float(stdtrit(freedom, (1 + level) / 2)) ** 2 * least / freedom * problem.drift.inflation
        allowed = order[misfits[order] <= misfits[best] + room]
        return Fitted(
            problem=problem,
            level=level,
            shape=shapes[best],
            rate=float(problem.misfit(shapes[best])[0]),
            misfit=least,
            region=region(problem, shapes[allowed], float(misfits[best]), room),
        )
