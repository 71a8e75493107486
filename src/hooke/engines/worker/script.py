"""The driver's `__main__` as a worker has it: not run again, but where what the script defines is looked for by name.

Functions and classes of a script or a notebook come to a worker by value. Pickle (in a pool of the task's own) and the
store (which prefers a class that is there to a second one of the same name) look for them in `__main__`.
"""

from __future__ import annotations

import inspect
import os
import sys
import time
from collections.abc import Callable, Iterator
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

import msgspec

from hooke.base.user_code import is_users

__all__ = ["ImportedFiles", "Script", "StandIn", "module_path", "script_of_this_process"]


# --- Whether a file was edited since this process imported it: a worker that serves several runs must not keep old code.


class ImportedFiles:
    """The files of the user's modules as they were when they were first looked at.

    A task's own code is compared part by part before it runs. The classes of its arguments are not: these
    come in with the values, from whatever module the process has.
    """

    def __init__(self) -> None:
        self._seen: dict[str, tuple[int, int, int] | None] = {}
        self._since_ns = time.time_ns()

    def edited(self) -> bool:
        """Whether one of them is not what was imported, as far as can be known: in doubt, yes."""
        before, self._since_ns = self._since_ns, time.time_ns()
        return any(self._is_edited(file, before) for file in _files())

    def _is_edited(self, file: str, before_ns: int) -> bool:
        now = _state(file)
        if (
            file not in self._seen
        ):  # imported since the last look; an edit may have come before the import or after
            self._seen[file] = now
            return now is None or now[0] >= before_ns
        return self._seen[file] != now


def _files() -> Iterator[str]:
    for module in list(sys.modules.values()):
        file = getattr(module, "__file__", None)
        if isinstance(file, str) and is_users(file):
            yield file


def _state(file: str) -> tuple[int, int, int] | None:
    try:
        found = os.stat(file)
    except OSError:
        return None
    return found.st_ctime_ns, found.st_size, found.st_ino


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
