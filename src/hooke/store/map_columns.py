"""The index of a map's items as NumPy columns: built, merged and searched without a Python object for each item."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import msgspec
import numpy as np
import numpy.typing as npt

from hooke.store.entries import MOST_VARIANTS, Entry, Hit

__all__ = ["KEY_BYTES", "Columns"]

KEY_BYTES = 16

Words: TypeAlias = npt.NDArray[np.uint64]
Numbers: TypeAlias = npt.NDArray[np.uint32]
Rows: TypeAlias = npt.NDArray[np.int64]


class _File(msgspec.Struct, frozen=True, array_like=True):
    entries: list[Entry]
    high: memoryview
    low: memoryview
    entry: memoryview
    place: memoryview


_decoder = msgspec.msgpack.Decoder(_File)


@dataclass(frozen=True, slots=True)
class Columns:
    """One row per item, sorted by `high`, with distinct (high, low), the two halves of its key.

    `entry` is an index into `entries` (oldest first), `place` an index into the entry's list of results.
    If entries were made from observed inputs, an item has a row for each of them, the latest last (`select` chooses one).
    """

    entries: list[Entry]
    high: Words
    low: Words
    entry: Numbers
    place: Numbers

    @staticmethod
    def of(entry: Entry, keys: bytes) -> Columns:
        """The columns of one entry: `keys` are 16 bytes for each element of its list."""
        high, low = _halves(keys)
        size = len(high)
        return _sorted([entry], high, low, np.zeros(size, np.uint32), np.arange(size, dtype=np.uint32))

    @staticmethod
    def of_pieces(pieces: Sequence[tuple[Entry, int]], keys: bytes, first: int) -> Columns:
        """The columns of one list in pieces: (entry, its first element), each with the `items` of its entry.

        `keys` are those of the elements `first`.. of the list.
        """
        high, low = _halves(keys)
        counts = [entry.items or 0 for entry, _ in pieces]
        places = [
            np.arange(lo, lo + count, dtype=np.uint32) for (_, lo), count in zip(pieces, counts, strict=True)
        ]
        place = np.concatenate(places)
        entry = np.repeat(np.arange(len(pieces), dtype=np.uint32), counts)
        at = place - np.uint32(first)
        return _sorted([entry for entry, _ in pieces], high[at], low[at], entry, place)

    @property
    def are_observed(self) -> bool:
        """Whether an item may have several rows."""
        return any(entry.made_from is not None for entry in self.entries)

    def select(self, counts: Sequence[bool]) -> Columns:
        """One row an item, the latest of an entry that `counts`."""
        rows = np.asarray(counts, bool)[self.entry]
        high, low = self.high[rows], self.low[rows]
        last = _last_of(high, low)
        return Columns(self.entries, high[last], low[last], self.entry[rows][last], self.place[rows][last])

    def entries_of(self, keys: bytes) -> list[int]:
        """The entries that have one of these keys."""
        return np.unique(self.entry[np.isin(self.high, _halves(keys)[0])]).tolist()

    @staticmethod
    def merged(parts: list[Columns]) -> Columns:
        """All items of `parts` (at least one), which is emptied. For an item in several parts the latest entry counts."""
        if len(parts) == 1:
            return parts[0]
        offsets = np.cumsum([0, *(len(part.entries) for part in parts)])
        entries = [entry for part in parts for entry in part.entries]
        number = np.concatenate(
            [part.entry + np.uint32(offset) for part, offset in zip(parts, offsets, strict=False)]
        )
        # Renumber by age, so that the last of equal keys after a stable sort is the latest.
        by_age = sorted(range(len(entries)), key=lambda at: entries[at].at)
        rank = np.empty(len(entries), np.uint32)
        rank[by_age] = np.arange(len(entries), dtype=np.uint32)
        high, low, place = (
            np.concatenate([getattr(part, name) for part in parts]) for name in ("high", "low", "place")
        )
        # Halves the peak memory.
        parts.clear()
        return _sorted([entries[at] for at in by_age], high, low, rank[number], place)

    def without(self, gone: Sequence[bool]) -> Columns:
        """The columns without entries that are `gone` and entries that later ones cover entirely."""
        used = np.bincount(self.entry, minlength=len(self.entries)) > 0
        keep = used & ~np.asarray(gone, bool)
        rank = (np.cumsum(keep) - 1).astype(np.uint32)
        rows = keep[self.entry]
        entries = [entry for entry, kept in zip(self.entries, keep, strict=True) if kept]
        return Columns(entries, self.high[rows], self.low[rows], rank[self.entry[rows]], self.place[rows])

    def find(self, keys: bytes) -> Rows:
        """For each 16 bytes of `keys` its row, or -1."""
        high, low = _halves(keys)
        if not len(self.high):
            return np.full(len(high), -1, np.int64)
        rows = np.searchsorted(self.high, high)
        rows[rows == len(self.high)] = 0
        # Keys with equal first halves are adjacent. Random keys have none, so this loop ends at once.
        pending = np.flatnonzero((self.high[rows] == high) & (self.low[rows] != low))
        while len(pending):
            rows[pending] = np.minimum(rows[pending] + 1, len(self.high) - 1)
            at, ahead = rows[pending], rows[pending] + 1 < len(self.high)
            pending = pending[(self.high[at] == high[pending]) & (self.low[at] != low[pending]) & ahead]
        rows[(self.high[rows] != high) | (self.low[rows] != low)] = -1
        return rows

    def hits(self, rows: Rows, gone: Sequence[bool]) -> Iterator[Hit]:
        """The rows from `find`, without entries that are `gone`, as runs of consecutive items."""
        found = np.flatnonzero(rows >= 0)
        entry, place = self.entry[rows[found]], self.place[rows[found]].astype(np.int64)
        present = ~np.asarray(gone, bool)[entry] if len(found) else found.astype(bool)
        found, entry, place = found[present], entry[present], place[present]
        if not len(found):
            return
        breaks = (np.diff(found) != 1) | (np.diff(entry) != 0) | (np.diff(place) != 1)
        starts = np.concatenate([[0], np.flatnonzero(breaks) + 1])
        ends = np.concatenate([starts[1:], [len(found)]])
        columns = (found[starts], found[ends - 1] + 1, entry[starts], place[starts])
        for lo, hi, number, start in zip(*(column.tolist() for column in columns), strict=True):
            found_in = self.entries[number]
            yield Hit(lo, hi, found_in.ref, start, found_in.made_from)

    def to_bytes(self) -> bytes:
        """The columns as the content of a file."""
        columns = (self.high, self.low, self.entry, self.place)
        return msgspec.msgpack.encode(_File(self.entries, *(_little(column).data for column in columns)))

    @staticmethod
    def from_bytes(data: memoryview) -> Columns:
        """The columns from `to_bytes`. Raises msgspec's ValueError for other data."""
        file = _decoder.decode(data)
        high, low = (np.frombuffer(column, "<u8") for column in (file.high, file.low))
        entry, place = (np.frombuffer(column, "<u4") for column in (file.entry, file.place))
        return Columns(file.entries, high, low, entry, place)


def _halves(keys: bytes) -> tuple[Words, Words]:
    words = np.frombuffer(keys, "<u8").reshape(-1, 2)
    return words[:, 0], words[:, 1]


def _sorted(entries: list[Entry], high: Words, low: Words, entry: Numbers, place: Numbers) -> Columns:
    # Each part is sorted, which helps a stable sort. The second halves matter only if first halves are equal.
    order = np.argsort(high, kind="stable")
    if (high[order[1:]] == high[order[:-1]]).any():
        order = np.lexsort((entry, low, high))
    high, low, entry, place = high[order], low[order], entry[order], place[order]
    keep = _last_of(high, low)
    if any(each.made_from is not None for each in entries):
        keep = _variants(entries, high, low, entry, keep)
    return Columns(entries, high[keep], low[keep], entry[keep], place[keep])


def _last_of(*columns: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
    """The last row of each group of adjacent rows that are equal in all columns."""
    last = np.ones(len(columns[0]), bool)
    last[:-1] = np.logical_or.reduce([column[1:] != column[:-1] for column in columns])
    return last


def _variants(
    entries: list[Entry], high: Words, low: Words, entry: Numbers, last: npt.NDArray[np.bool_]
) -> npt.NDArray[np.bool_]:
    """The rows to keep: of each item the latest for each set of inputs, the newest 16.

    A result that read nothing is kept only if none is later: then the item reads something after all.
    """
    numbers: dict[str, int] = {"": 0}
    ids = ["" if each.made_from is None else each.made_from.id for each in entries]
    inputs = np.array([numbers.setdefault(each, len(numbers)) for each in ids], np.uint32)[entry]
    order = np.lexsort((entry, inputs, low, high))
    keep = np.zeros(len(high), bool)
    keep[order[_last_of(high[order], low[order], inputs[order])]] = True
    keep &= (inputs != 0) | last
    rows = np.flatnonzero(keep)
    ends = np.flatnonzero(_last_of(high[rows], low[rows]))
    from_end = ends[np.searchsorted(ends, np.arange(len(rows)))] - np.arange(len(rows))
    keep[rows[from_end >= MOST_VARIANTS]] = False
    return keep


def _little(column: npt.NDArray[Any]) -> npt.NDArray[Any]:
    return np.ascontiguousarray(column.astype(column.dtype.newbyteorder("<"), copy=False))
