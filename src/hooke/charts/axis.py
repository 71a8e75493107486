"""An axis: where a number lies on it, and which numbers are written at it."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from hooke.scaling.families import Floats

__all__ = ["Axis"]

STEPS = (1, 2, 5, 10)
MOST_TICKS = 6


@dataclass(frozen=True, slots=True, kw_only=True)
class Axis:
    """From `low` to `high`; by the logarithm, or evenly.

    `percent` says how its numbers are written, `whole` that it counts things, so that no part of one is written at it.
    """

    label: str
    low: float
    high: float
    logarithmic: bool = False
    percent: bool = False
    whole: bool = False

    def share(self, values: Floats | float) -> Floats:
        """Where each of `values` (...) lies: 0 at `low`, 1 at `high`, outside of these beyond; (...)."""
        numbers = np.asarray(values, dtype=np.float64)
        if not self.logarithmic:
            return (numbers - self.low) / (self.high - self.low)
        with np.errstate(divide="ignore"):
            return np.log(numbers / self.low) / math.log(self.high / self.low)

    def ticks(self) -> list[float]:
        """Round numbers between the ends: powers of two on a logarithmic axis."""
        if self.logarithmic:
            first, last = math.ceil(math.log2(self.low) - 1e-9), math.floor(math.log2(self.high) + 1e-9)
            step = max(1, math.ceil((last - first + 1) / MOST_TICKS))
            return [2.0**power for power in range(first, last + 1, step)]
        least = max((self.high - self.low) / MOST_TICKS, 1.0 if self.whole else 0.0)
        scale = 10.0 ** math.floor(math.log10(least))
        step = next(scale * factor for factor in STEPS if scale * factor >= least * (1 - 1e-9))
        first = math.ceil(self.low / step - 1e-9)
        return [step * at for at in range(first, math.floor(self.high / step + 1e-9) + 1)]

    def written(self, value: float) -> str:
        """A tick's number: `4`, `0.5`, `80%`."""
        return f"{value:.0%}" if self.percent else f"{value:.4g}"
