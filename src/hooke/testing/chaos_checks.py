"""What a journal must not hold, however often its driver died."""

from __future__ import annotations

from collections.abc import Iterable

from hooke.base.intervals import IntervalSet
from hooke.journal.events import AttemptFailed, AttemptFinished, AttemptStarted, Event, ItemsFound, RunStarted

__all__ = ["repeated"]


def repeated(journal: Iterable[Event]) -> list[str]:
    """Work that was done again although the journal had it done, in words; attempts that began or ended twice."""
    book = _Book()
    for event in journal:
        book.enter(event)
    return book.problems


class _Book:
    def __init__(self) -> None:
        self.problems: list[str] = []
        self._done: dict[int, IntervalSet] = {}
        self._ended: set[int] = set()
        self._began: set[int] = set()
        self._drives = 0

    def enter(self, event: Event) -> None:
        """One event, in order."""
        match event:
            case RunStarted():
                self._drives += 1
            case AttemptStarted():
                self._once(self._began, event.attempt, "began")
                self._not_done(event.node, event.lo, event.hi, "began again")
            case AttemptFinished():
                self._once(self._ended, event.attempt, "ended")
                if event.expanded is None:
                    self._not_done(event.node, event.lo, event.hi, "finished again")
                    self._add(event.node, event.lo, event.hi)
            case AttemptFailed():
                self._once(self._ended, event.attempt, "ended")
                if event.ref is not None:
                    self._add(event.node, event.lo, event.lo + event.done)
            case ItemsFound():
                self._add(event.node, event.lo, event.hi)
            case _:
                pass

    def _once(self, seen: set[int], attempt: int, what: str) -> None:
        if attempt in seen:
            self.problems.append(f"drive {self._drives}: attempt {attempt} {what} twice")
        seen.add(attempt)

    def _not_done(self, node: int, lo: int, hi: int, what: str) -> None:
        for a, b in self._done.get(node, IntervalSet()).within(lo, hi):
            self.problems.append(f"drive {self._drives}: items {a}..{b} of node {node} were done, and {what}")

    def _add(self, node: int, lo: int, hi: int) -> None:
        self._done.setdefault(node, IntervalSet()).add(lo, hi)
