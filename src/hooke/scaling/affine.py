"""Seconds of a call on n rows, a n + b, from the count and the total seconds of calls by size.

`fit` takes single measurements with independent errors. Thousands of calls in one minute share what else the machine did.
So calls come in blocks of time, and intervals come from the delete-one jackknife over blocks (Miller, "The jackknife - a
review", Biometrika 61, 1974), with Student's t of blocks - 1 degrees of freedom. An error that calls in a block share
counts once instead of once per call.
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
"""The least ratio of the largest to the smallest common size that separates a from b."""
RARE = 0.01
"""Sizes below this share of all calls are ignored for that ratio."""
MOST_LASTING = 0.8
PASSES = 5
"""Passes of reweighting; after two, the answer moves by less than its error."""


@dataclass(frozen=True, slots=True)
class CallBlock:
    """Calls of about one size in one block of time: their number, total rows and total seconds."""

    calls: int
    rows: float
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True, eq=False, repr=False)
class Affine:
    """A call on n rows takes a n + b seconds on average. `left_out` (blocks, 2) is a and b without each block.

    Intervals contain the truth with probability `level`. Sizes above `most_rows`, the largest seen, are extrapolations.
    """

    both: tuple[float, float]
    left_out: Floats
    level: float
    calls: int
    least_rows: float
    most_rows: float

    def __repr__(self) -> str:
        return f"Affine({self.a}; {self.b}; {self.calls:,} calls on {self.least_rows:g} to {self.most_rows:g} rows)"

    @property
    def a(self) -> Estimate:
        """Seconds per row."""
        return self._estimate("seconds per row", lambda a, _: a)

    @property
    def b(self) -> Estimate:
        """Seconds per call."""
        return self._estimate("seconds per call", lambda _, b: b)

    def seconds(self, rows: float) -> Estimate:
        """Seconds of a call on `rows` rows."""
        return self._estimate(f"seconds of {rows:g} rows", lambda a, b: a * rows + b, log=True)

    def rate(self, rows: float) -> Estimate:
        """Rows per second of back-to-back calls on `rows` rows."""
        return self._estimate(f"rows per second at {rows:g}", lambda a, b: rows / (a * rows + b), log=True)

    def rows_at(self, load: float) -> float:
        """The batch size at which as many rows arrive during a call as it has, at `load` rows per second; infinite if overloaded."""
        a, b = self.both
        return load * b / (1 - load * a) if load * a < 1 else math.inf

    def load_within(self, limit_s: float, most: float) -> Estimate:
        """The load in rows per second at which a row waits for one call and runs in the next, both within `limit_s`.

        Calls have at most `most` rows. The load is 0 if even a single row takes longer.
        """

        def load(a: Floats, b: Floats) -> Floats:
            room = limit_s / 2 - b
            with np.errstate(divide="ignore", invalid="ignore"):
                rows = np.where(room > 0, np.minimum(most, room / np.maximum(a, 1e-300)), 0.0)
            return np.where(rows >= 1, rows / (a * rows + b), 0.0)

        return self._estimate(f"rows per second within {limit_s:g} s", load)

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
    """The factor by which autocorrelation between neighboring blocks raises the variance of their mean."""
    whole = float((off**2).sum())
    if not whole:
        return 1.0
    # The estimate of few independent blocks is biased by -1 / blocks.
    together = float((off[1:] * off[:-1]).sum()) / whole + 1 / off.size
    lasting = min(max(together, 0.0), MOST_LASTING)
    return (1 + lasting) / (1 - lasting)


def affine(blocks: Sequence[Sequence[CallBlock]], *, level: float = 0.95) -> Affine:
    """The a and b fitted to calls in blocks of time; errors are a share of a call's seconds.

    Raises NotEnoughData for fewer than 4 blocks with calls, or if all calls had about one size.
    """
    counted = [[each for each in block if each.calls] for block in blocks]
    counted = [block for block in counted if block]
    if len(counted) < FEWEST_BLOCKS:
        raise NotEnoughData(
            f"calls from {len(counted)} blocks of time are too few to estimate their spread",
            fix=f"use at least {FEWEST_BLOCKS} blocks with calls",
        )
    block = np.repeat(np.arange(len(counted)), [len(each) for each in counted])
    table = np.array(
        [(each.calls, each.rows, each.seconds) for part in counted for each in part], dtype=float
    )
    calls, rows, seconds = table[:, 0], table[:, 1] / table[:, 0], table[:, 2] / table[:, 0]
    least, most = _spread(calls, rows)
    if most < LEAST_SPREAD * least:
        raise NotEnoughData(
            f"all calls had about {most:.3g} rows, so the costs per call and per row cannot be separated",
            fix="change the load, so that calls have other sizes",
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
    """The smallest and the largest size, without rare ones."""
    order = np.argsort(rows)
    share = np.cumsum(calls[order]) / calls.sum()
    least = rows[order][np.searchsorted(share, RARE)]
    most = rows[order][min(np.searchsorted(share, 1 - RARE), len(rows) - 1)]
    return float(least), float(most)


def _least_squares(calls: Floats, rows: Floats, seconds: Floats) -> tuple[float, float]:
    """The non-negative a and b of the least squared relative errors."""
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
