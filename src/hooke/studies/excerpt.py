"""The part of a pipeline that is measured: its nodes run anew each time, what they need is computed once."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from typing import Any

from hooke.base.errors import UsageError
from hooke.pipeline.graph import Graph, Node, Use
from hooke.pipeline.nesting import promises_in
from hooke.pipeline.promise import MapPromise, Promise
from hooke.pipeline.task import Task

__all__ = ["Excerpt", "excerpt"]


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
        raise UsageError(f"pipeline {graph.pipeline!r} calls no task", mend="mark what it calls with @task")
    if task is not None and task not in names:
        near = get_close_matches(task, names, n=1)
        meant = f"did you mean {near[0]}? " if near else ""
        raise UsageError(
            f"pipeline {graph.pipeline!r} has no task {task!r}", mend=f"{meant}its tasks: {', '.join(names)}"
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
            mend="name a task that the pipeline maps, with --task or task=, or measure with the work as it is",
        )
    if node.items is None:
        raise UsageError(
            f"how many items {node.task.name}.map has is a result, so no part of them can be named",
            where=node.where,
            mend="measure with the work as it is, or map over a list that is known before anything runs",
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
            mend="give it a multiple of the largest N, so that each worker has the same work at every N",
        )
    return count


def _first_of(node: Node, count: int) -> int:
    assert node.items is not None
    if count > node.items:
        raise UsageError(
            f"{node.task.name}.map has {node.items} items, fewer than the size {count}",
            where=node.where,
            mend=f"sizes up to {node.items}, or parameters that give it more to do",
        )
    return count


def _first(column: Any, count: int) -> Sequence[Any]:
    """The first items of a column; of another map, these by reference."""
    if isinstance(column, MapPromise):
        return [Promise(column.hooke_origin, (index,)) for index in range(count)]
    shortened: Sequence[Any] = column[:count]
    return shortened
