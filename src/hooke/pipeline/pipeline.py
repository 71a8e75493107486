"""`@pipeline`: a function that composes tasks. Called as it is, it is plain Python; `run` traces it into a graph."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any, Concatenate, Generic, ParamSpec, Protocol, TypeVar, overload

from hooke.base.errors import UsageError
from hooke.diagrams.task_diagram import TaskDiagram
from hooke.pipeline.arguments import signature_of
from hooke.pipeline.task import ACTIVE, Task, adopt, check_function, check_name, reduce_declared

__all__ = ["RESERVED", "Pipeline", "pipeline"]

P = ParamSpec("P")
Q = ParamSpec("Q")
R = TypeVar("R")
S = TypeVar("S")

RESERVED = ("on", "workers", "wait", "progress", "deadline", "budget", "catalog", "allow_mismatch")
"""Parameters of `run` and `plan` themselves, which a pipeline's parameters must not reuse."""


class Pipeline(Generic[P, R]):
    """A function that composes tasks, with a name.

    Calling it runs its body as plain Python. Inside the trace of another pipeline the body becomes part of
    that graph.
    """

    function: Callable[P, R]
    name: str

    def __init__(self, function: Callable[P, R], *, name: str) -> None:
        adopt(self, function)
        self.function = function
        self.name = name

    def __call__(self, /, *args: P.args, **kwargs: P.kwargs) -> R:
        """Run the body: as plain Python, or into the graph of the pipeline that is being traced."""
        tracer = ACTIVE.get()
        if tracer is None:
            return self.function(*args, **kwargs)
        result: R = tracer.inline(self, args, kwargs)
        return result

    @overload
    def __get__(self, instance: None, owner: type[Any], /) -> Pipeline[P, R]: ...
    @overload
    def __get__(
        self: Callable[Concatenate[S, Q], R], instance: S, owner: type[Any] | None = None, /
    ) -> Pipeline[Q, R]: ...
    def __get__(self, instance: Any, owner: type[Any] | None = None, /) -> Pipeline[..., Any]:
        get = getattr(type(self.function), "__get__", None)
        if instance is None or get is None:
            return self
        return Pipeline(get(self.function, instance, owner), name=self.name)

    def graph(self, /, *args: P.args, **kwargs: P.kwargs) -> TaskDiagram:
        """The picture of the graph that a run with these parameters would have: runs the body, but no task.

        Notebooks show it; `print` gives it as text, `.svg()` and `.mermaid()` as files. Raises TraceError, UsageError, and what the
        body raises.
        """
        from hooke.pipeline.trace import trace  # fingerprints are not needed to declare a pipeline

        return trace(self, args, kwargs).diagram()

    @functools.cached_property
    def signature(self) -> inspect.Signature:
        """The function's signature."""
        return signature_of(self.function)

    def __hooke_code__(self) -> Callable[P, R]:
        """The function that composes the tasks."""
        return self.function

    def __repr__(self) -> str:
        return f"<pipeline {self.name!r} of {self.__module__}>"

    def __reduce_ex__(self, _protocol: Any) -> str | tuple[Any, ...]:
        return reduce_declared(self)

    def __copy__(self) -> Pipeline[P, R]:
        return self

    def __deepcopy__(self, _memo: object) -> Pipeline[P, R]:
        return self


class _Declare(Protocol):
    """The type of `@pipeline(...)`: makes a Pipeline of a function and keeps its signature."""

    def __call__(self, function: Callable[P, R], /) -> Pipeline[P, R]: ...


@overload
def pipeline(function: Callable[P, R], /) -> Pipeline[P, R]: ...
@overload
def pipeline(*, name: str | None = None) -> _Declare: ...
def pipeline(function: Any = None, /, *, name: str | None = None) -> Any:
    """Declare a function as a pipeline: `@pipeline`, or `@pipeline(name="nightly")`.

    Raises UsageError for functions that cannot be one (async functions, generators, lambdas without `name`)
    and for parameters with names that `run` and `plan` reserve: on, workers, wait, deadline, budget, catalog.
    """
    if function is None:
        return functools.partial(_declare, name=name)
    return _declare(function, name)


def _declare(function: Any, name: str | None = None) -> Pipeline[..., Any]:
    function = check_function("pipeline", function)
    if isinstance(function, (Pipeline, Task)):
        raise UsageError(
            f"@pipeline got {function!r}",
            fix="a function is either a pipeline or a task; write @pipeline above a function that calls the task",
        )
    shown = check_name("pipeline", function, name)
    _refuse_reserved(shown, signature_of(function))
    return Pipeline(function, name=shown)


def _refuse_reserved(name: str, signature: inspect.Signature) -> None:
    taken = [parameter for parameter in signature.parameters if parameter in RESERVED]
    if taken:
        raise UsageError(
            f"pipeline {name!r} has the parameter {taken[0]!r}, which `run` and `plan` reserve",
            fix=f"rename it, for example to {taken[0]}_; reserved names: {', '.join(RESERVED)}",
        )
