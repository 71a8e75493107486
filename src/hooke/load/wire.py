"""What is said to the generator's process and what it says: frames of msgpack, each behind its length."""

from __future__ import annotations

import struct
from typing import TypeAlias

import msgspec

__all__ = ["LENGTH", "Goal", "Level", "Question", "Report", "Stop", "pack"]

LENGTH = struct.Struct("<I")


class Goal(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Where requests go; the first that is said. `requests` are sent as they are, in turn."""

    host: str
    port: int
    requests: tuple[bytes, ...]
    tls: bool = False
    ca: str = ""
    """A file of certificates to trust instead of the machine's."""
    connections: int = 256
    """The most that are open at once."""
    answers: tuple[tuple[bytes, ...], ...] = ()
    """The bodies that each of `requests` may be answered with; without any, what a 2xx says is not looked at."""


class Level(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Send a request at each of these moments."""

    due: bytes
    """Ascending float64, seconds from the start."""
    timeout_s: float


class Stop(msgspec.Struct, frozen=True, tag=True):
    """End the level now."""


class Report(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """What became of a level: columns in the order of `due`, as `Outcomes` has them."""

    begun: bytes
    ended: bytes
    status: bytes
    cpu_s: float
    """Of the generator's process, while requests were due."""
    wall_s: float
    started: float
    """When the level began, as `time.monotonic` of this machine has it."""
    opened: int
    """Connections made for the level."""
    most: int
    """Connections open at once."""
    waited: int
    """Requests that waited because as many connections were busy as there may be."""
    stopped: bool = False
    said: dict[int, str] = {}
    """Status that is no 2xx, or Fate.WRONG -> the beginning of the first such answer; Fate.REFUSED -> why there was no connection."""


Question: TypeAlias = Goal | Level | Stop


def pack(value: Question | Report) -> bytes:
    """A frame."""
    body = msgspec.msgpack.encode(value)
    return LENGTH.pack(len(body)) + body
