"""What became of each request of a level, as columns."""

from __future__ import annotations

import enum
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hooke.scaling.families import Floats

__all__ = ["REFUSALS", "Fate", "Outcomes", "name_of"]

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
