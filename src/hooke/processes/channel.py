"""Messages over a socket between a driver and its processes, each with its length before it."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Callable
from pathlib import Path

__all__ = ["Channel", "connect_to", "framed", "listen_at", "take_frames"]


LENGTH_BYTES = 8

_READ = 1 << 16
"""Bytes per read: a burst of answers, or the largest one, in one or two."""


def framed(message: bytes) -> bytes:
    """A message with its length before it."""
    return len(message).to_bytes(LENGTH_BYTES, "little") + message


def take_frames(buffer: bytearray) -> list[bytes]:
    """The whole messages at the front of `buffer`, which loses them."""
    frames: list[bytes] = []
    start = 0
    while len(buffer) >= start + LENGTH_BYTES:
        body = start + LENGTH_BYTES
        end = body + int.from_bytes(buffer[start:body], "little")
        if len(buffer) < end:
            break
        frames.append(bytes(buffer[body:end]))
        start = end
    del buffer[:start]
    return frames


class Channel:
    """One end of a connected stream socket, whose descriptor it owns. Used from one thread, but for `hang_up`."""

    __slots__ = ("_came", "_held", "_messages", "_socket")

    def __init__(self, fd: int) -> None:
        self._socket = socket.socket(fileno=fd)
        self._came = bytearray()
        self._held = bytearray()
        self._messages: list[bytes] = []

    def fileno(self) -> int:
        """The descriptor; -1 once it is closed."""
        return self._socket.fileno()

    @property
    def closed(self) -> bool:
        """Whether this end was closed."""
        return self._socket.fileno() < 0

    @property
    def holds(self) -> bool:
        """Whether a message waits for `flush`."""
        return bool(self._held)

    def send(self, message: bytes) -> None:
        """Hand a message over, waiting while there is no room for it. Raises OSError where nobody will read it."""
        self.hold(message)
        self.flush()

    def hold(self, message: bytes) -> None:
        """Keep a message until the next `flush` or `send`: each of these wakes the other end once, which costs more than the message."""
        self._held += framed(message)

    def flush(self) -> None:
        """Hand over what is held, waiting while there is no room for it. Raises OSError where nobody will read it."""
        held, self._held = self._held, bytearray()
        self._socket.sendall(held)

    def receive(self) -> bytes:
        """The next message, waiting for it. Raises EOFError or ConnectionResetError where the other end is gone."""
        while not self._messages:
            if not self._take(0):
                raise EOFError
        return self._messages.pop(0)

    def take(self) -> tuple[list[bytes], bool]:
        """The messages that have come, without waiting, and whether the other end may still send more."""
        try:
            more = self._take(socket.MSG_DONTWAIT)
        except BlockingIOError:
            more = True
        except OSError:  # it was killed with messages of ours unread, or in the middle of one of its own
            more = False
        messages = self._messages
        self._messages = []
        return messages, more

    def hang_up(self) -> None:
        """End the connection for both, in any thread: whoever uses this end finds that out, and closes it."""
        with contextlib.suppress(OSError):  # it has ended
            self._socket.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Close this end."""
        self._socket.close()

    def _take(self, flags: int) -> bool:
        data = self._socket.recv(_READ, flags)
        self._came += data
        self._messages += take_frames(self._came)
        return bool(data)


# --- Unix sockets in a folder, however long its path is.

LONGEST = 100
"""Bytes of a path that every system takes as the address of a socket."""


def listen_at(path: Path) -> socket.socket:
    """A socket at `path`, which replaces what is there. Raises OSError."""
    path.unlink(missing_ok=True)
    made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        _at(path, made.bind)
        made.listen(16)
    except BaseException:
        made.close()
        raise
    return made


def connect_to(path: Path) -> socket.socket:
    """A connection to the socket at `path`. Raises OSError where nobody listens there."""
    made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        _at(path, made.connect)
    except BaseException:
        made.close()
        raise
    return made


def _at(path: Path, work: Callable[[str], None]) -> None:
    if len(os.fsencode(path)) <= LONGEST:
        work(str(path))
        return
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        work(f"/proc/self/fd/{folder}/{path.name}")  # Linux; elsewhere the system refuses it, and says so
    finally:
        os.close(folder)
