"""What the run state keeps of a node, and of an attempt that is under way."""

from __future__ import annotations

from dataclasses import dataclass, field

from hooke.base.intervals import IntervalSet, SegmentMap
from hooke.pipeline.admission import Asked
from hooke.pipeline.chunks import ChunkSizer
from hooke.pipeline.effects import Plan
from hooke.pipeline.graph import Node
from hooke.pipeline.needs import Need

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

    @property
    def complete(self) -> bool:
        """Whether every item is done."""
        return self.items is not None and len(self.done) == self.items
