"""The driver's `__main__` as a worker has it: not run again, but where what the script defines is looked for by name.

Functions and classes of a script or a notebook come to a worker by value. Pickle (in a pool of the task's own) and the
store (which prefers a class that is there to a second one of the same name) look for them in `__main__`.
"""

from __future__ import annotations

import inspect
import os
import sys
from collections.abc import Callable
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

import msgspec

__all__ = ["Script", "StandIn", "module_path", "script_of_this_process"]


class Script(msgspec.Struct, frozen=True, kw_only=True):
    """What started a process."""

    file: str = ""
    """Empty for notebooks, `python -c` and interactive sessions."""
    module: str = ""
    """As `python -m` was given it, else empty."""


def module_path() -> list[str]:
    """Where this process finds modules, for another one in another folder."""
    return [os.path.abspath(path) for path in sys.path]


def script_of_this_process() -> Script:
    """What this process was started with."""
    main = sys.modules["__main__"]
    file = getattr(main, "__file__", None)
    spec = getattr(main, "__spec__", None)
    return Script(file=os.path.abspath(file) if file else "", module=spec.name if spec else "")


class StandIn:
    """Takes the place of `__main__` in this process. Each run has a new one, so that none meets another's definitions."""

    def __init__(self, script: Script) -> None:
        self._module = ModuleType("__main__")
        if script.file:
            self._module.__file__ = script.file
        if script.module:  # multiprocessing imports it by this name in processes that it spawns
            self._module.__spec__ = ModuleSpec(script.module, None, origin=script.file)
        self._shown: object = None
        sys.modules["__main__"] = self._module

    def show(self, function: Callable[..., Any]) -> None:
        """Let what a task's function refers to in its script be found: each task brings its own copy of it."""
        if function is self._shown:
            return
        self._shown = function
        function = inspect.unwrap(getattr(function, "__func__", function))
        scope = getattr(function, "__globals__", {})
        if scope.get("__name__") == "__main__":
            own = {name: value for name, value in scope.items() if _is_of_script(value)}
            vars(self._module).update(own)


def _is_of_script(value: object) -> bool:
    return getattr(value, "__module__", None) == "__main__" and hasattr(value, "__qualname__")
