"""What the driver, the process that holds its connection to Ray, and the hosts tell one another."""

from __future__ import annotations

from typing import TypeAlias

import msgspec

from hooke.engines.remote.handshake import Arrival, Probe
from hooke.engines.remote.log_sync import FilePiece
from hooke.engines.remote.worker_protocol import HostReport, HostSession, Note

__all__ = [
    "Cancel",
    "ConnectBridge",
    "Draining",
    "FromBridge",
    "Heard",
    "HostLeft",
    "HostSaid",
    "Joined",
    "Open",
    "RayWelcome",
    "Rest",
    "Rested",
    "Ship",
    "Speak",
    "ToBridge",
    "Unfit",
    "Up",
    "Want",
    "Withdraw",
    "Withdrawn",
    "pack",
    "unpack_for_bridge",
    "unpack_for_driver",
    "unpack_heard",
]


class ConnectBridge(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """The first message to a bridge: where to connect."""

    address: str
    """Empty where it is to start a Ray of its own."""
    folder: str
    """Where that one keeps its files."""
    ours: bool
    """Whether that Ray is this driver's, so that hosts share its CPUs with what else runs there."""
    cpus: int | None = None
    """Of a fleet: those of its Ray, which is for the user's own code as well."""
    spare: int = 0
    """So many hosts are to be there before the first run."""


class Open(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """A run begins. One at a time."""

    session: HostSession
    probe: Probe | None
    """None where the hosts are this machine's: they share all with the driver."""
    hosts: int | None
    """None: one on each node, with all its CPUs."""
    threads: int
    silent_s: float
    """A host that gives no sign of life for so long is given up."""


class Ship(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Attempts for a host, as packed orders."""

    host: str
    orders: list[bytes]


class Cancel(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Nobody waits for the attempt any more."""

    host: str
    attempt: int


class Withdraw(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Take back what has not begun."""

    host: str
    attempts: list[int]


class Speak(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """A packed word about a gang."""

    host: str
    word: bytes


class Want(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """So many hosts, or one on each node; of those that there are, `end` have nothing to do and are to end."""

    hosts: int | None
    end: list[str] = []


class Rest(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """The run is over; another one may come."""


ToBridge: TypeAlias = ConnectBridge | Open | Ship | Cancel | Withdraw | Speak | Want | Rest


class Up(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """The bridge is connected."""

    address: str


class Unfit(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Ray cannot be started, joined or used, as an error says it."""

    what: str
    why: str = ""
    fix: str = ""
    usage: bool = False
    """Whether what the user gave is wrong."""


class Joined(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """A host is ready."""

    host: str
    welcome: RayWelcome


class RayWelcome(msgspec.Struct, frozen=True, kw_only=True):
    """What a host says at first."""

    report: HostReport
    node: str
    """Of Ray, where it runs."""
    arrival: Arrival | None = None


class HostLeft(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """A host is gone: `why` as far as Ray knows it, empty where it was to end."""

    host: str
    why: str = ""


class Draining(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Ray is to end the node of a host: it gets nothing more."""

    host: str


class HostSaid(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """What a host said."""

    host: str
    heard: Heard


class Withdrawn(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Of attempts that were asked back, those that the host had not begun, and will not."""

    host: str
    attempts: list[int]


class Heard(msgspec.Struct, frozen=True, kw_only=True):
    """What happened in a host since it was last asked."""

    notes: list[Note] = []
    answers: list[bytes] = []
    lacking: list[int] = []
    """Attempts whose function did not come."""
    pieces: list[FilePiece] = []
    """What was written there, where the driver cannot see it."""


class Rested(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Nothing of the last run is left."""


FromBridge: TypeAlias = Up | Unfit | Joined | Draining | HostLeft | HostSaid | Withdrawn | Rested

_to_bridge = msgspec.msgpack.Decoder(ToBridge)
_from_bridge = msgspec.msgpack.Decoder(FromBridge)
_heard = msgspec.msgpack.Decoder(Heard)


def pack(message: ToBridge | FromBridge | Heard) -> bytes:
    """A message as bytes."""
    return msgspec.msgpack.encode(message)


def unpack_for_bridge(data: bytes) -> ToBridge:
    """What the driver packed."""
    return _to_bridge.decode(data)


def unpack_for_driver(data: bytes) -> FromBridge:
    """What a bridge packed."""
    return _from_bridge.decode(data)


def unpack_heard(data: bytes) -> Heard:
    """What a host packed."""
    return _heard.decode(data)
