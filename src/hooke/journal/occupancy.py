"""Occupancy: divides a run's time into spells in which one task ran alone on all its workers, or did not.

A worker that waits for its next attempt while items are ready is part of what a task costs at that N, so it does not
end a spell; one that has nothing to do does.
"""

from __future__ import annotations

import math
import statistics
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import msgspec

from hooke.base.formats import format_seconds
from hooke.journal.events import (
    AttemptFailed,
    AttemptFinished,
    AttemptStarted,
    CapacityChanged,
    Event,
    NodePlanned,
    RetryPlanned,
    RunFinished,
    RunStarted,
    WorkerStarted,
    WorkerStopped,
)
from hooke.journal.run_view import RunView

__all__ = [
    "BESIDE",
    "TOO_FEW_ITEMS",
    "Demand",
    "SkewedItem",
    "Spell",
    "demand_of",
    "in_time",
    "skewed_items",
    "spells_of",
    "work_of",
]


WORKERS_START = "its workers were starting"
TOO_FEW_ITEMS = "fewer items than workers were left"
BESIDE = "another task ran beside it"
WASTED = "an attempt failed, or items had a second attempt"


@dataclass(frozen=True, slots=True, kw_only=True)
class Spell:
    """A span of time. If `why` is empty, `node`'s task ran alone on all the `n` workers that it can have."""

    began: float
    ended: float
    node: NodePlanned | None = None
    n: int = 0
    why: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Demand:
    """From `at` on, `could` items were running or ready, and `workers` workers were ready."""

    at: float
    could: int
    workers: int


def demand_of(events: Sequence[Event]) -> list[Demand]:
    """The workers that the run could use and those that it had, whenever one of these changed."""
    floor = _Floor(lost=frozenset())
    workers: set[str] = set()
    found: list[Demand] = []
    for now, event in in_time(events):
        floor.apply(event)
        if isinstance(event, RunStarted):
            workers.clear()
        elif isinstance(event, WorkerStarted):
            workers.add(event.worker)
        elif isinstance(event, WorkerStopped):
            workers.discard(event.worker)
        told = Demand(at=now, could=floor.could, workers=len(workers))
        if not found or (told.could, told.workers) != (found[-1].could, found[-1].workers):
            found.append(told)
    return found


def spells_of(events: Sequence[Event]) -> list[Spell]:
    """The run's time from its first attempt to its last, as disjoint spells."""
    floor = _Floor(lost=_wasted(events))
    spells: list[Spell] = []
    before = math.nan
    for now, event in in_time(events):
        spell = floor.spell(before, now)
        if spell is not None:
            _append(spells, spell)
        floor.apply(event)
        before = now
    return spells


def _append(spells: list[Spell], spell: Spell) -> None:
    """Append a spell, or extend the last one if it is of the same kind and ends where this one begins."""
    last = spells[-1] if spells else None
    if last is not None and last.ended == spell.began and _alike(last, spell):
        spells[-1] = Spell(began=last.began, ended=spell.ended, node=last.node, n=last.n, why=last.why)
    else:
        spells.append(spell)


def _alike(one: Spell, other: Spell) -> bool:
    if one.why or other.why:
        return one.why == other.why
    if one.node is None or other.node is None:
        return False
    return one.n == other.n and work_of(one.node) == work_of(other.node)


def _wasted(events: Sequence[Event]) -> frozenset[int]:
    """Attempts that did not give all their items, or that may have lost against a second attempt."""
    finished = {event.attempt for event in events if isinstance(event, AttemptFinished)}
    started = [event for event in events if isinstance(event, AttemptStarted)]
    twins = {event.attempt for event in started if event.twin_of is not None}
    twins |= {event.twin_of for event in started if event.twin_of is not None}
    return frozenset({event.attempt for event in started if event.attempt not in finished} | twins)


def in_time(events: Sequence[Event]) -> Iterator[tuple[float, Event]]:
    """The events with increasing times: a worker's clock stamps an answer before the driver reads it."""
    now = -math.inf
    for event in events:
        now = max(now, event.at)
        yield now, event


class _Floor:
    """What runs now, what is ready, and whether this has been so since all its workers were warm."""

    def __init__(self, *, lost: frozenset[int]) -> None:
        self._lost = lost
        self._view = RunView()
        self._running: dict[int, AttemptStarted] = {}
        self._ready: Counter[int] = Counter()
        self._waiting: Counter[object] = Counter()
        self._complete: set[int] = set()
        self._delayed: Counter[int] = Counter()
        self._children: dict[int, list[int]] = defaultdict(list)
        self._warm: dict[str, set[str]] = defaultdict(set)
        self._last: NodePlanned | None = None
        self._reached = False

    def spell(self, began: float, ended: float) -> Spell | None:
        """The spell until now; None if nothing ran or no time passed."""
        if not ended > began or self._last is None:
            return None
        if not self._running and not self._waiting[work_of(self._last)]:
            self._reached = False
            return None
        why = self._trouble()
        if why:
            self._reached = False
            return Spell(began=began, ended=ended, why=why)
        if not self._reached and not self._is_warm():
            return Spell(began=began, ended=ended, why=WORKERS_START)
        self._reached = True
        return Spell(began=began, ended=ended, node=self._last, n=self._limit(self._last))

    @property
    def could(self) -> int:
        """Items that run, or could."""
        runs = sum(max(each.hi - each.lo, 1) for each in self._running.values() if each.twin_of is None)
        return runs + sum(self._ready.values())

    def apply(self, event: Event) -> None:
        """Fold one event."""
        self._view.apply(event)
        match event:
            case RunStarted() | RunFinished():
                self._begin_anew()
            case NodePlanned():
                for parent in set(event.parents):
                    self._children[parent].append(event.node)
                self._refresh(event.node)
            case CapacityChanged() | WorkerStopped():
                self._reached = False
            case AttemptStarted():
                self._start(event)
            case AttemptFinished() | AttemptFailed():
                self._end(event)
            case RetryPlanned():
                self._delayed[event.node] += event.hi - event.lo
                self._refresh(event.node)
            case _ if (node := getattr(event, "node", None)) is not None:
                self._refresh(node)

    def _begin_anew(self) -> None:
        for each in (
            self._running,
            self._ready,
            self._waiting,
            self._complete,
            self._delayed,
            self._children,
            self._warm,
        ):
            each.clear()
        self._last, self._reached = None, False

    def _start(self, event: AttemptStarted) -> None:
        if event.node not in self._view.nodes:
            return
        self._running[event.attempt] = event
        planned = self._view.nodes[event.node].planned
        if self._last is None or work_of(self._last) != work_of(planned):
            self._reached = False
        self._last = planned
        if event.number > 1 and self._delayed[event.node]:
            self._delayed[event.node] -= event.hi - event.lo
        self._refresh(event.node)

    def _end(self, event: AttemptFinished | AttemptFailed) -> None:
        begun = self._running.pop(event.attempt, None)
        if begun is not None and isinstance(event, AttemptFinished):
            self._warm[self._view.nodes[event.node].planned.task].add(begun.worker)
        # The loser of two attempts at the same items has no event of its own.
        if event.node in self._view.nodes:
            there = self._view.nodes[event.node].running
            gone = [
                each for each, run in self._running.items() if run.node == event.node and each not in there
            ]
            for attempt in gone:
                del self._running[attempt]
        self._refresh(event.node)

    def _refresh(self, node: int) -> None:
        """Count a node's ready items again, and those of its children where it has become complete."""
        todo = [node]
        for number in todo:
            view = self._view.nodes.get(number)
            if view is None:
                continue
            parents = [self._view.nodes[each] for each in view.planned.parents if each in self._view.nodes]
            there = all(parent.complete for parent in parents)
            ready = max((view.waiting_count or 0) - self._delayed[number], 0) if there else 0
            self._waiting[work_of(view.planned)] += ready - self._ready[number]
            self._ready[number] = ready
            if view.complete and number not in self._complete:
                self._complete.add(number)
                todo += self._children[number]

    def _trouble(self) -> str:
        if any(attempt in self._lost for attempt in self._running):
            return WASTED
        nodes = [self._view.nodes[run.node].planned for run in self._running.values()]
        assert self._last is not None
        if any(run.expand for run in self._running.values()) or {*map(work_of, nodes)} - {
            work_of(self._last)
        }:
            return BESIDE
        if len(self._running) < self._limit(self._last) and not self._waiting[work_of(self._last)]:
            return TOO_FEW_ITEMS
        return ""

    def _is_warm(self) -> bool:
        assert self._last is not None
        if len(self._running) != self._limit(self._last):
            return False
        return all(run.worker in self._warm[self._last.task] for run in self._running.values())

    def _limit(self, node: NodePlanned) -> int:
        """How many attempts at the node can run at once."""
        place = self._view.capacity
        if place is None:
            return 0
        asked = ((node.cpus, place.cpus), (node.memory, place.memory), (node.gpus, place.gpus))
        fitting = [
            int(total / min(node.slots * amount, total) + 1e-9)
            for amount, total in asked
            if amount and total and math.isfinite(total)
        ]
        return min([place.slots // node.slots, *fitting])


def work_of(node: NodePlanned) -> object:
    """The key of one kind of work: the items of one map, or all calls of one task."""
    return node.task if node.kind == "call" else node.node


# --- Items of a map that took far longer than the others, which more workers do not help.

LEAST_ITEMS = 8
"""With fewer items, no duration is typical."""
TIMES_THE_MEDIAN = 4.0
LEAST_S = 1.0
"""Seconds above the median; shorter delays do not matter."""
MOST_A_TASK = 3


class SkewedItem(msgspec.Struct, frozen=True, kw_only=True):
    """`item` of a map of `task` took `seconds`; the median of the `items` that ran one by one was `median_s`."""

    task: str
    node: int
    item: int
    seconds: float
    median_s: float
    items: int

    def __str__(self) -> str:
        times = self.seconds / self.median_s if self.median_s else float("inf")
        return (
            f"{self.task}[{self.item}] took {format_seconds(self.seconds)}, {times:.3g} times the median of {self.items} items"
            f" ({format_seconds(self.median_s)}): with more workers the map takes as long"
        )


def skewed_items(events: Iterable[Event]) -> list[SkewedItem]:
    """The slow items of each map, the slowest first. Items that ran several to an attempt are not known."""
    tasks: dict[int, str] = {}
    seconds: dict[int, dict[int, float]] = defaultdict(dict)
    for event in events:
        if isinstance(event, NodePlanned) and event.kind == "map":
            tasks[event.node] = event.task
        elif isinstance(event, AttemptFinished) and event.hi - event.lo == 1 and event.node in tasks:
            seconds[event.node][event.lo] = event.seconds
    return [item for node, taken in seconds.items() for item in _of(tasks[node], node, taken)]


def _of(task: str, node: int, taken: dict[int, float]) -> list[SkewedItem]:
    if len(taken) < LEAST_ITEMS:
        return []
    median = statistics.median(taken.values())
    least = max(TIMES_THE_MEDIAN * median, median + LEAST_S)
    longest = sorted((item for item in taken if taken[item] >= least), key=lambda item: -taken[item])
    return [
        SkewedItem(task=task, node=node, item=item, seconds=taken[item], median_s=median, items=len(taken))
        for item in longest[:MOST_A_TASK]
    ]
