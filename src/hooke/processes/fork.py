"""A fork of this process that serves as `python -P -m MODULE FD` would, without the start of an interpreter and its imports."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from types import ModuleType

from hooke.base.this_process import keep_imports
from hooke.processes.process_output import flush_output

__all__ = ["ForkedProcess", "fork_serves", "fork_with_socket"]

LONGEST_S = 0.05
"""Between two looks whether a child has ended."""

STDERR = 2


class ForkedProcess:
    """A forked child, with what `subprocess.Popen` has for one that was started. Not for two threads at once."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.returncode: int | None = None

    def poll(self) -> int | None:
        """Its exit code, or minus the signal that ended it; None while it runs."""
        if self.returncode is None:
            try:
                pid, status = os.waitpid(self.pid, os.WNOHANG)
            except ChildProcessError:  # this process ignores SIGCHLD: nobody knows, as for a Popen
                self.returncode = 0
            else:
                self.returncode = os.waitstatus_to_exitcode(status) if pid else None
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """The exit code, once it has ended. Raises subprocess.TimeoutExpired after `timeout` seconds."""
        deadline = None if timeout is None else time.monotonic() + timeout
        pause_s = 0.0005
        while (code := self.poll()) is None:
            if deadline is not None and time.monotonic() >= deadline:
                raise subprocess.TimeoutExpired(f"process {self.pid}", timeout or 0.0)
            time.sleep(pause_s)
            pause_s = min(2 * pause_s, LONGEST_S)
        return code

    def kill(self) -> None:
        """Kill it, if it runs."""
        if self.poll() is None:
            os.kill(self.pid, signal.SIGKILL)


_OPTIONS = (
    "bytes_warning",
    "debug",
    "dev_mode",
    "ignore_environment",
    "inspect",
    "interactive",
    "isolated",
    "no_site",
    "no_user_site",
    "verbose",
)
"""What an interpreter that is started anew does not get from this one."""


def fork_serves() -> bool:
    """Whether a fork of this process would be as a new interpreter: for a process that has only imported what both need.

    It is not on macOS, whose libraries may break in a fork; beside other threads, which may hold locks; under a tracer, a profiler or a coverage; with options
    of Python other than -P, -O and -W; with files that this process opened; or where modules came from the working directory (`python -m hooke` without -P).
    """
    return (
        sys.platform == "linux"
        and len(os.listdir("/proc/self/task")) == 1
        and not _is_traced()
        and not sys._xoptions  # noqa: SLF001 - documented by this name
        and not any(getattr(sys.flags, option) for option in _OPTIONS)
        and None not in (sys.stdin, sys.stdout, sys.stderr)
        and (sys.flags.safe_path or not _imports_from_here())
        and not any(_is_own(fd) for fd in _descriptors())
    )


def _is_traced() -> bool:
    monitoring = getattr(sys, "monitoring", None)  # since Python 3.12
    tools = monitoring is not None and any(monitoring.get_tool(number) for number in range(6))
    return tools or sys.gettrace() is not None or sys.getprofile() is not None


def _imports_from_here() -> bool:
    try:
        return not sys.path or sys.path[0] in ("", os.getcwd())
    except OSError:  # the folder is gone
        return True


def _descriptors() -> list[int]:
    return [fd for fd in map(int, os.listdir("/proc/self/fd")) if fd > STDERR]


def _is_own(fd: int) -> bool:
    """Whether this process opened the file, rather than inherit it."""
    try:
        return not os.get_inheritable(fd)
    except OSError:  # the one by which the list was read
        return False


def fork_with_socket(module: str, main: Callable[[int], None]) -> tuple[ForkedProcess, socket.socket]:
    """Fork a process that serves by `main(FD)` of the imported `module`, FD one end of a socket; returns it and the other end.

    It has a session, the arguments and a `__main__` of its own, reads nothing from stdin, and keeps no descriptor but stdout, stderr and FD. Its cache of
    modules, `sys.flags` and its command in `ps` are those of this process. Raises OSError.
    """
    flush_output()  # or both would write it
    ours, theirs = socket.socketpair()
    # A Ctrl-C is for the parent, also before the child has its own session.
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        pid = os.fork()
        if pid == 0:
            ours.close()
            _serve(module, main, theirs.detach(), mask)
    except BaseException:
        ours.close()
        raise
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        theirs.close()
    return ForkedProcess(pid), ours


def _serve(module: str, main: Callable[[int], None], fd: int, mask: set[int | signal.Signals]) -> None:
    """In the child. Never returns."""
    code = 1
    try:
        os.setsid()
        former = signal.signal(signal.SIGINT, signal.SIG_IGN)  # which drops one that waits
        signal.signal(signal.SIGINT, former)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        _become(module, fd)
        main(fd)
        code = 0
    except BaseException:  # noqa: BLE001 - a fork must not continue in its parent's code
        with contextlib.suppress(Exception):
            sys.excepthook(*sys.exc_info())  # pyrefly: ignore[bad-argument-type]
    finally:
        flush_output()
        os._exit(code)


def _become(module: str, fd: int) -> None:
    """What a new interpreter would have: its stdin, descriptors, arguments, `__main__` and module path."""
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    for other in _descriptors():
        if other != fd:
            with contextlib.suppress(OSError):  # the one by which the list was read
                os.close(other)
    os.set_inheritable(fd, True)
    imported = sys.modules[module]
    main = ModuleType("__main__", imported.__doc__)
    main.__file__, main.__spec__ = imported.__file__, imported.__spec__
    sys.modules["__main__"] = main
    sys.argv[:] = [imported.__file__ or "", str(fd)]
    if not sys.flags.safe_path:
        del sys.path[0]
    keep_imports()
