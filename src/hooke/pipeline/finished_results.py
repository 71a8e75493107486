"""The results that a run had before its driver died, read from its journal by the keys of its nodes."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from hooke.base.intervals import Segment, SegmentMap
from hooke.base.ref import Ref
from hooke.journal.events import (
    AttemptFailed,
    AttemptFinished,
    AttemptStarted,
    CapacityChanged,
    Event,
    ItemsFound,
    MapExpanded,
    NodePlanned,
    RunStarted,
)
from hooke.pipeline.slots import MOST_BEHIND

__all__ = ["Recovered", "RecoveredResults", "recover"]

UNHEARD_PER_SLOT = 2 + MOST_BEHIND


@dataclass(slots=True, kw_only=True)
class RecoveredResults:
    """The results of a node in the journal."""

    segments: list[Segment] = field(default_factory=list)
    expansion: MapExpanded | None = None


@dataclass(slots=True, kw_only=True)
class Recovered:
    """Node key -> its known results. An edited node has another key, so it takes none of them."""

    known: dict[str, RecoveredResults] = field(default_factory=dict)
    next_attempt: int = 1
    """Above every attempt that was submitted, including those that the journal may not know.

    For each slot these are: one that had not begun, those that waited behind it, and a second attempt that was
    abandoned before it began.
    """


def recover(events: Iterable[Event], *, tainted: bool = False) -> Recovered:
    """Fold a driver's journal. Nodes are matched by key, because an edit may have renumbered them.

    Results that depend on failed items count only with `tainted`, which shows the run as it ended.
    """
    past = _Past(tainted=tainted)
    for event in events:
        past.count(event)
        past.take(event)
    for key, segments in past.done.items():
        past.known.setdefault(key, RecoveredResults()).segments = list(segments)
    return Recovered(
        known=past.known, next_attempt=past.last_attempt + UNHEARD_PER_SLOT * past.most_slots + 1
    )


@dataclass(slots=True)
class _Past:
    known: dict[str, RecoveredResults] = field(default_factory=dict)
    done: dict[str, SegmentMap] = field(default_factory=dict)
    keys: dict[int, str] = field(default_factory=dict)
    last_attempt: int = 0
    most_slots: int = 0
    tainted: bool = False

    def count(self, event: Event) -> None:
        """Bound the number of attempts that were submitted."""
        match event:
            case AttemptStarted() | AttemptFinished() | AttemptFailed():
                self.last_attempt = max(self.last_attempt, event.attempt)
            case RunStarted():
                self.last_attempt += UNHEARD_PER_SLOT * self.most_slots
                self.most_slots = 0
            case CapacityChanged():
                self.most_slots = max(self.most_slots, event.slots)
            case _:
                pass

    def take(self, event: Event) -> None:
        """Keep finished results; tainted ones are to run again."""
        match event:
            case (
                AttemptFinished(tainted=True)
                | AttemptFailed(tainted=True)
                | ItemsFound(tainted=True)
                | MapExpanded(tainted=True)
            ) if not self.tainted:
                pass
            case NodePlanned():
                self.keys[event.node] = event.key
            case MapExpanded():
                self._expansion(event)
            case AttemptFinished(expanded=MapExpanded() as expansion):
                self._expansion(expansion)  # the driver may have died before it wrote an event of its own
            case AttemptFinished() | ItemsFound():
                self._note(event, event.hi, event.ref)
            case AttemptFailed(ref=Ref() as ref):
                self._note(event, event.lo + event.done, ref)
            case _:
                pass

    def _expansion(self, event: MapExpanded) -> None:
        self.known.setdefault(self.keys[event.node], RecoveredResults()).expansion = event

    def _note(self, event: AttemptFinished | AttemptFailed | ItemsFound, hi: int, ref: Ref) -> None:
        segments = self.done.setdefault(self.keys[event.node], SegmentMap())
        start = event.start if isinstance(event, ItemsFound) else 0
        if self.tainted:  # whatever came first may have depended on items that failed then
            segments.replace(event.lo, hi, ref, start)
            return
        for a, b in segments.items.gaps(event.lo, hi):
            segments.record(a, b, ref, start + a - event.lo)
