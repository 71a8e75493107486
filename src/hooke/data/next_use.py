"""Which parts of a file to fetch next, and which to drop: by the next use of each, as far as that is known.

The order of a shuffle is known, so nothing is guessed: what is used last gives way (Belady, "A study of replacement algorithms",
IBM Systems Journal 1966). What is fetched ahead never takes the place of what is used before it (Cao, Felten, Karlin & Li, "A study of
integrated prefetching and caching strategies", SIGMETRICS 1995). Parts whose next use is unknown give way before all others, in the order
of their last use.

Time is counted in windows: all parts of a window are used at about the same time.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from hooke.data.order import Rows

__all__ = ["NEVER", "FetchOrder", "NextFetch", "NextUse"]

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


class NextFetch(NamedTuple):
    """A unit to fetch."""

    unit: int
    before: int
    """Only units may give way for it that are used in a later window."""
    urgent: bool = False
    """Somebody waits for it: it is fetched also where there is no room."""


class FetchOrder:
    """What to fetch next, and what gives way for it: first what somebody waits for, then what is expected, then that of the windows to come.

    `sizes` are those of the units, and `limit` is what the held ones may take, both in bytes; of `ahead` bytes, or two windows, it
    fetches beyond the window that is being used. Nothing is fetched here: the caller says what has landed.
    """

    def __init__(
        self, sizes: Rows, limit: int, *, ahead: int, next_uses: NDArray[np.int64] | None = None
    ) -> None:
        self.uses = NextUse(len(sizes), next_uses)
        self.once = False
        """Whether what was read once gives way before the window ends: where a window takes more than half of the room."""
        self._sizes, self._limit, self._ahead_bytes = sizes, limit, ahead
        self._expected: dict[int, None] = {}
        self._urgent: set[int] = set()
        self._pending: set[int] = set()
        """Units that are expected or being fetched."""
        self._elsewhere: set[int] = set()
        """Units that another process was fetching, or that could not be fetched."""
        self._windows: Iterator[Rows] | None = None
        self._begun = True
        """Whether the first window of the order has begun."""
        self._epoch = self._ahead = 0

    def follow(self, windows: Iterator[Rows], count: int) -> None:
        """Another order begins: the units of its windows, each once; an epoch has `count` windows."""
        self.uses.forget()
        self._windows, self._epoch, self._begun = windows, count, False
        first = self._tell()
        self._ahead = 2
        if first is not None and first.size:
            size = max(int(self._sizes[first].sum()), 1)
            # An epoch at most: it uses all there is.
            self._ahead = max(2, min(count, self._ahead_bytes // size))
            self.once = 2 * size > self._limit

    def begin(self, units: Rows) -> list[int]:
        """A window begins, that uses these units. Returns those of which it is not known whether they are there: see `found`."""
        if self._begun:
            self.uses.begin()
        self._begun = True
        if self.uses.known <= self.uses.now:
            self.uses.tell(units)
        unknown = sorted(self._elsewhere - self._pending)
        self._elsewhere.clear()
        return unknown

    def found(self, unit: int, *, there: bool) -> None:
        """Whether a unit is there."""
        if there:
            self.uses.hold(unit)
        else:
            self.uses.drop(unit)

    def expect(self, unit: int) -> None:
        """A unit is read next, after those that are expected already."""
        if unit not in self._pending:
            self._pending.add(unit)
            self._expected[unit] = None
            self.uses.coming[unit] = True

    def wait_for(self, unit: int) -> None:
        """Somebody waits for a unit, which is not there."""
        if unit not in self._pending:
            self.uses.drop(unit)
            self.expect(unit)
        if unit in self._expected:
            self._urgent.add(unit)

    @property
    def pending(self) -> frozenset[int]:
        """The units that are expected or being fetched."""
        return frozenset(self._pending)

    @property
    def expected(self) -> tuple[int, ...]:
        """The units that are expected and not being fetched."""
        return tuple(self._expected)

    def next(self) -> NextFetch | None:
        """What to fetch now; it stays that until `begun`, or until something else changes."""
        for unit in self._expected if self._urgent else ():
            if unit in self._urgent:
                return NextFetch(unit, -1, urgent=True)
        for unit in self._expected:
            return NextFetch(unit, self.uses.now)
        planned = self._planned()
        return None if planned is None else NextFetch(planned, int(self.uses.next[planned]))

    def begun(self, unit: int) -> None:
        """A unit is being fetched."""
        self._expected.pop(unit, None)
        self._urgent.discard(unit)
        self._pending.add(unit)
        self.uses.coming[unit] = True

    def ended(self, unit: int, *, there: bool) -> None:
        """A unit was fetched, or was not: then it is not wanted before the next window, unless somebody waits for it."""
        self._expected.pop(unit, None)
        self._urgent.discard(unit)
        self._pending.discard(unit)
        if there:
            self.uses.hold(unit)
        else:
            self._elsewhere.add(unit)

    def look_ahead(self) -> None:
        """Learn of the windows of an epoch: then it is known which unit is used last."""
        while self.uses.known <= self.uses.now + self._epoch and self._tell() is not None:
            pass

    def give_way(self, before: int, others: Callable[[int], int]) -> int | None:
        """A unit that gives way for one with this `before`, and is not held any more; None if none may. `others`: when others use it."""
        found = self.uses.farthest(others)
        if found is None or min(int(self.uses.next[found]), others(found)) <= before:
            return None
        self.uses.drop(found)
        return found

    def _planned(self) -> int | None:
        until = self.uses.now + 1 + self._ahead
        while True:
            unit = self.uses.wanted(until)
            if unit is not None or self.uses.known >= until or self._tell() is None:
                return unit

    def _tell(self) -> Rows | None:
        """Learn of one more window: its units."""
        units = None if self._windows is None else next(self._windows, None)
        if units is None:
            self._windows = None
            return None
        self.uses.tell(units)
        return units
