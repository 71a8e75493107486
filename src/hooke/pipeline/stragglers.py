"""When an attempt at a map's items is a straggler: it runs much longer than what the map's items took so far.

A second attempt only ever uses slots that nothing else wants, so that one too many costs little and one too
few costs the wait for a stuck worker. Hence the simple measure: the slowest item, not a distribution.
"""

from __future__ import annotations

from collections.abc import Mapping

__all__ = ["Usual"]

TIMES_THE_SLOWEST = 2.0
"""Durations of a map are often skewed by less than this, and a stuck item by far more."""

LEAST_S = 1.0
"""No attempt is a straggler before: a second one costs a worker's start, and its loser a worker's end."""

ENOUGH_ITEMS = 3
"""So many must have finished before their durations say anything."""


class Usual:
    """What the items of one map took so far, each as a share of its attempt."""

    __slots__ = ("_items", "_slowest_s")

    def __init__(self) -> None:
        self._items = 0
        self._slowest_s = 0.0

    def measured(self, items: int, seconds: float) -> None:
        """Note that an attempt at `items` items finished in `seconds`."""
        self._items += items
        self._slowest_s = max(self._slowest_s, seconds / items)

    def limit_s(self, lo: int, hi: int, expected_s: Mapping[int, float]) -> float | None:
        """Seconds after which an attempt at items `lo..hi` is a straggler; None while too little is known.

        `expected_s` is what items took in earlier runs: one that was long then may be long again.
        """
        if self._items < ENOUGH_ITEMS:
            return None
        usual = self._slowest_s * (hi - lo)
        if expected_s:
            usual = sum(max(self._slowest_s, expected_s.get(item, 0.0)) for item in range(lo, hi))
        return max(LEAST_S, TIMES_THE_SLOWEST * usual)
