"""What is under way, by what it asks for: what holds a place, and what waits behind it in a worker.

An attempt that is expected to be short may be handed to a worker before the one that runs there has ended, so
that the worker need not wait for the driver in between. It asks for what that one asks for and takes its
place, so it needs no room of its own.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from hooke.journal.events import CapacityChanged
from hooke.pipeline.graph import Node

__all__ = ["MOST_BEHIND", "ResourceRequest", "ShortTasks", "SlotRoom", "fits", "memory_after"]


# --- Whether an attempt's resources are free, and how its memory grows after it ran out.


@dataclass(frozen=True, slots=True)
class ResourceRequest:
    """What one attempt asks for: slots, and for each of them cpus, memory (bytes) and gpus."""

    cpus: float
    memory: int
    gpus: float
    slots: int = 1
    """More than one for a gang."""


def fits(wanted: ResourceRequest, used: Mapping[ResourceRequest, int], place: CapacityChanged) -> bool:
    """Whether there is room beside `used` (what is asked for -> how often). What asks for more than there is gets all, alone."""
    slots = wanted.slots
    return (
        _fits(
            slots * wanted.cpus, [(each.slots * each.cpus, count) for each, count in used.items()], place.cpus
        )
        and _fits(
            slots * wanted.memory,
            [(each.slots * each.memory, count) for each, count in used.items()],
            place.memory,
        )
        and _fits(
            slots * wanted.gpus, [(each.slots * each.gpus, count) for each, count in used.items()], place.gpus
        )
    )


def _fits(wanted: float, used: Sequence[tuple[float, int]], total: float | None) -> bool:
    if total is None or not wanted:
        return True
    return sum(count * min(amount, total) for amount, count in used) + min(wanted, total) <= total + 1e-9


def memory_after(declared: int | None, growths: int, place: CapacityChanged, *, slots: int = 1) -> int | None:
    """Bytes for each slot of an attempt that ran out `growths` times: doubled each time, up to what the place has."""
    if declared is None:
        return None
    grown = declared << growths
    return grown if place.memory is None else max(declared, min(grown, place.memory // slots))


SHORT_S = 0.005
"""Ten times what handing an attempt out costs: with longer ones the worker's wait is not worth saving."""

MOST_BEHIND = 4
"""Attempts behind each one that runs: enough for the driver to be away for as many durations."""

_WEIGHT = 0.2
"""Of the newest measurement in the mean: the first ones, which import things, are soon forgotten."""


class ShortTasks:
    """Mean seconds of the calls of each task, as measured so far. Maps are not asked: their items go by chunk."""

    __slots__ = ("_mean_s",)

    def __init__(self) -> None:
        self._mean_s: dict[str, float] = {}

    def measured(self, node: Node, seconds: float) -> None:
        """Note that an attempt at this node finished in `seconds`."""
        if node.kind == "call":
            before_s = self._mean_s.get(node.task.name, seconds)
            self._mean_s[node.task.name] = before_s + _WEIGHT * (seconds - before_s)

    def has(self, node: Node) -> bool:
        """Whether an attempt at this node is expected to be short; False where no call of its task was measured."""
        return node.kind == "call" and self._mean_s.get(node.task.name, SHORT_S) < SHORT_S


class SlotRoom:
    """What a place has, how many attempts hold what they ask for of it, and how many wait behind such ones."""

    __slots__ = ("_behind", "_held", "capacity")

    def __init__(self) -> None:
        self.capacity = CapacityChanged(slots=0, cpus=0.0)
        self._held: Counter[ResourceRequest] = Counter()
        self._behind: Counter[ResourceRequest] = Counter()

    @property
    def is_full(self) -> bool:
        """Whether all slots are taken."""
        return self.taken >= self.capacity.slots

    @property
    def taken(self) -> int:
        """Slots that are taken."""
        return sum(asked.slots * count for asked, count in self._held.items())

    def hold(self, asked: ResourceRequest) -> bool:
        """An attempt takes its slots and what it asks for; False, and it takes nothing, where there is no room for all of it.

        Of slots nobody has fewer than are asked for: the ranks of a gang wait for one another.
        """
        if self.taken + asked.slots > self.capacity.slots or not fits(asked, self._held, self.capacity):
            return False
        self._held[asked] += 1
        return True

    def wait(self, asked: ResourceRequest) -> bool:
        """An attempt waits behind one that asks for the same; False, and it does not, where enough wait already.

        Nor does it in a place that is to shrink, which it would keep from it.
        """
        shrinks = self.taken > self.capacity.slots
        if shrinks or self._behind[asked] >= MOST_BEHIND * self._held[asked]:
            return False
        self._behind[asked] += 1
        return True

    def leave(self, asked: ResourceRequest) -> None:
        """An attempt is gone. Where others waited one of them goes on in its place, whichever of them it was."""
        counts = self._behind if self._behind[asked] else self._held
        counts[asked] -= 1
        if not counts[asked]:
            del counts[asked]
