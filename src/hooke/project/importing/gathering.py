"""What a log says bit by bit, gathered: points into batches, changes of sets into the sets that they come to."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from hooke.project.importing.source import Item, Points, Value

__all__ = ["Gathered"]

MOST_POINTS = 10_000


class Gathered:
    """Points wait until there are many; sets until there is no more."""

    def __init__(self) -> None:
        self._columns = _columns()
        self._sets: dict[str, dict[str, None]] = {}

    def point(self, name: str, value: float, micros: int | None, at: float | None) -> None:
        """A value of a metric."""
        names, values, steps, times = self._columns
        names.append(name)
        values.append(value)
        steps.append(micros)
        times.append(at)

    def change(self, path: str, members: Iterable[str], *, added: bool) -> None:
        """Members of a set come or go."""
        known = self._sets.setdefault(path, {})
        for member in members:
            if added:
                known[member] = None
            else:
                known.pop(member, None)

    def full(self) -> Iterator[Item]:
        """The points, if they are many."""
        if len(self._columns[0]) >= MOST_POINTS:
            yield self._taken()

    def rest(self) -> Iterator[Item]:
        """All that waits."""
        if self._columns[0]:
            yield self._taken()
        for path, members in self._sets.items():
            yield Value(path, "string_set", list(members))

    def _taken(self) -> Points:
        points, self._columns = Points(*self._columns), _columns()
        return points


def _columns() -> tuple[list[str], list[float], list[int | None], list[float | None]]:
    return [], [], [], []
