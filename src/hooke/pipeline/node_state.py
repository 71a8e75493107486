"""What the run state keeps of a node, and of an attempt that is under way."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

from hooke.base.intervals import IntervalSet, SegmentMap
from hooke.journal.events import CapacityChanged, RetryPlanned
from hooke.pipeline.graph import Need, Node
from hooke.pipeline.slots import ResourceRequest, memory_after

__all__ = [
    "Abandon",
    "ChunkSizer",
    "Effect",
    "Finish",
    "LookedUp",
    "Lookup",
    "NodePlan",
    "NodeState",
    "RunningAttempt",
    "Submit",
    "Usual",
]


# --- How many items of a map go into one attempt: sized by measured duration.

TARGET_S = 0.1
"""Seconds of work an attempt should hold: a thousand times the cost of handing one out, and short enough to balance."""

CHUNKS_PER_SLOT = 3
"""Never less than this many chunks per slot are left to come, so that the last ones end together."""

LEAST_CHUNK_S = 0.01
"""Less work than this is not shared out further, since handing it out costs a tenth of it."""

GROWTH = 8
"""A chunk is at most this many times the largest one measured: early items may not be typical."""

WORTH_ORDERING_S = 0.05
"""Items shorter than this are not worth running one by one for the sake of their order."""

LOOK_AHEAD = 64
"""How many long items that are not ready a choice looks past."""


class ChunkSizer:
    """Sizes the chunks of one map from what was measured of it."""

    __slots__ = ("_items", "_largest", "_order", "_seconds")

    def __init__(self) -> None:
        self._items = 0
        self._seconds = 0.0
        self._largest = 0
        self._order: list[int] | None = None  # the longest last

    def measured(self, items: int, seconds: float) -> None:
        """Note that `items` items took `seconds`."""
        self._items += items
        self._seconds += seconds
        self._largest = max(self._largest, items)

    def size(self, remaining: int, slots: int) -> int:
        """Items for the next chunk, at least 1, with `remaining` to do on `slots` slots."""
        if not self._items:
            return 1
        mean_s = self._seconds / self._items
        by_time, least = (_items(seconds, mean_s, remaining) for seconds in (TARGET_S, LEAST_CHUNK_S))
        fair = -(-remaining // (CHUNKS_PER_SLOT * max(1, slots)))
        return max(1, min(by_time, max(fair, least), self._largest * GROWTH))

    def longest(self, expected_s: Mapping[int, float], ready: IntervalSet) -> int | None:
        """The ready item that is expected to take longest; None where no long one is known.

        Longer items that are not ready now (done, running, or waiting) are passed for good: they run
        in the ordinary order, so that a choice costs nothing on average.
        """
        if self._order is None:
            known = [item for item, seconds in expected_s.items() if seconds >= WORTH_ORDERING_S]
            self._order = sorted(known, key=lambda item: (expected_s[item], -item))
        for _ in range(min(LOOK_AHEAD, len(self._order))):
            item = self._order[-1]
            if ready.contains(item, item + 1):
                return item  # and stays: whether it runs is decided elsewhere
            self._order.pop()
        return None


def _items(seconds: float, mean_s: float, most: int) -> int:
    """How many items of `mean_s` make so many seconds, at most `most`."""
    return int(min(most, seconds / mean_s)) if mean_s > 0 else most


# --- What the run state is told and what it asks for: plans of nodes, effects for the runner, answers to them.


@dataclass(frozen=True, slots=True, kw_only=True)
class NodePlan:
    """What the scheduler needs to know of a node beside its place in the graph."""

    cpus: float = 1.0
    memory: int | None = None
    gpus: float = 0.0
    retries: int = 0
    timeout_s: float | None = None
    ranks: int = 0
    """Of a gang: how many slots it takes at once, with cpus, memory and gpus for each. 0 for what is no gang."""
    repeatable: bool = True
    """Whether two attempts at the same items may run at once: not so where the task is declared impure."""
    expected_s: Mapping[int, float] = field(default_factory=dict)
    """Item -> seconds it took last time, where known."""


@dataclass(frozen=True, slots=True)
class Lookup:
    """Effect: find the node's results; answer with ItemsFound (and MapExpanded) events, then `looked(...)`."""

    node: int


@dataclass(frozen=True, slots=True)
class Submit:
    """Effect: run these items as an attempt."""

    attempt: int
    node: int
    lo: int
    hi: int
    number: int
    expand: bool = False
    memory: int | None = None
    """Bytes that the attempt may use."""
    twin_of: int | None = None
    """The attempt at the same items that runs long; this one is the second, and the first result wins."""
    short: bool = False
    """Expected to end within milliseconds, so that it may wait in a worker behind others like it."""


@dataclass(frozen=True, slots=True)
class Abandon:
    """Effect: cancel an attempt. With `timed_out`, report it as failed for that."""

    attempt: int
    timed_out: bool = False


@dataclass(frozen=True, slots=True)
class Finish:
    """Effect: the run is over: `finished`, `failed` or `stopped`."""

    status: str


@dataclass(frozen=True, slots=True)
class LookedUp:
    """Answer to Lookup: all that was found has been said.

    `held`: another process computes it now, so look again a little later. With `attempt`, the answer
    is to a Submit, and withdraws it: the result was found, or is computed elsewhere, meanwhile.
    """

    node: int
    held: bool = False
    attempt: int | None = None


Effect: TypeAlias = Lookup | Submit | Abandon | Finish | RetryPlanned


# --- When an attempt at a map's items is a straggler: it runs much longer than what the map's items took so far.

TIMES_THE_SLOWEST = 2.0
"""Durations of a map are often skewed by less than this, and a stuck item by far more."""

LEAST_STRAGGLER_S = 1.0
"""No attempt is a straggler before: a second one costs a worker's start, and its loser a worker's end."""

ENOUGH_ITEMS = 3
"""So many must have finished before their durations say anything."""


class Usual:
    """What the items of one map took so far, each as a share of its attempt."""

    __slots__ = ("_items", "_slowest_s")

    def __init__(self) -> None:
        self._items = 0
        self._slowest_s = 0.0

    def measured(self, items: int, seconds: float) -> None:
        """Note that an attempt at `items` items finished in `seconds`."""
        self._items += items
        self._slowest_s = max(self._slowest_s, seconds / items)

    def limit_s(self, lo: int, hi: int, expected_s: Mapping[int, float]) -> float | None:
        """Seconds after which an attempt at items `lo..hi` is a straggler; None while too little is known.

        `expected_s` is what items took in earlier runs: one that was long then may be long again.
        """
        if self._items < ENOUGH_ITEMS:
            return None
        usual = self._slowest_s * (hi - lo)
        if expected_s:
            usual = sum(max(self._slowest_s, expected_s.get(item, 0.0)) for item in range(lo, hi))
        return max(LEAST_STRAGGLER_S, TIMES_THE_SLOWEST * usual)


@dataclass(slots=True)
class RunningAttempt:
    """An attempt that is under way: items `lo..hi` of a node, or the reading of its list (`expand`)."""

    node: int
    lo: int
    hi: int
    expand: bool
    asked: ResourceRequest
    started: float | None = None
    skips: int = 0
    """How often its node had been passed by others before."""
    twin: int | None = None
    """The other attempt at the same items, while both run."""
    doubled: bool = False
    """Whether there are or were two of it; there is never a third."""


@dataclass(slots=True)
class NodeState:
    """Where a node stands. `done`, `taken` and `open` share no item.

    `open` holds the items that may start now, `taken` those that run or wait for their next try, `alone`
    those that go one to an attempt: suspects of a death, and items that failed before.
    """

    node: Node
    plan: NodePlan
    needs: tuple[Need, ...]
    items: int | None
    demanded: bool = False
    looked: bool = False
    expanding: bool = False
    settled: bool = False
    missing: int = 0
    done: SegmentMap = field(default_factory=SegmentMap)
    open: IntervalSet = field(default_factory=IntervalSet)
    taken: IntervalSet = field(default_factory=IntervalSet)
    alone: IntervalSet = field(default_factory=IntervalSet)
    failures: dict[int, int] = field(default_factory=dict)
    growths: dict[int, int] = field(default_factory=dict)
    """Item -> how often its memory was doubled."""
    skips: int = 0
    sizer: ChunkSizer = field(default_factory=ChunkSizer)
    usual: Usual = field(default_factory=Usual)

    @property
    def complete(self) -> bool:
        """Whether every item is done."""
        return self.items is not None and len(self.done) == self.items

    def memory(self, item: int, place: CapacityChanged) -> int | None:
        """Bytes that an attempt which begins with this item may use; None for no limit."""
        return memory_after(self.plan.memory, self.growths.get(item, 0), place, slots=self.slots(item))

    def slots(self, item: int) -> int:
        """How many an attempt at this item (-1: the reading of the list) takes."""
        return max(1, self.plan.ranks) if item >= 0 else 1

    @property
    def startable(self) -> bool:
        """Whether some items of it, or the reading of its list, may start now."""
        if not self.looked:
            return False
        return bool(self.open) or (self.items is None and not self.expanding)

    def choose(self, slots: int) -> tuple[int, int]:
        """The next items: the longest one where durations are known, else a chunk from the front."""
        longest = self.sizer.longest(self.plan.expected_s, self.open)
        if longest is not None:
            return longest, longest + 1
        one_by_one = self.plan.timeout_s is not None or self.plan.ranks > 0
        most = 1 if one_by_one else self.sizer.size(self.open.count, slots)
        lo, hi = self.open.first(most)
        solo = next((start for start, _ in self.alone.within(lo, hi)), hi)
        return (lo, solo) if lo < solo else (lo, lo + 1)

    def straggles_at(self, running: RunningAttempt, now: float) -> float | None:
        """When an attempt of this node is a straggler; None where it never is, or may have no second one beside it."""
        if running.started is None or running.doubled or running.expand or self.node.kind != "map":
            return None
        if (
            not self.plan.repeatable
            or self.plan.ranks
            or self.items is None
            or 2 * len(self.done) < self.items
        ):
            return None  # before half is done, what finished is what was quick
        limit_s = self.usual.limit_s(running.lo, running.hi, self.plan.expected_s)
        if limit_s is None:
            return None
        due, timeout_s = running.started + limit_s, self.plan.timeout_s
        in_time = timeout_s is None or max(due, now) < running.started + timeout_s
        return due if in_time else None
