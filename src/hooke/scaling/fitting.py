"""`fit`: the law that measurements support."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from hooke.base.errors import NotEnoughData, UsageError
from hooke.scaling.diagnostics import MARGIN, lack_of_fit, within
from hooke.scaling.families import FAMILIES
from hooke.scaling.family_fit import NOISES, FitProblem, Fitted, fit_family
from hooke.scaling.law import Law
from hooke.scaling.measurements import Measurements

__all__ = ["fit"]

STANDARD = ("linear", "amdahl", "hard_knee", "power", "usl")
"""The default families. `batch` has Amdahl's curve; `gustafson` is for work that grows with N."""

SUSPECT = 0.1
"""Below this p-value of lack of fit, repeats count once. Averaging needlessly widens intervals a little; not averaging
when needed breaks their level."""


def fit(
    measurements: Measurements,
    *,
    families: Sequence[str] | None = None,
    errors: str = "relative",
    level: float = 0.95,
) -> Law:
    """The law that `measurements` support, with intervals that contain the truth with probability `level`.

    `families` are names out of `linear`, `amdahl`, `hard_knee`, `power`, `usl` (the default: all of these), `gustafson`
    and `batch`. `errors` are "relative", a share of the measured value, or "constant", the same amount everywhere, as in
    many published fits. The simplest family that is not ruled out is chosen; the others that are not ruled out are
    `law.alternatives`.

    Raises UsageError for unknown names. Raises NotEnoughData if no measurements are left over to estimate the noise, if
    only one N was measured, or if N changed together with the conditions.
    """
    names = _checked(families, errors, level)
    _check_spread(measurements)
    problems = [
        FitProblem(family=FAMILIES[name], noise=NOISES[errors], measured=measurements) for name in names
    ]
    fits = _fit_all(problems, level, named=families is not None)
    if _repeats_share_errors(fits, measurements):
        means = measurements.each_n_once()
        problems = [replace(problem, measured=means) for problem in problems]
        fits = _fit_all(problems, level, named=families is not None)
    chosen, *others = within(fits, MARGIN)
    ruled_out = tuple(fitted for fitted in fits if not any(fitted is stays for stays in (chosen, *others)))
    return Law(measurements=measurements, fitted=chosen, others=tuple(others), ruled_out=ruled_out)


def _fit_all(problems: Sequence[FitProblem], level: float, *, named: bool) -> list[Fitted]:
    """The fit of each problem. A family with too many parameters is left out, unless the caller named it."""
    fits: list[Fitted] = []
    refusals: list[NotEnoughData] = []
    for problem in problems:
        try:
            fits.append(fit_family(problem, level))
        except NotEnoughData as refusal:
            refusals.append(refusal)
    if refusals and (named or not fits):
        raise refusals[0]
    return fits


def _repeats_share_errors(fits: Sequence[Fitted], measurements: Measurements) -> bool:
    """Whether even the best family misses the means by more than the repeats scatter.

    Then the repeats of one N share most of their error (a cache that fits, an hour of the day). Counting them singly
    would make every interval too narrow.
    """
    # A family with as many parameters as there are N passes through every mean and tests nothing.
    tested = [fitted for fitted in fits if measurements.levels.size > fitted.shape.size + 1]
    if not tested:
        return False
    lack = lack_of_fit(min(tested, key=lambda fitted: fitted.scatter), measurements)
    return lack.test == "repeats" and lack.p_value < SUSPECT


def _checked(families: Sequence[str] | None, errors: str, level: float) -> Sequence[str]:
    if errors not in NOISES:
        raise UsageError(f"errors is {errors!r}", fix=f"use one of {', '.join(NOISES)}")
    if not 0 < level < 1:
        raise UsageError(f"level is {level!r}", fix="use a probability such as 0.95")
    names = STANDARD if families is None else tuple(dict.fromkeys(families))
    unknown = [name for name in names if name not in FAMILIES]
    if unknown or not names or isinstance(families, str):
        raise UsageError(
            f"families is {families!r}",
            fix=f"pass a list of names out of {', '.join(FAMILIES)}, or omit it for the default families",
        )
    return names


def _check_spread(measurements: Measurements) -> None:
    levels = measurements.levels
    if levels.size < 2:
        raise NotEnoughData(
            f"only N = {levels[0]:g} was measured",
            fix="measure at least one more N",
            next=f"measure at N = {2 * levels[0]:g}",
            measure_at=float(2 * levels[0]),
        )
    if measurements.confounded:
        raise NotEnoughData(
            "N changed together with the conditions, so their effects cannot be separated",
            why=f"each of {', '.join(map(repr, sorted(set(measurements.conditions))))} was measured at one N only",
            fix="measure at least one condition at two N",
        )
