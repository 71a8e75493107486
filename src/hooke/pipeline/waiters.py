"""Who waits for what, so that an event costs what it wakes and not the size of the graph."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from hooke.pipeline.needs import Need

__all__ = ["Waiters", "waiters_of"]


@dataclass(slots=True)
class Waiters:
    """Who waits for what: whole nodes, single items, and maps that follow item by item."""

    whole: dict[int, list[int]] = field(default_factory=dict)
    item: dict[int, dict[int, list[int]]] = field(default_factory=dict)
    elementwise: dict[int, list[int]] = field(default_factory=dict)

    def pop_whole(self, node: int) -> list[int]:
        """Those that waited for the whole of `node`, which is done now."""
        return self.whole.pop(node, [])

    def pop_items(self, node: int, lo: int, hi: int) -> list[int]:
        """Those that waited for one of the items `lo..hi` of `node`, which are done now."""
        waiting = self.item.get(node)
        if not waiting:
            return []
        few = range(lo, hi) if hi - lo < len(waiting) else list(waiting)
        wanted = [item for item in few if lo <= item < hi and item in waiting]
        return [child for i in wanted for child in waiting.pop(i)]


def waiters_of(needs: Sequence[Sequence[Need]]) -> Waiters:
    """Who waits for what, from the needs of each node."""
    waiters = Waiters()
    for child, wanted in enumerate(needs):
        for need in wanted:
            if need.elementwise:
                waiters.elementwise.setdefault(need.node, []).append(child)
            elif need.item is not None:
                waiters.item.setdefault(need.node, {}).setdefault(need.item, []).append(child)
            else:
                waiters.whole.setdefault(need.node, []).append(child)
    return waiters
