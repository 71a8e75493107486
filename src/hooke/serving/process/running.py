"""One process of a model, from its start to its end: what it is sent, what it answers and prints, and how it ended."""

from __future__ import annotations

import asyncio
import codecs
import contextlib
import os
import resource
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import msgspec

from hooke.base.crashes import with_short_stack
from hooke.base.processes import anonymous_bytes, python_module
from hooke.serving.process.child import Order
from hooke.serving.process.wire import Link

__all__ = ["Ending", "Running"]

_READ = 1 << 18
_TAIL = 64 << 10
"""Bytes of its output that are kept: a stack of a hundred frames, and what was printed before."""
MOST_LEFT = 8
"""Reads of what it printed before its end: a pipe holds no more, and somebody who left its group may go on printing."""
CLOSED_S = 1.0
"""From the end of its socket to the end of its process; longer, and it is ended: nobody can ask it any more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ending:
    """How it ended."""

    exit_code: int
    """Minus the signal where one ended it."""
    asked: bool
    """Whether it was killed from here."""
    peak_bytes: int | None
    """Of its memory; None where nobody knows."""
    seconds: float
    tail: tuple[str, ...]
    """The last lines that it printed."""


def _to_nobody(_told: Any) -> None:
    pass


class Running:
    """Starts one, which ends with this process. All of it is called on the event loop, and so are `answered`, for each message, and `ended`, once.

    Raises OSError where no process can be started.
    """

    def __init__(self, answered: Callable[[Any], None], ended: Callable[[Ending], None]) -> None:
        self._answered: Callable[[Any], None] = answered
        self._ended: Callable[[Ending], None] = ended
        self._loop = asyncio.get_running_loop()
        self._started = time.monotonic()
        self._asked = self._closed = False
        self._unsent = bytearray()
        self._printed = b""
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        # What the kernel calls a child's peak is never below its parent's when it was started.
        self._floor_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        self._sampled = 0
        self._spawn()

    @property
    def pid(self) -> int:
        """Of the process."""
        return self._process.pid

    def send(self, packed: bytes) -> None:
        """Send it what `link` packed. What is lost with its end is seen by that."""
        if self._unsent:
            self._unsent += packed
            return
        try:
            sent = self._socket.send(packed)
        except BlockingIOError:
            sent = 0
        except OSError:
            return
        if sent < len(packed):
            self._unsent += packed[sent:]
            self._loop.add_writer(self._socket.fileno(), self._flush)

    def memory_bytes(self) -> int:
        """What it has now that no file backs. May be asked by any thread."""
        found = 0 if self._closed else anonymous_bytes(self.pid)
        self._sampled = max(self._sampled, found)
        return found

    def kill(self) -> None:
        """End it, and what it started."""
        self._asked = True
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)

    def close(self, timeout_s: float) -> None:
        """Let it do what it was sent, and end it; it is killed when that takes longer. Nothing is told any more."""
        if self._closed:
            return
        self._answered = self._ended = _to_nobody
        self._asked = True
        with contextlib.suppress(OSError):
            self._socket.settimeout(timeout_s)  # one that hangs takes nothing
            self._socket.sendall(self._unsent)
            self._socket.shutdown(socket.SHUT_WR)
        look, ends = select.poll(), time.monotonic() + timeout_s
        look.register(self._pidfd, select.POLLIN)
        look.register(self._output, select.POLLIN)
        while not any(fd == self._pidfd for fd, _ in look.poll(50)) and time.monotonic() < ends:
            self._print()
        self.kill()
        self._exited()

    def _spawn(self) -> None:
        with contextlib.ExitStack() as undone:  # descriptors may run out in the middle
            ours, theirs = socket.socketpair()
            undone.callback(ours.close)
            with theirs:
                gives, takes = _memory("hooke-model-in", undone), _memory("hooke-model-out", undone)
                self._output, output = os.pipe()
                undone.callback(os.close, self._output)
                try:
                    self._process = _started(theirs.fileno(), takes, gives, output)
                finally:
                    os.close(output)
            self._pidfd = os.pidfd_open(self._process.pid)
            undone.pop_all()
        self._socket, self.link = ours, Link(gives, takes)
        ours.setblocking(False)
        os.set_blocking(self._output, False)
        self._loop.add_reader(ours.fileno(), self._read)
        self._loop.add_reader(self._output, self._print)
        self._loop.add_reader(self._pidfd, self._exited)

    def _flush(self) -> None:
        try:
            sent = self._socket.send(self._unsent)
        except BlockingIOError:
            return
        except OSError:
            sent = len(self._unsent)
        del self._unsent[:sent]
        if not self._unsent:
            self._loop.remove_writer(self._socket.fileno())

    def _read(self) -> bool:
        """What has come; False where there is nothing more now."""
        try:
            data = self._socket.recv(_READ)
        except BlockingIOError:
            return False
        except OSError:
            data = b""
        if not data:
            self._loop.remove_reader(self._socket.fileno())
            self._loop.call_later(CLOSED_S, self._end_if_deaf)
            return False
        for frame in self.link.feed(data):
            self._answered(self.link.read(frame))
        return True

    def _end_if_deaf(self) -> None:
        if not self._closed:
            self.kill()

    def _print(self) -> bool:
        """What it printed goes where this process's errors go; False where there is nothing more now."""
        try:
            data = os.read(self._output, _READ)
        except BlockingIOError:
            return False
        if not data:
            self._loop.remove_reader(self._output)
            return False
        self._printed = (self._printed + data)[-_TAIL:]
        with contextlib.suppress(OSError, ValueError):
            sys.stderr.write(self._decoder.decode(data))
            sys.stderr.flush()
        return True

    def _exited(self) -> None:
        self._closed = True
        for fd in (self._pidfd, self._socket.fileno(), self._output):
            self._loop.remove_reader(fd)
        self._loop.remove_writer(self._socket.fileno())
        with contextlib.suppress(ProcessLookupError):
            # What it started, which may print without end; its number is its own until it is waited for.
            os.killpg(self.pid, signal.SIGKILL)
        while self._read():
            pass
        for _ in range(MOST_LEFT):
            if not self._print():
                break
        _, status, usage = os.wait4(self.pid, 0)
        self._process.returncode = os.waitstatus_to_exitcode(status)
        self._socket.close()
        self.link.close()
        for fd in (self._pidfd, self._output):
            os.close(fd)
        peak = usage.ru_maxrss * 1024 if usage.ru_maxrss > self._floor_kib else 0
        self._ended(
            Ending(
                exit_code=self._process.returncode,
                asked=self._asked,
                peak_bytes=max(peak, self._sampled) or None,
                seconds=time.monotonic() - self._started,
                tail=with_short_stack(self._printed.decode("utf-8", "replace").splitlines()),
            )
        )


def _memory(name: str, undone: contextlib.ExitStack) -> int:
    made = os.memfd_create(name)
    undone.callback(os.close, made)
    return made


def _started(channel: int, gives: int, takes: int, output: int) -> subprocess.Popen[bytes]:
    """The process, with its end of the socket and of the memory; what it prints goes to `output`."""
    order = Order(parent=os.getpid(), socket=channel, gives=gives, takes=takes)
    return subprocess.Popen(
        python_module("hooke.serving.process.child", msgspec.json.encode(order).decode()),
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=output,
        start_new_session=True,  # Ctrl-C in the terminal is for the replica, which drains first
        pass_fds=(channel, gives, takes),
    )
