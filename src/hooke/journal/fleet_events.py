"""The events of a fleet: a run's number of workers and its reasons, and the ledger of rented machines."""

from __future__ import annotations

from typing import TypeAlias

import msgspec

__all__ = [
    "FleetDecided",
    "FleetEvent",
    "FleetWanted",
    "LaunchAnswered",
    "LaunchFailed",
    "LaunchIntended",
    "LedgerRecord",
    "MachineGone",
    "MachineReleased",
    "MachineRetired",
    "ProviderAnswered",
    "ProviderFailed",
]


class _Event(msgspec.Struct, frozen=True, kw_only=True, tag_field="event"):
    at: float = 0.0
    """Wall clock, seconds since the epoch."""


class FleetDecided(_Event, frozen=True, kw_only=True, tag="fleet_decided"):
    """The desired number of workers changed, or its reason, which is one plain sentence."""

    before: int
    after: int
    reason: str
    bound: str = ""
    """What prevents more: `work`, `start`, `knee`, `law`, `cap`, `deadline`, `budget`; `idle` if workers were released."""
    stop: bool = False
    """Whether this ends the run."""
    workers: int = 0
    """Ready workers."""
    could: int = 0
    """Items that were running or ready."""
    left: int = 0
    """Known items that were not done."""
    spent_usd: float = 0.0


class FleetWanted(_Event, frozen=True, kw_only=True, tag="fleet_wanted"):
    """The desired number of machines changed."""

    before: int
    after: int
    by: str


class LaunchIntended(_Event, frozen=True, kw_only=True, tag="launch_intended"):
    """A machine is about to be launched. Written before the call to the provider, so that no machine is forgotten."""

    token: str
    """The launch's unique name in the fleet, which the machine carries."""
    reason: str
    usd_per_hour: float = 0.0
    """What it costs, as far as the fleet was told; 0 in older ledgers."""


class LaunchAnswered(_Event, frozen=True, kw_only=True, tag="launch_answered"):
    """The machine of a launch is known, from the provider's answer or because it was found."""

    token: str
    machine: str
    found: bool = False
    """It was found by its token or by the fleet's tag, without an answer from the provider."""
    started_at: float = 0.0


class LaunchFailed(_Event, frozen=True, kw_only=True, tag="launch_failed"):
    """The launch has no machine: it was refused (`capacity`, `quota`, `auth`) or cannot be found (`lost`)."""

    token: str
    kind: str
    why: str


class MachineRetired(_Event, frozen=True, kw_only=True, tag="machine_retired"):
    """A machine is about to be drained: it takes no new work and finishes what it has."""

    machine: str
    token: str
    reason: str


class MachineReleased(_Event, frozen=True, kw_only=True, tag="machine_released"):
    """A machine is about to be ended."""

    machine: str
    token: str
    reason: str


class MachineGone(_Event, frozen=True, kw_only=True, tag="machine_gone"):
    """A machine no longer exists, so it costs nothing any more."""

    machine: str
    token: str
    how: str


class ProviderFailed(_Event, frozen=True, kw_only=True, tag="provider_failed"):
    """The provider did not answer, or refused to list, retire or end a machine. The first of several alike; it is asked again."""

    why: str


class ProviderAnswered(_Event, frozen=True, kw_only=True, tag="provider_answered"):
    """The provider lists its machines again."""

    after_s: float
    """Since the first listing that failed."""


LedgerRecord: TypeAlias = (
    FleetWanted
    | LaunchIntended
    | LaunchAnswered
    | LaunchFailed
    | MachineRetired
    | MachineReleased
    | MachineGone
    | ProviderFailed
    | ProviderAnswered
)
"""The events in a fleet's ledger."""

FleetEvent: TypeAlias = FleetDecided | LedgerRecord
"""All events of fleets."""
