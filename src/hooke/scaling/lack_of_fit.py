"""Whether a law misses the measurements by more than their noise."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import fdtrc

from hooke.scaling.families import Floats
from hooke.scaling.fitted import Fitted
from hooke.scaling.measurements import Measurements

__all__ = ["LackOfFit", "lack_of_fit"]

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
