"""Comparison of families, and tests of a fit.

A likelihood ratio against the best family rules families out; it is exact for linear models and calibrated for any number
of measurements. Two common criteria are reported beside it: Akaike's with the small-sample term (Hurvich & Tsai,
Biometrika 76, 1989), and the error of predicting each measurement from the others (PRESS: Allen, Technometrics 16, 1974).
They do not decide: in our measurements the first rejects a true USL of six points nine times in ten, the second a true
linear law of six points one time in four (docs/decisions/0011).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import digamma, fdtrc, stdtr, stdtrit

from hooke.scaling.families import Family, Floats, Stepped
from hooke.scaling.family_fit import NOISES, Drift, FitProblem, Fitted, descend
from hooke.scaling.measurements import Measurements

__all__ = [
    "FIRM_MARGIN",
    "MARGIN",
    "TOO_FEW",
    "Candidate",
    "LackOfFit",
    "compared",
    "drift",
    "flags_of",
    "lack_of_fit",
    "may_show",
    "shown",
    "within",
]


# --- Lack of fit.

SIGNIFICANT = 0.01
"""The chance of rejecting a right law. It is low, because each fit is tested and a false alarm costs measurements."""
SHUFFLES = 2000


@dataclass(frozen=True, slots=True, kw_only=True)
class LackOfFit:
    """A test of the fit with its p-value.

    `repeats` compares the means with the law by the scatter of the repeats (F test). Without repeats, `residuals` tests
    whether neighboring residuals resemble each other, as they do about a wrong curve (von Neumann's ratio). If neither
    can be computed, the p-value is 1.
    """

    test: str
    p_value: float

    @property
    def found(self) -> bool:
        """Whether the law does not fit (p < 1 %)."""
        return self.p_value < SIGNIFICANT


def lack_of_fit(fitted: Fitted, measured: Measurements) -> LackOfFit:
    """The better test that `measured` allow. The law may have been fitted to their means."""
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
    """The probability that noise alone is at least as smooth (von Neumann, Ann. Math. Stat. 12, 1941).

    Residuals of a fit are not independent, so the null distribution is simulated: normal errors minus their projection
    on the linearized fit.
    """
    space = _explained(fitted, measured)
    drawn = np.random.default_rng(0).standard_normal((SHUFFLES, residuals.size))
    drawn -= drawn @ space @ space.T
    return float(np.mean(np.append(_roughness(drawn) <= _roughness(residuals), True)))


def _explained(fitted: Fitted, measured: Measurements) -> Floats:
    """An orthonormal basis (m, k) of what small changes of the law change in the m weighted residuals."""
    curve, slopes = (
        fitted.family.curve(measured.n, fitted.shape),
        fitted.family.log_slopes(measured.n, fitted.shape),
    )
    jacobian = fitted.problem.noise.jacobian(fitted.rate, curve, slopes) * np.sqrt(measured.repeats)[:, None]
    space, sizes, _ = np.linalg.svd(
        jacobian / np.maximum(np.abs(jacobian).max(axis=0), 1e-300), full_matrices=False
    )
    return space[:, sizes > 1e-9 * sizes[0]]


def _roughness(residuals: Floats) -> Floats:
    """Squared differences of neighbors over squared residuals: (...)."""
    return (np.diff(residuals, axis=-1) ** 2).sum(axis=-1) / (residuals**2).sum(axis=-1)


# --- Drift over time.

CORRELATIONS = np.append(np.arange(0.0, 0.95, 0.05), [0.95, 0.97, 0.98, 0.99])
"""The correlations of successive errors that are tried."""
CORRELATED = 0.8
"""How much the logarithm of the likelihood must gain for errors to count as correlated. Independent errors gain as much in one study of
ten, whose intervals are then needlessly wide; a higher bar would overlook much of the drift in a short study."""
CERTAIN = 1.35
"""The gain from which drift is reported: independent errors reach it in about one study of twenty."""
LINE = 0.01
"""The p-value below which errors follow a line in time."""
SEPARABLE = 0.5
"""The least share of a line in time that no change of the law explains. Below it, as where N was measured in ascending order, drift
and law look alike."""


def drift(fitted: Fitted, measured: Measurements) -> Drift:
    """The drift of the measurements about a fitted law.

    A line in time is tested first (Student's t). What it leaves, or else all errors, may be a first-order autoregression, by restricted
    maximum likelihood (Patterson & Thompson, Biometrika 58, 1971). Without the time of each measurement, or with fewer than five
    degrees of freedom, none is found.
    """
    order, noise = measured.in_time, fitted.problem.noise
    residuals = noise.residuals(measured.throughput, np.array(1.0), fitted.throughput(measured.n))
    residuals = residuals * np.sqrt(measured.repeats)
    space = _explained(fitted, measured)
    freedom = residuals.size - space.shape[1]
    if order is None or freedom < 5:
        return Drift()
    if np.sqrt(np.mean(residuals**2)) <= 10 * noise.negligible(measured.throughput):
        return Drift()
    residuals, space = residuals[order], space[order]
    residuals = residuals - space @ (space.T @ residuals)
    line = np.linspace(-0.5, 0.5, residuals.size)
    apart = line - space @ (space.T @ line)
    share = float(apart @ apart / (line @ line))
    change = float(residuals @ apart / (apart @ apart)) if share > 0 else 0.0
    found = _autoregression(residuals, space, change)
    if noise is NOISES["relative"] and share > SEPARABLE:
        left = residuals - change * apart
        error = math.sqrt(float(left @ left) / (freedom - 1) / float(apart @ apart))
        wider = np.column_stack([space, apart / np.linalg.norm(apart)])
        if (
            2 * stdtr(freedom - 1, -abs(change) / error) < LINE
            and not _autoregression(left, wider, 0.0).correlation
        ):
            inflation = freedom / (freedom - 1) / share
            return Drift(line=change, change=change, inflation=inflation, reported=True)
    return found


def without_line(measured: Measurements, line: float) -> Measurements:
    """The measurements with a line in time taken off: each as if it were made in the middle of that time. All must have a time."""
    order = measured.in_time
    assert order is not None
    place = np.empty(len(measured))
    place[order] = np.linspace(-0.5, 0.5, len(measured))
    return Measurements(
        measured.n,
        throughput=measured.throughput * np.exp(-line * place),
        work=measured.work,
        repeats=measured.repeats,
        conditions=list(measured.conditions),
        at=measured.at,
    )


def _autoregression(residuals: Floats, space: Floats, change: float) -> Drift:
    """The drift as an autoregression of residuals in time order, which `space` (m, k) has been fitted to."""
    tried = [_restricted(residuals, space, correlation) for correlation in CORRELATIONS]
    best = int(np.argmax([likelihood for likelihood, _ in tried]))
    gain = tried[best][0] - tried[0][0]
    if gain < CORRELATED:
        return Drift()
    correlation = float(CORRELATIONS[best])
    worst = float(np.linalg.eigvalsh(space.T @ _correlations(residuals.size, correlation) @ space)[-1])
    return Drift(
        correlation=correlation,
        change=change,
        inflation=max(1.0, worst * tried[best][1] / tried[0][1]),
        reported=gain >= CERTAIN,
    )


def _correlations(size: int, correlation: float) -> Floats:
    """The correlation matrix of a first-order autoregression: (size, size)."""
    place = np.arange(size)
    return correlation ** np.abs(place[:, None] - place)


def _restricted(residuals: Floats, space: Floats, correlation: float) -> tuple[float, float]:
    """(log of the restricted likelihood, variance of one error) for residuals in time order, with this correlation."""
    lower = np.linalg.cholesky(_correlations(residuals.size, correlation))
    white = np.linalg.solve(lower, np.column_stack([residuals, space]))
    basis, triangle = np.linalg.qr(white[:, 1:])
    left = white[:, 0] - basis @ (basis.T @ white[:, 0])
    freedom = residuals.size - space.shape[1]
    variance = float(left @ left) / freedom
    volume = np.log(np.diagonal(lower)).sum() + np.log(np.abs(np.diagonal(triangle))).sum()
    return float(-volume - freedom / 2 * math.log(variance)), variance


# --- Flags: reported, never corrected.

WORTH_SAYING = 0.05
"""The unit rate is flagged if it exceeds the measured X(1) by more than this."""


def flags_of(fitted: Fitted, measured: Measurements) -> tuple[str, ...]:
    """Sentences on too few items, superlinear points, the unit rate, parameters at a bound, repeats, lack of fit and noise."""
    return (
        *_few_items(fitted, measured),
        *_against_one(fitted),
        *_at_bounds(fitted),
        *_repeats(fitted, measured),
        *_misfit(fitted, measured),
        *_one_sided(fitted),
        *_drift(fitted.problem.drift),
        *_order(measured),
    )


FEWEST_RESIDUALS = 8
SURELY_SKEWED = 2.6
"""Standard errors of the skewness of independent normal errors (Cramer, "Mathematical Methods of Statistics", section 29.3)."""


def _one_sided(fitted: Fitted) -> Iterator[str]:
    """Flags errors of which few are large and all of these on one side: then a law of the mean misses the typical run."""
    measured = fitted.problem.measured
    residuals = fitted.problem.noise.residuals(
        measured.throughput, np.array(1.0), fitted.throughput(measured.n)
    )
    count, size = residuals.size, float(np.std(residuals))
    if count < FEWEST_RESIDUALS or size <= 10 * fitted.problem.noise.negligible(measured.throughput):
        return
    skewness = float(np.mean((residuals - residuals.mean()) ** 3)) / size**3
    if abs(skewness) > SURELY_SKEWED * math.sqrt(6 * (count - 2) / ((count + 1) * (count + 3))):
        side = "slower" if skewness < 0 else "faster"
        yield f"the noise is one-sided: a few runs are much {side} than the others, so the typical run is not where the law is"


TOO_FEW = "too few items per worker to tell"
ENOUGH_ITEMS = 6
"""With fewer items per worker, the end of a run, when some workers have none left, bends the curve as contention does."""
STANDARD_ERRORS = 2.0


def _few_items(fitted: Fitted, measured: Measurements) -> Iterator[str]:
    """Flags a bend that the end of a run of few items may explain: the staircase, or more workers waiting for the last item."""
    items, name = measured.items, fitted.family.name
    if items is None or name == "linear":
        return
    few = measured.levels[measured.levels * ENOUGH_ITEMS > items]
    if not few.size or (name != "staircase" and _bends(fitted, measured, float(few[0]), items)):
        return
    at, need = ", ".join(f"{n:g}" for n in few), math.ceil(ENOUGH_ITEMS * few[-1])
    yield (
        f"{TOO_FEW}: at N = {at} each has fewer than {ENOUGH_ITEMS} of the {items} items, and the end "
        f"of such a run bends the curve as contention does; at least {need} items would tell"
    )


def _bends(fitted: Fitted, measured: Measurements, below: float, items: int) -> bool:
    """Whether, at N less than `below`, throughput per worker falls by more than the noise and the end of a run.

    The longest of n exponential times is 1 + 1/2 + ... + 1/n means, so a run of items of such times ends that much later
    than items / n, less the one.
    """
    n = measured.n[measured.n < below]
    x = np.log(n)
    x = x - x.mean() if x.size else x
    squares = float((x**2).sum())
    if squares <= 0:
        return False
    end = 1 + (digamma(n + 1) + np.euler_gamma - 1) * n / items
    each = np.log(measured.throughput[measured.n < below] * end / n)
    noise = float(fitted.relative_scatter(n).max()) / math.sqrt(squares)
    return float((x * each).sum()) / squares < -STANDARD_ERRORS * noise


def _against_one(fitted: Fitted) -> Iterator[str]:
    """Flags an efficiency above 1 and a unit rate above X(1), relative to the smallest measured N."""
    levels, means = fitted.problem.measured.means()
    efficiency = (means / levels) / (means[0] / levels[0])
    # Two standard errors of a ratio of two measurements count as noise.
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
        yield "repeats at one N agree better with each other than with any law, so each N counts once"


def _misfit(fitted: Fitted, measured: Measurements) -> Iterator[str]:
    lack = lack_of_fit(fitted, measured)
    if lack.found:
        yield f"the {fitted.family.name} law does not fit: p = {lack.p_value:.2g} (test of {lack.test})"


def _drift(drift: Drift) -> Iterator[str]:
    way = f"throughput {'rose' if drift.change > 0 else 'fell'} by about {abs(math.expm1(drift.change)):.0%} from the first measurement to the last"
    if drift.line:
        yield f"drift: {way}; the law is that of the middle of this time"
    elif drift.reported:
        yield (
            f"drift: {way}, and successive errors resemble each other (correlation {drift.correlation:.2g}); "
            f"intervals are {math.sqrt(drift.inflation):.1f} times as wide for it"
        )


ASCENDING = 0.9
"""Correlation of log N with the order in time from which drift cannot be told from the law."""


def _order(measured: Measurements) -> Iterator[str]:
    order = measured.in_time
    if order is None or len(measured) < 5:
        return
    together = np.corrcoef(np.arange(order.size), np.log(measured.n[order]))[0, 1]
    if abs(together) > ASCENDING:
        way = "ascending" if together > 0 else "descending"
        yield f"N was measured in {way} order, so drift over time cannot be told from the law: measure in random order"


MARGIN = 0.98
"""The level for choosing. Several families are tried, so 95 % per test would reject the truth too often."""
FIRM_MARGIN = 0.99
"""The level for predictions beyond the data, which depend on the family alone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A family that was tried. `parameters` includes the unit rate, `scatter` is the residual standard deviation.

    `akaike` is the AICc above the smallest one, nan if too few measurements are left for any family. `left_out` is the
    error of predicting each measurement from the others, in units of `scatter`.
    """

    family: str
    parameters: int
    scatter: float
    akaike: float
    left_out: float
    ruled_out: bool


def akaike(fitted: Fitted) -> float:
    """AICc; infinite if too few measurements are left for its correction."""
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
    """The families that are not ruled out at the level `margin`, simpler ones first, then likelier ones.

    A family stays if its misfit lies in the likelihood region of the family with the smallest scatter. A family that
    bends at any N rules others out only if it firmly rules out all of them: that its bend is chosen among all N, one number does
    not account for.
    """
    smooth = [fitted for fitted in fits if fitted.family.needs == "nothing"]
    best = min(smooth or fits, key=lambda fitted: fitted.scatter)
    for bent in (fitted for fitted in fits if smooth and fitted.family.needs != "nothing"):
        if _firmly_rules_out(bent, smooth) and bent.scatter < best.scatter:
            best = bent
    most = _most(best, margin)
    order = sorted(fits, key=lambda fitted: (_rank(fitted), fitted.misfit))
    return _likeliest_first([fitted for fitted in order if fitted.misfit <= most])


def _most(fitted: Fitted, margin: float) -> float:
    """The largest misfit of laws that it does not rule out."""
    quantile = float(stdtrit(fitted.freedom, (1 + margin) / 2))
    return fitted.misfit + (quantile * fitted.scatter) ** 2 * fitted.problem.drift.inflation


def _firmly_rules_out(fitted: Fitted, others: Sequence[Fitted]) -> bool:
    return min(each.misfit for each in others) > _most(fitted, FIRM_MARGIN)


LIKELIER = 0.8
"""The level at which a likelier family displaces a simpler or more common one that is no special case of it."""


def _likeliest_first(stay: list[Fitted]) -> list[Fitted]:
    """The first of `stay`, the simplest ones first, keeps its place unless a family that does not contain it is likelier."""
    first, *rest = stay
    if not first.shape.size:  # a special case of all
        return stay
    others = [
        each
        for each in rest
        if _rank(each) > _rank(first)
        and each.family.needs == "nothing"
        and _form(first.family) not in each.family.contains
    ]
    better = min(others, key=lambda fitted: fitted.misfit, default=first)
    if first.misfit <= _most(better, LIKELIER):
        return stay
    return [better, *(each for each in stay if each is not better)]


def _form(family: Family) -> str:
    """The name of the family, or of the one whose curve it has for whole items."""
    return family.base.name if isinstance(family, Stepped) else family.name


def _rank(fitted: Fitted) -> float:
    """The numbers of the shape; a resource that is full comes after the other families with one number."""
    return fitted.shape.size + 0.5 * fitted.family.full


LEAST_LEVELS = 5
"""Two N on each side of a bend and one more show it."""
NEARLY = 2.0
"""A family that bends at any N is fitted only if one of its starts misses by at most so many times as much as the best law."""


def may_show(problem: FitProblem, fits: Sequence[Fitted]) -> bool:
    """Whether the measurements may show what the family needs, after `fits`: if not, it is not worth a fit."""
    if problem.family.needs == "nothing" or not fits:
        return True
    if problem.measured.levels.size < LEAST_LEVELS:
        return False
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        misfits = problem.best_starts()[1]
    return bool(misfits[0] <= NEARLY * min(fitted.misfit for fitted in fits))


def shown(fits: Sequence[Fitted]) -> list[Fitted]:
    """The fits without those whose family needs more than the measurements show."""
    kept = [fitted for fitted in fits if fitted.family.needs == "nothing"]
    for fitted in fits:
        if fitted.family.needs == "best" and all(fitted.scatter < each.scatter for each in kept):
            kept.append(fitted)
    for fitted in fits:
        if fitted.family.needs == "only" and (not kept or _firmly_rules_out(fitted, kept)):
            kept.append(fitted)
    return kept


def compared(stays: Sequence[Fitted], ruled_out: Sequence[Fitted]) -> tuple[Candidate, ...]:
    """One row of numbers per family."""
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
