"""Fingerprints of code: what a function is and all that it reaches."""

from __future__ import annotations

import sys
import types
from typing import Any

from hooke.keys.bytecode import listing
from hooke.keys.classes import reach_class
from hooke.keys.functions import reach_function
from hooke.keys.local import offering_library, origin_of
from hooke.keys.modules import reach_module
from hooke.keys.parts import CodePart, CodePrint, Part
from hooke.keys.walk import EVERYTHING, CodeWalk

__all__ = ["EVERYTHING", "CodePart", "CodePrint", "fingerprint_code"]

_NAMED = (
    types.WrapperDescriptorType,
    types.MethodDescriptorType,
    types.ClassMethodDescriptorType,
    types.MemberDescriptorType,
    types.GetSetDescriptorType,
)


def fingerprint_code(function: Any, *, follow: frozenset[str] = EVERYTHING) -> CodePrint:
    """The key of a callable's code: its bytecode and all project code, globals and versions that it reaches.

    Takes functions, classes, methods, partials, callable objects, and objects with `__hooke_code__()`, which stand for
    what that returns. Never stale: globals are read anew at each call. `follow` weakens the walk, for tests.
    """
    walk = CodeWalk(reader=_reach, follow=follow)
    root = Part(kind="function", name="")
    walk.bind(root, "", function, made=Part(kind="global", name=type(function).__qualname__))
    key = walk.finish(root)
    return CodePrint(
        key=key, parts=walk.parts(), notes=tuple(walk.notes), foreign=tuple(filter(None, walk.foreigners))
    )


def _reach(walk: CodeWalk, part: Part, label: str, value: Any) -> bool:
    if isinstance(value, types.FunctionType):
        return reach_function(walk, part, label, value)
    if isinstance(value, type):
        return reach_class(walk, part, label, value)
    if isinstance(value, types.ModuleType):
        reach_module(walk, part, label, value)
        return True
    if isinstance(value, types.CodeType):
        made = Part(kind="function", name=value.co_qualname, digest=listing(value).digest)
        walk.place(part, label, walk.keep(value), made=lambda: made, fill=lambda _: None)
        return True
    return _reach_named(walk, part, label, value)


def _reach_named(walk: CodeWalk, part: Part, label: str, value: Any) -> bool:
    """Functions and descriptors written in C, and what libraries offer as functions: by name."""
    offering = offering_library(value)
    if offering is not None:
        return _reach_named_in(walk, part, label, offering, value.__name__)
    if isinstance(value, _NAMED):
        return _reach_named_in(walk, part, label, value.__objclass__.__module__, value.__qualname__)
    if type(value).__name__ == "cython_function_or_method":
        return _reach_named_in(walk, part, label, str(value.__module__), value.__qualname__)
    if not isinstance(value, types.BuiltinFunctionType):
        return False
    owner = value.__self__
    if owner is not None and not isinstance(owner, types.ModuleType):
        return False
    module = value.__module__ or (owner.__name__ if owner else "builtins")
    return _reach_named_in(walk, part, label, module, value.__qualname__)


def _reach_named_in(walk: CodeWalk, part: Part, label: str, module: str, name: str) -> bool:
    found = sys.modules.get(module)
    origin = origin_of(module, getattr(found, "__file__", None))
    if origin.local and isinstance(found, types.ModuleType):
        reach_module(walk, part, label, found)
    else:
        walk.foreign(part, label, f"{module}.{name}", origin)
    return True
