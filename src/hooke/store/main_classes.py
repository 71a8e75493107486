"""Classes of a script or a notebook in stored values: pickled by value, loaded as the live class.

Cloudpickle stores the definition of a class that no other process can import. In a later run of the same script,
loading it would create a second class of the same name, and `isinstance` would fail. So if a class with this name and
the same definition exists, loading uses it. Stored values name the functions of this module, so it keeps its place.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from types import CodeType, FunctionType
from typing import Any

from blake3 import blake3

__all__ = ["reduce_class"]

_PASSED_OVER = frozenset(
    [
        "__dict__",
        "__weakref__",
        "__doc__",
        "__module__",
        "__slotnames__",
        "__firstlineno__",
        "__static_attributes__",
        "_abc_impl",
    ]
)
"""Attributes that do not affect a class's behavior, or that appear with its first use."""

_BY_VALUE = 6
"""Parts of the reduction of a class by value; that of a built-in type has fewer."""

_SIMPLE = (int, float, complex, bool, str, bytes, type(None))


def reduce_class(cls: type, reduced: tuple[Any, ...]) -> tuple[Any, ...]:
    """Cloudpickle's reduction of a class by value, wrapped so that loading prefers the live class."""
    if len(reduced) != _BY_VALUE:
        return reduced
    maker, args, state, _, _, setter = reduced
    names = (cls.__module__, cls.__qualname__, _definition(cls))
    return _make, (*names, maker, *args), (setter, state), None, None, _set_state


# Stored pickles contain the names and parameters of these two functions: do not change them.


def _make(module: str, name: str, definition: bytes, maker: Callable[..., type], *args: Any) -> type:
    live = _live(module, name)
    return live if live is not None and _definition(live) == definition else maker(*args)


def _set_state(cls: type, state: tuple[Callable[[type, Any], Any], Any]) -> None:
    if _live(cls.__module__, cls.__qualname__) is not cls:
        setter, content = state
        setter(cls, content)


def _live(module: str, name: str) -> type | None:
    found: Any = sys.modules.get(module)
    for part in name.split("."):
        found = getattr(found, part, None)
    return found if isinstance(found, type) else None


def _definition(cls: type) -> bytes:
    """A digest of bases, attributes and methods; line numbers and file names do not count."""
    hasher = blake3()
    for part in _parts(cls):
        hasher.update(part.encode() + b"\0")
    return hasher.digest(16)


def _parts(cls: type) -> Iterator[str]:
    yield " ".join(base.__qualname__ for base in cls.__mro__[1:])
    for name, value in sorted(vars(cls).items()):
        if name not in _PASSED_OVER:
            yield name
            yield from _describe(value)


def _describe(value: Any) -> Iterator[str]:
    if isinstance(value, FunctionType):
        yield from _code(value.__code__)
        yield repr([default for default in value.__defaults__ or () if isinstance(default, _SIMPLE)])
    elif isinstance(value, (staticmethod, classmethod)):
        yield from _describe(value.__func__)
    elif isinstance(value, property):
        for accessor in (value.fget, value.fset, value.fdel):
            yield from _describe(accessor)
    else:
        yield repr(value) if isinstance(value, _SIMPLE) else type(value).__qualname__


def _code(code: CodeType) -> Iterator[str]:
    yield f"{code.co_code.hex()} {code.co_names} {code.co_varnames}"
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _code(constant)
        else:
            yield repr(constant) if not isinstance(constant, frozenset) else repr(sorted(map(repr, constant)))
