"""Where the command line asks a supervisor, and how it asks."""

from __future__ import annotations

import contextlib
import selectors
import socket
import struct
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec

from hooke.base.errors import HookeError, UsageError
from hooke.engines.channel import Channel
from hooke.project.supervising.messages import Answered, Asked, Refused, decode_asked, decode_reply, pack
from hooke.project.supervising.service_folder import ServiceFolder
from hooke.project.supervising.sockets import connect_to, listen_at

__all__ = ["Desk", "ask"]

ANSWER_S = 10
"""A supervisor answers within milliseconds, unless it is stopped."""


class Desk:
    """The supervisor's end. Belongs to its loop's thread."""

    def __init__(self, path: Path, answer: Callable[[Asked], dict[str, Any]]) -> None:
        self._path = path
        self._answer = answer
        self._listening: socket.socket | None = None
        self._channels: list[Channel] = []

    def open(self) -> None:
        """Begin to listen. Raises OSError."""
        self._listening = listen_at(self._path)

    def register(self, selector: selectors.BaseSelector) -> None:
        """Let the loop wait for what is asked, too."""
        for source in (self._listening, *self._channels):
            if source is not None:
                selector.register(source, selectors.EVENT_READ)

    def serve(self, ready: Sequence[object]) -> None:
        """Answer what was asked on those that are ready."""
        for source in ready:
            if source is self._listening and self._listening is not None:
                connection, _ = self._listening.accept()
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("ll", 1, 0))
                self._channels.append(Channel(connection.detach()))
            elif isinstance(source, Channel) and source in self._channels:
                self._read(source)

    def close(self) -> None:
        """Listen no more."""
        for channel in self._channels:
            channel.close()
        self._channels.clear()
        if self._listening is not None:
            self._listening.close()
            self._path.unlink(missing_ok=True)

    def _read(self, channel: Channel) -> None:
        messages, more = channel.take()
        with contextlib.suppress(OSError):  # whoever asked has gone
            for message in messages:
                channel.send(pack(self._reply(message)))
        if not more:
            self._channels.remove(channel)
            channel.close()

    def _reply(self, message: bytes) -> Answered | Refused:
        try:
            return Answered(facts=self._answer(decode_asked(message)))
        except HookeError as error:
            return Refused(what=error.what, mend=error.mend)
        except msgspec.MsgspecError as error:
            return Refused(
                what=f"what was asked cannot be read: {error}", mend="ask with the Hooke that serves"
            )


def ask(folder: ServiceFolder, asked: Asked) -> dict[str, Any]:
    """What the supervisor of this folder answers. Raises UsageError where it refuses, HookeError where it does not answer."""
    try:
        connection = connect_to(folder.socket)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("ll", ANSWER_S, 0))
        channel = Channel(connection.detach())
        try:
            channel.send(pack(asked))
            reply = decode_reply(channel.receive())
        finally:
            channel.close()
    except (OSError, EOFError) as error:
        record = folder.record()
        raise HookeError(
            f"the supervisor of {folder.name} does not answer",
            where=f"pid {record.pid}, {folder.socket}" if record is not None else str(folder.socket),
            why=f"it said nothing for {ANSWER_S} s"
            if isinstance(error, BlockingIOError)
            else str(error) or "it ended",
            mend="see whether it is stopped (ps), or end it: kill -CONT, then kill",
        ) from error
    if isinstance(reply, Refused):
        raise UsageError(reply.what, mend=reply.mend)
    return reply.facts
