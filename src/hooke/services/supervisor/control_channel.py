"""The control channel between a supervisor and its children: the messages, and the child's end."""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import Callable
from typing import TypeAlias

import msgspec

from hooke.generation.token_scheduler import TokenLoad
from hooke.journal.service_events import BatchWindow, ModelEvent
from hooke.processes.channel import ChannelServer
from hooke.processes.lease import Lease
from hooke.proxy.activator import HoldFacts
from hooke.services.supervisor.replica_events import ReplicaReport
from hooke.serving.metrics import Counts, ProxyStats

__all__ = [
    "BeginReplica",
    "Control",
    "FirstAnswer",
    "LimitRequests",
    "ProxyDrainOrder",
    "ProxyDrainReply",
    "ProxyFailed",
    "ProxyPublished",
    "ProxyUp",
    "PublishPorts",
    "Renew",
    "ReplicaUpdate",
    "ReportTokens",
    "StopProxy",
    "decode_for_proxy",
    "decode_for_replica",
    "decode_from_child",
    "encode",
]

encode = msgspec.msgpack.Encoder().encode


class Renew(msgspec.Struct, frozen=True, tag=True):
    """To a child: renew the lease."""


class BeginReplica(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """To the process in reserve: be the replica of this name; the fields are those of `ReplicaOrder`."""

    name: str
    among: int
    pass_on_bytes: int


class PublishPorts(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """To the proxy: send new requests to these replicas, by name and port. `hold` them where there is none."""

    replicas: dict[str, int]
    hold: bool = False
    versions: dict[str, str] = {}
    """The version of each, by name."""
    new: dict[str, int] = {}
    """Those of a version on trial, by name and port; some of `replicas`, or others that get copies of requests only."""
    share: float | None = None
    """The part of the requests, or of the copies, for these; None: each replica gets as many as any other."""


class LimitRequests(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """To the proxy: admit so many requests at once; None: as its settings say."""

    most: int | None


class ReportTokens(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """To the proxy of a language model: what a replica has reported; as `EndpointPicker.report`."""

    name: str
    load: TokenLoad | None
    taken: tuple[tuple[str, int], ...] = ()
    open_calls: int = 0


class ProxyDrainOrder(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """To the proxy: accept nothing new, and answer what is open."""

    within_s: float


class StopProxy(msgspec.Struct, frozen=True, tag=True):
    """To the proxy: end."""


class ReplicaUpdate(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """From a replica: its state, and what it did since its last update."""

    report: ReplicaReport
    windows: tuple[BatchWindow, ...] = ()
    counts: Counts | None = None
    """None: unchanged."""
    latencies: tuple[tuple[int, int], ...] = ()
    """With `counts`: all its answer times so far, as (bin, count) of `BatchWindow.latencies`."""
    events: tuple[ModelEvent, ...] = ()
    taken: tuple[tuple[str, int], ...] = ()
    """Requests of a language model, by id, that `report.tokens` counts since the last update, and the tokens of their prompts."""


class ProxyUp(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """From the proxy: it accepts requests."""

    port: int
    pid: int
    """Envoy's own."""
    stats: ProxyStats | None = None
    """Its counters, at most a second old; None if Envoy did not give them."""
    activator: HoldFacts = HoldFacts()


class ProxyPublished(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """From the proxy: new requests go to these replicas only."""

    names: tuple[str, ...]


class FirstAnswer(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """From the proxy: the first answer after a time without a replica; as `HeldAnswer`."""

    seconds: float
    held: int
    refused: int
    gone: int


class ProxyDrainReply(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """From the proxy: it has drained; `left` requests had no answer in time."""

    left: int


class ProxyFailed(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """From the proxy: it cannot continue. `kind` is the error's class; the other fields are the error's."""

    kind: str
    what: str
    where: str = ""
    why: str = ""
    fix: str = ""


ToFront: TypeAlias = Renew | PublishPorts | LimitRequests | ReportTokens | ProxyDrainOrder | StopProxy
ToReplica: TypeAlias = Renew | BeginReplica
OfChild: TypeAlias = ReplicaUpdate | ProxyUp | ProxyPublished | FirstAnswer | ProxyDrainReply | ProxyFailed

decode_for_proxy = msgspec.msgpack.Decoder(ToFront).decode
decode_for_replica = msgspec.msgpack.Decoder(ToReplica).decode
decode_from_child = msgspec.msgpack.Decoder(OfChild).decode


# --- A child's end of its control channel.

REPORT_EVERY_S = 0.2
"""How old the supervisor's knowledge may be: it bounds how soon a replica leaves after its last answer."""


class Control:
    """Serves the supervisors that connect to `listening`: one after another, or two for a moment. Belongs to one thread.

    It reports the child's state, passes on orders, and notices that no supervisor renews the lease.
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
        """`report` makes the message sent several times a second; `obey` gets every message, renewals included; `expired` is called once."""
        self._server = ChannelServer(listening, self._receive)
        self._lease = lease
        self._report = report
        self._obey = obey
        self._expired: Callable[[], None] | None = expired
        self._closed = False
        self._reported_at = 0.0
        self._wakes, self._wake = os.pipe()
        os.set_blocking(self._wakes, False)
        os.set_blocking(self._wake, False)

    @property
    def connected(self) -> bool:
        """Whether a supervisor is connected: one that dies is not, at once."""
        return self._server.connected

    def silent(self, now: float) -> bool:
        """Whether no supervisor has sent anything for half of the lease, as one that is stopped."""
        return self._lease.left_s(now) < self._lease.seconds / 2

    def serve(self) -> None:
        """Run until `close`."""
        while not self._closed:
            self.turn(REPORT_EVERY_S)

    def turn(self, timeout_s: float) -> None:
        """Pass on the orders that arrive within this time, then report if it is time."""
        if self._server.turn(timeout_s, wakes=self._wakes):
            self._reported_at = 0.0
        with contextlib.suppress(BlockingIOError):
            if os.read(self._wakes, 4096):
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

    def report_soon(self) -> None:
        """Report at once, from any thread: the state has changed."""
        with contextlib.suppress(BlockingIOError):  # it is to be woken already
            os.write(self._wake, b"x")

    def close(self) -> None:
        """End `serve`, from any thread."""
        self._closed = True
        self.report_soon()

    def _receive(self, message: bytes) -> None:
        self._lease.renew(time.monotonic())
        self._obey(message)
