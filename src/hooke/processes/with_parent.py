"""`python -m hooke.processes.with_parent PID SIGNAL PROGRAM ARGUMENT...` becomes the program, which gets the signal when its parent, of this PID, ends (Linux)."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from collections.abc import Sequence

from hooke.processes.start import python_module

__all__ = ["end_with", "main", "with_parent"]

PR_SET_PDEATHSIG = 1


def with_parent(number: signal.Signals = signal.SIGKILL) -> list[str]:
    """A prefix for a command: the process gets the signal when this process ends, however it ends."""
    return python_module("hooke.processes.with_parent", str(os.getpid()), str(int(number)))


def end_with(parent: int, number: int = signal.SIGKILL) -> bool:
    """Have this process get the signal when its parent ends (on Linux: the thread that started it). False if it has ended already."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, number, 0, 0, 0)
    return os.getppid() == parent


def main(arguments: Sequence[str]) -> None:
    """Become the program. Raises OSError where that fails."""
    parent, number, *command = arguments
    if end_with(int(parent), int(number)):
        os.execv(command[0], command)  # noqa: S606 - this is what it is for


if __name__ == "__main__":
    main(sys.argv[1:])
