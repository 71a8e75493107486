"""Throughput at N, read from the journal of any run: measured while the number of workers did not change."""

from __future__ import annotations

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import msgspec

from hooke.journal.events import (
    AttemptFailed,
    AttemptFinished,
    AttemptStarted,
    Event,
    NodePlanned,
    RunStarted,
)
from hooke.journal.occupancy import BESIDE, TOO_FEW_ITEMS, Spell, in_time, spells_of, work_of

__all__ = ["Dropped", "Throughput", "ThroughputRow", "throughput"]

TOO_SHORT = "the time was too short"
NO_BEGINNING = "the journal does not say when they began"

ATTEMPTS_A_ROW = 3
"""Attempts of each worker in a row of the result, on average. With fewer, the edges of attempts dominate the row."""
MOST_ROWS = 8
"""Rows that one span of time is cut into; their scatter gives the noise."""


class ThroughputRow(msgspec.Struct, frozen=True, kw_only=True):
    """`n` workers did `items` items of a task in `seconds`, from `began_at` on, and always had ready items.

    An attempt across an edge counts by the share of its time, so that items are no whole number. `busy_s` is the
    workers' time in the task's function. What the work was: `code` (name of a part -> digest), `constants` (what is
    the same for all items of a map, argument -> key; nothing for calls), `cpus`, and `place` and `host` as the run was
    told.
    """

    run: str
    task: str
    n: int
    items: float
    attempts: float
    seconds: float
    busy_s: float
    began_at: float
    code: dict[str, str]
    constants: dict[str, str]
    shown: dict[str, str]
    cpus: float
    place: str
    host: str

    @property
    def rate(self) -> float:
        """Items a second."""
        return self.items / self.seconds


class Dropped(msgspec.Struct, frozen=True, kw_only=True):
    """`items` of a task that cannot count for throughput at one N, and why."""

    run: str
    task: str
    items: float
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Throughput:
    """All items that a run computed, each in a row or dropped (or partly in both, across an edge)."""

    rows: tuple[ThroughputRow, ...]
    dropped: tuple[Dropped, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Span:
    """The time and the items of one attempt."""

    node: NodePlanned
    began: float
    ended: float
    items: int
    busy_s: float
    known: bool


def throughput(events: Iterable[Event]) -> Throughput:
    """The throughput at N from the driver's `events` of one run, as disjoint rows in the order of time.

    Counted is the time in which one map, or the calls of one task, ran alone on all workers that it could have, each
    of which had made an attempt at it before. What the rest was is said in `dropped`.
    """
    told = list(events)
    begun = next((event for event in told if isinstance(event, RunStarted)), None)
    if begun is None:
        return Throughput(rows=(), dropped=())
    spans, spells = _spans(told), spells_of(told)
    rows: list[ThroughputRow] = []
    lost: dict[tuple[str, str], float] = defaultdict(float)
    for spell, inside in _shared_out(spans, spells, lost):
        rows += _rows(begun, spell, inside, lost)
    dropped = (
        Dropped(run=begun.run, task=task, items=items, why=why) for (task, why), items in sorted(lost.items())
    )
    return Throughput(rows=tuple(rows), dropped=tuple(each for each in dropped if each.items > 1e-9))


def _spans(events: Sequence[Event]) -> list[_Span]:
    """Every attempt that gave items."""
    nodes: dict[int, NodePlanned] = {}
    begun: dict[int, float] = {}
    spans: list[_Span] = []
    for now, event in in_time(events):
        match event:
            case NodePlanned():
                nodes[event.node] = event
            case AttemptStarted():
                begun[event.attempt] = now
            case AttemptFinished() | AttemptFailed() if event.node in nodes and (items := _given(event)):
                spans.append(
                    _Span(
                        node=nodes[event.node],
                        began=begun.get(event.attempt, now),
                        ended=now,
                        items=items,
                        busy_s=event.seconds,
                        known=event.attempt in begun,
                    )
                )
    return spans


def _given(event: AttemptFinished | AttemptFailed) -> int:
    if isinstance(event, AttemptFinished):
        return event.hi - event.lo
    return event.done if event.ref is not None else 0


def _shared_out(
    spans: Sequence[_Span], spells: Sequence[Spell], lost: dict[tuple[str, str], float]
) -> list[tuple[Spell, list[_Span]]]:
    """The spells that count, each with its attempts; all other shares of items go to `lost`."""
    inside: list[list[_Span]] = [[] for _ in spells]
    ends = [spell.ended for spell in spells]
    for span in spans:
        left = float(span.items)
        for at in range(bisect_right(ends, span.began), len(spells)):
            spell = spells[at]
            if spell.began > span.ended:
                break
            items = span.items * _share(span, spell.began, spell.ended)
            left -= items
            if items and _counts(span, spell):
                inside[at].append(span)
            elif items:
                lost[span.node.task, spell.why or BESIDE] += items
        lost[span.node.task, TOO_FEW_ITEMS if span.known else NO_BEGINNING] += left
    return [(spell, found) for spell, found in zip(spells, inside, strict=True) if not spell.why]


def _counts(span: _Span, spell: Spell) -> bool:
    return spell.node is not None and not spell.why and work_of(span.node) == work_of(spell.node)


def _share(span: _Span, began: float, ended: float) -> float:
    """The share of the attempt between `began` and `ended`."""
    if span.ended > span.began:
        return max(min(span.ended, ended) - max(span.began, began), 0.0) / (span.ended - span.began)
    return float(began <= span.began < ended)


def _rows(
    begun: RunStarted, spell: Spell, inside: Sequence[_Span], lost: dict[tuple[str, str], float]
) -> Iterator[ThroughputRow]:
    assert spell.node is not None
    attempts = sum(_share(span, spell.began, spell.ended) for span in inside)
    if attempts < max(spell.n, 1):  # no workers, or not long enough
        items = sum(span.items * _share(span, spell.began, spell.ended) for span in inside)
        lost[spell.node.task, TOO_SHORT] += items
        return
    count = max(min(int(attempts / (ATTEMPTS_A_ROW * spell.n)), MOST_ROWS), 1)
    length = (spell.ended - spell.began) / count
    edges = [*(spell.began + at * length for at in range(count)), spell.ended]
    for began, ended in pairwise(edges):
        yield _row(begun, spell, inside, (began, ended))


def _row(
    begun: RunStarted, spell: Spell, inside: Sequence[_Span], time: tuple[float, float]
) -> ThroughputRow:
    node, (began, ended) = spell.node, time
    assert node is not None
    shares = [_share(span, began, ended) for span in inside]
    constants = node.shown if node.kind == "map" else {}
    return ThroughputRow(
        run=begun.run,
        task=node.task,
        n=spell.n,
        items=sum(share * span.items for share, span in zip(shares, inside, strict=True)),
        attempts=sum(shares),
        seconds=ended - began,
        busy_s=sum(share * span.busy_s for share, span in zip(shares, inside, strict=True)),
        began_at=began,
        code=node.code,
        constants={name: node.inputs.get(name, "") for name in constants},
        shown=dict(constants),
        cpus=node.cpus,
        place=begun.place,
        host=begun.host,
    )
