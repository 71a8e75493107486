"""User code in a worker: a stand-in for the driver's `__main__`, and the check whether an imported file was edited.

Functions and classes of a script or a notebook reach a worker by value; the script does not run again. Pickle (in a pool
that a task starts) and the store (which prefers an existing class to a second one of the same name) look for them in
`__main__`, so a stand-in module holds them.
"""

from __future__ import annotations

import inspect
import os
import sys
from collections.abc import Callable, Iterator
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

import msgspec

from hooke.base.files import file_clock_ns
from hooke.base.user_code import is_users

__all__ = ["ImportedFiles", "Script", "StandIn", "module_path", "script_of_this_process"]


# --- Edited files: a worker that serves several runs must not keep old code.


class ImportedFiles:
    """The files of the user's modules as they were when first checked.

    A task's own code is compared part by part before it runs. The classes of its arguments are not: they
    arrive with the values, and come from whatever module the process has imported.
    """

    def __init__(self) -> None:
        self._seen: dict[str, tuple[int, int, int] | None] = {}
        self._since_ns = file_clock_ns()

    def edited(self) -> bool:
        """Whether one of them may differ from what was imported."""
        before, self._since_ns = self._since_ns, file_clock_ns()
        return any(self._is_edited(file, before) for file in _files())

    def _is_edited(self, file: str, before_ns: int) -> bool:
        now = _state(file)
        if file not in self._seen:
            # Imported since the last check: an edit may have come before the import, or after it.
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
    """How a process was started."""

    file: str = ""
    """Empty for notebooks, `python -c` and interactive sessions."""
    module: str = ""
    """The argument of `python -m`, or empty."""


def module_path() -> list[str]:
    """This process's module path, absolute, for a process in another folder."""
    return [os.path.abspath(path) for path in sys.path]


def script_of_this_process() -> Script:
    """How this process was started."""
    main = sys.modules["__main__"]
    file = getattr(main, "__file__", None)
    spec = getattr(main, "__spec__", None)
    return Script(file=os.path.abspath(file) if file else "", module=spec.name if spec else "")


class StandIn:
    """Replaces `__main__` in this process. Each run has its own, so no run meets the definitions of another one."""

    def __init__(self, script: Script) -> None:
        self._module = ModuleType("__main__")
        if script.file:
            self._module.__file__ = script.file
        if script.module:  # multiprocessing imports it by this name in the processes that it spawns
            self._module.__spec__ = ModuleSpec(script.module, None, origin=script.file)
        self._shown: object = None
        sys.modules["__main__"] = self._module

    def show(self, function: Callable[..., Any]) -> None:
        """Make the names of a task's script available in `__main__`: each task brings its own copy of them."""
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
