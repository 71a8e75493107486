"""What a run still has to do, task by task: for whoever decides how many workers it gets."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from hooke.journal.fleet_events import FleetDecided
from hooke.pipeline.node_state import NodeState
from hooke.pipeline.run_state import RunState

__all__ = ["Remains", "Sizing", "remains_of"]


class Sizing(Protocol):
    """Decides how many workers a run has while it goes on. It is told what happens as an observer of the journal."""

    def decide(self, now: float, state: RunState) -> FleetDecided | None:
        """Asked often, in the runner's thread; None where nothing changes. `now` is the scheduler's time.

        The runner journals what is decided, asks the engine for so many workers, and ends the run where it says `stop`.
        """
        ...


@dataclass(slots=True, kw_only=True)
class Remains:
    """What is left of one task, in items of maps and calls. `running_s` has what each attempt has run, and its items."""

    task: str
    depth: int
    cpus: float = 1.0
    memory: int | None = None
    gpus: float = 0.0
    slots: int = 0
    """What must be there at once: the ranks of gangs that run, or of one that could."""
    running: int = 0
    ready: int = 0
    waiting: int = 0
    open_ended: bool = False
    running_s: list[tuple[float, int]] = field(default_factory=list)
    expected_s: list[float] = field(default_factory=list)
    """What items that are left took in earlier runs, where that is known."""


def remains_of(state: RunState, now: float) -> list[Remains]:
    """Of all tasks that this run still wants something of, those nearest to the inputs first."""
    depths = state.graph.depths()
    tasks: dict[str, Remains] = {}
    running = _running(state, now)
    for each in state.nodes:
        node = each.node.id
        if not each.demanded or state.is_over(node):
            continue
        name = each.node.task.name
        left = tasks.setdefault(name, Remains(task=name, depth=depths[node]))
        left.depth = max(left.depth, depths[node])
        _add(left, each, running.get(node, []))
    return sorted(tasks.values(), key=lambda left: left.depth)


def _running(state: RunState, now: float) -> Mapping[int, list[tuple[float, int]]]:
    """Node -> of each attempt at items of it, seconds since its start and its items. Of two at the same items the first."""
    found: dict[int, list[tuple[float, int]]] = {}
    for attempt, each in state.running.items():
        second = each.twin is not None and each.twin < attempt
        if not second:
            since = 0.0 if each.started is None else max(now - each.started, 0.0)
            found.setdefault(each.node, []).append((since, max(each.hi - each.lo, 1)))
    return found


def _add(left: Remains, state: NodeState, running: list[tuple[float, int]]) -> None:
    left.cpus = max(left.cpus, state.plan.cpus)
    left.gpus = max(left.gpus, state.plan.gpus)
    if state.plan.memory is not None:
        left.memory = max(left.memory or 0, state.plan.memory)
    ranks = max(1, state.plan.ranks)
    left.running_s += running
    runs = sum(items for _, items in running)
    left.running += runs * ranks
    if state.items is None:
        left.open_ended = True
        left.ready += int(state.startable)
        return
    ready = state.open.count
    left.ready += ready * ranks
    left.waiting += max(state.items - len(state.done) - runs - ready, 0) * ranks
    if state.plan.ranks:
        left.slots = max(left.slots, runs * ranks, ranks if ready else 0)
    left.expected_s += [
        s for item, s in state.plan.expected_s.items() if not state.done.items.contains(item, item + 1)
    ]
