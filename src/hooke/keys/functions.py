"""How a function is read: its bytecode, defaults, closure, and the globals and imports that it refers to."""

from __future__ import annotations

import builtins
import types

from blake3 import blake3

from hooke.keys.bytecode import listing
from hooke.keys.combine import frame
from hooke.keys.encoding import text
from hooke.keys.local import Origin, origin_of
from hooke.keys.modules import follow_chain, global_part, module_file, module_title, reach_imported, watch
from hooke.keys.parts import Part
from hooke.keys.references import Reference, references
from hooke.keys.source import code_source
from hooke.keys.walk import CodeWalk

__all__ = ["reach_function"]

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
"""Globals that say where a module is, not what it does."""


_PASSING = frozenset({"dispatch_cache", "cache_token"})
"""What singledispatch keeps in its closure to be fast: it changes with use, and decides nothing."""


def reach_function(walk: CodeWalk, part: Part, label: str, function: types.FunctionType) -> bool:
    """An edge to a function: of the project by its code, of others by name, with what a wrapper of theirs holds."""
    scope = function.__globals__
    origin = origin_of(str(scope.get("__name__", "")), module_file(scope))
    plain = function.__closure__ is None and not hasattr(function, "__wrapped__")
    qualifier = f"{scope.get('__name__')}.{function.__code__.co_qualname}"
    if not origin.local and plain:
        walk.foreign(part, label, qualifier, origin)
        return True

    def fill(new: Part) -> None:
        if origin.local:
            _fill(walk, new, function)
        else:
            _fill_foreign(walk, new, function, qualifier, origin)

    walk.place(part, label, walk.keep(function), made=lambda: _part(function), fill=fill)
    return True


def _part(function: types.FunctionType) -> Part:
    code = function.__code__
    return Part(
        kind="function",
        name=f"{module_title(function.__globals__)}.{function.__qualname__}",
        file=module_file(function.__globals__) or code.co_filename,
        line=code.co_firstlineno,
        text=lambda: code_source(code),
    )


def _fill(walk: CodeWalk, part: Part, function: types.FunctionType) -> None:
    code = function.__code__
    part.digest = listing(code).digest if "bodies" in walk.follow else text(code.co_name)
    walk.python(part)
    found = references(code)
    if "defaults" in walk.follow:
        _defaults(walk, part, function)
    if "closures" in walk.follow:
        _closure(walk, part, function)
    _wrapped(walk, part, function)
    if "globals" in walk.follow:
        for reference in found.globals:
            _global(walk, part, function, reference)
    if "imports" in walk.follow:
        for each in found.imports:
            reach_imported(walk, part, each, function.__globals__)


def _fill_foreign(
    walk: CodeWalk, part: Part, function: types.FunctionType, qualifier: str, origin: Origin
) -> None:
    part.digest = blake3(frame(qualifier)).digest()
    walk.foreign(part, "", qualifier, origin)
    if "closures" in walk.follow:
        _closure(walk, part, function)
    _wrapped(walk, part, function)


def _defaults(walk: CodeWalk, part: Part, function: types.FunctionType) -> None:
    code = function.__code__
    values = function.__defaults__ or ()
    names = code.co_varnames[code.co_argcount - len(values) : code.co_argcount]
    for name, value in (*zip(names, values, strict=True), *(function.__kwdefaults__ or {}).items()):
        made = Part(kind="default", name=f"{part.name}({name}=)", file=part.file, line=part.line)
        walk.bind(part, f"default {name}", value, made=made)


def _closure(walk: CodeWalk, part: Part, function: types.FunctionType) -> None:
    chains = references(function.__code__).free
    passing = _PASSING if function.__globals__.get("__name__") == "functools" else frozenset()
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        if name in passing:
            continue
        try:
            value = cell.cell_contents
        except ValueError:  # not yet filled: it has no value to count
            continue
        if isinstance(value, types.ModuleType):
            for chain in chains.get(name) or ((),):
                follow_chain(walk, part, f"closure {name}", value, chain)
            continue
        made = Part(kind="closure", name=f"{part.name}.<closure>.{name}", file=part.file, line=part.line)
        walk.bind(part, f"closure {name}", value, made=made)


def _wrapped(walk: CodeWalk, part: Part, function: types.FunctionType) -> None:
    wrapped = getattr(function, "__wrapped__", None)
    if wrapped is None or "wrapped" not in walk.follow:
        return
    made = Part(kind="closure", name=f"{part.name}.__wrapped__", file=part.file, line=part.line)
    walk.bind(part, "wrapped", wrapped, made=made)
    # A wrapper may act on the annotations of what it wraps (validate_call does): there they count.
    notes = getattr(wrapped, "__annotations__", None)
    if notes:
        made = Part(kind="closure", name=f"{part.name}.__annotations__", file=part.file, line=part.line)
        walk.bind(part, "annotations", notes, made=made)


def _global(walk: CodeWalk, part: Part, function: types.FunctionType, reference: Reference) -> None:
    scope = function.__globals__
    if reference.name in _OWN_NAMES:
        return
    if reference.name not in scope:
        watch(walk, part, getattr(builtins, reference.name, None), reference)
        return
    value, label = scope[reference.name], f"global {reference.name}"
    watch(walk, part, value, reference)
    if isinstance(value, types.ModuleType):
        follow_chain(walk, part, label, value, reference.chain)
    else:
        walk.bind(
            part, label, value, made=global_part(scope, reference.name), place=(id(scope), reference.name)
        )
        _attribute(walk, part, value, reference)


def _attribute(walk: CodeWalk, part: Part, value: object, reference: Reference) -> None:
    """What a function carries in its own attributes, where it is read by name."""
    if not isinstance(value, types.FunctionType) or not reference.chain:
        return
    name = reference.chain[0]
    if name in vars(value) and name != "__wrapped__":
        title = f"{module_title(value.__globals__)}.{reference.name}.{name}"
        made = Part(kind="global", name=title, file=part.file)
        walk.bind(part, f"attribute {reference.name}.{name}", vars(value)[name], made=made)
