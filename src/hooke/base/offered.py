"""Bound methods that a module offers as functions of its own: `random.shuffle`, `multiprocessing.get_context`."""

from __future__ import annotations

import sys
import types
from typing import Any

__all__ = ["offering_module"]


def offering_module(value: Any) -> str | None:
    """The imported module that has this bound method among its names; None where there is none, or only `__main__`."""
    if not isinstance(value, types.MethodType | types.BuiltinMethodType):
        return None
    owner = value.__self__
    if owner is None or isinstance(owner, type | types.ModuleType):
        return None
    module = type(owner).__module__
    while module and module != "__main__":
        there = getattr(sys.modules.get(module), "__dict__", {}).get(value.__name__)
        if type(there) is type(value) and there == value:
            return module
        module = module.rpartition(".")[0]
    return None
