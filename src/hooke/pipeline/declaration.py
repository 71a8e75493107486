"""What `@task` and `@pipeline` have in common: which functions they take, under which name, and how they pickle."""

from __future__ import annotations

import functools
import inspect
import pickle
import re
import sys
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any

from hooke.base.errors import UsageError

__all__ = ["adopt", "check_function", "check_name", "is_importable", "reduce_declared"]

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.\-]*")

_VALID = "a name is text of letters (a to z), digits, '_', '-' and '.', and begins with a letter or '_'"

_RECOMPUTED = frozenset({"signature", "shape"})

_BY_VALUE: ContextVar[bool] = ContextVar("hooke_by_value", default=False)


def adopt(declared: object, function: Callable[..., Any]) -> None:
    """Give `declared` the name, module, docstring and signature of `function`, and its marks of other decorators."""
    # The attributes of a callable object are its own state, not marks.
    updated = ("__dict__",) if inspect.isfunction(function) else ()
    functools.update_wrapper(declared, function, updated=updated)  # type: ignore[arg-type]


def check_function(decorator: str, function: object) -> Callable[..., Any]:
    """The function itself, if `@decorator` can take it. Raises UsageError that says why it cannot."""
    if not callable(function):
        raise UsageError(
            f"@{decorator} got {function!r}, which is not a function",
            mend=f"write @{decorator} or @{decorator}(option=value) above a function; options go by keyword",
        )
    called = _innermost(function)
    if inspect.iscoroutinefunction(called) or inspect.isasyncgenfunction(called):
        raise UsageError(
            f"@{decorator} got the async function {_given_name(function)!r}",
            why=f"a {decorator} is a plain function: Hooke runs many at once by itself",
            mend="make it a plain `def`; call asyncio.run(...) inside it where a library is async",
        )
    if inspect.isgeneratorfunction(called):
        raise UsageError(
            f"@{decorator} got the generator function {_given_name(function)!r}",
            why=f"what a {decorator} returns is stored and read again; a generator can be read once",
            mend="return a list, or one item from a task that is mapped over the inputs",
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
            mend=f'name it: {decorator}(name="double")(lambda x: 2 * x); {_VALID}',
        )
    if isinstance(name, str) and _NAME.fullmatch(name):
        return name
    raise UsageError(
        f"@{decorator} got name={name!r} for {_given_name(function)!r}",
        mend=_VALID,
    )


def is_importable(declared: Any) -> bool:
    """Whether another process finds this very object by its module and qualified name."""
    module = getattr(declared, "__module__", None)
    path = getattr(declared, "__qualname__", None)
    if not isinstance(path, str) or module in {None, "__main__"} or module not in sys.modules:
        return False
    found: Any = sys.modules[module]
    for name in path.split("."):
        found = getattr(found, name, None)
    return found is declared


def reduce_declared(declared: Any) -> str | tuple[Any, ...]:
    """How a task or a pipeline pickles: by reference where that can be, else by value with cloudpickle.

    By value an empty object is made first and filled then, because a function may refer to its own task.
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
    """What really runs: under partials and static or class methods, or the `__call__` of an object."""
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
