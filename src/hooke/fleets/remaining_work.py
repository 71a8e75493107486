"""The remaining work of a run by task, which decides how many workers it gets."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from hooke.pipeline.node_state import NodeState
from hooke.pipeline.run_state import RunState

__all__ = ["RemainingWork", "remaining_work"]


class RemainingWork(msgspec.Struct, kw_only=True):
    """The remaining work of one task, in items of maps and calls.

    `running_s` has the seconds and the items of each running attempt.
    """

    task: str
    depth: int
    cpus: float = 1.0
    memory: int | None = None
    gpus: float = 0.0
    slots: int = 0
    """Slots that must exist at once: the ranks of the running gangs, or of one that is ready."""
    running: int = 0
    ready: int = 0
    waiting: int = 0
    open_ended: bool = False
    running_s: list[tuple[float, int]] = msgspec.field(default_factory=list)
    retry_s: list[float] = msgspec.field(default_factory=list)
    """Seconds until items that have failed run again, one for each slot that they need; until then they are among those that wait."""
    expected_s: list[float] = msgspec.field(default_factory=list)
    """Seconds that remaining items took in earlier runs, if known."""


def remaining_work(state: RunState, now: float) -> list[RemainingWork]:
    """The remaining work of all unfinished tasks, those nearest to the inputs first."""
    depths = state.graph.depths()
    tasks: dict[str, RemainingWork] = {}
    running, ranks = _running(state, now), _running_ranks(state)
    for each in state.nodes:
        node = each.node.id
        if not each.demanded or state.is_over(node):
            continue
        name = each.node.task.name
        left = tasks.setdefault(name, RemainingWork(task=name, depth=depths[node]))
        left.depth = max(left.depth, depths[node])
        _add(left, each, running.get(node, []), ranks.get(node, 0))
    for due, node in state.retries_due():
        each = state.nodes[node]
        if (found := tasks.get(each.node.task.name)) is not None and not state.is_over(node):
            found.retry_s += [max(due - now, 0.0)] * max(1, each.plan.ranks)
            if each.items is None:  # its list is not to be read before
                found.ready = max(found.ready - 1, 0)
    return sorted(tasks.values(), key=lambda left: left.depth)


def _running(state: RunState, now: float) -> Mapping[int, list[tuple[float, int]]]:
    """Node -> (seconds since the start, items) of each attempt. Of two attempts at the same items the first counts."""
    found: dict[int, list[tuple[float, int]]] = {}
    for attempt, each in state.running.items():
        second = each.twin is not None and each.twin < attempt
        if not second:
            since = 0.0 if each.started is None else max(now - each.started, 0.0)
            found.setdefault(each.node, []).append((since, max(each.hi - each.lo, 1)))
    return found


def _running_ranks(state: RunState) -> Mapping[int, int]:
    """Node -> the slots of its running gangs."""
    found: dict[int, int] = {}
    for each in state.running.values():
        if state.nodes[each.node].plan.ranks and not each.expand:
            found[each.node] = found.get(each.node, 0) + each.request.slots
    return found


def _add(left: RemainingWork, state: NodeState, running: list[tuple[float, int]], held: int) -> None:
    """Add a node's. `held`: the ranks of its running gangs, of which an elastic one could use more."""
    left.cpus = max(left.cpus, state.plan.cpus)
    left.gpus = max(left.gpus, state.plan.gpus)
    if state.plan.memory is not None:
        left.memory = max(left.memory or 0, state.plan.memory)
    ranks = max(1, state.plan.ranks)
    left.running_s += running
    runs = sum(items for _, items in running)
    left.running += held if state.plan.ranks and state.items is not None else runs
    if state.items is None:
        left.open_ended = True
        left.ready += int(state.startable or state.asked)
        return
    ready = state.open.count or int(state.asked)  # a worker must be there to answer
    left.ready += ready * ranks + (runs * ranks - held if state.plan.least_ranks else 0)
    left.waiting += max(state.items - len(state.done) - state.lost - runs - ready, 0) * ranks
    if state.plan.ranks:
        left.slots = max(left.slots, held, state.plan.fewest if ready else 0)
    left.expected_s += [s for item, s in state.plan.expected_s.items() if state.missing_in(item, item + 1)]
