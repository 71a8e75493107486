"""The state of a node and of a running attempt, the sizes of chunks and of elastic gangs, and the run state's effects."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import msgspec

from hooke.base.intervals import IntervalSet, OneItem, OneSegment, SegmentMap
from hooke.journal.events import CapacityChanged, ItemsSkipped, RetryPlanned
from hooke.pipeline.graph import Need, Node
from hooke.pipeline.slots import ResourceRequest, SlotRoom, exceeds, memory_after

__all__ = [
    "Abandon",
    "ChunkSizer",
    "Effect",
    "ElasticGangs",
    "ElasticItem",
    "Finish",
    "LookedUp",
    "Lookup",
    "NodePlan",
    "NodeState",
    "Resize",
    "RunningAttempt",
    "StragglerLimit",
    "Submit",
]


# --- Chunks: how many items of a map go into one attempt, by their measured duration.

TARGET_S = 0.1
"""Seconds of work in one attempt, more where an order costs much: a thousand times the cost of submitting it here, and short enough to balance the load."""

MOST_TARGET_S = 0.5
"""At most so many, whatever an order costs: a chunk that dies runs again."""

TARGET_ORDERS = 40
"""So many times what its order costs, as long as there is enough: while an order is on its way, its slot is idle, and the machine works for it."""

CHUNKS_PER_SLOT = 3
"""At least this many chunks per slot remain, so that the last ones end together."""

LIMIT_S = 2 * TARGET_S
"""How long a chunk may take that was sized by an earlier run alone."""

LEAST_CHUNK_S = 0.01
"""Less work than this is not split further: submitting it costs a tenth of it."""

TIMES_ITS_ORDER = 5
"""Nor is less work than so many times what its order costs: the way to a worker and back, during which the slot may idle."""

FIRST_ORDER_S = 0.02
"""What the first orders count for at most: they may have started a worker."""

MOST_ORDER_S = 0.2
"""What others count for at most: a chunk that dies runs again, so it stays below a second of work."""

GROWTH = 8
"""A chunk is at most this many times the largest measured one, or takes as long as its order: early items may not be typical."""

WORTH_ORDERING_S = 0.05
"""Shorter items are not worth running one by one for the sake of their order."""

LOOK_AHEAD = 64
"""How many long items that are not ready one choice skips."""


class ChunkSizer:
    """Sizes the chunks of one map by its measured durations."""

    __slots__ = ("_first_order_s", "_items", "_largest", "_order", "_orders", "_orders_s", "_seconds")

    def __init__(self) -> None:
        self._items = 0
        self._seconds = 0.0
        self._largest = 0
        self._first_order_s = FIRST_ORDER_S
        self._orders = 0
        self._orders_s = 0.0
        self._order: list[int] | None = None  # the longest last

    def measured(self, items: int, seconds: float, *, order_s: float = 0.0, first: bool = False) -> None:
        """Note that `items` items took `seconds`, and that their attempt took `order_s` more until its answer arrived.

        `first`: it was sized before anything was measured, so it may have started a worker.
        """
        if items >= GROWTH * self._largest:
            # So far it was mostly first calls, which import and fill caches.
            self._items, self._seconds = 0, 0.0
        self._items += items
        self._seconds += seconds
        self._largest = max(self._largest, items)
        order_s = max(order_s, 0.0)
        if items > 1 and not first:
            self._orders += 1
            self._orders_s += min(order_s, MOST_ORDER_S)
        else:
            self._first_order_s = min(self._first_order_s, order_s)

    @property
    def has_measured(self) -> bool:
        """Whether anything is known of this map's own items."""
        return self._items > 0

    def size(self, remaining: int, slots: int, *, under_way: int = 0, usual_s: float = 0.0) -> int:
        """Items for the next chunk, at least 1, with `remaining` to do on `slots` slots beside those that are `under_way`.

        `usual_s` is what an item took in an earlier run, 0 if that is not known. It counts until something is measured.
        """
        if not (self._items or usual_s):
            return 1
        mean_s = self._seconds / self._items if self._items else usual_s
        first_s = self._first_order_s if self._items else 0.0
        order_s = self._orders_s / self._orders if self._orders else first_s
        worth_s = TIMES_ITS_ORDER * order_s
        target_s = max(TARGET_S, worth_s, min(TARGET_ORDERS * order_s, MOST_TARGET_S))
        by_time, least, as_order = (
            _items(seconds, mean_s, remaining) for seconds in (target_s, max(LEAST_CHUNK_S, worth_s), order_s)
        )
        fair = -(-remaining // (CHUNKS_PER_SLOT * max(1, slots)))
        least = min(
            least, max(-(-(remaining + under_way) // max(1, slots)), _items(LEAST_CHUNK_S, mean_s, remaining))
        )
        grown = max(self._largest * GROWTH, as_order if order_s else 0) if self._items else remaining
        return max(1, min(by_time, max(fair, least), grown))

    def longest(self, expected_s: Mapping[int, float], ready: IntervalSet) -> int | None:
        """The ready item with the longest expected duration; None if no long one is known.

        Longer items that are not ready now (done, running or waiting) are dropped from the order: they run in the
        ordinary order later, so that a choice costs nothing on average.
        """
        if self._order is None:
            known = [item for item, seconds in expected_s.items() if seconds >= WORTH_ORDERING_S]
            self._order = sorted(known, key=lambda item: (expected_s[item], -item))
        for _ in range(min(LOOK_AHEAD, len(self._order))):
            item = self._order[-1]
            if ready.contains(item, item + 1):
                return item  # it stays in the order: the caller decides whether it runs
            self._order.pop()
        return None


def _items(seconds: float, mean_s: float, most: int) -> int:
    """How many items of `mean_s` seconds fit into `seconds`, at most `most`."""
    return int(min(most, seconds / mean_s)) if mean_s > 0 else most


# --- Messages: plans of nodes, effects for the runner, and the runner's answers.


class NodePlan(msgspec.Struct, frozen=True, kw_only=True):
    """What the scheduler needs to know of a node besides its position in the graph."""

    cpus: float = 1.0
    memory: int | None = None
    gpus: float = 0.0
    retries: int = 0
    timeout_s: float | None = None
    ranks: int = 0
    """Slots that a gang takes at once, or the most of them, with cpus, memory and gpus for each. 0 if the task is not a gang."""
    least_ranks: int = 0
    """Of an elastic gang: the fewest slots with which it runs. 0 for any other task."""
    repeatable: bool = True
    """Whether two attempts at the same items may run at once; False for a task that is declared impure."""
    expected_s: Mapping[int, float] = msgspec.field(default_factory=dict)
    """Item -> its seconds in an earlier run, if known."""
    usual_s: float = 0.0
    """Seconds of an item in the largest chunk of an earlier run; 0 if there was none."""

    @property
    def fewest(self) -> int:
        """Slots without which an attempt cannot begin."""
        return self.least_ranks or max(1, self.ranks)


class Lookup(msgspec.Struct, frozen=True):
    """Effect: find the node's results; answer with ItemsFound (and MapExpanded) events, then LookedUp."""

    node: int


class Submit(msgspec.Struct, frozen=True):
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
    """The straggling attempt at the same items. This one is the second; the first result wins."""
    short: bool = False
    """Whether it is expected to end within milliseconds, so it may wait in a worker behind similar attempts."""
    ranks: int = 0
    """Of a gang: the number of its ranks."""
    limit_s: float = 0.0
    """Of several items: seconds after which it ends with those that it has done. 0 for no limit."""
    after: int | None = None
    """The running attempt whose result it needs: it waits for that in the same worker."""


class Resize(msgspec.Struct, frozen=True):
    """Effect: ask a running elastic gang to go on with so many ranks from its next checkpoint on; as many as it has, to take that back."""

    attempt: int
    ranks: int


class Abandon(msgspec.Struct, frozen=True):
    """Effect: cancel an attempt. With `timed_out`, report it as failed by its timeout."""

    attempt: int
    timed_out: bool = False


class Finish(msgspec.Struct, frozen=True):
    """Effect: the run is over: FINISHED, WITH_FAILURES, `failed` or `stopped`."""

    status: str


class LookedUp(msgspec.Struct, frozen=True):
    """Answer to Lookup, after the events for all results that were found.

    `held`: another process is computing the node, so look it up again a little later. `asked`: whether its stored results count
    is asked of a worker, and another answer follows. With `attempt`, it answers a Submit and withdraws it: the result was found,
    or another process is computing it, or a worker is asked.
    """

    node: int
    held: bool = False
    attempt: int | None = None
    asked: bool = False


Effect: TypeAlias = Lookup | Submit | Resize | Abandon | Finish | RetryPlanned | ItemsSkipped


# --- Stragglers: attempts that run much longer than the map's finished items.

TIMES_THE_SLOWEST = 2.0
"""The durations of a map often differ by less than this factor; a stuck item exceeds it by far."""

LEAST_STRAGGLER_S = 1.0
"""No attempt is a straggler earlier: a second attempt costs a worker's start, and the loser a worker's end."""

ENOUGH_ITEMS = 3
"""Items that must have finished before their durations mean anything."""


class StragglerLimit:
    """After how many seconds an attempt at items of one map is a straggler, by the slowest item so far."""

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

        `expected_s` has durations of earlier runs: an item that was slow then may be slow again.
        """
        if self._items < ENOUGH_ITEMS:
            return None
        usual = self._slowest_s * (hi - lo)
        if expected_s:
            usual = sum(max(self._slowest_s, expected_s.get(item, 0.0)) for item in range(lo, hi))
        return max(LEAST_STRAGGLER_S, TIMES_THE_SLOWEST * usual)


class RunningAttempt(msgspec.Struct):
    """A running attempt: at items `lo..hi` of a node, or at reading its list (`expand`)."""

    node: int
    lo: int
    hi: int
    expand: bool
    request: ResourceRequest
    submitted: float = 0.0
    started: float | None = None
    skips: int = 0
    """How often other nodes had been preferred before it started."""
    twin: int | None = None
    """The other attempt at the same items, while both run."""
    limit_s: float = 0.0
    """As in Submit."""
    doubled: bool = False
    """Whether a second attempt was started; there is never a third."""
    asked: int = 0
    """Of an elastic gang: the ranks with which it was asked to go on; 0 if it never was."""
    wish: int = 0
    """Of an elastic gang: the ranks that it should have now, and since when."""
    wished: float = 0.0
    before_s: float = 0.0
    """Seconds of the attempts before that ended at a checkpoint, for the timeout."""


class ElasticItem(msgspec.Struct):
    """What an elastic gang's attempts at one item have come to so far."""

    resizes: int = 0
    """How often it was asked to change its number of ranks, and did."""
    most: int | None = None
    """The most ranks of the next attempt, where it makes way for others."""
    ran_s: float = 0.0
    lost_hosts: int = 0
    """How often it lost a machine, which costs no retry."""


_MADE_WHEN_READ: dict[str, Callable[[], Any]] = {
    "done": SegmentMap,
    **dict.fromkeys(("left_out", "open", "taken", "alone"), IntervalSet),
    **dict.fromkeys(("growths", "elastic"), dict),
    "sizer": ChunkSizer,
    "straggler_limit": StragglerLimit,
}


_OF_CALLS: dict[str, Callable[[], Any]] = {"done": OneSegment, "open": OneItem, "taken": OneItem}
_WORK = ("open", "taken")


@dataclass(slots=True, eq=False)
class NodeState:
    """The state of a node. `done`, `left_out`, `taken` and `open` are disjoint.

    `open` holds the items that may start now, `taken` those that run or wait for a retry. Items in `alone` run one
    to an attempt: suspects of a worker's death, and items that failed before. Items in `left_out` get no result in
    this run: they failed for good in a map with `on_error="continue"`, or follow such an item.
    """

    node: Node
    plan: NodePlan
    needs: tuple[Need, ...]
    items: int | None
    demanded: bool = False
    looked_up: bool = False
    asked: bool = False
    """Whether a worker is asked whether its stored results count."""
    expanding: bool = False
    announced: bool = False
    missing: int = 0
    failed: int = 0
    """How many of the items in `left_out` failed themselves."""
    tainted: bool = False
    """Whether a result of it was computed from a list that lacks items, or from such a result."""
    skips: int = 0
    lost: int = 0
    """How many items are in `left_out`."""
    done: SegmentMap | OneSegment = field(init=False, repr=False)
    left_out: IntervalSet = field(init=False, repr=False)
    open: IntervalSet = field(init=False, repr=False)
    taken: IntervalSet = field(init=False, repr=False)
    alone: IntervalSet = field(init=False, repr=False)
    failures: dict[int, int] | None = None
    """Item -> how many attempts at it have failed; None if none has."""
    growths: dict[int, int] = field(init=False, repr=False)
    """Item -> how often its memory was doubled."""
    elastic: dict[int, ElasticItem] = field(init=False, repr=False)
    sizer: ChunkSizer = field(init=False, repr=False)
    straggler_limit: StragglerLimit = field(init=False, repr=False)

    def __getattr__(self, name: str) -> Any:
        """What most nodes never need is made when it is first read."""
        make = _MADE_WHEN_READ.get(name)
        if make is None:
            raise AttributeError(f"a NodeState has no {name!r}")
        made = _OF_CALLS.get(name, make)() if self.node.kind == "call" else make()
        setattr(self, name, made)
        return made

    @property
    def complete(self) -> bool:
        """Whether every item is done or left out."""
        return self.items is not None and len(self.done) + self.lost == self.items

    @property
    def whole(self) -> bool:
        """Whether every item has a result, and none depends on items that were left out."""
        return self.complete and not self.lost and not self.tainted

    def forget_work(self) -> None:
        """Let go of what a node that has run and is complete needs no more, for the memory."""
        for name in ("open", "taken", "elastic") if self.plan.least_ranks else _WORK:
            if not getattr(self, name):
                delattr(self, name)

    def number(self, item: int) -> int:
        """Of the next attempt at the item: 1 for the first, and one more for each that has failed."""
        return 1 if self.failures is None else self.failures.get(item, 0) + 1

    def leave_out(self, lo: int, hi: int) -> None:
        """Items `lo..hi`, none of which is left out yet, get no result."""
        self.left_out.add(lo, hi)
        self.lost = self.left_out.count

    def missing_in(self, lo: int, hi: int) -> list[tuple[int, int]]:
        """The ranges of `lo..hi` that are neither done nor left out."""
        gaps = self.done.items.gaps(lo, hi)
        if not self.lost:
            return gaps
        return [piece for a, b in gaps for piece in self.left_out.gaps(a, b)]

    def memory(self, item: int, place: CapacityChanged) -> int | None:
        """Bytes that an attempt which begins with this item may use; None for no limit."""
        if self.plan.memory is None:
            return None
        return memory_after(self.plan.memory, self.growths.get(item, 0), place, slots=self.slots(item))

    def slots(self, item: int) -> int:
        """Slots that an attempt at this item (-1: reading the list) takes at least."""
        return self.plan.fewest if item >= 0 else 1

    @property
    def startable(self) -> bool:
        """Whether some of its items, or reading its list, may start now."""
        if not self.looked_up:
            return False
        return bool(self.open) or (self.items is None and not self.expanding)

    def choose(self, slots: int) -> tuple[int, int]:
        """The next items: the longest one if durations are known, else a chunk from the front."""
        if self.node.kind == "call":
            return 0, 1
        longest = self.sizer.longest(self.plan.expected_s, self.open)
        if longest is not None:
            return longest, longest + 1
        one_by_one = self.plan.timeout_s is not None or self.plan.ranks > 0
        most = (
            1
            if one_by_one
            else self.sizer.size(
                self.open.count, slots, under_way=self.taken.count, usual_s=self.plan.usual_s
            )
        )
        lo, hi = self.open.first(most)
        solo = next((start for start, _ in self.alone.within(lo, hi)), hi)
        return (lo, solo) if lo < solo else (lo, lo + 1)

    def limit_s(self, items: int) -> float:
        """Seconds after which an attempt at so many items is to end with those that it has done; 0 for no limit.

        They may take longer than in the earlier run, by which alone such a chunk was sized.
        """
        return 0.0 if items < 2 or self.node.kind == "call" or self.sizer.has_measured else LIMIT_S

    def straggles_at(self, running: RunningAttempt, now: float) -> float | None:
        """When a running attempt becomes a straggler; None if it never does or must not have a second attempt."""
        if running.started is None or running.doubled or running.expand or self.node.kind != "map":
            return None
        if (
            not self.plan.repeatable
            or self.plan.ranks
            or self.items is None
            or 2 * len(self.done) < self.items
        ):
            return None  # the first half of the items to finish are the quick ones
        limit_s = self.straggler_limit.limit_s(running.lo, running.hi, self.plan.expected_s)
        if limit_s is None:
            return None
        due, timeout_s = running.started + limit_s, self.plan.timeout_s
        in_time = timeout_s is None or max(due, now) < running.started + timeout_s
        return due if in_time else None


# --- Elastic gangs: with how many ranks each begins, and when it is asked to go on with another number.
#
# A gang changes its number of ranks at a checkpoint only: it ends there, and begins again with as many as there is room for. That
# costs new processes, which import their libraries again. So a gang is asked only after it has run for a while, which is longer after
# each change, and only if the reason has lasted.

SETTLED_S = 5.0
"""How long a gang runs before it is asked to change: about what PyTorch takes to start its ranks. Doubled with each change."""

LONGEST_SETTLED_S = 320.0
"""Then changes cost some percent of the time at most."""

LASTS_S = 2.0
"""How long there must be a reason. Between two tasks of a pipeline there is room for a moment, and workers join one by one."""

LOOK_S = 0.5
"""How often it is looked at: each look goes through all that waits."""

UNBORN_S = 60.0
"""A gang that has not begun after so long is tried with a rank less: no machine may have room for the last one."""


class ElasticGangs:
    """The elastic gangs of one run."""

    def __init__(self) -> None:
        self.settled_s, self.lasts_s = SETTLED_S, LASTS_S
        self._look_at = -math.inf

    # -- how an attempt begins -----------------------------------------------------------------------

    def widened(
        self, state: NodeState, item: int, request: ResourceRequest, room: SlotRoom
    ) -> ResourceRequest | None:
        """The request for the fewest ranks with as many more as there is room for, which are taken; None if there is no room for more."""
        known = state.elastic.get(item)
        most = state.plan.ranks if known is None or known.most is None else known.most
        free = room.capacity.slots - room.taken
        for ranks in range(min(most, free), state.plan.fewest, -1):
            wider = with_ranks(request, ranks)
            if not exceeds(wider, room.capacity) and room.take(wider):
                return wider
        return None

    # -- how an attempt ends -------------------------------------------------------------------------

    def resized(self, state: NodeState, running: RunningAttempt, now: float) -> None:
        """An attempt has ended at a checkpoint: the next one at its item goes on with another number of ranks."""
        item = state.elastic.setdefault(running.lo, ElasticItem())
        item.resizes += 1
        item.ran_s = _ran_s(running, now)
        item.most = running.asked if 0 < running.asked < running.request.slots else None

    def failed(self, state: NodeState, running: RunningAttempt) -> None:
        """An attempt has failed: the next one begins with as many ranks as there is room for."""
        if known := state.elastic.get(running.lo):
            known.most, known.ran_s = None, 0.0

    def withdrawn(
        self, running: Mapping[int, RunningAttempt], states: Sequence[NodeState], room: SlotRoom, now: float
    ) -> Iterator[int]:
        """The attempts that have not begun and cannot as they are: the room for them is gone."""
        for attempt, each in _elastic(running, states):
            late = now >= each.submitted + UNBORN_S and each.request.slots > states[each.node].plan.fewest
            if each.started is None and (late or room.taken > room.capacity.slots):
                state = states[each.node]
                item = state.elastic.setdefault(each.lo, ElasticItem())
                item.most = max(each.request.slots - 1, state.plan.fewest) if late else None
                yield attempt

    # -- how many ranks it should have -----------------------------------------------------------------

    def resizes(
        self,
        running: Mapping[int, RunningAttempt],
        states: Sequence[NodeState],
        room: SlotRoom,
        waiting: Iterable[ResourceRequest],
        now: float,
    ) -> Iterator[Resize]:
        """What to ask of gangs now. `waiting` are the requests that have no room, those that go first before the others."""
        gangs = {attempt: each for attempt, each in _elastic(running, states) if each.started is not None}
        if not gangs or now < self._look_at:
            return
        self._look_at = now + LOOK_S
        wishes = _wishes(
            gangs, {attempt: states[each.node].plan for attempt, each in gangs.items()}, room, waiting
        )
        for attempt, each in gangs.items():
            if wishes[attempt] != each.wish:
                each.wish, each.wished = wishes[attempt], now
            if each.wish != (each.asked or each.request.slots) and now >= self._due(each, states[each.node]):
                each.asked = each.wish
                yield Resize(attempt, each.wish)

    def next_due(
        self, running: Mapping[int, RunningAttempt], states: Sequence[NodeState], now: float
    ) -> float | None:
        """When to look again, even without an event; None for never."""
        due = []
        for _, each in _elastic(running, states):
            if each.started is not None:
                due.append(max(now + LOOK_S, self._look_at))
            elif each.request.slots > states[each.node].plan.fewest:
                due.append(each.submitted + UNBORN_S)
        return min(due, default=None)

    def _due(self, each: RunningAttempt, state: NodeState) -> float:
        """When the gang is asked for what it should have now; at once where it is to stay as it is."""
        if each.wish == each.request.slots:
            return each.wished
        known = state.elastic.get(each.lo)
        doublings = 0 if known is None else min(known.resizes, 10)
        assert each.started is not None
        return max(
            each.wished + self.lasts_s, each.started + min(self.settled_s * 2**doublings, LONGEST_SETTLED_S)
        )


def with_ranks(request: ResourceRequest, ranks: int) -> ResourceRequest:
    """The request of a gang with so many ranks."""
    return msgspec.structs.replace(request, slots=ranks)


def _elastic(
    running: Mapping[int, RunningAttempt], states: Sequence[NodeState]
) -> Iterator[tuple[int, RunningAttempt]]:
    for attempt, each in running.items():
        if states[each.node].plan.least_ranks and not each.expand:
            yield attempt, each


def _ran_s(running: RunningAttempt, now: float) -> float:
    return running.before_s + (max(now - running.started, 0.0) if running.started is not None else 0.0)


class _Trial:
    """Sizes of gangs that are tried out, in a copy of the room."""

    def __init__(
        self, gangs: Mapping[int, RunningAttempt], plans: Mapping[int, NodePlan], room: SlotRoom
    ) -> None:
        self.sizes = {attempt: each.request.slots for attempt, each in gangs.items()}
        self.room = room.copy()
        self._gangs, self._plans = gangs, plans

    def fit(self) -> None:
        """Shrink gangs until all have room, as far as they may."""
        while self.room.taken > self.room.capacity.slots and self._shrink():
            pass

    def admit(self, request: ResourceRequest) -> bool:
        """Shrink gangs until there is room for one more. False, and none has shrunk, if that does not help."""
        sizes, room = dict(self.sizes), self.room.copy()
        while not self.room.take(request):
            if not self._shrink():
                self.sizes, self.room = sizes, room
                return False
        return True

    def grow(self) -> None:
        """Let gangs grow as far as there is room, the narrowest first."""
        while any(
            self._change(each, 1) for each in sorted(self.sizes, key=lambda each: (self.sizes[each], each))
        ):
            pass

    def _shrink(self) -> bool:
        """Take a rank from the widest gang that may have fewer; False if none may."""
        return any(
            self._change(each, -1) for each in sorted(self.sizes, key=lambda each: (-self.sizes[each], each))
        )

    def _change(self, attempt: int, by: int) -> bool:
        request, plan = self._gangs[attempt].request, self._plans[attempt]
        other = with_ranks(request, self.sizes[attempt] + by)
        if not plan.fewest <= other.slots <= plan.ranks or (by > 0 and exceeds(other, self.room.capacity)):
            return False
        if not self.room.take_instead(other, with_ranks(request, self.sizes[attempt])):
            return False
        self.sizes[attempt] += by
        return True


def _wishes(
    gangs: Mapping[int, RunningAttempt],
    plans: Mapping[int, NodePlan],
    room: SlotRoom,
    waiting: Iterable[ResourceRequest],
) -> dict[int, int]:
    """Attempt -> the ranks that it should have: fewer where others wait and would have room then, else as many as there is room for.

    The widest gangs shrink first. What has no room beside the smallest gangs either keeps none of them small.
    """
    trial = _Trial(gangs, plans, room)
    trial.fit()
    admitted = [trial.admit(request) for request in waiting]
    if not any(admitted):
        trial.grow()
    return trial.sizes
