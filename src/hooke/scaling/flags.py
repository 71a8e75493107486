"""What is unusual about a fit: said, never corrected."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from hooke.scaling.fitted import Fitted
from hooke.scaling.lack_of_fit import lack_of_fit
from hooke.scaling.measurements import Measurements

__all__ = ["flags_of"]

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
