"""Where the command line asks a supervisor, and how it asks."""

from __future__ import annotations

import contextlib
import selectors
import socket
import struct
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import msgspec

from hooke.base.errors import HookeError, UsageError
from hooke.journal.service_events import BatchWindow, ModelEvent
from hooke.processes.channel import Channel, connect_to, listen_at
from hooke.processes.lease import Lease
from hooke.services.supervisor.replica_events import ReplicaReport
from hooke.services.supervisor.service_folder import ServiceFolder
from hooke.serving.metrics import Counts, ProxyStats

__all__ = [
    "CommandAccepted",
    "CommandRefused",
    "Control",
    "ControlServer",
    "ProxyDrainOrder",
    "ProxyDrainReply",
    "ProxyFailed",
    "ProxyPublished",
    "ProxyUp",
    "PublishPorts",
    "Renew",
    "ReplicaTold",
    "StopProxy",
    "SupervisorCommand",
    "ask",
    "decode_asked",
    "decode_reply",
    "decode_to_front",
    "decode_told",
    "pack",
]


# --- A child's end of its control channel: it tells how it is, obeys, and ends when nobody renews its lease.

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


# --- What a supervisor, its children and the command line tell one another over unix sockets.

pack = msgspec.msgpack.Encoder().encode


class Renew(msgspec.Struct, frozen=True, tag=True):
    """To a child: its supervisor is there."""


class PublishPorts(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """To the front: send new requests to these replicas, by name and port."""

    replicas: dict[str, int]


class ProxyDrainOrder(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """To the front: take nothing new, and answer what there is."""

    within_s: float


class StopProxy(msgspec.Struct, frozen=True, tag=True):
    """To the front: end."""


class ReplicaTold(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Of a replica: how it is, and what it did since it told that last."""

    report: ReplicaReport
    windows: tuple[BatchWindow, ...] = ()
    counts: Counts | None = None
    """None: as it told last."""
    events: tuple[ModelEvent, ...] = ()


class ProxyUp(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Of the front: it takes requests."""

    port: int
    pid: int
    """Envoy's own."""
    stats: ProxyStats | None = None
    """What it counted, a second ago at most; None where it did not say."""


class ProxyPublished(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Of the front: new requests go to these replicas, and to no others."""

    names: tuple[str, ...]


class ProxyDrainReply(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Of the front: nothing comes any more; `left` requests had no answer in time."""

    left: int


class ProxyFailed(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Of the front: it cannot go on. `kind` is the class of the error, the rest what that says."""

    kind: str
    what: str
    where: str = ""
    why: str = ""
    fix: str = ""


class SupervisorCommand(msgspec.Struct, frozen=True, kw_only=True):
    """To a supervisor, from the command line: `status`, `scale`, `replace`, `drain`, `down`."""

    verb: str
    low: int = 0
    high: int = 0
    replica: str = ""
    by: str = ""


class CommandAccepted(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Of a supervisor: it is done, or begun."""

    facts: dict[str, Any] = {}


class CommandRefused(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Of a supervisor: it cannot be done."""

    what: str
    fix: str = ""


ToFront: TypeAlias = Renew | PublishPorts | ProxyDrainOrder | StopProxy
OfChild: TypeAlias = ReplicaTold | ProxyUp | ProxyPublished | ProxyDrainReply | ProxyFailed

decode_to_front = msgspec.msgpack.Decoder(ToFront).decode
decode_told = msgspec.msgpack.Decoder(OfChild).decode
decode_asked = msgspec.msgpack.Decoder(SupervisorCommand).decode
decode_reply = msgspec.msgpack.Decoder(CommandAccepted | CommandRefused).decode


ANSWER_S = 10
"""A supervisor answers within milliseconds, unless it is stopped."""


class ControlServer:
    """The supervisor's end. Belongs to its loop's thread."""

    def __init__(self, path: Path, answer: Callable[[SupervisorCommand], dict[str, Any]]) -> None:
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

    def _reply(self, message: bytes) -> CommandAccepted | CommandRefused:
        try:
            return CommandAccepted(facts=self._answer(decode_asked(message)))
        except HookeError as error:
            return CommandRefused(what=error.what, fix=error.fix)
        except msgspec.MsgspecError as error:
            return CommandRefused(
                what=f"what was asked cannot be read: {error}", fix="ask with the Hooke that serves"
            )


def ask(folder: ServiceFolder, asked: SupervisorCommand) -> dict[str, Any]:
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
            fix="see whether it is stopped (ps), or end it: kill -CONT, then kill",
        ) from error
    if isinstance(reply, CommandRefused):
        raise UsageError(reply.what, fix=reply.fix)
    return reply.facts
