"""Which laws of a family the measurements allow, as a cloud of them, and the interval of any quantity over it.

The region of laws whose misfit exceeds the least one by no more than t^2 s^2 is the profile likelihood region: its
extent along any scalar quantity is that quantity's interval (Bates & Watts, "Nonlinear Regression Analysis", Wiley
1988, chapter 6; t has the residual degrees of freedom, s^2 is estimated). One cloud thus serves every quantity, with no
search for each. Bounds cut the region, which makes an interval there one-sided and, as measured, conservative.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from hooke.scaling.families import Floats
from hooke.scaling.problem import Problem

__all__ = ["Region", "region"]

DIRECTIONS = 64
"""Rays from the optimum in two dimensions: an extent is too short by at most 1 - cos(pi / 64), 0.1 %."""
DOUBLINGS = np.concatenate([[0.0], 2.0 ** np.arange(-4, 60)])
BISECTIONS = 30
ALONG = np.sin(np.linspace(0, np.pi / 2, 12))
"""Where laws lie on a ray, dense near its end, where the room for the unit rate shrinks as a square root."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Region:
    """Laws by shape (k, p), each with the least and the greatest unit rate (k,) that is allowed with it."""

    shape: Floats
    low_rate: Floats
    high_rate: Floats


def region(problem: Problem, optima: Floats, least: float, room: float) -> Region:
    """The laws with a misfit of at most `least + room`, on rays from each of `optima` (k, p), the best one first."""
    shapes = np.empty((0, optima.shape[1]))
    for optimum in optima:
        # Most searches end in the same place; another one matters where it was not reached from there.
        if not len(shapes) or ((optimum < shapes.min(axis=0)) | (optimum > shapes.max(axis=0))).any():
            shapes = np.concatenate([shapes, _along_rays(problem, optimum, least + room)])
    rate, misfit = problem.misfit(shapes)
    curve = problem.family.curve(problem.measured.n, shapes)
    left = np.maximum(least + room - misfit, 0)
    low, high = problem.noise.rate_range(problem.measured.repeats, rate, curve, left)
    return Region(shape=shapes, low_rate=low, high_rate=high)


def _along_rays(problem: Problem, optimum: Floats, most: float) -> Floats:
    """Shapes on the rays from `optimum` up to where the misfit first exceeds `most`."""
    lower, upper = np.array(problem.family.lower), np.array(problem.family.upper)
    ways = _directions(problem, optimum, most - float(problem.misfit(optimum)[1]))

    def at(distance: Floats) -> Floats:
        # A ray that meets a bound slides along it, so it ends in the corner where bound and region meet.
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


def _directions(problem: Problem, optimum: Floats, room: float) -> Floats:
    """Steps (k, p) about as long as the region, were it the ellipse of the Gauss-Newton matrix at the optimum."""
    size = optimum.size
    angles = np.linspace(0, 2 * np.pi, DIRECTIONS, endpoint=False)
    circle = np.stack([np.cos(angles), np.sin(angles)], axis=-1)
    sphere = (np.zeros((1, 0)), np.array([[-1.0], [1.0]]), circle)[size]
    matrix = problem.normal(optimum, problem.measured.repeats)[1]
    width = np.array(problem.family.upper) - np.array(problem.family.lower)
    # Scaled first: contention and coherency differ by orders of magnitude. No step is longer than the bounds are wide.
    scale = 1 / np.sqrt(np.maximum(np.diagonal(matrix), room / width**2))
    stretch, axes = np.linalg.eigh(matrix * np.multiply.outer(scale, scale))
    return np.sqrt(room) * (sphere / np.sqrt(np.maximum(stretch, 1e-12))) @ axes.T * scale
