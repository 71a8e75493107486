"""The measured part of a pipeline: its nodes run in each measurement, and their inputs are computed once."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from typing import Any

import msgspec

from hooke.base.errors import UsageError
from hooke.base.formats import did_you_mean
from hooke.pipeline.arguments import promises_in
from hooke.pipeline.graph import Graph, Node, Use
from hooke.pipeline.node_keys import GraphKeys
from hooke.pipeline.promise import MapPromise, Promise
from hooke.pipeline.task import Task
from hooke.store.store import Store

__all__ = ["Excerpt", "excerpt", "take_over"]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Excerpt(Graph):
    """A graph of which only the nodes `measured`, and their inputs, run."""

    measured: tuple[int, ...]
    is_whole: bool
    """Whether the whole pipeline is measured."""

    def roots(self) -> tuple[int, ...]:
        """The measured nodes are the run's outputs."""
        return self.measured

    def with_share(self, share: float) -> Excerpt:
        """The excerpt with only the first items of each measured map, which are this share of all items.

        Raises UsageError for calls, and for maps whose items cannot be divided so.
        """
        if share == 1:
            return self
        return self._shortened(lambda node: _shared_out(node, share))

    def with_first(self, count: int) -> Excerpt:
        """The excerpt with only the first `count` items of each measured map.

        Raises UsageError for calls, and for maps with fewer items.
        """
        return self._shortened(lambda node: _first_of(node, count))

    def with_ranks(self, ranks: int) -> Excerpt:
        """The excerpt with gangs of so many ranks, where gangs are measured; in the whole pipeline they stay as they are."""
        if self.is_whole:
            return self
        nodes = list(self.nodes)
        made: dict[int, Task[..., Any]] = {}
        for number in self.measured:
            node = nodes[number]
            if node.task.resources.gang:
                task = made.setdefault(id(node.task), _Declared(node.task, gang=ranks, least_ranks=0))
                nodes[number] = msgspec.structs.replace(node, task=task)
        return replace(self, nodes=tuple(nodes))

    def _shortened(self, count: Callable[[Node], int]) -> Excerpt:
        nodes = list(self.nodes)
        for number in self.measured:
            nodes[number] = _shortened(nodes[number], count)
        return replace(self, nodes=tuple(nodes))


def excerpt(graph: Graph, task: str | None) -> Excerpt:
    """The excerpt of a graph to measure: the calls and maps of one task, or everything.

    Raises UsageError with the valid task names.
    """
    names = dict.fromkeys(node.task.name for node in graph.nodes)
    if not names:
        raise UsageError(
            f"pipeline {graph.pipeline!r} calls no task",
            fix="decorate the functions that it calls with @task",
        )
    if task is not None and task not in names:
        raise UsageError(
            f"pipeline {graph.pipeline!r} has no task {task!r}",
            fix=f"{did_you_mean(task, names)}its tasks: {', '.join(names)}",
        )
    measured = tuple(node.id for node in graph.nodes if task in (None, node.task.name))
    made: dict[int, Task[..., Any]] = {}
    # A failure ends a measurement whatever the map says: fewer items would be other work.
    nodes = tuple(
        msgspec.structs.replace(
            node, task=_cached_or_not(node, measured, made), on_error="raise", partial=False
        )
        for node in graph.nodes
    )
    return Excerpt(
        pipeline=graph.pipeline, nodes=nodes, output=graph.output, measured=measured, is_whole=task is None
    )


class _Declared(Task[..., Any]):
    """A task with other resources. It pickles as the original task, so that workers import the same code."""

    def __init__(self, task: Task[..., Any], **changed: Any) -> None:
        resources = replace(task.resources, **changed)
        super().__init__(task.function, name=task.name, resources=resources, descriptor=task.descriptor)
        self.original: Task[..., Any] = task.original if isinstance(task, _Declared) else task

    def __reduce_ex__(self, _protocol: Any) -> tuple[Callable[..., Any], tuple[Task[..., Any]]]:
        return _itself, (self.original,)


def _itself(task: Task[..., Any]) -> Task[..., Any]:
    return task


def _cached_or_not(node: Node, measured: Collection[int], made: dict[int, Task[..., Any]]) -> Task[..., Any]:
    """The node's task with the right `cache`, and measured ones without checkpoints from the measurement before.

    All nodes of a task share it, because functions are sent to workers by task identity.
    """
    cache, asked = node.id not in measured, node.task.resources
    kept = asked.keep_checkpoints and cache
    if (asked.cache, asked.keep_checkpoints) == (cache, kept):
        return node.task
    return made.setdefault(id(node.task), _Declared(node.task, cache=cache, keep_checkpoints=kept))


def _shortened(node: Node, count_of: Callable[[Node], int]) -> Node:
    if node.kind != "map":
        raise UsageError(
            f"task {node.task.name!r} is called, not mapped, so its work cannot be varied",
            where=node.where,
            fix="choose a mapped task with --task or task=, or measure without varying the work",
        )
    if node.items is None:
        raise UsageError(
            f"the number of items of {node.task.name}.map is a result of another task, so its work cannot be varied",
            where=node.where,
            fix="measure without varying the work, or map over a list that is known before the run",
        )
    count = count_of(node)
    columns = tuple(_first(column, count) for column in node.iterables)
    promises = [*promises_in(dict(node.arguments)), *promises_in(list(columns))]
    uses = dict.fromkeys(Use(promise.node, promise.path) for promise in promises)
    return msgspec.structs.replace(node, iterables=columns, items=count, uses=tuple(uses))


def _shared_out(node: Node, share: float) -> int:
    assert node.items is not None
    count = round(node.items * share)
    if count < 1 or abs(count - node.items * share) > 1e-9 * node.items:
        raise UsageError(
            f"{node.task.name}.map has {node.items} items, which do not divide evenly",
            where=node.where,
            fix="use a number of items that is a multiple of the largest N",
        )
    return count


def _first_of(node: Node, count: int) -> int:
    assert node.items is not None
    if count > node.items:
        raise UsageError(
            f"{node.task.name}.map has {node.items} items, fewer than the size {count}",
            where=node.where,
            fix=f"use sizes up to {node.items}, or parameters with more items",
        )
    return count


def _first(column: Any, count: int) -> Sequence[Any]:
    """The first items of a column; for the results of another map, references to them."""
    if isinstance(column, MapPromise):
        return [Promise(column.hooke_origin, column.hooke_node, (index,)) for index in range(count)]
    shortened: Sequence[Any] = column[:count]
    return shortened


# --- Inputs of the measured tasks, copied from the project's cache.


def take_over(part: Excerpt, *, study: str, cache: Store, into: Store) -> int:
    """Copy results from `cache`, which is only read, and return the number of nodes that are complete then.

    It goes backwards from the measured nodes, so that inputs of cached results are not copied.
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
    """Copy the node's results into `into`. Returns whether all were found."""
    if node.kind == "call":
        entry = cache.find(keys[node.id].key)
        if entry is None:
            return False
        into.commit(msgspec.structs.replace(entry, ref=into.put(cache.get(entry.ref))))
        return True
    items = keys.indexed(node.id)
    if items is None:  # the list of items is a result, which the run reads again
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
