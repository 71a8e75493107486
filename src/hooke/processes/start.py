"""Starting Python processes: the command, a session of their own, a channel, the end with the parent, and the exit."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import IO, ClassVar, NoReturn, Protocol, Self

from hooke.base.this_process import on_fork
from hooke.processes.channel import Channel
from hooke.processes.fork import fork_with_socket

__all__ = [
    "Interrupts",
    "StartedProcess",
    "end_ahead",
    "end_with",
    "exit_with",
    "free_port",
    "main",
    "python_module",
    "start_ahead",
    "start_apart",
    "start_with_channel",
    "start_with_socket",
    "with_parent",
]


# --- Ctrl-C during a run: the first asks it to stop cleanly, the second ends it at once.


class Interrupts:
    """Inside this context the first SIGINT is noted instead of raised. Does nothing outside the main thread."""

    def __init__(self, *, deferred: bool) -> None:
        """`deferred=False` keeps Python's own handling, for tasks that run in this thread."""
        self.received = False
        self._answered = False
        self._former = signal.getsignal(signal.SIGINT)
        in_main = threading.current_thread() is threading.main_thread()
        self._deferred = (
            deferred and in_main and callable(self._former)
        )  # else SIGINT is ignored, as under nohup

    def __enter__(self) -> Self:
        if self._deferred:
            signal.signal(signal.SIGINT, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        if self._deferred:
            signal.signal(signal.SIGINT, self._former)
            if self.received and not self._answered:  # it came when the run needed nothing any more
                signal.raise_signal(signal.SIGINT)

    def asked(self) -> bool:
        """Whether Ctrl-C asks the run to stop; the caller then stops it."""
        self._answered = self._answered or self.received
        return self.received

    def _note(self, _number: int, _frame: FrameType | None) -> None:
        if self.received:
            raise KeyboardInterrupt
        self.received = True


def python_module(module: str, *arguments: str) -> list[str]:
    """The command `python -m module arguments` with this process's `-O` and `-W`; the working directory stays off `sys.path`."""
    flags = ["-O"] * sys.flags.optimize + [f"-W{option}" for option in sys.warnoptions]
    return [sys.executable, "-P", *flags, "-m", module, *arguments]


def start_apart(
    command: Sequence[str],
    *,
    descriptors: Sequence[int] = (),
    output: int | IO[bytes] | None = None,
    errors: int | IO[bytes] | None = None,
    cwd: str | Path | None = None,
    environment: Mapping[str, str] | None = None,
) -> subprocess.Popen[bytes]:
    """Start a process in a session of its own, so that Ctrl-C in the terminal is for its parent, which drains first.

    It inherits `descriptors`, and writes stdout and stderr to `output`; None: where this process writes. `errors` is for stderr
    alone. Raises OSError.
    """
    return subprocess.Popen(
        command,
        cwd=cwd,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=output if errors is None else errors,
        start_new_session=True,
        pass_fds=descriptors,
    )


def start_with_channel(
    command: Callable[[int], Sequence[str]],
    *,
    descriptors: Sequence[int] = (),
    output: int | IO[bytes] | None = None,
    environment: Mapping[str, str] | None = None,
) -> tuple[subprocess.Popen[bytes], Channel]:
    """As `start_apart`, with a channel to the process; `command` gets the descriptor of the child's end. Raises OSError."""
    process, ours = _start_with_pair(command, descriptors=descriptors, output=output, environment=environment)
    return process, Channel(ours.detach())


def _start_with_pair(
    command: Callable[[int], Sequence[str]],
    *,
    descriptors: Sequence[int] = (),
    output: int | IO[bytes] | None = None,
    environment: Mapping[str, str] | None = None,
) -> tuple[subprocess.Popen[bytes], socket.socket]:
    ours, theirs = socket.socketpair()
    with theirs:
        try:
            process = start_apart(
                command(theirs.fileno()),
                descriptors=(theirs.fileno(), *descriptors),
                output=output,
                environment=environment,
            )
        except BaseException:
            ours.close()
            raise
    return process, ours


class StartedProcess(Protocol):
    """A child of this process, as `subprocess.Popen` has it."""

    pid: int
    returncode: int | None

    def poll(self) -> int | None:
        """Its exit code, or minus the signal that ended it; None while it runs."""
        ...

    def wait(self, timeout: float | None = None) -> int:
        """The same, once it has ended. Raises subprocess.TimeoutExpired after `timeout` seconds."""
        ...

    def kill(self) -> None:
        """Kill it, if it runs."""
        ...


def start_with_socket(module: str) -> tuple[StartedProcess, socket.socket]:
    """Start `python -m module FD`, FD one end of a socket, as `start_apart`; returns the process and the other end. Raises OSError.

    If `start_ahead` has started one that runs, this is it.
    """
    ahead = _Ahead.started.pop(module, None)
    if ahead is not None:
        if ahead.process.poll() is None:
            return ahead.process, ahead.socket
        ahead.socket.close()
    return _start_with_pair(lambda theirs: python_module(module, str(theirs)))


class _Ahead:
    """A process that nobody has asked for yet. A forked child of this process does not inherit it."""

    started: ClassVar[dict[str, _Ahead]] = {}

    def __init__(self, process: StartedProcess, ours: socket.socket) -> None:
        self.process, self.socket = process, ours
        on_fork(self)

    def after_fork(self) -> None:
        self.socket.close()
        self.started.clear()


def start_ahead(module: str, *, main: Callable[[int], None] | None = None) -> None:
    """Start what `start_with_socket` will be asked for, so that it is ready then; `end_ahead` ends it if it never is.

    With `main`, that of the imported module, it is a fork of this process.
    """
    if module not in _Ahead.started:
        with contextlib.suppress(OSError):  # who asks for it learns why
            started = fork_with_socket(module, main) if main is not None else start_with_socket(module)
            _Ahead.started[module] = _Ahead(*started)


def end_ahead() -> None:
    """End what was started ahead and nobody has asked for."""
    while _Ahead.started:
        _, ahead = _Ahead.started.popitem()
        ahead.socket.close()
        ahead.process.kill()
        ahead.process.wait()


def exit_with(code: int) -> NoReturn:
    """End this process now: hanging threads of the user's code must not keep it."""
    with contextlib.suppress(OSError, ValueError):  # a log may have no room
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(code)


# --- `python -m hooke.processes.start PID SIGNAL PROGRAM ARGUMENT...` becomes the program, which gets the signal when its parent, of this PID, ends (Linux).

PR_SET_PDEATHSIG = 1


def with_parent(number: signal.Signals = signal.SIGKILL) -> list[str]:
    """A prefix for a command: the process gets the signal when this process ends, however it ends."""
    return python_module("hooke.processes.start", str(os.getpid()), str(int(number)))


def end_with(parent: int, number: int = signal.SIGKILL) -> bool:
    """Have this process get the signal when its parent ends (on Linux: the thread that started it). False if it has ended already."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, number, 0, 0, 0)
    return os.getppid() == parent


def free_port() -> int:
    """A port of this machine that is free now, for a process that does not say which one it took. Another may take it first."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port: int = listening.getsockname()[1]
        return port


def main(arguments: Sequence[str]) -> None:
    """Become the program. Raises OSError where that fails."""
    parent, number, *command = arguments
    if end_with(int(parent), int(number)):
        os.execv(command[0], command)  # noqa: S606 - this is what it is for


if __name__ == "__main__":
    main(sys.argv[1:])
