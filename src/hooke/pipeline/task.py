"""`@task`: a plain function with resources. Outside a trace it is the function; inside, it notes a graph node."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable
from typing import Any, Concatenate, Generic, Literal, ParamSpec, Protocol, TypeVar, Unpack, overload

from hooke.base.errors import UsageError
from hooke.pipeline.binding import signature_of
from hooke.pipeline.columns import as_columns, check_lengths
from hooke.pipeline.declaration import adopt, check_function, check_name, reduce_declared
from hooke.pipeline.resources import Options, Resources, parse_resources
from hooke.pipeline.shape import Shape, result_shape
from hooke.pipeline.tracing import ACTIVE

__all__ = ["BoundTask", "Resources", "Task", "task"]

P = ParamSpec("P")
Q = ParamSpec("Q")
R = TypeVar("R")
S = TypeVar("S")


class Task(Generic[P, R]):
    """A function with a name and resources. Calling it calls the function, unless a pipeline is being traced.

    It has the function's signature, name, docstring and module; it binds to instances as the function does.
    It pickles by reference where another process can import it, else by value.
    """

    function: Callable[P, R]
    name: str
    resources: Resources
    descriptor: Any
    """What binds to instances in the function's place: the function, or the static or class method around it."""

    def __init__(
        self,
        function: Callable[P, R],
        *,
        name: str,
        resources: Resources | None = None,
        descriptor: Any = None,
    ) -> None:
        adopt(self, function)
        self.function = function
        self.name = name
        self.resources = resources or Resources()
        self.descriptor = function if descriptor is None else descriptor

    def __call__(self, /, *args: P.args, **kwargs: P.kwargs) -> R:
        """Call the function; while a pipeline is traced, note the call and return a promise of its result."""
        tracer = ACTIVE.get()
        if tracer is None:
            plain: R = self._plain(self.function(*args, **kwargs))
            return plain
        result: R = tracer.call(self, args, kwargs)
        return result

    def _plain(self, result: Any) -> Any:
        """What a call gives outside a run, where a gang is one of one: its list of results has one."""
        return [result] if self.resources.results == "all" else result

    def map(self, /, *iterables: Iterable[Any], **constants: Any) -> list[R]:
        """The function for each item: `[f(a, b, **constants) for a, b in zip(*iterables, strict=True)]`.

        Positional iterables give the items, keywords are the same for every item: one object for many of them, which
        the function must not change. In a pipeline that is being
        traced the items run as tasks of their own; iterables may then be results of other tasks.
        Raises UsageError for no iterable, one that cannot be iterated or never ends, or unequal lengths.
        """
        tracer = ACTIVE.get()
        if tracer is not None:
            results: list[R] = tracer.map(self, iterables, constants)
            return results
        columns = as_columns(self.name, iterables, constants)
        check_lengths(self.name, [len(column) for column in columns])
        function: Callable[..., R] = self.function
        return [self._plain(function(*items, **constants)) for items in zip(*columns, strict=True)]

    @overload
    def __get__(self, instance: None, owner: type[Any], /) -> Task[P, R]: ...
    @overload
    def __get__(
        self: Callable[Concatenate[S, Q], R], instance: S, owner: type[Any] | None = None, /
    ) -> Task[Q, R]: ...
    def __get__(self, instance: Any, owner: type[Any] | None = None, /) -> Task[..., Any]:
        get = getattr(type(self.descriptor), "__get__", None)
        bound = self.descriptor if get is None else get(self.descriptor, instance, owner)
        is_new = inspect.ismethod(bound) and bound is not self.descriptor
        return BoundTask(self, bound) if is_new else self

    def __hooke_code__(self) -> Callable[P, R]:
        """The function whose code decides the keys of this task's results."""
        return self.function

    def __repr__(self) -> str:
        return f"<task {self.name!r} of {self.__module__}>"

    def __reduce_ex__(self, _protocol: Any) -> str | tuple[Any, ...]:
        return reduce_declared(self)

    def __copy__(self) -> Task[P, R]:
        return self

    def __deepcopy__(self, _memo: object) -> Task[P, R]:
        return self

    @functools.cached_property
    def signature(self) -> inspect.Signature:
        """The function's signature; `(*args, **kwargs)` where a C function does not tell it."""
        return signature_of(self.function)

    @functools.cached_property
    def shape(self) -> Shape | None:
        """The parts of its result, where its annotation says that it is a tuple of fixed length."""
        return None if self.resources.results == "all" else result_shape(self.function)


class BoundTask(Task[P, R]):
    """A task that is a method, looked up on an instance (or, for a class method, on a class)."""

    def __init__(self, unbound: Task[..., R], method: Any) -> None:
        super().__init__(method, name=unbound.name, resources=unbound.resources)
        self.unbound = unbound

    def __call__(self, /, *args: P.args, **kwargs: P.kwargs) -> R:
        """Call the method; while a pipeline is traced, note the call."""
        tracer = ACTIVE.get()
        if tracer is None:
            plain: R = self._plain(self.function(*args, **kwargs))
            return plain
        # The instance is an argument like any other: it is in the key, and shown.
        method: Any = self.function
        result: R = tracer.call(self.unbound, (method.__self__, *args), kwargs)
        return result

    def __get__(self, _instance: Any, _owner: type[Any] | None = None, /) -> Task[P, R]:
        return self

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, BoundTask) and self.unbound is other.unbound and self.function == other.function
        )

    def __hash__(self) -> int:
        return hash(self.function)

    def __reduce_ex__(self, _protocol: Any) -> tuple[Any, ...]:
        method: Any = self.function
        return _bind, (self.unbound, method.__self__)


def _bind(unbound: Task[..., Any], instance: object) -> Task[..., Any]:
    return unbound.__get__(instance, instance if isinstance(instance, type) else type(instance))


class _Declare(Protocol):
    """What `@task(...)` returns: makes a Task of a function and keeps its signature."""

    def __call__(self, function: Callable[P, R], /) -> Task[P, R]: ...


class _DeclareAll(Protocol):
    """What `@task(gang=..., results="all")` returns: as _Declare, of a task that gives a list of its function's results."""

    def __call__(self, function: Callable[P, R], /) -> Task[P, list[R]]: ...


@overload
def task(function: Callable[P, R], /) -> Task[P, R]: ...
@overload
def task(*, results: Literal["all"], **options: Unpack[Options]) -> _DeclareAll: ...
@overload
def task(*, results: Literal["rank0"] = ..., **options: Unpack[Options]) -> _Declare: ...
def task(function: Any = None, /, **options: Any) -> Any:
    """Declare a function as a task: `@task`, `@task(cpus=2)`, or `task(cpus=2)(package.function)`.

    Options: `cpus` (threads it may use, 1), `memory` (limit, "2GiB" or bytes), `gpus` (0), `retries` (0),
    `timeout` ("30m" or seconds for one attempt), `cache` (may other runs reuse its results, True), `name`,
    `gang` (so many processes run it together, each with its rank in the environment; none), `results` (of a gang:
    "rank0", what rank 0 returns, or "all", a list of what the ranks return).
    A call does what it did before. Raises UsageError for an option that is unknown or out of range, and for
    functions that cannot be tasks (async functions, generators, lambdas without `name`).
    """
    if function is not None:
        if options:
            raise UsageError(
                "task() got a function and options at once",
                mend=f"write task({', '.join(f'{key}={value!r}' for key, value in options.items())})(function)",
            )
        return _declare(function)
    return functools.partial(_declare, name=options.get("name"), resources=parse_resources(options))


def _declare(function: Any, *, name: Any = None, resources: Resources | None = None) -> Task[..., Any]:
    descriptor = _undeclared(function)
    is_wrapped = isinstance(descriptor, (staticmethod, classmethod))
    function = check_function("task", descriptor.__func__ if is_wrapped else descriptor)
    return Task(function, name=check_name("task", function, name), resources=resources, descriptor=descriptor)


def _undeclared(function: Any) -> Any:
    """What a task was made of, so that it can be declared again; anything but a task as it is."""
    if isinstance(function, Task):
        return function.function if isinstance(function, BoundTask) else function.descriptor
    if hasattr(type(function), "__hooke_code__"):
        raise UsageError(
            f"@task got {function!r}",
            mend="call it inside another pipeline: its tasks become part of that; or write @task above a plain function",
        )
    return function
