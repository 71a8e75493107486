"""The views of a graph node and of a task, which is a row of the progress table."""

from __future__ import annotations

import math
from collections.abc import Mapping
from operator import itemgetter
from types import MappingProxyType
from typing import Any, NamedTuple, TypeVar

import msgspec

from hooke.base.intervals import NO_ITEMS, IntervalSet, OneSegment, SegmentMap
from hooke.base.ref import Ref
from hooke.journal.events import (
    AttemptFailed,
    AttemptFinished,
    AttemptStarted,
    InputsChanged,
    ItemsFound,
    NodePlanned,
    RetryPlanned,
)

__all__ = ["NodeView", "SlotUse", "TaskRow", "TaskView", "close_node", "open_child"]


T = TypeVar("T")

# --- A node: which items are done, cached, running and failed, as ranges.


class NodeCounts(NamedTuple):
    """What a node adds to the counts of its task, of which each is a sum over the nodes. Items, where nothing else is said."""

    maps: int = 0
    """1 for a map."""
    items: int = 0
    unsized: int = 0
    """1 while the number of items is not known."""
    waiting: int = 0
    uncounted: int = 0
    """1 while it is not known how many items wait."""
    running: int = 0
    settled: int = 0
    cached: int = 0
    failed: int = 0
    skipped: int = 0
    attempts: int = 0
    """Attempts that began."""
    twins: int = 0
    twins_won: int = 0
    busy: int = 0
    """1 while an attempt runs."""
    open: int = 0
    """1 for a node that is needed and not complete."""
    links: int = 0
    """The parents of an open node."""


NOTHING = NodeCounts()
_NO_FACTS: Mapping[int, Any] = MappingProxyType({})
"""Of a million nodes most have none, and a dict for each of these would take more memory than all that a view tells."""
_COLUMNS = [itemgetter(at) for at in range(len(NOTHING))]


class NodeView:
    """The state of a node by the journal. A change costs at most the number of ranges, however many items they span.

    `failures` has the last failure of each item in `failed` (-1 for the list of a dynamic map), and `tries` which try an item is at, if not
    the first. `skipped` items do not run,
    because those of the map before them failed. `results` maps items to stored objects. `items` is None while a dynamic map's list does not exist. `twins` counts
    second attempts at stragglers, `twins_won` those that finished first. `open_children` counts the nodes that still
    need this one; a `closed` node does not need its parents any more. `changed` says why stored results did not count,
    `unsettled` why some of its results must not be reused (empty if all may). `counted` is what its `task` has counted of it, which
    `count_again` makes it do anew after a change. `level` is the number of nodes on the longest path that leads to it.
    """

    __slots__ = (
        "attempts",
        "cached",
        "changed",
        "closed",
        "counted",
        "expansion_failed",
        "failed",
        "failure",
        "failures",
        "items",
        "key",
        "level",
        "needed",
        "number",
        "open_children",
        "parents",
        "planned",
        "results",
        "running",
        "skipped",
        "tainted",
        "tainted_list",
        "task",
        "tries",
        "twins",
        "twins_won",
        "unsettled",
    )

    def __init__(self, event: NodePlanned, task: TaskView, *, planned: NodePlanned | None = None) -> None:
        """With `planned`, the plan of another node stands for its own, but for its number, its key and its parents."""
        self.number, self.key, self.parents = event.node, event.key, event.parents
        self.planned = planned = planned or event
        self.task = task
        self.level = 0
        self.counted = NOTHING
        self.items = planned.items
        self.results = self._no_results()
        self.cached: IntervalSet = NO_ITEMS
        self.failed: IntervalSet = NO_ITEMS
        self.failures: Mapping[int, AttemptFailed] = _NO_FACTS
        self.tries: Mapping[int, int] = _NO_FACTS
        self.skipped: IntervalSet = NO_ITEMS
        self.tainted: IntervalSet = NO_ITEMS
        self.tainted_list = False
        self.running: Mapping[int, AttemptStarted] = _NO_FACTS
        self.attempts = 0
        self.twins = 0
        self.twins_won = 0
        self.failure: AttemptFailed | None = None
        self.expansion_failed = False
        self.needed = True
        self.closed = False
        self.open_children = 0
        self.changed: tuple[InputsChanged, ...] = ()
        self.unsettled = ""

    def _no_results(self) -> SegmentMap | OneSegment:
        return OneSegment() if self.planned.kind == "call" else SegmentMap()

    @property
    def settled_count(self) -> int:
        """Items with a result, from this run or another."""
        return len(self.results)

    @property
    def cached_count(self) -> int:
        """Items whose result another run computed."""
        return self.cached.count

    @property
    def done_count(self) -> int:
        """Items whose result this run computed, before it was resumed or after."""
        return len(self.results) - self.cached.count

    @property
    def failed_count(self) -> int:
        """Items that failed without a planned retry; 1 for a list that cannot be read."""
        return self.failed.count + self.expansion_failed

    @property
    def running_count(self) -> int:
        """Items in running attempts; an item with two attempts counts once."""
        return sum(started.hi - started.lo for started in self.firsts) if self.running else 0

    @property
    def firsts(self) -> list[AttemptStarted]:
        """Running attempts, without second attempts."""
        running = self.running
        return [started for started in running.values() if started.twin_of not in running]

    def beside(self, attempt: int) -> AttemptStarted | None:
        """The other attempt at the same items, if both run."""
        mine = self.running.get(attempt)
        if mine is None or not self.twins:
            return None
        if mine.twin_of is not None:
            return self.running.get(mine.twin_of)
        return next((other for other in self.running.values() if other.twin_of == attempt), None)

    @property
    def waiting_count(self) -> int | None:
        """Items that have no result, are not running, and neither failed nor are skipped; None while the number of items is not known.

        0 for a node that is not needed, because every consumer already has its result.
        """
        if not self.needed:
            return 0
        if self.items is None:
            return None
        gone = self.failed.count + self.skipped.count
        return max(self.items - self.settled_count - self.running_count - gone, 0)

    @property
    def complete(self) -> bool:
        """Whether every item has a result."""
        return self.items is not None and self.settled_count >= self.items

    def counts(self) -> NodeCounts:
        """What it adds to the counts of its task now."""
        items, waiting = self.items, self.waiting_count
        is_open = self.needed and not self.complete
        return NodeCounts(
            self.planned.kind == "map",
            items or 0,
            items is None,
            waiting or 0,
            waiting is None,
            self.running_count,
            self.settled_count,
            self.cached.count,
            self.failed_count,
            self.skipped.count,
            self.attempts,
            self.twins,
            self.twins_won,
            bool(self.running),
            is_open,
            len(self.parents) if is_open else 0,
        )

    def count_again(self) -> None:
        """Say that it has changed."""
        self.task.changed.add(self)

    def take_over(self, former: NodeView) -> None:
        """Take over the results of the node with the same key before the run was resumed, but for tainted ones."""
        if not former.tainted_list:
            self.items = former.items if self.items is None else self.items
            self.results, self.cached = former.results, former.cached
            if former.tainted:
                self.results = self._no_results()
                for lo, hi, ref, start in former.results:
                    for a, b in former.tainted.gaps(lo, hi):
                        self._has(a, b, ref, start + a - lo)
        self.attempts = former.attempts
        self.twins, self.twins_won = former.twins, former.twins_won

    def started(self, event: AttemptStarted) -> None:
        """An attempt began."""
        self.attempts += 1
        self.twins += event.twin_of is not None
        self.running = _with(self.running, event.attempt, event)
        self._not_failed(event.lo, event.hi)
        self.expansion_failed = self.expansion_failed and not event.expand

    def finished(self, event: AttemptFinished) -> int:
        """An attempt finished, which ends its twin. Returns how many items got their first result."""
        beaten, won = self.beside(event.attempt), self.running.get(event.attempt)
        self.running = _without(self.running, event.attempt)
        if beaten is not None:
            self.running = _without(self.running, beaten.attempt)
        self.twins_won += won is not None and won.twin_of is not None
        if event.made_from and not self.unsettled:
            reasons = (piece.made_from.unsettled for piece in event.made_from)
            self.unsettled = next(filter(None, reasons), "")
        if event.tainted:
            self.tainted = _joined(self.tainted, event.lo, event.hi)
        return self._settle(event.lo, event.hi, event.ref)

    def broke(self, event: AttemptFailed) -> int:
        """An attempt failed, maybe after some of its items. Returns how many items got their first result."""
        alone = self.beside(event.attempt) is None
        self.running = _without(self.running, event.attempt)
        if not alone:  # the other attempt decides
            return 0
        if event.resized:
            return 0
        self.failure = event
        good = event.lo + event.done
        if event.tainted:
            self.tainted = _joined(self.tainted, event.lo, good)
        new = self._settle(event.lo, good, event.ref) if event.ref is not None else 0
        if event.hi > good:
            self.failed = _joined(self.failed, good, good + 1)
            self.failures = _with(self.failures, good, event)
        elif event.hi == event.lo:
            self.expansion_failed = True
            self.failures = _with(self.failures, -1, event)
        return new

    def retried(self, event: RetryPlanned) -> None:
        """Failed items will run again."""
        if event.counted:
            self.tries = _with(self.tries, event.lo, event.counted)
        self._not_failed(event.lo, event.hi)
        self.expansion_failed = False

    def tries_of(self, event: AttemptFailed) -> tuple[int, int]:
        """Which of the task's tries a failed attempt was, and how many it has. Known for the last attempt of an item."""
        return self.tries.get(-1 if event.item is None else event.item, 1), self.planned.retries + 1

    def found(self, event: ItemsFound) -> int:
        """Results were found. Returns how many items got their first result."""
        new = self.results.items.gaps(event.lo, event.hi)
        if event.source == "cache":
            for lo, hi in new:
                self.cached = _joined(self.cached, lo, hi)
        self._has(event.lo, event.hi, event.ref, event.start)
        self._not_failed(event.lo, event.hi)
        return sum(hi - lo for lo, hi in new)

    def no_longer_runs(self) -> None:
        """Its attempts ended with their driver."""
        self.running = _NO_FACTS

    def skip(self, lo: int, hi: int) -> None:
        """Items `lo..hi` do not run."""
        self.skipped = _joined(self.skipped, lo, hi)

    def _settle(self, lo: int, hi: int, ref: Ref) -> int:
        before = len(self.results)
        self._has(lo, hi, ref)
        self.cached.remove(lo, hi)
        self._not_failed(lo, hi)
        return len(self.results) - before

    def _has(self, lo: int, hi: int, ref: Ref, start: int = 0) -> None:
        if (lo, hi) != (0, 1) and isinstance(
            self.results, OneSegment
        ):  # the journal of another version, or a damaged one
            one, self.results = self.results, SegmentMap()
            for segment in one:
                self.results.record(*segment)
        self.results.replace(lo, hi, ref, start)

    def failed_attempts(self) -> list[tuple[int | None, AttemptFailed]]:
        """The items that failed without a planned retry, each with its last attempt; None for a call or a list."""
        found = [(item, self.failures[item]) for lo, hi in self.failed for item in range(lo, hi)]
        is_map = self.planned.kind == "map"
        own: list[tuple[int | None, AttemptFailed]] = [
            (item if is_map else None, event) for item, event in found
        ]
        return own + ([(None, self.failures[-1])] if self.expansion_failed else [])

    def _not_failed(self, lo: int, hi: int) -> None:
        if not self.failed:
            return
        for a, b in self.failed.within(lo, hi):
            for item in range(a, b):
                self.failures = _without(self.failures, item)
        self.failed.remove(lo, hi)


def _with(facts: Mapping[int, T], at: int, fact: T) -> Mapping[int, T]:
    """The same dict with the fact, or a new one in place of `_NO_FACTS`."""
    if not isinstance(facts, dict):
        return {at: fact}
    facts[at] = fact
    return facts


def _without(facts: Mapping[int, T], at: int) -> Mapping[int, T]:
    """The same dict without what is there, if anything is; `_NO_FACTS` in place of an empty one."""
    if isinstance(facts, dict):
        facts.pop(at, None)
    return facts or _NO_FACTS


def _joined(items: IntervalSet, lo: int, hi: int) -> IntervalSet:
    """The same set with `lo..hi`, or a new one in place of NO_ITEMS."""
    joined = IntervalSet() if items is NO_ITEMS else items
    joined.add(lo, hi)
    return joined


# --- Needed nodes: a node is not needed if every consumer already has its result, as in a cached run.


def open_child(nodes: Mapping[int, NodeView], child: NodeView) -> None:
    """Add `child` to the graph: its parents are needed unless it is complete."""
    parents = _parents(nodes, child)
    if parents:
        child.level = 1 + max(parent.level for parent in parents)
    if child.complete:
        child.closed = True
        return
    todo = [parents]
    while todo:
        for parent in todo.pop():
            parent.open_children += 1
            if not parent.needed:
                parent.needed, parent.closed = True, False
                parent.count_again()
                todo.append(_parents(nodes, parent))


def close_node(nodes: Mapping[int, NodeView], node: NodeView) -> None:
    """If `node` has become complete, mark parents that no other node needs as not needed, and so on upwards."""
    if not node.complete or node.closed:
        return
    todo = [node]
    while todo:
        closing = todo.pop()
        closing.closed = True
        for parent in _parents(nodes, closing):
            parent.open_children -= 1
            # One that left items out had all that it needed.
            if not parent.open_children and not parent.complete and not (parent.failed or parent.skipped):
                parent.needed = False
                parent.count_again()
                todo.append(parent)


def _parents(nodes: Mapping[int, NodeView], node: NodeView) -> list[NodeView]:
    return [nodes[parent] for parent in set(node.parents) if parent in nodes]


RATE_WINDOW_S = 30.0
"""Averaging time of a rate: long enough to be steady, short enough to show a change in the number of workers."""
GAP_S = 1.0
"""A worker's next attempt begins sooner than this after its last; a task that has none for longer waits for workers, which others have."""
SHORT_S = 0.1
"""Shorter attempts may end faster than the driver, or a store, can follow."""
MANY = 100
"""From so many short attempts on, how much of the slots' time they use is known."""


class SlotUse:
    """How much of the slots' time short attempts use: little, where the driver needs longer for them than they take."""

    def __init__(self) -> None:
        self._seconds = 0.0
        self._attempts = 0.0
        self._from = math.inf
        self._at = 0.0

    def ended(self, at: float, seconds: float) -> None:
        """An attempt ended that took so long."""
        fade = math.exp(-max(at - self._at, 0.0) / RATE_WINDOW_S)
        self._seconds = self._seconds * fade + seconds
        self._attempts = self._attempts * fade + 1
        self._from = min(self._from, at - seconds)
        self._at = at

    def share(self, now: float, slots: int) -> float:
        """The share of the time of so many slots, lately; 1 where attempts are long, or none ended in the last second."""
        if self._attempts < MANY or self._seconds > SHORT_S * self._attempts or now - self._at > GAP_S:
            return 1.0
        seen_s = RATE_WINDOW_S * -math.expm1(-max(self._at - self._from, 1e-6) / RATE_WINDOW_S)
        return min(max(self._seconds, 1e-9) / (slots * seen_s), 1.0)


class TaskRow(msgspec.Struct, frozen=True, kw_only=True):
    """A task at one moment, as plain values (for tables and `--json`). Counts are of items; a call is one item.

    `items` and `waiting` are None while a dynamic map's list does not exist. Seconds are None while nothing is
    measured; `rate` is items per second. `state` is `waiting`, `running`, `partly` (some items have results and none
    runs), `done`, `cached`, `failed`, `skipped` (all the items before failed) or `not needed` (every consumer already has its result).
    """

    task: str
    state: str
    kind: str
    nodes: int
    items: int | None
    waiting: int | None
    running: int
    cached: int
    done: int
    failed: int
    skipped: int
    """Items that do not run, because those of the map before failed."""
    attempts: int
    twins: int
    """Second attempts at stragglers."""
    twins_won: int
    """Second attempts that finished first."""
    failures: int
    seconds: float
    cpu_s: float
    saved_s: float
    item_s: float | None
    rate: float | None
    remaining_s: float | None
    peak_bytes: int | None
    limit_bytes: int | None
    cpus: float
    error: str
    gang: int
    """Ranks of each call or item, or the most of them; 0 if the task is not a gang."""
    least_ranks: int
    """Of an elastic gang: the fewest."""

    def __repr__(self) -> str:
        counts = {"done": self.done, "cached": self.cached, "failed": self.failed, "running": self.running}
        told = ", ".join(f"{count} {what}" for what, count in counts.items() if count)
        return f"TaskRow({self.task!r}, {self.state}: {told or 'none'} of {'?' if self.items is None else self.items})"


class TaskView:
    """The state of a task by the journal. `seconds` is the work of all its attempts, `saved_s` that of found results.

    Its counts are sums over its nodes. A change marks the node in `changed`, and the next read counts only marked nodes again: a
    read costs the nodes that changed since the one before, however many there are.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.failures = 0
        self.seconds = 0.0
        self.cpu_s = 0.0
        self.saved_s = 0.0
        self.peak_bytes: int | None = None
        self.failure: AttemptFailed | None = None
        self.started_at: float | None = None
        self.ended_at: float | None = None
        self._timed = 0
        self._timed_s = 0.0
        self._weighed_at = 0.0
        self._rate_from = 0.0
        self._freed = 0
        """Workers that ended an attempt of the task in the last GAP_S seconds, and have not begun another."""
        self._alike: dict[NodeCounts, NodeCounts] = {}
        """One object for the equal counts of calls, of which a task may have a million."""
        self.begin_anew()

    def begin_anew(self) -> None:
        """A new driver resumes the run: it plans the nodes again, and the rate starts again."""
        self._nodes = 0
        self.first: NodePlanned | None = None
        """The plan of the first node; there is one as soon as the task is in a view."""
        self.changed: set[NodeView] = set()
        self.levels: set[int] = set()
        """Of its nodes: a path through the graph has at most one node of each."""
        self._counts = NOTHING
        self._busy: dict[int, NodeView] = {}
        self._open: dict[int, NodeView] = {}
        self._firsts: list[AttemptStarted] | None = None
        self._weight = 0.0

    def add(self, node: NodeView, former: NodeView | None = None) -> None:
        """A node was planned, perhaps in place of the `former` one with the same number."""
        if former is not None and former.task is self:
            self.changed.discard(former)
            node.counted = former.counted
        else:
            self._nodes += 1
        self.first = self.first or node.planned
        self.levels.add(node.level)
        self.changed.add(node)

    def stop(self) -> None:
        """No attempt runs any more."""
        self._refresh()
        for node in self._busy.values():
            node.no_longer_runs()
            node.count_again()

    @property
    def counts(self) -> NodeCounts:
        """The sums over all nodes."""
        self._refresh()
        return self._counts

    def _refresh(self) -> None:
        """Count the changed nodes again."""
        if not self.changed:
            return
        before: list[NodeCounts] = []
        after: list[NodeCounts] = []
        for node in self.changed:
            counts = node.counts()
            if not counts.maps:
                counts = self._alike.setdefault(counts, counts)
            before.append(node.counted)
            after.append(counts)
            node.counted = counts
            number = node.number
            for kept, belongs in ((self._busy, counts.busy), (self._open, counts.open)):
                if belongs:
                    kept[number] = node
                else:
                    kept.pop(number, None)
        sums = [
            total + sum(map(column, after)) - sum(map(column, before))
            for total, column in zip(self._counts, _COLUMNS, strict=True)
        ]
        self._counts, self._firsts = NodeCounts(*sums), None
        self.changed.clear()

    @property
    def open(self) -> dict[int, NodeView]:
        """Its nodes that are needed and not complete, by number."""
        self._refresh()
        return self._open

    @property
    def firsts(self) -> list[AttemptStarted]:
        """Running attempts of all nodes in their order, without second attempts."""
        self._refresh()
        if self._firsts is None:
            self._firsts = [started for number in sorted(self._busy) for started in self._busy[number].firsts]
        return self._firsts

    @property
    def kind(self) -> str:
        """`call` or `map`."""
        return "map" if self.counts.maps else "call"

    @property
    def items(self) -> int | None:
        """The number of items; None while some map's list does not exist."""
        return None if self.counts.unsized else self.counts.items

    @property
    def waiting(self) -> int | None:
        """Items to come; None while some map's list does not exist."""
        return None if self.counts.uncounted else self.counts.waiting

    @property
    def running(self) -> int:
        """Items in running attempts."""
        return self.counts.running

    @property
    def done(self) -> int:
        """Items whose result this run computed."""
        return self.counts.settled - self.counts.cached

    @property
    def item_s(self) -> float | None:
        """Mean seconds of an item that ran; None while none did."""
        return self._timed_s / self._timed if self._timed else None

    @property
    def state(self) -> str:
        """`waiting`, `running`, `partly`, `done`, `cached`, `failed`, `skipped` or `not needed`, as in TaskRow."""
        counts = self.counts
        if counts.busy:
            return "running"
        if counts.failed:
            return "failed"
        if counts.skipped and self.waiting == 0:
            return "partly" if counts.settled else "skipped"
        if not counts.open:
            whole = "cached" if counts.cached and not self.done else "done"
            return whole if counts.settled else "not needed"
        return "partly" if counts.settled else "waiting"

    def rate(self, now: float) -> float | None:
        """Recently finished items per second; over the whole time once nothing is left. None before the first item."""
        if self.started_at is None or not self._timed:
            return None
        if self.ended_at is not None and not self.waiting and not self.running:
            return self._timed / max(self.ended_at - self.started_at, 1e-6)
        seen = max(now - self._rate_from, 1e-6)
        weight = self._weight * math.exp(-max(now - self._weighed_at, 0.0) / RATE_WINDOW_S)
        # Divided by the elapsed part of the window, to avoid a slow start.
        return weight / (RATE_WINDOW_S * -math.expm1(-seen / RATE_WINDOW_S))

    def work_s(self, now: float) -> float | None:
        """Remaining seconds of work for one worker, from the mean of finished items; None while it is not known."""
        waiting, mean = self.waiting, self.item_s
        if waiting == 0 and not self.running:
            return 0.0
        if waiting is None or mean is None:
            return None
        running = [(a.hi - a.lo, now - a.at) for a in self.firsts]
        # One that takes longer than the others did shows that the rest may, too: the estimate grows, and does not stand still.
        late = [(items, for_s) for items, for_s in running if for_s > items * mean]
        timed = self._timed + sum(items for items, _ in late)
        mean = (self._timed_s + sum(for_s for _, for_s in late)) / timed
        return waiting * mean + sum(max(items * mean - for_s, 0.0) for items, for_s in running)

    def overdue_s(self, now: float) -> float:
        """By how much the most overdue attempt has taken longer than its items do on average; all its time if none was timed."""
        mean = self.item_s or 0.0
        return max((now - a.at - (a.hi - a.lo) * mean for a in self.firsts), default=0.0)

    def remaining_s(self, now: float) -> float | None:
        """Seconds until its last item, with its current workers; None if not known.

        Not known, too, where the estimate would stand still: while the task waits for workers, and once an attempt is overdue
        by more than that.
        """
        work = self.work_s(now)
        if not work:
            return None if work is not None and self.overdue_s(now) > 0 else work
        busy = len(self.firsts)
        if self.ended_at is not None and now - self.ended_at <= GAP_S:
            busy += min(self._freed, self.waiting or 0)
        left = work / busy if busy else math.inf
        return None if left == math.inf or self.overdue_s(now) > left else left

    def began(self, at: float) -> None:
        """An attempt started."""
        if self.started_at is None:
            self.started_at = at
        recent = self.ended_at is not None and at - self.ended_at <= GAP_S
        self._freed = max(self._freed - 1, 0) if recent else 0
        if not self._weight:
            self._rate_from = at

    def ended(self, event: AttemptFinished | AttemptFailed, new: int) -> None:
        """An attempt ended, and `new` items got their first result."""
        self.seconds += event.seconds
        self.cpu_s += event.cpu_s
        if event.peak_bytes is not None:
            self.peak_bytes = max(self.peak_bytes or 0, event.peak_bytes)
        self._freed += 1
        self.ended_at = event.at
        if isinstance(event, AttemptFailed):
            if not event.resized:
                self.failures += 1
                self.failure = event
        elif event.hi > event.lo:
            # The time of a failed attempt does not tell how long an item takes.
            self._timed_s += event.seconds
            self._timed += event.hi - event.lo
        if new:
            self._weight *= math.exp(-max(event.at - self._weighed_at, 0.0) / RATE_WINDOW_S)
            self._weight += new
            self._weighed_at = event.at

    def row(self, now: float) -> TaskRow:
        """The task at `now`."""
        counts, first = self.counts, self.first
        assert first is not None
        return TaskRow(
            task=self.name,
            state=self.state,
            kind=self.kind,
            nodes=self._nodes,
            items=self.items,
            waiting=self.waiting,
            running=self.running,
            cached=counts.cached,
            done=self.done,
            failed=counts.failed,
            skipped=counts.skipped,
            attempts=counts.attempts,
            twins=counts.twins,
            twins_won=counts.twins_won,
            failures=self.failures,
            seconds=self.seconds,
            cpu_s=self.cpu_s,
            saved_s=self.saved_s,
            item_s=self.item_s,
            rate=self.rate(now),
            remaining_s=self.remaining_s(now),
            peak_bytes=self.peak_bytes,
            limit_bytes=first.memory,
            cpus=first.cpus,
            error=_message(self.failure) if counts.failed else "",
            gang=first.gang,
            least_ranks=first.least_ranks,
        )


def _message(event: AttemptFailed | None) -> str:
    if event is None:
        return ""
    failure = event.failure
    if failure.error_type and not failure.message.startswith(failure.error_type):
        return f"{failure.whose}{failure.error_type}: {failure.message}"
    return failure.whose + failure.message
