"""Messages between processes of this machine: framed by their length, over a connected socket or a socket in a folder."""

from __future__ import annotations

import contextlib
import errno
import os
import selectors
import socket
import struct
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TypeAlias

__all__ = [
    "LENGTH_BYTES",
    "Channel",
    "ChannelServer",
    "Tickets",
    "connect_to",
    "framed",
    "listen_at",
    "patiently",
    "send_all",
    "take_frames",
]


LENGTH_BYTES = 8

_READ = 1 << 16
"""Bytes per read: a burst of answers, or the largest one, in one or two."""
_NO_MEMORY = frozenset({errno.ENOBUFS, errno.ENOMEM})
"""The system may have memory for a message again in a moment."""
_TRIES, _AGAIN_S = 200, 0.01
SEND_S = 1
"""A client that reads nothing for so long, and whose socket is full, is disconnected."""


def framed(message: bytes) -> bytes:
    """A message after its length."""
    return len(message).to_bytes(LENGTH_BYTES, "little") + message


def take_frames(buffer: bytearray) -> list[bytes]:
    """Remove the complete messages at the front of `buffer`, and return them."""
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


def patiently(send: Callable[[], int]) -> int:
    """`send()`, and again for a while if the system has no memory for it. Raises OSError."""
    for _ in range(_TRIES - 1):
        try:
            return send()
        except OSError as error:
            if error.errno not in _NO_MEMORY:
                raise
        time.sleep(_AGAIN_S)
    return send()


def send_all(connected: socket.socket, data: bytes) -> None:
    """Send all of `data`; blocks while the socket is full, and is patient. Raises OSError."""
    left = bytearray(data)
    while left:
        del left[: patiently(lambda: connected.send(left))]


class Channel:
    """One end of a connected stream socket, whose descriptor it owns. All calls but `hang_up` come from one thread."""

    __slots__ = ("_held", "_messages", "_received", "_socket", "error")

    def __init__(self, fd: int) -> None:
        self.error: OSError | None = None
        """Why sending failed, if it did."""
        self._socket = socket.socket(fileno=fd)
        self._received = bytearray()
        self._held = bytearray()
        self._messages: list[bytes] = []

    def fileno(self) -> int:
        """The descriptor; -1 after `close`."""
        return self._socket.fileno()

    @property
    def closed(self) -> bool:
        """Whether this end is closed."""
        return self._socket.fileno() < 0

    @property
    def holds(self) -> bool:
        """Whether a message waits for `flush`."""
        return bool(self._held)

    def send(self, message: bytes) -> None:
        """Send a message; blocks while the socket is full. Raises OSError if the other end is gone."""
        self.hold(message)
        self.flush()

    def hold(self, message: bytes) -> None:
        """Keep a message until the next `flush` or `send`: each of these wakes the other end once, which costs more than the message."""
        self._held += framed(message)

    def flush(self) -> None:
        """Send the held messages; blocks while the socket is full, and tries again while the system lacks memory for it.

        Raises OSError if the other end is gone, or if sending fails for another reason. The connection has then ended for
        both ends, so that whoever reads here learns of it: a message must not be lost with nobody the wiser.
        """
        try:
            while self._held:
                del self._held[: patiently(lambda: self._socket.send(self._held))]
        except OSError as error:
            self.error = error
            self.hang_up()
            raise

    def receive(self) -> bytes:
        """Wait for the next message. Raises EOFError or ConnectionResetError if the other end is gone."""
        while not self._messages:
            if not self._take(0):
                raise EOFError
        return self._messages.pop(0)

    def take(self) -> tuple[list[bytes], bool]:
        """The messages received so far, without waiting, and whether the other end may send more."""
        try:
            more = self._take(socket.MSG_DONTWAIT)
        except BlockingIOError:
            more = True
        except OSError:  # the other end was killed with unread messages, or in the middle of one of its own
            more = False
        messages = self._messages
        self._messages = []
        return messages, more

    def hang_up(self) -> None:
        """End the connection for both ends, from any thread. The thread that uses this end sees that, and closes it."""
        with contextlib.suppress(OSError):  # it has ended
            self._socket.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Close this end."""
        self._socket.close()

    def _take(self, flags: int) -> bool:
        data = self._socket.recv(_READ, flags)
        self._received += data
        self._messages += take_frames(self._received)
        return bool(data)


class Tickets:
    """Permissions to begin what waits in another process: numbers in a pipe from which both processes read, so each goes to one of them.

    What has a ticket begins if its process takes the ticket, and never if the process that issued it was faster. One process,
    the one with `write`, issues tickets and takes them back; the other takes them in order.
    """

    __slots__ = ("_issued", "_next", "_read", "_unwritten", "_write")

    def __init__(self, read: int, write: int = -1) -> None:
        """Owns both ends of a pipe. The reading end must not block."""
        self._read = read
        self._write = write
        self._issued = 0
        self._next = 0
        self._unwritten = bytearray()

    def issue(self) -> int:
        """A new ticket, above 0 and above all before it. The other process can take it after `flush`."""
        self._issued += 1
        self._unwritten += self._issued.to_bytes(_TICKET_BYTES, sys.byteorder)
        return self._issued

    def flush(self) -> None:
        """Let the other process take what was issued. Call it before sending what the tickets are for."""
        if self._unwritten:
            os.write(self._write, self._unwritten)
            self._unwritten.clear()

    def take_back(self) -> frozenset[int]:
        """Take back the tickets that the other process has not taken; returns them."""
        self.flush()
        with contextlib.suppress(BlockingIOError):
            data = os.read(self._read, _TICKET_BYTES * MOST_TICKETS)
            return frozenset(memoryview(data).cast("Q"))
        return frozenset()

    def take(self, number: int) -> bool:
        """Whether this process may begin what has the ticket."""
        if self._next < number:
            try:
                self._next = int.from_bytes(os.read(self._read, _TICKET_BYTES), sys.byteorder)
            except BlockingIOError:
                return False
        return self._next == number  # else this one was taken back, and the next is in hand

    def close(self) -> None:
        """Close the pipe. The other process has ends of its own."""
        ends = self._read, self._write
        self._read = self._write = -1  # first: two threads may notice the same end
        for fd in ends:
            if fd >= 0:
                os.close(fd)


_TICKET_BYTES = 8

MOST_TICKETS = 4096
"""How many may be in the pipe at once: they fit its buffer."""


# --- Unix sockets in a folder, however long its path is.

LONGEST_PATH = 100
"""Bytes of a path that every system takes as the address of a socket."""


def listen_at(path: Path) -> socket.socket:
    """A listening socket at `path`; replaces what is there. Raises OSError."""
    path.unlink(missing_ok=True)
    made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        _with_address(path, made.bind)
        made.listen(16)
    except BaseException:
        made.close()
        raise
    return made


def connect_to(path: Path) -> socket.socket:
    """A connection to the socket at `path`. Raises OSError where no process listens."""
    made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        _with_address(path, made.connect)
    except BaseException:
        made.close()
        raise
    return made


def _with_address(path: Path, work: Callable[[str], None]) -> None:
    if len(os.fsencode(path)) <= LONGEST_PATH:
        work(str(path))
        return
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        work(
            f"/proc/self/fd/{folder}/{path.name}"
        )  # Linux; other systems refuse it with an error of their own
    finally:
        os.close(folder)


Answer: TypeAlias = Callable[[bytes], bytes | None]
"""Takes a message, and returns the reply if there is one."""


class ChannelServer:
    """Serves all who connect to `listening`, which it owns. Belongs to one thread."""

    def __init__(self, listening: socket.socket, answer: Answer) -> None:
        self._listening = listening
        self._answer = answer
        self._channels: list[Channel] = []

    @property
    def connected(self) -> bool:
        """Whether anybody is connected."""
        return bool(self._channels)

    def register(self, selector: selectors.BaseSelector) -> None:
        """Let a selector wait for connections and messages."""
        for source in (self._listening, *self._channels):
            selector.register(source, selectors.EVENT_READ)

    def serve(self, ready: Iterable[object]) -> bool:
        """Accept and answer on those of `ready` that are this server's; returns whether there is a new connection."""
        connected = False
        for source in ready:
            if source is self._listening:
                connection, _ = self._listening.accept()
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("ll", SEND_S, 0))
                self._channels.append(Channel(connection.detach()))
                connected = True
            elif isinstance(source, Channel) and source in self._channels:
                self._read(source)
        return connected

    def turn(self, timeout_s: float, *, wakes: int | None = None) -> bool:
        """Wait at most so long for messages, and serve them; as `serve`. The wait ends, too, when the descriptor `wakes` can be read."""
        with selectors.DefaultSelector() as selector:
            self.register(selector)
            if wakes is not None:
                selector.register(wakes, selectors.EVENT_READ)
            return self.serve([key.fileobj for key, _ in selector.select(timeout_s)])

    def send(self, message: bytes) -> None:
        """Send to all who are connected. Disconnects a client that does not read."""
        for channel in list(self._channels):
            try:
                channel.send(message)
            except OSError:
                self._drop(channel)

    def close(self) -> None:
        """Disconnect all, and stop listening."""
        for channel in self._channels:
            channel.close()
        self._channels.clear()
        self._listening.close()

    def _read(self, channel: Channel) -> None:
        messages, more = channel.take()
        for message in messages:
            reply = self._answer(message)
            if reply is not None:
                with contextlib.suppress(OSError):  # the client has gone
                    channel.send(reply)
        if not more:
            self._drop(channel)

    def _drop(self, channel: Channel) -> None:
        if channel in self._channels:  # an answer may have dropped it
            self._channels.remove(channel)
            channel.close()
