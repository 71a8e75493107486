"""The driver's side of the fork server: starts it, requests workers, and learns how they ended."""

from __future__ import annotations

import contextlib
import errno
import os
import select
import socket
import subprocess
import time
from pathlib import Path

import msgspec

from hooke.base.errors import HookeError
from hooke.base.files import writing
from hooke.base.this_process import on_fork
from hooke.engines.worker.fork_server import (
    STOPPED_S,
    ForkEnded,
    Limit,
    NotSpawned,
    Report,
    Spawn,
    Spawned,
    pack_frame,
)
from hooke.processes.channel import Channel, Tickets, patiently, send_all, take_frames
from hooke.processes.start import StartedProcess, start_with_socket

__all__ = ["ForkRefused", "ForkServer", "ForkedWorker"]

START_S = 300.0
"""How long a server that lives may take to answer. It imports first: twenty in pods that share two cores took longer than a minute."""

SOCKET_BYTES = 200 << 10
"""What a worker's socket takes before it is full: Linux's own default; elsewhere that is less than waiting calls need."""

CLOSE_S = 5.0
"""How long the server may take to end all below it, before it is killed."""

LOOK_S = 0.05
"""How long a check that the server runs stays valid: each check costs more than handing over a task."""

_reports = msgspec.msgpack.Decoder(Report)


class ForkedWorker(msgspec.Struct, frozen=True, kw_only=True):
    """A forked worker: its pid, the socket to it, the lifeline, which ends it when closed, and the tickets of what waits in it."""

    pid: int
    channel: Channel
    lifeline: int
    tickets: Tickets


class ForkRefused(HookeError):
    """The system refuses another process now, by a limit or for want of memory; it may allow one later."""


class ForkServer:
    """One fork server, started by the first `spawn`. A forked child of this process does not inherit it."""

    def __init__(self) -> None:
        self._popen: StartedProcess | None = None
        self._socket: socket.socket | None = None
        self._buffer = bytearray()
        self._reports: list[Report] = []
        self._looked_at = 0.0
        self._code: int | None = None
        self.generation = 0
        """How many servers were started: each worker is watched by the one that forked it."""
        on_fork(self)

    def spawn(self, order: Spawn, *, log: Path) -> ForkedWorker:
        """Fork a worker that writes to `log`. Replaces a server that died.

        Raises ForkRefused if the system refuses another process now, HookeError if no worker can be forked.
        """
        with writing("a worker's log", log):
            log_fd = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
        try:
            return self._spawned(order, log_fd) or self._spawned(order, log_fd) or self._failed()
        finally:
            os.close(log_fd)

    def _spawned(self, order: Spawn, log_fd: int) -> ForkedWorker | None:
        """The worker, or None where the server died, or had to be ended, before it answered."""
        with contextlib.ExitStack() as theirs_now, contextlib.ExitStack() as failed:
            ours, theirs = socket.socketpair()
            theirs_now.callback(theirs.close)
            failed.callback(ours.close)
            ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SOCKET_BYTES)
            life_theirs, life_ours = os.pipe()
            theirs_now.callback(os.close, life_theirs)
            failed.callback(os.close, life_ours)
            read, write = os.pipe()
            os.set_blocking(read, False)
            tickets = Tickets(read, write)
            failed.callback(tickets.close)
            try:
                self._send(pack_frame(order), [theirs.fileno(), life_theirs, read, log_fd])
                pid = self._pid_of(order.name)
            except (BrokenPipeError, ConnectionResetError):
                # Its end of the socket closes shortly before the kernel reports its end.
                self.close()
                return None
            if pid is None:
                return None
            failed.pop_all()
        return ForkedWorker(pid=pid, channel=Channel(ours.detach()), lifeline=life_ours, tickets=tickets)

    def alive(self) -> bool:
        """Whether the server ran at the last check."""
        now = time.monotonic()
        if now - self._looked_at > LOOK_S and self._popen is not None and self._popen.poll() is None:
            self._looked_at = now
        return now - self._looked_at <= LOOK_S

    def limit(self, pid: int, memory: int | None) -> None:
        """Have a worker's anonymous memory watched, if a server runs."""
        if self._socket is not None:
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                send_all(self._socket, pack_frame(Limit(pid, memory)))

    def ended(self, pid: int, *, within_s: float) -> ForkEnded | None:
        """How a worker ended, waiting at most `within_s` for the report; None where there is none."""
        deadline = time.monotonic() + within_s
        while True:
            for report in self._reports:
                if isinstance(report, ForkEnded) and report.pid == pid:
                    self._reports.remove(report)
                    return report
            left = deadline - time.monotonic()
            if left <= 0 or not self._read(left):
                return None

    def close(self) -> None:
        """End the server and all its workers."""
        deadline = time.monotonic() + CLOSE_S
        if self._socket is not None:
            _close(self._socket, deadline)
            self._socket = None
        if self._popen is not None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._popen.wait(max(deadline - time.monotonic(), 0.1))
            if self._popen.poll() is None:
                self._popen.kill()
                self._popen.wait()
            self._code, self._popen = self._popen.returncode, None

    def after_fork(self) -> None:
        """In a forked child of the driver: drop the server, which is the parent's."""
        if self._socket is not None:
            self._socket.close()
        self._socket = self._popen = None

    def _send(self, data: bytes, fds: list[int]) -> None:
        connected = self._connected()
        sent = patiently(lambda: socket.send_fds(connected, [data], fds))
        send_all(connected, data[sent:])

    def _connected(self) -> socket.socket:
        if self._socket is not None and self._popen is not None and self._popen.poll() is None:
            return self._socket
        self.close()
        try:
            self._popen, self._socket = start_with_socket("hooke.engines.worker.fork_server")
        except OSError as error:
            if error.errno in (errno.EAGAIN, errno.ENOMEM):
                raise _refused(str(error)) from error
            raise _cannot_start(str(error)) from error
        self._buffer.clear()
        self._reports.clear()
        self.generation += 1
        return self._socket

    def _pid_of(self, name: str) -> int | None:
        """The pid of the named worker, or None where the server is gone, or was stopped and had to be ended."""
        deadline = time.monotonic() + START_S
        while (left := deadline - time.monotonic()) > 0:
            for report in self._reports:
                if isinstance(report, Spawned | NotSpawned) and report.name == name:
                    self._reports.remove(report)
                    if isinstance(report, NotSpawned):
                        raise _refused(report.error)
                    return report.pid
            if not self._read(min(left, STOPPED_S)) and not self._may_answer():
                return None
        raise _cannot_start("it did not answer")

    def _may_answer(self) -> bool:
        """Whether the server may still answer. A stopped one (SIGSTOP) is ended; its workers finish their attempts."""
        import psutil  # 5 ms of each start, for the rare server that is late

        assert self._popen is not None
        try:
            stopped = psutil.Process(self._popen.pid).status() == psutil.STATUS_STOPPED
        except psutil.NoSuchProcess:
            return False
        if stopped:
            self._popen.kill()
            self._popen.wait()
        # Its end of the socket closes shortly before it becomes a zombie.
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._popen.wait(0.01)
        return self._popen.poll() is None

    def _failed(self) -> ForkedWorker:
        code = self._popen.poll() if self._popen is not None else self._code
        raise _cannot_start(f"the fork server ended with exit code {code}, twice")

    def _read(self, timeout_s: float) -> bool:
        """Read reports of the server. False where none came in time, or it is gone."""
        if self._socket is None or not _readable(self._socket, timeout_s):
            return False
        try:
            data = self._socket.recv(65536)
        except ConnectionResetError:
            return False
        self._buffer += data
        self._reports += [_reports.decode(frame) for frame in take_frames(self._buffer)]
        return bool(data)


def _close(connected: socket.socket, deadline: float) -> None:
    """Close our end, and wait for the server to end, which closes its own: a wait for a process would have to look again and again."""
    with contextlib.closing(connected), contextlib.suppress(OSError):
        connected.shutdown(socket.SHUT_WR)
        while _readable(connected, max(deadline - time.monotonic(), 0.0)) and connected.recv(65536):
            pass


def _readable(connected: socket.socket, timeout_s: float) -> bool:
    """Whether there is something to read in time. Uses `poll`, since `select` rejects descriptors above 1023."""
    waiting = select.poll()
    waiting.register(connected, select.POLLIN)
    return bool(waiting.poll(timeout_s * 1000))


def _refused(error: str) -> ForkRefused:
    return ForkRefused(
        "the system refused to start another worker process",
        why=error,
        fix="raise the limit on processes (ulimit -u, or the container's pids limit), free memory, or use fewer workers",
    )


def _cannot_start(why: str) -> HookeError:
    return HookeError(
        "no worker process could be started on this machine",
        why=why,
        fix='see its output above; `on="serial"` runs without worker processes',
        next="hooke doctor",
    )
