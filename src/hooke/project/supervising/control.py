"""A child's end of its control channel: it tells how it is, obeys, and ends when nobody renews its lease."""

from __future__ import annotations

import contextlib
import selectors
import socket
import struct
import time
from collections.abc import Callable

from hooke.engines.channel import Channel
from hooke.serving.supervision.lease import Lease

__all__ = ["Control"]

TELL_S = 0.2
"""How old what a supervisor knows may be: it bounds how soon a replica leaves after its last answer."""
SEND_S = 1
"""A supervisor that reads nothing for so long, and whose socket is full, is not waited for."""


class Control:
    """Serves whoever connects to `listening`: supervisors, one after the other, or two for a moment. Belongs to one thread."""

    def __init__(
        self,
        listening: socket.socket,
        lease: Lease,
        *,
        tell: Callable[[], bytes | None],
        obey: Callable[[bytes], None],
        expired: Callable[[], None],
    ) -> None:
        """`tell` gives what each is sent several times a second; `obey` gets what they send, a renewal included; `expired` is called once."""
        self._listening = listening
        self._lease = lease
        self._tell = tell
        self._obey = obey
        self._expired: Callable[[], None] | None = expired
        self._channels: list[Channel] = []
        self._selector = selectors.DefaultSelector()
        self._selector.register(listening, selectors.EVENT_READ)
        self._closed = False
        self._told = 0.0

    def serve(self) -> None:
        """Until `close`."""
        while not self._closed:
            self.turn(TELL_S)

    def turn(self, timeout_s: float) -> None:
        """Obey what has come, or comes within this time; then tell, if it is time."""
        for key, _ in self._selector.select(timeout_s):
            if key.fileobj is self._listening:
                self._accept()
            else:
                self._read(key.fileobj)
        now = time.monotonic()
        if self._expired is not None and self._lease.expired(now):
            expired, self._expired = self._expired, None
            expired()
        if now - self._told >= TELL_S * 0.9:
            self._told = now
            message = self._tell()
            if message is not None:
                self.send(message)

    def send(self, message: bytes) -> None:
        """To all who listen; whoever does not is let go."""
        for channel in list(self._channels):
            try:
                channel.send(message)
            except OSError:
                self._drop(channel)

    def close(self) -> None:
        """End `serve`, from its own thread or from another."""
        self._closed = True

    def _accept(self) -> None:
        connection, _ = self._listening.accept()
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("ll", SEND_S, 0))
        channel = Channel(connection.detach())
        self._channels.append(channel)
        self._selector.register(channel, selectors.EVENT_READ)
        self._told = 0.0

    def _read(self, channel: object) -> None:
        assert isinstance(channel, Channel)
        messages, more = channel.take()
        for message in messages:
            self._lease.renew(time.monotonic())
            self._obey(message)
        if not more:
            self._drop(channel)

    def _drop(self, channel: Channel) -> None:
        self._channels.remove(channel)
        with contextlib.suppress(KeyError):
            self._selector.unregister(channel)
        channel.close()
