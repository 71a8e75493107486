"""A number that was inferred from measurements, with the interval that it lies in."""

from __future__ import annotations

import math
from dataclasses import dataclass

__all__ = ["Estimate"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """`value`, and an `interval` (low, high) that holds the truth with probability `level`.

    `high` may be infinite, and so may `value`: a law without a knee has it at infinity. `standard_error` is the
    asymptotic one of the least-squares fit, as other programs print it; it is nan where there is none. The interval
    is not made from it.
    """

    name: str
    value: float
    interval: tuple[float, float]
    level: float
    standard_error: float = math.nan

    @property
    def bounded(self) -> bool:
        """Whether both ends of the interval are finite."""
        return all(math.isfinite(end) for end in self.interval)

    def __str__(self) -> str:
        low, high = self.interval
        return f"{self.name} {self.value:.4g} ({low:.4g} to {high:.4g} at {self.level:.0%})"
