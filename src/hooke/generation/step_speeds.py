"""How fast replicas of a language model are beside one another, whatever work each of them got. Pure.

A replica's speed is what its steps should have taken by one law of their work, as in `StepWork`, divided by what they took. The law is the one
by which the speed of each replica is most nearly the same in all its reports: least squares without parts below 0.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from operator import mul

__all__ = ["PARTS", "StepSpeeds", "non_negative"]

PARTS = 5
"""Of the time of a step: fixed, and of each part of its work."""
FORGET_S = 20.0
"""In so long what was observed fades to a third: a replica that was slow and got nothing is tried again."""
PRIOR_STEPS = 4
"""So many steps count for half of the speed; the other half is that of the fastest."""
ALIKE = 0.75
"""A replica that is nearly as fast as the fastest is as fast: smaller differences are noise."""
SLOWEST = 0.01
EQUAL = 0.01
"""How much differences between replicas count beside those within one: what only tells both apart is more likely the work's."""


@dataclass(slots=True)
class _Work:
    """Faded sums over the reports of a replica. Of each: its steps and their work, for a second that they took."""

    at: float
    steps: float = 0.0
    rates: list[float] = field(default_factory=lambda: [0.0] * PARTS)
    """Weighted by the steps."""
    products: list[list[float]] = field(default_factory=lambda: [[0.0] * PARTS for _ in range(PARTS)])
    """Of each rate by each, weighted so, too."""

    def fade(self, now: float) -> None:
        left = math.exp(-max(now - self.at, 0.0) / FORGET_S)
        self.at = now
        self.steps *= left
        self.rates = [left * each for each in self.rates]
        self.products = [[left * each for each in row] for row in self.products]

    def add(self, steps: int, work: Sequence[float], seconds: float) -> None:
        rates = [each / seconds for each in (steps, *work)]
        self.steps += steps
        for at, rate in enumerate(rates):
            self.rates[at] += steps * rate
            row = self.products[at]
            for other, each in enumerate(rates):
                row[other] += steps * rate * each


class StepSpeeds:
    """Takes what replicas report that they did; the fastest has speed 1."""

    def __init__(self) -> None:
        self._work: dict[str, _Work] = {}

    def observe(self, name: str, now: float, *, steps: int, work: Sequence[float], busy_s: float) -> None:
        """A replica computed so many steps, which took `busy_s`. `work`: the sums of their `StepWork`."""
        known = self._work.setdefault(name, _Work(now))
        known.fade(now)
        if steps > 0 and busy_s > 0:
            known.add(steps, work, busy_s)

    def forget(self, name: str) -> None:
        """It has ended."""
        self._work.pop(name, None)

    def speeds(self) -> dict[str, float]:
        """Of each replica that was observed."""
        law = self._law()
        raw = {
            name: sum(map(mul, law, work.rates)) / work.steps
            for name, work in self._work.items()
            if work.steps and any(law)
        }
        seen = [speed for name, speed in raw.items() if self._work[name].steps >= PRIOR_STEPS]
        fastest = max(seen, default=max(raw.values(), default=1.0))
        found: dict[str, float] = {}
        for name, work in self._work.items():
            beside = min(raw.get(name, fastest) / fastest, 1.0)
            mixed = (beside * work.steps + PRIOR_STEPS) / (work.steps + PRIOR_STEPS)
            found[name] = 1.0 if mixed >= ALIKE else max(mixed, SLOWEST)
        return found

    def _law(self) -> list[float]:
        """Seconds of a step and of each part of its work, but for a factor: those by which the speed of each replica varies least."""
        several = [work for work in self._work.values() if work.steps]
        steps, rates = (
            sum(work.steps for work in several),
            [sum(work.rates[at] for work in several) for at in range(PARTS)],
        )

        def spread(at: int, other: int) -> float:
            whole = sum(work.products[at][other] for work in several)
            between = sum(work.rates[at] * work.rates[other] / work.steps for work in several)
            return whole - between + EQUAL * (between - rates[at] * rates[other] / max(steps, 1e-300))

        return non_negative([[spread(at, other) for other in range(PARTS)] for at in range(PARTS)], rates)


def non_negative(products: Sequence[Sequence[float]], times: Sequence[float]) -> list[float]:
    """The least squares x'Ax - 2x'b without parts below 0, for `products` A and `times` b: the most negative is left out until there is none.

    In plain Python: five parts take no longer than by NumPy, which the proxy does not load.
    """
    scale = [math.sqrt(max(row[at], 1e-300)) for at, row in enumerate(products)]
    kept = [at for at, row in enumerate(products) if row[at] > 0]
    found = [0.0] * len(times)
    while kept:
        # What was never seen apart is shared evenly: a ridge that is far below what is seen.
        rows = [
            [
                products[at][other] / (scale[at] * scale[other]) + (1e-6 if at == other else 0.0)
                for other in kept
            ]
            + [times[at] / scale[at]]
            for at in kept
        ]
        solved = _solved(rows)
        least = min(range(len(kept)), key=solved.__getitem__)
        if solved[least] >= 0:
            for at, each in zip(kept, solved, strict=True):
                found[at] = each / scale[at]
            break
        kept.pop(least)
    return found


def _solved(rows: list[list[float]]) -> list[float]:
    """Of positive definite equations, each with its right side at the end: Gauss's elimination, which needs no pivots there."""
    for at, row in enumerate(rows):
        for below in rows[at + 1 :]:
            factor = below[at] / row[at]
            for column in range(at, len(row)):
                below[column] -= factor * row[column]
    solved = [0.0] * len(rows)
    for at in range(len(rows) - 1, -1, -1):
        rest = sum(rows[at][other] * solved[other] for other in range(at + 1, len(rows)))
        solved[at] = (rows[at][-1] - rest) / rows[at][at]
    return solved
