"""The fork server: `python -P -m hooke.engines.worker.fork_server FD`, or a fork of `hooke run` that serves as this would.

A process with one thread, which has imported what workers need and nothing of the user's. A worker is a fork of it: ready
in milliseconds, and never a fork of a process in which Polars or BLAS ran (such a fork hangs). It watches its workers:
memory limits twenty times a second, stopped workers, and deaths with their signal and peak memory. When the driver's end
of its socket closes, it ends every process below it and itself.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import os
import selectors
import signal
import socket
import sys
import time
from pathlib import Path
from typing import TypeAlias

import msgspec

from hooke.engines.worker import worker_process
from hooke.processes.channel import framed, send_all, take_frames
from hooke.processes.devices import ContainerMemory, anonymous_bytes
from hooke.processes.process_output import flush_output
from hooke.processes.start import exit_with

__all__ = ["ForkEnded", "Limit", "NotSpawned", "Report", "Spawn", "Spawned", "main", "pack_frame"]

WATCH_S = 0.05
"""20 checks a second: a task that fills 1 GiB a second exceeds its limit by 50 MiB."""

STOPPED_S = 5.0
"""How long a worker may be stopped (SIGSTOP) before it is ended: it would hold its attempt forever."""

END_S = 4.0
"""How long to wait for killed processes. They are gone in milliseconds, unless one hangs in the kernel."""

PR_SET_CHILD_SUBREAPER = 36
FDS_PER_SPAWN = 4


class Spawn(msgspec.Struct, frozen=True, tag=True):
    """Fork a worker. The descriptors of its socket, its lifeline, its tickets and its log come with the message."""

    name: str
    environment: dict[str, str]
    folder: str
    cores: tuple[int, ...] = ()
    """The cores it is bound to; empty for all of them."""


class Limit(msgspec.Struct, frozen=True, tag=True):
    """Watch a worker's anonymous memory, in bytes; None stops that."""

    pid: int
    memory: int | None


class Spawned(msgspec.Struct, frozen=True, tag=True):
    """A worker was forked."""

    name: str
    pid: int


class NotSpawned(msgspec.Struct, frozen=True, tag=True):
    """The system refused to fork a worker: a limit on processes, or no memory."""

    name: str
    error: str


class ForkEnded(msgspec.Struct, frozen=True, tag=True):
    """A worker has ended.

    `cause`: `memory` or `stopped` where the server ended it, `container` where the kernel did since the memory of its container was
    used up; else empty.
    """

    pid: int
    status: int
    """An exit code, or minus the signal, as from `os.waitstatus_to_exitcode`."""
    peak_bytes: int
    cause: str = ""


Order: TypeAlias = Spawn | Limit
Report: TypeAlias = Spawned | NotSpawned | ForkEnded

_orders = msgspec.msgpack.Decoder(Order)


def pack_frame(message: Order | Report) -> bytes:
    """A message, prefixed with its length."""
    return framed(msgspec.msgpack.encode(message))


class _Child(msgspec.Struct, kw_only=True):
    memory: int | None = None
    peak_bytes: int = 0
    stopped_at: float | None = None
    cause: str = ""


class _Server:
    def __init__(self, driver: socket.socket) -> None:
        self._driver = driver
        self._buffer = bytearray()
        self._fds: list[int] = []
        self._children: dict[int, _Child] = {}
        self._woken, self._wake = os.pipe()
        self._kills = ContainerMemory.now().kills

    def serve(self) -> None:
        """Serve until the driver is gone."""
        os.set_blocking(self._wake, False)
        os.set_blocking(self._woken, False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(self._wake, warn_on_full_buffer=False)
        selector = selectors.DefaultSelector()
        selector.register(self._driver, selectors.EVENT_READ)
        selector.register(self._woken, selectors.EVENT_READ)
        while True:
            ready = [key.fileobj for key, _ in selector.select(WATCH_S if self._watches() else None)]
            if self._woken in ready:
                with contextlib.suppress(BlockingIOError):
                    os.read(self._woken, 4096)
            self._reap()
            self._watch()
            if self._driver in ready and not self._obey():
                return

    def end_all(self) -> None:
        """End every process below this one. It adopts orphans when their parents end, so this repeats until none is left."""
        for pid in self._children:
            _kill_group(pid)
        deadline = time.monotonic() + END_S
        while _has_children() and time.monotonic() < deadline:
            for pid in _children():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.001)

    def _tell(self, report: Report) -> None:
        with contextlib.suppress(BrokenPipeError):  # the driver is gone, which the next read finds
            send_all(self._driver, pack_frame(report))

    def _watches(self) -> bool:
        return any(
            child.memory is not None or child.stopped_at is not None for child in self._children.values()
        )

    def _obey(self) -> bool:
        try:
            data, fds, _, _ = socket.recv_fds(self._driver, 65536, 4 * FDS_PER_SPAWN)
        except ConnectionResetError:
            return False
        if not data:
            return False
        self._buffer += data
        self._fds += fds
        for frame in take_frames(self._buffer):
            order = _orders.decode(frame)
            if isinstance(order, Spawn):
                mine, self._fds = self._fds[:FDS_PER_SPAWN], self._fds[FDS_PER_SPAWN:]
                self._fork(order, mine)
            elif order.pid in self._children:
                self._children[order.pid].memory = order.memory
                self._children[order.pid].peak_bytes = 0
        return True

    def _fork(self, order: Spawn, fds: list[int]) -> None:
        pid = -1
        try:
            pid = os.fork()
        except OSError as error:  # the other workers go on
            self._tell(NotSpawned(order.name, str(error)))
            return
        finally:
            if pid != 0:
                for fd in fds:
                    os.close(fd)
        if pid == 0:
            self._driver.close()
            for fd in self._fds:
                os.close(fd)
            _become_worker(order, fds)
        self._children[pid] = _Child()
        self._tell(Spawned(order.name, pid))

    def _reap(self) -> None:
        while True:
            try:
                pid, status, usage = os.wait4(-1, os.WNOHANG | os.WUNTRACED | os.WCONTINUED)
            except ChildProcessError:
                return
            if pid == 0:
                return
            child = self._children.get(pid)
            if child is None:
                continue
            if os.WIFSTOPPED(status):
                child.stopped_at = time.monotonic()
            elif os.WIFCONTINUED(status):
                child.stopped_at = None
            else:
                del self._children[pid]
                _kill_group(pid)
                peak = max(child.peak_bytes, _bytes_of_maxrss(usage.ru_maxrss))
                code = os.waitstatus_to_exitcode(status)
                self._tell(ForkEnded(pid, code, peak, child.cause or self._by_kernel(code)))

    def _by_kernel(self, code: int) -> str:
        """`container` for a worker that the kernel has killed since the last look."""
        if code != -signal.SIGKILL:
            return ""
        before, self._kills = self._kills, ContainerMemory.now().kills
        return "container" if self._kills > before else ""

    def _watch(self) -> None:
        for pid, child in self._children.items():
            if child.memory is not None:
                used = anonymous_bytes(pid)
                child.peak_bytes = max(child.peak_bytes, used)
                if used > child.memory:
                    self._end(pid, child, "memory")
            if child.stopped_at is not None and time.monotonic() - child.stopped_at > STOPPED_S:
                self._end(pid, child, "stopped")

    def _end(self, pid: int, child: _Child, cause: str) -> None:
        child.cause = child.cause or cause
        child.memory = child.stopped_at = None
        _kill_group(pid)


def _become_worker(order: Spawn, fds: list[int]) -> None:
    """In the child: set up its own session, environment, folder and output, then serve attempts. Never returns."""
    connection, lifeline, tickets, log = fds
    code = 1
    try:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        os.setsid()
        if order.cores:  # before anything counts the available cores
            os.sched_setaffinity(0, order.cores)
        os.environ.clear()
        os.environ.update(order.environment)
        os.chdir(order.folder)
        os.dup2(log, 1)
        os.dup2(log, 2)
        os.close(log)
        for fd in (
            connection,
            lifeline,
            tickets,
        ):  # processes that a task starts must not keep the worker's socket open
            os.set_inheritable(fd, False)
        worker_process.main(connection, lifeline, tickets)
        code = 0
    except BaseException:  # noqa: BLE001 - a fork must not continue in its parent's code; the log has the traceback
        with contextlib.suppress(Exception):
            sys.excepthook(*sys.exc_info())  # pyrefly: ignore[bad-argument-type]
    finally:
        flush_output()
        os._exit(code)


def _kill_group(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)


def _has_children() -> bool:
    """Whether a child of this process is left, after those that have ended are taken leave of."""
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        return False
    return True


def _children() -> list[int]:
    """The children of this process (Linux). The kernel's list, where it keeps one, may lack some while others end."""
    try:
        return [int(pid) for pid in Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()]
    except FileNotFoundError:
        return _children_of(os.getpid())


def _children_of(pid: int) -> list[int]:
    """By the parents of all processes: 3 ms for a hundred of them."""
    found: list[int] = []
    for name in os.listdir("/proc") if sys.platform == "linux" else ():
        if name.isdecimal():
            with contextlib.suppress(OSError):
                stat = Path(f"/proc/{name}/stat").read_text()
                if int(stat.rpartition(")")[2].split()[1]) == pid:
                    found.append(int(name))
    return found


def _bytes_of_maxrss(maxrss: int) -> int:
    return maxrss if sys.platform == "darwin" else 1024 * maxrss


def _adopt_orphans() -> None:
    """Make orphans of workers children of this process, so it finds and ends them (Linux)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def main(fd: int) -> None:
    """Serve the driver behind the socket `fd`."""
    _adopt_orphans()
    gc.freeze()  # workers share what was imported: no collection needs to write to it
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    server = _Server(socket.socket(fileno=fd))
    try:
        server.serve()
    finally:
        server.end_all()


if __name__ == "__main__":
    main(int(sys.argv[1]))
    exit_with(0)  # nothing is left to tidy up, which takes a while
