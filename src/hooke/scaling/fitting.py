"""`fit`: measurements in, the law that they speak for out."""

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
"""Tried unless named otherwise. `batch` is amdahl's curve, and `gustafson` is for work that grows with N."""

SUSPECT = 0.1
"""The p-value of lack of fit below which repeats count once: a needless means costs a little width, a missed one the level."""


def fit(
    measurements: Measurements,
    *,
    families: Sequence[str] | None = None,
    errors: str = "relative",
    level: float = 0.95,
) -> Law:
    """The law that `measurements` speak for, with intervals that hold the truth with probability `level`.

    `families` are names of `linear`, `amdahl`, `hard_knee`, `power`, `usl` (all of them unless given), `gustafson` and
    `batch`. `errors` are "relative", a share of what is measured, or "constant", the same amount everywhere, as
    published fits have it. Of several families the simplest that is not ruled out is chosen; the rest that are not
    are `law.alternatives`.

    Raises UsageError for names that do not exist, and NotEnoughData where nothing is left over to tell the noise from,
    where only one N was measured, and where N changed together with the conditions.
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
    """Each problem solved. One with too many parameters is left out, unless its family was named by the caller."""
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

    What the repeats of one N have in common (a cache that fits, an hour of the day) is then the larger part of the
    errors, and counting them singly would make every interval too narrow.
    """
    # A family with as many parameters as there are N goes through every mean, and tests nothing.
    tested = [fitted for fitted in fits if measurements.levels.size > fitted.shape.size + 1]
    if not tested:
        return False
    lack = lack_of_fit(min(tested, key=lambda fitted: fitted.scatter), measurements)
    return lack.test == "repeats" and lack.p_value < SUSPECT


def _checked(families: Sequence[str] | None, errors: str, level: float) -> Sequence[str]:
    if errors not in NOISES:
        raise UsageError(f"errors is {errors!r}", fix=f"one of {', '.join(NOISES)}")
    if not 0 < level < 1:
        raise UsageError(f"level is {level!r}", fix="a probability such as 0.95")
    names = STANDARD if families is None else tuple(dict.fromkeys(families))
    unknown = [name for name in names if name not in FAMILIES]
    if unknown or not names or isinstance(families, str):
        raise UsageError(
            f"families is {families!r}",
            fix=f"a list of names out of {', '.join(FAMILIES)}; leave it out for all",
        )
    return names


def _check_spread(measurements: Measurements) -> None:
    levels = measurements.levels
    if levels.size < 2:
        raise NotEnoughData(
            f"only N = {levels[0]:g} was measured",
            fix="measure at a second N at least",
            next=f"measure at N = {2 * levels[0]:g}",
            measure_at=float(2 * levels[0]),
        )
    if measurements.confounded:
        raise NotEnoughData(
            "N changed together with the conditions, so their effects cannot be told apart",
            why=f"each of {', '.join(map(repr, sorted(set(measurements.conditions))))} was measured at one N only",
            fix="measure at least one of them at two N",
        )
