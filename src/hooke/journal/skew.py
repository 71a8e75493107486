"""Items of a map that took far longer than the others: what no number of workers makes shorter."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Iterable

import msgspec

from hooke.base.formats import format_seconds
from hooke.journal.events import AttemptFinished, Event, NodePlanned

__all__ = ["SkewedItem", "skewed_items"]

LEAST_ITEMS = 8
"""Of fewer, none is usual."""
TIMES_THE_MEDIAN = 4.0
LEAST_S = 1.0
"""What it takes more than the median: less, nobody waits for."""
MOST_A_TASK = 3


class SkewedItem(msgspec.Struct, frozen=True, kw_only=True):
    """`item` of a map of `task` took `seconds`, where the median of the `items` that ran one by one was `median_s`."""

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
    """The longest ones of each map, the longest first; of items that ran several to an attempt nothing is known."""
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
