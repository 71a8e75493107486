"""What the run state keeps of a node, and of an attempt that is under way."""

from __future__ import annotations

from dataclasses import dataclass, field

from hooke.base.intervals import IntervalSet, SegmentMap
from hooke.journal.events import CapacityChanged
from hooke.pipeline.admission import Asked, memory_after
from hooke.pipeline.chunks import ChunkSizer
from hooke.pipeline.effects import Plan
from hooke.pipeline.graph import Node
from hooke.pipeline.needs import Need
from hooke.pipeline.stragglers import Usual

__all__ = ["NodeState", "Running"]


@dataclass(slots=True)
class Running:
    """An attempt that is under way: items `lo..hi` of a node, or the reading of its list (`expand`)."""

    node: int
    lo: int
    hi: int
    expand: bool
    asked: Asked
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
    plan: Plan
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

    def straggles_at(self, running: Running, now: float) -> float | None:
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
