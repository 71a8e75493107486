"""Whether a file was edited since this process imported it: a worker that serves several runs must not keep old code."""

from __future__ import annotations

import os
import sys
import sysconfig
import time
from collections.abc import Iterator

__all__ = ["ImportedFiles"]

_INSTALLED = (f"{os.sep}site-packages{os.sep}", f"{os.sep}dist-packages{os.sep}")


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
    stdlib = sysconfig.get_path("stdlib")
    for module in list(sys.modules.values()):
        file = getattr(module, "__file__", None)
        if (
            isinstance(file, str)
            and not file.startswith(stdlib)
            and not any(part in file for part in _INSTALLED)
        ):
            yield file


def _state(file: str) -> tuple[int, int, int] | None:
    try:
        found = os.stat(file)
    except OSError:
        return None
    return found.st_ctime_ns, found.st_size, found.st_ino
