"""How long answers took, counted in bins of fixed width by the logarithm: small enough for a journal, and they add up.

As an HDR histogram's, a bin ends 9 % above where it begins, and what is read from it is as near to the truth.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence

__all__ = ["BINS", "counted", "latency_bin", "quantile_s", "together"]

LEAST_S, OCTAVES, EACH = 2.0**-10, 16, 8
"""From a millisecond, which is as fine as an event loop's clock, to a minute; eight bins each time it doubles."""
BOUNDS_S = tuple(LEAST_S * 2.0 ** (at / EACH) for at in range(OCTAVES * EACH + 1))
BINS = len(BOUNDS_S) + 1
"""The first is for what took a millisecond at most, the last for what took longer than a minute."""


def latency_bin(seconds: float) -> int:
    """Where it is counted."""
    return bisect_left(BOUNDS_S, seconds)


def counted(counts: Sequence[int]) -> tuple[tuple[int, int], ...]:
    """Of counts (BINS,) those that are not 0, as (bin, count)."""
    return tuple((at, count) for at, count in enumerate(counts) if count)


def together(several: Iterable[Iterable[tuple[int, int]]]) -> tuple[tuple[int, int], ...]:
    """The counts of all of them."""
    sums: dict[int, int] = {}
    for counts in several:
        for at, count in counts:
            sums[at] = sums.get(at, 0) + count
    return tuple(sorted(sums.items()))


def quantile_s(counts: Mapping[int, float], percent: float) -> float | None:
    """The seconds within which so many percent of what is in `counts` were answered; None where nothing is."""
    whole = sum(counts.values())
    if not whole:
        return None
    left = percent / 100 * whole
    for at in sorted(counts):
        if counts[at] and left <= counts[at] * (1 + 1e-12):
            return _within(at, left / counts[at])
        left -= counts[at]
    return _within(max(counts), 1.0)


def _within(at: int, share: float) -> float:
    """The point so far into a bin: those in it are taken to be evenly spread."""
    low = BOUNDS_S[at - 1] if at else 0.0
    high = BOUNDS_S[min(at, len(BOUNDS_S) - 1)]
    return low + share * (high - low)
