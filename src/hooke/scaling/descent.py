"""The best law of a family: bounded least squares from many starts at once.

Levenberg-Marquardt (Marquardt, J. SIAM 11, 1963) on the shape, the unit rate eliminated; a coordinate that a step
would push out of its bounds is held there for that step.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from hooke.scaling.families import Floats
from hooke.scaling.problem import Problem

__all__ = ["descend"]

MOST_STEPS = 200
SMALLEST_STEP = 1e-12
"""A step below this share of what it changes ends the search."""


def descend(problem: Problem, starts: Floats, weights: Floats | None = None) -> tuple[Floats, Floats]:
    """The shape (k, p) that each of `starts` (k, p) ends in, and its misfit (k,). `weights` may be (k, m)."""
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
    """The damped Gauss-Newton step (k, p); a coordinate that is held, or that the misfit does not feel, stays."""
    held = held | (np.diagonal(matrix, axis1=-2, axis2=-1) <= 0)
    eye = np.eye(matrix.shape[-1])
    damped = matrix * (1 + damping[:, None, None] * eye)
    free = ~held[:, :, None] & ~held[:, None, :]
    return np.linalg.solve(np.where(free, damped, eye), np.where(held, 0.0, downhill)[..., None])[..., 0]
