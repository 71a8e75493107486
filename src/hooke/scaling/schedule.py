"""List scheduling on paper: when the last of many calls ends, where so many may run at once.

As the scheduler of a run does it (`hooke.pipeline.run_state`): whatever is ready and fits starts, the deepest first.
No list schedule takes longer than the work shared by all slots plus the longest chain (Graham, SIAM J. Appl. Math. 17, 1969).
"""

from __future__ import annotations

import heapq
from bisect import insort
from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["Calls", "Need", "Room", "Slice", "makespan"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Room:
    """What may be used at once: `slots` calls, sharing cpus, memory (bytes) and gpus; infinite where nothing limits it."""

    slots: int
    cpus: float
    memory: float = float("inf")
    gpus: float = float("inf")


@dataclass(frozen=True, slots=True)
class Need:
    """What must have ended before: the first `items` of the calls numbered `calls`; None is all of them.

    With `in_step`, item i is needed by item i alone.
    """

    calls: int
    items: int | None = None
    in_step: bool = False


@dataclass(frozen=True, slots=True)
class Slice:
    """Items that start together and end together: `width` slots for `seconds`. They are items up to `end` of their node."""

    width: int
    seconds: float
    end: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Calls:
    """The calls of one graph node, in the order in which they start. cpus, memory and gpus are those of one call.

    `most` is how many of them fit at once, for reasons of their own: a call must fit one instance.
    """

    slices: Sequence[Slice]
    items: int
    needs: Sequence[Need] = ()
    cpus: float = 1.0
    memory: float = 0.0
    gpus: float = 0.0
    most: int = 1 << 30


def makespan(nodes: Sequence[Calls], room: Room) -> float:
    """Seconds until the last call ends. `nodes` are in topological order; a call that fits nowhere runs alone."""
    return _Simulation(nodes, room).run()


class _Simulation:
    """One schedule. A node is `open` while a slice of it may start; slices of a node start and count as ended in order."""

    def __init__(self, nodes: Sequence[Calls], room: Room) -> None:
        self.nodes = nodes
        self.slots, self.cpus, self.memory, self.gpus = room.slots, room.cpus, room.memory, room.gpus
        self.room = room
        self.ended = [0] * len(nodes)
        self.started = [0] * len(nodes)
        self.running = [0] * len(nodes)
        self.children: list[list[int]] = [[] for _ in nodes]
        depth = [0] * len(nodes)
        for node, calls in enumerate(nodes):
            for need in calls.needs:
                self.children[need.calls].append(node)
                depth[node] = max(depth[node], depth[need.calls] + 1)
        self.order = [(-deep, node) for node, deep in enumerate(depth)]
        self.is_open = [self._ready(node) for node in range(len(nodes))]
        self.open = sorted(self.order[node] for node, ready in enumerate(self.is_open) if ready)
        self.ends: list[tuple[float, int, int]] = []

    def run(self) -> float:
        now = 0.0
        self._start(now)
        while self.ends:
            now = self.ends[0][0]
            while self.ends and self.ends[0][0] <= now:
                _, node, at = heapq.heappop(self.ends)
                self._end(node, at)
            self._start(now)
        return now

    def _ready(self, node: int) -> bool:
        """Whether the node's next slice has what it needs."""
        calls, at = self.nodes[node], self.started[node]
        if at >= len(calls.slices):
            return False
        for need in calls.needs:
            parent = self.nodes[need.calls]
            wanted = calls.slices[at].end if need.in_step else need.items
            if self.ended[need.calls] < min(parent.items if wanted is None else wanted, parent.items):
                return False
        return True

    def _start(self, now: float) -> None:
        kept: list[tuple[int, int]] = []
        for at, place in enumerate(self.open):
            if self.slots <= 0:
                kept += self.open[at:]
                break
            node = place[1]
            while self.slots > 0 and self._fits(node):
                self._take(node, now)
                self.is_open[node] = self._ready(node)
                if not self.is_open[node]:
                    break
            else:
                kept.append(place)
        self.open = kept

    def _fits(self, node: int) -> bool:
        calls = self.nodes[node]
        width = calls.slices[self.started[node]].width
        if self.running[node] + width > calls.most and self.running[node]:
            return False
        fits = (
            width <= self.slots
            and width * calls.cpus <= self.cpus + 1e-9
            and width * calls.memory <= self.memory
            and width * calls.gpus <= self.gpus + 1e-9
        )
        return fits or self.slots == self.room.slots  # what asks for more than there is gets all, alone

    def _take(self, node: int, now: float) -> None:
        calls, at = self.nodes[node], self.started[node]
        piece = calls.slices[at]
        self._use(calls, piece.width)
        self.running[node] += piece.width
        self.started[node] += 1
        heapq.heappush(self.ends, (now + piece.seconds, node, at))

    def _end(self, node: int, at: int) -> None:
        calls = self.nodes[node]
        piece = calls.slices[at]
        self._use(calls, -piece.width)
        self.running[node] -= piece.width
        self.ended[node] += piece.end - (calls.slices[at - 1].end if at else 0)
        for other in self.children[node]:
            if not self.is_open[other] and self._ready(other):
                self.is_open[other] = True
                insort(self.open, self.order[other])

    def _use(self, calls: Calls, width: int) -> None:
        self.slots -= width
        self.cpus -= width * calls.cpus
        self.memory -= width * calls.memory
        self.gpus -= width * calls.gpus
