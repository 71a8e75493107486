"""Pickles definitions of a script or a notebook by value: cloudpickle, with cases that it lacks."""

from __future__ import annotations

import abc
import functools
import io
import sys
from collections import ChainMap
from types import CodeType
from typing import Any, cast

import cloudpickle

from hooke.base.user_code import module_of_method

__all__ = ["ByValuePickler", "dumps"]


def _reduce_cached_property(found: functools.cached_property[Any]) -> tuple[Any, ...]:
    return _cached_property, (found.func, found.attrname)


def _reduce_code(code: CodeType) -> tuple[Any, ...]:
    maker, facts, *_ = _with_cached_property[CodeType](code)
    return maker, tuple(code.co_filename if fact == "<dynamic-code>" else fact for fact in facts)


_with_cached_property: ChainMap[type, Any] = ChainMap(
    {functools.cached_property: _reduce_cached_property},
    cast("ChainMap[type, Any]", cloudpickle.Pickler.dispatch_table),
)
_with_file_names: ChainMap[type, Any] = ChainMap({CodeType: _reduce_code}, _with_cached_property)


class ByValuePickler(cloudpickle.Pickler):
    """Adds slots, which an instance's state needs, and cached properties, which hold a lock in Python 3.11."""

    dispatch_table = _with_cached_property

    def reducer_override(self, obj: Any) -> Any:
        """Pickle functions and classes, and a library's bound methods as the other process's own."""
        offering = module_of_method(obj)
        if offering is not None:
            return getattr, (sys.modules[offering], obj.__name__)
        reduced = super().reducer_override(obj)
        by_value = isinstance(reduced, tuple) and type(obj) in (type, abc.ABCMeta)
        return _with_slots(obj, reduced) if by_value else reduced


class _WithFileNames(ByValuePickler):
    dispatch_table = _with_file_names


def dumps(value: Any) -> bytes:
    """A pickle in which code keeps its file name for tracebacks. For sending only: stored bytes must not depend on it."""
    file = io.BytesIO()
    _WithFileNames(file, protocol=5).dump(value)
    return file.getvalue()


def _with_slots(cls: type, reduced: tuple[Any, ...]) -> tuple[Any, ...]:
    maker, arguments, *rest = reduced
    slots = vars(cls).get("__slots__")
    if not slots:
        return reduced
    # The one dict among them is the namespace that the class is made with.
    return (
        maker,
        tuple({**each, "__slots__": slots} if type(each) is dict else each for each in arguments),
        *rest,
    )


# Stored pickles contain this function's name and parameters: do not change them.


def _cached_property(func: Any, name: str | None) -> functools.cached_property[Any]:
    made = functools.cached_property(func)
    made.attrname = name
    return made
