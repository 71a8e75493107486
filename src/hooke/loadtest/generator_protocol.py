"""What became of each request of a level, as columns."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import TypeAlias

import msgspec
import numpy as np
from numpy.typing import NDArray

from hooke.scaling.families import Floats

__all__ = [
    "REFUSALS",
    "Fate",
    "Goal",
    "Level",
    "LevelReport",
    "Outcomes",
    "Question",
    "Stop",
    "encode",
    "name_of",
]


REFUSALS = (429, 503, 504)
"""Statuses by which a server says that it has too much to do."""


class Fate(enum.IntEnum):
    """What stands in place of a status where there was no answer."""

    TIMED_OUT = -1
    REFUSED = -2
    """No connection could be made."""
    LOST = -3
    """The connection ended before the answer."""
    CUT = -4
    """The measurement was stopped first."""
    WRONG = -5
    """A 2xx answer that is none of those that may be."""


_NAMES = {
    Fate.TIMED_OUT: "timed out",
    Fate.REFUSED: "no connection",
    Fate.LOST: "connection lost",
    Fate.CUT: "cut",
    Fate.WRONG: "wrong answer",
}


def name_of(status: int) -> str:
    """A status of HTTP or a Fate, for people."""
    return str(status) if status >= 0 else _NAMES[Fate(status)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcomes:
    """Columns (n,), in the order in which requests were due; times are seconds from the start of the level.

    `begun` is when the generator came to a request and `ended` when it had its answer, or gave it up: begun - due is the
    generator's own lag, ended - due what a user would have waited. `status` is that of HTTP, or a Fate.
    """

    due: Floats
    begun: Floats
    ended: Floats
    status: NDArray[np.int16]

    def __len__(self) -> int:
        return self.due.size

    def since(self, moment_s: float) -> Outcomes:
        """Those that were due from then on, counted from then."""
        kept = self.due >= moment_s
        return Outcomes(
            due=self.due[kept] - moment_s,
            begun=self.begun[kept] - moment_s,
            ended=self.ended[kept] - moment_s,
            status=self.status[kept],
        )

    def sent(self) -> Outcomes:
        """Without those that were cut when the measurement was stopped."""
        kept = self.status != Fate.CUT
        return Outcomes(
            due=self.due[kept], begun=self.begun[kept], ended=self.ended[kept], status=self.status[kept]
        )

    @property
    def answered(self) -> NDArray[np.bool_]:
        """Which had a 2xx answer."""
        return (self.status >= 200) & (self.status < 300)

    @property
    def latency(self) -> Floats:
        """Seconds from when each was due."""
        return self.ended - self.due

    @property
    def lag(self) -> Floats:
        """Seconds by which the generator itself was late."""
        return self.begun - self.due


# --- What is said to the generator's process and what it says, over a channel.


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


class LevelReport(msgspec.Struct, frozen=True, kw_only=True, tag=True):
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

encode = msgspec.msgpack.Encoder().encode
