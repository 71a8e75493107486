"""`python -m hooke.processes.with_parent PID PROGRAM ARGUMENT...` becomes the program, which ends when its parent, of this PID, does (Linux)."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from collections.abc import Sequence

from hooke.processes.start import python_module

__all__ = ["end_with", "main", "with_parent"]

PR_SET_PDEATHSIG = 1


def with_parent() -> list[str]:
    """What is put before a command, so that it does not outlive this process, however that dies."""
    return python_module("hooke.processes.with_parent", str(os.getpid()))


def end_with(parent: int) -> bool:
    """Have this process killed when its parent ends (on Linux: the thread of it that started this one). False where it has ended already."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    return os.getppid() == parent


def main(arguments: Sequence[str]) -> None:
    """Becomes the program. Raises OSError where that cannot be."""
    if end_with(int(arguments[0])):
        os.execv(arguments[1], list(arguments[1:]))  # noqa: S606 - this is what it is for


if __name__ == "__main__":
    main(sys.argv[1:])
