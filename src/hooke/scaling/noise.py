"""How measurements scatter about a law: by a share of what is measured, or by the same amount everywhere.

In both models the unit rate enters linearly once the shape is given, so it is eliminated exactly (variable projection:
Golub & Pereyra, SIAM J. Numer. Anal. 10, 1973): searches and confidence regions need the shape only.

`x` are the throughputs (m,), `weights` theirs (m,) or (..., m), `curve` is C(N) (..., m) and `slopes` are the
derivatives of log C(N) by the shape (..., m, p).
"""

from __future__ import annotations

# ruff: noqa: ARG002 - each model takes what either of them needs
from collections.abc import Mapping
from typing import Protocol

import numpy as np

from hooke.scaling.families import Floats

__all__ = ["NOISES", "Noise"]

ROUNDING = 1e-10
"""Residuals below this share of what is measured are no noise: exact data still have a scale."""


class Noise(Protocol):
    """A model of errors with one unknown size. `residuals` are in the units of that size."""

    def unit_rate(self, x: Floats, weights: Floats, curve: Floats) -> Floats:
        """The best unit rate of each curve: (...)."""
        ...

    def residuals(self, x: Floats, rate: Floats, curve: Floats) -> Floats:
        """Measured less predicted: (..., m)."""
        ...

    def sensitivities(self, weights: Floats, rate: Floats, curve: Floats, slopes: Floats) -> Floats:
        """The derivative of the prediction by the shape, the unit rate following along: (..., m, p)."""
        ...

    def rate_range(self, weights: Floats, rate: Floats, curve: Floats, room: Floats) -> tuple[Floats, Floats]:
        """How far the unit rate may lie from the best one while the misfit grows by `room`: two of (...)."""
        ...

    def jacobian(self, rate: float, curve: Floats, slopes: Floats) -> Floats:
        """The derivatives of one law's prediction by its shape and then by its unit rate: (m, p + 1)."""
        ...

    def widened(self, value: Floats, ends: tuple[Floats, Floats], size: float) -> tuple[Floats, Floats]:
        """The interval `ends` about `value`, widened by an independent error of `size`."""
        ...

    def relative(self, size: float, x: Floats) -> Floats:
        """Errors of `size` as a share of each of `x`."""
        ...

    def negligible(self, x: Floats) -> float:
        """A size of errors that is rounding, not noise."""
        ...


class _Relative:
    """log X = log(g C) + error: a law's X is the median, and seconds fit exactly as their reciprocals do."""

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
"""The error models by the word for them in `fit(errors=...)`."""


def _mean(values: Floats, weights: Floats, axis: int = -1) -> Floats:
    return (weights * values).sum(axis=axis) / np.broadcast_to(weights, values.shape).sum(axis=axis)
