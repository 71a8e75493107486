"""Pickles definitions of a script or a notebook by value: cloudpickle, with cases that it lacks."""

from __future__ import annotations

import abc
import functools
import io
import linecache
import os
import pickle
import re
import sys
from collections import ChainMap
from collections.abc import Callable, Sequence
from logging import Logger
from types import BuiltinFunctionType, CodeType, FunctionType, MemberDescriptorType, MethodType
from typing import Any, cast

import cloudpickle

from hooke.base.user_code import module_of_method

__all__ = ["ByValuePickler", "dumps"]


def _reduce_cached_property(found: functools.cached_property[Any]) -> tuple[Any, ...]:
    return _cached_property, (found.func, found.attrname)


def _reduce_code(code: CodeType) -> tuple[Any, ...]:
    maker, facts, *_ = _with_cached_property[CodeType](code)
    facts = tuple(code.co_filename if fact == "<dynamic-code>" else fact for fact in facts)
    lines = _lines_of_cell(code.co_filename)
    return (_code_of_cell, (code.co_filename, lines, maker, facts)) if lines else (maker, facts)


_CELL_FILE = f"{os.sep}ipykernel_"
"""In the name that a kernel gives to a cell, of a file that exists only while a debugger is attached."""


def _lines_of_cell(name: str) -> list[str] | None:
    """The source of a notebook's cell or of what was typed at a prompt, which only `linecache` of this process knows; else None."""
    entry = linecache.cache.get(name)
    if entry is None or len(entry) == 1 or entry[1] is not None:  # not read yet, or read from a file
        return None
    return entry[2] if _CELL_FILE in name or not os.path.isfile(name) else None


def _code_of_cell(
    name: str, lines: list[str], maker: Callable[..., CodeType], facts: Sequence[Any]
) -> CodeType:
    """The code, whose lines tracebacks and debuggers then find here as well."""
    linecache.cache.setdefault(name, (sum(map(len, lines)), None, lines, name))
    return maker(*facts)


_with_cached_property: ChainMap[type, Any] = ChainMap(
    {functools.cached_property: _reduce_cached_property},
    cast("ChainMap[type, Any]", cloudpickle.Pickler.dispatch_table),
)
_with_file_names: ChainMap[type, Any] = ChainMap({CodeType: _reduce_code}, _with_cached_property)


class ByValuePickler(cloudpickle.Pickler):
    """Adds slots, which an instance's state needs, and cached properties, which hold a lock in Python 3.11.

    Objects that pickle as a name in the script or notebook go by their state, because a worker has no such name.
    """

    dispatch_table = _with_cached_property

    def reducer_override(self, obj: Any) -> Any:
        """Pickle functions and classes, and a library's bound methods as the other process's own."""
        kind = type(obj)
        reduced = _reduced_here(obj, kind)
        if reduced is NotImplemented:
            reduced = super().reducer_override(obj)
        if reduced is NotImplemented and _pickles_itself(kind) and kind not in self.dispatch_table:
            reduced = obj.__reduce_ex__(5)
            return (_by_state(obj) or reduced) if _names_main(obj, reduced) else reduced
        by_value = isinstance(reduced, tuple) and kind in (type, abc.ABCMeta)
        return _with_slots(obj, reduced) if by_value else reduced


class _WithFileNames(ByValuePickler):
    dispatch_table = _with_file_names


def dumps(value: Any) -> bytes:
    """A pickle in which code keeps its file name for tracebacks, and that of cells its source. For sending only: stored bytes must not depend on it."""
    file = io.BytesIO()
    _WithFileNames(file, protocol=5).dump(value)
    return file.getvalue()


def _refuse_file(file: io.TextIOWrapper) -> None:
    """Raise PicklingError: cloudpickle would send an io.StringIO with what is left to read, and nothing would say so."""
    raise pickle.PicklingError(
        f"cannot pickle an open file ({getattr(file, 'name', 'without a name')}): pass its path, or what you read from it"
    )


def _reduced_here(obj: Any, kind: type) -> Any:
    """What cloudpickle has no way for, or one that makes copies; else NotImplemented."""
    if kind is io.TextIOWrapper and obj is not sys.stdout and obj is not sys.stderr:
        _refuse_file(obj)
    offering = module_of_method(obj)
    if offering is not None:
        return getattr, (sys.modules[offering], obj.__name__)
    if kind is MethodType and isinstance(obj.__self__, type) and _is_of_class(obj):
        return getattr, (obj.__self__, obj.__name__)
    if kind is FunctionType and obj.__code__ is _DISPATCHING and obj.__module__ == "__main__":
        return _reduce_singledispatch(obj)
    if (ctypes := sys.modules.get("ctypes")) is not None:
        if isinstance(obj, ctypes.CDLL):
            return _reduce_library(obj)
        if isinstance(obj, vars(ctypes)["_CFuncPtr"]):
            return _reduce_library_function(obj)
    return NotImplemented


def _reduce_library(library: Any) -> tuple[Any, ...]:
    """A shared library by its name: the other process loads its own."""
    own = vars(library)
    function = own["_FuncPtr"]
    flags = vars(function)["_flags_"]
    typed = {name: (each.argtypes, each.restype) for name, each in own.items() if isinstance(each, function)}
    return _load_library, (type(library), own["_name"], flags), typed, None, None, _set_types


def _reduce_library_function(function: Any) -> tuple[Any, ...]:
    held = (getattr(function, "_objects", None) or {}).values()
    library = next((each for each in held if type(function) is getattr(each, "_FuncPtr", None)), None)
    if library is None:
        return NotImplemented
    return _library_function, (library, function.__name__, function.argtypes, function.restype)


_DISPATCHING = functools.singledispatch(len).__code__  # type: ignore[attr-defined]


def _reduce_singledispatch(function: Any) -> tuple[Any, ...]:
    """By its functions: its closure has a weak dictionary, which does not pickle."""
    registered = [(kind, each) for kind, each in function.registry.items() if kind is not object]
    return _dispatcher, (function.registry[object],), registered, None, None, _register


def _is_of_class(method: MethodType) -> bool:
    """Whether a class method is its class's own. By its function it would become a copy, which no class has."""
    return getattr(method.__self__, method.__name__, None) == method


_CACHED = type(functools.lru_cache(len))
_OF_PYTHON = 1 << 9
"""Py_TPFLAGS_HEAPTYPE: the class was made by a class statement, or like that."""


def _pickles_itself(kind: type) -> bool:
    own = kind.__reduce__ is not object.__reduce__ or kind.__reduce_ex__ is not object.__reduce_ex__
    return own and not issubclass(kind, type)


def _names_main(obj: Any, reduced: Any) -> bool:
    """Whether an object pickles as a name in `__main__`: a text, `"__main__:name"`, or the two apart."""
    if isinstance(obj, BuiltinFunctionType | Logger):
        return False
    if isinstance(reduced, str):
        return getattr(obj, "__module__", None) == "__main__"
    texts = [each for each in reduced[1] if type(each) is str]
    main = vars(sys.modules["__main__"])
    if "__main__" in texts:
        return any(each.partition(".")[0] in main for each in texts)
    return any(re.split("[:.]", each, maxsplit=2)[1] in main for each in texts if _IN_MAIN.match(each))


_IN_MAIN = re.compile(r"__main__[:.]\w")


def _by_state(obj: Any) -> tuple[Any, ...] | None:
    """An object by its class and attributes, or None if it has others than Python's."""
    if isinstance(obj, _CACHED):
        return _cached_function, (obj.__wrapped__, obj.cache_parameters()), dict(vars(obj))
    if not type(obj).__flags__ & _OF_PYTHON:
        return None
    slots: dict[str, Any] = {}
    for kind in type(obj).__mro__:
        for name, slot in vars(kind).items():
            if isinstance(slot, MemberDescriptorType) and hasattr(obj, name):
                slots.setdefault(name, getattr(obj, name))
    return _new, (type(obj),), (dict(getattr(obj, "__dict__", {})), slots), None, None, _set_state


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


# Stored pickles contain these functions' names and parameters: do not change them.


def _cached_property(func: Any, name: str | None) -> functools.cached_property[Any]:
    made = functools.cached_property(func)
    made.attrname = name
    return made


def _load_library(kind: Any, name: str | None, flags: int) -> Any:
    errno = sys.modules["ctypes"]._FUNCFLAG_USE_ERRNO  # noqa: SLF001 - as ctypes.CDLL spells it
    return kind(name, use_errno=bool(flags & errno))


def _set_types(library: Any, typed: dict[str, tuple[Any, Any]]) -> None:
    for name, (arguments, result) in typed.items():
        function = getattr(library, name)
        function.argtypes, function.restype = arguments, result


def _library_function(library: Any, name: str, arguments: Any, result: Any) -> Any:
    function = library[name]
    function.argtypes, function.restype = arguments, result
    return function


def _cached_function(function: Any, parameters: dict[str, Any]) -> Any:
    return functools.lru_cache(**parameters)(function)


def _dispatcher(function: Any) -> Any:
    return functools.singledispatch(function)


def _register(dispatcher: Any, registered: list[tuple[type, Any]]) -> None:
    for kind, each in registered:
        dispatcher.register(kind, each)


def _new(kind: type) -> Any:
    return object.__new__(kind)


def _set_state(obj: Any, state: tuple[dict[str, Any], dict[str, Any]]) -> None:
    if state[0]:
        vars(obj).update(state[0])
    for name, value in state[1].items():
        object.__setattr__(obj, name, value)
