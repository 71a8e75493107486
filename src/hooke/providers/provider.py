"""The seam between a fleet and whoever rents machines out: four methods, what they promise, and how they refuse."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from hooke.base.errors import HookeError

__all__ = [
    "Impossible",
    "Machine",
    "NoCapacity",
    "NotAllowed",
    "OverQuota",
    "Provider",
    "ProviderError",
    "ProviderFacts",
    "Unreachable",
]


class ProviderError(HookeError):
    """A provider refused, or did not answer. `kind` is what its branch is called in a ledger."""

    kind = "error"


class NoCapacity(ProviderError):
    """It has no such machine now; nothing was started."""

    kind = "capacity"


class OverQuota(ProviderError):
    """The account may have no more; nothing was started."""

    kind = "quota"


class NotAllowed(ProviderError):
    """The key or the token is not taken; nothing was done."""

    kind = "auth"


class Impossible(ProviderError):
    """What is to be started is not there, or cannot be: it will be refused again; nothing was started."""

    kind = "impossible"


class Unreachable(ProviderError):
    """No answer, or one that says to try again: it may have been done, and may not."""

    kind = "unreachable"


@dataclass(frozen=True, slots=True, kw_only=True)
class ProviderFacts:
    """What is known of a provider, and of what it rents out."""

    name: str
    usd_per_hour: float = 0.0
    visible_s: float = 10.0
    """A machine is listed so soon after its launch was asked for; one that is not will never be."""
    look_s: float = 1.0
    """Between two looks: as often as the provider likes to be asked."""
    sure: bool = False
    """What is not listed (after `visible_s`) is not there: no list was ever behind, or left one out."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """A machine, or a process that stands for one, as a provider lists it: while it is listed it costs."""

    id: str
    token: str = ""
    """Of its launch; empty where it bears none."""
    phase: str = "ready"
    """`starting`, `ready`, `retired` (it has nothing left to do, and takes nothing), `ended`."""
    started_at: float = 0.0
    healthy: bool = True
    idle_s: float | None = None
    """How long it has done no useful work; None while it does, or where that is not known."""
    holds: str = ""
    """What must not be taken from it: `gang train`, `shuffle`."""


class Provider(Protocol):
    """Rents machines out to one fleet, and tells them from all others by the fleet's tag.

    - `launch` starts at most one machine, which bears the token. The caller never gives the same token twice.
    - `list` has every machine of the fleet that costs, at the latest `visible_s` after its launch, whoever launched it.
    - `retire` and `release` may be called again and again, and for machines that are gone.
    - All raise a branch of ProviderError. After Unreachable, and only then, it is not known whether it was done.
    """

    facts: ProviderFacts

    def launch(self, token: str) -> str:
        """Start a machine; its id."""
        ...

    def list(self) -> Sequence[Machine]:
        """The fleet's machines, as they are now."""
        ...

    def retire(self, machine: str) -> None:
        """Have it take no more work; it is listed as `retired` when what it had is done, and its results are elsewhere."""
        ...

    def release(self, machine: str) -> None:
        """End it. It is listed until it costs nothing any more."""
        ...
