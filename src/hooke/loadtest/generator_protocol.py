"""The messages between the load generator and its parent, and the outcomes of requests as columns."""

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
    "TokenColumns",
    "encode",
    "name_of",
]


REFUSALS = (429, 503, 504)
"""Statuses of an overloaded server."""


class Fate(enum.IntEnum):
    """The pseudo-status of a request without an answer."""

    TIMED_OUT = -1
    REFUSED = -2
    """No connection was possible."""
    LOST = -3
    """The connection closed before the answer."""
    CUT = -4
    """The measurement was stopped first."""
    WRONG = -5
    """A 2xx answer with an unexpected body."""


_NAMES = {
    Fate.TIMED_OUT: "timed out",
    Fate.REFUSED: "no connection",
    Fate.LOST: "connection lost",
    Fate.CUT: "cut",
    Fate.WRONG: "wrong answer",
}


def name_of(status: int) -> str:
    """An HTTP status or a Fate as text."""
    return str(status) if status >= 0 else _NAMES[Fate(status)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcomes:
    """Columns (n,) in the order of due times. Times are seconds from the start of the level.

    `begun` is when the generator started a request, and `ended` when it had the answer or gave up: begun - due is the
    generator's own lag, and ended - due is the latency that a user would see. `status` is an HTTP status or a Fate.
    """

    due: Floats
    begun: Floats
    ended: Floats
    status: NDArray[np.int16]

    def __len__(self) -> int:
        return self.due.size

    def since(self, moment_s: float) -> Outcomes:
        """The requests due from that moment on, with times relative to it."""
        kept = self.due >= moment_s
        return Outcomes(
            due=self.due[kept] - moment_s,
            begun=self.begun[kept] - moment_s,
            ended=self.ended[kept] - moment_s,
            status=self.status[kept],
        )

    def sent(self) -> Outcomes:
        """The requests without those that were cut when the measurement was stopped."""
        kept = self.status != Fate.CUT
        return Outcomes(
            due=self.due[kept], begun=self.begun[kept], ended=self.ended[kept], status=self.status[kept]
        )

    @property
    def answered(self) -> NDArray[np.bool_]:
        """Mask of requests with a 2xx answer."""
        return (self.status >= 200) & (self.status < 300)

    @property
    def latency(self) -> Floats:
        """Seconds from due time to answer."""
        return self.ended - self.due

    @property
    def lag(self) -> Floats:
        """Seconds by which the generator itself was late."""
        return self.begun - self.due


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenColumns:
    """Columns (n,) of streams of tokens, in the order of due times; nan without an answer.

    Seconds from the start of the level to the first and the last event with a token; and tokens of the prompt, of these how many were in memory,
    and of the answer, as the service counts them.
    """

    first: Floats
    last: Floats
    prompt: Floats
    cached: Floats
    output: Floats

    @classmethod
    def of(cls, report: LevelReport) -> TokenColumns:
        """Those of a report on streams."""
        first, last, prompt, cached, output = np.frombuffer(report.tokens).reshape(-1, 5).T
        return cls(first=first, last=last, prompt=prompt, cached=cached, output=output)


# --- Messages to and from the generator's process: msgpack frames over a channel.


class Goal(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """The target, which is the first message. `requests` are sent unchanged, in turn."""

    host: str
    port: int
    requests: tuple[bytes, ...]
    tls: bool = False
    ca: str = ""
    """A file of trusted certificates, instead of the system's."""
    connections: int = 256
    """The largest number of open connections."""
    answers: tuple[tuple[bytes, ...], ...] = ()
    """The allowed answer bodies for each of `requests`; empty to accept any 2xx answer."""
    token: str = ""
    """Answers are streams of a language model, and this pattern (of `re`) is in each event with a token; empty for other answers."""


class Level(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Send a request at each of these times."""

    due: bytes
    """Ascending float64, seconds from the start."""
    timeout_s: float


class Stop(msgspec.Struct, frozen=True, tag=True):
    """End the level now."""


class LevelReport(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """The report on a level: columns in the order of `due`, as in `Outcomes`."""

    begun: bytes
    ended: bytes
    status: bytes
    cpu_s: float
    """CPU seconds of the generator while requests were due."""
    wall_s: float
    started: float
    """When the level began, by this machine's `time.monotonic`."""
    opened: int
    """Connections opened for the level."""
    most: int
    """Largest number of open connections."""
    waited: int
    """Requests that waited because all allowed connections were busy."""
    stopped: bool = False
    said: dict[int, str] = {}
    """Non-2xx status, or Fate.WRONG -> the beginning of the first such answer; Fate.REFUSED -> why there was no connection."""
    tokens: bytes = b""
    """With `Goal.token`, float64 (n, 5) as in `TokenColumns`."""


Question: TypeAlias = Goal | Level | Stop

encode = msgspec.msgpack.Encoder().encode
