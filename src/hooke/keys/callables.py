"""Reads classes (members, fields, bases, metaclass) and functions (bytecode, defaults, closure, globals, imports)."""

from __future__ import annotations

import builtins
import dataclasses
import enum
import sys
import types
from collections.abc import Iterator, MutableMapping
from typing import Any

from blake3 import blake3

from hooke.keys.bytecode import Reference, class_source, code_source, listing, references
from hooke.keys.code_walk import CodeWalk
from hooke.keys.encoding import text
from hooke.keys.fingerprint_parts import FingerprintPart, frame
from hooke.keys.module_origin import ModuleOrigin, origin_of
from hooke.keys.modules import (
    follow_chain,
    global_part,
    module_file,
    module_title,
    reach_imported,
    reach_subclasses,
    watch,
)

__all__ = ["reach_class", "reach_function"]


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
"""Names that Python stores in a class: not the user's definitions, or derived from them."""
_SLOTS = frozenset({"member_descriptor", "getset_descriptor", "CField"})
"""Types of descriptors that Python makes for `__slots__` and for the fields of a ctypes structure."""
_PYDANTIC = frozenset({"__pydantic_fields__", "__pydantic_computed_fields__"})
_TUPLE = frozenset({"__new__", "__getnewargs__", "__repr__", "_asdict", "_make", "_replace"})
"""Methods that namedtuple generates from its fields."""


def reach_class(walk: CodeWalk, part: FingerprintPart, label: str, kind: type) -> bool:
    """An edge to a class: a project class by its definitions, another class by its qualified name."""
    # Some types written in C have a descriptor there.
    module = kind.__module__ if isinstance(kind.__module__, str) else "builtins"
    scope = vars(sys.modules[module]) if module in sys.modules else {}
    origin = origin_of(module, module_file(scope) or None)
    if not origin.local:
        walk.foreign(part, label, f"{module}.{kind.__qualname__}", origin)
        return True

    def made() -> FingerprintPart:
        file = module_file(scope)
        return FingerprintPart(
            kind="class",
            name=f"{module_title(scope) if scope else module}.{kind.__qualname__}",
            file=file,
            line=_first_line(kind),
            text=lambda: class_source(file, kind.__qualname__) if file else "",
        )

    walk.place(part, label, walk.keep(kind), made=made, fill=lambda new: _fill_class(walk, new, kind))
    return True


def _first_line(kind: type) -> int:
    lines = (
        value.__code__.co_firstlineno
        for value in vars(kind).values()
        if isinstance(value, types.FunctionType)
    )
    return min(lines, default=0)


def _fill_class(walk: CodeWalk, part: FingerprintPart, kind: type) -> None:
    part.digest = blake3(frame(kind.__qualname__)).digest()
    walk.python(part)
    walk.describe(part, kind)
    if "bases" in walk.follow:
        for base in kind.__bases__:
            reach_class(walk, part, "base", base)
        if type(kind) is not type:
            reach_class(walk, part, "metaclass", type(kind))
    if "members" in walk.follow:
        for name, value in _members(kind):
            made = FingerprintPart(kind="global", name=f"{part.name}.{name}", file=part.file, line=part.line)
            walk.bind(part, f"member {name}", value, made=made)


def _members(kind: type) -> Iterator[tuple[str, Any]]:
    """The definitions of a class's body in the order of their names, and those that class decorators store."""
    pydantic, generated = "__pydantic_fields__" in vars(kind), _generated(kind)
    for name, value in sorted(vars(kind).items()):
        if name in _PLUMBING or name in generated or (pydantic and name.startswith("__pydantic_")):
            continue
        if name == "__annotations__" and not value:
            continue  # Python makes an empty one when somebody looks
        if type(value).__name__ in _SLOTS:
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
    """How pydantic applies validators and serializers. Their functions are members; their `cls_ref` is an address."""
    for group in dataclasses.fields(groups):
        for name, found in sorted(getattr(groups, group.name).items()):
            yield group.name, name, getattr(found, "info", None)


def _facts(field: dataclasses.Field[Any]) -> list[object]:
    # By type: a class that was pickled by value has another instance of MISSING.
    missing = type(dataclasses.MISSING)
    given = [
        ("missing",) if isinstance(value, missing) else value
        for value in (field.default, field.default_factory)
    ]
    flags = [field.init, field.repr, field.hash, field.compare, getattr(field, "kw_only", False)]
    return [field.type, *given, *flags, dict(field.metadata)]


def _generated(kind: type) -> frozenset[str]:
    """Methods that a class decorator generated from fields, which are already part of the key."""
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


# --- Functions: bytecode, defaults, closure, and the globals and imports that the function uses.

_OWN_NAMES = frozenset(
    {
        "__name__",
        "__file__",
        "__package__",
        "__spec__",
        "__loader__",
        "__path__",
        "__doc__",
        "__builtins__",
        "__cached__",
    }
)
"""Globals about a module's location, not its behavior."""


_CACHES = frozenset({"cache", "memo", "dispatch_cache"})
"""Names of caches in the closures of libraries' wrappers (functools, cachetools, toolz), which change with use."""


def reach_function(walk: CodeWalk, part: FingerprintPart, label: str, function: types.FunctionType) -> bool:
    """An edge to a function: a project function by its code, another by its name and the values that it wraps."""
    scope = function.__globals__
    origin = origin_of(str(scope.get("__name__", "")), module_file(scope))
    plain = function.__closure__ is None and not hasattr(function, "__wrapped__")
    qualifier = f"{scope.get('__name__')}.{function.__code__.co_qualname}"
    if not origin.local and plain:
        walk.foreign(part, label, qualifier, origin)
        return True

    def fill(new: FingerprintPart) -> None:
        if origin.local:
            _fill_function(walk, new, function)
        else:
            _fill_foreign(walk, new, function, qualifier, origin)

    walk.place(part, label, walk.keep(function), made=lambda: _part(function), fill=fill)
    return True


def _part(function: types.FunctionType) -> FingerprintPart:
    code = function.__code__
    return FingerprintPart(
        kind="function",
        name=f"{module_title(function.__globals__)}.{function.__qualname__}",
        file=module_file(function.__globals__) or code.co_filename,
        line=code.co_firstlineno,
        text=lambda: code_source(code),
    )


def _fill_function(walk: CodeWalk, part: FingerprintPart, function: types.FunctionType) -> None:
    code = function.__code__
    part.digest = listing(code).digest if "bodies" in walk.follow else text(code.co_name)
    walk.python(part)
    walk.describe(part, function)
    found = references(code)
    if "defaults" in walk.follow:
        _defaults(walk, part, function)
    if "closures" in walk.follow:
        _closure(walk, part, function)
    _wrapped(walk, part, function)
    if "globals" in walk.follow:
        for reference in found.globals:
            _global(walk, part, function, reference)
        for name in found.texts:
            walk.reads(name)
    if "imports" in walk.follow:
        for each in found.imports:
            reach_imported(walk, part, each, function.__globals__)


def _fill_foreign(
    walk: CodeWalk, part: FingerprintPart, function: types.FunctionType, qualifier: str, origin: ModuleOrigin
) -> None:
    part.digest = blake3(frame(qualifier)).digest()
    walk.foreign(part, "", qualifier, origin)
    if "closures" in walk.follow:
        _closure(walk, part, function, foreign=True)
    _wrapped(walk, part, function)


def _defaults(walk: CodeWalk, part: FingerprintPart, function: types.FunctionType) -> None:
    code = function.__code__
    values = function.__defaults__ or ()
    names = code.co_varnames[code.co_argcount - len(values) : code.co_argcount]
    for name, value in (*zip(names, values, strict=True), *(function.__kwdefaults__ or {}).items()):
        made = FingerprintPart(kind="default", name=f"{part.name}({name}=)", file=part.file, line=part.line)
        walk.bind(part, f"default {name}", value, made=made)


def _is_passing(code: types.CodeType, name: str, value: object) -> bool:
    """Whether use changes a variable of a library's wrapper: a cache, or a count that the wrapper keeps."""
    if name in _CACHES and isinstance(value, MutableMapping):
        return True
    return any(each.op == "STORE_DEREF" and each.value == name for each in listing(code).instructions)


def _closure(
    walk: CodeWalk, part: FingerprintPart, function: types.FunctionType, *, foreign: bool = False
) -> None:
    chains = references(function.__code__).free
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        try:
            value = cell.cell_contents
        except ValueError:  # not yet filled: it has no value to count
            continue
        if foreign and _is_passing(function.__code__, name, value):
            continue
        if isinstance(value, types.ModuleType):
            for chain in chains.get(name) or ((),):
                follow_chain(walk, part, f"closure {name}", value, chain)
            continue
        made = FingerprintPart(
            kind="closure", name=f"{part.name}.<closure>.{name}", file=part.file, line=part.line
        )
        walk.bind(part, f"closure {name}", value, made=made)


def _wrapped(walk: CodeWalk, part: FingerprintPart, function: types.FunctionType) -> None:
    wrapped = getattr(function, "__wrapped__", None)
    if wrapped is None or "wrapped" not in walk.follow:
        return
    made = FingerprintPart(kind="closure", name=f"{part.name}.__wrapped__", file=part.file, line=part.line)
    walk.bind(part, "wrapped", wrapped, made=made)
    # A wrapper may act on the annotations of what it wraps (validate_call does): there they count.
    notes = getattr(wrapped, "__annotations__", None)
    if notes:
        made = FingerprintPart(
            kind="closure", name=f"{part.name}.__annotations__", file=part.file, line=part.line
        )
        walk.bind(part, "annotations", notes, made=made)


def _global(
    walk: CodeWalk, part: FingerprintPart, function: types.FunctionType, reference: Reference
) -> None:
    scope = function.__globals__
    if reference.name in _OWN_NAMES:
        return
    if reference.name not in scope:
        watch(walk, part, getattr(builtins, reference.name, None), reference, scope)
        return
    value, label = scope[reference.name], f"global {reference.name}"
    watch(walk, part, value, reference, scope)
    if isinstance(value, types.ModuleType):
        follow_chain(walk, part, label, value, reference.chain)
    else:
        walk.bind(
            part, label, value, made=global_part(scope, reference.name), place=(id(scope), reference.name)
        )
        _attribute(walk, part, value, reference)
        if isinstance(value, type) and "__subclasses__" in reference.chain:
            reach_subclasses(walk, part, label, value)


def _attribute(walk: CodeWalk, part: FingerprintPart, value: object, reference: Reference) -> None:
    """What a function carries in its own attributes, where it is read by name."""
    if not isinstance(value, types.FunctionType) or not reference.chain:
        return
    name = reference.chain[0]
    if name in vars(value) and name != "__wrapped__":
        title = f"{module_title(value.__globals__)}.{reference.name}.{name}"
        made = FingerprintPart(kind="global", name=title, file=part.file)
        walk.bind(part, f"attribute {reference.name}.{name}", vars(value)[name], made=made)
