"""Which families the measurements speak for, and which they merely do not rule out.

Akaike's criterion with the small-sample term (Hurvich & Tsai, Biometrika 76, 1989) weighs misfit against the number
of parameters; the error of predicting each measurement from the others (PRESS: Allen, Technometrics 16, 1974) is
computed beside it and takes its place where so few measurements are left over that the term explodes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from hooke.scaling.descent import descend
from hooke.scaling.fitted import Fitted

__all__ = ["akaike", "leave_one_out", "ranked"]


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


def ranked(fits: Sequence[Fitted]) -> list[Fitted]:
    """The families that the measurements do not rule out: the simplest first, the likelier first among equals.

    A family stays while its misfit lies within the likelihood region of the family with the smallest scatter, however
    many parameters it spends.
    """
    best = min(fits, key=lambda fitted: fitted.scatter)
    most = best.misfit + (best.quantile * best.scatter) ** 2
    tenable = [fitted for fitted in fits if fitted.misfit <= most]
    return sorted(tenable, key=lambda fitted: (fitted.shape.size, fitted.misfit))
