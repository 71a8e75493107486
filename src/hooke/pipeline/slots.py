"""Slots and resources: which attempts hold them, and which attempts wait in a worker behind others.

A short attempt may go to a worker before the attempt that runs there has ended, so the worker need not wait for the
driver in between. It requests the same resources and takes over its predecessor's slot. It may even follow the attempt
whose result it needs.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

import msgspec

from hooke.journal.events import CapacityChanged
from hooke.pipeline.graph import Node

__all__ = [
    "MOST_AHEAD_IN_ALL",
    "MOST_BEHIND",
    "FollowLines",
    "ResourceRequest",
    "ShortTasks",
    "SlotRoom",
    "exceeds",
    "fits",
    "memory_after",
]


class ResourceRequest(msgspec.Struct, frozen=True, gc=False):
    """What one attempt needs: slots, and cpus, memory (bytes) and gpus for each of them."""

    cpus: float
    memory: int
    gpus: float
    slots: int = 1
    """More than one for a gang."""


def fits(wanted: ResourceRequest, used: Mapping[ResourceRequest, int], place: CapacityChanged) -> bool:
    """Whether `wanted` fits beside `used` (request -> count). A request that exceeds the total gets everything, alone."""
    for resource, each, total in (
        ("cpus", wanted.cpus, place.cpus),
        ("memory", wanted.memory, place.memory),
        ("gpus", wanted.gpus, place.gpus),
    ):
        amount = wanted.slots * each
        if total is not None and amount:
            taken = sum(
                [count * min(held.slots * getattr(held, resource), total) for held, count in used.items()]
            )
            if taken + min(amount, total) > total + 1e-9:
                return False
    return True


def exceeds(wanted: ResourceRequest, place: CapacityChanged) -> bool:
    """Whether it asks for more than the whole place has, so that it would get everything, alone."""
    asked = ((wanted.cpus, place.cpus), (wanted.memory, place.memory), (wanted.gpus, place.gpus))
    return any(total is not None and wanted.slots * each > total + 1e-9 for each, total in asked)


def memory_after(declared: int | None, growths: int, place: CapacityChanged, *, slots: int = 1) -> int | None:
    """Bytes for each slot of an attempt that ran out of memory `growths` times: doubled each time, up to the total."""
    if declared is None:
        return None
    grown = declared << growths
    return grown if place.memory is None else max(declared, min(grown, place.memory // slots))


SHORT_S = 0.005
"""Ten times the cost of submitting an attempt. For longer attempts the worker's wait does not matter."""

BEHIND_S = 0.02
"""How much expected work may wait behind each running attempt."""

LEAST_BEHIND = 4
"""How many attempts may always wait there: the driver may be busy for as long as they take."""

MOST_BEHIND = 64
"""How many may wait there, however short they are."""

AHEAD_S = 1.0
"""How much expected work may be claimed before its workers are free: ten times as long as claims take at 30 ms a request."""

MOST_AHEAD = 256
"""How many attempts for each slot, however short they are."""

MOST_AHEAD_IN_ALL = 1024
"""Their keys are written with each claim, some 50 bytes each."""

_WEIGHT = 0.2
"""Weight of the newest measurement in the mean: the first attempts, which import modules, soon stop counting."""


class ShortTasks:
    """Mean measured seconds of the calls of each task. Maps do not count: their items run in chunks."""

    __slots__ = ("_mean_s",)

    def __init__(self) -> None:
        self._mean_s: dict[str, float] = {}

    def measured(self, node: Node, seconds: float) -> None:
        """Note that an attempt at this node finished in `seconds`."""
        if node.kind == "call":
            before_s = self._mean_s.get(node.task.name, seconds)
            self._mean_s[node.task.name] = before_s + _WEIGHT * (seconds - before_s)

    def has(self, node: Node) -> bool:
        """Whether an attempt at this node is expected to be short; False if no call of its task was measured."""
        return node.kind == "call" and self._mean_s.get(node.task.name, SHORT_S) < SHORT_S

    def behind(self, node: Node) -> int:
        """How many attempts like this short one may wait behind each running one."""
        fitting = BEHIND_S / max(self._mean_s[node.task.name], BEHIND_S / MOST_BEHIND)
        return max(LEAST_BEHIND, int(fitting))

    def together(self, node: Node, count: int, slots: int) -> int:
        """How many of `count` attempts like this short one go to a worker as a group: all slots get as much."""
        most = self.behind(node)
        rounds = -(-count // (most * slots))
        return max(1, -(-count // (rounds * slots)))

    def ahead(self, node: Node) -> int:
        """How many attempts like this one each slot will begin soon; 0 if they are long, or if nothing is known of them."""
        mean_s = self._mean_s.get(node.task.name) if node.kind == "call" else None
        return 0 if mean_s is None else int(AHEAD_S / max(mean_s, AHEAD_S / MOST_AHEAD))


class SlotRoom:
    """The capacity of the workers, the requests that attempts hold, and how many attempts wait behind them."""

    __slots__ = ("_behind", "_held", "capacity", "taken")

    def __init__(self) -> None:
        self.capacity = CapacityChanged(slots=0, cpus=0.0)
        self._held: Counter[ResourceRequest] = Counter()
        self._behind: Counter[ResourceRequest] = Counter()
        self.taken = 0
        """Slots that are taken."""

    @property
    def is_full(self) -> bool:
        """Whether all slots are taken."""
        return self.taken >= self.capacity.slots

    def take(self, request: ResourceRequest) -> bool:
        """Reserve slots and resources for an attempt; False, without effect, if not all of them are free.

        Slots are all or nothing: the ranks of a gang wait for one another.
        """
        if self.taken + request.slots > self.capacity.slots or not fits(request, self._held, self.capacity):
            return False
        self._held[request] += 1
        self.taken += request.slots
        return True

    def copy(self) -> SlotRoom:
        """The same room, to try something in."""
        made = SlotRoom()
        made.capacity, made.taken = self.capacity, self.taken
        made._held, made._behind = self._held.copy(), self._behind.copy()
        return made

    def take_instead(self, request: ResourceRequest, former: ResourceRequest) -> bool:
        """Reserve for an attempt in place of what it has; False, without effect, if there is no room for that.

        There always is if it asks for no more than it has.
        """
        self._held -= Counter([former])
        self.taken -= former.slots
        if request.slots > former.slots and not self.take(request):
            self._held[former] += 1
            self.taken += former.slots
            return False
        if request.slots <= former.slots:
            self._held[request] += 1
            self.taken += request.slots
        return True

    def queue_behind(self, request: ResourceRequest, most: int) -> bool:
        """Let an attempt wait behind one with the same request; False, without effect, if `most` wait behind each already.

        Also False while the capacity must shrink, which a waiting attempt would delay.
        """
        shrinks = self.taken > self.capacity.slots
        if shrinks or self._behind.get(request, 0) >= most * self._held.get(request, 0):
            return False
        self._behind[request] += 1
        return True

    def may_follow(self, request: ResourceRequest, most: int, following: int) -> bool:
        """Whether one more may follow, if at most `most` may wait behind each attempt with this request; `following` do already."""
        shrinks = self.taken > self.capacity.slots
        waiting = self._behind.get(request, 0) + following
        return not shrinks and waiting < most * self._held.get(request, 0)

    def free(self, request: ResourceRequest) -> None:
        """An attempt has ended. If others wait behind this request, one of them takes over its slot."""
        counts = self._behind if request in self._behind else self._held
        if counts is self._held:
            self.taken -= request.slots
        counts[request] -= 1
        if not counts[request]:
            del counts[request]


class FollowLines:
    """Attempts that follow others: each needs the result of the one before it, and waits for that in the same worker.

    At most one follows each, so that the rest of a fan-out goes to other workers. The first of a line holds the slot of all; the next
    one inherits it.
    """

    __slots__ = ("_after", "_before", "_lengths", "_open")

    def __init__(self) -> None:
        self._after: dict[int, int] = {}
        """Attempt -> the one that follows it."""
        self._before: dict[int, int] = {}
        self._lengths: dict[int, list[int]] = {}
        """Attempt -> how many follow in its line; all attempts of a line share the list."""
        self._open: dict[int, None] = {}
        """Attempts that may be followed, and are not yet."""

    def __len__(self) -> int:
        """How many follow others."""
        return len(self._before)

    def begin(self, attempt: int) -> None:
        """An attempt that others may follow."""
        self._open[attempt] = None
        self._lengths[attempt] = [0]

    def open(self) -> list[int]:
        """The last attempt of each line, where another one may follow."""
        return [*self._open]

    def close(self, attempt: int) -> None:
        """Nothing will follow this attempt."""
        self._open.pop(attempt, None)

    def length(self, attempt: int) -> int:
        """How many follow in the attempt's line."""
        return self._lengths[attempt][0]

    def join(self, attempt: int, before: int) -> None:
        """Let an attempt follow the open one `before`."""
        del self._open[before]
        self._before[attempt], self._after[before] = before, attempt
        line = self._lengths[attempt] = self._lengths[before]
        line[0] += 1
        self._open[attempt] = None

    def end(self, attempt: int) -> bool:
        """The attempt has ended; returns whether its slot is free now."""
        self._open.pop(attempt, None)
        line = self._lengths.pop(attempt, None)
        before, after = self._before.pop(attempt, None), self._after.pop(attempt, None)
        if line is not None and (before is not None or after is not None):
            line[0] -= 1
        if after is not None and before is not None:
            self._before[after], self._after[before] = before, after
        elif after is not None:
            del self._before[after]
        elif before is not None:
            del self._after[before]
        return before is None and after is None

    def behind(self, attempt: int) -> list[int]:
        """Those that follow the attempt, and one another, in their order."""
        found: list[int] = []
        while (attempt := self._after.get(attempt, -1)) >= 0:
            found.append(attempt)
        return found
