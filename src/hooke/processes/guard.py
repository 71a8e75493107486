"""`python -m hooke.processes.guard FD PROGRAM ARGUMENT...` runs a program that is not ours, and ends it with all that it has started.

The starter holds the other end of the pipe FD. When that is closed, which is when the starter ends, however it ends, the program gets
SIGTERM; what is left of it after a while is killed, also what has left its session. The guard ends as the program did.
"""

from __future__ import annotations

import ctypes
import os
import resource
import select
import signal
import sys
import time
from collections.abc import Sequence
from typing import NoReturn

import psutil

from hooke.processes.start import python_module, start_apart, with_parent

__all__ = ["GRACE_S", "guarded", "main"]

PR_SET_CHILD_SUBREAPER = 36
GRACE_S = 3.0
"""From SIGTERM to SIGKILL: an engine frees its GPU meanwhile."""
ROUNDS = 200
"""Looks for processes that are left. One that forks all the time must not keep the guard for ever."""
ROUND_S = 0.02


def guarded(descriptor: int, command: Sequence[str]) -> list[str]:
    """The command that runs another one, whose first word is an absolute path, until the other end of this pipe is closed."""
    return python_module("hooke.processes.guard", str(descriptor), *command)


def main(arguments: Sequence[str]) -> NoReturn:
    """Run the program to its end, or to that of the starter. Raises OSError if it cannot be started."""
    told, *command = arguments
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    os.set_inheritable(int(told), False)
    process = start_apart([*with_parent(), *command])
    status = _wait(process.pid, int(told))
    _kill_all()
    _end_as(os.waitstatus_to_exitcode(status))


def _wait(pid: int, told: int) -> int:
    """The status of the program, which is asked to end once the starter has ended."""
    look, ends = select.poll(), 0.0
    look.register(told, select.POLLIN | select.POLLHUP)
    ended = os.pidfd_open(pid)
    look.register(ended, select.POLLIN)
    while True:
        if any(fd == told for fd, _ in look.poll(1000)):
            look.unregister(told)
            ends = time.monotonic() + GRACE_S
            os.killpg(pid, signal.SIGTERM)
        if ends and time.monotonic() >= ends:
            os.killpg(pid, signal.SIGKILL)
        if (status := _reaped(pid)) is not None:
            return status


def _reaped(pid: int) -> int | None:
    """Reap what has ended, orphans as well; the status of the program if it is among these."""
    found = None
    while True:
        try:
            ended, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return found
        if ended == pid:
            found = status
        if not ended:
            return found


def _kill_all() -> None:
    """Kill all that is left. Orphans are children of the guard, so none hides."""
    guard = psutil.Process()
    for _ in range(ROUNDS):
        left = guard.children(recursive=True)
        for each in left:
            try:
                each.kill()
            except psutil.NoSuchProcess:
                continue
        _reaped(0)
        if not left:
            return
        time.sleep(ROUND_S)


def _end_as(code: int) -> NoReturn:
    """End with this exit code, or by the signal that it is minus of."""
    if code < 0:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        if -code not in (signal.SIGKILL, signal.SIGSTOP):
            signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    os._exit(code)


if __name__ == "__main__":
    main(sys.argv[1:])
