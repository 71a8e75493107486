"""Tracing: a pipeline's body runs once, and every call of a task in it becomes a node of a graph.

The trace belongs to the context of the body: threads that the body starts call tasks for real.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import chain
from typing import Any, Literal

from hooke.base.annotations import annotations_of, check_arguments
from hooke.base.errors import TraceError
from hooke.base.user_code import user_place
from hooke.pipeline.arguments import as_columns, bind_call, bind_map, check_lengths, copy_nesting, promises_in
from hooke.pipeline.graph import Graph, Node, Use
from hooke.pipeline.lint import lint
from hooke.pipeline.pipeline import Pipeline
from hooke.pipeline.promise import MapPromise, Promise, PromiseOrigin, TraceSession
from hooke.pipeline.task import ACTIVE, Task

__all__ = ["GraphTracer", "trace"]


def trace(
    pipeline: Pipeline[..., Any], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
) -> Graph:
    """The graph of `pipeline(*args, **kwargs)`. Runs the body, but no task.

    Raises UsageError for arguments that do not fit the pipeline's parameters or their annotations, TraceError for operations that cannot
    be traced, and the body's own exceptions.
    """
    if ACTIVE.get() is not None:
        raise TraceError(
            f"pipeline {pipeline.name!r} was run inside the body of another pipeline",
            where=str(user_place()),
            fix="call it as a plain function: its tasks become part of the outer run",
        )
    _check_types(pipeline, args, kwargs or {})
    tracer = GraphTracer(pipeline.name)
    token = ACTIVE.set(tracer)
    try:
        output = tracer.inline(pipeline, args, kwargs or {})
    except TypeError as error:
        _explain(error)
        raise
    finally:
        ACTIVE.reset(token)
        tracer.session.is_open = False
    return Graph(pipeline=pipeline.name, nodes=tuple(tracer.nodes), output=_returned(tracer, output))


def _check_types(pipeline: Pipeline[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
    """Raise UsageError for arguments that do not bind, and for values that do not have the annotated types."""
    subject = f"pipeline {pipeline.name!r}"
    given = bind_call(subject, pipeline.signature, args, kwargs)
    check_arguments(subject, pipeline.signature, annotations_of(pipeline.function), given)


class GraphTracer:
    """Records the calls of one trace as nodes."""

    def __init__(self, pipeline: str) -> None:
        self.session = TraceSession(pipeline)
        self.nodes: list[Node] = []
        self._linted: set[Callable[..., Any]] = set()

    def inline(self, pipeline: Pipeline[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        """Run a pipeline's body and record its calls."""
        bind_call(f"pipeline {pipeline.name!r}", pipeline.signature, args, kwargs)
        if pipeline.function not in self._linted:
            self._linted.add(pipeline.function)
            lint(pipeline)
        return pipeline.function(*args, **kwargs)

    def call(self, task: Task[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> Promise:
        """Record a call."""
        arguments, uses = self.taken(bind_call(f"task {task.name!r}", task.signature, args, kwargs))
        origin = self._add(task, arguments=arguments, uses=uses)
        return Promise(origin, shape=task.shape)

    def map(
        self,
        task: Task[..., Any],
        iterables: Sequence[Any],
        constants: Mapping[str, Any],
        *,
        on_error: Literal["raise", "continue"] = "raise",
    ) -> MapPromise:
        """Record a map."""
        columns = as_columns(task.name, iterables, constants)
        names, keywords = bind_map(f"task {task.name!r}", task.signature, len(columns), constants)
        arguments, uses = self.taken(keywords)
        items, in_step_with = _length(task.name, columns)
        is_in_step = items is not None or in_step_with is not None
        follows_partial = any(isinstance(column, MapPromise) and column.hooke_partial for column in columns)
        if follows_partial and not is_in_step:
            raise _unpaired(task.name)
        partial = on_error == "continue" or follows_partial
        taken = [self._taken_column(column, is_in_step=is_in_step) for column in columns]
        origin = self._add(
            task,
            kind="map",
            arguments=arguments,
            iterables=tuple(column for column, _ in taken),
            columns=names,
            items=items,
            on_error=on_error,
            partial=partial,
            uses=(*uses, *chain.from_iterable(more for _, more in taken)),
        )
        length_from = origin.node if in_step_with is None else in_step_with
        return MapPromise(origin, items, length_from, partial=partial)

    def taken(self, value: Any) -> tuple[Any, tuple[Use, ...]]:
        """A copy of a nested value, and the nodes that it uses. Raises TraceError for a promise of another trace."""
        promises = promises_in(value)
        for promise in promises:
            if promise.hooke_origin.session is not self.session:
                raise _foreign(promise, self.session)
        uses = (Use(promise.hooke_origin.node, promise.hooke_path) for promise in promises)
        return copy_nesting(value), tuple(uses)

    def _taken_column(self, column: Any, *, is_in_step: bool) -> tuple[Any, tuple[Use, ...]]:
        column, uses = self.taken(column)
        if is_in_step and isinstance(column, MapPromise):
            uses = (Use(column.hooke_origin.node, elementwise=True),)
        return column, uses

    def _add(self, task: Task[..., Any], *, uses: tuple[Use, ...], **fields: Any) -> PromiseOrigin:
        place = user_place()
        node = Node(
            id=len(self.nodes),
            task=task,
            uses=tuple(dict.fromkeys(uses)),
            where=f"{place.file}:{place.line}",
            **fields,
        )
        self.nodes.append(node)
        return PromiseOrigin(
            session=self.session, node=node.id, task=task.name, place=place, shape=task.shape
        )


def _returned(tracer: GraphTracer, output: Any) -> Any:
    if isinstance(output, Iterator) and not isinstance(output, Promise):
        raise TraceError(
            f"pipeline {tracer.session.pipeline!r} returned a {type(output).__name__}, which can be read only once",
            fix="return a list: list(...)",
        )
    return tracer.taken(output)[0]


def _length(task: str, columns: Sequence[Any]) -> tuple[int | None, int | None]:
    """The number of items if it is known; else the node that decides the common length of all columns, if any."""
    known: list[int | None] = []
    sources: set[int | None] = set()
    for column in columns:
        if isinstance(column, MapPromise):
            items, source = column.hooke_items, column.hooke_length_from
        elif isinstance(column, Promise):
            items, source = None, None
        else:
            items, source = len(column), None
        known.append(items)
        sources.add(source)
    lengths = [items for items in known if items is not None]
    check_lengths(task, lengths)
    if len(lengths) == len(known):
        return lengths[0], None
    return None, sources.pop() if len(sources) == 1 else None


def _unpaired(task: str) -> TraceError:
    return TraceError(
        f"{task}.map pairs a list that may lack failed items with a list whose length is known only at run time",
        where=str(user_place()),
        why="with items left out of one list only, the wrong ones would meet",
        fix='map over one list of tuples, or leave out on_error="continue" in the map before',
    )


def _foreign(promise: Promise, session: TraceSession) -> TraceError:
    return TraceError(
        f"pipeline {session.pipeline!r} got {promise!r} of pipeline {promise.hooke_origin.session.pipeline!r}, "
        "from another trace",
        where=str(user_place()),
        fix="call the task in this pipeline's body; do not keep results in globals between runs",
    )


def _explain(error: TypeError) -> None:
    """Explain promises in a TypeError of C code that got one."""
    if "Promise" in str(error) and not isinstance(error, TraceError):
        error.add_note(
            "A Promise stands for the result of a task that has not run: a pipeline's body only draws the graph. "
            "Move this line into a task."
        )
