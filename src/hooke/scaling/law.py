"""A fitted law and its answers: knee, peak, predictions, speed-up, the N for a target, the next measurement."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from hooke.base.errors import BeyondTheData, NotEnoughData, UsageError
from hooke.scaling import diagnostics
from hooke.scaling.families import FAMILIES, Floats
from hooke.scaling.family_fit import NOISES, FitProblem, Fitted, Quantity, fit_family
from hooke.scaling.measurements import Estimate, Measurements, positive

__all__ = ["Law", "NextMeasurement", "facts_or_refusal", "fit", "karp_flatt", "next_measurement"]


# --- The next measurement.

FARTHER = 2.0
"""The farthest N to advise, as a multiple of the largest measured; go farther in two steps."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NextMeasurement:
    """Measure at `n`, which is expected to reduce the variance of 1 / knee by the share `gain`."""

    n: int
    gain: float

    def __str__(self) -> str:
        return f"measure at N = {self.n}"


def next_measurement(fits: Sequence[Fitted]) -> NextMeasurement:
    """The N, up to twice the largest measured, whose throughput is most informative about the knee.

    Over the laws that the measurements allow, a throughput is informative if it correlates with the answer and varies by
    more than the noise. The gain is Cov^2 / (Var X + noise^2) / Var answer, the reduction of variance in a linear model
    with normal errors. The answer is 1 / knee, which is 0 without a knee. If no allowed law has a knee, the farthest N
    is advised, because a knee would show there first.
    """
    most = float(fits[0].problem.measured.n.max())
    candidates = np.unique(np.round(np.geomspace(1, max(FARTHER * most, 2), 64)))
    clouds = [_cloud(fitted, candidates) for fitted in fits]
    answer, spread = (np.concatenate(parts) for parts in zip(*clouds, strict=True))
    answer, spread = answer - answer.mean(), spread - spread.mean(axis=0)
    noise = np.min([fitted.relative_scatter(candidates) for fitted in fits], axis=0)
    together = (answer[:, None] * spread).mean(axis=0)
    gains = (
        together**2 / ((spread**2).mean(axis=0) + noise**2) / max((answer**2).mean(), np.finfo(float).tiny)
    )
    best = gains.argmax() if gains.any() else -1
    return NextMeasurement(n=int(candidates[best]), gain=float(gains[best]))


def _cloud(fitted: Fitted, n: Floats) -> tuple[Floats, Floats]:
    """1 / knee (2k,) and log X (2k, m) of the laws in the region, at both ends of the unit rate."""
    region = fitted.region
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        answer = 1 / fitted.knee_of(region.shape, region.low_rate)
        curve = np.log(fitted.family.curve(n, region.shape))
    # Constant errors may allow a unit rate of zero, whose logarithm would dominate.
    rates = np.log(np.maximum([region.low_rate, region.high_rate], fitted.rate / 10)).ravel()
    return np.tile(answer, 2), rates[:, None] + np.tile(curve, (2, 1))


NEAR = 1.5
"""Within this factor of the measured N, predictions are always answered, however wide the interval."""
FARTHEST = 4.0
"""Beyond this factor they never are, because no fit foresees the next bottleneck."""
MOST_DISAGREEMENT = 1.5
"""Between the two they are, if the ends of the interval differ by at most this factor."""
WIDEST_KNEE = 3.0
"""A knee is determined if the ends of its interval differ by at most this factor,"""
PAST_THE_KNEE = 1.25
"""and if the largest N measured is at least this multiple of its high end."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Law:
    """The simplest law that the measurements do not rule out.

    The intervals of `parameters`, `knee`, `peak`, `speedup`, `efficiency` and `karp_flatt` assume that the family is
    right. Base decisions on `predict`, `n_for` and `determined_knee`: their intervals cover `alternatives` too, and they
    raise BeyondTheData if these differ too much. `others` are the fits of the alternatives, `ruled_out` those of the
    other families. If repeats at one N agree better with each other than with any law, each N counts once, and the fits
    are to the means, `fitted.problem.measured`.
    """

    measurements: Measurements
    fitted: Fitted
    others: tuple[Fitted, ...] = ()
    ruled_out: tuple[Fitted, ...] = ()

    def __repr__(self) -> str:
        """The family, its parameters and the range of N; the fits themselves hold thousands of numbers."""
        fitted = ", ".join(
            f"{symbol} = {each.value:.4g} ({each.interval[0]:.4g} to {each.interval[1]:.4g})"
            for symbol, each in self.parameters.items()
        )
        levels = self.measurements.levels
        return f"Law({self.family}: {fitted}; N = {levels[0]:g} to {levels[-1]:g})"

    @property
    def family(self) -> str:
        """The family's name."""
        return self.fitted.family.name

    @property
    def level(self) -> float:
        """The probability with which each interval contains the truth."""
        return self.fitted.level

    @property
    def scatter(self) -> float:
        """The residual standard deviation: a share of throughput with relative errors, else in units of throughput."""
        return self.fitted.scatter

    @property
    def parameters(self) -> dict[str, Estimate]:
        """The parameters by symbol; the name of each estimate is its meaning."""
        return self.fitted.parameters()

    @property
    def knee(self) -> Estimate:
        """The smallest N that reaches 95 % of the maximum throughput; for a hard knee, its capacity."""
        return self.fitted.estimate("knee", self.fitted.knee_of)

    @property
    def peak(self) -> Estimate:
        """The N of the maximum throughput; infinite if more always helps."""
        return self.fitted.estimate("peak", lambda shape, _: self.fitted.family.peak(shape))

    @property
    def alternatives(self) -> tuple[Law, ...]:
        """The other families that are not ruled out, likelier ones first."""
        return tuple(
            replace(self, fitted=other, others=tuple(fit for fit in self._tenable if fit is not other))
            for other in self.others
        )

    @property
    def comparison(self) -> tuple[diagnostics.Candidate, ...]:
        """The comparison of all families that were tried."""
        return diagnostics.compared(self._tenable, self.ruled_out)

    @property
    def lack_of_fit(self) -> diagnostics.LackOfFit:
        """The test whether the law misses the measurements by more than their noise."""
        return diagnostics.lack_of_fit(self.fitted, self.measurements)

    @property
    def flags(self) -> tuple[str, ...]:
        """Sentences on what is unusual about the fit. Nothing is corrected."""
        return diagnostics.flags_of(self.fitted, self.measurements)

    def facts(self) -> dict[str, Any]:
        """The law as plain values, for JSON; infinite and unknown numbers are None."""
        return {
            "family": self.family,
            "level": self.level,
            "parameters": {symbol: each.facts() for symbol, each in self.parameters.items()},
            "knee": facts_or_refusal(lambda: self.determined_knee().facts()),
            "peak": self.peak.facts(),
            "alternatives": [each.family for each in self.alternatives],
            "flags": list(self.flags),
            "next_measurement": self.next_measurement().n,
        }

    def throughput(self, n: Floats) -> Floats:
        """The law's X at each of `n` (m,) without limits, for drawing. Use `predict` for decisions."""
        return self.fitted.throughput(np.asarray(n, dtype=np.float64))

    def band(self, n: Floats) -> tuple[Floats, Floats]:
        """The interval of X at each of `n` (m,), two arrays (m,).

        It covers the alternatives; outside the measured range also families that are not firmly ruled out.
        """
        at = np.asarray(n, dtype=np.float64)
        low, high = _hull([fit.band(at) for fit in self._tenable])
        far_low, far_high = _hull([fit.band(at) for fit in self._not_firmly_ruled_out])
        outside = (at < self._least) | (at > self._most)
        return np.where(outside, far_low, low), np.where(outside, far_high, high)

    def predict(self, n: float, *, runs: int | None = None) -> Estimate:
        """The throughput at `n`; with `runs`, the mean of that many measurements, including their noise.

        Raises BeyondTheData if the measurements do not support an answer.
        """
        at = np.array([float(positive("n", n))])
        value, (low, high) = self.throughput(at), self.band(at)
        self._check_reach(float(n), float(low[0]), float(high[0]))
        if runs is not None:
            size = self.fitted.quantile * self.scatter / math.sqrt(float(positive("runs", runs)))
            low, high = self.fitted.problem.noise.widened(value, (low, high), size)
        return self._estimate(f"throughput at N = {n:g}", float(value[0]), (float(low[0]), float(high[0])))

    def n_for(self, throughput: float) -> Estimate:
        """The smallest N that reaches `throughput`; infinite if the law never does.

        Raises BeyondTheData if that N lies beyond what the measurements support.
        """
        found = self.reaching(throughput)
        if math.isfinite(found.value):
            self.predict(found.value)
        return found

    def reaching(self, throughput: float) -> Estimate:
        """Like `n_for` without limits, for drawing and comparing."""
        target = float(positive("throughput", throughput))

        def quantity(fit: Fitted) -> Quantity:
            return lambda shape, rate: fit.family.reach(target / rate, shape)

        low, high = self._ends("N", quantity, self._tenable)
        if low < self._least or high > self._most:
            low, high = self._ends("N", quantity, self._not_firmly_ruled_out)
        return self._estimate("N", self.fitted.estimate("N", quantity(self.fitted)).value, (low, high))

    def determined_knee(self) -> Estimate:
        """The knee, for planning.

        Raises BeyondTheData unless the measurements reach past its whole interval and its ends differ by at most a
        factor of 3.
        """
        low, high = self._ends("knee", lambda fit: fit.knee_of, self._not_firmly_ruled_out)
        if high * PAST_THE_KNEE > self._most or high > WIDEST_KNEE * low:
            raise self._refusal(
                f"measurements at N = {self._least:g} to {self._most:g} do not determine the knee",
                f"it lies between {low:.3g} and {high:.3g}",
            )
        return self._estimate("knee", self.knee.value, (low, high))

    def speedup(self, n: float) -> Estimate:
        """The law's throughput at `n` over its throughput at 1."""
        return self._of_curve("speed-up", n, lambda speedup, _: speedup)

    def efficiency(self, n: float) -> Estimate:
        """Speed-up at `n` over `n`; above 1 if growth is superlinear."""
        return self._of_curve("efficiency", n, lambda speedup, n: speedup / n)

    def karp_flatt(self, n: float) -> Estimate:
        """The experimentally determined serial fraction at `n` > 1."""
        if n <= 1:
            raise UsageError(f"n is {n:g}", fix="use an N above 1")
        return self._of_curve("serial fraction", n, karp_flatt)

    def next_measurement(self) -> NextMeasurement:
        """The N whose measurement would narrow the knee most."""
        return next_measurement(self._not_firmly_ruled_out)

    @property
    def _tenable(self) -> tuple[Fitted, ...]:
        return (self.fitted, *self.others)

    @property
    def _not_firmly_ruled_out(self) -> tuple[Fitted, ...]:
        return tuple(diagnostics.within((*self._tenable, *self.ruled_out), diagnostics.FIRM_MARGIN))

    @property
    def _least(self) -> float:
        return float(self.measurements.n[0])

    @property
    def _most(self) -> float:
        return float(self.measurements.n[-1])

    def _of_curve(self, name: str, n: float, what: Callable[[Floats, float], Floats]) -> Estimate:
        at = np.array([1.0, float(positive("n", n))])

        def quantity(shape: Floats, _: Floats) -> Floats:
            curve = self.fitted.family.curve(at, shape)
            return what(curve[:, 1] / curve[:, 0], n)

        return self.fitted.estimate(f"{name} at N = {n:g}", quantity)

    def _ends(
        self, name: str, quantity: Callable[[Fitted], Quantity], fits: Sequence[Fitted]
    ) -> tuple[float, float]:
        """The interval that covers those of all `fits`."""
        low, high = _hull([fit.estimate(name, quantity(fit)).interval for fit in fits])
        return float(low), float(high)

    def _estimate(self, name: str, value: float, interval: tuple[float, float]) -> Estimate:
        return Estimate(name=name, value=value, interval=interval, level=self.level)

    def _check_reach(self, n: float, low: float, high: float) -> None:
        least, most = self._least, self._most
        distance = max(n / most, least / n)
        if distance > FARTHEST:
            raise self._refusal(
                f"N = {n:.4g} is too far from the measured range, {least:g} to {most:g}",
                f"no fit foresees the next bottleneck; the limit is {FARTHEST:g} times the range",
            )
        if distance > NEAR and high > MOST_DISAGREEMENT * low:
            names = ", ".join(fit.family.name for fit in self._not_firmly_ruled_out)
            raise self._refusal(
                f"measurements at N = {least:g} to {most:g} do not determine the throughput at N = {n:.4g}",
                f"it lies between {low:.3g} and {high:.3g}; not firmly ruled out: {names}",
            )

    def _refusal(self, what: str, why: str) -> BeyondTheData:
        best = self.next_measurement()
        return BeyondTheData(what, why=why, next=str(best), measure_at=best.n)


def facts_or_refusal(ask: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """The facts, or why the measurements do not determine them."""
    try:
        return ask()
    except NotEnoughData as refusal:
        return {"value": None, "refused": refusal.what, "why": refusal.why, "measure_at": refusal.measure_at}


def _hull(intervals: Sequence[tuple[Any, Any]]) -> tuple[Any, Any]:
    """The smallest low end and the largest high end, of numbers or of arrays."""
    lows, highs = zip(*intervals, strict=True)
    return np.min(lows, axis=0), np.max(highs, axis=0)


def karp_flatt(speedup: Floats, n: float) -> Floats:
    """The serial fraction of a speed-up at `n` > 1 (Karp & Flatt, CACM 33, 1990).

    A fraction that grows with N indicates overhead rather than serial work.
    """
    return (1 / speedup - 1 / n) / (1 - 1 / n)


# --- `fit`: the law that measurements support.

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
    drift = diagnostics.drift(min(fits, key=lambda fitted: fitted.scatter), measurements)
    if drift.inflation > 1:
        steady = diagnostics.without_line(measurements, drift.line) if drift.line else measurements
        problems = [replace(problem, measured=steady, drift=drift) for problem in problems]
        fits = _fit_all(problems, level, named=families is not None)
    if _repeats_share_errors(fits, measurements):
        means = problems[0].measured.each_n_once()
        problems = [replace(problem, measured=means) for problem in problems]
        fits = _fit_all(problems, level, named=families is not None)
    chosen, *others = diagnostics.within(fits, diagnostics.MARGIN)
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
    lack = diagnostics.lack_of_fit(min(tested, key=lambda fitted: fitted.scatter), measurements)
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
