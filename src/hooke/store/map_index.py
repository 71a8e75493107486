"""Which items of a map are stored: a small file for each commit, merged into a large one once there are many.

Files under `items/<recipe>/` are only added and removed, never changed, so readers and writers need no lock.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from hooke.store.backend import Backend, gathering
from hooke.store.entries import Counts, Entry, Hit, Records, refs_of
from hooke.store.objects import are_whole

if TYPE_CHECKING:
    from hooke.store.map_columns import Columns

__all__ = ["MapIndex"]

MOST_FILES = 64
"""A lookup that finds more files merges them: each costs 20 us to read, in every process."""

_MOST_TRIES = 20
"""A lookup starts again if a concurrent merge removed a file that it was about to read; merges are rare."""


class MapIndex:
    """The items of maps, by the map's recipe key and the item's key (16 bytes)."""

    def __init__(self, backend: Backend, records: Records) -> None:
        self._backend = backend
        self._records = records
        self._unique = os.urandom(6).hex()
        self._count = itertools.count()
        self._last: tuple[frozenset[str], Columns] | None = None

    def commit(self, entry: Entry, keys: bytes) -> None:
        """Record that element i of the list `entry.ref` has key `keys[16 * i : 16 * i + 16]`; `entry.key` is the recipe."""
        from hooke.store.map_columns import Columns  # NumPy, which a run without maps does not need

        self._write(entry.key, Columns.of(entry, keys))

    def commit_pieces(
        self, recipe: str, pieces: Sequence[tuple[Entry, int]], keys: bytes, first: int
    ) -> None:
        """Record (entry, its first element) of each piece of one list; `keys` are those of the elements `first`.. ."""
        from hooke.store.map_columns import Columns  # NumPy, which a run without maps does not need

        self._write(recipe, Columns.of_pieces(pieces, keys, first))

    def find(self, recipe: str, keys: bytes, counts: Counts | None = None) -> list[Hit]:
        """The stored items with these keys, in order; consecutive items of one list are one Hit.

        Of an item that was made from observed inputs, the latest result that `counts`; without that, none.
        """
        columns = self._columns(recipe)
        if columns is None:
            return []
        gone = self._gone(columns.entries)
        if columns.are_observed:
            columns = columns.select(_usable(columns, keys, gone, counts))
        return list(columns.hits(columns.find(keys), gone))

    def entries(self, recipe: str = "") -> Iterator[tuple[str, Entry]]:
        """All entries of a map, or of all maps, each with the name of its record."""
        from hooke.store.map_columns import Columns  # NumPy, which a run without maps does not need

        listed = self._backend.list(f"items/{recipe}/" if recipe else "items/")
        for name, content in self._records.each(stored.name for stored in listed):
            for entry in Columns.from_bytes(content).entries:
                yield name, entry

    def prune(self, recipe: str) -> None:
        """Merge the files of `recipe`, without items whose objects are gone."""
        found = self._load(recipe)
        if found is None:
            return
        names, columns = found
        gone = self._gone(columns.entries)
        if any(gone) or len(names) > 1:
            self._replace(recipe, names, columns.without(gone))

    def _columns(self, recipe: str) -> Columns | None:
        found = self._load(recipe)
        if found is None:
            return None
        names, columns = found
        if len(names) > MOST_FILES:
            name = self._replace(recipe, names, columns.without([False] * len(columns.entries)))
            names = frozenset([name])
        self._last = names, columns
        return columns

    def _load(self, recipe: str) -> tuple[frozenset[str], Columns] | None:
        from hooke.store.map_columns import Columns  # NumPy, which a run without maps does not need

        names: frozenset[str] = frozenset()
        present: list[Columns] = []
        for _ in range(_MOST_TRIES):
            names = frozenset(stored.name for stored in self._backend.list(f"items/{recipe}/"))
            if not names:
                return None
            if self._last is not None and self._last[0] == names:
                return self._last
            contents = self._records.read_many(sorted(names))
            present = [Columns.from_bytes(content) for content in contents if content is not None]
            if len(present) == len(names):
                break
        # After so many tries, unread files are damaged and were moved aside.
        return (names, Columns.merged(present)) if present else None

    def _replace(self, recipe: str, names: frozenset[str], columns: Columns) -> str:
        """Write the merged file, then remove its sources. A reader in between finds both, with the same result."""
        name = self._write(recipe, columns) if columns.entries else ""
        with gathering(self._backend):
            for old in names:
                self._backend.remove(old)
        return name

    def _write(self, recipe: str, columns: Columns) -> str:
        # With the process id, because a forked child continues the same count.
        name = f"items/{recipe}/{self._unique}-{os.getpid()}-{next(self._count)}"
        self._records.write(name, columns.to_bytes())
        return name

    def _gone(self, entries: Sequence[Entry]) -> list[bool]:
        refs = {ref.digest: ref for entry in entries for ref in refs_of(entry)}
        whole = dict(zip(refs, are_whole(self._backend, list(refs.values())), strict=True))
        return [not all(whole.get(ref.digest, True) for ref in refs_of(entry)) for entry in entries]


def _usable(columns: Columns, keys: bytes, gone: Sequence[bool], counts: Counts | None) -> list[bool]:
    """Which entries count, of those that have one of the keys."""
    usable = [False] * len(columns.entries)
    for at in reversed(columns.entries_of(keys)):  # the latest first: it tells best why none counts
        made = columns.entries[at].made_from
        usable[at] = not gone[at] and (made is None or (counts is not None and counts(made)))
    return usable
