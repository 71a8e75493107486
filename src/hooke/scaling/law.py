"""A fitted law, and what follows from it: knee, peak, predictions, speed-up, the N for a target, the next measurement."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from hooke.base.errors import BeyondTheData, UsageError
from hooke.scaling.advice import NextMeasurement, next_measurement
from hooke.scaling.estimate import Estimate
from hooke.scaling.families import Floats
from hooke.scaling.fitted import Fitted, Quantity
from hooke.scaling.flags import flags_of
from hooke.scaling.lack_of_fit import LackOfFit, lack_of_fit
from hooke.scaling.measurements import Measurements

__all__ = ["Law", "karp_flatt"]

MOST_DISAGREEMENT = 1.5
"""Beyond the data an answer is given while the ends of its interval differ by at most this factor."""
FARTHEST = 4.0
"""No answer beyond this multiple of the largest N measured: no fit foresees the next bottleneck."""
WIDEST_KNEE = 2.0
"""A knee is determined while the ends of its interval differ by at most this factor."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Law:
    """The simplest law that the measurements do not rule out.

    The intervals of `parameters`, `knee`, `peak`, `speedup`, `efficiency` and `karp_flatt` hold if the family is the
    right one. `predict`, `n_for` and `determined_knee` are for acting on: their intervals cover `alternatives` too,
    and they raise BeyondTheData where these differ too much. `others` are the fits of the alternatives.
    """

    fitted: Fitted
    others: tuple[Fitted, ...] = ()

    @property
    def family(self) -> str:
        """The family's name."""
        return self.fitted.family.name

    @property
    def measurements(self) -> Measurements:
        """What the law was fitted to."""
        return self.fitted.problem.measured

    @property
    def level(self) -> float:
        """The probability with which each interval holds."""
        return self.fitted.level

    @property
    def scatter(self) -> float:
        """The residual standard deviation: a share of throughput with relative errors, else in its units."""
        return self.fitted.scatter

    @property
    def parameters(self) -> dict[str, Estimate]:
        """The family's parameters by symbol; each estimate's name is what it means."""
        return self.fitted.parameters()

    @property
    def knee(self) -> Estimate:
        """The smallest N that reaches 95 % of the greatest throughput; of a hard knee, its capacity."""
        return self.fitted.estimate("knee", self.fitted.knee_of)

    @property
    def peak(self) -> Estimate:
        """The N of the greatest throughput; infinite where more always helps."""
        return self.fitted.estimate("peak", lambda shape, _: self.fitted.family.peak(shape))

    @property
    def alternatives(self) -> tuple[Law, ...]:
        """The other families that the measurements do not rule out, the likelier ones first."""
        fits = (self.fitted, *self.others)
        return tuple(
            Law(fitted=other, others=tuple(fit for fit in fits if fit is not other)) for other in self.others
        )

    @property
    def lack_of_fit(self) -> LackOfFit:
        """Whether the law misses the measurements by more than their noise."""
        return lack_of_fit(self.fitted)

    @property
    def flags(self) -> tuple[str, ...]:
        """What is unusual about the fit, in sentences; nothing of it is corrected."""
        return flags_of(self.fitted)

    def throughput(self, n: Floats) -> Floats:
        """The law's X at each of `n` (m,), wherever that lies: for drawing. `predict` is for acting on."""
        return self.fitted.throughput(np.asarray(n, dtype=np.float64))

    def band(self, n: Floats) -> tuple[Floats, Floats]:
        """The interval of X at each of `n` (m,), the alternatives covered: two of (m,)."""
        bands = [fit.band(np.asarray(n, dtype=np.float64)) for fit in (self.fitted, *self.others)]
        lows, highs = zip(*bands, strict=True)
        return np.min(lows, axis=0), np.max(highs, axis=0)

    def predict(self, n: float, *, runs: int | None = None) -> Estimate:
        """The throughput at `n`; with `runs`, the mean of so many measurements there, their noise included.

        Raises BeyondTheData where the measurements do not support an answer.
        """
        at = np.array([_positive("n", n)])
        value, (low, high) = self.throughput(at), self.band(at)
        self._check_reach(float(n), float(low[0]), float(high[0]))
        if runs is not None:
            size = self.fitted.quantile * self.scatter / math.sqrt(_positive("runs", runs))
            low, high = self.fitted.problem.noise.widened(value, (low, high), size)
        return self._estimate(f"throughput at N = {n:g}", float(value[0]), (float(low[0]), float(high[0])))

    def n_for(self, throughput: float) -> Estimate:
        """The smallest N that reaches `throughput`; infinite where the law never does.

        Raises BeyondTheData where that N lies beyond what the measurements support.
        """
        target = _positive("throughput", throughput)
        found = self._over_all("N", lambda fit: lambda shape, rate: fit.family.reach(target / rate, shape))
        if math.isfinite(found.value):
            self.predict(found.value)
        return found

    def determined_knee(self) -> Estimate:
        """The knee, for planning. Raises BeyondTheData where the measurements leave it open by more than a factor of 2."""
        found = self._over_all("knee", lambda fit: fit.knee_of)
        low, high = found.interval
        if high > WIDEST_KNEE * low:
            raise self._refusal(
                "the measurements do not determine the knee", f"it lies between {low:.3g} and {high:.3g}"
            )
        return found

    def speedup(self, n: float) -> Estimate:
        """Throughput at `n` over the law's own at 1."""
        return self._of_curve("speed-up", n, lambda speedup, _: speedup)

    def efficiency(self, n: float) -> Estimate:
        """Speed-up at `n` over `n`; above 1 where growth is superlinear."""
        return self._of_curve("efficiency", n, lambda speedup, n: speedup / n)

    def karp_flatt(self, n: float) -> Estimate:
        """The experimentally determined serial fraction at `n` > 1."""
        if n <= 1:
            raise UsageError(f"n is {n:g}", mend="the serial fraction is a property of N above 1")
        return self._of_curve("serial fraction", n, karp_flatt)

    def next_measurement(self) -> NextMeasurement:
        """The N whose measurement would narrow the knee most."""
        return next_measurement((self.fitted, *self.others))

    def _of_curve(self, name: str, n: float, what: Callable[[Floats, float], Floats]) -> Estimate:
        at = np.array([1.0, _positive("n", n)])

        def quantity(shape: Floats, _: Floats) -> Floats:
            curve = self.fitted.family.curve(at, shape)
            return what(curve[:, 1] / curve[:, 0], n)

        return self.fitted.estimate(f"{name} at N = {n:g}", quantity)

    def _over_all(self, name: str, quantity: Callable[[Fitted], Quantity]) -> Estimate:
        """This law's value, with an interval that covers the alternatives."""
        found = [fit.estimate(name, quantity(fit)) for fit in (self.fitted, *self.others)]
        lows, highs = zip(*(estimate.interval for estimate in found), strict=True)
        return self._estimate(name, found[0].value, (min(lows), max(highs)))

    def _estimate(self, name: str, value: float, interval: tuple[float, float]) -> Estimate:
        return Estimate(name=name, value=value, interval=interval, level=self.level)

    def _check_reach(self, n: float, low: float, high: float) -> None:
        most = float(self.measurements.n.max())
        if n > FARTHEST * most:
            raise self._refusal(
                f"N = {n:.4g} is too far beyond the largest measured, {most:g}",
                f"no fit foresees the next bottleneck; the limit is {FARTHEST:g} times as far",
            )
        if n > most and high > MOST_DISAGREEMENT * low:
            names = ", ".join(fit.family.name for fit in (self.fitted, *self.others))
            raise self._refusal(
                f"the measurements, up to N = {most:g}, do not determine the throughput at N = {n:.4g}",
                f"it lies between {low:.3g} and {high:.3g}; not ruled out: {names}",
            )

    def _refusal(self, what: str, why: str) -> BeyondTheData:
        best = self.next_measurement()
        return BeyondTheData(what, why=why, next=str(best), measure_at=best.n)


def karp_flatt(speedup: Floats, n: float) -> Floats:
    """The serial fraction that a speed-up at `n` > 1 amounts to (Karp & Flatt, CACM 33, 1990).

    One that grows with N tells of overhead, not of serial work.
    """
    return (1 / speedup - 1 / n) / (1 - 1 / n)


def _positive(name: str, value: float) -> float:
    if not (math.isfinite(value) and value > 0):
        raise UsageError(f"{name} is {value!r}", mend="a finite number above zero")
    return float(value)
