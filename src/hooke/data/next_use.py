"""Which parts of a file to fetch next, and which to drop: by the next use of each, as far as that is known.

The order of a shuffle is known, so nothing is guessed: what is used last gives way (Belady, "A study of replacement algorithms",
IBM Systems Journal 1966). What is fetched ahead never takes the place of what is used before it (Cao, Felten, Karlin & Li, "A study of
integrated prefetching and caching strategies", SIGMETRICS 1995). Parts whose next use is unknown give way before all others, in the order
of their last use.

Time is counted in windows: all parts of a window are used at about the same time.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from hooke.data.order import Rows

__all__ = ["NEVER", "NextUse"]

NEVER = 1 << 62
"""The next use of what has none, or of which none is known."""
STEP = 4096
"""Uses that are looked at together."""


class NextUse:
    """The uses of `units` parts of a file, and which of these are held. `now` is the window that is being used; the first is 0.

    `next_uses`, one for each, may be memory that other processes read.
    """

    def __init__(self, units: int, next_uses: NDArray[np.int64] | None = None) -> None:
        self.now = 0
        self.known = 0
        """The first window whose uses are not known."""
        self.next: Rows = np.empty(units, np.int64) if next_uses is None else next_uses
        self.held = np.zeros(units, np.bool_)
        self.coming = np.zeros(units, np.bool_)
        """Parts that are being fetched."""
        self._used_at = np.zeros(units, np.int64)
        self._count = self._held = 0
        self._farthest: list[tuple[int, int, int]] = []
        """A heap of (- next use, count of uses at the last one, unit). One that is out of date is put right when it comes up."""
        self.forget()

    def forget(self) -> None:
        """Know of no uses: another order follows, which begins with the window `now`."""
        self.known = self.now
        self.next[:] = NEVER
        self._units, self._windows, self._after = (np.empty(STEP, np.int64) for _ in range(3))
        self._size = self._base = self._at = 0
        self._first = np.full(self.next.size, -1, np.int64)
        """Of each unit, its first use that is known: a place among all uses that were ever told. Its last use:"""
        self._last = np.full(self.next.size, -1, np.int64)
        self.rank_again()

    def tell(self, units: Rows) -> None:
        """One more window uses these units, each named once."""
        while self._size + units.size > self._units.size:
            self._units, self._windows, self._after = (
                np.concatenate([each, each]) for each in (self._units, self._windows, self._after)
            )
        low, self._size = self._size, self._size + units.size
        self._units[low : self._size] = units
        self._windows[low : self._size] = self.known
        self._after[low : self._size] = -1
        at, before = self._base + np.arange(low, self._size), self._last[units]
        there = before >= self._base
        self._after[before[there] - self._base] = at[there]
        self._last[units] = at
        new = self.next[units] == NEVER
        self._first[units[new]], self.next[units[new]] = at[new], self.known
        self.known += 1

    def begin(self) -> None:
        """The next window begins. Uses before it that were not made are not made any more."""
        self.now += 1
        self.known = max(self.known, self.now)
        over = int(np.searchsorted(self._windows[: self._size], self.now))
        for unit in self._units[:over][self.next[self._units[:over]] < self.now].tolist():
            self._move_on(unit, self.now)
        self._at = max(self._at, over)
        if over > self._size // 2:
            for each in (self._units, self._windows, self._after):
                each[: self._size - over] = each[over : self._size].copy()
            self._base, self._size, self._at = self._base + over, self._size - over, self._at - over

    def use(self, unit: int, *, once: bool = True) -> None:
        """A unit is being used: once in a window, or maybe again."""
        self._count += 1
        self._used_at[unit] = self._count
        if once and self.next[unit] <= self.now:
            self._move_on(unit, self.now + 1)

    def _move_on(self, unit: int, window: int) -> None:
        """The next use of a unit is that in a window, or after it."""
        first = int(self._first[unit])
        while first >= 0 and self._windows[first - self._base] < window:
            first = int(self._after[first - self._base])
        self._first[unit] = first
        self.next[unit] = self._windows[first - self._base] if first >= 0 else NEVER
        if self.held[unit]:
            self._push(unit)

    def hold(self, unit: int) -> None:
        """A unit is there."""
        self.coming[unit] = False
        if not self.held[unit]:
            self.held[unit] = True
            self._held += 1
            self._push(unit)

    def drop(self, unit: int) -> None:
        """A unit is not there. If its next use is before that of what was fetched last, it is wanted again."""
        self._held -= int(self.held[unit])
        self.held[unit] = self.coming[unit] = False
        if self._first[unit] >= self._base:
            self._at = min(self._at, int(self._first[unit]) - self._base)

    def wanted(self, until: int) -> int | None:
        """The unit with the next use, of those that are not there, if that is in a window before `until`."""
        while self._at < self._size and self._windows[self._at] < until:
            high = min(self._at + STEP, self._size)
            some = self._units[self._at : high]
            due = self._first[some] == self._base + np.arange(self._at, high)
            missing = np.flatnonzero(due & ~(self.held[some] | self.coming[some]))
            if missing.size:
                self._at += int(missing[0])
                return int(self._units[self._at]) if self._windows[self._at] < until else None
            self._at = high
        return None

    def farthest(self, before: Callable[[int], int] | None = None) -> int | None:
        """The unit that is used last, of those that are held. `before` says when others use it, at the earliest."""
        while self._farthest:
            key, used, unit = self._farthest[0]
            there = min(int(self.next[unit]), NEVER if before is None else before(unit))
            entry = (-there, int(self._used_at[unit]), unit)
            if not self.held[unit]:
                heapq.heappop(self._farthest)
            elif entry == (key, used, unit):
                return unit
            else:
                heapq.heapreplace(self._farthest, entry)
        return None

    def _push(self, unit: int) -> None:
        heapq.heappush(self._farthest, (-int(self.next[unit]), int(self._used_at[unit]), unit))
        if len(self._farthest) > 4 * self._held + STEP:
            self.rank_again()

    def rank_again(self) -> None:
        """Others use units at other times than `farthest` was told before."""
        held = np.flatnonzero(self.held)
        self._farthest = list(
            zip((-self.next[held]).tolist(), self._used_at[held].tolist(), held.tolist(), strict=True)
        )
        heapq.heapify(self._farthest)
