"""The messages between the driver and its bridge, the process that holds the connection to Ray."""

from __future__ import annotations

from typing import Literal, TypeAlias

import msgspec

from hooke.engines.remote.handshake import HandshakeReply, Probe
from hooke.engines.remote.worker_protocol import AttemptsWithdrawn, HostSession, HostUpdated

__all__ = [
    "BridgeConnected",
    "BridgeFailed",
    "CallHost",
    "ConnectBridge",
    "EndRun",
    "FromBridge",
    "HostDraining",
    "HostJoined",
    "HostLeft",
    "OpenRun",
    "RunEnded",
    "SetHosts",
    "ToBridge",
    "pack",
    "unpack_for_bridge",
    "unpack_for_driver",
]


class ConnectBridge(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """The first message to a bridge: where to connect."""

    address: str
    """Empty where the bridge starts a Ray of its own."""
    folder: str
    """Where that Ray keeps its files."""
    ours: bool
    """Whether that Ray is this driver's, so that hosts do not reserve its CPUs."""
    cpus: int | None = None
    """Of a fleet: the CPUs of its Ray, which also runs the user's own code."""
    spare: int = 0
    """How many hosts to start before the first run."""


class OpenRun(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """A run begins. A bridge serves one at a time."""

    session: HostSession
    probe: Probe | None
    """None where the hosts are on the driver's machine."""
    hosts: int | None
    """With None one on each node, with all of its CPUs."""
    threads: int
    silent_s: float
    """A host without a sign of life for so long is given up."""


class CallHost(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Call a method of a host (see `RayHost`) with encoded orders, an attempt, attempts, or an encoded word."""

    host: str
    method: Literal["ship", "cancel", "withdraw", "speak"]
    argument: list[bytes | int] | int | bytes


class SetHosts(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Have so many hosts, or one on each node. The hosts in `end` are idle and end now."""

    hosts: int | None
    end: list[str] = []


class EndRun(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """The run is over; another one may follow."""


ToBridge: TypeAlias = ConnectBridge | OpenRun | CallHost | SetHosts | EndRun


class BridgeConnected(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """The bridge is connected."""

    address: str


class BridgeFailed(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Ray cannot be started, joined or used; the fields are those of the error."""

    what: str
    why: str = ""
    fix: str = ""
    usage: bool = False
    """Whether the user's input is wrong."""


class HostJoined(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """A host is ready."""

    host: str
    reply: HandshakeReply


class HostLeft(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """A host is gone; `why` is Ray's reason, empty where the driver ended it."""

    host: str
    why: str = ""


class HostDraining(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Ray is about to end a host's node: the host gets no more attempts."""

    host: str


class RunEnded(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Nothing of the run is left."""


FromBridge: TypeAlias = (
    BridgeConnected
    | BridgeFailed
    | HostJoined
    | HostDraining
    | HostLeft
    | HostUpdated
    | AttemptsWithdrawn
    | RunEnded
)

pack = msgspec.msgpack.encode
unpack_for_bridge = msgspec.msgpack.Decoder(ToBridge).decode
unpack_for_driver = msgspec.msgpack.Decoder(FromBridge).decode
