"""Half-open ranges of a map's items, so that a million items cost a few ranges instead of a million objects."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence

import msgspec

from hooke.base.ref import ItemsMadeFrom, MadeFrom, Ref

__all__ = ["NO_ITEMS", "IntervalSet", "OneItem", "OneSegment", "Segment", "SegmentMap", "put_pieces", "split"]

Segment = tuple[int, int, Ref, int]
"""Items `lo..hi` are elements `start..` of the stored object: `(lo, hi, ref, start)`."""


_NONE: list[int] = []
"""The bounds of an empty set, which none changes: most sets of most nodes stay empty."""


class IntervalSet:
    """A set of non-negative ints kept as sorted, disjoint, non-touching ranges. Every operation is O(ranges) or better."""

    __slots__ = ("_highs", "_lows", "count")

    def __init__(self, ranges: Iterator[tuple[int, int]] | tuple[tuple[int, int], ...] = ()) -> None:
        self._lows = self._highs = _NONE
        self.count = 0
        for lo, hi in ranges:
            self.add(lo, hi)

    def __iter__(self) -> Iterator[tuple[int, int]]:
        return iter(list(zip(self._lows, self._highs, strict=True)))

    def __bool__(self) -> bool:
        return bool(self._lows)

    def __repr__(self) -> str:
        return f"IntervalSet({list(self)})"

    def add(self, lo: int, hi: int) -> None:
        """Join `lo..hi` to the set."""
        if lo >= hi:
            return
        if not self.count:
            self._lows, self._highs, self.count = [lo], [hi], hi - lo
            return
        first = bisect_left(self._highs, lo)
        last = bisect_right(self._lows, hi)
        if first < last:
            lo = min(lo, self._lows[first])
            hi = max(hi, self._highs[last - 1])
        self.count += (hi - lo) - self._sum(first, last)
        self._lows[first:last] = [lo]
        self._highs[first:last] = [hi]

    def remove(self, lo: int, hi: int) -> None:
        """Remove `lo..hi` from the set; items outside the set do not matter."""
        if lo >= hi or not self.count:
            return
        if lo <= self._lows[0] and self._highs[-1] <= hi:
            self._lows = self._highs = _NONE
            self.count = 0
            return
        first = bisect_right(self._highs, lo)
        last = bisect_left(self._lows, hi)
        if first >= last:
            return
        removed = self._sum(first, last)
        left = (self._lows[first], lo)
        right = (hi, self._highs[last - 1])
        kept = [(a, b) for a, b in (left, right) if a < b]
        self._lows[first:last] = [a for a, _ in kept]
        self._highs[first:last] = [b for _, b in kept]
        self.count += sum(b - a for a, b in kept) - removed

    def contains(self, lo: int, hi: int) -> bool:
        """Whether every item of `lo..hi` is in the set."""
        if lo >= hi:
            return True
        at = bisect_right(self._lows, lo) - 1
        return at >= 0 and self._highs[at] >= hi

    def within(self, lo: int, hi: int) -> list[tuple[int, int]]:
        """The ranges of the set that lie in `lo..hi`, cut to it."""
        if lo >= hi or not self.count:
            return []
        first = bisect_right(self._highs, lo)
        last = bisect_left(self._lows, hi)
        return [(max(self._lows[i], lo), min(self._highs[i], hi)) for i in range(first, last)]

    def gaps(self, lo: int, hi: int) -> list[tuple[int, int]]:
        """The ranges of `lo..hi` that are not in the set."""
        if not self.count and lo < hi:
            return [(lo, hi)]
        out: list[tuple[int, int]] = []
        for a, b in self.within(lo, hi):
            if lo < a:
                out.append((lo, a))
            lo = b
        if lo < hi:
            out.append((lo, hi))
        return out

    def first(self, most: int) -> tuple[int, int]:
        """The first range, cut to `most` items. The set must not be empty."""
        lo, hi = self._lows[0], self._highs[0]
        return lo, min(hi, lo + most)

    def _sum(self, first: int, last: int) -> int:
        return sum(self._highs[i] - self._lows[i] for i in range(first, last))


_NO_SEGMENTS: list[Segment] = []
"""Of all empty maps, as _NONE."""


class _FixedSet(IntervalSet):
    """A set that many owners have, so none may change it."""

    __slots__ = ()

    def __init__(self, lo: int, hi: int) -> None:
        super().__init__()
        super().add(lo, hi)

    def add(self, lo: int, hi: int) -> None:
        """Raises TypeError."""
        raise TypeError(f"items {lo}..{hi} are added to a set that others have")

    def remove(self, lo: int, hi: int) -> None:
        """Raises TypeError if it has items."""
        if self.count:
            raise TypeError(f"items {lo}..{hi} are removed from a set that others have")


class OneItem(IntervalSet):
    """A set of the one item of a call, for a third of the time."""

    __slots__ = ()

    def __init__(self) -> None:
        self.count = 0

    def __iter__(self) -> Iterator[tuple[int, int]]:
        return iter(((0, 1),) if self.count else ())

    def __bool__(self) -> bool:
        return self.count > 0

    def add(self, lo: int, hi: int) -> None:
        """As in IntervalSet. Raises ValueError for another item than 0."""
        if lo < hi:
            if (lo, hi) != (0, 1):
                raise ValueError(f"items {lo}..{hi} of one item")
            self.count = 1

    def remove(self, lo: int, hi: int) -> None:
        """As in IntervalSet."""
        if lo <= 0 < hi:
            self.count = 0

    def contains(self, lo: int, hi: int) -> bool:
        """As in IntervalSet."""
        return lo >= hi or (self.count > 0 and (lo, hi) == (0, 1))

    def within(self, lo: int, hi: int) -> list[tuple[int, int]]:
        """As in IntervalSet."""
        return [(0, 1)] if self.count and lo <= 0 < hi else []

    def gaps(self, lo: int, hi: int) -> list[tuple[int, int]]:
        """As in IntervalSet."""
        lo += self.count > 0 and lo == 0
        return [(lo, hi)] if lo < hi else []

    def first(self, most: int) -> tuple[int, int]:  # noqa: ARG002 - of one item
        """As in IntervalSet."""
        return 0, 1


NO_ITEMS = _FixedSet(0, 0)
"""The set of those that have none yet, in place of one of their own: it takes no memory, and cannot be changed."""
_ITEM_0 = _FixedSet(0, 1)


def _low(segment: Segment) -> int:
    return segment[0]


class SegmentMap:
    """Which stored object holds which items of a node. Recording an item twice is an error."""

    __slots__ = ("_segments", "items")

    def __init__(self) -> None:
        self._segments = _NO_SEGMENTS
        self.items = IntervalSet()

    def __len__(self) -> int:
        return self.items.count

    def __iter__(self) -> Iterator[Segment]:
        return iter(self._segments)

    def record(self, lo: int, hi: int, ref: Ref, start: int = 0) -> None:
        """Record `lo..hi`. Raises ValueError if one of them is already recorded."""
        if lo >= hi:
            return
        if self.items.within(lo, hi):
            raise ValueError(f"items {lo}..{hi} are recorded already")
        if self._segments:
            self._segments.insert(bisect_left(self._segments, lo, key=_low), (lo, hi, ref, start))
        else:
            self._segments = [(lo, hi, ref, start)]
        self.items.add(lo, hi)

    def replace(self, lo: int, hi: int, ref: Ref, start: int = 0) -> None:
        """Record `lo..hi`, replacing earlier records."""
        if lo >= hi:
            return
        first = max(bisect_right(self._segments, lo, key=_low) - 1, 0)
        last = bisect_left(self._segments, hi, key=_low)
        kept: list[Segment] = []
        for low, high, old, begin in self._segments[first:last]:
            sides = ((low, min(high, lo), begin), (max(low, hi), high, begin + max(low, hi) - low))
            kept += [(a, b, old, at) for a, b, at in sides if a < b]
        if not self._segments:
            self._segments = []
        self._segments[first:last] = sorted([*kept, (lo, hi, ref, start)], key=_low)
        self.items.add(lo, hi)

    def cut(self, lo: int, hi: int) -> list[Segment]:
        """The segments that hold `lo..hi`, in order, cut to it. Raises KeyError if one of them is missing."""
        if not self.items.contains(lo, hi):
            raise KeyError((lo, hi))
        if lo >= hi:
            return []
        out: list[Segment] = []
        at = bisect_right(self._segments, lo, key=_low) - 1
        while lo < hi:
            low, high, ref, start = self._segments[at]
            end = min(high, hi)
            out.append((lo, end, ref, start + lo - low))
            lo, at = end, at + 1
        return out


class OneSegment:
    """A SegmentMap of the one item of a call, in a fifteenth of the memory."""

    __slots__ = ("_ref", "_start")

    def __init__(self) -> None:
        self._ref: Ref | None = None
        self._start = 0

    def __len__(self) -> int:
        return 0 if self._ref is None else 1

    def __iter__(self) -> Iterator[Segment]:
        return iter(() if self._ref is None else ((0, 1, self._ref, self._start),))

    @property
    def items(self) -> IntervalSet:
        """The items that are recorded. It cannot be changed: all calls have the same."""
        return NO_ITEMS if self._ref is None else _ITEM_0

    def record(self, lo: int, hi: int, ref: Ref, start: int = 0) -> None:
        """As in SegmentMap."""
        if self._ref is not None and lo < hi:
            raise ValueError(f"items {lo}..{hi} are recorded already")
        self.replace(lo, hi, ref, start)

    def replace(self, lo: int, hi: int, ref: Ref, start: int = 0) -> None:
        """As in SegmentMap. Raises ValueError for another item than 0."""
        if lo >= hi:
            return
        if (lo, hi) != (0, 1):
            raise ValueError(f"items {lo}..{hi} of one item")
        self._ref, self._start = ref, start

    def cut(self, lo: int, hi: int) -> list[Segment]:
        """As in SegmentMap."""
        if not self.items.contains(lo, hi):
            raise KeyError((lo, hi))
        return [segment for segment in self if lo < hi]


# --- What ranges of items were made from.


def put_pieces(pieces: list[ItemsMadeFrom], lo: int, hi: int, new: Sequence[ItemsMadeFrom]) -> None:
    """Replace what the sorted `pieces` say of items `lo..hi` by `new`, which lie there."""
    first = bisect_right(pieces, lo, key=lambda piece: piece.hi)
    last = first
    while last < len(pieces) and pieces[last].lo < hi:
        last += 1
    around = [
        msgspec.structs.replace(piece, lo=a, hi=b)
        for piece in pieces[first:last]
        for a, b in ((piece.lo, min(piece.hi, lo)), (max(piece.lo, hi), piece.hi))
        if a < b
    ]
    pieces[first:last] = sorted([*around, *new], key=lambda piece: piece.lo)


def split(pieces: Sequence[ItemsMadeFrom], lo: int, hi: int) -> Iterator[tuple[int, int, MadeFrom | None]]:
    """`lo..hi` in ranges with one MadeFrom, in order; None for items between the sorted `pieces`."""
    at = bisect_right(pieces, lo, key=lambda piece: piece.hi)
    while at < len(pieces) and pieces[at].lo < hi:
        piece, at = pieces[at], at + 1
        if lo < piece.lo:
            yield lo, piece.lo, None
        yield max(lo, piece.lo), min(hi, piece.hi), piece.made_from
        lo = min(hi, piece.hi)
    if lo < hi:
        yield lo, hi, None
