"""`@task`: a plain function with resources. Outside a trace it is the function; inside, it notes a graph node."""

from __future__ import annotations

import functools
import inspect
import math
import pickle
import re
import sys
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from typing import (
    TYPE_CHECKING,
    Any,
    Concatenate,
    Generic,
    Literal,
    ParamSpec,
    Protocol,
    TypedDict,
    TypeGuard,
    TypeVar,
    Unpack,
    overload,
)

from hooke.base.errors import UsageError
from hooke.base.formats import did_you_mean
from hooke.base.units import parse_bytes, parse_seconds
from hooke.base.user_code import user_place
from hooke.pipeline.arguments import CallBinder, Successes, plain_rows, signature_of, warn_of_list
from hooke.pipeline.promise import Shape, result_shape

__all__ = [
    "ACTIVE",
    "BoundTask",
    "Options",
    "Resources",
    "Task",
    "Traceable",
    "Tracer",
    "adopt",
    "check_function",
    "check_name",
    "is_importable",
    "parse_resources",
    "reduce_declared",
    "task",
]


# --- What a task asks of the place that runs it, as declared in `@task(...)`.


class Options(TypedDict, total=False):
    """The options of `@task`.

    `cpus`: threads that the task may use (1). `memory`: its limit, `"2GiB"` or bytes (none).
    `gpus`: devices, or a share of one (0). `retries`: how often a failed task runs again (0).
    `timeout`: `"30m"` or seconds for one attempt (none). `cache`: whether other runs may reuse
    its results (True). `gang`: how many processes run it together, each a rank (none), or the fewest and the most, as `(1, 4)`.
    `keep_checkpoints`: whether the folder of `checkpoint_dir()` stays when the result is durable (False).
    `name`: shown instead of the function's own name. `observe`: whether files and environment variables that it reads
    count as its inputs (True). Beside them `results`, of a gang: `"rank0"` or `"all"`.
    """

    cpus: float
    memory: str | int | None
    gpus: float
    retries: int
    timeout: str | float | None
    cache: bool
    keep_checkpoints: bool
    gang: int | tuple[int, int] | None
    name: str | None
    observe: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Resources:
    """What one attempt of a task needs: cpus (threads), memory (bytes), gpus, and its policy. Of a gang: each rank."""

    cpus: float = 1
    memory: int | None = None
    gpus: float = 0
    retries: int = 0
    timeout_s: float | None = None
    cache: bool = True
    keep_checkpoints: bool = False
    """Whether checkpoint folders stay when the result is durable."""
    gang: int = 0
    """How many ranks it has, or the most that it may have; 0 for a task that is no gang."""
    least_ranks: int = 0
    """Of an elastic gang: the fewest ranks with which it runs. 0 for any other task."""
    results: str = "rank0"
    """Of a gang: `rank0`, what rank 0 returned, or `all`, the list of what each rank returned."""
    observe: bool = True
    """Whether what it reads counts as its inputs."""

    @property
    def ranks(self) -> int:
        """Processes that one attempt takes, or the most of them."""
        return max(1, self.gang)

    @property
    def fewest(self) -> int:
        """Processes without which an attempt cannot begin."""
        return self.least_ranks or self.ranks


def parse_resources(options: Mapping[str, Any]) -> Resources:
    """Check the options of `@task` and convert their units.

    Raises UsageError for an unknown option (with the nearest valid one) and for a value out of range.
    """
    _refuse_unknown(options)
    least_ranks, gang = _gang(options.get("gang"))
    return Resources(
        cpus=_number("cpus", options.get("cpus", 1), above_zero=True),
        memory=_memory(options.get("memory")),
        gpus=_number("gpus", options.get("gpus", 0)),
        retries=_retries(options.get("retries", 0)),
        timeout_s=_timeout(options.get("timeout")),
        cache=_bool("cache", options.get("cache", True)),
        keep_checkpoints=_bool("keep_checkpoints", options.get("keep_checkpoints", False)),
        gang=gang,
        least_ranks=least_ranks,
        results=_results(options.get("results", "rank0"), gang, least_ranks),
        observe=_bool("observe", options.get("observe", True)),
    )


def _refuse_unknown(options: Mapping[str, Any]) -> None:
    valid = [*Options.__annotations__, "results"]
    for option in options:
        if option not in valid:
            meant = did_you_mean(option, valid, form="{}=")
            raise UsageError(
                f"@task has no option {option!r}",
                where=str(user_place()),
                fix=f"{meant}valid options: {', '.join(valid)}",
            )


def _number(option: str, value: object, *, above_zero: bool = False) -> float:
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if is_number and math.isfinite(value) and (value > 0 or (value == 0 and not above_zero)):
        return value
    least = "above 0" if above_zero else "of 0 or more"
    raise _wrong(option, value, f"a number {least}, such as {option}=1 or {option}=0.5")


def _retries(value: object) -> int:
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return value
    raise _wrong("retries", value, "a whole number of 0 or more, such as retries=2")


def _memory(value: object) -> int | None:
    if value is None:
        return None
    if isinstance(value, (str, int)) and not isinstance(value, bool):
        try:
            size = parse_bytes(value)
        except UsageError as error:
            raise _unreadable("memory", error) from None
        if size > 0:
            return size
    raise _wrong("memory", value, 'a size above 0, such as memory="2GiB", or a number of bytes')


def _timeout(value: object) -> float | None:
    if value is None:
        return None
    if isinstance(value, (str, int, float)) and not isinstance(value, bool):
        try:
            seconds = parse_seconds(value)
        except UsageError as error:
            raise _unreadable("timeout", error) from None
        if seconds > 0:
            return seconds
    raise _wrong("timeout", value, 'a time above 0, such as timeout="30m", or a number of seconds')


def _bool(option: str, value: object) -> bool:
    if isinstance(value, bool):
        return value
    raise _wrong(option, value, f"{option}=True or {option}=False")


def _gang(value: object) -> tuple[int, int]:
    """The fewest ranks of an elastic gang, else 0, and the number of ranks or the most of them."""
    if value is None:
        return 0, 0
    if _is_count(value):
        return 0, value
    if isinstance(value, tuple) and len(value) == 2 and all(map(_is_count, value)):
        least, most = value
        if least < most:
            return least, most
        right = (
            f"gang={least} for so many"
            if least == most
            else f"gang={(most, least)}, the smaller number first"
        )
        raise _wrong("gang", value, right)
    raise _wrong(
        "gang",
        value,
        "a whole number of 1 or more, such as gang=4 for four processes that run together, or two of them, such as "
        "gang=(1, 4) for one to four",
    )


def _is_count(value: object) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def _results(value: object, gang: int, least_ranks: int) -> str:
    if value not in ("rank0", "all"):
        raise _wrong(
            "results", value, 'results="rank0" (what rank 0 returns) or results="all" (a list, by rank)'
        )
    if value == "all" and not gang:
        raise _wrong("results", value, "gang= too, such as gang=4: only a gang has several ranks")
    if value == "all" and least_ranks:
        raise _wrong(
            "results",
            value,
            'results="rank0" with an elastic gang: how many ranks it ends with is not known before',
        )
    return str(value)


def _wrong(option: str, value: object, valid: str) -> UsageError:
    return UsageError(f"@task got {option}={value!r}", where=str(user_place()), fix=f"give {valid}")


def _unreadable(option: str, error: UsageError) -> UsageError:
    return UsageError(
        f"@task got a wrong {option}: {error.what}", where=str(user_place()), why=error.why, fix=error.fix
    )


# --- Common to `@task` and `@pipeline`: which functions they accept, their names, and how they pickle.

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.\-]*")

_VALID = "a name has letters (a to z), digits, '_', '-' and '.', and begins with a letter or '_'"

_RECOMPUTED = frozenset({"binder", "shape", "signature"})

_BY_VALUE: ContextVar[bool] = ContextVar("hooke_by_value", default=False)


def adopt(declared: object, function: Callable[..., Any]) -> None:
    """Give `declared` the name, module, docstring and signature of `function`, and attributes of other decorators."""
    # The attributes of a callable object are its own state, not marks.
    updated = ("__dict__",) if inspect.isfunction(function) else ()
    functools.update_wrapper(declared, function, updated=updated)  # type: ignore[arg-type]
    for name in _RECOMPUTED:  # of another task, which `functools.wraps` copied to the function
        vars(declared).pop(name, None)


def check_function(decorator: str, function: object) -> Callable[..., Any]:
    """The function itself, if `@decorator` accepts it; else raises UsageError with the reason."""
    if not callable(function):
        raise UsageError(
            f"@{decorator} got {function!r}, which is not a function",
            where=str(user_place()),
            fix=f"write @{decorator} or @{decorator}(option=value) above a function; options go by keyword",
        )
    called = _innermost(function)
    if inspect.iscoroutinefunction(called) or inspect.isasyncgenfunction(called):
        raise UsageError(
            f"@{decorator} got the async function {_given_name(function)!r}",
            where=str(user_place()),
            why=f"a {decorator} is a plain function; Hooke itself runs many of them at once",
            fix="make it a plain `def`; to use an async library, call asyncio.run(...) inside it",
        )
    if inspect.isgeneratorfunction(called):
        raise UsageError(
            f"@{decorator} got the generator function {_given_name(function)!r}",
            where=str(user_place()),
            why=f"the result of a {decorator} is stored and read many times; a generator can be read only once",
            fix="return a list, or one item from a task that is mapped over the inputs",
        )
    return function


def check_name(decorator: str, function: Callable[..., Any], name: object) -> str:
    """The declared name, else the function's own: the qualified name inside its module or function."""
    if name is None:
        own = _given_name(function)
        if _NAME.fullmatch(own):
            return own
        raise UsageError(
            f"@{decorator} got a function without a usable name: {own}",
            where=str(user_place()),
            fix=f'name it: {decorator}(name="double")(lambda x: 2 * x); {_VALID}',
        )
    if isinstance(name, str) and _NAME.fullmatch(name):
        return name
    raise UsageError(
        f"@{decorator} got name={name!r} for {_given_name(function)!r}",
        where=str(user_place()),
        fix=_VALID,
    )


def is_importable(declared: Any) -> bool:
    """Whether another process can import this object by its module and qualified name."""
    module = getattr(declared, "__module__", None)
    path = getattr(declared, "__qualname__", None)
    if not isinstance(path, str) or module in {None, "__main__"} or module not in sys.modules:
        return False
    found: Any = sys.modules[module]
    for name in path.split("."):
        found = getattr(found, name, None)
    return found is declared


def reduce_declared(declared: Any) -> str | tuple[Any, ...]:
    """How a task or a pipeline pickles: by reference if it can be imported, else by value with cloudpickle.

    By value, an empty object is created first and filled later, because a function may refer to its own task.
    """
    if is_importable(declared):
        return str(declared.__qualname__)
    if _BY_VALUE.get():
        state = {name: value for name, value in vars(declared).items() if name not in _RECOMPUTED}
        return object.__new__, (type(declared),), state
    from hooke.store import by_value  # cloudpickle, which `import hooke` does without

    token = _BY_VALUE.set(True)
    try:
        return pickle.loads, (by_value.dumps(declared),)
    finally:
        _BY_VALUE.reset(token)


def _innermost(function: Any) -> Any:
    """The function that runs: inside partials and static or class methods, or the `__call__` of an object."""
    while isinstance(function, (functools.partial, staticmethod, classmethod)):
        function = function.func if isinstance(function, functools.partial) else function.__func__
    if inspect.isroutine(function) or inspect.isclass(function):
        return function
    return type(function).__call__


def _given_name(function: Any) -> str:
    while isinstance(function, functools.partial):
        function = function.func
    name = getattr(function, "__qualname__", None) or getattr(function, "__name__", None)
    return str(name or type(function).__name__).rsplit("<locals>.", 1)[-1]


# --- The active trace of this context, if any.


class Traceable(Protocol):
    """What a trace needs of a pipeline."""

    @property
    def name(self) -> str:
        """For messages, and for the frame around its calls in pictures."""
        ...

    @property
    def function(self) -> Callable[..., Any]:
        """The body."""
        ...

    @property
    def signature(self) -> inspect.Signature:
        """Of the body."""
        ...


class Tracer(Protocol):
    """Records calls instead of making them. Each method returns promises."""

    def call(self, task: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        """A task was called."""
        ...

    def map(
        self,
        task: Any,
        iterables: Sequence[Any],
        constants: Mapping[str, Any],
        *,
        on_error: Literal["raise", "continue"],
    ) -> Any:
        """A task was mapped."""
        ...

    def inline(self, pipeline: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        """A pipeline was called inside another one: its body becomes part of the outer graph."""
        ...


ACTIVE: ContextVar[Tracer | None] = ContextVar("hooke_trace", default=None)
"""None outside a trace, and in threads that a pipeline's body starts."""


P = ParamSpec("P")
Q = ParamSpec("Q")
R = TypeVar("R")
S = TypeVar("S")


_ELSEWHERE = frozenset({"apply", "apply_async", "delay", "delayed", "remote", "starmap", "submit"})
"""What a call that is done elsewhere is named in Celery, Dask, Prefect, Ray and concurrent.futures."""


class Task(Generic[P, R]):
    """A function with a name and resources. Calling it calls the function, unless a pipeline is being traced.

    It has the function's signature, name, docstring and module; it binds to instances as the function does.
    It pickles by reference where another process can import it, else by value.
    """

    function: Callable[P, R]
    name: str
    resources: Resources
    descriptor: Any
    """The descriptor that binds to instances: the function, or the static or class method around it."""

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

    if not TYPE_CHECKING:  # a type checker is to see what is missing

        def __getattr__(self, name: str) -> Any:
            if name in _ELSEWHERE:
                raise AttributeError(
                    f"the task {self.name!r} has no {name}(); inside a pipeline, call it: {self.name}(...), or for each item: "
                    f"{self.name}.map(items)"
                )
            raise AttributeError(
                f"{type(self).__name__!r} object has no attribute {name!r}", name=name, obj=self
            )

    def __call__(self, /, *args: P.args, **kwargs: P.kwargs) -> R:
        """Call the function; while a pipeline is traced, note the call and return a promise of its result."""
        tracer = ACTIVE.get()
        if tracer is None:
            plain: R = self._plain(self.function(*args, **kwargs))
            return plain
        result: R = tracer.call(self, args, kwargs)
        return result

    def _plain(self, result: Any) -> Any:
        """A call's result outside a run, where a gang has one rank, so `results="all"` gives a list of one."""
        return [result] if self.resources.results == "all" else result

    def map(self, /, *iterables: Iterable[Any], **constants: Any) -> list[R]:
        """The function for each item: `[f(a, b, **constants) for a, b in zip(*iterables, strict=True)]`.

        Positional iterables give the items. Keywords are the same for every item: many items share one object, which
        the function must not change. While a pipeline is traced, the items become tasks of their own, and iterables
        may be results of other tasks.

        One keyword is the map's own, unless the function has a parameter of that name: `on_error="raise"` (the default)
        ends the run when an item has failed and its retries are used up; `on_error="continue"` leaves failed items out of
        the list, and out of those of the maps that follow it item by item. The run then ends "finished with N failures".
        Outside a run it warns of them.

        Raises UsageError for no iterable, one that cannot be iterated or never ends, unequal lengths, or another
        `on_error`.
        """
        on_error = self._on_error(constants)
        tracer = ACTIVE.get()
        if tracer is not None:
            results: list[R] = tracer.map(self, iterables, constants, on_error=on_error)
            return results
        function: Callable[..., R] = self.function
        places, rows, total = plain_rows(self.name, iterables, constants)
        warn_of_list(self.name, self.signature.parameters, constants, total)
        if on_error == "raise":
            plain = [self._plain(function(*items, **constants)) for items in rows]
        else:
            places, plain = self._plain_successes(places, rows, constants)
        return plain if len(plain) == total else Successes(plain, places=places, total=total)

    def _on_error(self, constants: dict[str, Any]) -> Literal["raise", "continue"]:
        """Take `on_error` out of a map's keywords, if it is not for the function."""
        if "on_error" not in constants or "on_error" in self.signature.parameters:
            return "raise"
        value = constants.pop("on_error")
        if value not in ("raise", "continue"):
            raise UsageError(
                f"{self.name}.map got on_error={value!r}",
                where=str(user_place()),
                fix='give on_error="raise" (a failed item ends the run) or on_error="continue" (it is left out)',
            )
        return value

    def _plain_successes(
        self, places: Sequence[int], rows: Iterable[Sequence[Any]], constants: Mapping[str, Any]
    ) -> tuple[list[int], list[R]]:
        """The results of the items that do not raise, and their places; warns of the others."""
        function: Callable[..., R] = self.function
        kept: list[int] = []
        results: list[R] = []
        failed: list[str] = []
        for place, items in zip(places, rows, strict=True):
            try:
                results.append(self._plain(function(*items, **constants)))
            except Exception as error:  # noqa: BLE001 - whatever the user's function raises
                failed.append(f"item {place}: {type(error).__name__}: {error}")
            else:
                kept.append(place)
        if failed:
            warnings.warn(
                f"{len(failed)} of {len(places)} items of {self.name}.map failed and are left out; first {failed[0]}",
                RuntimeWarning,
                stacklevel=3,
            )
        return kept, results

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
        """The function whose code is part of the keys of this task's results."""
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
        """The function's signature; `(*args, **kwargs)` for a C function without one."""
        return signature_of(self.function)

    @functools.cached_property
    def binder(self) -> CallBinder:
        """Binds the arguments of its calls."""
        return CallBinder(f"task {self.name!r}", self.signature)

    @functools.cached_property
    def shape(self) -> Shape | None:
        """The parts of its result, if its annotation is a tuple of fixed length."""
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
        # The instance is an ordinary argument: it is part of the key, and messages show it.
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
    """The type of `@task(...)`: makes a Task of a function and keeps its signature."""

    def __call__(self, function: Callable[P, R], /) -> Task[P, R]: ...


class _DeclareAll(Protocol):
    """The type of `@task(gang=..., results="all")`: the task returns a list of its function's results."""

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
    `timeout` ("30m" or seconds for one attempt), `cache` (whether other runs may reuse its results, True),
    `keep_checkpoints` (whether the folder of `checkpoint_dir()` stays when the result is durable, False), `name`,
    `gang` (how many processes run it together, each with its rank in the environment; none; or the fewest and the most of them:
    `gang=(1, 4)` changes the number at checkpoints), `results` (of a gang:
    "rank0", the result of rank 0, or "all", a list of all ranks' results).
    Plain calls of the function do not change. Raises UsageError for an unknown option or a value out of range, and
    for functions that cannot be tasks (async functions, generators, lambdas without `name`).
    """
    if function is not None:
        if options:
            raise UsageError(
                "task() got both a function and options",
                fix=f"write task({', '.join(f'{key}={value!r}' for key, value in options.items())})(function)",
            )
        return _declare(function)
    return functools.partial(_declare, name=options.get("name"), resources=parse_resources(options))


def _declare(function: Any, *, name: Any = None, resources: Resources | None = None) -> Task[..., Any]:
    descriptor = _undeclared(function)
    is_wrapped = isinstance(descriptor, (staticmethod, classmethod))
    function = check_function("task", descriptor.__func__ if is_wrapped else descriptor)
    return Task(function, name=check_name("task", function, name), resources=resources, descriptor=descriptor)


def _undeclared(function: Any) -> Any:
    """The function inside a task, so that it can be declared again; any other function unchanged."""
    if isinstance(function, Task):
        return function.function if isinstance(function, BoundTask) else function.descriptor
    if hasattr(type(function), "__hooke_code__"):
        raise UsageError(
            f"@task got {function!r}",
            where=str(user_place()),
            fix="call it inside another pipeline, which takes over its tasks; or write @task above a plain function",
        )
    return function
