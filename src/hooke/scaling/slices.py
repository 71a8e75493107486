"""A node's calls as few pieces that start and end together, so that a schedule of a million items costs what one of a hundred does."""

from __future__ import annotations

import math
from collections.abc import Sequence

from hooke.scaling.schedule import Slice

__all__ = ["MOST_SINGLE", "slices_of"]

MOST_SINGLE = 128
"""Up to so many items each is a piece of its own."""
MOST_LANES = 32
"""Of more items, so many pieces at most run side by side, each as wide as is needed to fill the slots,"""
MOST_PIECES = 64
"""and there are so many in all."""
GOLDEN = (math.sqrt(5) - 1) / 2


def slices_of(items: int, mean_s: float, *, at_once: int, shape: Sequence[float] = ()) -> list[Slice]:
    """The pieces of `items` items of `mean_s` seconds each, of which `at_once` can run at once.

    `shape` is how long items took, as multiples of their mean, in any order: single items are dealt from it evenly, and
    the mean stays. Of many items the last round is full: they take ceil(items / at_once) rounds.
    """
    if items <= MOST_SINGLE:
        return [Slice(1, mean_s * share, at + 1) for at, share in enumerate(_dealt(items, shape))]
    width = max(1, math.ceil(min(at_once, items) / MOST_LANES))
    lanes = max(1, min(at_once, items) // width)
    rounds = math.ceil(items / (lanes * width))
    deep = max(1, min(rounds, MOST_PIECES // lanes))
    seconds = mean_s * rounds / deep
    count = lanes * deep
    return [Slice(width, seconds, items * (at + 1) // count) for at in range(count)]


def _dealt(items: int, shape: Sequence[float]) -> list[float]:
    """`items` multiples of the mean, spread over the quantiles of `shape` by golden steps, so that any few are typical."""
    if len(shape) < 2 or items < 2:
        return [1.0] * items
    ordered = sorted(shape)
    dealt = [ordered[int((at * GOLDEN % 1.0) * len(ordered))] for at in range(1, items + 1)]
    mean = sum(dealt) / items
    return [share / mean for share in dealt] if mean > 0 else [1.0] * items
