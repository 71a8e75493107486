"""The remaining work: the seconds of its calls, and the schedule of all of them."""

from __future__ import annotations

import heapq
import math
from bisect import insort
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from hooke.scaling.call_times import (
    NORMAL,
    PRIOR,
    Calibration,
    Ends,
    Sized,
    Slowdown,
    TimeSpread,
    Timing,
    combined,
    item_variance,
    mean_seconds,
    nearest_level,
    other_size,
    run_spread,
    seconds_factor,
    sized,
    slowdown,
)
from hooke.scaling.law import Law

__all__ = [
    "MOST_SINGLE",
    "CallNeed",
    "MachineRoom",
    "NodeCalls",
    "NodeWork",
    "PerCall",
    "TaskFacts",
    "Untimed",
    "Workload",
    "makespan",
    "slices_of",
]


# --- Simulated list scheduling.


@dataclass(frozen=True, slots=True, kw_only=True)
class MachineRoom:
    """The capacity: `slots` calls at once, which share cpus, memory (bytes) and gpus. Infinite is unlimited."""

    slots: int
    cpus: float
    memory: float = float("inf")
    gpus: float = float("inf")


@dataclass(frozen=True, slots=True)
class CallNeed:
    """A dependency on the first `items` of the calls numbered `calls`; None means all of them.

    With `in_step`, item i depends on item i alone.
    """

    calls: int
    items: int | None = None
    in_step: bool = False


@dataclass(frozen=True, slots=True)
class Slice:
    """Items that start and end together: `width` slots for `seconds`, up to item `end` of their node."""

    width: int
    seconds: float
    end: int


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeCalls:
    """The calls of one graph node in starting order. cpus, memory and gpus are per call.

    `most` is how many fit at once, given that a call must fit into one instance.
    """

    slices: Sequence[Slice]
    items: int
    needs: Sequence[CallNeed] = ()
    cpus: float = 1.0
    memory: float = 0.0
    gpus: float = 0.0
    most: int = 1 << 30


def makespan(nodes: Sequence[NodeCalls], room: MachineRoom) -> float:
    """Seconds until the last call ends. `nodes` are in topological order; a call that fits nowhere runs alone."""
    return _Simulation(nodes, room).run()


class _Simulation:
    """One schedule. A node is `open` while one of its slices may start; slices start and end in order."""

    def __init__(self, nodes: Sequence[NodeCalls], room: MachineRoom) -> None:
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
        """Whether the dependencies of the node's next slice are done."""
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
        return fits or self.slots == self.room.slots  # a call larger than the machine runs alone

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

    def _use(self, calls: NodeCalls, width: int) -> None:
        self.slots -= width
        self.cpus -= width * calls.cpus
        self.memory -= width * calls.memory
        self.gpus -= width * calls.gpus


# --- Slices: a schedule of a million items costs as much as one of a hundred.

MOST_SINGLE = 128
"""Up to this many items, each is its own slice."""
MOST_LANES = 32
"""With more items, at most so many slices run side by side, wide enough to fill the slots,"""
MOST_PIECES = 64
"""and this many exist in total."""
GOLDEN = (math.sqrt(5) - 1) / 2


def slices_of(
    items: int, mean_s: float, *, at_once: int, shape: Sequence[float] = (), draw: int = 0
) -> list[Slice]:
    """The slices of `items` items with a mean of `mean_s` seconds, of which `at_once` can run at once.

    `shape` holds earlier durations as multiples of their mean, in any order; single items draw from it evenly, or, with
    `draw` as a seed above 0, at random, and the mean stays. Many items take ceil(items / at_once) full rounds.
    """
    if items <= MOST_SINGLE:
        return [Slice(1, mean_s * share, at + 1) for at, share in enumerate(_dealt(items, shape, draw))]
    width = max(1, math.ceil(min(at_once, items) / MOST_LANES))
    lanes = max(1, min(at_once, items) // width)
    rounds = math.ceil(items / (lanes * width))
    deep = max(1, min(rounds, MOST_PIECES // lanes))
    seconds = mean_s * rounds / deep
    count = lanes * deep
    return [Slice(width, seconds, items * (at + 1) // count) for at in range(count)]


def _dealt(items: int, shape: Sequence[float], draw: int = 0) -> list[float]:
    """`items` multiples of the mean from the quantiles of `shape`, in golden-ratio steps so that any few are typical."""
    if len(shape) < 2 or items < 2:
        return [1.0] * items
    ordered = sorted(shape)
    if draw:
        dealt = [ordered[at] for at in np.random.default_rng(draw).integers(len(ordered), size=items)]
    else:
        dealt = [ordered[int((at * GOLDEN % 1.0) * len(ordered))] for at in range(1, items + 1)]
    mean = sum(dealt) / items
    return [share / mean for share in dealt] if mean > 0 else [1.0] * items


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeWork:
    """The remaining work of one graph node: a call, or items of a map. `items` is None if not yet known.

    `needs` refer to earlier entries of the same sequence. `reads` and `bytes` are as in `Timing`; `bytes_error` and
    `items_error` are the standard deviations of ln `bytes` and of ln `items`. cpus, memory (bytes) and gpus are per call.
    `like` names the task facts to use if they are not those of `task`.
    """

    task: str
    like: str = ""
    items: int | None = 1
    needs: tuple[CallNeed, ...] = ()
    reads: float = 0
    bytes: float = 0
    bytes_error: float = 0
    items_error: float = 0
    cpus: float = 1.0
    memory: int | None = None
    gpus: float = 0.0
    slots: int = 1
    """Workers per call: the ranks of a gang, whose cpus, memory and gpus are given in total."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskFacts:
    """What is known about a task: timings of earlier runs, and its scaling law or in `lacking` why it has none.

    `limit` is added to the refusal if neither reaches far enough. `prior` is the spread between runs to assume of it, from the runs of other tasks.
    """

    timings: Sequence[Timing] = ()
    law: Law | None = None
    lacking: str = "it has no law"
    limit: str = ""
    prior: TimeSpread = PRIOR


NOTHING = TaskFacts()


@dataclass(frozen=True, slots=True, kw_only=True)
class Untimed:
    """A task without known duration, and the reason."""

    task: str
    why: str

    def __str__(self) -> str:
        return f"{self.task} ({self.why})"


@dataclass(frozen=True, slots=True, kw_only=True)
class PerCall:
    """Seconds of one call of a node, and the gap to the worker's next call.

    `seconds` is for itself; for the total, its parts are apart: `model` is the interval of the laws, and `sampling` the
    standard deviation of ln mean seconds because other items run than were timed, both as factors of the seconds.
    `runs` is how many runs stand behind it. If the contention is unknown, `open` says why, and `bounds` are its bounds as
    factors of the seconds. `measure_at` is the N to measure. `unsized` says why its size is uncertain, if it is.
    """

    seconds: Ends = (0.0, 0.0, 0.0)
    model: Ends = (1.0, 1.0, 1.0)
    sampling: float = 0.0
    runs: int = 1
    gap_s: Ends = (0.0, 0.0, 0.0)
    shape: Sequence[float] = ()
    bounds: Ends = (1.0, 1.0, 1.0)
    open: str = ""
    measure_at: int = 0
    unsized: str = ""


class Workload:
    """Work in topological order with facts about its tasks. Tasks of unknown duration count as zero and are in `untimed`.

    `calibration` is the spread of a whole run about its prediction.
    """

    def __init__(
        self,
        works: Sequence[NodeWork],
        facts: Mapping[str, TaskFacts],
        *,
        calibration: Calibration | None = None,
    ) -> None:
        self.works = tuple(works)
        self.calibration = calibration or Calibration()
        self._facts = facts
        self.untimed = tuple({each.task: each for each in self._uncounted()}.values())
        self._without = {each.task for each in self.untimed}
        self.items: dict[str, int] = {}
        for work in works:
            self.items[work.task] = self.items.get(work.task, 0) + (work.items or 0)
        self._per_call: dict[tuple[int, int], PerCall] = {}

    def per_call(self, number: int, at_once: int) -> PerCall:
        """The seconds of one call of work `number` with `at_once` calls of its task at once."""
        key = (number, at_once)
        if key not in self._per_call:
            work = self.works[number]
            self._per_call[key] = PerCall() if work.task in self._without else self._predicted(work, at_once)
        return self._per_call[key]

    def _predicted(self, work: NodeWork, at_once: int) -> PerCall:
        facts, basis = self._of(work), self._sized(work)
        assert basis is not None
        law = facts.law if self.items[work.task] > 1 else None
        timings, slow = _at_level(basis.timings, at_once, law, facts.lacking)
        items, most = sum(each.items for each in timings), self.items[work.task]
        spread = run_spread(timings, facts.prior)
        mean = mean_seconds(timings, spread)
        gap = sum(each.items * each.gap_s for each in timings) / items
        factor = seconds_factor(timings, spread, items=most)
        known = [seconds for each in timings for seconds in each.known.values()]
        usual = sum(known) / len(known) if known else 0.0
        count = math.exp(NORMAL * work.items_error)
        low, value, high = model = combined(combined(slow.ends, basis.ends), (1 / count, 1.0, count))
        below, _, above = combined((1 / factor, 1.0, factor), (low / value, 1.0, high / value))
        return PerCall(
            seconds=(mean * value * below, mean * value, mean * value * above),
            gap_s=(gap / factor, gap, gap * factor),
            model=model,
            sampling=math.sqrt(item_variance(timings, items=most)),
            runs=len(timings),
            shape=[seconds / usual for seconds in known] if usual else (),
            bounds=slow.ends if slow.open else (1.0, 1.0, 1.0),
            open=f"{slow.open}{facts.limit}" if slow.open else "",
            measure_at=slow.measure_at,
            unsized=_unsized(work, basis, facts.timings),
        )

    def _of(self, work: NodeWork) -> TaskFacts:
        return self._facts.get(work.like or work.task, NOTHING)

    def _sized(self, work: NodeWork) -> Sized | None:
        facts = self._of(work)
        return sized(facts.timings, work.reads, facts.prior, data=work.bytes, error=work.bytes_error)

    def _uncounted(self) -> Iterator[Untimed]:
        for work in self.works:
            timings = self._of(work).timings
            if work.items is None:
                yield Untimed(task=work.task, why="its number of items is unknown before it runs")
            elif not timings:
                yield Untimed(task=work.task, why="never measured")
            elif self._sized(work) is None:
                yield Untimed(task=work.task, why=other_size(timings, work.reads, data=work.bytes))


def _unsized(work: NodeWork, basis: Sized, timings: Sequence[Timing]) -> str:
    """Why the size of the work is uncertain; empty if it is not."""
    unknown = max(work.items_error, work.bytes_error)
    if unknown and NORMAL * unknown >= math.log(basis.ends[2]):
        return (
            "the size of its data depends on results of other tasks, which were measured on too few sizes; "
            "runs on two other sizes of the data would tell"
        )
    return "" if basis.ends[2] == 1 else other_size(timings, work.reads, data=work.bytes)


ENOUGH_RUNS = 3
"""Runs at one N that need no other N beside them."""


def _at_level(
    timings: Sequence[Timing], n: int, law: Law | None, lacking: str
) -> tuple[list[Timing], Slowdown]:
    """The timings for `n` calls at once, and the slow-down of these calls relative to them.

    With a law, those with other numbers at once count as if they had been timed with the nearest number.
    """
    near = nearest_level(timings, n)
    level = near[0].at_once
    if law is not None and len(near) < ENOUGH_RUNS:
        near = [_moved(each, law, level) for each in timings]
    return near, slowdown(law, timed=level, n=n, lacking=lacking)


def _moved(timing: Timing, law: Law, level: int) -> Timing:
    if timing.at_once == level:
        return timing
    factor = slowdown(law, timed=timing.at_once, n=level).ends[1]
    known = {item: seconds * factor for item, seconds in timing.known.items()}
    return replace(timing, seconds=timing.seconds * factor, known=known, at_once=level)
