"""Seconds of a call on n rows, a n + b, from calls that were only counted: how many of which size, and their seconds together.

`fit` takes single measurements, whose errors are independent. Thousands of calls of one minute are not: they share what else
the machine did. So the calls come in blocks of time, and each interval is from how much the answer changes when a block is
left out (the delete-one jackknife: Miller, "The jackknife - a review", Biometrika 61, 1974), with Student's t of the
blocks less one. What calls in a block share is thereby counted once, and not as often as there are calls.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import stdtrit

from hooke.base.errors import NotEnoughData
from hooke.scaling.families import Floats
from hooke.scaling.measurements import Estimate

__all__ = ["FEWEST_BLOCKS", "Affine", "CallBlock", "affine"]

FEWEST_BLOCKS = 4
"""With three, Student's t makes every interval more than four standard errors wide."""
LEAST_SPREAD = 1.5
"""The largest size over the smallest, of those that are no rarity: below it neither number is told from the other."""
RARE = 0.01
"""The share of all calls below which a size does not count for that spread."""
MOST_LASTING = 0.8
PASSES = 5
"""Of weighting by the last answer; the first two move it, the rest by less than its error."""


@dataclass(frozen=True, slots=True)
class CallBlock:
    """Calls of about one size, in one block of time: how many, their rows together, their seconds together."""

    calls: int
    rows: float
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Affine:
    """A call on n rows takes a n + b seconds on average. `left_out` is (blocks, 2): a and b without each block.

    Intervals hold with probability `level`. A size beyond `most_rows`, the largest that was seen, is an extrapolation.
    """

    both: tuple[float, float]
    left_out: Floats
    level: float
    calls: int
    least_rows: float
    most_rows: float

    @property
    def a(self) -> Estimate:
        """Seconds a row."""
        return self._estimate("seconds per row", lambda a, _: a)

    @property
    def b(self) -> Estimate:
        """Seconds a call."""
        return self._estimate("seconds per call", lambda _, b: b)

    def seconds(self, rows: float) -> Estimate:
        """Of a call on so many rows."""
        return self._estimate(f"seconds of {rows:g} rows", lambda a, b: a * rows + b, log=True)

    def rate(self, rows: float) -> Estimate:
        """Rows a second, when call follows call and each has so many."""
        return self._estimate(f"rows a second at {rows:g}", lambda a, b: rows / (a * rows + b), log=True)

    def rows_at(self, load: float) -> float:
        """How many rows gather while a call of as many runs, at a load of rows a second; infinite where it never catches up."""
        a, b = self.both
        return load * b / (1 - load * a) if load * a < 1 else math.inf

    def load_within(self, limit_s: float, most: float) -> Estimate:
        """The load in rows a second at which a row waits for one call and runs in the next, both within `limit_s`.

        Calls have at most `most` rows. 0 where even a single row takes more than that.
        """

        def load(a: Floats, b: Floats) -> Floats:
            room = limit_s / 2 - b
            with np.errstate(divide="ignore", invalid="ignore"):
                rows = np.where(room > 0, np.minimum(most, room / np.maximum(a, 1e-300)), 0.0)
            return np.where(rows >= 1, rows / (a * rows + b), 0.0)

        return self._estimate(f"rows a second within {limit_s:g} s", load)

    def _estimate(
        self, name: str, quantity: Callable[[Floats, Floats], Floats], *, log: bool = False
    ) -> Estimate:
        value = float(quantity(*(np.array([part]) for part in self.both))[0])
        without = quantity(self.left_out[:, 0], self.left_out[:, 1])
        blocks = len(without)
        scaled = np.log(without) if log else without
        off = scaled - scaled.mean()
        error = math.sqrt((blocks - 1) / blocks * float((off**2).sum()) * _lasting(off))
        half = float(stdtrit(blocks - 1, (1 + self.level) / 2)) * error
        ends = (
            (value * math.exp(-half), value * math.exp(half))
            if log
            else (max(value - half, 0.0), value + half)
        )
        return Estimate(
            name=name, value=value, interval=ends, level=self.level, standard_error=math.nan if log else error
        )


def _lasting(off: Floats) -> float:
    """By how much what lasts from block to block raises the variance of their mean, from the autocorrelation of neighbours."""
    whole = float((off**2).sum())
    if not whole:
        return 1.0
    # Of a few blocks that are independent it is below zero on average, by one over their number.
    together = float((off[1:] * off[:-1]).sum()) / whole + 1 / off.size
    lasting = min(max(together, 0.0), MOST_LASTING)
    return (1 + lasting) / (1 - lasting)


def affine(blocks: Sequence[Sequence[CallBlock]], *, level: float = 0.95) -> Affine:
    """The a and b that calls in these blocks of time speak for; errors are a share of what a call takes.

    Raises NotEnoughData for fewer than 4 blocks with calls, and where all calls had about one size.
    """
    counted = [[each for each in block if each.calls] for block in blocks]
    counted = [block for block in counted if block]
    if len(counted) < FEWEST_BLOCKS:
        raise NotEnoughData(
            f"calls of {len(counted)} blocks of time cannot show how far they differ",
            fix=f"at least {FEWEST_BLOCKS} of them, each with calls",
        )
    block = np.repeat(np.arange(len(counted)), [len(each) for each in counted])
    table = np.array(
        [(each.calls, each.rows, each.seconds) for part in counted for each in part], dtype=float
    )
    calls, rows, seconds = table[:, 0], table[:, 1] / table[:, 0], table[:, 2] / table[:, 0]
    least, most = _spread(calls, rows)
    if most < LEAST_SPREAD * least:
        raise NotEnoughData(
            f"all calls had about {most:.3g} rows, so what a call costs is not told from what a row costs",
            fix="calls of other sizes, by another load",
        )
    return Affine(
        both=_least_squares(calls, rows, seconds),
        left_out=np.array(
            [
                _least_squares(calls[block != out], rows[block != out], seconds[block != out])
                for out in range(len(counted))
            ]
        ),
        level=level,
        calls=int(calls.sum()),
        least_rows=least,
        most_rows=most,
    )


def _spread(calls: Floats, rows: Floats) -> tuple[float, float]:
    """The smallest and the largest size beyond the rarest ones at either end."""
    order = np.argsort(rows)
    share = np.cumsum(calls[order]) / calls.sum()
    least = rows[order][np.searchsorted(share, RARE)]
    most = rows[order][min(np.searchsorted(share, 1 - RARE), len(rows) - 1)]
    return float(least), float(most)


def _least_squares(calls: Floats, rows: Floats, seconds: Floats) -> tuple[float, float]:
    """A and b, neither below 0, of the least squared errors as shares of a n + b."""
    weights = calls / seconds.mean() ** 2
    a = b = 0.0
    for _ in range(PASSES):
        a, b = _line(weights, rows, seconds)
        weights = calls / (a * rows + b) ** 2
    return a, b


def _line(weights: Floats, rows: Floats, seconds: Floats) -> tuple[float, float]:
    whole = weights.sum()
    x, y = (weights * rows).sum() / whole, (weights * seconds).sum() / whole
    spread = (weights * (rows - x) ** 2).sum()
    a = float((weights * (rows - x) * (seconds - y)).sum() / spread) if spread > 0 else 0.0
    b = float(y - a * x)
    if a < 0:
        return 0.0, float(y)
    if b < 0:
        return float((weights * rows * seconds).sum() / (weights * rows**2).sum()), 0.0
    return a, b
