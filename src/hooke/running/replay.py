"""Replays one call of a run in this process, for debugging: the task's function with its original arguments."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from hooke.base.errors import UsageError
from hooke.base.ref import Ref
from hooke.journal.events import ItemsFound
from hooke.journal.run_view import view_of
from hooke.keys.file import files_loaded
from hooke.pipeline.calls import CallMaker
from hooke.pipeline.file_results import FileResults
from hooke.pipeline.finished_results import Recovered, recover
from hooke.pipeline.node_keys import GraphKeys
from hooke.pipeline.node_state import NodePlan, Submit
from hooke.pipeline.references import unpack
from hooke.pipeline.run_state import RunState
from hooke.project.folder import Project
from hooke.running.resume import reopen
from hooke.store.store import Store

__all__ = ["Replay", "replay"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Replay:
    """A call to repeat: `function(*args, **kwargs)`. `shown` is the call as text."""

    function: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    shown: str


def replay(project: Project, run: str, task: str, *, item: int | None = None) -> Replay:
    """The call of `task` that failed in `run`, or that of `item`; the first call if none failed.

    The code is the current one; the inputs are those of the run. Raises UsageError if the run has no such task
    or item, or if an input is missing (its task never ran, was edited since, the result was evicted, or something else has
    written to its file).
    """
    driver = reopen(project, run)
    store = project.store()
    keys = GraphKeys(driver.graph, run=run, seed=driver.seed)
    state = RunState(driver.graph, [NodePlan() for _ in driver.graph.nodes])
    calls = CallMaker(driver.graph, keys, state, store)
    _restore(keys, state, calls, recover(project.runs.events(run)), store)
    node, lo = _which(project, run, task, item, state)
    if missing := _missing(state, node, lo):
        raise UsageError(
            f"inputs of {task} are missing: {', '.join(missing)}",
            where=f"run {run}",
            why="these tasks did not finish, or their code was edited since",
            next=f"hooke resume {run}",
        )
    call = calls.make(Submit(0, node, lo, lo + 1, 1))
    with files_loaded(project.root) as files:
        args, kwargs = _arguments(call.kind, call.payload, store)
    FileResults(project.root, store).provide(files)
    return Replay(function=call.image.function, args=args, kwargs=kwargs, shown=f"{task}({call.shown})")


def _restore(keys: GraphKeys, state: RunState, calls: CallMaker, recovered: Recovered, store: Store) -> None:
    for node in range(len(state.nodes)):
        known = recovered.known.get(keys[node].key)
        if known is None:
            continue
        if known.expansion is not None and state.nodes[node].items is None:
            state.apply(known.expansion)
            calls.expanded(known.expansion)
        if known.expansion is not None and known.expansion.keys is not None:
            keys.expanded(node, store.get(known.expansion.keys))
        for lo, hi, ref, start in known.segments:
            state.apply(_found(node, lo, hi, ref, start))


def _found(node: int, lo: int, hi: int, ref: Ref, start: int) -> ItemsFound:
    return ItemsFound(node=node, lo=lo, hi=hi, ref=ref, start=start, source="journal")


def _which(project: Project, run: str, task: str, item: int | None, state: RunState) -> tuple[int, int]:
    """The node and item of the task's failure, else of its first node."""
    view = view_of(project.runs, run)
    nodes = [number for number, node in view.nodes.items() if node.planned.task == task]
    if not nodes:
        raise UsageError(f"run {run} has no task {task!r}", fix=f"its tasks: {', '.join(view.tasks)}")
    failed = [number for number in nodes if view.nodes[number].failure is not None]
    node = (failed or nodes)[0]
    failure = view.nodes[node].failure
    lo = item if item is not None else (failure.lo + failure.done if failure is not None else 0)
    items = state.nodes[node].items
    if items is not None and not 0 <= lo < items:
        raise UsageError(f"{task} has no item {lo}", fix=f"valid: 0 to {items - 1}")
    return node, lo


def _missing(state: RunState, node: int, lo: int) -> list[str]:
    """The tasks whose results this item needs and the run lacks."""
    missing = []
    for need in state.nodes[node].needs:
        parent = state.nodes[need.node]
        item = lo if need.elementwise else need.item
        there = parent.complete if item is None else parent.done.items.contains(item, item + 1)
        if not there:
            missing.append(parent.node.task.name)
    return missing


def _arguments(kind: str, payload: bytes, store: Store) -> tuple[tuple[Any, ...], Mapping[str, Any]]:
    if kind == "call":
        args, kwargs = unpack(payload, store)
        return tuple(args), kwargs
    constants, columns = unpack(payload, store)
    layout, items = unpack(columns, store)
    (row,) = items if layout == "rows" else zip(*items, strict=True)
    return tuple(row), unpack(constants, store)
