"""The user's code that a function reaches, what of it may keep what it read, and the texts in it that may name files.

This follows names as the key does, but in a process that runs the code, where it costs microseconds: it imports nothing, and
reads no source.
"""

from __future__ import annotations

import dis
import functools
import importlib.util
import os
import sys
import types
from collections.abc import Callable, Iterator, Mapping
from pathlib import PurePath
from typing import Any

import msgspec

from hooke.base.user_code import is_users
from hooke.keys.bytecode import references
from hooke.keys.modules import import_folder, imports_any

__all__ = ["ReachedCode", "binds_globals", "is_filled", "reached_code", "updated_globals"]

_MOST = 20_000
"""Objects that are looked at: what is reached beyond them is large data."""

_ELEMENTS = 100
"""Elements of a container that are looked at, for code and texts."""


class ReachedCode(msgspec.Struct, eq=False):
    """What a function reaches."""

    codes: set[types.CodeType] = msgspec.field(default_factory=set)
    """The user's functions, with those inside them."""
    files: set[str] = msgspec.field(default_factory=set)
    """Files of the user's modules whose code or attributes it reads."""
    keeping: set[types.CodeType] = msgspec.field(default_factory=set)
    """Functions that may keep a result in memory: cached ones, and those that bind globals or fill a container of theirs."""
    caches: dict[types.CodeType, Callable[[], Any]] = msgspec.field(default_factory=dict)
    """`cache_info` of each function that has one."""
    texts: set[str] = msgspec.field(default_factory=set)
    """Constants, and values of globals, that may name a file."""
    importable: set[str] = msgspec.field(default_factory=set)
    """Folders from which it imports modules by computed names: the key has the source of all of them."""
    _named: dict[str, frozenset[str]] = msgspec.field(default_factory=dict)

    def named(self, folder: str) -> frozenset[str]:
        """The absolute paths that the texts name, seen from a folder."""
        if folder not in self._named:
            self._named = {
                folder: frozenset(
                    os.path.normpath(os.path.join(folder, os.path.expanduser(text))) for text in self.texts
                )
                - {folder, "/"}
            }
        return self._named[folder]

    def may_import(self, file: str) -> bool:
        """Whether the key has a module's source because a computed name may mean it."""
        folder = os.path.dirname(file)
        while folder not in self.importable and os.path.exists(os.path.join(folder, "__init__.py")):
            folder = os.path.dirname(folder)
        return folder in self.importable


def reached_code(function: Any) -> ReachedCode:
    """What a function reaches now."""
    return _Walk().walked(function)


class _Walk:
    def __init__(self) -> None:
        self.found = ReachedCode()
        self._seen: set[int] = set()
        self._alive: list[Any] = []
        self._waiting: list[tuple[Any, bool]] = []

    def walked(self, function: Any) -> ReachedCode:
        self._waiting.append((function, False))
        while self._waiting and len(self._seen) < _MOST:
            value, shared = self._waiting.pop()
            if isinstance(value, (str, PurePath)):
                self._text(str(value))
            elif id(value) not in self._seen:
                self._seen.add(id(value))
                self._alive.append(value)
                self._look(value, shared=shared)
        return self.found

    def _text(self, text: str) -> None:
        if 0 < len(text) < 1024 and "\n" not in text and "\0" not in text:
            self.found.texts.add(text)

    def _look(self, value: Any, *, shared: bool) -> None:
        """`shared`: whether all calls meet the same object, so that what it keeps stays."""
        if isinstance(value, types.FunctionType):
            self._function(value, shared=shared)
        elif isinstance(value, type):
            self._class(value, shared=shared)
        elif isinstance(value, types.ModuleType):
            self._module(value)
        elif isinstance(value, (list, tuple, set, frozenset)):
            self._later(list(value)[:_ELEMENTS], shared=shared)
        elif isinstance(value, dict):
            self._later(list(value.values())[:_ELEMENTS], shared=shared)
        else:
            self._object(value, shared=shared)

    def _later(self, values: list[Any], *, shared: bool) -> None:
        self._waiting += [(value, shared) for value in values]

    def _object(self, value: Any, *, shared: bool) -> None:
        for name in ("function", "func", "__func__", "__wrapped__", "fget", "fset", "__self__"):
            inner = _plain_attribute(value, name)
            if inner is not None:
                self._later([inner], shared=shared or isinstance(value, functools.cached_property))
                self._wrapper(value, inner, shared=shared)
        if isinstance(value, functools.partial):
            self._later([*value.args, *value.keywords.values()], shared=shared)
        if is_users(_file_of(type(value))):
            self._later([type(value)], shared=shared)
            held = getattr(value, "__dict__", None)
            if isinstance(held, dict):
                self._later(list(held.values())[:_ELEMENTS], shared=shared)

    def _wrapper(self, value: Any, inner: Any, *, shared: bool) -> None:
        """A cache around a function, such as that of functools."""
        code = getattr(inner, "__code__", None)
        if not isinstance(code, types.CodeType):
            return
        if isinstance(value, functools.cached_property) and shared:
            self.found.keeping.add(code)
        if hasattr(type(value), "cache_info"):
            self.found.keeping.add(code)
            self.found.caches[code] = value.cache_info

    def _function(self, function: types.FunctionType, *, shared: bool) -> None:
        wrapped = getattr(function, "__wrapped__", None)
        held = [cell.cell_contents for cell in function.__closure__ or () if is_filled(cell)]
        self._later(
            [*held, *(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values()], shared=True
        )
        if wrapped is not None:
            self._later([wrapped], shared=shared)
        if not is_users(function.__code__.co_filename):
            if wrapped is not None and any(map(_can_keep, held)):  # a decorator with a cache
                self._keeps(wrapped)
            return
        scope, code = function.__globals__, function.__code__
        self.found.files.add(str(scope.get("__file__") or code.co_filename))
        for each in _family(code):
            self.found.codes.add(each)
            self._later(
                [part for part in each.co_consts if isinstance(part, (str, tuple, frozenset))], shared=False
            )
        if any(map(_can_keep, (*held, *(function.__defaults__ or ())))):
            self.found.keeping.add(code)
            self._keeps(wrapped)
        self._names(function, scope)
        self._imports(function, scope)
        if shared and _stores_attributes(code):
            self.found.keeping.add(code)

    def _keeps(self, wrapped: Any) -> None:
        if isinstance(code := getattr(wrapped, "__code__", None), types.CodeType):
            self.found.keeping.add(code)

    def _names(self, function: types.FunctionType, scope: Mapping[str, Any]) -> None:
        code = function.__code__
        for reference in references(code).globals:
            if reference.name not in scope:
                continue
            value = scope[reference.name]
            if imports_any(value, reference):
                self.found.importable.add(import_folder(str(scope.get("__file__") or code.co_filename)))
            if value is None or (_can_keep(value) and not value):
                self.found.keeping.add(code)
            self._later([value], shared=True)
            if isinstance(value, types.ModuleType):
                self._later(list(_along(value, reference.chain)), shared=True)
        if binds_globals(code):
            self.found.keeping.add(code)

    def _imports(self, function: types.FunctionType, scope: Mapping[str, Any]) -> None:
        package = str(scope.get("__package__") or "")
        for each in references(function.__code__).imports:
            name = "." * each.level + each.module
            try:
                name = importlib.util.resolve_name(name, package)
            except ImportError:  # it will fail there, too
                continue
            module = sys.modules.get(name.partition(".")[0] if each.top else name)
            if module is not None:
                self._later([module], shared=True)
                for chain in each.chains:
                    self._later(list(_along(module, chain)), shared=True)

    def _module(self, module: types.ModuleType) -> None:
        file = getattr(module, "__file__", None)
        if isinstance(file, str) and is_users(file):
            self.found.files.add(file)

    def _class(self, kind: type, *, shared: bool) -> None:
        if not is_users(_file_of(kind)):
            return
        self.found.files.add(_file_of(kind))
        self._later(list(kind.__bases__), shared=shared)
        for value in vars(kind).values():
            if isinstance(value, (classmethod, staticmethod)):
                self._later([value.__func__], shared=True)
            elif not isinstance(value, str):
                self._later([value], shared=shared)


def _plain_attribute(value: Any, name: str) -> Any:
    """An attribute that is a function, or an object of the user's, without running code of the user's."""
    if name == "__self__" and not isinstance(value, types.MethodType):
        return None
    found = getattr(type(value), "__dict__", {}).get(name)
    if isinstance(found, property):
        return None
    inner = getattr(value, name, None) if _has(value, name) else None
    return inner if inner is not value else None


def _has(value: Any, name: str) -> bool:
    if name in getattr(value, "__dict__", ()):
        return True
    return any(name in vars(kind) for kind in type(value).__mro__)


def _file_of(kind: type) -> str:
    """The file of a class's module; that of a built-in one is frozen, and so not the user's."""
    name = kind.__module__ if isinstance(kind.__module__, str) else "builtins"
    file = getattr(sys.modules.get(name), "__file__", None)
    return str(file) if file else ("<script>" if name == "__main__" else "<frozen built-in>")


def _can_keep(value: Any) -> bool:
    kind = type(value)
    return issubclass(kind, (list, dict, set)) or (hasattr(kind, "__setitem__") and hasattr(kind, "clear"))


def is_filled(cell: types.CellType) -> bool:
    """Whether a closure's cell has a value, other than None."""
    try:
        return cell.cell_contents is not None
    except ValueError:
        return False


def _family(code: types.CodeType) -> Iterator[types.CodeType]:
    yield code
    for part in code.co_consts:
        if isinstance(part, types.CodeType):
            yield from _family(part)


def _along(module: types.ModuleType, chain: tuple[str, ...]) -> Iterator[Any]:
    value: Any = module
    for name in chain:
        if not isinstance(value, types.ModuleType) or name not in vars(value):
            return
        value = vars(value)[name]
        yield value


@functools.lru_cache(maxsize=16384)
def _operations(code: types.CodeType) -> frozenset[str]:
    return frozenset(each.opname for each in dis.get_instructions(code))


def binds_globals(code: types.CodeType) -> bool:
    """Whether a function, or one inside it, may bind a global."""
    return any(not _operations(each).isdisjoint({"STORE_GLOBAL", "DELETE_GLOBAL"}) for each in _family(code))


def updated_globals(code: types.CodeType) -> list[str]:
    """The globals that a function, or one inside it, changes from what they are, as in `COUNT += 1`."""
    found: dict[str, None] = {}
    for each in _family(code):
        before = ""
        for one in dis.get_instructions(each):
            if one.opname == "STORE_GLOBAL" and before == "BINARY_OP=":
                found[one.argval] = None
            before = f"{one.opname}{'=' if one.argrepr.endswith('=') else ''}"
    return list(found)


def _stores_attributes(code: types.CodeType) -> bool:
    return not _operations(code).isdisjoint({"STORE_ATTR", "STORE_SUBSCR"})
