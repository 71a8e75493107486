"""What a run had finished before its driver died, read back from its journal by the keys of its nodes."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from hooke.base.intervals import Segment, SegmentMap
from hooke.journal.events import (
    AttemptFailed,
    AttemptFinished,
    AttemptStarted,
    Event,
    ItemsFound,
    MapExpanded,
    NodePlanned,
)

__all__ = ["Known", "Recovered", "recover"]


@dataclass(slots=True, kw_only=True)
class Known:
    """The results of a node that its journal holds."""

    segments: list[Segment] = field(default_factory=list)
    expansion: MapExpanded | None = None


@dataclass(slots=True, kw_only=True)
class Recovered:
    """Node key -> its known results. After an edit a node has another key, and nothing here is taken for it."""

    known: dict[str, Known] = field(default_factory=dict)
    next_attempt: int = 1


def recover(events: Iterable[Event]) -> Recovered:
    """Fold a driver's journal. Nodes are matched by key, since an edit may have renumbered them."""
    recovered = Recovered()
    done: dict[str, SegmentMap] = {}
    keys: dict[int, str] = {}
    for event in events:
        if isinstance(event, AttemptStarted | AttemptFinished | AttemptFailed):
            recovered.next_attempt = max(recovered.next_attempt, event.attempt + 1)
        match event:
            case NodePlanned():
                keys[event.node] = event.key
            case MapExpanded():
                recovered.known.setdefault(keys[event.node], Known()).expansion = event
            case AttemptFinished(expanded=MapExpanded() as expansion):
                # The driver may have died before it said the expansion by itself.
                recovered.known.setdefault(keys[event.node], Known()).expansion = expansion
            case AttemptFinished():
                _note(done, keys[event.node], event.lo, event.hi, event)
            case AttemptFailed() if event.ref is not None:
                _note(done, keys[event.node], event.lo, event.lo + event.done, event)
            case ItemsFound():
                _note(done, keys[event.node], event.lo, event.hi, event)
            case _:
                pass
    for key, segments in done.items():
        recovered.known.setdefault(key, Known()).segments = list(segments)
    return recovered


def _note(
    done: dict[str, SegmentMap],
    key: str,
    lo: int,
    hi: int,
    event: AttemptFinished | AttemptFailed | ItemsFound,
) -> None:
    assert event.ref is not None
    segments = done.setdefault(key, SegmentMap())
    start = event.start if isinstance(event, ItemsFound) else 0
    for a, b in segments.items.gaps(lo, hi):
        segments.record(a, b, event.ref, start + a - lo)
