"""How a class is read: its members, fields, bases and metaclass; never its docstrings, addresses or registries."""

from __future__ import annotations

import dataclasses
import enum
import sys
import types
from collections.abc import Iterator
from typing import Any

from blake3 import blake3

from hooke.keys.combine import frame
from hooke.keys.local import origin_of
from hooke.keys.modules import module_file, module_title
from hooke.keys.parts import Part
from hooke.keys.source import class_source
from hooke.keys.walk import CodeWalk

__all__ = ["reach_class"]

_PLUMBING = frozenset(
    {
        "__module__",
        "__doc__",
        "__dict__",
        "__weakref__",
        "__qualname__",
        "__abstractmethods__",
        "__firstlineno__",
        "__static_attributes__",
        "__signature__",
        "__annotate__",
        "__annotate_func__",
        "__annotations_cache__",
        "__type_params__",
        "_abc_impl",
        "_is_protocol",
        "_is_runtime_protocol",
        "__protocol_attrs__",
        "__non_callable_proto_members__",
        "__dataclass_fields__",
        "__dataclass_params__",
        "__match_args__",
        "__slotnames__",
    }
)
"""What Python keeps in a class about itself: no definition of the user's, or made from one that counts."""
_SLOTS = (types.MemberDescriptorType, types.GetSetDescriptorType)
_PYDANTIC = frozenset({"__pydantic_fields__", "__pydantic_computed_fields__"})
_TUPLE = frozenset({"__new__", "__getnewargs__", "__repr__", "_asdict", "_make", "_replace"})
"""What namedtuple writes from the names and defaults of its fields."""


def reach_class(walk: CodeWalk, part: Part, label: str, kind: type) -> bool:
    """An edge to a class: of the project by what it defines, of others by its qualified name."""
    # Some types written in C have a descriptor there.
    module = kind.__module__ if isinstance(kind.__module__, str) else "builtins"
    scope = vars(sys.modules[module]) if module in sys.modules else {}
    origin = origin_of(module, module_file(scope) or None)
    if not origin.local:
        walk.foreign(part, label, f"{module}.{kind.__qualname__}", origin)
        return True

    def made() -> Part:
        file = module_file(scope)
        return Part(
            kind="class",
            name=f"{module_title(scope) if scope else module}.{kind.__qualname__}",
            file=file,
            line=_first_line(kind),
            text=lambda: class_source(file, kind.__qualname__) if file else "",
        )

    walk.place(part, label, walk.keep(kind), made=made, fill=lambda new: _fill(walk, new, kind))
    return True


def _first_line(kind: type) -> int:
    lines = (
        value.__code__.co_firstlineno
        for value in vars(kind).values()
        if isinstance(value, types.FunctionType)
    )
    return min(lines, default=0)


def _fill(walk: CodeWalk, part: Part, kind: type) -> None:
    part.digest = blake3(frame(kind.__qualname__)).digest()
    walk.python(part)
    if "bases" in walk.follow:
        for base in kind.__bases__:
            reach_class(walk, part, "base", base)
        if type(kind) is not type:
            reach_class(walk, part, "metaclass", type(kind))
    if "members" in walk.follow:
        for name, value in _members(kind):
            made = Part(kind="global", name=f"{part.name}.{name}", file=part.file, line=part.line)
            walk.bind(part, f"member {name}", value, made=made)


def _members(kind: type) -> Iterator[tuple[str, Any]]:
    """The definitions of a class's body, by name in sorted order, and those that its makers keep beside them."""
    pydantic, generated = "__pydantic_fields__" in vars(kind), _generated(kind)
    for name, value in sorted(vars(kind).items()):
        if name in _PLUMBING or name in generated or (pydantic and name.startswith("__pydantic_")):
            continue
        if isinstance(value, _SLOTS):
            yield name, f"<{type(value).__name__}>"
        elif isinstance(value, property) and value.fget is None and value.fset is None:
            yield name, "<property>"
        else:
            yield name, value
    yield from _made(kind)


def _made(kind: type) -> Iterator[tuple[str, Any]]:
    if "__dataclass_fields__" in vars(kind):
        for field in dataclasses.fields(kind):
            yield f"field {field.name}", _facts(field)
        params = vars(kind)["__dataclass_params__"]
        yield "dataclass", [(name, getattr(params, name)) for name in sorted(params.__slots__)]
    for name in sorted(_PYDANTIC & vars(kind).keys()):
        yield name, vars(kind)[name]
    if "__pydantic_decorators__" in vars(kind):
        yield "validators", list(_validators(vars(kind)["__pydantic_decorators__"]))
    if issubclass(kind, enum.Enum):
        yield "members", [(member.name, member._value_) for member in kind.__members__.values()]


def _validators(groups: Any) -> Iterator[tuple[str, str, object]]:
    """How pydantic's validators and serializers apply. Their functions are members; their `cls_ref` is an address."""
    for group in dataclasses.fields(groups):
        for name, found in sorted(getattr(groups, group.name).items()):
            yield group.name, name, getattr(found, "info", None)


def _facts(field: dataclasses.Field[Any]) -> list[object]:
    # By type: a class that came by value has another instance of it.
    missing = type(dataclasses.MISSING)
    given = [
        ("missing",) if isinstance(value, missing) else value
        for value in (field.default, field.default_factory)
    ]
    flags = [field.init, field.repr, field.hash, field.compare, getattr(field, "kw_only", False)]
    return [field.type, *given, *flags, dict(field.metadata)]


def _generated(kind: type) -> frozenset[str]:
    """Methods that a maker wrote from fields that count already."""
    own = vars(kind)
    if issubclass(kind, enum.Enum):
        private = {name for name in own if name.startswith("_") and name.endswith("_")}
        return frozenset(kind.__members__) | private | {"__new__", "__reduce_ex__"}
    if issubclass(kind, tuple) and "_fields" in own:
        return _TUPLE | frozenset(own["_fields"])
    if "__dataclass_fields__" in own or "__attrs_attrs__" in own:
        return frozenset(name for name, value in own.items() if _is_written(name, value))
    return frozenset()


def _is_written(name: str, value: object) -> bool:
    code = getattr(getattr(value, "__wrapped__", value), "__code__", None)
    if code is None:
        return False
    by_value = code.co_filename == "<dynamic-code>"  # as cloudpickle names the file of all that it carries
    return (
        code.co_qualname.startswith("__create_fn__.<locals>.")
        or code.co_filename.startswith("<attrs generated")
        or (by_value and code.co_qualname == name)
    )
