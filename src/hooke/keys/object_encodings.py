"""Encodings of other objects: by type, then by what pickle sees."""

from __future__ import annotations

import contextlib
import copyreg
import dataclasses
import enum
import functools
import gc
import os
import re
import sys
import types
import weakref
import zoneinfo
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, TypeVar

from hooke.keys.array_encodings import array_encoder, compiled
from hooke.keys.bytecode import listing
from hooke.keys.encoding import Encoder, NoKey, Walk, compound, raw, text
from hooke.keys.file import content_key
from hooke.keys.frame_encodings import frame_encoder
from hooke.keys.module_origin import library_of_method, origin_of

__all__ = ["code_within", "object_encoder"]

_CODE = (
    type,
    types.FunctionType,
    types.ModuleType,
    types.CodeType,
    types.WrapperDescriptorType,
    types.MethodDescriptorType,
    types.ClassMethodDescriptorType,
    types.MemberDescriptorType,
    types.GetSetDescriptorType,
)
_REFUSED: dict[type, tuple[str, str]] = {
    kind: (f"a {what} has no content that can be hashed", fix)
    for what, fix, kinds in (
        ("generator", "pass a list", (types.GeneratorType, types.AsyncGeneratorType)),
        ("coroutine", "await it first", (types.CoroutineType,)),
        ("frame", "", (types.FrameType, types.TracebackType)),
        ("weak reference", "pass what it refers to", (weakref.ref, *weakref.ProxyTypes)),
        (
            "weak container",
            "pass a plain dict or set",
            (weakref.WeakKeyDictionary, weakref.WeakValueDictionary, weakref.WeakSet),
        ),
        ("bare object()", "use a member of an Enum as the sentinel", (object,)),
    )
    for kind in kinds
}


def object_encoder(kind: type) -> Encoder:
    """The encoder for instances of exactly this type."""
    if issubclass(kind, _CODE):
        return _code
    if hasattr(kind, "__hooke_key__"):
        return lambda _, value: compound(b"own key", [text(value.__hooke_key__())])
    if hasattr(kind, "__hooke_code__"):
        return lambda walk, value: walk.encode(value.__hooke_code__())
    if kind in _REFUSED:
        return _refuse
    return _TYPES.get(kind) or _family(kind) or array_encoder(kind) or frame_encoder(kind) or _reduced


def _family(kind: type) -> Encoder | None:
    if issubclass(kind, enum.Enum):
        return _enum
    if issubclass(kind, tuple) and hasattr(kind, "_fields"):
        return _named_tuple
    if hasattr(kind, "__struct_fields__"):
        return _struct
    if issubclass(kind, (set, frozenset)):
        return _set_subclass
    if issubclass(kind, Iterator) and kind.__module__ in {"builtins", "itertools"}:
        return _refuse
    for base in kind.__mro__:
        if (base.__module__, base.__name__) in _FOREIGN_CODE:
            return _FOREIGN_CODE[base.__module__, base.__name__]
    if kind.__name__ == "ValidateCallWrapper" and kind.__module__.startswith("pydantic"):
        return _validated_call
    return None


def _code(walk: Walk, value: Any) -> bytes:
    return walk.code(value)


def _refuse(_: Walk, value: Any) -> bytes:
    why, fix = _REFUSED.get(type(value), ("reading an iterator uses it up", "pass a list"))
    raise NoKey(value, why, fix)


def _enum(walk: Walk, value: enum.Enum) -> bytes:
    return compound(b"enum", [walk.code(type(value)), text(str(value.name)), walk.encode(value.value)])


def _named_tuple(walk: Walk, value: Any) -> bytes:
    fields = walk.fields(zip(value._fields, tuple.__iter__(value), strict=True))
    return compound(b"namedtuple", [walk.code(type(value)), *fields, *_extra(walk, value)])


def _struct(walk: Walk, value: Any) -> bytes:
    fields = walk.fields((name, getattr(value, name)) for name in value.__struct_fields__)
    return compound(b"struct", [walk.code(type(value)), *fields, *_extra(walk, value)])


def _set_subclass(walk: Walk, value: Any) -> bytes:
    base = set if isinstance(value, set) else frozenset
    items = walk.unordered(base.__iter__(value))
    return compound(b"set of", [walk.code(type(value)), *items, *_extra(walk, value)])


def _extra(walk: Walk, value: Any) -> list[bytes]:
    return walk.fields(sorted(_state_fields(type(value), getattr(value, "__dict__", {}))))


def _function(walk: Walk, value: Any) -> bytes:
    owner = value.__self__
    if owner is None or isinstance(owner, types.ModuleType) or library_of_method(value) is not None:
        return walk.code(value)
    return compound(b"bound", [text(value.__name__), *walk.fields([("__self__", owner)])])


def _method(walk: Walk, value: types.MethodType) -> bytes:
    if library_of_method(value) is not None:
        return walk.code(value)
    parts = walk.fields([("__func__", value.__func__), ("__self__", value.__self__)])
    return compound(b"method", parts)


def _partial(walk: Walk, value: Any) -> bytes:
    parts = walk.fields([("func", value.func), ("args", value.args), ("keywords", value.keywords)])
    return compound(b"partial", [walk.code(type(value)), *parts, *_extra(walk, value)])


def _wrapping(*names: str) -> Encoder:
    def encode(walk: Walk, value: Any) -> bytes:
        parts = walk.fields((name, getattr(value, name)) for name in names)
        return compound(type(value).__name__.encode(), parts)

    return encode


def _cached(walk: Walk, value: Any) -> bytes:
    parts = walk.fields([("__wrapped__", value.__wrapped__)])
    return compound(b"lru_cache", [*parts, walk.encode(value.cache_parameters())])


def _validated_call(walk: Walk, value: Any) -> bytes:
    # Its name resolver holds the whole module; validation depends only on these.
    facts = [(name, getattr(value, name, None)) for name in ("function", "validate_return")]
    config = getattr(getattr(value, "config_wrapper", None), "config_dict", None)
    return compound(b"validated call", [walk.code(type(value)), *walk.fields([*facts, ("config", config)])])


def _type_variable(walk: Walk, value: TypeVar) -> bytes:
    parts = walk.fields([("bound", value.__bound__), ("constraints", value.__constraints__)])
    return compound(b"typevar", [text(value.__name__), *parts])


_TYPES: dict[type, Encoder] = {
    types.BuiltinFunctionType: _function,
    types.MethodWrapperType: _function,
    types.MethodType: _method,
    functools.partial: _partial,
    functools.partialmethod: _partial,
    staticmethod: _wrapping("__func__"),
    classmethod: _wrapping("__func__"),
    property: _wrapping("fget", "fset", "fdel"),
    functools.cached_property: _wrapping("func"),
    type(functools.lru_cache(maxsize=1)(len)): _cached,
    TypeVar: _type_variable,
    zoneinfo.ZoneInfo: lambda _, value: compound(b"zone", [text(str(value.key))]),
}


# --- Shared libraries that ctypes loads: addresses and functions seen so far say nothing.


def _library(walk: Walk, value: Any) -> bytes:
    """A library by its name and the types that were given to its functions; one of the project also by content."""
    own = vars(value)
    function = own["_FuncPtr"]
    typed = [
        (name, each.argtypes, each.restype)
        for name, each in sorted(own.items())
        if isinstance(each, function) and (each.argtypes, each.restype) != (None, vars(function)["_restype_"])
    ]
    facts = [("flags", vars(function)["_flags_"]), ("functions", typed)]
    return compound(
        b"shared library", [walk.code(type(value)), _library_file(own["_name"]), *walk.fields(facts)]
    )


def _library_file(name: str | None) -> bytes:
    path = os.path.abspath(name) if name and os.sep in name else ""
    if not os.path.isfile(path) or os.path.realpath(path).startswith(_SYSTEM):
        return text(name or "")
    origin = origin_of("", path)
    if not origin.local:
        return text(f"{origin.distribution} {origin.version} {os.path.basename(path)}")
    return compound(b"file", [text(os.path.basename(path)), text(content_key(path))])


_SYSTEM = tuple(
    f"{folder}{os.sep}"
    for folder in (
        *(
            "/lib",
            "/lib64",
            "/usr/lib",
            "/usr/lib64",
            "/usr/local/lib",
            "/opt/homebrew",
            "/System",
            "/nix/store",
        ),
        os.path.realpath(os.path.join(sys.base_prefix, "lib")),
    )
)
"""Folders of the system's libraries: their names are the same on other machines, their contents are not."""


def _library_function(walk: Walk, value: Any) -> bytes:
    """A function of a shared library by its name and the library; one that calls back into Python by its function."""
    holds = [
        ("name", getattr(value, "__name__", None)),
        ("argtypes", value.argtypes),
        ("restype", value.restype),
    ]
    held = (getattr(value, "_objects", None) or {}).values()
    name = [_library_file(vars(each)["_name"]) for each in held if hasattr(each, "_FuncPtr")]
    return compound(b"C function", [*name, *walk.fields(holds), *walk.items(code_within(value))])


def _plugins(walk: Walk, value: Any) -> bytes:
    """A plugin manager by its plugins and specifications. It names a plugin without a name by its address."""
    plugins = [("" if name == str(id(plugin)) else name, plugin) for name, plugin in value.list_name_plugin()]
    specs = {name: getattr(each.spec, "function", None) for name, each in vars(value.hook).items()}
    return compound(
        b"plugins", [walk.code(type(value)), *walk.fields([("plugins", plugins), ("specs", specs)])]
    )


_FOREIGN_CODE: dict[tuple[str, str], Encoder] = {
    ("pluggy._manager", "PluginManager"): _plugins,
    ("ctypes", "CDLL"): _library,
    ("_ctypes", "CFuncPtr"): _library_function,
    ("_ctypes", "PyCFuncPtr"): _library_function,
}


def _reduced(walk: Walk, value: Any) -> bytes:
    kind = type(value)
    if hasattr(value, "targetoptions") and isinstance(getattr(value, "py_func", None), types.FunctionType):
        return compiled(walk, value)  # numba's, or a library's in its place
    reduced = _reduce(value)
    if isinstance(reduced, str):
        return _named(walk, value, reduced)
    made, arguments, state, items, pairs = (*reduced, None, None, None)[:5]
    _check_no_address(value, arguments, state)
    within: list[Any] = []
    if _has_own_pickling(kind) and made is not getattr(sys.modules.get("logging"), "getLogger", None):
        within = code_within(value) if _is_reduced_by(kind) else []
        names = _Names(value, known=within)
        arguments, state = names.replaced(arguments), names.replaced(state)
        within += names.found
    parts = [walk.code(kind), *_maker(walk, kind, made, arguments), *_state(walk, kind, state)]
    if items is not None:
        parts.append(compound(b"items", walk.items(items)))
    if pairs is not None:
        parts.append(compound(b"pairs", walk.pairs(pairs)))
    if within:
        parts.append(compound(b"code", walk.items(within)))
    return compound(b"object", parts)


def _named(walk: Walk, value: Any, name: str) -> bytes:
    """What pickles as a name in a module: a library's thing by that name, the project's by what it holds too."""
    kind = type(value)
    module = getattr(value, "__module__", None)
    if not isinstance(module, str):
        module = kind.__module__
    if not _is_local(kind) and not _is_local_module(module):
        return compound(b"named", [walk.code(kind), text(name)])
    fields = {each: held for each, held in _attributes(value).items() if each not in _LOCATION}
    within = code_within(value)
    if not fields and not within and not _is_local(kind) and callable(value):
        raise NoKey(
            value, "it pickles as a name, and what it calls cannot be read", "pass the function that it calls"
        )
    parts = walk.fields(sorted(_state_fields(kind, fields)))
    return compound(b"named", [walk.code(kind), text(name), *parts, compound(b"code", walk.items(within))])


_LOCATION = frozenset({"__module__", "__doc__", "__qualname__", "__firstlineno__"})
"""Attributes that say where something is defined, as decorators copy them from a function."""


def _is_reduced_by(kind: type) -> bool:
    return (
        kind in copyreg.dispatch_table
        or kind.__reduce__ is not object.__reduce__
        or kind.__reduce_ex__ is not object.__reduce_ex__
    )


def _has_own_pickling(kind: type) -> bool:
    own = getattr(kind, "__getstate__", None)
    return _is_reduced_by(kind) or own is not getattr(object, "__getstate__", None)


def _reduce(value: Any) -> Any:
    reducer: Callable[[Any], Any] | None = copyreg.dispatch_table.get(type(value))
    if _is_slotted_dataclass(type(value)):
        return copyreg.__newobj__, (type(value),), object.__getstate__(value)  # type: ignore[attr-defined]
    try:
        return reducer(value) if reducer else value.__reduce_ex__(4)
    except Exception as error:
        raise NoKey(value, f"it cannot be pickled: {error}") from error


def _is_slotted_dataclass(kind: type) -> bool:
    # dataclass(frozen=True, slots=True) has a __getstate__ without names, which the error's path needs.
    own = getattr(kind, "__getstate__", None)
    return dataclasses.is_dataclass(kind) and getattr(own, "__name__", "") == "_dataclass_getstate"


def _maker(walk: Walk, kind: type, made: Any, arguments: Any) -> list[bytes]:
    if made in (copyreg.__newobj__, copyreg.__newobj_ex__) and arguments[0] is kind:  # type: ignore[attr-defined]
        return walk.items(arguments[1:])
    return [walk.encode(made), *walk.items(arguments)]


def _state(walk: Walk, kind: type, state: Any) -> list[bytes]:
    if (
        isinstance(state, tuple)
        and len(state) == 2
        and all(part is None or isinstance(part, dict) for part in state)
    ):
        state = {**(state[0] or {}), **(state[1] or {})}
    if isinstance(state, dict) and all(isinstance(name, str) for name in state):
        fields = walk.fields(sorted(_state_fields(kind, state)))
        return [raw(b"state"), *fields] if fields else []
    return [] if state is None else walk.fields([("__getstate__()", state)])


def _state_fields(kind: type, state: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """The attributes, except those that functools.cached_property filled in: reading one must not change the key."""
    for name, value in state.items():
        if not isinstance(getattr(kind, name, None), functools.cached_property):
            yield name, value


def _check_no_address(value: object, arguments: Any, state: Any) -> None:
    """Raise NoKey for a state with the object's own address, which differs in every process."""
    address = id(value)
    spelled = f"{address:x}"
    flat = [*(arguments or ()), *(state.values() if isinstance(state, dict) else [state])]
    for part in flat:
        if (type(part) is int and part == address) or (isinstance(part, str) and spelled in part.lower()):
            raise NoKey(value, "its state contains its own address in memory")


# --- The project's code behind an object, whatever its pickle says: some objects pickle as the name of what they call.

_HOLDERS = (
    dict,
    list,
    tuple,
    set,
    frozenset,
    types.MappingProxyType,
    types.CellType,
    staticmethod,
    classmethod,
    property,
)
"""What is looked into; other objects only if they can be called."""
_ENDS = (types.ModuleType, types.CodeType, types.FrameType, types.TracebackType)


def code_within(value: object) -> list[Any]:
    """The project's functions and classes that an object refers to, itself or in containers and callables that it holds.

    As the garbage collector sees it, because attributes of types written in C may have no names. In an order that
    does not depend on addresses.
    """
    found: dict[int, Any] = {}
    seen: dict[int, object] = {id(value): value}
    waiting = gc.get_referents(value)
    while waiting:
        each = waiting.pop()
        if id(each) in seen or isinstance(each, _ENDS):
            continue
        seen[id(each)] = each
        if isinstance(each, types.FunctionType | type):
            if _is_local(each):
                found[id(each)] = each
            elif isinstance(each, types.FunctionType):
                waiting += [*(each.__closure__ or ()), getattr(each, "__wrapped__", None)]
        elif isinstance(each, _HOLDERS) or callable(each):
            waiting += gc.get_referents(each)
        elif _is_local(type(each)):
            found[id(type(each))] = type(each)
    found.pop(id(type(value)), None)
    return sorted(found.values(), key=_order)


def _order(code: Any) -> tuple[str, bytes]:
    made = getattr(code, "__code__", None)
    return str(code.__qualname__), listing(made).digest if isinstance(made, types.CodeType) else b""


def _is_local(code: types.FunctionType | type) -> bool:
    if isinstance(code, types.FunctionType):
        scope = code.__globals__
        return origin_of(str(scope.get("__name__", "")), str(scope.get("__file__") or "") or None).local
    name = code.__module__ if isinstance(code.__module__, str) else "builtins"
    return origin_of(name, getattr(sys.modules.get(name), "__file__", None)).local


def _is_local_module(name: str) -> bool:
    module = sys.modules.get(name)
    return module is not None and origin_of(name, getattr(module, "__file__", None)).local


def _attributes(value: object) -> dict[str, Any]:
    """An object's own attributes, in its `__dict__` and its slots."""
    found = dict(getattr(value, "__dict__", {}))
    for kind in type(value).__mro__:
        for name, slot in vars(kind).items():
            if isinstance(slot, types.MemberDescriptorType):
                with contextlib.suppress(AttributeError):  # not yet set
                    found.setdefault(name, slot.__get__(value))
    return found


_NAME = re.compile(r"[A-Za-z_][\w.]*(:[A-Za-z_][\w.]*)?")
_MOST_NAMES = 64
"""Longer lists in what an object pickles are data."""


class _Names:
    """Finds project code by name in what an object pickles: `"module:name"`, `"module.name"`, or `"module", "name"`.

    `found` has the code that the names stand for, except what is known. The module's own name does not count, because
    a script has another one than the same file when it is imported.
    """

    def __init__(self, value: object, *, known: Iterable[Any]) -> None:
        self.found: list[Any] = []
        self._known = [value, *known]
        self._marks: dict[str, str] = {"__main__": ""}

    def replaced(self, pickled: Any) -> Any:
        """`pickled` with each name of code replaced by its path in the module; `pickled` itself without any."""
        texts = list(_texts(pickled))
        modules = [each for each in dict.fromkeys(texts) if _is_local_module(each)]
        for each in dict.fromkeys(texts):
            if each not in self._marks and _NAME.fullmatch(each):
                self._look_up(each, modules)
        if len(self._marks) > 1:
            self._marks |= dict.fromkeys(modules, "")
        return _with_marks(pickled, self._marks) if self._marks.keys() & texts else pickled

    def _look_up(self, name: str, modules: list[str]) -> None:
        for module, path in _readings(name, modules):
            target = _by_name(module, path)
            if target is None:
                continue
            self._marks[name] = path
            if not any(target is each for each in self._known):
                self.found.append(target)
            return


def _readings(name: str, modules: list[str]) -> Iterator[tuple[str, str]]:
    """The modules that a name may mean, with the paths in them."""
    module, colon, path = name.partition(":")
    if colon:
        yield module, path
        return
    yield from ((each, name) for each in modules)
    while "." in module:
        module = module.rpartition(".")[0]
        yield module, name[len(module) + 1 :]


def _by_name(module: str, path: str) -> Any:
    """A module's attribute, if the module is the project's and was imported; else None."""
    if not _is_local_module(module):
        return None
    found: Any = sys.modules[module]
    for name in path.split("."):
        found = getattr(found, name, None)
    return found


def _texts(pickled: Any, depth: int = 0) -> Iterator[str]:
    if type(pickled) is str:
        yield pickled
    elif (
        type(pickled) in (tuple, list, dict)
        and depth < _DEEPEST
        and (not depth or len(pickled) <= _MOST_NAMES)
    ):
        for each in pickled.values() if type(pickled) is dict else pickled:
            yield from _texts(each, depth + 1)


def _with_marks(pickled: Any, marks: Mapping[str, str], depth: int = 0) -> Any:
    if type(pickled) is str:
        return marks.get(pickled, pickled)
    if type(pickled) not in (tuple, list, dict) or depth >= _DEEPEST:
        return pickled
    if type(pickled) is dict:
        return {key: _with_marks(each, marks, depth + 1) for key, each in pickled.items()}
    return type(pickled)(_with_marks(each, marks, depth + 1) for each in pickled)


_DEEPEST = 4
