"""Encodings of other objects: by type, then by what pickle sees."""

from __future__ import annotations

import copyreg
import dataclasses
import enum
import functools
import types
import weakref
import zoneinfo
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

from hooke.keys.array_encodings import array_encoder
from hooke.keys.encoding import Encoder, NoKey, Walk, compound, raw, text
from hooke.keys.frame_encodings import frame_encoder
from hooke.keys.module_origin import library_of_method

__all__ = ["object_encoder"]

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


def _reduced(walk: Walk, value: Any) -> bytes:
    kind = type(value)
    reduced = _reduce(value)
    if isinstance(reduced, str):
        return compound(b"named", [walk.code(kind), text(reduced)])
    made, arguments, state, items, pairs = (*reduced, None, None, None)[:5]
    _check_no_address(value, arguments, state)
    parts = [walk.code(kind), *_maker(walk, kind, made, arguments), *_state(walk, kind, state)]
    if items is not None:
        parts.append(compound(b"items", walk.items(items)))
    if pairs is not None:
        parts.append(compound(b"pairs", walk.pairs(pairs)))
    return compound(b"object", parts)


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
