"""Whether and when a failed item runs again: exponential backoff with jitter from the run's seed, so that it replays."""

from __future__ import annotations

import heapq
import math
import zlib
from collections.abc import Iterator
from typing import Any

from hooke.base.formats import format_bytes, tries_text
from hooke.journal.events import AttemptFailed, CapacityChanged, RetryPlanned
from hooke.pipeline.node_state import ElasticItem, NodeState
from hooke.pipeline.slots import memory_after

__all__ = [
    "ISOLATED_DEATHS",
    "Retries",
    "held_until",
    "is_items_own",
    "is_of_unknown_item",
    "retry_delay",
]

BASE_S = 0.1
LONGEST_S = 60.0
LONGEST_HELD_S = 5.0
"""Looking again is cheap, and a result of another process should not lie unused for long."""

_DOUBLINGS = 10
"""Reaches the longest wait, and stays within a float's range."""

ISOLATED_DEATHS = frozenset({"WorkerDied", "OutOfMemory", "TimedOut"})
"""Failures that do not tell which item of a chunk caused them."""


NO_ITEMS_FAULT = frozenset(
    {
        *(
            "EnvironmentMismatch",
            "InputChanged",
            "JournalError",
            "StoreError",
            "StoreFull",
            "StoreUnavailable",
        ),
        *("CorruptObject", "MissingObject"),
    }
)
"""Failures that other items would have, too: they end the run whatever `on_error` says."""


def is_of_unknown_item(state: NodeState, event: AttemptFailed) -> bool:
    """Whether a chunk's failure does not say which item is to blame."""
    kind = event.failure.kind
    # Results are pickled at the end of a chunk. Where one of them ends the run anyway, which one does not matter.
    unstored = kind == "NotPicklable" and state.node.on_error == "continue" and bool(event.worker)
    return kind in ISOLATED_DEATHS or unstored


def is_items_own(event: AttemptFailed) -> bool:
    """Whether the failure is that of one item, not of the machines, the store or the call that the driver could not make."""
    kind = event.failure.kind
    happened = bool(event.worker) or kind == "TaskError" or kind in ISOLATED_DEATHS
    return happened and kind not in NO_ITEMS_FAULT


def retry_delay(failures: int, *, seed: int, salt: tuple[int, ...], asked_s: float | None = None) -> float:
    """Seconds to wait after the `failures`-th failure: 0.1 s doubled each time, at most 60 s, jittered by +-50 %.

    A delay that the task requests (`Temporary(delay_s=...)`) is used unchanged.
    """
    if asked_s is not None:
        return asked_s
    return _delay(failures, LONGEST_S, seed, salt)


def held_until(now: float, looks: int, *, seed: int) -> float:
    """When to look again after the `looks`-th lookup that found another process computing the node: in 0.1 s doubled, at most 5 s.

    Or up to half of that later, so that all nodes of a run that wait as long are looked up together, and those of another run at other times.
    """
    wait = _wait(looks, LONGEST_HELD_S)
    first = wait / 2 * _draw(seed, wait)
    return first + math.ceil((now + wait - first) / (wait / 2)) * wait / 2


def _delay(times: int, longest_s: float, seed: int, salt: tuple[int, ...]) -> float:
    return _wait(times, longest_s) * (0.5 + _draw(seed, times, salt))


def _wait(times: int, longest_s: float) -> float:
    return min(longest_s, BASE_S * 2.0 ** min(times - 1, _DOUBLINGS))


def _draw(*what: object) -> float:
    return zlib.crc32(repr(what).encode()) / 2**32


class Retries:
    """The items that wait for a retry, and the events that say so."""

    __slots__ = ("_planned", "_seed", "_waiting")

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._planned: list[RetryPlanned] = []
        self._waiting: list[tuple[float, int, int]] = []

    def plan(self, state: NodeState, event: AttemptFailed, item: int, place: CapacityChanged) -> bool:
        """Plan a retry of a failed item (-1: the list of a map); False if there is none."""
        failure = event.failure
        failures = state.number(item)
        if state.failures is None:
            state.failures = {}
        state.failures[item] = failures
        counted = failures - state.growths.get(item, 0) - _lost_hosts(state, item)
        if failure.kind == "OutOfMemory" and _grow(state, item, place):
            more = format_bytes(state.memory(item, place) or 0)
            each = " for each rank" if state.plan.ranks else ""
            self._again(state, item, event.at, f"{failure.said}; again with {more}{each}")
            return True
        if failure.host_lost and _goes_on(state, item):
            self._again(
                state, item, event.at, f"{failure.said}; it goes on with as many ranks as there is room for"
            )
            return True
        if not failure.retryable or counted > state.plan.retries:
            return False
        wait_s = retry_delay(counted, seed=self._seed, salt=(state.node.id, item), asked_s=failure.delay_s)
        tries = tries_text(counted + 1, state.plan.retries + 1)
        self._again(state, item, event.at + wait_s, f"{failure.said}; {tries}", counted=counted + 1)
        return True

    def note(self, state: NodeState, items: tuple[int, int], **facts: Any) -> None:
        """Note for the journal that these items run again, with the `facts` of RetryPlanned."""
        lo, hi = items
        self._planned.append(RetryPlanned(node=state.node.id, lo=lo, hi=hi, **facts))

    def take_notes(self) -> list[RetryPlanned]:
        """The notes for the journal; each is returned once."""
        said = self._planned
        self._planned = []
        return said

    def due(self, now: float) -> Iterator[tuple[int, int]]:
        """Remove and yield the node and item of each retry that is due."""
        while self._waiting and self._waiting[0][0] <= now:
            _, node, item = heapq.heappop(self._waiting)
            yield node, item

    def next_due(self) -> float | None:
        """When the next retry is due; None if there is none."""
        return self._waiting[0][0] if self._waiting else None

    def planned(self) -> list[tuple[float, int]]:
        """When each retry is due, with its node."""
        return [(due, node) for due, node, _ in self._waiting]

    def _again(self, state: NodeState, item: int, due: float, reason: str, *, counted: int = 0) -> None:
        heapq.heappush(self._waiting, (due, state.node.id, item))
        if item >= 0:
            state.taken.add(item, item + 1)
            state.alone.add(item, item + 1)
        number = state.number(item)
        self.note(state, (item, item + 1), number=number, due=due, reason=reason, counted=counted)


def _lost_hosts(state: NodeState, item: int) -> int:
    """How many failures of an elastic gang are none of its tries: a machine was lost, so it is to go on with fewer ranks."""
    known = state.elastic.get(item) if state.plan.least_ranks else None
    return 0 if known is None else known.lost_hosts


def _goes_on(state: NodeState, item: int) -> bool:
    """Whether an elastic gang that has lost a machine goes on without using a try; so often as it may have ranks, since it may be the cause."""
    if not state.plan.least_ranks or item < 0:
        return False
    known = state.elastic.setdefault(item, ElasticItem())
    if known.lost_hosts >= state.plan.ranks:
        return False
    known.lost_hosts += 1
    return True


def _grow(state: NodeState, item: int, place: CapacityChanged) -> bool:
    """Double the memory of an item that ran out; False if the workers have no more."""
    before, growths = state.memory(item, place), state.growths.get(item, 0)
    after = memory_after(state.plan.memory, growths + 1, place, slots=state.slots(item))
    if before is None or after is None or after <= before:
        return False
    state.growths[item] = growths + 1
    return True
