"""What a supervisor, its children and the command line tell one another over unix sockets."""

from __future__ import annotations

from typing import Any, TypeAlias

import msgspec

from hooke.journal.replicas import ModelEvent
from hooke.journal.services import BatchWindow
from hooke.serving.counts import Counts
from hooke.serving.front.stats import FrontStats
from hooke.serving.supervision.member import Report

__all__ = [
    "Answered",
    "Asked",
    "DrainFront",
    "FrontDrained",
    "FrontFailed",
    "FrontPublished",
    "FrontUp",
    "PublishPorts",
    "Refused",
    "Renew",
    "StopFront",
    "Told",
    "decode_asked",
    "decode_reply",
    "decode_to_front",
    "decode_told",
    "pack",
]

pack = msgspec.msgpack.Encoder().encode


class Renew(msgspec.Struct, frozen=True, tag=True):
    """To a child: its supervisor is there."""


class PublishPorts(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """To the front: send new requests to these replicas, by name and port."""

    replicas: dict[str, int]


class DrainFront(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """To the front: take nothing new, and answer what there is."""

    within_s: float


class StopFront(msgspec.Struct, frozen=True, tag=True):
    """To the front: end."""


class Told(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Of a replica: how it is, and what it did since it told that last."""

    report: Report
    windows: tuple[BatchWindow, ...] = ()
    counts: Counts | None = None
    """None: as it told last."""
    events: tuple[ModelEvent, ...] = ()


class FrontUp(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Of the front: it takes requests."""

    port: int
    pid: int
    """Envoy's own."""
    stats: FrontStats | None = None
    """What it counted, a second ago at most; None where it did not say."""


class FrontPublished(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Of the front: new requests go to these replicas, and to no others."""

    names: tuple[str, ...]


class FrontDrained(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Of the front: nothing comes any more; `left` requests had no answer in time."""

    left: int


class FrontFailed(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Of the front: it cannot go on. `kind` is the class of the error, the rest what that says."""

    kind: str
    what: str
    where: str = ""
    why: str = ""
    mend: str = ""


class Asked(msgspec.Struct, frozen=True, kw_only=True):
    """To a supervisor, from the command line: `status`, `scale`, `replace`, `drain`, `down`."""

    verb: str
    low: int = 0
    high: int = 0
    replica: str = ""
    by: str = ""


class Answered(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Of a supervisor: it is done, or begun."""

    facts: dict[str, Any] = {}


class Refused(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Of a supervisor: it cannot be done."""

    what: str
    mend: str = ""


ToFront: TypeAlias = Renew | PublishPorts | DrainFront | StopFront
OfChild: TypeAlias = Told | FrontUp | FrontPublished | FrontDrained | FrontFailed

decode_to_front = msgspec.msgpack.Decoder(ToFront).decode
decode_told = msgspec.msgpack.Decoder(OfChild).decode
decode_asked = msgspec.msgpack.Decoder(Asked).decode
decode_reply = msgspec.msgpack.Decoder(Answered | Refused).decode
