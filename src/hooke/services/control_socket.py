"""The control socket of a service: the commands that `hooke serve status`, `scale`, `drain` and `down` send, and the replies."""

from __future__ import annotations

import selectors
import socket
import struct
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import msgspec

from hooke.base.errors import HookeError, UsageError
from hooke.processes.channel import Channel, ChannelServer, connect_to, listen_at

__all__ = ["CommandAccepted", "CommandRefused", "ControlServer", "ServiceCommand", "send_command"]

REPLY_S = 10
"""A service replies within milliseconds, unless its process is stopped."""


class ServiceCommand(msgspec.Struct, frozen=True, kw_only=True):
    """A command: `status`, `scale`, `replace`, `accept`, `reject`, `drain` or `down`. `by` names the sender."""

    verb: str
    low: int = 0
    high: int = 0
    replica: str = ""
    by: str = ""


class CommandAccepted(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """The command is done, or under way."""

    facts: dict[str, Any] = {}


class CommandRefused(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """The command cannot be done."""

    what: str
    fix: str = ""


encode = msgspec.msgpack.Encoder().encode
decode_command = msgspec.msgpack.Decoder(ServiceCommand).decode
decode_reply = msgspec.msgpack.Decoder(CommandAccepted | CommandRefused).decode


class ControlServer:
    """The service's end of the socket at `path`. Belongs to one thread."""

    def __init__(self, path: Path, execute: Callable[[ServiceCommand], dict[str, Any]]) -> None:
        self._path = path
        self._execute = execute
        self._server: ChannelServer | None = None

    def open(self) -> None:
        """Begin to listen. Raises OSError."""
        self._server = ChannelServer(listen_at(self._path), self._reply)

    def register(self, selector: selectors.BaseSelector) -> None:
        """Let a selector wait for commands."""
        if self._server is not None:
            self._server.register(selector)

    def serve(self, ready: Iterable[object]) -> None:
        """Reply on those sources that are ready."""
        if self._server is not None:
            self._server.serve(ready)

    def turn(self, timeout_s: float) -> None:
        """Wait at most so long for commands, and reply."""
        if self._server is not None:
            self._server.turn(timeout_s)

    def close(self) -> None:
        """Stop listening."""
        if self._server is not None:
            self._server.close()
            self._path.unlink(missing_ok=True)

    def _reply(self, message: bytes) -> bytes:
        try:
            return encode(CommandAccepted(facts=self._execute(decode_command(message))))
        except HookeError as error:
            return encode(CommandRefused(what=error.what, fix=error.fix))
        except msgspec.MsgspecError as error:
            refused = CommandRefused(
                what=f"the command cannot be read: {error}", fix="use the version of Hooke that serves"
            )
            return encode(refused)


def send_command(path: Path, command: ServiceCommand, *, name: str, pid: int | None) -> dict[str, Any]:
    """The reply of the service `name` at `path`. Raises UsageError if it refuses, HookeError if it does not reply."""
    try:
        connection = connect_to(path)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("ll", REPLY_S, 0))
        channel = Channel(connection.detach())
        try:
            channel.send(encode(command))
            reply = decode_reply(channel.receive())
        finally:
            channel.close()
    except (OSError, EOFError) as error:
        silent = isinstance(error, BlockingIOError)
        raise HookeError(
            f"{name} does not reply",
            where=f"pid {pid}, {path}" if pid is not None else str(path),
            why=f"no reply within {REPLY_S} s" if silent else str(error) or "its process ended",
            fix="if it is stopped (see ps), continue it: kill -CONT PID; or end it: kill PID",
        ) from error
    if isinstance(reply, CommandRefused):
        raise UsageError(reply.what, fix=reply.fix)
    return reply.facts
