"""The control channel between a supervisor and its children: the messages, and the child's end."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from typing import TypeAlias

import msgspec

from hooke.journal.service_events import BatchWindow, ModelEvent
from hooke.processes.channel import ChannelServer
from hooke.processes.lease import Lease
from hooke.services.supervisor.replica_events import ReplicaReport
from hooke.serving.metrics import Counts, ProxyStats

__all__ = [
    "Control",
    "ProxyDrainOrder",
    "ProxyDrainReply",
    "ProxyFailed",
    "ProxyPublished",
    "ProxyUp",
    "PublishPorts",
    "Renew",
    "ReplicaUpdate",
    "StopProxy",
    "decode_for_proxy",
    "decode_from_child",
    "encode",
]

encode = msgspec.msgpack.Encoder().encode


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


class ReplicaUpdate(msgspec.Struct, frozen=True, kw_only=True, tag=True):
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


ToFront: TypeAlias = Renew | PublishPorts | ProxyDrainOrder | StopProxy
OfChild: TypeAlias = ReplicaUpdate | ProxyUp | ProxyPublished | ProxyDrainReply | ProxyFailed

decode_for_proxy = msgspec.msgpack.Decoder(ToFront).decode
decode_from_child = msgspec.msgpack.Decoder(OfChild).decode


# --- A child's end of its control channel.

REPORT_EVERY_S = 0.2
"""How old the supervisor's knowledge may be: it bounds how soon a replica leaves after its last answer."""


class Control:
    """Serves the supervisors that connect to `listening`: one after the other, or two for a moment. Belongs to one thread.

    It reports how the child is, passes on orders, and notices when no supervisor has renewed the lease.
    """

    def __init__(
        self,
        listening: socket.socket,
        lease: Lease,
        *,
        report: Callable[[], bytes | None],
        obey: Callable[[bytes], None],
        expired: Callable[[], None],
    ) -> None:
        """`report` makes the message that is sent several times a second; `obey` gets all messages, a renewal included; `expired` is called once."""
        self._server = ChannelServer(listening, self._receive)
        self._lease = lease
        self._report = report
        self._obey = obey
        self._expired: Callable[[], None] | None = expired
        self._closed = False
        self._reported_at = 0.0

    def serve(self) -> None:
        """Run until `close`."""
        while not self._closed:
            self.turn(REPORT_EVERY_S)

    def turn(self, timeout_s: float) -> None:
        """Pass on the orders that arrive within this time; then report, if it is time."""
        if self._server.turn(timeout_s):
            self._reported_at = 0.0
        now = time.monotonic()
        if self._expired is not None and self._lease.expired(now):
            expired, self._expired = self._expired, None
            expired()
        if now - self._reported_at >= REPORT_EVERY_S * 0.9:
            self._reported_at = now
            message = self._report()
            if message is not None:
                self.send(message)

    def send(self, message: bytes) -> None:
        """Send to all supervisors. Disconnects one that does not read."""
        self._server.send(message)

    def close(self) -> None:
        """End `serve`, from any thread."""
        self._closed = True

    def _receive(self, message: bytes) -> None:
        self._lease.renew(time.monotonic())
        self._obey(message)
