"""Which families the measurements rule out, and how the rest compare.

What rules out is a likelihood ratio against the best, exact for linear models and calibrated at any number of
measurements. Beside it stand the two common criteria: Akaike's with the small-sample term (Hurvich & Tsai, Biometrika
76, 1989), and the error of predicting each measurement from the others (PRESS: Allen, Technometrics 16, 1974). Neither
decides: as measured, the first rejects a true USL of six points nine times in ten, the second a true linear law of six
points one time in four (docs/decisions/0011).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import fdtrc, stdtrit

from hooke.scaling.families import Floats
from hooke.scaling.family_fit import Fitted, descend
from hooke.scaling.measurements import Measurements

__all__ = ["FIRM_MARGIN", "MARGIN", "Candidate", "LackOfFit", "compared", "flags_of", "lack_of_fit", "within"]


# --- Whether a law misses the measurements by more than their noise.

SIGNIFICANT = 0.01
"""The chance of calling a right law wrong: low, for each fit is tested and a false alarm sends people measuring."""
SHUFFLES = 2000


@dataclass(frozen=True, slots=True, kw_only=True)
class LackOfFit:
    """The test's name, its p-value, and whether the law is said not to fit.

    With repeats: means against the law, judged by the scatter of the repeats (`repeats`; an F test). Without: whether
    neighbouring residuals resemble each other, as they do about a wrong curve (`residuals`; von Neumann's ratio).
    Where neither can be computed the p-value is 1.
    """

    test: str
    p_value: float

    @property
    def found(self) -> bool:
        """Whether the law does not fit: p below 1 %."""
        return self.p_value < SIGNIFICANT


def lack_of_fit(fitted: Fitted, measured: Measurements) -> LackOfFit:
    """The better of the two tests that `measured` allow; the law may have been fitted to their means."""
    noise = fitted.problem.noise
    predicted = fitted.throughput(measured.n)
    residuals = noise.residuals(measured.throughput, np.array(1.0), predicted) * np.sqrt(measured.repeats)
    if np.sqrt(np.mean(residuals**2)) <= 10 * noise.negligible(measured.throughput):
        return LackOfFit(test="residuals", p_value=1.0)
    levels, group = np.unique(measured.n, return_inverse=True)
    between = levels.size - fitted.shape.size - 1
    if len(measured) > levels.size and between > 0:
        return LackOfFit(test="repeats", p_value=_f_test(residuals, measured.repeats, group, between))
    return LackOfFit(test="residuals", p_value=_von_neumann(fitted, measured, residuals))


def _f_test(residuals: Floats, weights: Floats, group: NDArray[np.intp], between: int) -> float:
    """The F test for lack of fit against pure error (Draper & Smith, "Applied Regression Analysis", section 2.1)."""
    raw = residuals / np.sqrt(weights)
    means = np.bincount(group, weights=weights * raw) / np.bincount(group, weights=weights)
    pure = float((weights * (raw - means[group]) ** 2).sum())
    missed = float((weights * means[group] ** 2).sum())
    within = residuals.size - means.size
    return float(fdtrc(between, within, (missed / between) / (pure / within))) if pure > 0 else 0.0


def _von_neumann(fitted: Fitted, measured: Measurements, residuals: Floats) -> float:
    """The share of what the noise alone would give that is at least as smooth (von Neumann, Ann. Math. Stat. 12, 1941).

    Residuals of a fit are not independent, so the null distribution is drawn: normal errors, less what the
    linearised fit takes out of them.
    """
    curve, slopes = (
        fitted.family.curve(measured.n, fitted.shape),
        fitted.family.log_slopes(measured.n, fitted.shape),
    )
    jacobian = fitted.problem.noise.jacobian(fitted.rate, curve, slopes) * np.sqrt(measured.repeats)[:, None]
    space, sizes, _ = np.linalg.svd(
        jacobian / np.maximum(np.abs(jacobian).max(axis=0), 1e-300), full_matrices=False
    )
    space = space[:, sizes > 1e-9 * sizes[0]]
    drawn = np.random.default_rng(0).standard_normal((SHUFFLES, residuals.size))
    drawn -= drawn @ space @ space.T
    return float(np.mean(np.append(_roughness(drawn) <= _roughness(residuals), True)))


def _roughness(residuals: Floats) -> Floats:
    """Squared differences of neighbours, over squared residuals: (...)."""
    return (np.diff(residuals, axis=-1) ** 2).sum(axis=-1) / (residuals**2).sum(axis=-1)


# --- What is unusual about a fit: said, never corrected.

WORTH_SAYING = 0.05
"""How far the unit rate may lie above the measured X(1) before it is said."""


def flags_of(fitted: Fitted, measured: Measurements) -> tuple[str, ...]:
    """Sentences on superlinear points, the unit rate, parameters at a bound, repeats and lack of fit."""
    return (
        *_against_one(fitted),
        *_at_bounds(fitted),
        *_repeats(fitted, measured),
        *_misfit(fitted, measured),
    )


def _against_one(fitted: Fitted) -> Iterator[str]:
    """Efficiency above 1 and a unit rate above X(1), judged by the smallest N that was measured."""
    levels, means = fitted.problem.measured.means()
    efficiency = (means / levels) / (means[0] / levels[0])
    # A ratio of two measurements: two standard errors of it are noise.
    noise = 2 * np.sqrt(2) * fitted.relative_scatter(levels)
    above = levels[efficiency > 1 + noise]
    if above.size:
        names = ", ".join(f"{n:g}" for n in above)
        yield f"superlinear: at N = {names} each unit does more than at N = {levels[0]:g}"
    if levels[0] == 1 and fitted.rate > (1 + WORTH_SAYING) * means[0]:
        excess = fitted.rate / means[0] - 1
        yield f"the fitted unit rate {fitted.rate:.4g} is {excess:.0%} above the measured X(1), {means[0]:.4g}"


def _at_bounds(fitted: Fitted) -> Iterator[str]:
    family = fitted.family
    for symbol, value, low, high in zip(
        family.symbols, fitted.shape, family.lower, family.upper, strict=False
    ):
        if value in {low, high}:
            yield f"{family.symbols[symbol]} {symbol} is at its bound: its interval is one-sided and conservative"


def _repeats(fitted: Fitted, measured: Measurements) -> Iterator[str]:
    if len(fitted.problem.measured) < len(measured):
        yield "repeats at one N agree better among themselves than with any law tried: each N counts once"


def _misfit(fitted: Fitted, measured: Measurements) -> Iterator[str]:
    lack = lack_of_fit(fitted, measured)
    if lack.found:
        yield f"the {fitted.family.name} law does not fit: p = {lack.p_value:.2g} (test of {lack.test})"


MARGIN = 0.98
"""For choosing: several families are tried, so one test's 95 % would lose the truth too often."""
FIRM_MARGIN = 0.99
"""For what is said beyond the data, which hangs on the form alone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A family that was tried. `parameters` counts the unit rate, `scatter` is the residual standard deviation.

    `akaike` is AICc above the least one (nan where so few measurements are left that no family has one), and
    `left_out` the error of predicting each measurement from the others, in units of `scatter`.
    """

    family: str
    parameters: int
    scatter: float
    akaike: float
    left_out: float
    ruled_out: bool


def akaike(fitted: Fitted) -> float:
    """AICc; infinite where no more measurements are left than the term can bear."""
    count, parameters = len(fitted.problem.measured), fitted.shape.size + 2
    spare = count - parameters - 1
    if spare < 1:
        return math.inf
    return (
        count * math.log(fitted.misfit / count) + 2 * parameters + 2 * parameters * (parameters + 1) / spare
    )


def leave_one_out(fitted: Fitted) -> float:
    """The root mean square error, in units of the noise model, of each measurement predicted from the others."""
    problem, measured = fitted.problem, fitted.problem.measured
    count = len(measured)
    without = measured.repeats * (1 - np.eye(count))
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        shapes, _ = descend(problem, np.tile(fitted.shape, (count, 1)), without)
        curves = problem.family.curve(measured.n, shapes)
        rates = problem.noise.unit_rate(measured.throughput, without, curves)
        errors = np.diagonal(problem.noise.residuals(measured.throughput, rates, curves))
    return math.sqrt(float(np.average(errors**2, weights=measured.repeats)))


def within(fits: Sequence[Fitted], margin: float) -> list[Fitted]:
    """The families that the measurements do not rule out at `margin`: simpler ones first, likelier ones among equals.

    A family stays while its misfit lies within the likelihood region, at that level, of the family with the smallest
    scatter.
    """
    best = min(fits, key=lambda fitted: fitted.scatter)
    quantile = float(stdtrit(best.freedom, (1 + margin) / 2))
    most = best.misfit + (quantile * best.scatter) ** 2
    order = sorted(fits, key=lambda fitted: (fitted.shape.size, fitted.misfit))
    return [fitted for fitted in order if fitted.misfit <= most]


def compared(stays: Sequence[Fitted], ruled_out: Sequence[Fitted]) -> tuple[Candidate, ...]:
    """Every family that was tried, as a row of numbers."""
    scores = {fitted.family.name: akaike(fitted) for fitted in (*stays, *ruled_out)}
    least = min(scores.values())
    return tuple(
        Candidate(
            family=fitted.family.name,
            parameters=fitted.shape.size + 1,
            scatter=fitted.scatter,
            akaike=scores[fitted.family.name] - least if math.isfinite(least) else math.nan,
            left_out=leave_one_out(fitted),
            ruled_out=any(fitted is other for other in ruled_out),
        )
        for fitted in (*stays, *ruled_out)
    )
