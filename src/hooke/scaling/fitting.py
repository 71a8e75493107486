"""`fit`: measurements in, the law that they speak for out."""

from __future__ import annotations

from collections.abc import Sequence

from hooke.base.errors import NotEnoughData, UsageError
from hooke.scaling.descent import Problem
from hooke.scaling.families import FAMILIES
from hooke.scaling.fitted import Fitted, fit_family
from hooke.scaling.law import Law
from hooke.scaling.measurements import Measurements
from hooke.scaling.noise import NOISES
from hooke.scaling.selection import MARGIN, within

__all__ = ["fit"]

STANDARD = ("linear", "amdahl", "hard_knee", "power", "usl")
"""Tried unless named otherwise. `batch` is amdahl's curve, and `gustafson` is for work that grows with N."""


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
    fits: list[Fitted] = []
    refusals: list[NotEnoughData] = []
    for name in names:
        problem = Problem(family=FAMILIES[name], noise=NOISES[errors], measured=measurements)
        try:
            fits.append(fit_family(problem, level))
        except NotEnoughData as refusal:
            refusals.append(refusal)
    if refusals and (families is not None or not fits):
        raise refusals[0]
    chosen, *others = within(fits, MARGIN)
    ruled_out = tuple(fitted for fitted in fits if not any(fitted is stays for stays in (chosen, *others)))
    return Law(fitted=chosen, others=tuple(others), ruled_out=ruled_out)


def _checked(families: Sequence[str] | None, errors: str, level: float) -> Sequence[str]:
    if errors not in NOISES:
        raise UsageError(f"errors is {errors!r}", mend=f"one of {', '.join(NOISES)}")
    if not 0 < level < 1:
        raise UsageError(f"level is {level!r}", mend="a probability such as 0.95")
    names = STANDARD if families is None else tuple(dict.fromkeys(families))
    unknown = [name for name in names if name not in FAMILIES]
    if unknown or not names or isinstance(families, str):
        raise UsageError(
            f"families is {families!r}",
            mend=f"a list of names out of {', '.join(FAMILIES)}; leave it out for all",
        )
    return names


def _check_spread(measurements: Measurements) -> None:
    levels = measurements.levels
    if levels.size < 2:
        raise NotEnoughData(
            f"only N = {levels[0]:g} was measured",
            mend="measure at a second N at least",
            next=f"measure at N = {2 * levels[0]:g}",
            measure_at=float(2 * levels[0]),
        )
    if measurements.confounded:
        raise NotEnoughData(
            "N changed together with the conditions, so their effects cannot be told apart",
            why=f"each of {', '.join(map(repr, sorted(set(measurements.conditions))))} was measured at one N only",
            mend="measure at least one of them at two N",
        )
