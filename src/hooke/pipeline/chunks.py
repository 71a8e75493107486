"""How many items of a map go into one attempt: sized by measured duration."""

from __future__ import annotations

from collections.abc import Mapping

from hooke.base.intervals import IntervalSet

__all__ = ["ChunkSizer"]

TARGET_S = 0.1
"""Seconds of work an attempt should hold: a thousand times the cost of handing one out, and short enough to balance."""

CHUNKS_PER_SLOT = 3
"""Never less than this many chunks per slot are left to come, so that the last ones end together."""

LEAST_S = 0.01
"""Less work than this is not shared out further, since handing it out costs a tenth of it."""

GROWTH = 8
"""A chunk is at most this many times the largest one measured: early items may not be typical."""

WORTH_ORDERING_S = 0.05
"""Items shorter than this are not worth running one by one for the sake of their order."""

LOOK_AHEAD = 64
"""How many long items that are not ready a choice looks past."""


class ChunkSizer:
    """Sizes the chunks of one map from what was measured of it."""

    __slots__ = ("_items", "_largest", "_order", "_seconds")

    def __init__(self) -> None:
        self._items = 0
        self._seconds = 0.0
        self._largest = 0
        self._order: list[int] | None = None  # the longest last

    def measured(self, items: int, seconds: float) -> None:
        """Note that `items` items took `seconds`."""
        self._items += items
        self._seconds += seconds
        self._largest = max(self._largest, items)

    def size(self, remaining: int, slots: int) -> int:
        """Items for the next chunk, at least 1, with `remaining` to do on `slots` slots."""
        if not self._items:
            return 1
        mean_s = self._seconds / self._items
        by_time, least = (_items(seconds, mean_s, remaining) for seconds in (TARGET_S, LEAST_S))
        fair = -(-remaining // (CHUNKS_PER_SLOT * max(1, slots)))
        return max(1, min(by_time, max(fair, least), self._largest * GROWTH))

    def longest(self, expected_s: Mapping[int, float], ready: IntervalSet) -> int | None:
        """The ready item that is expected to take longest; None where no long one is known.

        Longer items that are not ready now (done, running, or waiting) are passed for good: they run
        in the ordinary order, so that a choice costs nothing on average.
        """
        if self._order is None:
            known = [item for item, seconds in expected_s.items() if seconds >= WORTH_ORDERING_S]
            self._order = sorted(known, key=lambda item: (expected_s[item], -item))
        for _ in range(min(LOOK_AHEAD, len(self._order))):
            item = self._order[-1]
            if ready.contains(item, item + 1):
                return item  # and stays: whether it runs is decided elsewhere
            self._order.pop()
        return None


def _items(seconds: float, mean_s: float, most: int) -> int:
    """How many items of `mean_s` make so many seconds, at most `most`."""
    return int(min(most, seconds / mean_s)) if mean_s > 0 else most
