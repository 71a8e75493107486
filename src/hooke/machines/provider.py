"""The protocol of providers, which rent machines to a fleet: four methods, their guarantees, and their errors."""

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
    "RateLimited",
    "Unreachable",
]


class ProviderError(HookeError):
    """A provider refused, or did not answer. `kind` is the branch's name in a ledger."""

    kind = "error"


class NoCapacity(ProviderError):
    """The provider has no such machine now; nothing was started."""

    kind = "capacity"


class OverQuota(ProviderError):
    """The account's quota is used up; nothing was started."""

    kind = "quota"


class NotAllowed(ProviderError):
    """The key or token was rejected; nothing was done."""

    kind = "auth"


class Impossible(ProviderError):
    """The machine cannot be started, and a retry will not help; nothing was started."""

    kind = "impossible"


class RateLimited(ProviderError):
    """The provider has had too many requests; nothing was done."""

    kind = "rate"


class Unreachable(ProviderError):
    """No answer, or one that asks for a retry: the call may or may not have taken effect."""

    kind = "unreachable"


@dataclass(frozen=True, slots=True, kw_only=True)
class ProviderFacts:
    """Facts about a provider and its machines."""

    name: str
    usd_per_hour: float = 0.0
    visible_s: float = 10.0
    """A machine is listed within this time after its launch, or never."""
    look_s: float = 1.0
    """Time between two listings."""
    launch_s: float = 0.0
    """Time between two launches, where the provider limits their rate."""
    sure: bool = False
    """Whether a machine that is not listed after `visible_s` does not exist: listings are always complete and current."""
    calls: int = 1
    """How many of `launch`, `retire` and `release` may run at one time, each in a thread. `list` runs alone."""
    keeps_ended: bool = False
    """Whether a machine whose program ended is listed as `ended` until it is released. Then one that is not listed any more was taken away."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """A machine, or a process that stands for one, as its provider lists it. It costs money while it is listed."""

    id: str
    token: str = ""
    """The token of its launch; empty where it has none."""
    phase: str = "ready"
    """`starting`, `ready`, `retired` (it has finished its work, and takes no more), `ended`."""
    started_at: float = 0.0
    healthy: bool = True
    idle_s: float | None = None
    """How long it has done no useful work; None while it works, or where that is not known."""
    holds: str = ""
    """Why it must not be ended: `gang train`, `shuffle`; empty where it may be."""
    why: str = ""
    """What keeps it from being ready, or has ended it, in a sentence with its fix; empty where nothing does or it is not known."""
    taken: bool = False
    """Whether the provider, or somebody at it, ends it or has ended it: its program is not to blame."""


class Provider(Protocol):
    """Rents machines to one fleet, and recognizes them by the fleet's tag.

    - `launch` starts at most one machine, which carries the token. The caller never passes the same token twice.
    - `list` has every billable machine of the fleet, at the latest `visible_s` after its launch, whoever launched it.
    - `retire` and `release` are idempotent, and accept machines that are gone.
    - All raise a branch of ProviderError. Only after Unreachable is it unknown whether the call took effect.
    """

    facts: ProviderFacts

    def launch(self, token: str) -> str:
        """Start a machine; returns its id."""

    def list(self) -> Sequence[Machine]:
        """The fleet's machines, as they are now."""

    def retire(self, machine: str) -> None:
        """Have a machine take no more work; it is listed as `retired` when its work is done and its results are elsewhere."""

    def release(self, machine: str) -> None:
        """End a machine. It is listed until it no longer costs money."""
