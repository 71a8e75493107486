"""What a fleet's controller is told, what it wants done, and what it keeps of each machine."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import TypeAlias

from hooke.fleet.provider import Machine
from hooke.journal.fleets import LedgerRecord

__all__ = [
    "Action",
    "Answered",
    "Caps",
    "Down",
    "Event",
    "Fleet",
    "Frozen",
    "Launch",
    "LookFailed",
    "Looked",
    "Member",
    "Note",
    "Phase",
    "Refused",
    "Release",
    "Retire",
    "Tick",
    "Unsure",
    "Wanted",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Caps:
    """What is never gone over, and when a machine is dead."""

    workers: int
    usd_per_hour: float = math.inf
    lifetime_s: float = math.inf
    """Of one machine: after that it is retired, and replaced where it is still wanted."""
    dead_looks: int = 5
    dead_s: float = 60.0
    """Not listed, or not healthy, in so many looks in a row and for so long: both, as a provider that answers badly for a minute
    has cost others healthy machines."""

    def most(self, usd_per_hour: float) -> int:
        """Machines, at the price of one."""
        if not usd_per_hour or math.isinf(self.usd_per_hour):
            return self.workers
        return min(self.workers, int(self.usd_per_hour / usd_per_hour + 1e-9))


class Phase(Enum):
    """Where a machine stands, as far as the fleet knows."""

    ORDERED = "ordered"
    """Asked for, and no answer yet, or none that tells."""
    STARTING = "starting"
    READY = "ready"
    RETIRING = "retiring"
    RELEASING = "releasing"


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """A machine of the fleet, or one that may come to be. Each counts against the caps until it is known to be gone."""

    token: str
    asked_at: float
    id: str = ""
    phase: Phase = Phase.ORDERED
    seen: Machine | None = None
    """As it was listed last."""
    bad_looks: int = 0
    bad_since: float = 0.0

    @property
    def of_use(self) -> bool:
        """Whether it is, or may come to be, what was wanted."""
        return self.phase in {Phase.ORDERED, Phase.STARTING, Phase.READY}


@dataclass(frozen=True, slots=True, kw_only=True)
class Fleet:
    """A fleet's state. `members` is by token; those that bear none, or that of another, have one made from their id."""

    name: str
    members: Mapping[str, Member] = field(default_factory=dict)
    wanted: int = 0
    launches: int = 0
    """Ever intended: the number of the last token."""
    looked: bool = False
    """Whether the provider has been seen since this controller began: nothing is launched before."""
    failures: int = 0
    """Launches in a row that were refused."""
    not_before: float = -math.inf
    """No launch until then."""
    frozen: bool = False
    """Whether nothing is launched, whatever is missing."""
    ends: str = ""
    """Who ends all, found ones included; empty where that was not asked."""
    aim: int = 0
    """Of those that are wanted, as many as there may be."""

    @property
    def settled(self) -> bool:
        """Whether everything is as it is wanted and allowed, as far as it is known."""
        of_use = [member for member in self.members.values() if member.of_use]
        ready = all(member.phase is Phase.READY for member in self.members.values())
        return self.looked and ready and len(of_use) == self.aim


@dataclass(frozen=True, slots=True)
class Wanted:
    """So many are wanted from now on."""

    machines: int
    by: str


@dataclass(frozen=True, slots=True)
class Down:
    """All are to end now, whatever they do."""

    by: str


@dataclass(frozen=True, slots=True)
class Frozen:
    """From now on nothing is launched: only what is too much ends."""


@dataclass(frozen=True, slots=True)
class Looked:
    """What the provider lists."""

    machines: tuple[Machine, ...]


@dataclass(frozen=True, slots=True)
class LookFailed:
    """The provider could not be asked, which says nothing of any machine."""

    why: str


@dataclass(frozen=True, slots=True)
class Answered:
    """A launch was answered: this is the machine."""

    token: str
    machine: str


@dataclass(frozen=True, slots=True)
class Refused:
    """A launch was refused; nothing was started."""

    token: str
    kind: str
    why: str


@dataclass(frozen=True, slots=True)
class Unsure:
    """A call has no answer that tells whether it was done. Looks will."""

    why: str


@dataclass(frozen=True, slots=True)
class Tick:
    """Time has passed."""


Event: TypeAlias = Wanted | Down | Frozen | Looked | LookFailed | Answered | Refused | Unsure | Tick


@dataclass(frozen=True, slots=True)
class Note:
    """Write this into the ledger, before anything that follows is done."""

    event: LedgerRecord


@dataclass(frozen=True, slots=True)
class Launch:
    """Ask for a machine; say Answered, Refused or Unsure."""

    token: str


@dataclass(frozen=True, slots=True)
class Retire:
    """Let a machine finish. What fails is asked for again after the next look."""

    machine: str


@dataclass(frozen=True, slots=True)
class Release:
    """End a machine. What fails is asked for again after the next look."""

    machine: str


Action: TypeAlias = Note | Launch | Retire | Release
