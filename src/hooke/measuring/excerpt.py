"""The part of a pipeline that is measured: its nodes run anew each time, what they need is computed once."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from typing import Any

import msgspec

from hooke.base.errors import UsageError
from hooke.pipeline.arguments import promises_in
from hooke.pipeline.graph import Graph, Node, Use
from hooke.pipeline.node_keys import GraphKeys
from hooke.pipeline.promise import MapPromise, Promise
from hooke.pipeline.task import Task
from hooke.store.store import Store

__all__ = ["Excerpt", "excerpt", "take_over"]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Excerpt(Graph):
    """A graph of which only the nodes `measured` are wanted, with what they need."""

    measured: tuple[int, ...]
    is_whole: bool
    """Whether the whole pipeline is measured."""

    def roots(self) -> tuple[int, ...]:
        """What is measured is what the run is for."""
        return self.measured

    def with_share(self, share: float) -> Excerpt:
        """The same with the first items only of each measured map, so many that they are this share of all.

        Raises UsageError where that is not possible: for calls, and for maps of fewer items than shares.
        """
        if share == 1:
            return self
        return self._shortened(lambda node: _shared_out(node, share))

    def with_first(self, count: int) -> Excerpt:
        """The same with the first `count` items only of each measured map.

        Raises UsageError where that is not possible: for calls, and for maps of fewer items.
        """
        return self._shortened(lambda node: _first_of(node, count))

    def _shortened(self, count: Callable[[Node], int]) -> Excerpt:
        nodes = list(self.nodes)
        for number in self.measured:
            nodes[number] = _shortened(nodes[number], count)
        return replace(self, nodes=tuple(nodes))


def excerpt(graph: Graph, task: str | None) -> Excerpt:
    """What to measure of a graph: the calls and maps of the task of that name, or everything.

    Raises UsageError, naming the tasks there are.
    """
    names = dict.fromkeys(node.task.name for node in graph.nodes)
    if not names:
        raise UsageError(f"pipeline {graph.pipeline!r} calls no task", fix="mark what it calls with @task")
    if task is not None and task not in names:
        near = get_close_matches(task, names, n=1)
        meant = f"did you mean {near[0]}? " if near else ""
        raise UsageError(
            f"pipeline {graph.pipeline!r} has no task {task!r}", fix=f"{meant}its tasks: {', '.join(names)}"
        )
    measured = tuple(node.id for node in graph.nodes if task in (None, node.task.name))
    made: dict[int, Task[..., Any]] = {}
    nodes = tuple(replace(node, task=_cached_or_not(node, measured, made)) for node in graph.nodes)
    return Excerpt(
        pipeline=graph.pipeline, nodes=nodes, output=graph.output, measured=measured, is_whole=task is None
    )


class _Declared(Task[..., Any]):
    """A task with other resources. It pickles as the one it was made from, so that workers import what they always do."""

    def __init__(self, task: Task[..., Any], *, cache: bool) -> None:
        resources = replace(task.resources, cache=cache)
        super().__init__(task.function, name=task.name, resources=resources, descriptor=task.descriptor)
        self._task = task

    def __reduce_ex__(self, _protocol: Any) -> tuple[Callable[..., Any], tuple[Task[..., Any]]]:
        return _itself, (self._task,)


def _itself(task: Task[..., Any]) -> Task[..., Any]:
    return task


def _cached_or_not(node: Node, measured: Collection[int], made: dict[int, Task[..., Any]]) -> Task[..., Any]:
    """One task for all nodes of the original one: functions go to workers by the identity of their task."""
    cache = node.id not in measured
    if node.task.resources.cache == cache:
        return node.task
    return made.setdefault(id(node.task), _Declared(node.task, cache=cache))


def _shortened(node: Node, count_of: Callable[[Node], int]) -> Node:
    if node.kind != "map":
        raise UsageError(
            f"task {node.task.name!r} is called, not mapped, so it cannot be given less or more to do",
            where=node.where,
            fix="name a task that the pipeline maps, with --task or task=, or measure with the work as it is",
        )
    if node.items is None:
        raise UsageError(
            f"how many items {node.task.name}.map has is a result, so no part of them can be named",
            where=node.where,
            fix="measure with the work as it is, or map over a list that is known before anything runs",
        )
    count = count_of(node)
    columns = tuple(_first(column, count) for column in node.iterables)
    promises = [*promises_in(dict(node.arguments)), *promises_in(list(columns))]
    uses = dict.fromkeys(Use(promise.node, promise.path) for promise in promises)
    return replace(node, iterables=columns, items=count, uses=tuple(uses))


def _shared_out(node: Node, share: float) -> int:
    assert node.items is not None
    count = round(node.items * share)
    if count < 1 or abs(count - node.items * share) > 1e-9 * node.items:
        raise UsageError(
            f"{node.task.name}.map has {node.items} items, which cannot be shared out evenly",
            where=node.where,
            fix="give it a multiple of the largest N, so that each worker has the same work at every N",
        )
    return count


def _first_of(node: Node, count: int) -> int:
    assert node.items is not None
    if count > node.items:
        raise UsageError(
            f"{node.task.name}.map has {node.items} items, fewer than the size {count}",
            where=node.where,
            fix=f"sizes up to {node.items}, or parameters that give it more to do",
        )
    return count


def _first(column: Any, count: int) -> Sequence[Any]:
    """The first items of a column; of another map, these by reference."""
    if isinstance(column, MapPromise):
        return [Promise(column.hooke_origin, (index,)) for index in range(count)]
    shortened: Sequence[Any] = column[:count]
    return shortened


# --- What the measured tasks need, taken over from the project's cache where it is there: it need not be computed again.


def take_over(part: Excerpt, *, study: str, cache: Store, into: Store) -> int:
    """Copy results from `cache`, which is only read; returns how many nodes are complete by that.

    It goes backwards from what is measured, so that what is only needed for something found is not copied.
    """
    keys = GraphKeys(part, run=study)
    pending = [parent for node in part.measured for parent in part.parents(node)]
    seen = set(part.measured)
    complete = 0
    while pending:
        number = pending.pop()
        if number in seen:
            continue
        seen.add(number)
        if _copied(part.nodes[number], keys, cache, into):
            complete += 1
        else:
            pending += part.parents(number)
    return complete


def _copied(node: Node, keys: GraphKeys, cache: Store, into: Store) -> bool:
    """Whether all of the node's results are in `into` now."""
    if node.kind == "call":
        entry = cache.find(keys[node.id].key)
        if entry is None:
            return False
        into.commit(msgspec.structs.replace(entry, ref=into.put(cache.get(entry.ref))))
        return True
    items = keys.items(node.id)
    if items is None:  # the list that says what its items are is a result, which the run will read again
        return False
    recipe, found = keys[node.id].recipe, 0
    for hit in cache.find_items(recipe, items):
        count = hit.hi - hit.lo
        values = cache.get(hit.ref)[hit.start : hit.start + count]
        into.commit_items(
            recipe,
            items[16 * hit.lo : 16 * hit.hi],
            into.put(values),
            task=node.task.name,
            run="",
            seconds=0.0,
        )
        found += count
    return 16 * found == len(items)
