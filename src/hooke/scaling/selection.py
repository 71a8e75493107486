"""Which families the measurements rule out, and how the rest compare.

What rules out is a likelihood ratio against the best, exact for linear models and calibrated at any number of
measurements. Beside it stand the two common criteria: Akaike's with the small-sample term (Hurvich & Tsai, Biometrika
76, 1989), and the error of predicting each measurement from the others (PRESS: Allen, Technometrics 16, 1974). Neither
decides: as measured, the first rejects a true USL of six points nine times in ten, the second a true linear law of six
points one time in four (docs/decisions/0011).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import stdtrit

from hooke.scaling.descent import descend
from hooke.scaling.fitted import Fitted

__all__ = ["FIRM_MARGIN", "MARGIN", "Candidate", "compared", "within"]

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
