"""A fitted law and its answers: knee, peak, predictions, speed-up, the N for a target, the next measurement."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from scipy.special import stdtrit

from hooke.base.errors import BeyondTheData, NotEnoughData, UsageError
from hooke.scaling import diagnostics
from hooke.scaling.families import FAMILIES, Floats, Stepped
from hooke.scaling.family_fit import NOISES, ROUNDING, FitProblem, Fitted, Quantity, fit_family
from hooke.scaling.measurements import Estimate, Measurements, positive

__all__ = ["Course", "Law", "NextMeasurement", "facts_or_refusal", "fit", "karp_flatt", "next_measurement"]


# --- The next measurement.

FAR = 2.0
"""The farthest N to advise, and beyond which no prediction is answered, as a multiple of the largest measured: no fit foresees the
next bottleneck."""
TINY = float(np.finfo(np.float64).tiny)


@dataclass(frozen=True, slots=True, kw_only=True)
class NextMeasurement:
    """Measure at `n`, which is expected to reduce the variance of 1 / knee by the share `gain`."""

    n: int
    gain: float

    def __str__(self) -> str:
        return f"measure at N = {self.n}"


def next_measurement(fits: Sequence[Fitted]) -> NextMeasurement:
    """The N, up to twice the largest measured, whose throughput is most informative about the knee (see `reductions`).

    The answer is 1 / knee, which is 0 without a knee. If no allowed law has a knee, the farthest N is advised, because a knee
    would show there first.
    """
    most = float(fits[0].problem.measured.n.max())
    candidates = np.unique(np.round(np.geomspace(1, max(FAR * most, 2), 64)))
    found, variance = reductions(
        fits, candidates, lambda fit: lambda shape, rate: 1 / fit.knee_of(shape, rate)
    )
    best = found.argmax() if found.any() else -1
    return NextMeasurement(n=int(candidates[best]), gain=float(found[best]) / max(variance, TINY))


def reductions(
    fits: Sequence[Fitted], candidates: Floats, answer: Callable[[Fitted], Quantity]
) -> tuple[Floats, float]:
    """By how much one more measurement at each of `candidates` (m,) is expected to reduce the variance of `answer`, and the variance.

    Over the laws that the measurements allow, a throughput is informative if it correlates with the answer and varies by
    more than the noise. The reduction is Cov^2 / (Var X + noise^2), that in a linear model with normal errors.
    """
    clouds = [_cloud(fitted, candidates, answer(fitted)) for fitted in fits]
    value, spread = (np.concatenate(parts) for parts in zip(*clouds, strict=True))
    value, spread = value - value.mean(), spread - spread.mean(axis=0)
    noise = np.min([fitted.relative_scatter(candidates) for fitted in fits], axis=0)
    together = (value[:, None] * spread).mean(axis=0)
    return together**2 / ((spread**2).mean(axis=0) + noise**2), float((value**2).mean())


def _cloud(fitted: Fitted, n: Floats, answer: Quantity) -> tuple[Floats, Floats]:
    """The answer (2k,) and log X (2k, m) of the laws in the region, at both ends of the unit rate."""
    region = fitted.region
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        values = [answer(region.shape, rate) for rate in (region.low_rate, region.high_rate)]
        curve = np.log(fitted.family.curve(n, region.shape))
    # Constant errors may allow a unit rate of zero, whose logarithm would dominate.
    rates = np.log(np.maximum([region.low_rate, region.high_rate], fitted.rate / 10)).ravel()
    return np.concatenate(values), rates[:, None] + np.tile(curve, (2, 1))


# --- Beyond the measurements, and where no law fits. The numbers are fitted by `python -m benchmarks.extrapolation`.

BELIEVED, BELIEVED_POWER = 0.06, 0.6
"""With this scatter of the means, half of the law's further growth is believed; the less scatter, by this power, the more."""
OFF = 1.11
"""The half-width in log X, at 95 %, of how far a law is off, times the following three to these powers:"""
BY_DISTANCE, BY_BAND, BY_LINE = 0.26, 0.26, 0.19
"""log(N / largest N), the half-width of the law's own band, and its difference from the line through the last levels."""
LEAST, MOST = 0.005, 3.0
"""What the second and third are at least, and the second at most."""
LINE_OVER = 2.5
"""The line is through the levels within this factor of the largest N, and at least three of them."""
TAILS = 5
"""Degrees of freedom of the Student distribution that gives the half-width at other levels than 95 %."""
ALIKE, OVER_NOISE = 0.7, 2.0
"""Residuals resemble each other within this distance in log N; their standard deviation is so many times the noise."""


@dataclass(frozen=True, slots=True)
class Course:
    """The means of the levels (m,): log N, log X, and the law's log X; `scatter` is that of the means about the law."""

    levels: Floats
    values: Floats
    law: Floats
    scatter: float

    @classmethod
    def of(cls, fitted: Fitted, measured: Measurements) -> Course:
        """The course that `measured` take about a law."""
        means = measured.each_n_once()
        values, law = np.log(means.throughput), np.log(fitted.throughput(means.n))
        noise = float(fitted.relative_scatter(means.n[-1:])[0]) * math.sqrt(len(means) / len(measured))
        missed = float(((values - law) ** 2).sum()) / max(len(means) - fitted.shape.size - 1, 1)
        return cls(np.log(means.n), values, law, max(noise, math.sqrt(missed)))

    def inside(self, at: Floats, law: Floats, level: float) -> tuple[Floats, float]:
        """Log X at log N `at` (k,), where the law says `law` (k,), and its half-width.

        The law is corrected by what it misses nearby. The half-width is Student's for the errors of each level from the others.
        """
        count = self.levels.size
        missed = [
            self.values[k] - self.law[k] - self._missed(self.levels[k : k + 1], without=k)[0]
            for k in range(count)
        ]
        size = math.sqrt(float(np.mean(np.square(missed))))
        return law + self._missed(at), size * float(stdtrit(count - 1, (1 + level) / 2))

    def beyond(
        self, at: Floats, law: Floats, band: tuple[Floats, Floats], level: float
    ) -> tuple[Floats, Floats]:
        """Log X beyond the largest N and its half-width (k,), where the families allow the `band` of X, two arrays (k,)."""
        believed = 1 / (1 + (self.scatter / BELIEVED) ** BELIEVED_POWER)
        grown = law + self._missed(at) - self.values[-1]
        tails = stdtrit(TAILS, (1 + level) / 2) / stdtrit(TAILS, 0.975)
        powers = np.array([BY_DISTANCE, BY_BAND, BY_LINE])
        half = OFF * tails * np.exp(powers @ np.log(self.doubts(at, law, band)))
        return self.values[-1] + believed * grown, half

    def kept(
        self, at: Floats, band: tuple[Floats, Floats], near: tuple[Floats, Floats]
    ) -> tuple[Floats, Floats]:
        """What is kept of a band beyond the largest N: what is `near` the law, or between no growth and proportional growth."""
        last = np.exp(self.values[-1])
        proportional = last * np.exp(at - self.levels[-1])
        return (
            np.maximum(band[0], np.minimum(near[0], last)),
            np.minimum(band[1], np.maximum(near[1], proportional)),
        )

    def doubts(self, at: Floats, law: Floats, band: tuple[Floats, Floats]) -> Floats:
        """What the half-width beyond the largest N depends on (3, k): distance, half the band, and difference from the line."""
        end, count = self.levels[-1], self.levels.size
        recent = self.levels >= min(end - math.log(LINE_OVER), self.levels[-min(3, count)])
        line = np.polyval(np.polyfit(self.levels[recent] - end, self.values[recent], 1), at - end)
        off_line = np.abs(law + self._missed(at) - line)
        distance = np.maximum(at - end, TINY)
        high = np.maximum(band[1], TINY)
        low = np.maximum(band[0], high * math.exp(-2 * MOST))
        return np.stack([distance, (np.log(high) - np.log(low)) / 2 + LEAST, off_line + LEAST])

    def _missed(self, at: Floats, *, without: int | None = None) -> Floats:
        """What the law misses at log N `at`, by all levels or all but one: kriging with a Matern 3/2 covariance."""
        left = [] if without is None else [without]
        levels, residuals = np.delete(self.levels, left), np.delete(self.values - self.law, left)

        def covariance(one: Floats) -> Floats:
            far = math.sqrt(3) * np.abs(one[:, None] - levels) / ALIKE
            return OVER_NOISE**2 * (1 + far) * np.exp(-far)

        weights = np.linalg.solve(covariance(levels) + np.eye(levels.size), residuals)
        return covariance(at) @ weights


NEAR = 1.5
"""Within this factor of the measured N, predictions are always answered, however wide the interval."""
WIDEST_ANSWER = 3.5
"""From there to FAR they are, if the ends of the interval differ by at most this factor."""
FARTHEST = 4.0
"""In place of FAR where the caller vouches for the families by naming them, and below the smallest N;"""
MOST_DISAGREEMENT = 1.5
"""and in place of WIDEST_ANSWER."""
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

    Beyond the largest N, the interval of `predict` covers the law's own band and how far laws were off on real machines,
    which grows with the distance; not if `vouched`, where the caller named the families. Where the law does not fit
    (`lack_of_fit.found`), predictions follow the measurements instead of the law.
    """

    measurements: Measurements
    fitted: Fitted
    others: tuple[Fitted, ...] = ()
    ruled_out: tuple[Fitted, ...] = ()
    vouched: bool = False

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

        It covers the alternatives; outside the measured range also families that are not firmly ruled out, and beyond the
        largest N the error of the model.
        """
        return self._predicted(np.asarray(n, dtype=np.float64))[1:]

    def own_band(self, n: Floats) -> tuple[Floats, Floats]:
        """The interval of X at each of `n` (m,) over all families not firmly ruled out, without the error of the model."""
        low, high = _hull([fit.band(n) for fit in self._not_firmly_ruled_out])
        return low, high

    def predict(self, n: float, *, runs: int | None = None) -> Estimate:
        """The throughput at `n`; with `runs`, the mean of that many measurements, including their noise.

        Where the error of the model counts, or the law does not fit, intervals always include the noise of one measurement.
        Raises BeyondTheData if the measurements do not support an answer.
        """
        value, low, high = self._predicted(np.array([float(positive("n", n))]))
        self._check_reach(float(n), float(low[0]), float(high[0]))
        by_law = not self.lack_of_fit.found and (self.vouched or n <= self._most)
        if runs is not None and by_law:
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
        if high > self._most and not self.vouched:
            low, high = self._reaching_beyond(target, low, high)
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

    def reductions(self, candidates: Floats, answer: Callable[[Fitted], Quantity]) -> Floats:
        """By how much one more measurement at each of `candidates` (m,) is expected to reduce the variance of `answer`."""
        return reductions(self._not_firmly_ruled_out, candidates, answer)[0]

    def ends(self, answer: Callable[[Fitted], Quantity]) -> tuple[float, float]:
        """The interval of `answer` over all families not firmly ruled out."""
        return self._ends("answer", answer, self._not_firmly_ruled_out)

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

    def _predicted(self, n: Floats) -> tuple[Floats, Floats, Floats]:
        """X at each of `n` (m,), and the ends of its interval."""
        value, (low, high) = self.throughput(n), _hull([fit.band(n) for fit in self._tenable])
        far_low, far_high = self.own_band(n)
        beyond, misfit = n > self._most, self.lack_of_fit.found
        if misfit or (beyond.any() and not self.vouched):
            course, at, law = Course.of(self.fitted, self.measurements), np.log(n), np.log(value)
            middle, off = course.beyond(at, law, (far_low, far_high), self.level)
            if misfit:
                near, size = course.inside(at, law, self.level)
                middle, off = np.where(beyond, middle, near), np.where(beyond, off, size)
                return np.exp(middle), np.exp(middle - off), np.exp(middle + off)
            low, high = course.kept(at, (far_low, far_high), (value * np.exp(-off), value * np.exp(off)))
            far_low = np.where(beyond, np.minimum(low, np.exp(middle - off)), far_low)
            far_high = np.where(beyond, np.maximum(high, np.exp(middle + off)), far_high)
        outside = beyond | (n < self._least)
        return value, np.where(outside, far_low, low), np.where(outside, far_high, high)

    def _reaching_beyond(self, throughput: float, low: float, high: float) -> tuple[float, float]:
        """The interval of the N that reaches `throughput`, widened by the error of the model beyond the largest N."""
        grid = np.geomspace(self._most, FAR * self._most, 256)
        bottom, top = self.band(grid)
        first = grid[top >= throughput]
        sure = grid[bottom >= throughput]
        return (
            min(low, float(first[0])) if first.size else low,
            max(high, float(sure[0])) if sure.size else math.inf,
        )

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
        by_law = self.vouched or n < least
        farthest, widest = (FARTHEST, MOST_DISAGREEMENT) if by_law else (FAR, WIDEST_ANSWER)
        if distance > farthest * (1 + ROUNDING):
            raise self._refusal(
                f"N = {n:.4g} is too far from the measured range, {least:g} to {most:g}",
                f"no fit foresees the next bottleneck; the limit is {farthest:g} times the range",
            )
        if distance > NEAR and high > widest * low:
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

STANDARD = ("linear", "amdahl", "hard_knee", "power", "closed_queue", "usl", "bent_line", "cliff")
"""The default families. `batch` has Amdahl's curve; `gustafson` is for work that grows with N."""
WHOLE = ("linear", "amdahl", "hard_knee", "closed_queue", "usl")
"""The families that are also tried for a run of whole items."""
UNEVEN = 0.05
"""Whole items are considered if at some N up to the largest so large a share of the workers' time may be idle."""

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

    `families` are names out of `linear`, `amdahl`, `hard_knee`, `power`, `closed_queue`, `usl`, `bent_line`, `cliff` (the
    default: all of these), `gustafson` and `batch`. By default, `bent_line` and `cliff` count only where the measurements
    show them, and if `work` may be a number of items, so few that they may not divide evenly, the families are also tried
    for whole items (`staircase`, `staircase_amdahl` and so on). `errors` are "relative", a share of the measured value, or "constant", the same amount everywhere, as in
    many published fits. The simplest family that is not ruled out is chosen; the others that are not ruled out are
    `law.alternatives`.

    Raises UsageError for unknown names. Raises NotEnoughData if no measurements are left over to estimate the noise, if
    only one N was measured, or if N changed together with the conditions.
    """
    names = _checked(families, errors, level)
    _check_spread(measurements)
    tried = [FAMILIES[name] for name in names]
    if families is None:
        tried += _of_whole_items(measurements)
    problems = [FitProblem(family=family, noise=NOISES[errors], measured=measurements) for family in tried]
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
    if families is None:
        fits = diagnostics.shown(fits)
    chosen, *others = diagnostics.within(fits, diagnostics.MARGIN)
    ruled_out = tuple(fitted for fitted in fits if not any(fitted is stays for stays in (chosen, *others)))
    return Law(
        measurements=measurements,
        fitted=chosen,
        others=tuple(others),
        ruled_out=ruled_out,
        vouched=families is not None,
    )


def _fit_all(problems: Sequence[FitProblem], level: float, *, named: bool) -> list[Fitted]:
    """The fit of each problem. A family with too many parameters is left out, unless the caller named it."""
    fits: list[Fitted] = []
    refusals: list[NotEnoughData] = []
    for problem in problems:
        if not named and not diagnostics.may_show(problem, fits):
            continue
        try:
            fits.append(fit_family(problem, level))
        except NotEnoughData as refusal:
            refusals.append(refusal)
    if refusals and (named or not fits):
        raise refusals[0]
    return fits


def _of_whole_items(measurements: Measurements) -> list[Stepped]:
    """The families for whole items, if these are so few that they matter."""
    items, most = measurements.items, float(measurements.n[-1])
    if items is None or items * UNEVEN > (1 - UNEVEN) * (most - 1):
        return []
    return [Stepped(FAMILIES[name], items) for name in WHOLE]


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
