"""The driver's side of the fork server: start it, ask it for workers, hear of their ends."""

from __future__ import annotations

import contextlib
import os
import select
import socket
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

import msgspec
import psutil

from hooke.base.errors import HookeError
from hooke.base.files import writing
from hooke.base.forks import on_fork
from hooke.engines.worker.fork_server import STOPPED_S, ForkEnded, Limit, Report, Spawn, Spawned, pack_frame
from hooke.processes.channel import Channel, take_frames
from hooke.processes.start import python_module

__all__ = ["ForkServer", "ForkedWorker"]

START_S = 60.0
"""A loaded machine may take long to start an interpreter; longer than this something is wrong with it."""

LOOK_S = 0.05
"""How old the knowledge may be that the server lives: to ask the kernel costs more than to hand over a task."""

_reports = msgspec.msgpack.Decoder(Report)


@dataclass(frozen=True, slots=True, kw_only=True)
class ForkedWorker:
    """A worker that was forked: its process, the socket to it, and the lifeline whose closing ends it."""

    pid: int
    channel: Channel
    lifeline: int


class ForkServer:
    """One fork server; started at the first `spawn`. Not for a forked child of this process, which gets none of it."""

    def __init__(self) -> None:
        self._popen: subprocess.Popen[bytes] | None = None
        self._socket: socket.socket | None = None
        self._buffer = bytearray()
        self._reports: list[Report] = []
        self._looked_at = 0.0
        self._code: int | None = None
        self.generation = 0
        """How many servers there have been: a worker is watched by the one that forked it."""
        on_fork(self)

    def spawn(self, order: Spawn, *, log: Path) -> ForkedWorker:
        """Fork a worker that writes to `log`. Raises HookeError where that is not possible; a server that died is replaced."""
        with writing("a worker's log", log):
            log_fd = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
        try:
            return self._spawned(order, log_fd) or self._spawned(order, log_fd) or self._given_up()
        finally:
            os.close(log_fd)

    def _spawned(self, order: Spawn, log_fd: int) -> ForkedWorker | None:
        """The worker; None where the server died, or had to be ended, before it answered."""
        ours, theirs = socket.socketpair()
        life_theirs, life_ours = os.pipe()
        pid = None
        try:
            self._send(pack_frame(order), [theirs.fileno(), life_theirs, log_fd])
            pid = self._pid_of(order.name)
        except (BrokenPipeError, ConnectionResetError):
            # Its end of the socket closes a moment before the kernel says that it has ended.
            self.close()
            return None
        finally:
            theirs.close()
            os.close(life_theirs)
            if pid is None:
                ours.close()
                os.close(life_ours)
        return ForkedWorker(pid=pid, channel=Channel(ours.detach()), lifeline=life_ours) if pid else None

    def alive(self) -> bool:
        """Whether the server runs, as of a moment ago."""
        now = time.monotonic()
        if now - self._looked_at > LOOK_S and self._popen is not None and self._popen.poll() is None:
            self._looked_at = now
        return now - self._looked_at <= LOOK_S

    def limit(self, pid: int, memory: int | None) -> None:
        """Have a worker's anonymous memory watched, if the server that forked it is still there."""
        if self._socket is not None:
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                self._socket.sendall(pack_frame(Limit(pid, memory)))

    def ended(self, pid: int, *, within_s: float) -> ForkEnded | None:
        """How a worker ended, waiting at most so long to be told; None where the server cannot tell."""
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
        """End the server and all that it forked."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None
        if self._popen is not None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._popen.wait(5.0)
            if self._popen.poll() is None:
                self._popen.kill()
                self._popen.wait()
            self._code, self._popen = self._popen.returncode, None

    def after_fork(self) -> None:
        """In a forked child of the driver: the server is the parent's."""
        if self._socket is not None:
            self._socket.close()
        self._socket = self._popen = None

    def _send(self, data: bytes, fds: list[int]) -> None:
        connected = self._connected()
        sent = socket.send_fds(connected, [data], fds)
        if sent < len(data):
            connected.sendall(data[sent:])

    def _connected(self) -> socket.socket:
        if self._socket is not None and self._popen is not None and self._popen.poll() is None:
            return self._socket
        self.close()
        ours, theirs = socket.socketpair()
        with theirs:
            self._popen = subprocess.Popen(
                python_module("hooke.engines.worker.fork_server", str(theirs.fileno())),
                stdin=subprocess.DEVNULL,
                pass_fds=(theirs.fileno(),),
                start_new_session=True,
            )
        self._buffer.clear()
        self._reports.clear()
        self._socket = ours
        self.generation += 1
        return ours

    def _pid_of(self, name: str) -> int | None:
        """The pid of the worker of that name; None where the server is gone, or was stopped and had to be ended."""
        deadline = time.monotonic() + START_S
        while (left := deadline - time.monotonic()) > 0:
            for report in self._reports:
                if isinstance(report, Spawned) and report.name == name:
                    self._reports.remove(report)
                    return report.pid
            if not self._read(min(left, STOPPED_S)) and not self._is_at_work():
                return None
        raise _cannot_start("it did not answer")

    def _is_at_work(self) -> bool:
        """Whether the server may still answer. One that is stopped (SIGSTOP) is ended: its workers finish what they do."""
        assert self._popen is not None
        try:
            stopped = psutil.Process(self._popen.pid).status() == psutil.STATUS_STOPPED
        except psutil.NoSuchProcess:
            return False
        if stopped:
            self._popen.kill()
            self._popen.wait()
        # Its end of the socket closes a moment before it is a zombie.
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._popen.wait(0.01)
        return self._popen.poll() is None

    def _given_up(self) -> ForkedWorker:
        code = self._popen.poll() if self._popen is not None else self._code
        raise _cannot_start(f"the fork server ended with exit code {code}, twice")

    def _read(self, timeout_s: float) -> bool:
        """Take in what the server says; False where nothing came in time or it is gone."""
        if self._socket is None or not _comes(self._socket, timeout_s):
            return False
        try:
            data = self._socket.recv(65536)
        except ConnectionResetError:
            return False
        self._buffer += data
        self._reports += [_reports.decode(frame) for frame in take_frames(self._buffer)]
        return bool(data)


def _comes(connected: socket.socket, timeout_s: float) -> bool:
    """Whether there is something to read in time. Not by `select`, which takes no descriptor above 1023."""
    waiting = select.poll()
    waiting.register(connected, select.POLLIN)
    return bool(waiting.poll(timeout_s * 1000))


def _cannot_start(why: str) -> HookeError:
    return HookeError(
        "no worker process could be started on this machine",
        why=why,
        fix='look at what it printed above; `on="serial"` runs without worker processes',
        next="hooke doctor",
    )
